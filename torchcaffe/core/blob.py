"""Blob: an N-dimensional array with data and diff, pycaffe's view of a tensor.

Inside the engine a blob's data and diff are torch tensors (`.t`, `.g`) that layers rebind freely: an activation is
adopted, not copied, in the memory format that the layer gave it (mostly channels last). The first access to `.data` or
`.diff` makes the tensor one C-contiguous array for good: later results are copied into it, so that the views that a
user holds stay live, as in pycaffe. A blob that nobody accesses costs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.base.malloc import check_fits
from torchcaffe.core.memory import TENSOR, ZERO, Memory, Shape
from torchcaffe.core.tensors import shaped
from torchcaffe.formats import files
from torchcaffe.formats.blobproto import MAX_AXES, MAX_COUNT

shape_changes = 0  # of all blobs so far, so that what depends on shapes is looked at again only after a change


class Blob:
    """pycaffe's Blob. `shape` axes are those of Caffe: num, channels, height, width for images."""

    def __init__(self, *shape: int | Sequence[int], device: str | None = None):
        self._shape: Shape = ()
        self._count = 0
        self.device = context.device() if device is None else device
        self.data_memory = Memory()
        self.diff_memory = Memory()
        if shape:
            self.reshape(*shape)

    # -- what users see ----------------------------------------------------------------------------------------------

    @property
    def data(self) -> np.ndarray:
        """Live float32 view of the values; on a GPU it is synchronised when accessed."""
        return self.data_memory.touch(self._shape, self.device)

    @property
    def diff(self) -> np.ndarray:
        """Live float32 view of the gradient; on a GPU it is synchronised when accessed."""
        return self.diff_memory.touch(self._shape, self.device)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def count(self) -> int:
        return self._count

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise CaffeError(f"num, channels, height, width are for blobs of 4 axes or fewer, this has {self._shape}")
        return self._shape[axis] if axis < len(self._shape) else 1

    num = property(lambda self: self._legacy(0), doc="size of axis 0 (1 if there is none), as in Caffe's 4-D blobs")
    channels = property(lambda self: self._legacy(1), doc="size of axis 1 (1 if there is none)")
    height = property(lambda self: self._legacy(2), doc="size of axis 2 (1 if there is none)")
    width = property(lambda self: self._legacy(3), doc="size of axis 3 (1 if there is none)")

    def reshape(self, *shape: int | Sequence[int]) -> None:
        """Change the shape. The values stay; a smaller blob keeps the first ones, as in BVLC. A larger blob is zero,
        unless the array was exposed and was as large before: growing back restores the old values."""
        sizes: Sequence[Any] = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if tuple(sizes) == self._shape and self._count:
            return
        if not all(isinstance(s, (int, np.integer)) for s in sizes):
            raise TypeError(f"blob shape {tuple(sizes)}: sizes are whole numbers")
        sizes = tuple(int(s) for s in sizes)
        if len(sizes) > MAX_AXES:
            raise CaffeError(f"blob of {len(sizes)} axes: the most is {MAX_AXES}")
        if any(s < 0 for s in sizes):
            raise CaffeError(f"blob shape {sizes}: a size is negative")
        count = math.prod(sizes)
        if count > MAX_COUNT:
            raise CaffeError(f"blob shape {sizes}: more than {MAX_COUNT} values")
        if self.device == "cpu":
            check_fits(count, f"blob shape {sizes}")
        self._shape, self._count = sizes, count
        global shape_changes
        shape_changes += 1

    # -- what layers use ---------------------------------------------------------------------------------------------

    @property
    def t(self) -> Tensor:
        """The data as a tensor on the compute device. Write to it only through `blob.t = value`."""
        memory = self.data_memory
        tensor = memory.tensor
        if memory.where is TENSOR and tensor is not None and tensor.shape == self._shape:
            return tensor
        return memory.get(self._shape, self.device)

    @t.setter
    def t(self, tensor: Tensor) -> None:
        self.data_memory.set(tensor)

    @property
    def g(self) -> Tensor:
        """The diff as a tensor on the compute device."""
        memory = self.diff_memory
        tensor = memory.tensor
        if memory.where is TENSOR and tensor is not None and tensor.shape == self._shape:
            return tensor
        return memory.get(self._shape, self.device)

    @g.setter
    def g(self, tensor: Tensor) -> None:
        self.diff_memory.set(tensor)

    def has_diff(self) -> bool:
        """False while the diff is known to be all zero (never written, or cleared since)."""
        return self.diff_memory.where is not ZERO

    def state(self) -> tuple:
        """What a pass may change of the blob itself: its shape, and which memory it has."""
        return self._shape, self._count, self.data_memory, self.diff_memory

    def restate(self, state: tuple) -> None:
        """Have the shape and the memory that state() gave."""
        global shape_changes
        shape_changes += state[0] != self._shape
        self._shape, self._count, self.data_memory, self.diff_memory = state

    replayed = restate

    def share_data(self, other: Blob) -> None:
        """Use the other blob's values (the counts agree), as Caffe's ShareData."""
        self.data_memory = other.data_memory

    def share_diff(self, other: Blob) -> None:
        """Use the other blob's diff (the counts agree), as Caffe's ShareDiff."""
        self.diff_memory = other.diff_memory


