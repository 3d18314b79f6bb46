"""A plain PyTorch port of a Caffe net, for comparison in benchmarks: eager, torch's own modules, nothing tuned."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ilgnet.nets.folding import statistics
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import upgrade
from torchcaffe.proto import caffe_pb2
from torchcaffe.proto.geometry import read_window


class PlainNet(nn.Module):
    """deploy.prototxt and its caffemodel as torch modules; forward(x) gives the last layer's answer."""

    def __init__(self, net: Path | str, weights: Path | str):
        super().__init__()
        self.layers = [p for p in upgrade.read_net(net).layer if p.type != "Input"]
        blobs = {layer.name: layer.blobs for layer in surgery.read_weights(weights)}
        self.ops = nn.ModuleList(self._module(p, blobs.get(p.name, [])) for p in self.layers)

    def _module(self, p: caffe_pb2.LayerParameter, blobs: list) -> nn.Module:
        tensors = [torch.tensor(b.reshape(b.shape)) for b in blobs]
        if p.type == "Convolution":
            c = p.convolution_param
            window = read_window(c)
            module: nn.Module = nn.Conv2d(
                tensors[0].shape[1] * c.group,
                c.num_output,
                tuple(tensors[0].shape[2:]),
                window.stride,
                window.pad,
                groups=c.group,
                bias=c.bias_term,
            )
            self._fill(module, tensors)
        elif p.type == "InnerProduct":
            weight = tensors[0].reshape(p.inner_product_param.num_output, -1)
            module = nn.Linear(weight.shape[1], weight.shape[0], bias=len(tensors) > 1)
            self._fill(module, [weight, *(t.reshape(-1) for t in tensors[1:])])
        elif p.type == "BatchNorm":
            module = nn.BatchNorm2d(tensors[0].numel(), eps=p.batch_norm_param.eps, affine=False)
            mean, variance = map(torch.from_numpy, statistics(blobs))
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
        elif p.type == "Scale":
            module = nn.Module()
            module.weight, module.bias = (nn.Parameter(t.reshape(1, -1, 1, 1)) for t in tensors)
        elif p.type == "Pooling":
            q = p.pooling_param
            if q.global_pooling:
                module = nn.AdaptiveMaxPool2d(1) if q.pool == q.MAX else nn.AdaptiveAvgPool2d(1)
            else:
                kind = nn.MaxPool2d if q.pool == q.MAX else nn.AvgPool2d
                window = read_window(q)
                module = kind(window.kernel, window.stride, window.pad, ceil_mode=True)
        elif p.type == "LRN":
            n = p.lrn_param
            module = nn.LocalResponseNorm(n.local_size, n.alpha, n.beta, n.k)
        elif p.type == "ReLU":
            module = nn.ReLU(inplace=True)
        elif p.type == "Dropout":
            module = nn.Dropout(p.dropout_param.dropout_ratio)
        elif p.type == "Softmax":
            module = nn.Softmax(1)
        elif p.type == "Concat":
            module = nn.Module()
        else:
            raise CaffeError(f"layer '{p.name}': the plain port has no {p.type}")
        return module

    @staticmethod
    def _fill(module: nn.Module, tensors: list[torch.Tensor]) -> None:
        with torch.no_grad():
            module.weight.copy_(tensors[0].reshape(module.weight.shape))
            if len(tensors) > 1:
                module.bias.copy_(tensors[1].reshape(-1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"data": x}
        for p, op in zip(self.layers, self.ops):
            inputs = [values[name] for name in p.bottom]
            if p.type == "Concat":
                y = torch.cat(inputs, 1)
            elif p.type == "Scale":
                y = inputs[0] * op.weight + op.bias
            elif p.type == "InnerProduct":
                y = op(inputs[0].flatten(1))
            else:
                y = op(inputs[0])
            values[p.top[0]] = y
        return y
