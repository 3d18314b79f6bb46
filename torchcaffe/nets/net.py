"""Net: pycaffe's Net on PyTorch. It loops over layers and knows no layer type."""

from __future__ import annotations

import itertools
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError, named
from torchcaffe.base.malloc import keep_freed_memory
from torchcaffe.core import precision, python_layer
from torchcaffe.core.blob import Arrays, Blob, Blobs, BlobVec, Memory, Parameter, Shape
from torchcaffe.core.layer import Layer, registry
from torchcaffe.formats import caffemodel, hdf5, upgrade
from torchcaffe.formats.blobproto import same_shape
from torchcaffe.formats.files import PathLike
from torchcaffe.gpu.recording import Recorder, Recording, recorder_of
from torchcaffe.nets import plan
from torchcaffe.ops.data import MemoryData  # importing torchcaffe.ops registers every layer type
from torchcaffe.ops.linear import InnerProduct
from torchcaffe.proto import caffe_pb2, format_text
from torchcaffe.proto.caffe_pb2 import LayerParameter, NetParameter, NetState, ParamSpec

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST
Callback = Callable[[int], None]  # is given a layer's number
Owners = dict[str, tuple[int, str, int]]  # param name -> (learnable index, layer name, index in the layer)
Names = list[str] | None
Rows = dict[str, list[np.ndarray]]
AUTOMATIC = "(automatic)"  # what BVLC's log calls a top that the prototxt doesn't name

_PATHS = (str, bytes, Path)  # as in pycaffe, a path may be bytes and a number a bool
# Exceptions that a layer may raise, including PyTorch's.
_LAYER_ERRORS = (CaffeError, RuntimeError, ArithmeticError, MemoryError, IndexError, ValueError)


class Node:
    """A layer and its place in the net. `bottom_ids` and `top_ids` number the net's blobs.

    `with node:` names the layer in the errors that it raises. Exceptions of users' own code (Python layers, and the
    modules these are imported from) stay as they are."""

    layer: Layer

    def __init__(self, param: LayerParameter, source: str):
        self.param = param
        self.name = param.name
        self._source = source
        self.bottoms: Blobs = []
        self.tops: Blobs = []
        self.bottom_ids: list[int] = []
        self.top_ids: list[int] = []
        self.bottom_needs: list[bool] = []  # which bottoms get a gradient
        self.needs_backward = False
        self.loss_tops: Blobs = []  # the tops that have a loss weight
        self.shapes: list[Shape] | None = None  # of bottoms and tops, after the last reshape
        self.fused: list[Layer] = []  # the layers after this one whose work it does, too
        self.ran = False  # whether it had a forward pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        own = isinstance(error, CaffeError)
        if error is None or not own and (self.param.type == "Python" or not isinstance(error, _LAYER_ERRORS)):
            return
        where, found = f"{self._source}: layer '{self.name}' ({self.param.type})", named(error)
        if found is not None:
            raise type(found)(f"{where}: {found}") from error
        shapes, text = [b.shape for b in self.bottoms], " ".join(str(error).split())
        raise CaffeError(f"{where}: cannot be computed on bottoms of {shapes}: {text[:300]}") from error


