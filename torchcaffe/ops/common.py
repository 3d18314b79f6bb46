"""Checks and parameters that several families of layer types share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs, canonical_axis
from torchcaffe.core.layer import Layer
from torchcaffe.core.tensors import shaped
from torchcaffe.proto import caffe_pb2

FLT_MAX = torch.finfo(torch.float32).max


def make_blobs(
    layer: Layer, *blobs: tuple[Sequence[int], caffe_pb2.FillerParameter | None], exact: bool = False
) -> None:
    """Add the parameters (shape and filler of each), or check those that the prototxt itself gives."""
    if layer.blobs:
        layer.check_given_blobs(*(shape for shape, _ in blobs), exact=exact)
    else:
        for shape, filler in blobs:
            layer.add_blob(shape, filler)


def weight_and_bias(p: Any, shape: Sequence[int]) -> list[tuple[Sequence[int], caffe_pb2.FillerParameter]]:
    """Shapes and fillers of a weight and, with bias_term, one bias for each of num_output outputs."""
    check_positive(p, "num_output")
    both = [(shape, p.weight_filler), ((p.num_output,), p.bias_filler)]
    return both if p.bias_term else both[:1]


def check_positive(p: Any, field: str) -> None:
    """Raise CaffeError unless the field is at least 1."""
    if getattr(p, field) < 1:
        raise CaffeError(f"{field}: {getattr(p, field)} must be 1 or more")


def check_shapes(bottom: Blobs, *shapes: tuple[int, ...]) -> None:
    """Raise CaffeError unless the first bottoms have these shapes."""
    for index, (blob, shape) in enumerate(zip(bottom, shapes)):
        if blob.shape != shape:
            raise CaffeError(f"bottom {index}: shape {blob.shape}, {shape} expected")


def check_image(blob: Blob) -> None:
    """Raise CaffeError unless the blob has four axes."""
    if len(blob.shape) != 4:
        raise CaffeError(f"bottom 0: has {len(blob.shape)} axes, 4 expected (num, channels, height, width)")


def channels_of(blob: Blob) -> int:
    """The size of axis 1. Raises CaffeError where there is none."""
    if len(blob.shape) < 2:
        raise CaffeError(f"bottom 0: shape {blob.shape}: at least 2 axes expected")
    return blob.shape[1]


def check_channels(blob: Blob, channels: int) -> None:
    """Raise CaffeError unless axis 1 has the size that the parameters were made for."""
    if channels_of(blob) != channels:
        raise CaffeError(f"bottom 0: shape {blob.shape}, {channels} channels expected")


def axis_of(p: Any, axes: int, old: str) -> int:
    """The axis that `axis`, or the old field in its place, says."""
    if not p.HasField(old):
        return canonical_axis(p.axis, axes)
    if p.HasField("axis"):
        raise CaffeError(f"axis: give either axis or {old}, not both")
    return canonical_axis(getattr(p, old), axes, old)


def end_axis(p: Any, start: int, axes: int) -> int:
    """Where the `num_axes` axes from `start` on end; -1: at the last one."""
    if p.num_axes < -1:
        raise CaffeError(f"num_axes: {p.num_axes} must be -1 or more")
    end = axes if p.num_axes == -1 else start + p.num_axes
    if end > axes:
        raise CaffeError(f"num_axes: {p.num_axes} from axis {start} is past the {axes} axes of bottom 0")
    return end


def in_range(index: torch.Tensor, count: int, what: str, of: str) -> torch.Tensor:
    """Indices between 0 and count - 1. BVLC accesses memory out of bounds for others; here they raise CaffeError.

    On a GPU they are clamped instead: a check would cost a synchronisation, a wrong index would end the process."""
    if index.device.type != "cpu":
        return index.clamp(0, count - 1)
    if index.numel():
        least, most = (value.item() for value in torch.aminmax(index))
        if not (least >= 0 and most < count):  # NaN, too
            raise CaffeError(f"{what} {most if least >= 0 else least:.7g} is out of range for {of}")
    return index


def refuse_gradient(propagate_down: Sequence[bool], *indices: int) -> None:
    """Raise CaffeError if one of these bottoms is asked for a gradient, where BVLC aborts."""
    for index in indices:
        if any(propagate_down[index : index + 1]):
            raise CaffeError(f"propagate_down: bottom {index}: this type has no gradient for it")


class FirstLearns(Layer):
    """A layer of which only bottom 0 has a gradient."""

    refused: Sequence[int] = ()  # the bottoms for which BVLC aborts if they are asked for one

    def gradient(self, top: Blobs, bottom: Blobs) -> torch.Tensor:
        """Bottom 0's diff, in any shape."""
        raise NotImplementedError

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        refuse_gradient(propagate_down, *self.refused)
        if propagate_down[0]:
            bottom[0].g = shaped(self.gradient(top, bottom), bottom[0].shape)
