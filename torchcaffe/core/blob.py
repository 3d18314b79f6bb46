"""Blob: an N-dimensional array with data and diff, pycaffe's view of a tensor.

Inside the engine a blob's data and diff are torch tensors (`.t`, `.g`) that layers rebind freely: an activation is
adopted, not copied, in the memory format that the layer gave it (mostly channels last). The first access to `.data` or
`.diff` makes the tensor one C-contiguous array for good: later results are copied into it, so that the views that a
user holds stay live, as in pycaffe. A blob that nobody accesses costs nothing."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.base.malloc import check_fits
from torchcaffe.core import private_torch
from torchcaffe.formats import files
from torchcaffe.formats.blobproto import MAX_AXES, MAX_COUNT

_serials = itertools.count()
_memory = SimpleNamespace(tensor=torch.empty(1))
# What getrefcount returns for an object that only its Memory refers to, and PyTorch for the storage of such a tensor.
_UNHELD = sys.getrefcount(_memory.tensor)
_UNSHARED = private_torch.storage_users(_memory.tensor)


Shape = tuple[int, ...]

shape_changes = 0  # of all blobs so far, so that what depends on shapes is looked at again only after a change


class Memory:
    """Caffe's SyncedMemory: one array, possibly shared by several blobs (Split, Reshape, shared weights).

    tensor: the values on the compute device, None as long as all are zero.
    host: the NumPy array given to the user, None until the first access.
    own: the tensor is the same for life (parameters), so that values are always copied into it.
    fresh: the values count as zero and may be overwritten without reading them (parameter diffs after a clear)."""

    def __init__(self, tensor: Tensor | None = None):
        self.tensor = tensor
        self.host: np.ndarray | None = None
        self.own = False
        self.fresh = False
        self._host_newer = False  # on a GPU: the user may have written to `host`
        self._device_newer = False  # on a GPU: `host` is older than `tensor`
        self._stand_in: Tensor | None = None  # holds the values, to be copied when they are read
        self._serial = next(_serials)
        self._changes = 0

    def get(self, shape: Shape, device: str) -> Tensor:
        """The values as a tensor of `shape` (the memory's own tensor where the shape is the same)."""
        tensor = self.tensor
        if tensor is None:
            tensor = self.tensor = torch.zeros(shape, device=device)
            self.written()
        elif tensor.numel() != math.prod(shape):
            return self._resized(tensor, shape, device)
        elif self.fresh:
            tensor.zero_()
            self.written()
        elif self._stand_in is not None:
            tensor.copy_(self._stand_in)
            self.written()
        else:
            self.upload()
        return shaped(tensor, shape)

    def _resized(self, tensor: Tensor, shape: Shape, device: str) -> Tensor:
        """Change the size. A smaller blob keeps its first values. If the array was exposed, views stay live and growing
        back restores the old values, as Caffe keeps the memory; otherwise a larger blob is zero."""
        whole, count = self.get(tuple(tensor.shape), device), math.prod(shape)
        seen = self.host is not None and whole.device.type == "cpu"
        self.host = None
        self._host_newer = self._device_newer = False
        self._changes += 1
        if count <= whole.numel():
            resized = whole.contiguous().view(-1)[:count].view(shape)
        elif seen and count * whole.element_size() <= whole.untyped_storage().nbytes():
            resized = whole.view(-1).as_strided((count,), (1,)).view(shape)
        else:
            resized, seen = torch.zeros(shape, device=device), False
        self.tensor = resized
        if seen:
            self.host = resized.numpy()
        return resized

    def set(self, tensor: Tensor) -> None:
        """Adopt a tensor, or copy it where a user holds a view."""
        self.fresh, self._stand_in = False, None
        if self.tensor is not None and self.tensor.numel() != tensor.numel() and (self.own or self.host is not None):
            self._resized(self.tensor, tuple(tensor.shape), str(tensor.device))
        if self.tensor is None or self.host is None and not self.own:
            self.tensor = tensor
        elif self.tensor is not tensor:
            self.tensor.view(tensor.shape).copy_(tensor)
        self.written()

    def touch(self, shape: Shape, device: str) -> np.ndarray:
        """The live C-contiguous array of the values, the same one until it has to grow (on a GPU: until the size
        changes)."""
        tensor = self.get(shape, device)
        self._changes += 1
        if self.host is None:
            # A copy, as the tensor may be another blob's, too (a gradient passed through).
            if not self.own:
                tensor = self.tensor = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(shape)
            self.host = tensor.cpu().numpy()
        elif self._device_newer:
            np.copyto(self.host.reshape(-1), tensor.reshape(-1).cpu().numpy())
        self._device_newer = False
        self._host_newer = tensor.device.type != "cpu"
        return self.host if self.host.shape == shape else self.host.reshape(shape)

    def stamp(self) -> tuple[int, int, int] | None:
        """A stamp that changes with the values, so that what was computed from them can be cached.

        None while a user holds the array or a view of it, since writes to it leave no trace."""
        if self.tensor is None or self._held():
            return None
        return self._serial, self._changes, self.tensor._version

    def _held(self) -> bool:
        """Whether a user holds the array, or a view of it."""
        return self.host is not None and sys.getrefcount(self.host) > _UNHELD

    def owned(self) -> bool:
        """Whether nothing else refers to the tensor or its storage, so that its successor may be computed in place.
        The caller must not hold it in a variable."""
        return (
            self.host is None
            and self.tensor is not None
            and self.tensor.device.type == "cpu"
            and sys.getrefcount(self.tensor) == _UNHELD
            and _UNSHARED is not None
            and private_torch.storage_users(self.tensor) == _UNSHARED
        )

    def stand_in(self, tensor: Tensor) -> None:
        """Take the values of this tensor. They are copied only if somebody reads them before the next write, or holds
        the array."""
        self._stand_in = tensor
        self._changes += 1
        self._show()

    def clear(self) -> None:
        """Set the values to zero, without writing unless somebody holds the array."""
        self.fresh, self._stand_in = True, None
        self._changes += 1
        self._show()

    def _show(self) -> None:
        """Write the values into an array that is held. (A GPU's is only synchronised when accessed.)"""
        if self.tensor is not None and self._held() and self.tensor.device.type == "cpu":
            self.get(tuple(self.tensor.shape), "cpu")

    def pin(self) -> None:
        """Make the contiguous tensor the array for life (parameters): the first access copies nothing."""
        self.own = True
        if self.tensor is not None and self.tensor.device.type == "cpu" and self.host is None:
            self.host = self.tensor.numpy()

    def upload(self) -> None:
        """On a GPU: copy to the device what the user may have written to `host`."""
        if self.tensor is not None and self._host_newer and not self.fresh and self._stand_in is None:
            self.tensor.copy_(torch.from_numpy(self.host).view(self.tensor.shape))
            self._host_newer = False

    def address(self) -> tuple[int, int]:
        """Address and size of the tensor; zeros where there is none."""
        return (0, 0) if self.tensor is None else (self.tensor.data_ptr(), self.tensor.numel())

    def place(self) -> tuple[int, int]:
        """The address of a tensor that values are copied into; zeros where a new one is adopted each time."""
        return self.address() if self.own or self.host is not None else (0, 0)

    def source(self) -> tuple[bool, int]:
        """Where the values are if not in the tensor: whether they count as zero, and the address of what stands in."""
        return self.fresh, 0 if self._stand_in is None else self._stand_in.data_ptr()

    def state(self) -> tuple:
        """The number of changes so far, by which states are equal or not, and where the values are."""
        return self._changes, self.tensor, self.fresh, self._stand_in

    def restate(self, state: tuple) -> None:
        """Have the values where they were at state()."""
        _, self.tensor, self.fresh, self._stand_in = state
        self._changes += 1

    def replayed(self, state: tuple) -> None:
        """A recording has written the values again, to where they were at state(), after it was made."""
        if not self.own and self.host is None:
            self.tensor = state[1]  # an eager pass may have adopted another one since
        self.written()
        _, _, self.fresh, self._stand_in = state

    def written(self) -> None:
        """The values are in the tensor. Must be called after every write: not all of PyTorch's increase its version."""
        self.fresh, self._stand_in = False, None
        self._changes += 1
        if self.host is not None and self.tensor is not None and self.tensor.device.type != "cpu":
            self._device_newer, self._host_newer = True, False


def shaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """tensor.reshape(shape), or the tensor itself if it has the shape: a view would share its storage (see `owned`)."""
    return tensor if tensor.shape == tuple(shape) else tensor.reshape(shape)


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
        return self.data_memory.get(self._shape, self.device)

    @t.setter
    def t(self, tensor: Tensor) -> None:
        self.data_memory.set(tensor)

    @property
    def g(self) -> Tensor:
        """The diff as a tensor on the compute device."""
        return self.diff_memory.get(self._shape, self.device)

    @g.setter
    def g(self, tensor: Tensor) -> None:
        self.diff_memory.set(tensor)

    def has_diff(self) -> bool:
        """False while the diff is known to be all zero (never written, or cleared since)."""
        return self.diff_memory.tensor is not None and not self.diff_memory.fresh

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
        self.data_memory.tensor = torch.zeros(self._shape, device=self.device)
        self.data_memory.pin()
        self.diff_memory.fresh = True

    def grad_buffer(self) -> Tensor:
        """The diff's array, allocated on first use. If the diff is `fresh`, its values mean nothing."""
        memory = self.diff_memory
        tensor = memory.tensor
        if tensor is None:
            tensor = memory.tensor = torch.zeros(self._shape, device=self.device)
        elif tensor.numel() != self._count:
            tensor = memory.get(self._shape, self.device)
        if not memory.own:
            memory.pin()
        return tensor.view(self._shape)

    def accumulate(self, gradient: Tensor) -> None:
        """Add to the diff; overwrite it if it was cleared."""
        buffer = self.grad_buffer()
        if self.diff_memory.fresh:
            buffer.copy_(gradient)
        else:
            self.g.add_(gradient)
        self.diff_memory.written()

    def accumulate_product(self, left: Tensor, right: Tensor) -> None:
        """Add the matrix product to the diff, without a temporary of its size."""
        matrix = (left.shape[0], right.shape[1])
        buffer = self.grad_buffer().view(matrix)
        if self.diff_memory.fresh:
            torch.mm(left, right, out=buffer)
        else:
            self.g.view(matrix).addmm_(left, right)
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
