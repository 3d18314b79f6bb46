"""Convolution, Deconvolution and Im2col, over any number of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.core.tensors import shaped
from torchcaffe.ops.common import check_shapes, make_blobs, weight_and_bias
from torchcaffe.proto.geometry import Window, read_window


def warn_of_product_in_place(layer: Layer) -> None:
    """Log, at set-up, what product_in_place will do."""
    name = layer.layer_param.name
    log.warning("layer", f"{name} writes a matrix product over its own input: as in BVLC, its output is the bias alone")


def product_in_place(top: Blob, bias: Tensor | None) -> None:
    """Give the top what BVLC computes where a matrix product overwrites its own input.

    BLAS clears the output first, so the result is the bias alone, and no gradient goes down. `bias` must broadcast to
    the top's shape."""
    top.t = torch.zeros_like(top.t) if bias is None else bias.expand(top.shape).clone()


def windows(images: Tensor, window: Window, counts: Sequence[int]) -> Tensor:
    """(N, C, *spatial) -> (N, C, *counts, *kernel): the pixels of so many windows an axis, 0 outside of the image. A
    view of the padded image."""
    kernel, stride, pad, dilation = window
    far = [(n - 1) * s + e - size - p for n, s, e, size, p in zip(counts, stride, window.extent, images.shape[2:], pad)]
    view = F.pad(images, [n for pair in reversed(list(zip(pad, far))) for n in pair])
    for i, extent in enumerate(window.extent):
        view = view.unfold(2 + i, extent, stride[i])
        # BVLC accepts dilation 0: every pixel of the window is the same one.
        view = view[..., :: dilation[i]] if dilation[i] else view.expand(*view.shape[:-1], kernel[i])
    return view


class _Windowed(Layer):
    """A layer that slides a window over the axes behind `axis`, the channels' axis."""

    allows_in_place = False

    def read_sizes(self, bottom: Blob) -> None:
        """Set kernel, stride, pad, dilation and extent: one number for each spatial axis."""
        self.axis = canonical_axis(self.p.axis, len(bottom.shape))
        self.axes = len(bottom.shape) - self.axis - 1
        self.window = read_window(self.p, self.axes)
        self.kernel, self.stride, self.pad, self.dilation = self.window
        self.extent = self.window.extent

    def check_axes(self, blob: Blob) -> None:
        """Raise CaffeError if bottom 0 has another number of axes than at set-up."""
        if len(blob.shape) != self.axis + 1 + self.axes:
            raise CaffeError(f"bottom 0: has {len(blob.shape)} axes, {self.axis + 1 + self.axes} expected")

    def windows_along(self, size: int, i: int) -> int:
        """The number of windows on spatial axis i of an image of this size."""
        # C++ rounds towards zero, so an image slightly smaller than the kernel still gives 1 in BVLC.
        return int((size + 2 * self.pad[i] - self.extent[i]) / self.stride[i]) + 1

    def im2col(self, images: Tensor, counts: Sequence[int]) -> Tensor:
        """(N, C, *spatial) -> (N, C * kernel, windows): the windows' pixels."""
        view = windows(images, self.window, counts)
        order = [0, 1, *range(2 + self.axes, 2 + 2 * self.axes), *range(2, 2 + self.axes)]
        return view.permute(order).reshape(images.shape[0], images.shape[1] * math.prod(self.kernel), math.prod(counts))


