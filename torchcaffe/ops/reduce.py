"""Reduction and ArgMax: many values to few."""

from __future__ import annotations

import math

import torch

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blobs, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.proto import caffe_pb2

ASUM, SUMSQ, MEAN = (getattr(caffe_pb2.ReductionParameter, m) for m in ("ASUM", "SUMSQ", "MEAN"))


@layer(bottoms=1, tops=1)
class Reduction(TorchLayer):
    """coeff times the SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN of everything from `axis` on."""

    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape = bottom[0].shape
        self.axis = canonical_axis(self.p.axis, len(shape))
        top[0].reshape(*shape[: self.axis])

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape[: self.axis]
        if not self.p.coeff:  # times 0 even NaN is 0 in BLAS
            return x.new_zeros(shape)
        x = x.reshape(*shape, -1)
        if self.p.operation == ASUM:
            x = x.abs()
        elif self.p.operation == SUMSQ:
            x = x * x
        y = x.mean(-1) if self.p.operation == MEAN else x.sum(-1)
        return y * self.p.coeff


@layer(bottoms=1, tops=1, param="argmax_param")
class ArgMax(Layer):
    """The indices of the top_k greatest values of each item, or along `axis`; out_max_val adds the values.

    Of equal values, the one with the greater index comes first. Without `axis` the top is (N, 1, top_k), or with
    out_max_val (N, 2, top_k), indices first. With `axis` it has the bottom's shape with top_k for that axis: indices,
    or with out_max_val the values alone."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.axis = canonical_axis(self.p.axis, len(bottom[0].shape)) if self.p.HasField("axis") else None

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        p, shape = self.p, list(bottom[0].shape)
        size = math.prod(shape[1:]) if self.axis is None else shape[self.axis]
        if not 1 <= p.top_k <= size:
            raise CaffeError(f"top_k: {p.top_k} is not between 1 and {size}")
        if self.axis is None:
            # At least three axes, and as many as the bottom has.
            shape = [shape[0], 2 if p.out_max_val else 1, p.top_k] + [1] * (len(shape) - 3)
        else:
            shape[self.axis] = p.top_k
        self.check_in_place(bottom[0], top[0], shape)
        top[0].reshape(*shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        p, x = self.p, bottom[0].t
        axis = 1 if self.axis is None else self.axis
        if self.axis is None:
            x = x.reshape(x.shape[0], -1)
        # Flipped, a stable sort puts the greater index first.
        found = x.flip(axis).sort(dim=axis, descending=True, stable=True)
        values, places = (t.narrow(axis, 0, p.top_k) for t in found)
        result = (x.shape[axis] - 1 - places).to(x.dtype)
        if p.out_max_val:
            result = torch.stack([result, values], 1) if self.axis is None else values.clone()
        top[0].t = result.reshape(top[0].shape)