class Parameter(Blob):
    """A blob of learned values: one contiguous array for data and one for diff, the same for life.

    Assignments write into the array; gradients are accumulated, as in Caffe until ClearParamDiffs."""

    def __init__(self, *shape: int | Sequence[int], device: str | None = None):
        super().__init__(*shape, device=device)
        if not shape:
            self.reshape(())
        self.data_memory.set(torch.zeros(self._shape, device=self.device))
        self.data_memory.fix()

    def grad_buffer(self) -> Tensor:
        """The diff's array, allocated on first use."""
        return self.diff_memory.buffer(self._shape, self.device)

    def accumulate(self, gradient: Tensor) -> None:
        """Add to the diff; overwrite it if it was cleared."""
        buffer = self.grad_buffer()
        if self.diff_memory.where is ZERO:
            buffer.copy_(gradient)
        else:
            self.g.add_(gradient)
        self.diff_memory.written()

    def accumulate_product(self, left: Tensor, right: Tensor) -> None:
        """Add the matrix product to the diff, without a temporary of its size."""
        matrix = (left.shape[0], right.shape[1])
        buffer = self.grad_buffer()
        if self.diff_memory.where is ZERO:
            torch.mm(left, right, out=shaped(buffer, matrix))
        else:
            shaped(self.g, matrix).addmm_(left, right)
        self.diff_memory.written()

    def accumulate_rows(self, rows: Tensor) -> None:
        """Add the sum of the rows of a matrix to the diff."""
        buffer = shaped(self.grad_buffer(), rows.shape[1:])
        if self.diff_memory.where is ZERO:
            torch.sum(rows, 0, out=buffer)
        else:
            shaped(self.g, rows.shape[1:]).add_(rows.sum(0))
        self.diff_memory.written()

    def clear_diff(self) -> None:
        """Make the diff zero."""
        self.diff_memory.clear()

    def load(self, values: np.ndarray) -> None:
        """Copy values in (same count)."""
        tensor = self.t
        on_cpu = tensor.device.type == "cpu"
        array = tensor.view(-1).numpy() if on_cpu else np.empty(self._count, np.float32)
        for start, piece in files.pieces(np.asarray(values)):
            array[start : start + piece.size] = piece
        if not on_cpu:
            tensor.copy_(torch.from_numpy(array).view(self._shape))
        self.data_memory.written()


class BlobVec(list):
    """A layer's blobs; pycaffe's RawBlobVec."""

    def add_blob(self, *shape: int, **unknown: object) -> None:
        """Append a zero blob (how a Python layer makes its parameters)."""
        if unknown:
            raise CaffeError(f"add_blob takes sizes, not {', '.join(unknown)}")
        self.append(Parameter(*shape))


Blobs = list[Blob]  # a layer's bottoms or tops
Tensors = list[Tensor]
Arrays = dict[str, np.ndarray]  # by name


def canonical_axis(axis: int, axes: int, field: str = "axis") -> int:
    """Caffe's CanonicalAxisIndex: negative axes count from the end."""
    if not -axes <= axis < axes:
        raise CaffeError(f"{field} {axis} is out of range for a blob of {axes} axes")
    return axis + axes if axis < 0 else axis