class BaseConvolution(_Windowed):
    """What Convolution and Deconvolution share: sizes, the weight (outputs, inputs / group, *kernel) and the bias.

    torch handles up to 3 spatial axes; more axes, and images smaller than the kernel, go through im2col."""

    equal_counts = True
    allows_in_place = True
    transposed = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        self.read_sizes(bottom[0])
        channels = bottom[0].shape[self.axis]
        self.channels, self.outputs, self.group = channels, p.num_output, p.group
        if self.group < 1 or channels % self.group or self.outputs % self.group:
            raise CaffeError(
                f"group: {channels} channels and {self.outputs} outputs don't divide into {self.group} groups"
            )
        first, second = (channels, self.outputs) if self.transposed else (self.outputs, channels)
        make_blobs(self, *weight_and_bias(p, (first, second // self.group, *self.kernel)), exact=True)
        # Here BVLC multiplies the image itself, without im2col.
        self.one_by_one = all(k == 1 and s == 1 and not q for k, s, q in zip(self.kernel, self.stride, self.pad))
        self.lost = self.one_by_one and any(source is target for source, target in zip(bottom, top))
        if self.lost:
            warn_of_product_in_place(self)

    def output_size(self, size: int, i: int) -> int:
        """The size of spatial axis i after this layer."""
        if self.transposed:
            return self.stride[i] * (size - 1) + self.extent[i] - 2 * self.pad[i]
        return self.windows_along(size, i)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        first = bottom[0].shape
        self.check_axes(bottom[0])
        if first[self.axis] != self.channels:
            raise CaffeError(f"bottom 0: has {first[self.axis]} channels, {self.channels} expected")
        check_shapes(bottom, *[first] * len(bottom))
        spatial = tuple(self.output_size(s, i) for i, s in enumerate(first[self.axis + 1 :]))
        if any(s < 1 for s in spatial):
            raise CaffeError(f"bottom 0: {first} is smaller than the kernel {self.kernel}")
        shape = (*first[: self.axis], self.outputs, *spatial)
        for source, blob in zip(bottom, top):
            self.check_in_place(source, blob, shape)
            blob.reshape(*shape)
        images, self.counts = first[self.axis + 1 :], spatial
        if self.transposed:
            images, self.counts = self.counts, images
        fits = all(size + 2 * self.pad[i] >= self.extent[i] for i, size in enumerate(images))
        self.native = fits and 1 <= self.axes <= 3 and 0 not in self.dilation

    def as_batch(self, tensor: Tensor) -> Tensor:
        """(..., channels, *spatial) -> (N, channels, *spatial), channels last where that is the fast layout."""
        if self.axis != 1:
            tensor = tensor.reshape(-1, *tensor.shape[self.axis :])
        if self.axes == 2 and tensor.shape[1] > 1:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def arguments(self) -> tuple[Any, ...]:
        """stride, padding, dilation, transposed, output padding and groups, as torch.convolution takes them."""
        return self.stride, self.pad, self.dilation, self.transposed, (0,) * self.axes, self.group

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        weight = self.blobs[0].t
        bias = self.blobs[1].t if self.p.bias_term else None
        for source, target in zip(bottom, top):
            if source is target and self.one_by_one:
                product_in_place(target, None if bias is None else bias.view(-1, *(1,) * self.axes))
                continue
            target.t = shaped(self.convolve(self.as_batch(source.t), weight, bias), target.shape)

    def col2im(self, columns: Tensor, shape: Sequence[int]) -> Tensor:
        """The adjoint of im2col: images of `shape`, in which every pixel sums up its places in the columns."""
        with torch.enable_grad():
            images = torch.zeros(shape, dtype=columns.dtype, device=columns.device, requires_grad=True)
            return torch.autograd.grad(self.im2col(images, self.counts), images, columns)[0]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's arithmetic on (N, channels, *spatial)."""
        if self.native:
            return torch.convolution(x, weight, bias, *self.arguments())
        group, count = self.group, x.shape[0]
        matrix = weight.reshape(group, weight.shape[0] // group, -1)
        if self.transposed:
            columns = matrix.transpose(1, 2) @ x.reshape(count, group, matrix.shape[1], -1)
            sizes = [self.output_size(size, i) for i, size in enumerate(x.shape[2:])]
            y = self.col2im(columns.flatten(1, 2), (count, self.outputs, *sizes))
        else:
            y = matrix @ self.im2col(x, self.counts).unflatten(1, (group, -1))
            y = y.reshape(count, self.outputs, *self.counts)
        return y if bias is None else y + bias.view(-1, *(1,) * self.axes)

    def convolve_backward(
        self, g: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of bottom, weight and bias (None where not wanted) from the top's, `g`."""
        if self.native:
            return torch.ops.aten.convolution_backward(g, x, weight, [self.outputs], *self.arguments(), wanted)
        group, count = self.group, x.shape[0]
        matrix = weight.reshape(group, weight.shape[0] // group, -1)
        images, few = (g, x) if self.transposed else (x, g)
        few = few.reshape(count, group, matrix.shape[1], -1)
        dx = dw = db = None
        if wanted[0] and self.transposed:
            dx = (matrix @ self.im2col(g, self.counts).unflatten(1, (group, -1))).reshape(x.shape)
        elif wanted[0]:
            dx = self.col2im((matrix.transpose(1, 2) @ few).flatten(1, 2), x.shape)
        if wanted[1]:
            columns = self.im2col(images, self.counts).unflatten(1, (group, -1))
            dw = (few @ columns.transpose(2, 3)).sum(0).reshape(weight.shape)
        if wanted[2]:
            db = g.sum([0, *range(2, g.dim())])
        return dx, dw, db

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        want_weight = self.param_propagate_down[0]
        want_bias = self.p.bias_term and self.param_propagate_down[1]
        for target, down, source in zip(top, propagate_down, bottom):
            if not (down or want_weight or want_bias):
                continue
            # In place, source.t is the output, which overwrote the input; BVLC's weight gradient uses it, too.
            wanted = [down, want_weight, want_bias]
            dx, dw, db = self.convolve_backward(
                self.as_batch(target.g), self.as_batch(source.t), self.blobs[0].t, wanted
            )
            if down:
                lost = source is target and self.one_by_one
                source.g = torch.zeros_like(source.t) if lost else shaped(dx, source.shape)
            if want_weight:
                self.blobs[0].accumulate(dw)
            if want_bias:
                self.blobs[1].accumulate(db)


@layer(bottoms=(1, None), tops=(1, None))
class Convolution(BaseConvolution):
    """Convolution over the axes behind `axis`; group, dilation and rectangular kernels; sizes round down.

    It also does the work of layers that follow in place and only scale channels (BatchNorm by running statistics,
    Scale), and of an activation after them. The scaled weight and bias are kept until a blob of theirs changes."""

    _folded: tuple[Tensor, Tensor]
    _folded_of: list[tuple[int, int, int] | None] = []

    def fuses(self, following: Sequence[Layer]) -> int:
        if self.lost:
            return 0
        count = 0
        while count < len(following) and self.axis == 1 and following[count].scaling() is not None:
            count += 1
        return count + (count < len(following) and following[count].activation() is not None)

    def forward_fused(self, following: Sequence[Layer], bottom: Blobs, top: Blobs) -> None:
        activation = following[-1].activation()
        scaling = following[:-1] if activation else following
        if scaling:
            weight, bias = self._fold(scaling)
        else:
            weight, bias = self.blobs[0].t, self.blobs[1].t if self.p.bias_term else None
        y = self.convolve(self.as_batch(bottom[0].t), weight, bias)
        # Not oneDNN's fused convolution and ReLU, which turns NaN into 0.
        top[0].t = shaped(activation(y) if activation else y, top[0].shape)

    def _fold(self, scaling: Sequence[Layer]) -> tuple[Tensor, Tensor]:
        """The weight and bias of this layer together with the scaling layers that follow."""
        blobs = [blob for layer in (self, *scaling) for blob in layer.own_blobs]
        weight, *rest = (blob.t for blob in blobs)
        stamps = [blob.data_memory.stamp() for blob in blobs]
        # A recorded pass folds each time: its replay cannot compare stamps.
        if self.recorded or None in stamps or stamps != self._folded_of:
            shift = rest[0] if self.p.bias_term else weight.new_zeros(self.outputs)
            factor = torch.ones_like(shift)
            for a, b in filter(None, (layer.scaling() for layer in scaling)):
                factor, shift = factor * a, shift * a + b
            self._folded = weight * factor.view(-1, *(1,) * (weight.dim() - 1)), shift
            self._folded_of = stamps
        return self._folded


@layer(bottoms=(1, None), tops=(1, None), param="convolution_param")
class Deconvolution(BaseConvolution):
    """The adjoint of Convolution: every pixel spreads the kernel. The weight is (inputs, outputs / group, *kernel)."""

    transposed = True


@layer(bottoms=1, tops=1, param="convolution_param")
class Im2col(_Windowed, TorchLayer):
    """The pixels of every window as channels: (..., C, *spatial) -> (..., C * kernel, *windows)."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.read_sizes(bottom[0])
        if not self.axes:
            raise CaffeError(f"bottom 0: shape {bottom[0].shape} has no axes behind axis {self.axis}")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape = bottom[0].shape
        self.check_axes(bottom[0])
        counts = [self.windows_along(size, i) for i, size in enumerate(shape[self.axis + 1 :])]
        if min(counts) < 1:
            raise CaffeError(f"bottom 0: {shape} is smaller than the kernel {self.kernel}")
        self.shape = (*shape[: self.axis], shape[self.axis] * math.prod(self.kernel), *counts)
        top[0].reshape(*self.shape)

    def compute(self, x: Tensor) -> Tensor:
        return self.im2col(x.reshape(-1, *x.shape[self.axis :]), self.shape[self.axis + 1 :]).reshape(self.shape)
