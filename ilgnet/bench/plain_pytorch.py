"""A plain PyTorch port of a Caffe net, for comparison in benchmarks: eager, torch's own functions, nothing tuned."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import upgrade
from torchcaffe.proto.geometry import read_window


def _run(p: Any, inputs: list[Tensor], w: Sequence[Tensor], training: bool) -> Tensor:
    """A layer's answer. CaffeError for a type that the nets here do not have."""
    x, *_ = inputs
    match p.type:
        case "Convolution":
            window = read_window(p.convolution_param)
            return F.conv2d(x, *w, stride=window.stride, padding=window.pad, groups=p.convolution_param.group)
        case "InnerProduct":
            return F.linear(x.flatten(1), *w)
        case "BatchNorm":
            return F.batch_norm(x, w[0], w[1], training=training, eps=p.batch_norm_param.eps)
        case "Scale":
            return x * w[0] + w[1]
        case "Pooling":
            q = p.pooling_param
            if q.global_pooling:
                return F.adaptive_max_pool2d(x, 1) if q.pool == q.MAX else F.adaptive_avg_pool2d(x, 1)
            window = read_window(q)
            pool: Callable[..., Tensor] = F.max_pool2d if q.pool == q.MAX else F.avg_pool2d
            return pool(x, window.kernel, window.stride, window.pad, ceil_mode=True)
        case "LRN":
            q = p.lrn_param
            return F.local_response_norm(x, q.local_size, q.alpha, q.beta, q.k)
        case "ReLU":
            return F.relu(x, inplace=True)
        case "Dropout":
            return F.dropout(x, p.dropout_param.dropout_ratio, training)
        case "Softmax":
            return F.softmax(x, 1)
        case "Concat":
            return torch.cat(inputs, 1)
    raise CaffeError(f"layer '{p.name}': the plain port has no {p.type}")


def _weights(p: Any, blobs: list) -> nn.ParameterList:
    """A layer's blobs in torch's shapes; BatchNorm's mean and variance do not learn."""
    tensors = [torch.tensor(blob.reshape(blob.shape)) for blob in blobs]
    if p.type == "BatchNorm":
        mean, variance, factor = tensors
        tensors = [t / factor if factor else t * 0 for t in (mean, variance)]
    elif p.type == "Scale":
        tensors = [t.reshape(1, -1, 1, 1) for t in tensors]
    else:  # as of old caffemodels, too, whose blobs have four axes
        tensors[1:] = [t.flatten() for t in tensors[1:]]
        if p.type == "InnerProduct":
            tensors[0] = tensors[0].flatten(0, -2)
    return nn.ParameterList(nn.Parameter(t, requires_grad=p.type != "BatchNorm") for t in tensors)


class PlainNet(nn.Module):
    """deploy.prototxt with its caffemodel; forward(x) gives the last layer's answer."""

    def __init__(self, net: Path | str, weights: Path | str):
        super().__init__()
        self.layers = [p for p in upgrade.read_net(net).layer if p.type != "Input"]
        blobs = {layer.name: layer.blobs for layer in surgery.read_weights(weights)}
        self.weights = nn.ModuleList(_weights(p, blobs.get(p.name, [])) for p in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        values = {"data": x}
        for p, w in zip(self.layers, self.weights):
            x = values[p.top[0]] = _run(p, [values[name] for name in p.bottom], w, self.training)
        return x
