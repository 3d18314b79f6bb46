"""Layer: the interface of a layer, the registry of types, and TorchLayer for types that one function defines.

To add a layer type, write one class in a file of torchcaffe/ops with @layer above it; nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.core import python_layer
from torchcaffe.core.blob import Arrays, Blob, Blobs, Parameter, Tensors
from torchcaffe.core.python_layer import given_blobs
from torchcaffe.proto.caffe_pb2 import FillerParameter, LayerParameter
from torchcaffe.random import streams
from torchcaffe.random.filler import fill

Exceptions: TypeAlias = tuple[type[Exception], ...]
Count: TypeAlias = int | tuple[int, int | None] | None  # exactly n, (least, most), or any number

registry: dict[str, type[Layer]] = {}

LayerClass = TypeVar("LayerClass", bound="type[Layer]")


def layer(bottoms: Count = None, tops: Count = None, *, param: str | None = None) -> Callable[[LayerClass], LayerClass]:
    """Register a layer class under its name, which is Caffe's type name.

    bottoms, tops: the number of blobs it takes: n, (least, most), or None for any.
    param: the field of LayerParameter that is `self.p`, if its message type isn't <Name>Parameter."""

    def register(cls: LayerClass) -> LayerClass:
        type_name = cls.__name__
        if type_name in registry:
            raise ValueError(f"layer type {type_name} is registered twice")
        cls.type = type_name
        cls.bottom_count, cls.top_count = bottoms, tops
        fields = LayerParameter.DESCRIPTOR.fields
        own = [f.name for f in fields if f.message_type is not None and f.message_type.name == type_name + "Parameter"]
        cls.param_field = param or (own[0] if own else None)
        registry[type_name] = cls
        return cls

    return register


