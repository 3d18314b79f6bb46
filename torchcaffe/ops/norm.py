"""LRN, MVN, BatchNorm, Scale and Bias, and the public forks' BN."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from torchcaffe.blob import Blob, canonical_axis
from torchcaffe.errors import CaffeError
from torchcaffe.layer import Layer, TorchLayer, layer
from torchcaffe.proto import caffe_pb2


@layer(bottoms=1, tops=1)
class LRN(TorchLayer):
    """Local response normalisation: y = x * (k + alpha / n * sum of x^2 over n channels)^-beta.

    WITHIN_CHANNEL: over n x n pixels, with alpha / n^2 and 1 in place of k (BVLC ignores k there).
    In place across channels, BVLC's result is not that: it forms scale^-beta where x was, and multiplies it by what is
    then there, itself. Its gradients in place take the output for the input, too."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        self.size = p.local_size
        if self.size % 2 == 0:
            raise CaffeError(f"local_size: {self.size} must be odd")
        self.across = p.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS
        self._band: torch.Tensor | None = None

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if len(bottom[0].shape) != 4:
            raise CaffeError(f"bottom 0: has {len(bottom[0].shape)} axes, 4 expected (num, channels, height, width)")
        top[0].reshape(*bottom[0].shape)

    def band(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the `size` channels around each, by a 1x1 convolution with a banded matrix: the fastest way."""
        channels = values.shape[1]
        if self._band is None or self._band.shape[0] != channels or self._band.device != values.device:
            index = torch.arange(channels, device=values.device)
            near = (index[:, None] - index).abs() <= self.size // 2
            self._band = near.to(torch.float32)[:, :, None, None]
        return F.conv2d(values, self._band.to(values.dtype))

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """What is raised to -beta."""
        p = self.p
        if self.across:
            return self.band(x * x).mul_(p.alpha / self.size).add_(p.k)
        pad = self.size // 2
        pooled = F.avg_pool2d(x * x, self.size, 1, pad, count_include_pad=True)
        # AVE pooling divides by the window clipped to the padded image, which here is always size x size.
        return pooled.mul(p.alpha).add(1.0)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        if self.across:
            p = self.p
            return x * (self.band(x * x) * (p.alpha / self.size) + p.k).pow(-p.beta)
        return x * self.scale(x).pow(-self.p.beta)

    def power(self, scale: torch.Tensor) -> torch.Tensor:
        """scale^-beta; -3/4, which every net uses, by square roots."""
        if self.p.beta == 0.75:
            root = scale.rsqrt()
            return root.sqrt().mul_(root)
        return scale.pow(-self.p.beta)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t
        self._scale = self.scale(x)
        power = self.power(self._scale)
        top[0].t = power.square_() if self.across and top[0] is bottom[0] else x * power

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        p = self.p
        x, g, y, s = bottom[0].t, top[0].g, top[0].t, self._scale
        if not self.across:
            # dx = g s^-beta - 2 alpha beta x mean(g x s^(-beta - 1)): stride 1 averaging is its own adjoint
            power = self.power(s)
            ratio = F.avg_pool2d(g * x * power / s, self.size, 1, self.size // 2, count_include_pad=True)
            bottom[0].g = torch.addcmul(ratio.mul_(x).mul_(-2.0 * p.alpha * p.beta), g, power)
            return
        # dx = g s^-beta - (2 alpha beta / n) x band(g y / s)
        power = self.power(s)
        if top[0] is bottom[0]:
            g, power = power * power, power.new_ones(1)  # s^-beta was written over g, then multiplied by itself
        ratio = self.band((g * y).div_(s)).mul_(x).mul_(-2.0 * p.alpha * p.beta / self.size)
        bottom[0].g = torch.addcmul(ratio, g, power)


@layer(bottoms=1, tops=1)
class MVN(Layer):
    """(x - mean) / (standard deviation + eps) a channel of an image, or an image (across_channels); normalize_variance
    false: x - mean. The top has four axes whatever the bottom has."""

    _below: tuple[int, ...] | None = None  # in place: the shape that the layer below gave the blob

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        blob = bottom[0]
        shape = (blob.num, blob.channels, blob.height, blob.width)
        self.rows = shape[0] if self.p.across_channels else shape[0] * shape[1]
        if len(blob.shape) < 4 or self._below is None or len(self._below) == 4:
            self._below = blob.shape
        top[0].reshape(*shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t.reshape(self.rows, -1)
        y = x - x.mean(1, keepdim=True)
        if self.p.normalize_variance:
            self._divisor = y.square().mean(1, keepdim=True).sqrt_().add_(self.p.eps)
            y.div_(self._divisor)
        top[0].t = y.view(top[0].shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if top[0] is bottom[0]:
            bottom[0].reshape(*self._below)
        if not propagate_down[0]:
            return
        y, g = top[0].t.reshape(self.rows, -1), top[0].g.reshape(self.rows, -1)
        if not self.p.normalize_variance:
            bottom[0].g = (g - g.mean(1, keepdim=True)).view(bottom[0].shape)
            return
        by_product = y * (g * y).mean(1, keepdim=True)
        if top[0] is bottom[0]:
            # BVLC overwrites g half way through: this is what comes out.
            g = (by_product + by_product.sum(1, keepdim=True)).mul_(-2.0)
        else:
            g = g - g.mean(1, keepdim=True) - by_product
        bottom[0].g = g.div_(self._divisor).view(bottom[0].shape)


def _channel_view(tensor: torch.Tensor, axes: int) -> torch.Tensor:
    """A vector a channel, to be broadcast over a blob whose channels are axis 1 (of one axis: the only axis)."""
    return tensor.view(1, -1, *(1,) * (axes - 2)) if axes > 1 else tensor


# torch adds a channel's values one after the other: in pieces this short every float32 sum stays within 1e-6 of exact.
PIECE = 2048


def _rows(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x as (pixels, channels), channels being axis 1 (of one axis: it is one channel), in pieces to be summed apart."""
    flat = x.movedim(1, -1).reshape(-1, x.shape[1]) if x.dim() > 1 else x[:, None]
    return flat.split(PIECE if x.device.type == "cpu" else max(1, len(flat)))


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and (biased) variance a channel, from one reading of x."""
    rows = _rows(x)
    if len(rows) == 1:
        return torch.batch_norm_update_stats(rows[0], None, None, 1.0)
    means, variances = (torch.stack(v).double() for v in zip(*(torch.batch_norm_update_stats(r, None, None, 1.0)
                                                               for r in rows)))
    weight = torch.tensor([len(r) for r in rows], dtype=torch.float64, device=x.device)[:, None] / sum(map(len, rows))
    mean = (means * weight).sum(0)
    variance = ((variances + (means - mean).square()) * weight).sum(0)
    return mean.to(x.dtype), variance.to(x.dtype)


def _sums(g: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of g and of g * y a channel, from one reading of both."""
    zero, one = y.new_zeros(y.shape[1] if y.dim() > 1 else 1), y.new_ones(y.shape[1] if y.dim() > 1 else 1)
    parts = [torch.ops.aten.native_batch_norm_backward(a, b, None, zero, one, None, None, False, 0.0,
                                                       [False, True, True])[1:] for a, b in zip(_rows(g), _rows(y))]
    products, sums = (torch.stack(v).double().sum(0).to(g.dtype) for v in zip(*parts))
    return sums, products


@layer(bottoms=1, tops=1)
class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) a channel; in TRAIN by the batch's statistics, in TEST by the running ones.

    Three blobs: running sums of mean and variance, and the scale factor both are divided by when used. The running
    variance takes the unbiased estimate, m / (m - 1)."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        self.use_global = p.use_global_stats if p.HasField("use_global_stats") else self.phase == caffe_pb2.TEST
        self.channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        shapes = ((self.channels,), (self.channels,), (1,))
        if self.blobs:
            self.check_given_blobs(*shapes)
        else:
            for shape in shapes:
                self.add_blob(shape)
        # The statistics are no weights: whatever the file says, they don't learn.
        specs = self.layer_param.param
        for index in range(3):
            if index == len(specs):
                specs.add(lr_mult=0.0)
            elif specs[index].lr_mult != 0:
                raise CaffeError(f"param {index}: lr_mult must be 0, the statistics of BatchNorm don't learn")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        if (shape[1] if len(shape) > 1 else 1) != self.channels:
            raise CaffeError(f"bottom 0: shape {shape}, {self.channels} channels expected")
        top[0].reshape(*shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t
        if self.use_global:
            factor = self.blobs[2].t
            factor = torch.where(factor == 0, torch.zeros_like(factor), 1.0 / factor)
            mean, variance = self.blobs[0].t * factor, self.blobs[1].t * factor
        else:
            mean, variance = _moments(x)
            m = x.numel() // self.channels
            keep = self.p.moving_average_fraction
            bias_correction = m / (m - 1) if m > 1 else 1.0
            self._update(self.blobs[2], torch.ones_like(self.blobs[2].t), keep, 1.0)
            self._update(self.blobs[0], mean, keep, 1.0)
            self._update(self.blobs[1], variance, keep, bias_correction)
        self._root = _channel_view((variance + self.p.eps).sqrt(), x.dim())
        # Kept for backward, since in place the top's blob is overwritten by the layer above.
        self._normalised = (x - _channel_view(mean, x.dim())).div_(self._root)
        if top[0].data_memory.host is not None:
            self._normalised = self._normalised.clone()
        top[0].t = self._normalised

    @staticmethod
    def _update(blob: Blob, value: torch.Tensor, keep: float, scale: float) -> None:
        blob.t = blob.t * keep + value.view(blob.shape) * scale

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        g = top[0].g  # BVLC writes the bottom's diff whether it is asked to or not
        if self.use_global:
            bottom[0].g = g / self._root
            return
        # dx = (g - mean(g) - y mean(g y)) / sqrt(variance + eps)
        y = self._normalised
        if g.numel() == self.channels:  # of a single value a channel nothing is left, not even rounding
            bottom[0].g = torch.zeros_like(g)
            return
        share = 1.0 / (self._root * (g.numel() // self.channels))
        by_mean, by_product = (_channel_view(v, g.dim()) * share for v in _sums(g, y))
        result = torch.addcmul(-by_mean, y, by_product, value=-1.0)
        bottom[0].g = torch.addcmul(result, g, 1.0 / self._root, out=result)


@layer(bottoms=1, tops=1)
class BN(Layer):
    """The batch normalisation of public forks: slope * (x - mean) / sqrt(variance + eps) + bias a channel.

    Four blobs of shape (1, channels): slope, bias, running mean and variance (momentum is the share that stays; the
    variance is not corrected for the batch's size). In TRAIN by the batch's statistics, unless frozen; in TEST by the
    running ones."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        self.fixed = p.frozen or self.phase == caffe_pb2.TEST
        if len(bottom[0].shape) < 2:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}: at least 2 axes expected")
        shape = (1, bottom[0].shape[1])
        if self.blobs:
            self.check_given_blobs(*[shape] * 4)
        else:
            self.add_blob(shape, p.slope_filler)
            self.add_blob(shape, p.bias_filler)
            self.add_blob(shape)
            self.add_blob(shape, caffe_pb2.FillerParameter(type="constant", value=float(p.frozen)))
        # The statistics don't learn, whatever the file says; frozen, nothing does.
        specs = self.layer_param.param
        while len(specs) < 4:
            specs.add()
        for spec in specs if p.frozen else specs[2:]:
            spec.lr_mult = spec.decay_mult = 0.0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if bottom[0].shape[1:2] != self.blobs[0].shape[1:]:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape}, {self.blobs[0].shape[1]} channels expected")
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t
        slope, bias, mean, variance = (blob.t.view(-1) for blob in self.blobs)
        dim, keep = x.dim(), self.p.momentum
        if not self.fixed:
            mean, variance = _moments(x)
            for blob, value in zip(self.blobs[2:], (mean, variance)):
                blob.t = blob.t * keep + value.view(blob.shape) * (1 - keep)
        self._root = _channel_view((variance + self.p.eps).sqrt(), dim)
        self._normalised = (x - _channel_view(mean, dim)).div_(self._root)
        top[0].t = torch.addcmul(_channel_view(bias, dim), self._normalised, _channel_view(slope, dim))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        g, y = top[0].g, self._normalised
        sums, products = _sums(g, y)
        if self.param_propagate_down[0] and not self.p.frozen:
            self.blobs[0].accumulate(products.view(self.blobs[0].shape))
        if self.param_propagate_down[1] and not self.p.frozen:
            self.blobs[1].accumulate(sums.view(self.blobs[1].shape))
        if not propagate_down[0]:
            return
        if not self.fixed:
            by_mean, by_product = (_channel_view(v * (len(sums) / g.numel()), g.dim()) for v in (sums, products))
            g = torch.addcmul(g - by_mean, y, by_product, value=-1.0)
        bottom[0].g = g * (_channel_view(self.blobs[0].t.view(-1), g.dim()) / self._root)


class _Broadcast(TorchLayer):
    """Scale and Bias: bottom 1, or a parameter, stretched over bottom 0 from `axis` on."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.p
        if len(bottom) == 1 and not self.blobs:
            self.axis = canonical_axis(p.axis, len(bottom[0].shape))
            if p.num_axes < -1:
                raise CaffeError(f"num_axes: {p.num_axes} must be -1 or more")
            end = len(bottom[0].shape) if p.num_axes == -1 else self.axis + p.num_axes
            if end > len(bottom[0].shape):
                raise CaffeError(
                    f"num_axes: {p.num_axes} from axis {self.axis} is past the {len(bottom[0].shape)} axes of bottom 0"
                )
            self.add_blob(bottom[0].shape[self.axis : end], self.filler())

    def filler(self) -> caffe_pb2.FillerParameter:
        return self.p.filler

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        other = bottom[1].shape if len(bottom) > 1 else self.blobs[0].shape
        shape = bottom[0].shape
        # A scalar may be stretched over everything, whatever axis says.
        self.axis = 0 if not other else canonical_axis(self.p.axis, len(shape))
        if len(shape) < self.axis + len(other) or shape[self.axis : self.axis + len(other)] != other:
            raise CaffeError(f"bottom 0 {shape} from axis {self.axis} does not match {other}")
        self.stretched = (1,) * self.axis + other + (1,) * (len(shape) - self.axis - len(other))
        top[0].reshape(*shape)


@layer(bottoms=(1, 2), tops=1)
class Bias(_Broadcast):
    """x + b, b being bottom 1 or a parameter."""

    def compute(self, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return x + b.view(self.stretched)


@layer(bottoms=(1, 2), tops=1)
class Scale(_Broadcast):
    """x * s (+ b with bias_term), s being bottom 1 or a parameter, b always a parameter."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().setup(bottom, top)
        if self.p.bias_term and len(self.blobs) == (1 if len(bottom) == 1 else 0):
            shape = self.blobs[0].shape if self.blobs else bottom[1].shape
            bias = self.add_blob(shape, None if self.layer_param.blobs else self.p.bias_filler)
            if self.layer_param.blobs:  # BVLC's inner Bias layer is given the same blobs, and takes the first
                bias.load(self.blobs[0].data)

    def filler(self) -> caffe_pb2.FillerParameter:
        if self.p.HasField("filler"):
            return self.p.filler
        return caffe_pb2.FillerParameter(type="constant", value=1.0)  # the identity

    def compute(self, x: torch.Tensor, s: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        s = s.view(self.stretched)
        return x * s if b is None else torch.addcmul(b.view(self.stretched), x, s)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        # BVLC works out the scale's gradient in the bottom's diff, and leaves it there if none is asked for.
        scratch = bottom[0] is not top[0] and not propagate_down[0]
        if len(bottom) > 1:
            super().backward(top, propagate_down, bottom)
            if scratch and propagate_down[1] and bottom[0].count != bottom[1].count:
                bottom[0].g = top[0].g * bottom[0].t
            return
        g = top[0].g
        if scratch and self.param_propagate_down[0] and bottom[0].count != self.blobs[0].count:
            bottom[0].g = g * bottom[0].t
        if any(self.param_propagate_down):
            (x,) = self.saved_inputs(bottom, top)
            before, scales = math.prod(x.shape[: self.axis]), self.blobs[0].count
            shape = (before, scales, x.numel() // max(1, before * scales))  # the scale's axes as the channels
            sums, products = _sums(g.reshape(shape), x.reshape(shape))
            if self.param_propagate_down[0]:
                # With one item in front of the scale's axes BVLC overwrites its diff instead of adding to it.
                if before == 1 and (scales > 1 or x.numel() == 1):
                    self.blobs[0].clear_diff()
                self.blobs[0].accumulate(products.view(self.blobs[0].shape))
            if len(self.blobs) > 1 and self.param_propagate_down[1]:
                self.blobs[1].accumulate(sums.view(self.blobs[1].shape))
        if propagate_down[0]:
            bottom[0].g = g * self.blobs[0].t.view(self.stretched)
