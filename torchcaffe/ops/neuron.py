"""Activations: one value in, one value out. All but AbsVal may work in place.

In place, the bottom's blob holds the output when backward runs, and BVLC computes its gradients from that. `gradient`
gets the blobs as they then are: types that need only the output (ReLU, Sigmoid, TanH, ELU, Exp, Swish) are right in
place, others (BNLL, Clip, Log, Power) give BVLC's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blobs
from torchcaffe.core.layer import TorchLayer, layer, to_device
from torchcaffe.ops.common import check_channels
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams


def precise_sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x) in double precision, as in BVLC: near 1 the gradient depends on the last bits, and values far
    below 0 become 0."""
    return (0.5 * torch.tanh(0.5 * x.double()) + 0.5).to(x.dtype)


class Neuron(TorchLayer):
    """A layer whose top has the bottom's shape. `gradient` is faster, or closer to BVLC, than compute's own."""

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        """The bottom's diff, from its data, the top's data and the top's diff."""
        raise CaffeError(f"propagate_down: {self.type} has no gradient")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        self.in_place = top[0] is bottom[0]
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].t = self.compute(bottom[0].t)

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        if propagate_down[0]:
            bottom[0].g = self.gradient(bottom[0].t, top[0].t, top[0].g)


@layer(bottoms=1, tops=1)
class ReLU(Neuron):
    """max(x, 0) + negative_slope * min(x, 0)."""

    keeps_for_backward = False

    def activation(self) -> Callable[[Tensor], Tensor] | None:
        return None if self.p.negative_slope else torch.relu_

    def compute(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.p.negative_slope) if self.p.negative_slope else F.relu(x)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        if self.in_place and not self.p.negative_slope and bottom[0].data_memory.owned():
            top[0].t = bottom[0].t.relu_()
        else:
            super().forward(bottom, top)

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        if not propagate_down[0]:
            return
        # In place, `bottom[0].t` is the output. Its sign is the input's unless the slope is negative (so in BVLC, too).
        own = self.in_place and top[0].diff_memory.owned()
        x, g, slope = bottom[0].t, top[0].g, self.p.negative_slope
        # Even with slope 0: where x is NaN, BVLC's gradient is 0, threshold_backward's is g.
        result = g if own else torch.empty_like(g)
        bottom[0].g = torch.ops.aten.leaky_relu_backward.grad_input(g, x, slope, False, grad_input=result)


@layer(bottoms=1, tops=1)
class Dropout(Neuron):
    """TRAIN: keep each value with probability 1 - dropout_ratio, scaled by 1 / (1 - dropout_ratio). TEST: x.

    The masks are BVLC's, drawn from the process's random stream in the blob's order (NCHW)."""

    _kept: Any = None  # the mask's bits, as feed() brought them

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.ratio = self.p.dropout_ratio
        if self.phase == caffe_pb2.TRAIN and not 0 <= self.ratio < 1:
            raise CaffeError(f"dropout_ratio: {self.ratio} is not between 0 and 1")

    def feed(self, top: Blobs) -> bool:
        if self.phase != caffe_pb2.TRAIN:
            return True
        before = self._kept
        drawn = streams.rng().bernoulli(top[0].count, 1.0 - self.ratio)
        self._kept = self.hold(before, to_device(drawn, self.device))
        return self._kept is before

    def compute(self, x: Tensor) -> Tensor:
        if self.phase != caffe_pb2.TRAIN:
            return x if self.in_place else x.clone()
        self.mask = self._kept.to(torch.float32).view(x.shape).mul_(float(1.0 / (1.0 - self.ratio)))
        return x * self.mask

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        if self.phase != caffe_pb2.TRAIN:
            return g if self.in_place else g.clone()
        return g * self.mask


