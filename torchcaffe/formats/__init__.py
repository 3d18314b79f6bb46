"""Caffe's files: caffemodel, solverstate, binaryproto, HDF5, .npy, and prototxts of every age."""
