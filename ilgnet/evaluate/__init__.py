"""The paper's test protocol: metrics, votes, feature maps, Caffe's logs."""
