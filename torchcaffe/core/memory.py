"""Memory: Caffe's SyncedMemory, the values of one or several blobs."""

from __future__ import annotations

import enum
import itertools
import math
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from torchcaffe.core.ownership import alone, unshared
from torchcaffe.core.tensors import shaped

Shape = tuple[int, ...]

_serials = itertools.count()
# The memories whose tensor has an array that a user may write to, by the address of its storage.
_written_by_users: WeakValueDictionary[int, Memory] = WeakValueDictionary()


class Where(enum.Enum):
    """Where the values of a Memory are."""

    ZERO = enum.auto()  # nowhere: all are zero, whatever the tensor holds
    TENSOR = enum.auto()  # in the tensor; a GPU's array is older
    SYNCED = enum.auto()  # on a GPU: in the tensor and the array
    ARRAY = enum.auto()  # on a GPU: in the array, to which a user may be writing
    STAND_IN = enum.auto()  # in another tensor, to be copied if somebody reads them before the next write


ZERO, TENSOR, SYNCED, ARRAY, STAND_IN = Where


class Memory:
    """One array, possibly shared by several blobs (Split, Reshape, shared weights).

    tensor: on the compute device; None at first, and after drop().
    array: the NumPy array given to the user, None until the first access. On the CPU it is the tensor's own memory.
    fixed: the tensor is the same for life (parameters), so that values are always copied into it.

    | call                                 | afterwards the values are           |
    |--------------------------------------|-------------------------------------|
    | get: the tensor, to read             | in TENSOR, or SYNCED if in ARRAY    |
    | touch: the array, for a user         | in TENSOR; on a GPU in ARRAY        |
    | set: other values; or written, after | in TENSOR                           |
    |   writing into the tensor of `get`   |                                     |
    |   or, all of it, of `buffer`         |                                     |
    | clear; drop, which frees the tensor  | ZERO                                |
    | stand_in                             | in STAND_IN                         |
    """

    __slots__ = ("__weakref__", "_changes", "_serial", "_stand_in", "array", "fixed", "tensor", "where")

    def __init__(self, tensor: Tensor | None = None):
        self.tensor = tensor
        self.where = ZERO if tensor is None else TENSOR
        self.array: np.ndarray | None = None
        self.fixed = False
        self._stand_in: Tensor | None = None
        self._serial = next(_serials)
        self._changes = 0

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, shape: Shape, device: str) -> Tensor:
        """The values as a tensor of `shape` (the memory's own tensor where the shape is the same)."""
        tensor = self.tensor
        if tensor is None:
            tensor = self.tensor = torch.zeros(shape, device=device)
            if self.where is ZERO:
                self.written()
        if tensor.numel() != math.prod(shape):
            return self._resized(tensor, shape, device)
        if self.where is ZERO:
            tensor.zero_()
            self.written()
        elif self._stand_in is not None:
            tensor.copy_(self._stand_in)
            self.written()
        elif self.where is ARRAY:
            self.upload()
        return shaped(tensor, shape)

    def touch(self, shape: Shape, device: str) -> np.ndarray:
        """The live C-contiguous array of the values, the same one until it has to grow (on a GPU: until the size
        changes)."""
        tensor = self.get(shape, device)
        apart = tensor.device.type != "cpu"
        self._changes += 1
        if self.array is None:
            # A copy, as the tensor may be another blob's, too (a gradient passed through).
            if not self.fixed:
                tensor = self.tensor = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(shape)
                _written_by_users[tensor.untyped_storage().data_ptr()] = self
            self.array = tensor.cpu().numpy()
        elif apart and self.where is TENSOR:
            np.copyto(self.array.reshape(-1), tensor.reshape(-1).cpu().numpy())
        if apart:
            self.where = ARRAY
        return self.array if self.array.shape == shape else self.array.reshape(shape)

    def upload(self) -> None:
        """On a GPU: copy to the device what the user may have written to the array."""
        if self.where is ARRAY and self.tensor is not None:
            self.tensor.copy_(torch.from_numpy(self.array).view(self.tensor.shape))
            self.where = SYNCED

    # -- writing -----------------------------------------------------------------------------------------------------

    def set(self, tensor: Tensor) -> None:
        """Adopt a tensor, or copy it where a user holds a view: of this memory or of the one that it comes from."""
        if self.array is None and not self.fixed:
            if _written_by_users and tensor.untyped_storage().data_ptr() in _written_by_users:
                tensor = tensor.clone()
            self.tensor = tensor
        elif self.tensor is not tensor:
            self._stand_in, self.where = None, TENSOR
            if self.tensor is not None and self.tensor.numel() != tensor.numel():
                self._resized(self.tensor, tuple(tensor.shape), str(tensor.device))
            if self.tensor is None or self.array is None and not self.fixed:
                self.tensor = tensor
            else:
                self.tensor.view(tensor.shape).copy_(tensor)
        self.written()

    def buffer(self, shape: Shape, device: str) -> Tensor:
        """The tensor, fixed from now on, to be overwritten as a whole: its values mean nothing."""
        if self.tensor is None:
            self.tensor = torch.zeros(shape, device=device)
        elif self.tensor.numel() != math.prod(shape):
            self.get(shape, device)
        if not self.fixed:
            self.fix()
        assert self.tensor is not None
        return shaped(self.tensor, shape)

    def written(self) -> None:
        """The values are in the tensor. Must be called after every write: not all of PyTorch's increase its version."""
        self._stand_in, self.where = None, TENSOR
        self._changes += 1

    def clear(self) -> None:
        """Set the values to zero, without writing unless somebody holds the array."""
        self._stand_in, self.where = None, ZERO
        self._changes += 1
        self._show()

    def stand_in(self, tensor: Tensor) -> None:
        """Take the values of this tensor. They are copied only if somebody reads them before the next write, or holds
        the array."""
        self._stand_in, self.where = tensor, STAND_IN
        self._changes += 1
        self._show()

    def _show(self) -> None:
        """Write the values into an array that is held. (A GPU's is only synchronised when accessed.)"""
        if self.tensor is not None and self._held() and self.tensor.device.type == "cpu":
            self.get(tuple(self.tensor.shape), "cpu")

    def fix(self) -> None:
        """Make the contiguous tensor the array for life (parameters): the first access copies nothing."""
        self.fixed = True
        if self.tensor is not None and self.tensor.device.type == "cpu" and self.array is None:
            self.array = self.tensor.numpy()

    def drop(self) -> None:
        """Free the tensor, unless a user has been given its array."""
        if self.array is None:
            self.tensor, self.where = None, ZERO

    def _resized(self, tensor: Tensor, shape: Shape, device: str) -> Tensor:
        """Change the size. A smaller blob keeps its first values. If the array was exposed, views stay live and growing
        back restores the old values, as Caffe keeps the memory; otherwise a larger blob is zero."""
        whole, count = self.get(tuple(tensor.shape), device), math.prod(shape)
        seen = self.array is not None and whole.device.type == "cpu"
        self.array = None
        self.written()
        if count <= whole.numel():
            resized = whole.contiguous().view(-1)[:count].view(shape)
        elif seen and count * whole.element_size() <= whole.untyped_storage().nbytes():
            resized = whole.view(-1).as_strided((count,), (1,)).view(shape)
        else:
            resized, seen = torch.zeros(shape, device=device), False
        self.tensor = resized
        if seen:
            self.array = resized.numpy()
        return resized

    # -- who else has it ---------------------------------------------------------------------------------------------

    def stamp(self) -> tuple[int, int, int] | None:
        """A stamp that changes with the values, so that what was computed from them can be cached.

        None while a user holds the array or a view of it, since writes to it leave no trace."""
        if self.tensor is None or self._held():
            return None
        return self._serial, self._changes, self.tensor._version

    def _held(self) -> bool:
        """Whether a user holds the array, or a view of it."""
        return self.array is not None and not alone(self.array)

    def owned(self) -> bool:
        """Whether nothing else refers to the tensor or its storage, so that its successor may be computed in place.
        The caller must not hold it in a variable."""
        return (
            self.array is None
            and self.tensor is not None
            and self.tensor.device.type == "cpu"
            and alone(self.tensor)
            and unshared(self.tensor)
        )

    # -- for recordings ----------------------------------------------------------------------------------------------

    def address(self) -> tuple[int, int]:
        """Address and size of the tensor; zeros where there is none."""
        return (0, 0) if self.tensor is None else (self.tensor.data_ptr(), self.tensor.numel())

    def place(self) -> tuple[int, int]:
        """The address of a tensor that values are copied into; zeros where a new one is adopted each time."""
        return self.address() if self.fixed or self.array is not None else (0, 0)

    def source(self) -> tuple[bool, int]:
        """Where the values are if not in the tensor: whether they count as zero, and the address of what stands in."""
        return self.where is ZERO, 0 if self._stand_in is None else self._stand_in.data_ptr()

    def state(self) -> tuple:
        """The number of changes so far, by which states are equal or not, and where the values are."""
        return self._changes, self.tensor, self.where, self._stand_in

    def restate(self, state: tuple) -> None:
        """Have the values where they were at state()."""
        _, self.tensor, self.where, self._stand_in = state
        self._changes += 1

    def replayed(self, state: tuple) -> None:
        """A recording has written the values again, to where they were at state(), after it was made."""
        _, tensor, where, stand_in = state
        if not self.fixed and self.array is None:
            self.tensor = tensor  # an eager pass may have adopted another one since
        self.written()
        if where in (ZERO, STAND_IN):
            self.where, self._stand_in = where, stand_in
