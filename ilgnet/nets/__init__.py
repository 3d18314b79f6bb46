"""The paper's nets and solvers: building blocks, variants, data sets, and the text of their prototxts."""
