"""Net: pycaffe's Net on PyTorch, the surface of a graph (builder.py), its passes and its weights."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import torchcaffe.ops  # noqa: F401  (registers every layer type)
from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.base.malloc import keep_freed_memory
from torchcaffe.core import python_layer
from torchcaffe.core.blob import Arrays, Blob, Blobs, BlobVec
from torchcaffe.core.layer import registry
from torchcaffe.formats import hdf5, upgrade
from torchcaffe.formats.files import PathLike
from torchcaffe.nets import builder, weights
from torchcaffe.nets.graph import Callback
from torchcaffe.nets.passes import Passes
from torchcaffe.proto import caffe_pb2
from torchcaffe.proto.caffe_pb2 import NetParameter, NetState

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST
Names = list[str] | None
Rows = dict[str, list[np.ndarray]]

_PATHS = (str, bytes, Path)  # as in pycaffe, a path may be bytes and a number a bool


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

    def _build(self, param: NetParameter, source: str) -> None:
        keep_freed_memory(False)
        self.graph = graph = builder.build(param, source)
        self.passes = Passes(graph)
        self.source, self.name, self.phase, self.device = graph.source, graph.name, graph.phase, graph.device
        self.nodes = graph.nodes
        self.learnable = [record.blob for record in graph.parameters]
        # What the read-only properties return. Scripts use some of these names, which are pycaffe's, too.
        nodes, tops = graph.nodes, graph.tops
        self._blob_list, self._blob_names = [top.blob for top in tops], [top.name for top in tops]
        self._blob_loss_weights = [top.loss_weight for top in tops]
        self._inputs, self._outputs = graph.inputs, graph.outputs
        self._layer_names = [node.name for node in nodes]
        self._layers: list[python_layer.Layer] = [getattr(node.layer, "user", node.layer) for node in nodes]
        self._layer_dict = OrderedDict(zip(self._layer_names, self._layers))
        self._blob_dict = OrderedDict(zip(self._blob_names, self._blob_list))
        self._loss_weight_dict = OrderedDict(zip(self._blob_names, self._blob_loss_weights))
        self._param_dict = OrderedDict((node.name, node.layer.blobs) for node in nodes if node.layer.blobs)
        self._top_names = OrderedDict((node.name, self._names(node.top_ids)) for node in nodes)
        self._bottom_names = OrderedDict((node.name, self._names(node.bottom_ids)) for node in nodes)
        self._input_names, self._output_names = self._names(self._inputs), self._names(self._outputs)
        log.info("net.cpp:257", "Network initialization done.")
        for wrap in context.on_made:
            wrap(self)

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

    def reshape(self) -> None:
        """Push the input blobs' shapes through the net."""
        self.passes.reshape()

    def run_forward(self, start: int, end: int) -> Tensor | float:
        """Run layers start..end; returns the weighted loss they produced, left on its device (0.0 without a loss)."""
        return self.passes.forward(start, end)

    def run_backward(self, start: int, end: int) -> None:
        """Run layers start down to end, those that need it."""
        self.passes.backward(start, end)

    def _forward(self, start: int, end: int) -> float:
        """Run layers start..end by number; returns the loss."""
        self._check_range(start, end)
        return float(self.run_forward(start, end)) + 0.0  # never -0

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
            blob.diff_memory.clear()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Give a net that starts with a MemoryData layer its records: (N, C, H, W) and (N, 1, 1, 1), float32."""
        if not self.nodes:
            raise CaffeError(f"{self.source}: set_input_arrays: the net has no layers")
        try:
            self.nodes[0].layer.set_arrays(data, labels)
        except CaffeError as error:
            raise CaffeError(f"{self.source}: {error}") from None

    _set_input_arrays = set_input_arrays

    def before_forward(self, function: Callback) -> None:
        """Call function(layer index) before each layer's forward."""
        self.graph.before_forward.append(function)

    def after_forward(self, function: Callback) -> None:
        """Call function(layer index) after each layer's forward."""
        self.graph.after_forward.append(function)

    def before_backward(self, function: Callback) -> None:
        """Call function(layer index) before each layer's backward."""
        self.graph.before_backward.append(function)

    def after_backward(self, function: Callback) -> None:
        """Call function(layer index) after each layer's backward."""
        self.graph.after_backward.append(function)

    @property
    def waited(self) -> float:
        """The seconds that passes have waited for data layers so far, with nothing else to compute."""
        return sum(node.layer.waited for node in self.nodes)

    # -- weights -----------------------------------------------------------------------------------------------------

    def copy_from(self, path: PathLike) -> None:
        """Copy the parameters of same-named layers from a .caffemodel (protobuf or HDF5); others are left alone."""
        weights.copy_from(self.graph, path)

    def save_hdf5(self, path: PathLike) -> None:
        """Write the weights in HDF5, whatever the name."""
        self.save(path, hdf5=True)

    def save(self, path: PathLike, hdf5: bool = False) -> None:
        """Write a .caffemodel that BVLC reads: protobuf, whatever the name, or HDF5."""
        weights.save(self.graph, path, hdf5)

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
        return [node.name for node in self.nodes if node.layer.round_weights(precision, least)]

    def to_proto(self) -> NetParameter:
        """Return the net as BVLC writes it into a caffemodel (filtered, split), without its blobs."""
        return weights.to_proto(self.graph)

    def share_with(self, other: Net) -> None:
        """Use the other net's parameters in same-named layers: both nets have one memory from then on."""
        if not isinstance(other, Net):
            raise TypeError(f"share_with takes a Net, not {other!r}")
        weights.share(self.graph, other.graph)

    def loss_term(self, name: str, value: float) -> str:
        """What BVLC's log adds to a value of an output: its part of the loss, if it has one."""
        weight = np.float32(self.blob_loss_weights[name])
        return f" (* {weight:g} = {weight * value:g} loss)" if weight else ""

    def log_outputs(self, where: str, prefix: str, outputs: Arrays) -> None:
        """Log values of the net's outputs, as BVLC's solver does."""
        flat = ((name, value) for name, values in outputs.items() for value in values.reshape(-1))
        for index, (name, value) in enumerate(flat):
            log.info(where, f"{prefix} #{index}: {name} = {value:g}{self.loss_term(name, value)}")

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


def layer_type_list() -> list[str]:
    """Every layer type the engine has, sorted."""
    return sorted(registry)
