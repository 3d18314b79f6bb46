"""Layers that move values without changing them, and element-wise combinations of blobs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.ops.common import (
    FLT_MAX,
    FirstLearns,
    axis_of,
    check_positive,
    check_shapes,
    end_axis,
    in_range,
    refuse_gradient,
)
from torchcaffe.proto import caffe_pb2

SUM, PROD, MAX = (getattr(caffe_pb2.EltwiseParameter, m) for m in ("SUM", "PROD", "MAX"))


def share(bottom: Blob, top: Blob) -> None:
    """Let the top use the bottom's memory, data and diff."""
    top.share_data(bottom)
    top.share_diff(bottom)


@layer(bottoms=1, tops=(1, None))
class Split(FirstLearns):
    """Every top shares the bottom's memory; the gradient is the sum of theirs."""

    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        for blob in top:
            blob.reshape(*bottom[0].shape)
        self.forward(bottom, top)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        # In every pass, since a Parameter's blob may have been given another net's memory.
        for blob in top:
            blob.share_data(bottom[0])

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        # A branch without a gradient adds none: its diff is zero and untouched.
        diffs = [b.g for b in top if b.has_diff()] or [top[0].g]
        total = diffs[0] + diffs[1] if len(diffs) > 1 else diffs[0].clone()
        for diff in diffs[2:]:
            total += diff
        return total


@layer(bottoms=(1, None), tops=1)
class Concat(Layer):
    """The bottoms concatenated along `axis` (or the old field concat_dim)."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        axes = len(bottom[0].shape)
        self.axis = axis_of(self.p, axes, "concat_dim")
        shape = list(bottom[0].shape)
        for index, blob in enumerate(bottom[1:], 1):
            other = list(blob.shape)
            if len(other) != axes or any(a != b for i, (a, b) in enumerate(zip(shape, other)) if i != self.axis):
                raise CaffeError(f"bottom {index}: shape {blob.shape} does not fit bottom 0's {bottom[0].shape}")
        shape[self.axis] = sum(b.shape[self.axis] for b in bottom)
        top[0].reshape(*shape)
        if len(bottom) == 1:
            share(bottom[0], top[0])

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        if len(bottom) == 1:
            share(bottom[0], top[0])
            return
        y = torch.cat([b.t for b in bottom], self.axis)
        for blob, part in zip(bottom, self.parts(y, bottom)):
            if blob.data_memory.owned():
                blob.t = part  # the same values, so that memory holds them once
        top[0].t = y

    def parts(self, joined: Tensor, bottom: Blobs) -> Sequence[Tensor]:
        """Each bottom's part of the top."""
        return joined.split([b.shape[self.axis] for b in bottom], self.axis)

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        if len(bottom) == 1:
            return
        for blob, part, down in zip(bottom, self.parts(top[0].g, bottom), propagate_down):
            if down:
                blob.g = part


@layer(bottoms=1, tops=(1, None))
class Slice(Layer):
    """The bottom cut along `axis` (or the old field slice_dim) at slice_point, or into equal parts."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape, points = list(bottom[0].shape), list(self.p.slice_point)
        self.axis = axis_of(self.p, len(shape), "slice_dim")
        size = shape[self.axis]
        if not points:
            if size % len(top):
                raise CaffeError(f"axis {self.axis}: {size} values don't divide into {len(top)} tops")
            points = [size // len(top) * i for i in range(1, len(top))]
        if len(points) != len(top) - 1:
            raise CaffeError(f"slice_point: {len(points)} given for {len(top)} tops: give one fewer than tops")
        self.sizes = [b - a for a, b in itertools.pairwise([0, *points, size])]
        if self.p.slice_point and min(self.sizes) < 1:
            raise CaffeError(f"slice_point: {points} do not cut {size} values in increasing order")
        for blob, part in zip(top, self.sizes):
            shape[self.axis] = part
            self.check_in_place(bottom[0], blob, shape)
            blob.reshape(*shape)
        if len(top) == 1:
            share(bottom[0], top[0])

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        if len(top) > 1:
            for blob, part in zip(top, bottom[0].t.split(self.sizes, self.axis)):
                blob.t = part.clone()
        else:
            share(bottom[0], top[0])

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        if propagate_down[0] and len(top) > 1:
            bottom[0].g = torch.cat([b.g for b in top], self.axis)


@layer(bottoms=1, tops=1)
class Flatten(Layer):
    """Axes `axis` to `end_axis` as one, in the same memory.

    As in BVLC, the bottom takes over the top's diff only in backward; so a Parameter layer below, whose top has the
    parameter's own diff, gets no gradient."""

    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape = bottom[0].shape
        first = canonical_axis(self.p.axis, len(shape))
        last = canonical_axis(self.p.end_axis, len(shape), "end_axis")
        if first > last + 1:  # first == last + 1 inserts an axis of size 1
            raise CaffeError(f"end_axis: {self.p.end_axis} is before axis {self.p.axis}")
        flat = math.prod(shape[first : last + 1])
        top[0].reshape(*shape[:first], flat, *shape[last + 1 :])
        top[0].share_data(bottom[0])

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].share_data(bottom[0])

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        bottom[0].share_diff(top[0])


