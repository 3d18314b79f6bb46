"""Generator of the solvers of the paper's Table 1, and the .prototxt files it emits, one folder a data set."""
