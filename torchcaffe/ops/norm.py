"""LRN, MVN, BatchNorm, Scale and Bias, and the public forks' BN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.ops.common import FirstLearns, channels_of, check_channels, check_image, end_axis, make_blobs
from torchcaffe.proto import caffe_pb2

# The number of values that LRN's dozen passes work on at a time, so that they stay in the cache.
LRN_PIECE = 1 << 17


@layer(bottoms=1, tops=1)
class LRN(FirstLearns):
    """Local response normalisation: y = x * (k + alpha / n * sum of x^2 over n channels)^-beta.

    WITHIN_CHANNEL: over n x n pixels, with alpha / n^2, and 1 in place of k (BVLC ignores k there).
    In place across channels, BVLC writes scale^-beta over x and so multiplies it by itself; its gradients in place
    take the output for the input."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        self.size = p.local_size
        if self.size % 2 == 0:
            raise CaffeError(f"local_size: {self.size} must be odd")
        self.across = p.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS
        self._k = torch.tensor(p.k, device=self.device)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        check_image(bottom[0])
        super().reshape(bottom, top)
        # No wider than the channels reach: beyond them there is nothing to add.
        self.window = min(self.size, 2 * max(1, bottom[0].shape[1]) - 1)

    def scale_within(self, x: Tensor) -> Tensor:
        """The base of the power -beta, within channels."""
        # AVE pooling divides by the window clipped to the padded image, which here is always size x size.
        pooled = F.avg_pool2d(x * x, self.size, 1, self.size // 2, count_include_pad=True)
        return pooled.mul(self.p.alpha).add(1.0)

    def power(self, scale: Tensor) -> Tensor:
        """scale^beta; for 3/4, which every net uses, by square roots."""
        if self.p.beta == 0.75:
            root = scale.sqrt()
            return root.sqrt().mul_(root)
        return scale.pow(self.p.beta)

    def pieces(self, *tensors: Tensor | None) -> Iterator[Any]:
        """Yield, for a piece of the pixels at a time, a scratch (pixels, near + channels + near) with zeros at both
        ends, and each tensor's (pixels, channels). The tensors are channels last; None are left out."""
        given = [t for t in tensors if t is not None]
        channels, near = given[0].shape[1], self.window // 2
        rows = [t.permute(0, 2, 3, 1).view(-1, channels) for t in given]
        step = max(1, LRN_PIECE // channels if rows[0].device.type == "cpu" else len(rows[0]))
        scratch = rows[0].new_zeros(min(step, len(rows[0])), channels + 2 * near)
        for piece in zip(*(r.split(step) for r in rows)):
            yield (scratch[: len(piece[0])], *piece)

    def window_sums(self, padded: Tensor) -> Tensor:
        """(pixels, near + channels + near) -> (pixels, channels): the sum over the window around each channel."""
        rows, width = padded.shape
        flat, count = padded.view(-1), padded.numel() - self.window + 1
        # One long row adds faster than many short ones; the view at the end omits sums across two pixels.
        total = flat[:count].clone() if self.window == 1 else flat[:count] + flat[1 : count + 1]
        for i in range(2, self.window):
            total.add_(flat[i : count + i])
        return total.as_strided((rows, width - self.window + 1), (width, 1))

    def scale_across(self, padded: Tensor, values: Tensor) -> Tensor:
        """The base of the power -beta, across channels, of (pixels, channels). `padded` is the scratch."""
        torch.mul(values, values, out=padded.narrow(1, self.window // 2, values.shape[1]))
        return torch.add(self._k, self.window_sums(padded), alpha=self.p.alpha / self.size)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x = bottom[0].t
        if not self.across:
            self._scale = self.scale_within(x)
            top[0].t = x / self.power(self._scale)
            return
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        # Kept only if x will be gone: computing the scale again costs less than the memory.
        self._scale = torch.empty_like(x) if top[0] is bottom[0] else None
        for padded, values, result, *kept in self.pieces(x, y, self._scale):
            scale = self.scale_across(padded, values)
            if kept:
                kept[0].copy_(scale)
                torch.reciprocal(self.power(scale).square_(), out=result)
            else:
                torch.div(values, self.power(scale), out=result)
        top[0].t = y

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        p = self.p
        x, g, y = bottom[0].t, top[0].g, top[0].t
        if not self.across:
            # dx = g s^-beta - 2 alpha beta x mean(g x s^(-beta - 1)); averaging at stride 1 is its own adjoint.
            power = self.power(self._scale).reciprocal_()
            products = g * x * power / self._scale
            ratio = F.avg_pool2d(products, self.size, 1, self.size // 2, count_include_pad=True)
            return torch.addcmul(ratio.mul_(x).mul_(-2.0 * p.alpha * p.beta), g, power)
        # dx = g s^-beta - (2 alpha beta / n) x (sum of g y / s over n channels)
        x, g, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, g, y))
        down, factor = torch.empty_like(x), -2.0 * p.alpha * p.beta / self.size
        for padded, values, diff, answer, result, *kept in self.pieces(x, g, y, down, self._scale):
            scale = kept[0] if kept else self.scale_across(padded, values)
            power = self.power(scale)
            if kept:  # in place, BVLC writes s^-beta over g and multiplies it by itself
                diff = direct = power.square_().reciprocal_()
            else:
                direct = torch.div(diff, power, out=power)
            torch.mul(diff, answer, out=padded.narrow(1, self.window // 2, x.shape[1])).div_(scale)
            torch.addcmul(direct, self.window_sums(padded), values, value=factor, out=result)
        return down


@layer(bottoms=1, tops=1)
class MVN(FirstLearns):
    """(x - mean) / (standard deviation + eps) for each channel of each image, or each image (across_channels).

    normalize_variance false: x - mean. The top always has four axes."""

    _below: tuple[int, ...] = ()  # in place: the shape that the layer below gave the blob

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        blob = bottom[0]
        shape = (blob.num, blob.channels, blob.height, blob.width)
        self.rows = shape[0] if self.p.across_channels else shape[0] * shape[1]
        if len(blob.shape) < 4 or not self._below or len(self._below) == 4:
            self._below = blob.shape
        top[0].reshape(*shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x = bottom[0].t.reshape(self.rows, -1)
        # Not mean(): BVLC multiplies by 1/n, which is not exact even for constants, and of a constant only that
        # rounding error is left to be normalised.
        share = float(np.float32(1) / np.float32(x.shape[1]))
        y = x - x.sum(1, keepdim=True).mul_(share)
        if self.p.normalize_variance:
            self._divisor = y.square().sum(1, keepdim=True).mul_(share).sqrt_().add_(self.p.eps)
            y.div_(self._divisor)
        top[0].t = y.view(top[0].shape)

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        if top[0] is bottom[0]:
            bottom[0].reshape(*self._below)
        y, g = top[0].t.reshape(self.rows, -1), top[0].g.reshape(self.rows, -1)
        if not self.p.normalize_variance:
            return g - g.mean(1, keepdim=True)
        by_product = y * (g * y).mean(1, keepdim=True)
        if top[0] is bottom[0]:
            # BVLC overwrites g half way through, with this result.
            g = (by_product + by_product.sum(1, keepdim=True)).mul_(-2.0)
        else:
            g = g - g.mean(1, keepdim=True) - by_product
        return g.div_(self._divisor)


def _channel_view(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel, shaped to broadcast over x, whose channels are axis 1."""
    return values.view(1, -1, *(1,) * (x.dim() - 2))


# torch adds up a channel's values in sequence. In pieces this short, a float32 sum stays within 1e-6 of the exact one.
PIECE = 1024


def _rows(x: Tensor) -> tuple[Tensor, ...]:
    """x (channels are axis 1) as (pixels, channels), in pieces to be summed separately."""
    flat = x.movedim(1, -1).reshape(-1, x.shape[1])
    return flat.split(PIECE if x.device.type == "cpu" else max(1, len(flat)))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's mean and (biased) variance, reading x once."""
    rows = _rows(x)
    if len(rows) == 1:
        return torch.batch_norm_update_stats(rows[0], None, None, 1.0)
    means, variances = (
        torch.stack(v).double() for v in zip(*(torch.batch_norm_update_stats(r, None, None, 1.0) for r in rows))
    )
    weight = torch.tensor([len(r) for r in rows], dtype=torch.float64, device=x.device)[:, None] / sum(map(len, rows))
    mean = (means * weight).sum(0)
    variance = ((variances + (means - mean).square()) * weight).sum(0)
    return mean.to(x.dtype), variance.to(x.dtype)


def _sums(g: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's sums of g and of g * y, reading both once."""
    if g.device.type != "cpu":  # the GPU's kernel needs statistics, too
        (g,), (y,) = _rows(g), _rows(y)
        return g.sum(0), (g * y).sum(0)
    zero, one = y.new_zeros(y.shape[1]), y.new_ones(y.shape[1])
    backward = torch.ops.aten.native_batch_norm_backward
    parts = [
        backward(a, b, None, zero, one, None, None, False, 0.0, [False, True, True])[1:]
        for a, b in zip(_rows(g), _rows(y))
    ]
    products, sums = (torch.stack(v).double().sum(0).to(g.dtype) for v in zip(*parts))
    return sums, products


class _Normalized(Layer):
    """A layer that normalises each channel (axis 1) by a mean and a variance."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        check_channels(bottom[0], self.blobs[0].count)
        super().reshape(bottom, top)

    def normalize(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps), kept for backward: in place, the layers above overwrite the top."""
        self._root = _channel_view((variance + self.p.eps).sqrt(), x)
        self._normalised = (x - _channel_view(mean, x)).div_(self._root)
        return self._normalised


def _update(blob: Blob, value: Tensor, keep: float, scale: float) -> None:
    blob.t = blob.t * keep + value.view(blob.shape) * scale


@layer(bottoms=1, tops=1)
class BatchNorm(_Normalized):
    """(x - mean) / sqrt(variance + eps): in TRAIN by the batch's statistics, in TEST by the running ones.

    Three blobs: running sums of mean and variance, and the scale factor that divides both when they are used. The
    running variance takes the unbiased estimate, m / (m - 1)."""

    written_by_forward = (0, 1, 2)

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        self.use_global = p.use_global_stats if p.HasField("use_global_stats") else self.phase == caffe_pb2.TEST
        self.channels = channels_of(bottom[0])
        make_blobs(self, *(((count,), None) for count in (self.channels, self.channels, 1)))
        # The statistics are not weights: they never learn.
        specs = self.layer_param.param
        for index in range(3):
            if index == len(specs):
                specs.add(lr_mult=0.0)
            elif specs[index].lr_mult != 0:
                raise CaffeError(f"param {index}: lr_mult must be 0, the statistics of BatchNorm don't learn")

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x = bottom[0].t
        if self.use_global:
            mean, variance = self._running()
        else:
            mean, variance = _moments(x)
            m = x.numel() // self.channels
            keep = self.p.moving_average_fraction
            bias_correction = m / (m - 1) if m > 1 else 1.0
            _update(self.blobs[2], torch.ones_like(self.blobs[2].t), keep, 1.0)
            _update(self.blobs[0], mean, keep, 1.0)
            _update(self.blobs[1], variance, keep, bias_correction)
        top[0].t = self.normalize(x, mean, variance)

    def _running(self) -> tuple[Tensor, Tensor]:
        """The running mean and variance."""
        factor = self.blobs[2].t
        factor = torch.where(factor == 0, torch.zeros_like(factor), 1.0 / factor)
        return self.blobs[0].t * factor, self.blobs[1].t * factor

    def scaling(self) -> tuple[Tensor, Tensor] | None:
        if not self.use_global:
            return None
        mean, variance = self._running()
        factor = 1.0 / (variance + self.p.eps).sqrt()
        return factor, -mean * factor

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        g = top[0].g  # BVLC writes the bottom's diff even if it is not asked for
        if self.use_global:
            bottom[0].g = g / self._root
            return
        # dx = (g - mean(g) - y mean(g y)) / sqrt(variance + eps)
        y = self._normalised
        if g.numel() == self.channels:  # one value a channel: exactly 0, without rounding errors
            bottom[0].g = torch.zeros_like(g)
            return
        share = 1.0 / (self._root * (g.numel() // self.channels))
        by_mean, by_product = (_channel_view(v, g) * share for v in _sums(g, y))
        result = torch.addcmul(-by_mean, y, by_product, value=-1.0)
        bottom[0].g = torch.addcmul(result, g, 1.0 / self._root, out=result)


@layer(bottoms=1, tops=1)
class BN(_Normalized):
    """The batch normalisation of public forks: slope * (x - mean) / sqrt(variance + eps) + bias.

    Four blobs of shape (1, channels): slope, bias, running mean and variance (momentum is the share that stays; the
    variance is the biased one). In TRAIN by the batch's statistics, unless frozen; in TEST by the running ones."""

    written_by_forward = (2, 3)

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        self.fixed = p.frozen or self.phase == caffe_pb2.TEST
        ones = caffe_pb2.FillerParameter(value=float(p.frozen))
        shape = (1, channels_of(bottom[0]))
        make_blobs(self, *((shape, filler) for filler in (p.slope_filler, p.bias_filler, None, ones)))
        # The statistics never learn; frozen, nothing does.
        specs = self.layer_param.param
        while len(specs) < 4:
            specs.add()
        for spec in specs if p.frozen else specs[2:]:
            spec.lr_mult = spec.decay_mult = 0.0

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x = bottom[0].t
        slope, bias, mean, variance = (blob.t.view(-1) for blob in self.own_blobs)
        keep = self.p.momentum
        if not self.fixed:
            mean, variance = _moments(x)
            for blob, value in zip(self.blobs[2:4], (mean, variance)):
                _update(blob, value, keep, 1 - keep)
        normalised = self.normalize(x, mean, variance)
        top[0].t = torch.addcmul(_channel_view(bias, x), normalised, _channel_view(slope, x))

    def scaling(self) -> tuple[Tensor, Tensor] | None:
        if not self.fixed:
            return None
        slope, bias, mean, variance = (blob.t.view(-1) for blob in self.own_blobs)
        factor = slope / (variance + self.p.eps).sqrt()
        return factor, bias - mean * factor

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        g, y = top[0].g, self._normalised
        sums, products = _sums(g, y)
        for blob, gradient, wanted in zip(self.blobs, (products, sums), self.param_propagate_down):
            if wanted and not self.p.frozen:
                blob.accumulate(gradient.view(blob.shape))
        if not propagate_down[0]:
            return
        if not self.fixed:
            by_mean, by_product = (_channel_view(v * (len(sums) / g.numel()), g) for v in (sums, products))
            g = torch.addcmul(g - by_mean, y, by_product, value=-1.0)
        bottom[0].g = g * (_channel_view(self.blobs[0].t.view(-1), g) / self._root)


class _Broadcast(TorchLayer):
    """Scale and Bias: bottom 1, or a parameter, is broadcast over bottom 0 from `axis` on."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        if len(bottom) == 1 and not self.blobs:
            shape = bottom[0].shape
            start = canonical_axis(p.axis, len(shape))
            self.add_blob(shape[start : end_axis(p, start, len(shape))], self.filler())
        self.blob_count = int(len(bottom) == 1)  # the prototxt may give more

    def filler(self) -> caffe_pb2.FillerParameter:
        return self.p.filler

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        other = bottom[1].shape if len(bottom) > 1 else self.blobs[0].shape
        shape = bottom[0].shape
        # A scalar may be broadcast whatever `axis` is.
        self.axis = 0 if not other else canonical_axis(self.p.axis, len(shape))
        if len(shape) < self.axis + len(other) or shape[self.axis : self.axis + len(other)] != other:
            raise CaffeError(f"bottom 0 {shape} from axis {self.axis} does not match {other}")
        self.stretched = (1,) * self.axis + other + (1,) * (len(shape) - self.axis - len(other))
        top[0].reshape(*shape)


@layer(bottoms=(1, 2), tops=1)
class Bias(_Broadcast):
    """x + b, b being bottom 1 or a parameter."""

    def compute(self, x: Tensor, b: Tensor) -> Tensor:
        return x + b.view(self.stretched)


@layer(bottoms=(1, 2), tops=1)
class Scale(_Broadcast):
    """x * s (+ b with bias_term), s being bottom 1 or a parameter, b always a parameter."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        super().setup(bottom, top)
        if self.p.bias_term and len(self.blobs) == (1 if len(bottom) == 1 else 0):
            canonical_axis(self.p.axis, len(bottom[0].shape))  # BVLC's inner Bias layer checks it even for a scalar
            shape = self.blobs[0].shape if self.blobs else bottom[1].shape
            bias = self.add_blob(shape, None if self.layer_param.blobs else self.p.bias_filler)
            if self.layer_param.blobs:  # BVLC's inner Bias layer gets the same blobs and takes the first
                bias.load(self.blobs[0].data)
        if self.p.bias_term:
            self.blob_count = (len(bottom) == 1) + 1
            if len(self.blobs) > self.blob_count:
                raise CaffeError(f"blobs: {len(self.blobs)} given, the layer has {self.blob_count}")

    def filler(self) -> caffe_pb2.FillerParameter:
        return self.p.filler if self.p.HasField("filler") else caffe_pb2.FillerParameter(value=1.0)  # the identity

    def scaling(self) -> tuple[Tensor, Tensor] | None:
        if len(self.layer_param.bottom) != 1 or self.axis != 1 or len(self.blobs[0].shape) != 1:
            return None
        scale = self.blobs[0].t
        return scale, self.blobs[1].t if self.p.bias_term else torch.zeros_like(scale)

    def compute(self, x: Tensor, s: Tensor, b: Tensor | None = None) -> Tensor:
        s = s.view(self.stretched)
        return x * s if b is None else torch.addcmul(b.view(self.stretched), x, s)

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        # BVLC computes the scale's gradient in the bottom's diff, and leaves it there if none is asked for.
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
            shape = (before, scales, x.numel() // max(1, before * scales))  # the scale's axes are the channels
            sums, products = _sums(g.reshape(shape), x.reshape(shape))
            if self.param_propagate_down[0]:
                # With one item before the scale's axes, BVLC overwrites its diff instead of adding to it.
                if before == 1 and (scales > 1 or x.numel() == 1):
                    self.blobs[0].clear_diff()
                self.blobs[0].accumulate(products.view(self.blobs[0].shape))
            if self.p.bias_term and self.param_propagate_down[1]:
                self.blobs[1].accumulate(sums.view(self.blobs[1].shape))
        if propagate_down[0]:
            bottom[0].g = g * self.blobs[0].t.view(self.stretched)