@layer(bottoms=1, tops=1)
class Reshape(Layer):
    """The num_axes axes from `axis` on, replaced by `shape`: 0 keeps a size, one -1 is inferred.

    Top and bottom share their memory, data and diff."""

    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape, dims = bottom[0].shape, list(self.p.shape.dim)
        if dims.count(-1) > 1:
            raise CaffeError("shape: dim -1 is given more than once")
        start = self.p.axis if self.p.axis >= 0 else len(shape) + self.p.axis + 1
        if not 0 <= start <= len(shape):
            raise CaffeError(f"axis: {self.p.axis} is out of range for a blob of {len(shape)} axes")
        end = end_axis(self.p, start, len(shape))
        new = []
        for index, dim in enumerate(dims):
            if dim == 0 and start + index >= len(shape):
                raise CaffeError(f"shape: dim {index} is 0 (keep), but bottom 0 has {len(shape)} axes")
            new.append(shape[start + index] if dim == 0 else dim)
        result = [*shape[:start], *new, *shape[end:]]
        total, known = math.prod(shape), abs(math.prod(result))
        if -1 in new and known:
            result[result.index(-1)] = total // known
        if math.prod(result) != total:
            raise CaffeError(f"shape: {result} does not hold the {total} values of bottom 0 {shape}")
        top[0].reshape(*result)
        share(bottom[0], top[0])

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        share(bottom[0], top[0])

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        pass


@layer(bottoms=(2, None), tops=1)
class Eltwise(TorchLayer):
    """PROD, SUM (with coeff) or MAX of the bottoms, element by element."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        self.operation = p.operation
        if p.coeff and len(p.coeff) != len(bottom):
            raise CaffeError(f"coeff: {len(p.coeff)} given for {len(bottom)} bottoms: give none or one a bottom")
        if p.coeff and p.operation == PROD:
            raise CaffeError("coeff: only for SUM")
        self.coeff = list(p.coeff) or [1.0] * len(bottom)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        check_shapes(bottom, *[bottom[0].shape] * len(bottom))
        top[0].reshape(*bottom[0].shape)

    def compute(self, *xs: Tensor) -> Tensor:
        y = xs[0]
        if self.operation == SUM:
            # In BLAS, NaN and infinity times 0 are 0.
            y = torch.zeros_like(y) if not self.coeff[0] else y * self.coeff[0] if self.coeff[0] != 1 else y
            for x, coeff in zip(xs[1:], self.coeff[1:]):
                y = torch.add(y, x, alpha=coeff) if coeff else y
        elif self.operation == PROD:
            for x in xs[1:]:
                y = y * x
        else:
            y = torch.where(xs[0] > xs[1], xs[0], xs[1])
            for x in xs[2:]:
                y = torch.where(x > y, x, y)
        return y

    def operands(self, bottom: Blobs, top: Blobs) -> list[Tensor]:
        """The bottoms' values. In place, BVLC first overwrites bottom 0 with 0 (SUM) or the least number (MAX)."""
        xs = [b.t for b in bottom]
        if top[0] is bottom[0] and self.operation != PROD:
            xs[0] = torch.full_like(xs[0], 0.0 if self.operation == SUM else -FLT_MAX)
        return xs

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].t = self.compute(*self.operands(bottom, top))

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        xs = self.operands(bottom, top) if self.operation != SUM else []
        if self.operation == MAX:
            # One bottom gets the gradient: of equals, the second of the first two, else the earlier one.
            owner, best = (~(xs[0] > xs[1])).long(), torch.maximum(xs[0], xs[1])
            for index, x in enumerate(xs[2:], 2):
                owner, best = owner.masked_fill(x > best, index), torch.maximum(best, x)
        for index, (blob, down) in enumerate(zip(bottom, propagate_down)):
            if not down:
                continue
            g = top[0].g  # read in each round: in place, round 0 overwrites it
            if self.operation == SUM:
                coeff = self.coeff[index]
                blob.g = g * coeff if coeff != 1 else g.clone()
            elif self.operation == MAX:
                blob.g = g * (owner == index)
            else:
                # Without stable_prod_grad, BVLC divides the product by x, which gives NaN where x is 0.
                others = [x for i, x in enumerate(xs) if i != index]
                rest = math.prod(others[1:], start=others[0]) if self.p.stable_prod_grad else top[0].t / xs[index]
                # In place, BVLC writes the product of the others over g.
                blob.g = rest * (rest if blob is top[0] else g)


