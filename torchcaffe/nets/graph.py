"""A net as data: a record for each layer, blob and parameter. The builder makes them; passes run over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torchcaffe.base.errors import CaffeError, named
from torchcaffe.core.blob import Blob, Blobs, Parameter
from torchcaffe.core.layer import Layer
from torchcaffe.core.memory import Shape
from torchcaffe.proto.caffe_pb2 import LayerParameter

Callback = Callable[[int], None]  # is given a layer's number


@dataclass(eq=False, slots=True)
class Node:
    """A layer and its place in the net. `bottom_ids` and `top_ids` number the net's blobs."""

    param: LayerParameter  # the file's own; the layer may change its copy
    layer: Layer
    bottoms: Blobs = field(default_factory=list)
    tops: Blobs = field(default_factory=list)
    bottom_ids: list[int] = field(default_factory=list)
    top_ids: list[int] = field(default_factory=list)
    bottom_needs: list[bool] = field(default_factory=list)  # which bottoms get a gradient
    needs_backward: bool = False
    loss_tops: Blobs = field(default_factory=list)  # the tops that have a loss weight
    shapes: list[Shape] | None = None  # of bottoms and tops, after the last reshape
    checked: int = -1  # blob.shape_changes when `shapes` were last found to hold
    fused: list[Layer] = field(default_factory=list)  # the layers after this one whose work it does, too
    ran: bool = False  # whether it had a forward pass

    @property
    def name(self) -> str:
        return self.param.name


@dataclass(eq=False, slots=True)
class Top:
    """A blob that a layer makes, by the name that the prototxt gives it."""

    name: str
    blob: Blob
    loss_weight: float = 0.0


@dataclass(eq=False, slots=True)
class Learnable:
    """A parameter, at the layer that owns it. A multiplier is None where no layer that shares it gives one."""

    blob: Parameter
    name: str  # "LAYER[INDEX]"
    owner: tuple[str, int]  # the layer's name, and the parameter's number in the layer
    lr_mult: float | None = None
    decay_mult: float | None = None


@dataclass(eq=False)
class Graph:
    """All records of a net, in the order of its layers."""

    source: str  # what errors call the net
    name: str
    phase: int
    device: str
    debug_info: bool = False
    nodes: list[Node] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)  # tops by number
    outputs: list[int] = field(default_factory=list)
    parameters: list[Learnable] = field(default_factory=list)
    before_forward: list[Callback] = field(default_factory=list)
    after_forward: list[Callback] = field(default_factory=list)
    before_backward: list[Callback] = field(default_factory=list)
    after_backward: list[Callback] = field(default_factory=list)

    def first_of_each_name(self) -> dict[str, Layer]:
        """The layers by name. Where several have one name, BVLC copies and shares with the first."""
        return {node.name: node.layer for node in reversed(self.nodes)}

    def watched(self) -> bool:
        """Whether somebody follows a pass layer by layer, by callbacks or by debug_info."""
        callbacks = self.before_forward, self.after_forward, self.before_backward, self.after_backward
        return self.debug_info or any(callbacks)


def name_layer(error: Exception, source: str, param: LayerParameter, layer: type[Layer], bottoms: Blobs) -> None:
    """Raise a layer's error again, with the layer's name. Return if it is an exception of the user's own code."""
    if not isinstance(error, (CaffeError, *layer.errors)):
        return
    where, found = f"{source}: layer '{param.name}' ({param.type})", named(error)
    if found is not None:
        raise type(found)(f"{where}: {found}") from error
    shapes, text = [b.shape for b in bottoms], " ".join(str(error).split())
    raise CaffeError(f"{where}: cannot be computed on bottoms of {shapes}: {text[:300]}") from error
