"""A layer type that Caffe lacks: Softplus, whose sharpness is learned. Import this, and nets may have it."""

import torch.nn.functional as F

from torchcaffe.core.layer import TorchLayer, layer
from torchcaffe.proto import caffe_pb2


@layer(bottoms=1, tops=1)
class Softplus(TorchLayer):
    """log(1 + e^(b x)) / b, with one b a channel (axis 1), which starts at 1."""

    def setup(self, bottom, top):
        self.add_blob(bottom[0].shape[1:2], caffe_pb2.FillerParameter(type="constant", value=1))

    def compute(self, x, b):
        b = b.view(-1, *[1] * (x.dim() - 2))
        return F.softplus(x * b) / b