@layer(bottoms=(1, None), tops=0)
class Silence(Layer):
    """Takes blobs so that they do not become outputs of the net; their gradient is zero."""

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        pass

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        for blob, down in zip(bottom, propagate_down):
            if down:
                blob.g = torch.zeros(blob.shape, device=self.device)


@layer(bottoms=1, tops=1)
class Tile(TorchLayer):
    """The bottom repeated `tiles` times along `axis`."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        check_positive(self.p, "tiles")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape = list(bottom[0].shape)
        self.axis = canonical_axis(self.p.axis, len(shape))
        shape[self.axis] *= self.p.tiles
        self.check_in_place(bottom[0], top[0], shape)
        top[0].reshape(*shape)

    def compute(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.p.tiles, self.axis)


@layer(bottoms=2, tops=1)
class Crop(FirstLearns):
    """Bottom 0 cropped to bottom 1's sizes from `axis` on, starting at `offset`: one for all axes, or one for each.

    In place (where nothing is cropped) the gradient is 0: BVLC first clears the bottom's diff, which is the top's."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        axes = len(bottom[0].shape)
        start = canonical_axis(self.p.axis, axes)
        if len(self.p.offset) > 1 and len(self.p.offset) != axes - start:
            raise CaffeError(f"offset: {len(self.p.offset)} given for {axes - start} axes: give one, or one an axis")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        shape, sizes = bottom[0].shape, bottom[1].shape
        start = canonical_axis(self.p.axis, len(shape))
        if len(sizes) < len(shape):
            raise CaffeError(f"bottom 1: shape {sizes} has fewer axes than bottom 0's {shape}")
        offsets = list(self.p.offset) or [0]
        if len(offsets) == 1:
            offsets *= len(shape) - start
        for i, offset in enumerate(offsets, start):
            if shape[i] - offset < sizes[i]:
                raise CaffeError(
                    f"offset: {sizes[i]} values from {offset} on are more than axis {i} of bottom 0 {shape} has"
                )
        self.cut = (..., *(slice(offset, offset + size) for offset, size in zip(offsets, sizes[start:])))
        cropped = (*shape[:start], *sizes[start : len(shape)])
        self.check_in_place(bottom[0], top[0], cropped)
        top[0].reshape(*cropped)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].t = bottom[0].t[self.cut].clone()

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        gradient = torch.zeros_like(bottom[0].t)
        if top[0] is not bottom[0]:
            gradient[self.cut] = top[0].g
        return gradient


@layer(bottoms=2, tops=1)
class BatchReindex(FirstLearns):
    """The items of bottom 0 at the indices in bottom 1."""

    refused = (1,)
    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        if len(bottom[1].shape) != 1:
            raise CaffeError(f"bottom 1: shape {bottom[1].shape}, one axis (of indices) expected")
        top[0].reshape(*bottom[1].shape, *bottom[0].shape[1:])

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        items = bottom[0].shape[0]
        # The values are checked before the cast to integers, as in BVLC.
        index = in_range(bottom[1].t, items, "bottom 1: index", f"bottom 0's {items} items")
        top[0].t = bottom[0].t[index.to(torch.int64)]

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        index = bottom[1].t.to(torch.int64).clamp(0, bottom[0].shape[0] - 1)
        return torch.zeros_like(bottom[0].t).index_add_(0, index, top[0].g)


@layer(bottoms=(2, None), tops=(1, None))
class Filter(Layer):
    """The items of each bottom for which the last bottom, the selector, is not 0.

    The shapes depend on the selector's values; at set-up, before there are any, every item counts."""

    allows_in_place = False
    reshape_always = True
    recordable = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        if len(top) != len(bottom) - 1:
            raise CaffeError(f"{len(top)} tops given for {len(bottom) - 1} bottoms and a selector")
        self.chosen: Any = None

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        selector = bottom[-1]
        if any(size != 1 for size in selector.shape[1:]):
            raise CaffeError(f"bottom {len(bottom) - 1}: shape {selector.shape}: a selector has one value an item")
        for index, blob in enumerate(bottom[:-1]):
            if blob.shape[:1] != selector.shape[:1]:
                raise CaffeError(
                    f"bottom {index}: shape {blob.shape}, the selector has {selector.shape[:1]} values: one an item"
                )
        first = self.chosen is None
        self.chosen = selector.t.reshape(-1).nonzero().view(-1)
        count = selector.shape[0] if first else len(self.chosen)
        for blob, source in zip(top, bottom):
            blob.reshape(count, *source.shape[1:])

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        for blob, source in zip(top, bottom):
            blob.t = source.t[self.chosen]

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        refuse_gradient(propagate_down, len(bottom) - 1)
        for blob, target, down in zip(top, bottom, propagate_down):
            if down:
                target.g = torch.zeros_like(target.t).index_copy_(0, self.chosen, blob.g)