def affine(x: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """x * scale + shift. Times 0 even NaN and infinity are 0, as in BLAS; not adding a shift of 0 keeps -0."""
    y = x * scale if scale else torch.zeros_like(x)
    return y + shift if shift else y


def derivative_times(layer: Neuron, derivative: Tensor, g: Tensor) -> Tensor:
    """derivative * g. In place, BVLC writes the derivative over g and so multiplies it by itself."""
    return derivative * (derivative if layer.in_place else g)


@layer(bottoms=1, tops=1)
class AbsVal(TorchLayer):
    """|x|."""

    allows_in_place = False

    def compute(self, x: Tensor) -> Tensor:
        return x.abs()


@layer(bottoms=1, tops=1)
class BNLL(Neuron):
    """log(1 + e^x)."""

    def compute(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        return torch.sigmoid(x) * g


@layer(bottoms=1, tops=1)
class Clip(Neuron):
    """x, but no less than min and no more than max; NaN becomes min."""

    def compute(self, x: Tensor) -> Tensor:
        least, most = self.p.min, max(self.p.min, self.p.max)  # where the limits cross, min wins
        return x.clamp(least, most).nan_to_num_(least, math.inf, -math.inf)

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        return g * ((x >= self.p.min) & (x <= self.p.max))


@layer(bottoms=1, tops=1)
class ELU(Neuron):
    """x where it is positive, else alpha * (e^x - 1)."""

    def compute(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.p.alpha * torch.expm1(x.clamp(max=0)))

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        # BVLC's sum of both sides, which is NaN for +infinity; it is also faster than `where`.
        return (y + self.p.alpha).mul_(x <= 0).add_(x > 0).mul_(g)


@layer(bottoms=1, tops=1)
class Exp(Neuron):
    """base^(shift + scale * x); base -1 (the default) stands for e."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        if p.base != -1 and p.base <= 0:
            raise CaffeError(f"base: {p.base} must be positive (or -1 for e)")
        log_base = 1.0 if p.base == -1 else math.log(p.base)
        self.inner = log_base * p.scale
        self.outer = math.exp(log_base * p.shift)

    def compute(self, x: Tensor) -> Tensor:
        return torch.exp(affine(x, self.inner)) * self.outer

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        return affine(y * g, self.inner)


@layer(bottoms=1, tops=1)
class Log(Neuron):
    """log of (shift + scale * x) to the base; base -1 (the default) stands for e."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        if p.base != -1 and (p.base <= 0 or p.base == 1):
            raise CaffeError(f"base: {p.base} must be positive and not 1 (or -1 for e)")
        self.factor = 1.0 if p.base == -1 else 1.0 / math.log(p.base)

    def compute(self, x: Tensor) -> Tensor:
        return torch.log(affine(x, self.p.scale, self.p.shift)) * self.factor

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        inverse = affine(x, self.p.scale, self.p.shift).reciprocal()
        return derivative_times(self, affine(inverse, self.p.scale * self.factor), g)


@layer(bottoms=1, tops=1)
class Power(Neuron):
    """(shift + scale * x)^power."""

    def compute(self, x: Tensor) -> Tensor:
        p = self.p
        if p.power * p.scale == 0:
            with np.errstate(all="ignore"):  # 0 to a negative power is infinity, as in C
                return torch.full_like(x, float(np.float64(p.shift) ** p.power) if p.power else 1.0)
        inner = affine(x, p.scale, p.shift)
        return inner if p.power == 1 else inner.pow(p.power)

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        p = self.p
        if p.power * p.scale == 0 or p.power == 1:
            derivative = torch.full_like(x, p.power * p.scale)
        elif p.power == 2:
            derivative = affine(x, p.scale, p.shift) * (2.0 * p.scale)
        else:
            # BVLC divides the output by the base of the power: NaN at 0.
            derivative = y / affine(x, p.scale, p.shift) * (p.power * p.scale)
        return derivative_times(self, derivative, g)


@layer(bottoms=1, tops=1)
class PReLU(TorchLayer):
    """x where it is positive, else a * x with a learned a for each channel (axis 1), or for all (channel_shared)."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        filler = self.p.filler if self.p.HasField("filler") else caffe_pb2.FillerParameter(value=0.25)
        channels = bottom[0].channels  # raises for more than four axes, as BVLC does
        shape = () if self.p.channel_shared else (channels,)
        if not self.blobs:
            self.add_blob(shape, filler)
        self.blob_count = 1  # the prototxt may give more
        if self.blobs[0].count != math.prod(shape):
            raise CaffeError(f"channel_shared: the slope's shape is {self.blobs[0].shape}, the file says {shape}")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        check_channels(bottom[0], bottom[0].channels if self.p.channel_shared else self.blobs[0].count)
        top[0].reshape(*bottom[0].shape)

    def compute(self, x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * slope.view(1, -1, *(1,) * (x.dim() - 2)))


@layer(bottoms=1, tops=1)
class Sigmoid(Neuron):
    """1 / (1 + e^-x)."""

    def compute(self, x: Tensor) -> Tensor:
        return precise_sigmoid(x)

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        return torch.ops.aten.sigmoid_backward(g, y)


@layer(bottoms=1, tops=1)
class Swish(Neuron):
    """x * sigmoid(beta * x)."""

    def compute(self, x: Tensor) -> Tensor:
        self._sigmoid = precise_sigmoid(affine(x, self.p.beta))  # kept for backward: in place, x is gone by then
        return x * self._sigmoid

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        beta_y = y * self.p.beta
        return g * (beta_y + self._sigmoid * (1.0 - beta_y))


@layer(bottoms=1, tops=1)
class TanH(Neuron):
    """The hyperbolic tangent."""

    def compute(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(g, y)


@layer(bottoms=1, tops=1)
class Threshold(Neuron):
    """1 where x is above the threshold, else 0. It has no gradient."""

    def compute(self, x: Tensor) -> Tensor:
        return (x > self.p.threshold).to(x.dtype)
