"""The paper's nets, data sets, targets and Table 1, and the prototxts made of them."""
