"""Activations: one value in, one value out. All of them may work in place, but AbsVal.

In place the bottom's blob holds the output when backward runs, and BVLC's gradients are computed from what is there. So
`gradient` gets the blobs as they are then: types that need the output alone (ReLU, Sigmoid, TanH, ELU, Exp, Swish) come
out right in place, others (BNLL, Clip, Log, Power) come out as BVLC's do."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob
from torchcaffe.core.layer import TorchLayer, layer, to_device
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams


def precise_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + e^-x) as BVLC has it, in double precision: near 1 the gradient lives on the last bits, and what is far
    below 0 becomes 0."""
    return (0.5 * torch.tanh(0.5 * x.double()) + 0.5).to(x.dtype)


class Neuron(TorchLayer):
    """A top of the bottom's shape. Subclasses may give `gradient`, faster or truer to BVLC than compute's own."""

    gradient = None  # gradient(x, y, g) -> the bottom's diff, from its data, the top's data and the top's diff

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.in_place = top[0] is bottom[0]
        top[0].reshape(*bottom[0].shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if self.gradient is None:
            super().backward(top, propagate_down, bottom)
        elif propagate_down[0]:
            bottom[0].g = self.gradient(bottom[0].t, top[0].t, top[0].g)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.gradient is None:
            super().forward(bottom, top)
        else:
            top[0].t = self.compute(bottom[0].t)


@layer(bottoms=1, tops=1)
class ReLU(Neuron):
    """max(x, 0) + negative_slope * min(x, 0)."""

    keeps_for_backward = False

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, self.p.negative_slope) if self.p.negative_slope else F.relu(x)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.in_place and not self.p.negative_slope and bottom[0].data_memory.owned():
            top[0].t = bottom[0].t.relu_()
        else:
            top[0].t = self.compute(bottom[0].t)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        # In place `bottom[0].t` is the output, whose sign is the input's as long as the slope is not negative (BVLC
        # takes it so too).
        own = self.in_place and top[0].diff_memory.owned()
        x, g, slope = bottom[0].t, top[0].g, self.p.negative_slope
        # With slope 0, too: where x is NaN BVLC's gradient is 0, threshold_backward's is g.
        if own:
            bottom[0].g = torch.ops.aten.leaky_relu_backward.grad_input(g, x, slope, False, grad_input=g)
        else:
            bottom[0].g = torch.ops.aten.leaky_relu_backward(g, x, slope, False)


@layer(bottoms=1, tops=1)
class Dropout(Neuron):
    """TRAIN: each value is kept with probability 1 - dropout_ratio and scaled by 1 / (1 - dropout_ratio). TEST: x.

    The masks are BVLC's, drawn from the process's random stream in the order of the blob (NCHW)."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.ratio = self.p.dropout_ratio
        if self.phase == caffe_pb2.TRAIN and not 0 <= self.ratio < 1:
            raise CaffeError(f"dropout_ratio: {self.ratio} is not between 0 and 1")
        self.mask = self._kept = None

    def feed(self, top: list[Blob]) -> bool:
        if self.phase != caffe_pb2.TRAIN:
            return True
        before = self._kept
        kept = streams.rng().bernoulli(top[0].count, 1.0 - self.ratio)
        self._kept = self.hold(before, to_device(kept, self.device))
        return self._kept is before

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.phase != caffe_pb2.TRAIN:
            if top[0] is not bottom[0]:
                top[0].t = bottom[0].t.clone()
            return
        self.mask = self._kept.to(torch.float32).view(bottom[0].shape).mul_(float(1.0 / (1.0 - self.ratio)))
        top[0].t = bottom[0].t * self.mask

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        if self.phase != caffe_pb2.TRAIN:
            if top[0] is not bottom[0]:
                bottom[0].g = top[0].g.clone()
            return
        bottom[0].g = top[0].g * self.mask


def affine(x: torch.Tensor, scale: float, shift: float = 0.0) -> torch.Tensor:
    """x * scale + shift. BLAS scales by 0 without a look at x, which may be NaN or infinite; and adding no shift keeps
    -0."""
    y = x * scale if scale else torch.zeros_like(x)
    return y + shift if shift else y


def derivative_times(layer: Neuron, derivative: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """derivative * g. BVLC works the derivative out in the bottom's diff, which in place is the top's: so its g is lost
    and the derivative gets multiplied by itself."""
    return derivative * (derivative if layer.in_place else g)


@layer(bottoms=1, tops=1)
class AbsVal(Neuron):
    """|x|."""

    allows_in_place = False

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return x.sign() * g


@layer(bottoms=1, tops=1)
class BNLL(Neuron):
    """log(1 + e^x)."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x) * g


