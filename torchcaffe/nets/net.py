"""Net: pycaffe's Net on PyTorch. The loop over layers knows no layer type."""

from __future__ import annotations

import itertools
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch

import torchcaffe.ops  # noqa: F401  (registers every layer type)
from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError, named
from torchcaffe.base.malloc import keep_freed_memory
from torchcaffe.core import precision, python_layer
from torchcaffe.core.blob import Blob, BlobVec, Memory, Parameter, shape_text
from torchcaffe.core.layer import Layer, check_counts, registry
from torchcaffe.formats import caffemodel, hdf5, upgrade
from torchcaffe.gpu.recording import Recorder, Recording, recorder_of
from torchcaffe.nets import plan
from torchcaffe.ops.linear import PRECISIONS
from torchcaffe.proto import caffe_pb2, format_text

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST
PathLike = Union[str, Path]


class Net:
    """A net made from a prototxt, with pycaffe's constructors, attributes and methods.

    Net(network_file, phase, level=0, stages=None, weights=None) or Net(network_file, weights, phase). Raises CaffeError
    naming the file, the layer and the field for anything BVLC would abort on."""

    def __init__(self, *args: Any, **kwargs: Any):
        given = _constructor_arguments(*args, **kwargs)
        path = given["network_file"]
        param = upgrade.read_net(path)
        param.state.CopyFrom(plan.net_state(param, given["phase"], given["level"], given["stages"]))
        self._build(param, str(path))
        if given["weights"] is not None:
            self.copy_from(given["weights"])

    @classmethod
    def from_param(cls, param: caffe_pb2.NetParameter, source: str = "net") -> Net:
        """A net from an upgraded NetParameter whose `state` is set; `source` names it in errors."""
        net = cls.__new__(cls)
        net._build(param, source)
        return net

    # -- making the net ----------------------------------------------------------------------------------------------

    def _build(self, in_param: caffe_pb2.NetParameter, source: str) -> None:
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
        self._layers: list[Layer] = []
        self._layer_names: list[str] = []
        self._layer_params: list[caffe_pb2.LayerParameter] = []
        self._bottoms: list[list[Blob]] = []
        self._tops: list[list[Blob]] = []
        self._layer_bottoms: list[list[int]] = []
        self._layer_tops: list[list[int]] = []
        self._blob_list: list[Blob] = []
        self._blob_names: list[str] = []
        self._inputs: list[int] = []
        self._needs_backward: list[bool] = []
        self._bottom_needs: list[list[bool]] = []
        self._loss_tops: list[list[tuple[Blob, int]]] = []
        self.learnable: list[Parameter] = []
        self.lr_mults: list[float | None] = []
        self.decay_mults: list[float | None] = []
        self._learnable_names: list[str] = []
        self._seen_shapes: list[list[tuple[int, ...]] | None] = []
        self._before_forward: list[Callable[[int], None]] = []
        self._after_forward: list[Callable[[int], None]] = []
        self._before_backward: list[Callable[[int], None]] = []
        self._after_backward: list[Callable[[int], None]] = []
        self._ran: set[int] = set()  # layers that have had a forward pass
        blob_ids: dict[str, int] = {}
        blob_needs: list[bool] = []
        available: dict[str, None] = {}
        owners: dict[str, tuple[int, int, int]] = {}  # param name -> (learnable index, layer, index in the layer)
        memory = 0

        for layer_id, lp in enumerate(param.layer):
            bottoms = []
            where = f"{source}: layer '{lp.name}' ({lp.type})"
            try:
                if not lp.HasField("phase"):
                    lp.phase = self.phase
                if lp.propagate_down and len(lp.propagate_down) != len(lp.bottom):
                    raise CaffeError("propagate_down: specified neither 0 times nor once a bottom")
                log.info("layer_factory.hpp:77", f"Creating layer {lp.name}")
                layer = self._make_layer(lp)
                log.info("net.cpp:86", f"Creating Layer {lp.name}")
                tops, bottom_ids, top_ids, needs = [], [], [], []
                for index, name in enumerate(lp.bottom):
                    if name not in available:
                        raise CaffeError(
                            f"bottom {index}: unknown blob '{name}' (no layer before makes it, or it is taken)"
                        )
                    del available[name]
                    log.info("net.cpp:408", f"{lp.name} <- {name}")
                    bottom_ids.append(blob_ids[name])
                    bottoms.append(self._blob_list[blob_ids[name]])
                    forced = lp.propagate_down[index] if lp.propagate_down else None
                    needs.append(blob_needs[blob_ids[name]] if forced is None else forced)
                names = list(lp.top)
                if layer.auto_top and not isinstance(layer.top_count, type(None)):
                    least = layer.top_count if isinstance(layer.top_count, int) else layer.top_count[0]
                    names += ["(automatic)"] * (max(least, 1) - len(names))
                check_counts(type(layer), lp, len(bottoms), len(names))
                for index, name in enumerate(names):
                    in_place = index < len(lp.bottom) and name == lp.bottom[index]
                    if in_place:
                        log.info("net.cpp:369", f"{lp.name} -> {name} (in-place)")
                        if not layer.allows_in_place:
                            raise CaffeError(f"top {index} '{name}': this type cannot work in place")
                        blob_id = blob_ids[name]
                    else:
                        if name in blob_ids and name != "(automatic)":
                            raise CaffeError(f"top {index}: blob '{name}' is produced by more than one layer")
                        log.info("net.cpp:382", f"{lp.name} -> {name}")
                        blob_id = len(self._blob_list)
                        self._blob_list.append(Blob(device=self.device))
                        self._blob_names.append(name)
                        blob_needs.append(False)
                        if name != "(automatic)":
                            blob_ids[name] = blob_id
                        if lp.type == "Input":
                            self._inputs.append(blob_id)
                    if name != "(automatic)":
                        available[name] = None
                    top_ids.append(blob_id)
                    tops.append(self._blob_list[blob_id])
                self._layers.append(layer)
                self._layer_names.append(lp.name)
                self._layer_params.append(lp)
                self._bottoms.append(bottoms)
                self._tops.append(tops)
                self._layer_bottoms.append(bottom_ids)
                self._layer_tops.append(top_ids)
                self._seen_shapes.append(None)
                with torch.no_grad():
                    layer.setup(bottoms, tops)
                    self._reshape_layer(layer_id)
                self._set_loss_weights(layer, lp, tops)
                log.info("net.cpp:124", f"Setting up {lp.name}")
                for blob, weight in zip(tops, layer.loss_weights):
                    log.info("net.cpp:131", f"Top shape: {shape_text(blob.shape)}")
                    if weight:
                        log.info("net.cpp:134", f"    with loss weight {weight:g}")
                    memory += blob.count
                log.info("net.cpp:139", f"Memory required for data: {memory * 4}")
                if len(lp.param) > len(layer.blobs):
                    raise CaffeError(
                        f"param: {len(lp.param)} given, the layer has {len(layer.blobs)} parameter blob(s)"
                    )
                # BVLC looks at the file's own lr_mult here (a BatchNorm without three explicit zeros still forces the
                # backward pass below it), and at the layer's corrected ones when it learns.
                needs_backward = any(blob_needs[i] for i in bottom_ids)  # whatever propagate_down says
                layer.param_propagate_down = []
                for index in range(len(layer.blobs)):
                    wants = (lp.param[index].lr_mult if index < len(lp.param) else 1.0) != 0
                    needs_backward |= wants
                    layer.param_propagate_down.append(wants)
                for index in range(len(layer.blobs)):
                    self._append_param(layer_id, index, owners)
                self._needs_backward.append(needs_backward)
                self._bottom_needs.append(needs)
                if needs_backward:
                    for blob_id in top_ids:
                        blob_needs[blob_id] = True
            except _TROUBLE as error:
                raise _of_layer(where, lp.type, bottoms, error) from error

        self._prune_backward(blob_needs)
        if param.force_backward:
            for i, layer in enumerate(self._layers):
                self._needs_backward[i] = True
                for j in range(len(self._bottoms[i])):
                    self._bottom_needs[i][j] |= j not in layer.no_force_backward
                layer.param_propagate_down = [True] * len(layer.blobs)
        # In the end what nobody consumed is the net's output, in alphabetical order.
        self._outputs = [blob_ids[name] for name in sorted(available)]
        for name in sorted(available):
            log.info("net.cpp:244", f"This network produces output {name}")
        self._fused = [self._layers_after(i) for i in range(len(self._layers))]
        self._index()
        self.record_with(recorder_of(self.device))
        log.info("net.cpp:257", "Network initialization done.")

    def _make_layer(self, lp: caffe_pb2.LayerParameter) -> Layer:
        if lp.type not in registry:
            raise CaffeError(f"type: unknown layer type '{lp.type}' (known types: {', '.join(sorted(registry))})")
        # A copy: setup may change a layer's parameters (BatchNorm's lr_mult), while the file's own decide what needs
        # the backward pass.
        own = caffe_pb2.LayerParameter()
        own.CopyFrom(lp)
        cls = registry[lp.type]
        create = getattr(cls, "create", cls)
        return create(own, self.device)

    def _set_loss_weights(self, layer: Layer, lp: caffe_pb2.LayerParameter, tops: list[Blob]) -> None:
        # A loss without one has a single loss_weight, 1: with two tops BVLC then wants the other, too.
        weights = list(lp.loss_weight) or [1.0] * layer.is_loss
        if weights and len(weights) != len(tops):
            given = f"{len(lp.loss_weight)} given" if lp.loss_weight else "none given"
            alternative = "" if layer.is_loss else "none or "
            raise CaffeError(f"loss_weight: {given} for {len(tops)} top(s): give {alternative}one a top")
        layer.loss_weights = weights or [0.0] * len(tops)
        self._loss_tops.append([])
        for index, (blob, weight) in enumerate(zip(tops, layer.loss_weights)):
            if weight:
                # As in BVLC the weight lives in the top's diff, where backward finds it.
                blob.diff_memory.pin(torch.full(blob.shape, weight, device=self.device))
                self._loss_tops[-1].append((blob, index))

    def _append_param(self, layer_id: int, index: int, owners: dict[str, tuple[int, int, int]]) -> None:
        layer = self._layers[layer_id]
        given = layer.layer_param.param  # as the layer's setup left it
        spec = given[index] if index < len(given) else caffe_pb2.ParamSpec()
        name = spec.name
        lr = spec.lr_mult if spec.HasField("lr_mult") else None
        decay = spec.decay_mult if spec.HasField("decay_mult") else None
        blob = layer.blobs[index]
        if not name or name not in owners:
            if name:
                owners[name] = (len(self.learnable), layer_id, index)
            self.learnable.append(blob)
            self.lr_mults.append(lr)
            self.decay_mults.append(decay)
            self._learnable_names.append(f"{self._layer_names[layer_id]}[{index}]")
            return
        learnable_id, owner_layer, owner_index = owners[name]
        owner = self._layers[owner_layer].blobs[owner_index]
        owner_name = self._layer_names[owner_layer]
        log.info("net.cpp:467", f"Sharing parameters '{name}' owned by layer '{owner_name}', param index {owner_index}")
        permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
        if (owner.count != blob.count) if permissive else (owner.shape != blob.shape):
            raise CaffeError(
                f"param {index} '{name}': shape {blob.shape} does not fit {owner.shape} of layer '{owner_name}'"
            )
        for field, mine, theirs in (("lr_mult", lr, self.lr_mults), ("decay_mult", decay, self.decay_mults)):
            if mine is None:
                continue
            if theirs[learnable_id] is not None and theirs[learnable_id] != mine:
                raise CaffeError(f"param {index}: shared param '{name}' has mismatched {field}")
            theirs[learnable_id] = mine
        blob.share_data(owner)
        blob.share_diff(owner)

    def _prune_backward(self, blob_needs: list[bool]) -> None:
        """Backward runs only for layers between a loss and something that learns, as in BVLC."""
        under_loss: set[int] = set()
        skip: set[int] = set()
        # BVLC keys these sets by blob name; ids agree with names, automatic tops aside, which nobody reads.
        for i in reversed(range(len(self._layers))):
            contributes, skips = False, True
            for j, blob_id in enumerate(self._layer_tops[i]):
                if self._layers[i].loss_weights[j] or blob_id in under_loss:
                    contributes = True
                if blob_id not in skip:
                    skips = False
                if contributes and not skips:
                    break
            if self._needs_backward[i] and skips:
                self._needs_backward[i] = False
                self._bottom_needs[i] = [False] * len(self._bottom_needs[i])
            if not contributes:
                self._needs_backward[i] = False
            name = self._layer_names[i]
            if self._needs_backward[i]:
                log.info("net.cpp:200", f"{name} needs backward computation.")
            else:
                log.info("net.cpp:202", f"{name} does not need backward computation.")
            for j, blob_id in enumerate(self._layer_bottoms[i]):
                if contributes:
                    under_loss.add(blob_id)
                else:
                    self._bottom_needs[i][j] = False
                if not self._bottom_needs[i][j]:
                    skip.add(blob_id)

    def _layers_after(self, i: int) -> list[Layer]:
        """The layers after layer i that it can do together with its own work: they come next, work in place on its only
        top, keep nothing that a backward pass needs, and add nothing to the loss."""
        top, following = self._layer_tops[i], []
        for j in range(i + 1, len(self._layers)):
            in_place = len(top) == 1 and self._layer_bottoms[j] == self._layer_tops[j] == top
            kept = self._needs_backward[j] and self._layers[j].keeps_for_backward
            if not in_place or kept or any(self._layers[j].loss_weights):
                break
            following.append(self._layers[j])
        return following[: self._layers[i].fuses(following)]

    def _index(self) -> None:
        """pycaffe's dictionaries."""
        self._blob_dict = OrderedDict(zip(self._blob_names, self._blob_list))
        self._loss_weight_dict = OrderedDict((name, 0.0) for name in self._blob_names)
        for layer, ids in zip(self._layers, self._layer_tops):
            for blob_id, weight in zip(ids, layer.loss_weights):
                self._loss_weight_dict[self._blob_names[blob_id]] = weight
        # A Python layer shows as the user's own object.
        self._shown_layers = [getattr(layer, "user", layer) for layer in self._layers]
        self._layer_dict = OrderedDict(zip(self._layer_names, self._shown_layers))
        self._param_dict = OrderedDict(
            (name, layer.blobs) for name, layer in zip(self._layer_names, self._layers) if len(layer.blobs)
        )
        names = self._blob_names
        self._input_names, self._output_names = ([names[i] for i in ids] for ids in (self._inputs, self._outputs))
        self._top_names, self._bottom_names = (
            OrderedDict((name, [names[i] for i in ids]) for name, ids in zip(self._layer_names, of_layers))
            for of_layers in (self._layer_tops, self._layer_bottoms)
        )

    # Nobody assigns to these, as in pycaffe.

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """The blobs by name, in the order in which the layers make them."""
        return self._blob_dict

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """What each blob's sum counts in the loss, by the blob's name."""
        return self._loss_weight_dict

    @property
    def layers(self) -> list[python_layer.Layer]:
        """The layers in order."""
        return self._shown_layers

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

    # pycaffe's own names for these, which scripts use.

    @property
    def _blobs(self) -> list[Blob]:
        return self._blob_list

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self.blob_loss_weights.values())

    def _top_ids(self, i: int) -> list[int]:
        return list(self._layer_tops[i])

    def _bottom_ids(self, i: int) -> list[int]:
        return list(self._layer_bottoms[i])

    # -- running it --------------------------------------------------------------------------------------------------

    def _located(self, i: int, error: Exception) -> Exception:
        layer = self._layers[i]
        where = f"{self.source}: layer '{self._layer_names[i]}' ({layer.type})"
        return _of_layer(where, layer.type, self._bottoms[i], error)

    def _reshape_layer(self, i: int) -> None:
        layer, bottoms, tops = self._layers[i], self._bottoms[i], self._tops[i]
        # (The tops' shapes, too: whoever has changed one gets it back, as BVLC reshapes before each forward.)
        if layer.reshape_always or [b.shape for b in (*bottoms, *tops)] != self._seen_shapes[i]:
            layer.reshape(bottoms, tops)
            self._seen_shapes[i] = [b.shape for b in (*bottoms, *tops)]
            for blob, index in self._loss_tops[i] if i < len(self._loss_tops) else ():
                if blob.diff_memory.tensor.numel() < blob.count and not blob.g.any():
                    name = self._blob_names[self._layer_tops[i][index]]
                    log.warning(
                        "net.cpp:130",
                        f"{name} has grown: its loss_weight is lost and it no longer counts, as "
                        "in BVLC; make the net with its largest shape",
                    )

    def reshape(self) -> None:
        """Push the input blobs' shapes through the net."""
        with torch.no_grad():
            for i in range(len(self._layers)):
                try:
                    self._reshape_layer(i)
                except _TROUBLE as error:
                    raise self._located(i, error) from error

    def run_forward(self, start: int, end: int) -> torch.Tensor | None:
        """Layers start..end; returns the weighted loss they produced, left on its device (None: no loss)."""
        keep_freed_memory(self._passed)
        self._passed = True
        fed, forward = start, self._recorded_forward
        if self._records(start, end):
            memories = self._memories("data", params=True) + self._memories("diff", params=False)
            if forward.ready(self._recording_key(memories)):
                while fed <= end and self._feed(fed):
                    fed += 1
                if fed > end:
                    loss = forward.run(memories, lambda: self._forward_layers(start, end, fed))
                    return None if loss is None else loss.clone()  # the next pass overwrites it
                fed += 1  # what layer `fed` has brought lies elsewhere now
                forward.forget()
        else:
            forward.forget()
        self._recorded_backward.clear()
        return self._forward_layers(start, end, fed)

    def _feed(self, i: int) -> bool:
        """Layer i's feed."""
        try:
            return self._layers[i].feed(self._tops[i])
        except _TROUBLE as error:
            raise self._located(i, error) from error

    @precision.applied
    def _forward_layers(self, start: int, end: int, fed: int) -> torch.Tensor | None:
        """run_forward's work; layers in front of `fed` have been fed."""
        loss: torch.Tensor | None = None
        watched = self.debug_info or self._before_forward or self._after_forward
        done = start - 1
        with torch.no_grad():
            for i in range(start, end + 1):
                for callback in self._before_forward:
                    callback(i)
                layer, bottoms, tops = self._layers[i], self._bottoms[i], self._tops[i]
                try:
                    self._reshape_layer(i)
                    following = () if watched else self._fused[i]
                    if i <= done:
                        self._ran.add(i)
                        continue  # the layer before did this one's work
                    if i >= fed:
                        layer.feed(tops)
                    if following and i + len(following) <= end:
                        layer.forward_fused(following, bottoms, tops)
                        done = i + len(following)
                    else:
                        layer.forward(bottoms, tops)
                except _TROUBLE as error:
                    raise self._located(i, error) from error
                for blob, _ in self._loss_tops[i]:
                    term = torch.dot(blob.t.reshape(-1), blob.g.reshape(-1))
                    loss = term if loss is None else loss + term
                self._ran.add(i)
                if self.debug_info:
                    self._log_forward(i)
                for callback in self._after_forward:
                    callback(i)
        return loss

    def run_backward(self, start: int, end: int) -> None:
        """Layers start down to end, those that need it."""
        if self._records(end, start) and self._recorded_forward.made:
            memories, read = self._memories("diff", params=True), self._memories("data", params=True)
            # Gradients are written, or in further passes of an iteration added to what is there.
            # (What is there may be another tensor's still, to be copied first.)
            there = tuple((m.fresh, m.state()[1] is not None) for m in (blob.diff_memory for blob in self.learnable))
            backward = self._recorded_backward.setdefault(there, Recording(self._recorder))
            if backward.ready(self._recording_key(memories + read)):
                backward.run(memories, lambda: self._backward_layers(start, end), read)
                return
        self._backward_layers(start, end)

    @precision.applied
    def _backward_layers(self, start: int, end: int) -> None:
        """run_backward's work."""
        with torch.no_grad():
            for i in range(start, end - 1, -1):
                for callback in self._before_backward:
                    callback(i)
                if self._needs_backward[i]:
                    try:
                        self._layers[i].backward(self._tops[i], self._bottom_needs[i], self._bottoms[i])
                    except _TROUBLE as error:
                        raise self._located(i, error) from error
                    except (AttributeError, TypeError) as error:
                        if i in self._ran:
                            raise
                        raise self._located(i, CaffeError("backward before the first forward")) from error
                    if self.debug_info:
                        self._log_backward(i)
                for callback in self._after_backward:
                    callback(i)

    def release(self) -> None:
        """Let go of what the last passes computed, so that the next ones find that much memory free. What a user holds
        stays, and what layers without bottoms made, which need not make it again. A recorded pass needs its memory."""
        if self._recordable:
            return
        kept = {id(blob.diff_memory) for tops in self._loss_tops for blob, _ in tops}
        kept |= {id(b.data_memory) for bottoms, tops in zip(self._bottoms, self._tops) if not bottoms for b in tops}
        for blob in self._blob_list:
            for memory in (blob.data_memory, blob.diff_memory):
                if id(memory) not in kept and memory.host is None:
                    memory.tensor = None

    def record_with(self, recorder: Recorder | None) -> None:
        """Record whole passes, and replay them; None: don't. Nets on a GPU do, by CUDA graphs."""
        self._recorder = recorder
        self._recorded_forward, self._recorded_backward = Recording(recorder), {}
        self._recordable = recorder is not None and all(layer.recordable for layer in self._layers)
        for layer in self._layers:
            layer.recorded = self._recordable

    def _records(self, first: int, last: int) -> bool:
        """Whether a pass over these layers may be recorded: a whole one, with nobody to look on."""
        callbacks = self._before_forward, self._after_forward, self._before_backward, self._after_backward
        whole = first == 0 and last == len(self._layers) - 1
        return self._recordable and whole and not self.debug_info and not any(callbacks)

    def _memories(self, of: str, params: bool) -> list[Memory]:
        """All blobs' memories of "data" or "diff"; `params`: the parameters', too."""
        field = of + "_memory"
        found = [getattr(blob, field) for blob in self._blob_list]
        return found + [getattr(b, field) for layer in self._layers for b in layer.blobs] if params else found

    def _recording_key(self, memories: list[Memory]) -> tuple:
        """What must be as it was for a recording to hold: precision, shapes, and where arrays are that stay put."""
        return (context.precision, *(blob.shape for blob in self._blob_list), *(memory.place() for memory in memories))

    def _forward(self, start: int, end: int) -> float:
        """Layers start..end by number; the loss."""
        self._check_range(start, end)
        loss = self.run_forward(start, end)
        return 0.0 if loss is None else float(loss)

    def _backward(self, start: int, end: int) -> None:
        """Layers start down to end by number."""
        self._check_range(end, start)
        self.run_backward(start, end)

    def _check_range(self, *numbers: int) -> None:
        for number in numbers:
            if not 0 <= number < len(self._layers):
                raise CaffeError(f"{self.source}: layer number {number}: there are {len(self._layers)} layers")

    def _layer_index(self, name: str) -> int:
        if name not in self.layer_dict:
            raise ValueError(f"{self.source}: no layer is named '{name}'")  # the type that pycaffe raises
        return self._layer_names.index(name)

    def forward(
        self,
        blobs: list[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run layers start..end (names; default all), inputs given by name; returns outputs and `blobs` by name."""
        blobs = list(blobs or [])
        first = 0 if start is None else self._layer_index(start)
        last = len(self._layers) - 1 if end is None else self._layer_index(end)
        outputs = dict.fromkeys((self.outputs if end is None else self.top_names[end]) + blobs)
        if kwargs:
            if set(kwargs) != set(self.inputs):
                raise Exception("Input blob arguments do not match net inputs.")
            for name, array in kwargs.items():
                if array.shape[0] != self.blobs[name].shape[0]:
                    raise Exception("Input is not batch sized")
                self.blobs[name].data[...] = array
        self.run_forward(first, last)
        return {name: self.blobs[name].data for name in outputs}

    def backward(
        self,
        diffs: list[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run layers start down to end, output diffs given by name; returns input diffs and `diffs` by name."""
        diffs = list(diffs or [])
        first = len(self._layers) - 1 if start is None else self._layer_index(start)
        last = 0 if end is None else self._layer_index(end)
        wanted = dict.fromkeys((self.inputs if end is None else self.bottom_names[end]) + diffs)
        if kwargs:
            if set(kwargs) != set(self.outputs):
                raise Exception("Top diff arguments do not match net outputs.")
            for name, array in kwargs.items():
                if array.shape[0] != self.blobs[name].shape[0]:
                    raise Exception("Diff is not batch sized")
                self.blobs[name].diff[...] = array
        self.run_backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def forward_all(self, blobs: list[str] | None = None, **kwargs: np.ndarray) -> dict[str, np.ndarray]:
        """Forward over any number of inputs, a batch at a time; the last batch is padded with zeros."""
        if not kwargs:
            raise CaffeError(f"{self.source}: forward_all: no inputs given")
        collected: dict[str, list[np.ndarray]] = {name: [] for name in dict.fromkeys(self.outputs + list(blobs or []))}
        for batch in self._batch(kwargs):
            for name, values in self.forward(blobs=blobs, **batch).items():
                collected[name].extend(values.copy())
        total = len(next(iter(kwargs.values())))
        return {name: np.asarray(values)[:total] for name, values in collected.items()}

    def forward_backward_all(
        self, blobs: list[str] | None = None, diffs: list[str] | None = None, **kwargs: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Forward and backward over any number of inputs and output diffs, a batch at a time."""
        if not kwargs:
            raise CaffeError(f"{self.source}: forward_backward_all: neither inputs nor diffs given")
        outs: dict[str, list[np.ndarray]] = {name: [] for name in dict.fromkeys(self.outputs + list(blobs or []))}
        grads: dict[str, list[np.ndarray]] = {name: [] for name in dict.fromkeys(self.inputs + list(diffs or []))}
        forward = self._batch({n: kwargs[n] for n in self.inputs if n in kwargs})
        backward = self._batch({n: kwargs[n] for n in self.outputs if n in kwargs})
        for inputs, top_diffs in itertools.zip_longest(forward, backward, fillvalue={}):
            for name, values in self.forward(blobs=blobs, **inputs).items():
                outs[name].extend(values.copy())
            for name, values in self.backward(diffs=diffs, **top_diffs).items():
                grads[name].extend(values.copy())
        total = len(next(iter(kwargs.values())))
        return (
            {name: np.asarray(values)[:total] for name, values in outs.items()},
            {name: np.asarray(values)[:total] for name, values in grads.items()},
        )

    def _batch(self, arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
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
        layer = self._layers[0] if self._layers else None
        if layer is None or layer.type != "MemoryData":
            raise CaffeError(f"{self.source}: set_input_arrays needs MemoryData as the first layer")
        layer.set_arrays(data, labels)

    _set_input_arrays = set_input_arrays

    def before_forward(self, function: Callable[[int], None]) -> None:
        """Call function(layer index) before each layer's forward."""
        self._before_forward.append(function)

    def after_forward(self, function: Callable[[int], None]) -> None:
        """Call function(layer index) after each layer's forward."""
        self._after_forward.append(function)

    def before_backward(self, function: Callable[[int], None]) -> None:
        """Call function(layer index) before each layer's backward."""
        self._before_backward.append(function)

    def after_backward(self, function: Callable[[int], None]) -> None:
        """Call function(layer index) after each layer's backward."""
        self._after_backward.append(function)

    @property
    def waited(self) -> float:
        """Seconds that passes have waited for data layers so far, with nothing else to compute."""
        return sum(layer.waited for layer in self._layers)

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
                if values is None and id(target) not in owners:
                    continue
                if values is None:
                    raise CaffeError(f"{where}: blob {index} is not in the file")
                if not same_shape(target.shape, values.shape):
                    raise CaffeError(
                        f"{where}: blob {index}: shape {values.shape} does not fit the net's {target.shape} "
                        "(rename the layer to learn it from scratch)"
                    )
                target.load(values)

    def save(self, path: PathLike) -> None:
        """Write a .caffemodel that BVLC reads: protobuf, whatever the name."""
        self._save(path, hdf5=False)

    def _save(self, path: PathLike, hdf5: bool) -> None:
        path = os.fsdecode(path)
        owners = {id(b.data_memory): b for b in self.learnable}
        arrays = {
            # HDF5 holds a shared parameter once, at its owner; the binary format at every layer.
            name: [None if hdf5 and owners.get(id(b.data_memory), b) is not b else b.data for b in blobs]
            for name, blobs in self.params.items()
        }
        caffemodel.write_caffemodel(path, self.to_proto(), arrays, hdf5=hdf5)

    def save_hdf5(self, path: PathLike) -> None:
        """Write the weights in HDF5, whatever the name."""
        self._save(path, hdf5=True)

    def load_hdf5(self, path: PathLike) -> None:
        """Copy parameters from an HDF5 weights file."""
        path = os.fsdecode(path)
        if not hdf5.is_hdf5(path):
            raise CaffeError(f"{path}: not an HDF5 file")
        self.copy_from(path)

    def reduce_weights(self, precision: str, least: int = 1 << 24) -> list[str]:
        """From now on compute inner products that have `least` weights or more with these rounded to "bf16", or to
        "int8" with a scale an output; returns the layers' names. For scoring: a forward pass has a half or a quarter to
        read, while the blobs stay as they are. CaffeError outside of the TEST phase, or on a GPU."""
        if precision not in PRECISIONS:
            raise CaffeError(f"{self.source}: precision '{precision}': one of {', '.join(PRECISIONS)} expected")
        if self.phase != TEST or self.device != "cpu":
            raise CaffeError(f"{self.source}: precision '{precision}' is for nets of the TEST phase on a CPU")
        chosen = [
            name
            for name, layer in zip(self._layer_names, self._layers)
            if layer.type == "InnerProduct" and layer.blobs[0].count >= least
        ]
        for name in chosen:
            self.layer_dict[name].precision = precision
        return chosen

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net as BVLC writes it into a caffemodel (filtered, split), without its blobs."""
        param = caffe_pb2.NetParameter(name=self.name)
        for layer in self._layers:
            param.layer.add().CopyFrom(layer.layer_param)
            param.layer[-1].ClearField("blobs")
        return param

    def share_with(self, other: Net) -> None:
        """Use the other net's parameters in same-named layers: one memory from then on."""
        if not isinstance(other, Net):
            raise TypeError(f"share_with takes a Net, not {other!r}")
        layers = self._first_of_each_name()
        for name, layer in zip(other._layer_names, other._layers):
            if name not in layers:
                log.info("net.cpp:678", f"Ignoring source layer {name}")
                continue
            mine = layers[name].blobs
            if len(mine) != len(layer.blobs):
                raise CaffeError(f"{self.source}: layer '{name}': {len(mine)} blob(s) here, {len(layer.blobs)} there")
            for index, (target, source) in enumerate(zip(mine, layer.blobs)):
                if target.shape != source.shape:
                    raise CaffeError(
                        f"{self.source}: layer '{name}': blob {index}: cannot share {source.shape} with {target.shape}"
                    )
                target.share_data(source)

    def _first_of_each_name(self) -> dict[str, Layer]:
        """The layers by name: of several with one name, BVLC gives the first one what a file or another net has."""
        return dict(reversed(list(zip(self._layer_names, self._layers))))

    # -- debug_info --------------------------------------------------------------------------------------------------

    def _log_forward(self, i: int) -> None:
        name = self._layer_names[i]
        for blob_id in self._layer_tops[i]:
            log.info(
                "net.cpp:593",
                f"    [Forward] Layer {name}, top blob {self._blob_names[blob_id]} "
                f"data: {_mean_abs(self._blob_list[blob_id].t):g}",
            )
        for index, blob in enumerate(self._layers[i].blobs):
            log.info(
                "net.cpp:605",
                f"    [Forward] Layer {name}, param blob {self._param_name(i, index)} data: {_mean_abs(blob.t):g}",
            )

    def _log_backward(self, i: int) -> None:
        name = self._layer_names[i]
        for blob_id, wanted in zip(self._layer_bottoms[i], self._bottom_needs[i]):
            if wanted:
                log.info(
                    "net.cpp:621",
                    f"    [Backward] Layer {name}, bottom blob {self._blob_names[blob_id]} "
                    f"diff: {_mean_abs(self._blob_list[blob_id].g):g}",
                )
        for index, blob in enumerate(self._layers[i].blobs):
            if self._layers[i].param_propagate_down[index]:
                log.info("net.cpp:632", f"    [Backward] Layer {name}, param blob {index} diff: {_mean_abs(blob.g):g}")

    def log_norms(self) -> None:
        """debug_info's last line of a backward pass: L1 and L2 norms of all parameters' data and diffs."""
        with torch.no_grad():
            pairs = [
                tuple(sum(float(norm(t).sum()) for t in tensors) for norm in (torch.Tensor.abs, torch.Tensor.square))
                for tensors in ([b.t for b in self.learnable], [b.g for b in self.learnable])
            ]
        (data1, data2), (diff1, diff2) = pairs
        log.error(
            "net.cpp:721",
            f"    [Backward] All net params (data, diff): L1 norm = ({data1:g}, {diff1:g}); "
            f"L2 norm = ({math.sqrt(data2):g}, {math.sqrt(diff2):g})",
        )

    def _param_name(self, i: int, index: int) -> str:
        given = self._layers[i].layer_param.param
        return given[index].name if index < len(given) and given[index].name else str(index)

    def close(self) -> None:
        """Stop data layers' threads (also done when the net is garbage collected)."""
        for layer in self._layers:
            layer.close()


# What a layer may raise, PyTorch's refusals among it.
_TROUBLE = (CaffeError, RuntimeError, ArithmeticError, MemoryError, IndexError, ValueError)


def _of_layer(where: str, type_name: str, bottoms: list[Blob], error: Exception) -> Exception:
    """What a layer raised, as an error that says which one it was. Exceptions of users' own code (their layers, and the
    modules these are imported from) stay theirs."""
    if not isinstance(error, CaffeError) and type_name == "Python":
        raise error
    text = " ".join(str(error).split())
    found = named(error)
    if found is not None:
        return type(found)(f"{where}: {found}")
    return CaffeError(f"{where}: cannot be computed on bottoms of {[b.shape for b in bottoms]}: {text[:300]}")


def _constructor_arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """pycaffe's two constructors, told apart by their second argument; TypeError for anything else. As there, a path
    may be bytes and a number a bool."""
    given: dict[str, Any] = {"level": 0, "stages": None, "weights": None}
    names = ["network_file", "phase", "level", "stages", "weights"]
    if len(args) > 1 and isinstance(args[1], (str, bytes, Path)):
        names = ["network_file", "weights", "phase"]
    if len(args) > len(names) or not set(kwargs) <= set(names[len(args) :]):
        raise TypeError(f"Net takes {', '.join(names)} (or network_file, weights, phase)")
    given.update(zip(names, args), **kwargs)
    paths = (str, bytes, Path)
    kinds = {"network_file": paths, "phase": int, "level": int, "weights": (*paths, type(None))}
    for name, kind in kinds.items():
        if name not in given:
            raise TypeError(f"Net: {name} is missing")
        if not isinstance(given[name], kind):
            raise TypeError(f"Net: {name} is {given[name]!r}")
        if given[name] is not None:
            given[name] = int(given[name]) if kind is int else os.fsdecode(given[name])
    given["stages"] = [given["stages"][i] for i in range(len(given["stages"]))] if given["stages"] is not None else []
    if given["phase"] not in (TRAIN, TEST):
        raise CaffeError(f"phase {given['phase']}: neither caffe.TRAIN nor caffe.TEST")
    return given


def same_shape(target: tuple[int, ...], source: tuple[int, ...]) -> bool:
    """Whether a stored blob fits: equal shapes, or the four legacy sizes (num, channels, height, width) of an old file
    equal to the target's padded in front with ones, as Blob::ShapeEquals."""
    if target == source:
        return True
    return len(source) == 4 and len(target) <= 4 and (1,) * (4 - len(target)) + tuple(target) == tuple(source)


def _mean_abs(tensor: torch.Tensor) -> float:
    return float(tensor.abs().mean()) if tensor.numel() else 0.0


def layer_type_list() -> list[str]:
    """Every layer type the engine has, sorted."""
    return sorted(registry)
