"""Generators of the paper's nets, and the .prototxt files they emit, one folder a variant."""