class Layer(python_layer.Layer):
    """One layer of a net. Subclasses implement setup, reshape, forward and backward.

    Attributes: `p` the type's own parameter message, `layer_param` the whole one, `phase`, `blobs` the parameters,
    `param_propagate_down[i]` whether parameter i wants its gradient."""

    type: str = ""
    bottom_count: Count = None
    top_count: Count = None
    equal_counts = False  # as many tops as bottoms
    auto_top = False  # missing tops are made (losses)
    is_loss = False  # top 0 has loss_weight 1 where none is given
    param_field: str | None = None
    p: Any  # the message in `param_field` of layer_param (its type differs by layer type); None without a field
    makes_inputs = False  # its tops are the net's inputs
    # Exceptions of its methods that get the layer's name, including PyTorch's. (CaffeErrors always do.)
    errors: Exceptions = (RuntimeError, ArithmeticError, MemoryError, IndexError, ValueError)
    # The bottoms that force_backward must not reach (labels have no gradient).
    no_force_backward: Sequence[int] = ()
    # Backward only reads and writes its own bottoms' values through `bottom.t`, so the layer may work in place.
    allows_in_place = True
    # How many of `blobs` it computes with: as many as its set-up leaves, unless that says otherwise.
    blob_count: int | None = None
    # The parameters that its forward changes in training (running statistics).
    written_by_forward: Sequence[int] = ()
    # A pass may be recorded on a GPU and replayed without calling the layer (see recording.py). False for layers whose
    # forward or backward does anything on the host that differs from pass to pass, or reads from the device.
    recordable = True
    waited = 0.0  # seconds that passes have waited for feed()
    # The net's passes are recorded: feed() writes to the same memory each time, and nothing is kept for the next pass.
    recorded = False
    # Its shapes depend on more than the bottoms' shapes, so reshape must run before every forward.
    reshape_always = False
    # Backward uses tensors that forward kept in the layer itself, not in the blobs.
    keeps_for_backward = True

    def __init__(self, layer_param: LayerParameter, device: str | None = None):
        self.layer_param = layer_param
        self.phase = layer_param.phase
        self.device = context.device() if device is None else device
        self._caffe_blobs = given_blobs(layer_param, self.device)
        self.param_propagate_down: list[bool] = []
        self.loss_weights: list[float] = []
        self.p = getattr(layer_param, self.param_field) if self.param_field else None

    @property
    def own_blobs(self) -> list[Parameter]:
        """The parameters it computes with. As in BVLC, those that a program appends later (BlobVec.add_blob) are saved
        and loaded but change nothing: bias_term alone decides whether there is a bias, for example."""
        return self.blobs[: self.blob_count]

    # -- exact resume ------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """The arrays beside the blobs with which a resumed run continues exactly, by name (without "/")."""
        return {}

    def set_state(self, state: Arrays) -> None:
        """Restore what `state()` returned."""

    # -- the contract ------------------------------------------------------------------------------------------------

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        """Set the tops' shapes: here those of the bottoms. A layer without bottoms leaves its tops as they are."""
        for source, blob in zip(bottom, top):
            blob.reshape(*source.shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        """Compute the tops' data."""
        raise CaffeError(f"layer type {self.type} has no forward")

    def feed(self, top: Blobs) -> bool:
        """Bring what comes from the host (records, random numbers) to the device. Called before each forward, which a
        recording replays without the host. Returns whether addresses and shapes are those of the last pass."""
        return True

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        """From the tops' diffs, overwrite the bottoms' diffs and add to the parameters' diffs."""
        if any(propagate_down):
            raise CaffeError(f"layer type {self.type} cannot backpropagate")

    def scaling(self) -> tuple[Tensor, Tensor] | None:
        """(factor, shift), each a value per channel, if the layer computes x * factor + shift; else None."""
        return None

    def fuses(self, following: Sequence[Layer]) -> int:
        """The number of following layers, all in place on this layer's only top, that forward_fused can compute."""
        return 0

    def forward_fused(self, following: Sequence[Layer], bottom: Blobs, top: Blobs) -> None:
        """Compute the top's data as the following layers would leave it."""
        raise CaffeError(f"layer type {self.type} has no forward_fused")

    def activation(self) -> Callable[[Tensor], Tensor] | None:
        """The function that changes a tensor in place as the layer does, if one does, and keeps NaN; else None."""
        return None

    def round_weights(self, precision: str, least: int) -> bool:
        """Let forward round the weights to one of context.ROUNDED, if there are `least`; returns whether it does."""
        return False

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Set the records that a program gives, for Net.set_input_arrays."""
        raise CaffeError("set_input_arrays needs MemoryData as the first layer")

    # -- help for subclasses -----------------------------------------------------------------------------------------

    def add_blob(self, shape: Sequence[int], filler: FillerParameter | None = None) -> Parameter:
        """Append a parameter, filled from the process's random stream (without a filler: zeros)."""
        blob = Parameter(*shape, device=self.device)
        if filler is not None:
            fill(blob.data, filler, streams.rng())
        self.blobs.append(blob)
        return blob

    def check_given_blobs(self, *shapes: Sequence[int], exact: bool = False) -> None:
        """Raise CaffeError unless the prototxt itself gives a blob for each of `shapes`, of that shape (`exact`) or at
        least of that size: old files have four axes throughout."""
        if len(self.blobs) != len(shapes):
            raise CaffeError(f"blobs: {len(self.blobs)} given, the layer has {len(shapes)}")
        for index, (blob, shape) in enumerate(zip(self.blobs, shapes)):
            if blob.shape != tuple(shape) if exact else blob.count != math.prod(shape):
                raise CaffeError(f"blobs: blob {index} has shape {blob.shape}, {tuple(shape)} expected")

    def check_counts(self, bottoms: int, tops: int) -> None:
        """Raise CaffeError if a layer has a wrong number of bottoms or tops, as BVLC's CheckBlobCounts."""
        for kind, given, count in (("bottom", bottoms, self.bottom_count), ("top", tops, self.top_count)):
            if count is None:
                continue
            least, most = (count, count) if isinstance(count, int) else count
            if given < least or (most is not None and given > most):
                wanted = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
                raise CaffeError(f"{self.type} takes {wanted} {kind} blob(s), {given} given")
        if self.equal_counts and bottoms != tops:
            raise CaffeError(f"{self.type} takes as many tops as bottoms, {bottoms} bottoms and {tops} tops given")

    def check_in_place(self, bottom: Blob, top: Blob, shape: Sequence[int]) -> None:
        """Raise CaffeError if an in-place layer would change the shape, which would be the bottom's in the next pass.
        (BVLC then computes on whatever is in memory.)"""
        if bottom is top and tuple(shape) != bottom.shape:
            raise CaffeError(f"in place the top's shape {tuple(shape)} must be the bottom's {bottom.shape}")

    def check_same_count(self, bottom: Blobs) -> None:
        """Raise CaffeError unless bottoms 0 and 1, compared element by element, have one size."""
        if bottom[0].count != bottom[1].count:
            raise CaffeError(f"bottoms 0 and 1 differ in size: {bottom[0].shape} and {bottom[1].shape}")

    def hold(self, old: Tensor | None, new: Tensor) -> Tensor:
        """For feed(): return `new`, copied into `old`, the tensor of the last pass, if passes are recorded."""
        if not self.recorded:
            return new
        if old is None or old.shape != new.shape or old.dtype != new.dtype:
            return new.clone()
        return old.copy_(new)

    def close(self) -> None:
        """Stop threads and close files (data layers)."""


def to_device(values: np.ndarray, device: str) -> Tensor:
    """An array as a tensor on the device. A GPU copies it from page-locked memory in the background."""
    tensor = torch.from_numpy(values)
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class TorchLayer(Layer):
    """A layer defined by `compute`, a pure function from the bottoms' and parameters' tensors to the top tensor(s).

    The gradient is its vector-Jacobian product, recomputed in backward, so that backward(start, end) on edited data
    gives what BVLC gives. Hot types override forward and backward; a test compares each override with its compute."""

    _input: Tensor | None = None  # in place: the first bottom before the top overwrote it

    def compute(self, *tensors: Tensor) -> Tensor | Sequence[Tensor]:
        raise CaffeError(f"layer type {self.type} has no compute")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        """Run `compute` on tensors without storage."""
        tensors = [torch.empty(b.shape, device="meta") for b in (*bottom, *self.own_blobs)]
        for blob, shaped in zip(top, _as_tuple(self.compute(*tensors))):
            blob.reshape(*shaped.shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        inputs = self.inputs(bottom, top)
        for blob, value in zip(top, _as_tuple(self.compute(*inputs, *(b.t for b in self.own_blobs)))):
            blob.t = value

    def inputs(self, bottom: Blobs, top: Blobs) -> Tensors:
        """The bottoms' tensors; in place, the first is also kept for backward."""
        if bottom and top and bottom[0] is top[0]:
            # Rebinding the top leaves this tensor as it is, unless a user's view fixes its address.
            values = bottom[0].t
            self._input = values if bottom[0].data_memory.array is None else values.clone()
        return self.saved_inputs(bottom, top)

    def saved_inputs(self, bottom: Blobs, top: Blobs) -> Tensors:
        """The bottoms' tensors as forward read them."""
        tensors = [b.t for b in bottom]
        if bottom and top and bottom[0] is top[0]:
            if self._input is None:
                raise CaffeError("backward before the first forward of a layer that works in place")
            tensors[0] = self._input
        return tensors

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        blobs = self.own_blobs
        wanted = [*propagate_down, *self.param_propagate_down[: len(blobs)]]
        inputs = [t.detach() for t in (*self.saved_inputs(bottom, top), *(b.t for b in blobs))]
        gradients = self.vjp(inputs, [b.g for b in top], wanted)
        # In place, bottom 0's diff is the top's, and the other gradients may be views of it: so it comes last.
        for parameter, gradient in zip(blobs, gradients[len(bottom) :]):
            if gradient is not None:
                parameter.accumulate(gradient)
        for blob, gradient in zip(reversed(bottom), reversed(gradients[: len(bottom)])):
            if gradient is not None:
                blob.g = gradient

    def vjp(self, inputs: Tensors, top_diffs: Tensors, wanted: list[bool]) -> list[Tensor | None]:
        """The gradient of each wanted input, from the tops' diffs."""
        if not any(wanted):
            return [None] * len(inputs)
        with torch.enable_grad():
            leaves = [t.requires_grad_(w) for t, w in zip(inputs, wanted)]
            outputs = _as_tuple(self.compute(*leaves))
        pairs = [(o, g.reshape(o.shape)) for o, g in zip(outputs, top_diffs) if o.requires_grad]
        learning = [t for t, w in zip(leaves, wanted) if w]
        if pairs:
            outputs, diffs = zip(*pairs)
            found = iter(torch.autograd.grad(outputs, learning, diffs, materialize_grads=True))
        else:
            found = map(torch.zeros_like, learning)
        return [next(found) if w else None for w in wanted]


def _as_tuple(value: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (value,) if isinstance(value, Tensor) else value