@layer(bottoms=1, tops=1)
class Clip(Neuron):
    """x, but no less than min and no more than max; NaN becomes min."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        least, most = self.p.min, max(self.p.min, self.p.max)  # where the limits cross, min wins
        return x.clamp(least, most).nan_to_num_(least, math.inf, -math.inf)

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g * ((x >= self.p.min) & (x <= self.p.max))


@layer(bottoms=1, tops=1)
class ELU(Neuron):
    """x where it is positive, else alpha * (e^x - 1)."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, self.p.alpha * torch.expm1(x.clamp(max=0)))

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        # BVLC's sum of both sides, where +infinity gives NaN; it takes less time than `where`, too.
        return (y + self.p.alpha).mul_(x <= 0).add_(x > 0).mul_(g)


@layer(bottoms=1, tops=1)
class Exp(Neuron):
    """base^(shift + scale * x); base -1 (the default) stands for e."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        if p.base != -1 and p.base <= 0:
            raise CaffeError(f"base: {p.base} must be positive (or -1 for e)")
        log_base = 1.0 if p.base == -1 else math.log(p.base)
        self.inner = log_base * p.scale
        self.outer = math.exp(log_base * p.shift)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(affine(x, self.inner)) * self.outer

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return affine(y * g, self.inner)


@layer(bottoms=1, tops=1)
class Log(Neuron):
    """log of (shift + scale * x) to the base; base -1 (the default) stands for e."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        if p.base != -1 and (p.base <= 0 or p.base == 1):
            raise CaffeError(f"base: {p.base} must be positive and not 1 (or -1 for e)")
        self.factor = 1.0 if p.base == -1 else 1.0 / math.log(p.base)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(affine(x, self.p.scale, self.p.shift)) * self.factor

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        inverse = affine(x, self.p.scale, self.p.shift).reciprocal()
        return derivative_times(self, affine(inverse, self.p.scale * self.factor), g)


@layer(bottoms=1, tops=1)
class Power(Neuron):
    """(shift + scale * x)^power."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        p = self.p
        if p.power * p.scale == 0:
            with np.errstate(all="ignore"):  # 0 to a negative power is infinity, as in C
                return torch.full_like(x, float(np.float64(p.shift) ** p.power) if p.power else 1.0)
        inner = affine(x, p.scale, p.shift)
        return inner if p.power == 1 else inner.pow(p.power)

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        p = self.p
        if p.power * p.scale == 0 or p.power == 1:
            derivative = torch.full_like(x, p.power * p.scale)
        elif p.power == 2:
            derivative = affine(x, p.scale, p.shift) * (2.0 * p.scale)
        else:
            # BVLC divides the output by what was raised: NaN at 0.
            derivative = y / affine(x, p.scale, p.shift) * (p.power * p.scale)
        return derivative_times(self, derivative, g)


@layer(bottoms=1, tops=1)
class PReLU(TorchLayer):
    """x where it is positive, else a * x with a learned a: one a channel (axis 1), or one for all (channel_shared)."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._check(bottom)
        filler = self.p.filler if self.p.HasField("filler") else caffe_pb2.FillerParameter(type="constant", value=0.25)
        channels = bottom[0].channels  # refuses more than four axes, as BVLC does
        shape = () if self.p.channel_shared else (channels,)
        if not self.blobs:
            self.add_blob(shape, filler)
        self.blob_count = 1  # the prototxt may give more
        if self.blobs[0].count != math.prod(shape):
            raise CaffeError(f"channel_shared: the slope's shape is {self.blobs[0].shape}, the file says {shape}")

    def _check(self, bottom: list[Blob]) -> None:
        if len(bottom[0].shape) < 2:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}: at least 2 axes expected")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._check(bottom)
        if not self.p.channel_shared and bottom[0].shape[1] != self.blobs[0].count:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}, {self.blobs[0].count} channels expected")
        top[0].reshape(*bottom[0].shape)

    def compute(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, x * slope.view(1, -1, *(1,) * (x.dim() - 2)))


@layer(bottoms=1, tops=1)
class Sigmoid(Neuron):
    """1 / (1 + e^-x)."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return precise_sigmoid(x)

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.sigmoid_backward(g, y)


@layer(bottoms=1, tops=1)
class Swish(Neuron):
    """x * sigmoid(beta * x)."""

    _sigmoid: torch.Tensor | None = None  # kept for backward, as in place x is gone

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return x * precise_sigmoid(affine(x, self.p.beta))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t
        self._sigmoid = precise_sigmoid(affine(x, self.p.beta))
        top[0].t = x * self._sigmoid

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        if self._sigmoid is None:
            raise CaffeError("backward before the first forward")
        beta_y = y * self.p.beta
        return g * (beta_y + self._sigmoid * (1.0 - beta_y))


@layer(bottoms=1, tops=1)
class TanH(Neuron):
    """The hyperbolic tangent."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    def gradient(self, x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.tanh_backward(g, y)


@layer(bottoms=1, tops=1)
class Threshold(Neuron):
    """1 where x is above the threshold, else 0. It has no gradient."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return (x > self.p.threshold).to(x.dtype)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].t = self.compute(bottom[0].t)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            raise CaffeError("propagate_down: Threshold has no gradient")