class Net:
    """A net made from a prototxt, with pycaffe's constructors, attributes and methods.

    Net(network_file, phase, level=0, stages=None, weights=None) or Net(network_file, weights, phase). Raises CaffeError
    naming the file, the layer and the field for anything BVLC would abort on."""

    def __init__(self, network_file: PathLike | bytes, *args: Any, **kwargs: Any):
        if len(args) == 2 and isinstance(args[0], _PATHS):
            self._read(network_file, args[1], weights=args[0], **kwargs)
        else:
            self._read(network_file, *args, **kwargs)

    def _read(
        self,
        network_file: PathLike | bytes,
        phase: int,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: PathLike | bytes | None = None,
    ) -> None:
        numbers = isinstance(phase, int) and isinstance(level, int)
        if not numbers or not isinstance(network_file, _PATHS) or not isinstance(weights, (*_PATHS, type(None))):
            raise TypeError(f"Net({network_file!r}, {phase!r}, level={level!r}, weights={weights!r}): wrong type")
        if phase not in (TRAIN, TEST):
            raise CaffeError(f"phase {phase}: neither caffe.TRAIN nor caffe.TEST")
        path = os.fsdecode(network_file)
        param = upgrade.read_net(path)
        param.state.MergeFrom(NetState(phase=int(phase), level=int(level), stage=stages or ()))
        self._build(param, path)
        if weights is not None:
            self.copy_from(os.fsdecode(weights))

    @classmethod
    def from_param(cls, param: NetParameter, source: str = "net") -> Net:
        """Make a net from an upgraded NetParameter whose `state` is set; `source` names it in errors."""
        net = cls.__new__(cls)
        net._build(param, source)
        return net

    # -- making the net ----------------------------------------------------------------------------------------------

    def _build(self, in_param: NetParameter, source: str) -> None:
        keep_freed_memory(False)
        self._passed = False  # whether there was a forward pass
        self.source = source
        self.device = context.device()
        self.phase = in_param.state.phase
        try:
            param = plan.filter_net(in_param)
            log.info("net.cpp:53", "Initializing net from parameters: \n" + format_text(param))
            param = plan.insert_splits(param)
        except CaffeError as error:
            raise CaffeError(f"{source}: {error}") from None
        self.name = param.name
        self.debug_info = param.debug_info
        self.nodes: list[Node] = []
        self._blob_list: Blobs = []
        self._blob_names: list[str] = []
        self._blob_ids: dict[str, int] = {}  # of the blob that a name means so far
        self._with_gradient: set[int] = set()  # the blobs that get one
        self._blob_loss_weights: list[float] = []
        self._inputs: list[int] = []
        self.learnable: list[Parameter] = []
        self.learnable_names: list[str] = []
        self.lr_mults: list[float | None] = []
        self.decay_mults: list[float | None] = []
        self._before_forward: list[Callback] = []
        self._after_forward: list[Callback] = []
        self._before_backward: list[Callback] = []
        self._after_backward: list[Callback] = []
        available: dict[str, None] = {}  # the names that no layer has taken so far
        owners: Owners = {}
        for lp in param.layer:
            node = Node(lp, source)
            with node:
                node.layer = self._make_layer(lp)
                self._append_bottoms(node, available)
                self._append_tops(node, available)
                self.nodes.append(node)
                with torch.no_grad():
                    node.layer.setup(node.bottoms, node.tops)
                    if node.layer.blob_count is None:
                        node.layer.blob_count = len(node.layer.blobs)
                    self._reshape_layer(node)
                self._set_loss_weights(node)
                self._log_setup(node)
                self._append_params(node, owners)
        self._prune_backward()
        if param.force_backward:
            for node in self.nodes:
                layer = node.layer
                node.needs_backward = True
                node.bottom_needs = [
                    need or j not in layer.no_force_backward for j, need in enumerate(node.bottom_needs)
                ]
                layer.param_propagate_down = [True] * len(layer.blobs)
        # What no layer has taken is the net's output, in alphabetical order.
        self._outputs = [self._blob_ids[name] for name in sorted(available)]
        for name in sorted(available):
            log.info("net.cpp:244", f"This network produces output {name}")
        for i, node in enumerate(self.nodes):
            node.fused = self._layers_after(i)
        self._show()
        self.record_with(recorder_of(self.device))
        log.info("net.cpp:257", "Network initialization done.")

    def _make_layer(self, lp: LayerParameter) -> Layer:
        if not lp.HasField("phase"):
            lp.phase = self.phase
        if lp.propagate_down and len(lp.propagate_down) != len(lp.bottom):
            raise CaffeError("propagate_down: specified neither 0 times nor once a bottom")
        log.info("layer_factory.hpp:77", f"Creating layer {lp.name}")
        if lp.type not in registry:
            raise CaffeError(f"type: unknown layer type '{lp.type}' (known types: {', '.join(layer_type_list())})")
        # A copy: setup may change a layer's parameters (BatchNorm's lr_mult), while the file's own decide what needs
        # the backward pass.
        own = LayerParameter()
        own.CopyFrom(lp)
        cls = registry[lp.type]
        layer = getattr(cls, "create", cls)(own, self.device)
        log.info("net.cpp:86", f"Creating Layer {lp.name}")
        return layer

    def _append_bottoms(self, node: Node, available: dict) -> None:
        lp = node.param
        for index, name in enumerate(lp.bottom):
            if name not in available:
                raise CaffeError(f"bottom {index}: unknown blob '{name}' (no layer before makes it, or it is taken)")
            del available[name]
            log.info("net.cpp:408", f"{lp.name} <- {name}")
            blob_id = self._blob_ids[name]
            node.bottom_ids.append(blob_id)
            node.bottoms.append(self._blob_list[blob_id])
            node.bottom_needs.append(lp.propagate_down[index] if lp.propagate_down else blob_id in self._with_gradient)

    def _append_tops(self, node: Node, available: dict) -> None:
        lp, layer = node.param, node.layer
        names = list(lp.top)
        if layer.auto_top and layer.top_count is not None:
            least = layer.top_count if isinstance(layer.top_count, int) else layer.top_count[0]
            names += [AUTOMATIC] * (max(least, 1) - len(names))
        layer.check_counts(len(node.bottoms), len(names))
        for index, name in enumerate(names):
            if index < len(lp.bottom) and name == lp.bottom[index]:
                log.info("net.cpp:369", f"{lp.name} -> {name} (in-place)")
                if not layer.allows_in_place:
                    raise CaffeError(f"top {index} '{name}': this type cannot work in place")
                blob_id = self._blob_ids[name]
            else:
                if name in self._blob_ids:
                    raise CaffeError(f"top {index}: blob '{name}' is produced by more than one layer")
                log.info("net.cpp:382", f"{lp.name} -> {name}")
                blob_id = len(self._blob_list)
                self._blob_list.append(Blob(device=self.device))
                self._blob_names.append(name)
                self._blob_loss_weights.append(0.0)
                if lp.type == "Input":
                    self._inputs.append(blob_id)
            if name != AUTOMATIC:
                self._blob_ids[name] = blob_id
                available[name] = None
            node.top_ids.append(blob_id)
            node.tops.append(self._blob_list[blob_id])

    def _set_loss_weights(self, node: Node) -> None:
        # A loss without one has a single loss_weight, 1: with two tops BVLC requires a second one.
        lp, layer, tops = node.param, node.layer, node.tops
        weights = list(lp.loss_weight) or [1.0] * layer.is_loss
        if weights and len(weights) != len(tops):
            raise CaffeError(
                f"loss_weight: {len(lp.loss_weight) or 'none'} given for {len(tops)} top(s): "
                f"give {'' if layer.is_loss else 'none or '}one a top"
            )
        layer.loss_weights = weights or [0.0] * len(tops)
        for blob_id, blob, weight in zip(node.top_ids, tops, layer.loss_weights):
            self._blob_loss_weights[blob_id] = weight
            if weight:
                # As in BVLC the weight is stored in the top's diff, where backward finds it.
                blob.g = torch.full(blob.shape, weight, device=self.device)
                blob.diff_memory.pin()
                node.loss_tops.append(blob)

    def _log_setup(self, node: Node) -> None:
        """Log a layer's tops, and the memory of all tops so far."""
        log.info("net.cpp:124", f"Setting up {node.name}")
        for blob, weight in zip(node.tops, node.layer.loss_weights):
            log.info("net.cpp:131", f"Top shape: {''.join(f'{size} ' for size in blob.shape)}({blob.count})")
            if weight:
                log.info("net.cpp:134", f"    with loss weight {weight:g}")
        memory = 4 * sum(blob.count for made in self.nodes for blob in made.tops)
        log.info("net.cpp:139", f"Memory required for data: {memory}")

    def _append_params(self, node: Node, owners: Owners) -> None:
        lp, layer = node.param, node.layer
        if len(lp.param) > len(layer.blobs):
            raise CaffeError(f"param: {len(lp.param)} given, the layer has {len(layer.blobs)} parameter blob(s)")
        # BVLC looks at the file's own lr_mult here (a BatchNorm without three explicit zeros still forces the
        # backward pass below it), and at the layer's corrected ones when it learns.
        layer.param_propagate_down = [
            index >= len(lp.param) or lp.param[index].lr_mult != 0 for index in range(len(layer.blobs))
        ]
        # (whatever propagate_down says)
        below = not self._with_gradient.isdisjoint(node.bottom_ids)
        node.needs_backward = below or any(layer.param_propagate_down)
        for index in range(len(layer.blobs)):
            self._append_param(node, index, owners)
        if node.needs_backward:
            self._with_gradient.update(node.top_ids)

    def _append_param(self, node: Node, index: int, owners: Owners) -> None:
        given = node.layer.layer_param.param  # as the layer's setup left it
        spec = given[index] if index < len(given) else ParamSpec()
        name, blob = spec.name, node.layer.blobs[index]
        shared = owners.get(name)
        if shared is None:
            if name:
                owners[name] = len(self.learnable), node.name, index
            self.learnable.append(blob)
            self.learnable_names.append(f"{node.name}[{index}]")
        else:
            learnable_id, layer, owned = shared
            owner = self.learnable[learnable_id]
            log.info("net.cpp:467", f"Sharing parameters '{name}' owned by layer '{layer}', param index {owned}")
            permissive = spec.share_mode == ParamSpec.PERMISSIVE
            if (owner.count != blob.count) if permissive else (owner.shape != blob.shape):
                raise CaffeError(
                    f"param {index} '{name}': shape {blob.shape} does not fit {owner.shape} of layer '{layer}'"
                )
            blob.share_data(owner)
            blob.share_diff(owner)
        for field, known in (("lr_mult", self.lr_mults), ("decay_mult", self.decay_mults)):
            mine = getattr(spec, field) if spec.HasField(field) else None
            if shared is None:
                known.append(mine)
            elif mine is not None:
                if known[shared[0]] not in (None, mine):
                    raise CaffeError(f"param {index}: shared param '{name}' has mismatched {field}")
                known[shared[0]] = mine

    def _prune_backward(self) -> None:
        """Let backward run only for layers between a loss and something that learns, as in BVLC."""
        under_loss: set[int] = set()
        skip: set[int] = set()
        # BVLC keys these sets by blob name. Ids give the same answer, but for automatic tops, which nobody reads.
        for node in reversed(self.nodes):
            contributes = any(node.layer.loss_weights) or not under_loss.isdisjoint(node.top_ids)
            if contributes:
                under_loss.update(node.bottom_ids)
            if not contributes or node.needs_backward and skip.issuperset(node.top_ids):
                node.needs_backward = False
                node.bottom_needs = [False] * len(node.bottom_needs)
            if node.needs_backward:
                log.info("net.cpp:200", f"{node.name} needs backward computation.")
            else:
                log.info("net.cpp:202", f"{node.name} does not need backward computation.")
            skip.update(blob_id for blob_id, need in zip(node.bottom_ids, node.bottom_needs) if not need)

    def _layers_after(self, i: int) -> list[Layer]:
        """The layers after layer i whose work it can do together with its own: they come next, work in place on its
        only top, keep nothing for the backward pass and add nothing to the loss."""
        node, following = self.nodes[i], []
        for after in self.nodes[i + 1 :]:
            in_place = len(node.top_ids) == 1 and after.bottom_ids == after.top_ids == node.top_ids
            kept = after.needs_backward and after.layer.keeps_for_backward
            if not in_place or kept or after.loss_tops:
                break
            following.append(after.layer)
        return following[: node.layer.fuses(following)]

    def _show(self) -> None:
        """Make what the read-only properties return. Scripts use some of these names, which are pycaffe's, too."""
        self._layer_names = [node.name for node in self.nodes]
        self._layers: list[python_layer.Layer] = [getattr(node.layer, "user", node.layer) for node in self.nodes]
        self._layer_dict = OrderedDict(zip(self._layer_names, self._layers))
        self._blob_dict = OrderedDict(zip(self._blob_names, self._blob_list))
        self._loss_weight_dict = OrderedDict(zip(self._blob_names, self._blob_loss_weights))
        self._param_dict = OrderedDict((node.name, node.layer.blobs) for node in self.nodes if node.layer.blobs)
        self._top_names = OrderedDict((node.name, self._names(node.top_ids)) for node in self.nodes)
        self._bottom_names = OrderedDict((node.name, self._names(node.bottom_ids)) for node in self.nodes)
        self._input_names, self._output_names = self._names(self._inputs), self._names(self._outputs)

    def _names(self, blob_ids: list[int]) -> list[str]:
        return [self._blob_names[i] for i in blob_ids]

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """The blobs by name, in the order in which the layers make them."""
        return self._blob_dict

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Each blob's loss weight, by the blob's name."""
        return self._loss_weight_dict

    @property
    def layers(self) -> list[python_layer.Layer]:
        """The layers in order. A Python layer shows as the user's own object."""
        return self._layers

    @property
    def layer_dict(self) -> OrderedDict[str, python_layer.Layer]:
        """The layers by name."""
        return self._layer_dict

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """The parameters of each layer that has some, by the layer's name."""
        return self._param_dict

    @property
    def inputs(self) -> list[str]:
        """The names of the blobs that Input layers make."""
        return self._input_names

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer takes, in alphabetical order."""
        return self._output_names

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """The names of each layer's tops, by the layer's name."""
        return self._top_names

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """The names of each layer's bottoms, by the layer's name."""
        return self._bottom_names

    # pycaffe's own private names, which scripts use.

    @property
    def _blobs(self) -> Blobs:
        return self._blob_list

    def _top_ids(self, i: int) -> list[int]:
        return self.nodes[i].top_ids

    def _bottom_ids(self, i: int) -> list[int]:
        return self.nodes[i].bottom_ids

    # -- running it --------------------------------------------------------------------------------------------------

    def _reshape_layer(self, node: Node) -> None:
        layer, bottoms, tops = node.layer, node.bottoms, node.tops
        # The tops' shapes, too: BVLC reshapes before each forward, so a top that a user reshaped gets its shape back.
        if layer.reshape_always or [b.shape for b in (*bottoms, *tops)] != node.shapes:
            layer.reshape(bottoms, tops)
            node.shapes = [b.shape for b in (*bottoms, *tops)]
            for blob in node.loss_tops:
                held = blob.diff_memory.tensor
                if held is not None and held.numel() < blob.count and not blob.g.any():
                    name = self._blob_names[node.top_ids[node.tops.index(blob)]]
                    log.warning(
                        "net.cpp:130",
                        f"{name} has grown: its loss_weight is lost and it no longer counts, as "
                        "in BVLC; make the net with its largest shape",
                    )

    def reshape(self) -> None:
        """Push the input blobs' shapes through the net."""
        with torch.no_grad():
            for node in self.nodes:
                with node:
                    self._reshape_layer(node)

    def run_forward(self, start: int, end: int) -> Tensor | float:
        """Run layers start..end; returns the weighted loss they produced, left on its device (0.0 without a loss)."""
        keep_freed_memory(self._passed)
        self._passed = True
        fed, forward = start, self._recorded_forward
        if self._records(start, end):
            memories = self._memories("data", params=True) + self._memories("diff", params=False)
            if forward.ready(self._recording_key(memories)):
                while fed <= end and self._feed(self.nodes[fed]):
                    fed += 1
                if fed > end:
                    loss = forward.run(memories, lambda: self._forward_layers(start, end, fed), blobs=self._blob_list)
                    return loss.clone() if isinstance(loss, Tensor) else loss  # the next pass overwrites it
                fed += 1  # layer `fed` has brought its data, to another address
                forward.forget()
        else:
            forward.forget()
        self._recorded_backward.clear()
        return self._forward_layers(start, end, fed)

    def _feed(self, node: Node) -> bool:
        with node:
            return node.layer.feed(node.tops)

    @precision.applied()
    def _forward_layers(self, start: int, end: int, fed: int) -> Tensor | float:
        """run_forward's work; layers in front of `fed` have been fed."""
        loss: Tensor | float = 0.0
        watched = self.debug_info or self._before_forward or self._after_forward
        done = start - 1
        with torch.no_grad():
            for i in range(start, end + 1):
                for callback in self._before_forward:
                    callback(i)
                node = self.nodes[i]
                layer, bottoms, tops = node.layer, node.bottoms, node.tops
                with node:
                    self._reshape_layer(node)
                    if i <= done:
                        node.ran = True
                        continue  # the layer before did this one's work
                    if i >= fed:
                        layer.feed(tops)
                    following = () if watched else node.fused
                    if following and i + len(following) <= end:
                        layer.forward_fused(following, bottoms, tops)
                        done = i + len(following)
                    else:
                        layer.forward(bottoms, tops)
                node.ran = True
                for blob in node.loss_tops:
                    loss = loss + torch.dot(blob.t.reshape(-1), blob.g.reshape(-1))
                if self.debug_info:
                    self._log_forward(node)
                for callback in self._after_forward:
                    callback(i)
        return loss

    def run_backward(self, start: int, end: int) -> None:
        """Run layers start down to end, those that need it."""
        if self._records(end, start) and self._recorded_forward.made:
            memories, read = self._memories("diff", params=True), self._memories("data", params=True)
            read += [self._blob_list[i].diff_memory for i in self._outputs]  # whose values no layer above has written
            # The first pass of an iteration writes the gradients, further ones add to them (after a copy, where another
            # tensor stands in).
            there = tuple(blob.diff_memory.source() for blob in self.learnable)
            backward = self._recorded_backward.setdefault(there, Recording(self._recorder))
            if backward.ready(self._recording_key(memories, read)):
                backward.run(memories, lambda: self._backward_layers(start, end), read, self._blob_list)
                return
        self._backward_layers(start, end)

    @precision.applied()
    def _backward_layers(self, start: int, end: int) -> None:
        """run_backward's work."""
        with torch.no_grad():
            for i in range(start, end - 1, -1):
                for callback in self._before_backward:
                    callback(i)
                node = self.nodes[i]
                if node.needs_backward:
                    with node:
                        try:
                            node.layer.backward(node.tops, node.bottom_needs, node.bottoms)
                        except (AttributeError, TypeError) as error:
                            if node.ran:
                                raise
                            raise CaffeError("backward before the first forward") from error
                    if self.debug_info:
                        self._log_backward(node)
                for callback in self._after_backward:
                    callback(i)

    def release(self) -> None:
        """Free what the last passes computed, so that the next ones find that much memory. Arrays that a user holds
        stay, and so do the tops of layers without bottoms, which need not make them again. A recorded pass needs its
        memory."""
        if self._recordable:
            return
        kept = {id(blob.diff_memory) for node in self.nodes for blob in node.loss_tops}
        kept |= {id(blob.data_memory) for node in self.nodes if not node.bottoms for blob in node.tops}
        for blob in self._blob_list:
            for memory in (blob.data_memory, blob.diff_memory):
                if id(memory) not in kept and memory.host is None:
                    memory.tensor = None

    def record_with(self, recorder: Recorder | None) -> None:
        """Record whole passes, and replay them; None: don't. Nets on a GPU do, by CUDA graphs."""
        self._recorder = recorder
        self._recorded_forward = Recording(recorder)
        self._recorded_backward: dict[tuple, Recording] = {}
        self._recordable = recorder is not None and all(node.layer.recordable for node in self.nodes)
        for node in self.nodes:
            node.layer.recorded = self._recordable

    def _records(self, first: int, last: int) -> bool:
        """Whether a pass over these layers may be recorded: a whole one, without callbacks or debug_info."""
        callbacks = self._before_forward, self._after_forward, self._before_backward, self._after_backward
        whole = first == 0 and last == len(self.nodes) - 1
        return self._recordable and whole and not self.debug_info and not any(callbacks)

    def _memories(self, of: str, params: bool) -> list[Memory]:
        """The memories of all blobs' "data" or "diff"; with `params`, of the parameters, too."""
        field = of + "_memory"
        found = [getattr(blob, field) for blob in self._blob_list]
        return found + [getattr(b, field) for node in self.nodes for b in node.layer.blobs] if params else found

    def _recording_key(self, memories: list[Memory], read: Sequence[Memory] = ()) -> tuple:
        """All that a recording depends on: precision, shapes, the addresses of fixed arrays, and of what the work only
        reads."""
        shapes = [blob.shape for blob in self._blob_list]
        return context.precision, *shapes, *(m.place() for m in memories), *(m.address() for m in read)

    def _forward(self, start: int, end: int) -> float:
        """Run layers start..end by number; returns the loss."""
        self._check_range(start, end)
        return float(self.run_forward(start, end))

    def _backward(self, start: int, end: int) -> None:
        """Run layers start down to end by number."""
        self._check_range(end, start)
        self.run_backward(start, end)

    def _check_range(self, *numbers: int) -> None:
        for number in numbers:
            if not 0 <= number < len(self.nodes):
                raise CaffeError(f"{self.source}: layer number {number}: there are {len(self.nodes)} layers")

    def _layer_index(self, name: str | None, default: int = 0) -> int:
        if name is None:
            return default
        if name not in self.layer_dict:
            raise ValueError(f"{self.source}: no layer is named '{name}'")  # the type that pycaffe raises
        return self._layer_names.index(name)

    def forward(
        self,
        blobs: Names = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> Arrays:
        """Run layers start..end (names; default all), inputs given by name; returns outputs and `blobs` by name."""
        first, last = self._layer_index(start, 0), self._layer_index(end, len(self.nodes) - 1)
        outputs = dict.fromkeys((self.outputs if end is None else self.top_names[end]) + list(blobs or []))
        if kwargs and set(kwargs) != set(self.inputs):
            raise Exception("Input blob arguments do not match net inputs.")
        for name, array in kwargs.items():
            if array.shape[0] != self.blobs[name].shape[0]:
                raise Exception("Input is not batch sized")
            self.blobs[name].data[...] = array
        self.run_forward(first, last)
        return {name: self.blobs[name].data for name in outputs}

    def backward(
        self,
        diffs: Names = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> Arrays:
        """Run layers start down to end, output diffs given by name; returns input diffs and `diffs` by name."""
        first, last = self._layer_index(start, len(self.nodes) - 1), self._layer_index(end, 0)
        wanted = dict.fromkeys((self.inputs if end is None else self.bottom_names[end]) + list(diffs or []))
        if kwargs and set(kwargs) != set(self.outputs):
            raise Exception("Top diff arguments do not match net outputs.")
        for name, array in kwargs.items():
            if array.shape[0] != self.blobs[name].shape[0]:
                raise Exception("Diff is not batch sized")
            self.blobs[name].diff[...] = array
        self.run_backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def forward_all(self, blobs: Names = None, **kwargs: np.ndarray) -> Arrays:
        """Run forward over any number of inputs, a batch at a time; the last batch is padded with zeros."""
        if not kwargs:
            raise CaffeError(f"{self.source}: forward_all: no inputs given")
        outs: Rows = {name: [] for name in self.outputs + list(blobs or [])}
        for batch in self._batch(kwargs):
            _collect(outs, self.forward(blobs, None, None, **batch))
        return _stacked(outs, kwargs)

    def forward_backward_all(
        self, blobs: Names = None, diffs: Names = None, **kwargs: np.ndarray
    ) -> tuple[Arrays, Arrays]:
        """Run forward and backward over any number of inputs and output diffs, a batch at a time."""
        if not kwargs:
            raise CaffeError(f"{self.source}: forward_backward_all: neither inputs nor diffs given")
        outs: Rows = {name: [] for name in self.outputs + list(blobs or [])}
        grads: Rows = {name: [] for name in self.inputs + list(diffs or [])}
        inputs = self._batch({n: kwargs[n] for n in self.inputs if n in kwargs})
        top_diffs = self._batch({n: kwargs[n] for n in self.outputs if n in kwargs})
        nothing: Arrays = {}
        for given, given_diffs in itertools.zip_longest(inputs, top_diffs, fillvalue=nothing):
            _collect(outs, self.forward(blobs, None, None, **given))
            _collect(grads, self.backward(diffs, None, None, **given_diffs))
        return _stacked(outs, kwargs), _stacked(grads, kwargs)

    def _batch(self, arrays: Arrays) -> Iterator[Arrays]:
        total = len(next(iter(arrays.values()), ()))
        size = self._blob_list[0].shape[0] if arrays else 1
        for start in range(0, total, size):
            batch = {}
            for name, array in arrays.items():
                part = np.asarray(array[start : start + size])
                padding = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
                batch[name] = np.concatenate([part, padding]) if len(padding) else part
            yield batch

    def clear_param_diffs(self) -> None:
        """Make every parameter's diff zero."""
        for blob in self.learnable:
            blob.clear_diff()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Give a net that starts with a MemoryData layer its records: (N, C, H, W) and (N, 1, 1, 1), float32."""
        layer = self.nodes[0].layer if self.nodes else None
        if not isinstance(layer, MemoryData):
            raise CaffeError(f"{self.source}: set_input_arrays needs MemoryData as the first layer")
        layer.set_arrays(data, labels)

    _set_input_arrays = set_input_arrays

    def before_forward(self, function: Callback) -> None:
        """Call function(layer index) before each layer's forward."""
        self._before_forward.append(function)

    def after_forward(self, function: Callback) -> None:
        """Call function(layer index) after each layer's forward."""
        self._after_forward.append(function)

    def before_backward(self, function: Callback) -> None:
        """Call function(layer index) before each layer's backward."""
        self._before_backward.append(function)

    def after_backward(self, function: Callback) -> None:
        """Call function(layer index) after each layer's backward."""
        self._after_backward.append(function)

    @property
    def waited(self) -> float:
        """The seconds that passes have waited for data layers so far, with nothing else to compute."""
        return sum(node.layer.waited for node in self.nodes)

    # -- weights -----------------------------------------------------------------------------------------------------

    def copy_from(self, path: PathLike) -> None:
        """Copy the parameters of same-named layers from a .caffemodel (protobuf or HDF5); others are left alone."""
        path = os.fspath(path)
        from_hdf5 = hdf5.is_hdf5(path)
        owners = {id(blob) for blob in self.learnable}
        layers = self._first_of_each_name()
        for source in caffemodel.read_caffemodel(path):
            if source.name not in layers:
                log.info("net.cpp:801" if from_hdf5 else "net.cpp:746", f"Ignoring source layer {source.name}")
                continue
            targets = layers[source.name].blobs
            where = f"{path}: layer '{source.name}'"
            blobs = list(source.blobs)
            if from_hdf5:  # which leaves out parameters that another layer owns
                blobs += [None] * (len(targets) - len(blobs))
            if len(targets) != len(blobs):
                raise CaffeError(f"{where}: holds {len(blobs)} blob(s), the net's layer has {len(targets)}")
            for index, (target, values) in enumerate(zip(targets, blobs)):
                if values is None:
                    if id(target) in owners:
                        raise CaffeError(f"{where}: blob {index} is not in the file")
                    continue
                if not same_shape(values.shape, target.shape):
                    raise CaffeError(
                        f"{where}: blob {index}: shape {values.shape} does not fit the net's {target.shape} "
                        "(rename the layer to learn it from scratch)"
                    )
                target.load(values)

    def save_hdf5(self, path: PathLike) -> None:
        """Write the weights in HDF5, whatever the name."""
        self.save(path, hdf5=True)

    def save(self, path: PathLike, hdf5: bool = False) -> None:
        """Write a .caffemodel that BVLC reads: protobuf, whatever the name, or HDF5."""
        owners = {id(b.data_memory): b for b in self.learnable}
        arrays: dict[str, Sequence[np.ndarray | None]] = {
            # HDF5 holds a shared parameter once, at its owner; the binary format at every layer.
            node.name: [
                None if hdf5 and owners.get(id(b.data_memory), b) is not b else b.data for b in node.layer.blobs
            ]
            for node in self.nodes
            if node.layer.blobs
        }
        caffemodel.write_caffemodel(os.fsdecode(path), self.to_proto(), arrays, hdf5=hdf5)

    def load_hdf5(self, path: PathLike) -> None:
        """Copy parameters from an HDF5 weights file."""
        path = os.fsdecode(path)
        if not hdf5.is_hdf5(path):
            raise CaffeError(f"{path}: not an HDF5 file")
        self.copy_from(path)

    def reduce_weights(self, precision: str, least: int = 1 << 24) -> list[str]:
        """Round the weights of inner products with `least` weights or more to "bf16", or to "int8" with a scale per
        output, in all further passes; the blobs stay as they are. Returns the layers' names.

        For scoring: a forward pass reads a half or a quarter of the bytes. Raises CaffeError outside of the TEST phase,
        or on a GPU."""
        if precision not in context.ROUNDED:
            raise CaffeError(f"{self.source}: precision '{precision}': one of {', '.join(context.ROUNDED)} expected")
        if self.phase != TEST or self.device != "cpu":
            raise CaffeError(f"{self.source}: precision '{precision}' is for nets of the TEST phase on a CPU")
        chosen = []
        for node in self.nodes:
            if isinstance(node.layer, InnerProduct) and node.layer.blobs[0].count >= least:
                node.layer.precision = precision
                chosen.append(node.name)
        return chosen

    def to_proto(self) -> NetParameter:
        """Return the net as BVLC writes it into a caffemodel (filtered, split), without its blobs."""
        param = NetParameter(name=self.name)
        for node in self.nodes:
            param.layer.add().CopyFrom(node.layer.layer_param)
            param.layer[-1].ClearField("blobs")
        return param

    def share_with(self, other: Net) -> None:
        """Use the other net's parameters in same-named layers: both nets have one memory from then on."""
        if not isinstance(other, Net):
            raise TypeError(f"share_with takes a Net, not {other!r}")
        layers = self._first_of_each_name()
        for node in other.nodes:
            if node.name not in layers:
                log.info("net.cpp:678", f"Ignoring source layer {node.name}")
                continue
            mine, theirs = layers[node.name].blobs, node.layer.blobs
            where = f"{self.source}: layer '{node.name}'"
            if len(mine) != len(theirs):
                raise CaffeError(f"{where}: {len(mine)} blob(s) here, {len(theirs)} there")
            for index, (target, source) in enumerate(zip(mine, theirs)):
                if target.shape != source.shape:
                    raise CaffeError(f"{where}: blob {index}: cannot share {source.shape} with {target.shape}")
                target.share_data(source)

    def _first_of_each_name(self) -> dict[str, Layer]:
        """The layers by name. Where several have one name, BVLC copies and shares with the first."""
        return {node.name: node.layer for node in reversed(self.nodes)}

    def loss_term(self, name: str, value: float) -> str:
        """What BVLC's log adds to a value of an output: its part of the loss, if it has one."""
        weight = np.float32(self.blob_loss_weights[name])
        return f" (* {weight:g} = {weight * value:g} loss)" if weight else ""

    # -- debug_info --------------------------------------------------------------------------------------------------

    def _log_forward(self, node: Node) -> None:
        prefix = f"    [Forward] Layer {node.name}, "
        for blob_id, blob in zip(node.top_ids, node.tops):
            log.info("net.cpp:593", f"{prefix}top blob {self._blob_names[blob_id]} data: {_mean_abs(blob.t):g}")
        given = node.layer.layer_param.param
        for index, blob in enumerate(node.layer.blobs):
            name = given[index].name if index < len(given) and given[index].name else index
            log.info("net.cpp:605", f"{prefix}param blob {name} data: {_mean_abs(blob.t):g}")

    def _log_backward(self, node: Node) -> None:
        prefix = f"    [Backward] Layer {node.name}, "
        for blob_id, blob, wanted in zip(node.bottom_ids, node.bottoms, node.bottom_needs):
            if wanted:
                log.info("net.cpp:621", f"{prefix}bottom blob {self._blob_names[blob_id]} diff: {_mean_abs(blob.g):g}")
        for index, (blob, wanted) in enumerate(zip(node.layer.blobs, node.layer.param_propagate_down)):
            if wanted:
                log.info("net.cpp:632", f"{prefix}param blob {index} diff: {_mean_abs(blob.g):g}")

    def log_norms(self) -> None:
        """Log debug_info's last line of a backward pass: L1 and L2 norms of all parameters' data and diffs."""
        with torch.no_grad():
            (data1, data2), (diff1, diff2) = (
                [sum(float(norm(t).sum()) for t in tensors) for norm in (Tensor.abs, Tensor.square)]
                for tensors in ([b.t for b in self.learnable], [b.g for b in self.learnable])
            )
        log.error(
            "net.cpp:721",
            f"    [Backward] All net params (data, diff): L1 norm = ({data1:g}, {diff1:g}); "
            f"L2 norm = ({math.sqrt(data2):g}, {math.sqrt(diff2):g})",
        )

    def close(self) -> None:
        """Stop data layers' threads (also done when the net is garbage collected)."""
        for node in self.nodes:
            node.layer.close()


def _collect(collected: Rows, found: Arrays) -> None:
    for name, values in found.items():
        collected[name].extend(values.copy())


def _stacked(collected: Rows, given: Arrays) -> Arrays:
    """The collected rows without those of the last batch's padding."""
    total = len(next(iter(given.values())))
    return {name: np.asarray(values)[:total] for name, values in collected.items()}


def _mean_abs(tensor: Tensor) -> float:
    return float(tensor.abs().mean()) if tensor.numel() else 0.0


def layer_type_list() -> list[str]:
    """Every layer type the engine has, sorted."""
    return sorted(registry)
