"""Caffe's random streams and the fillers that draw from them."""
