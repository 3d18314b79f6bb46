"""The test of a net: metrics, votes, feature maps, Caffe's logs, and the results that programs exchange."""
