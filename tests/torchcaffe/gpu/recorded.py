"""A tape that stands in for a CUDA graph, and solvers and nets that record their passes with it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import torchcaffe as caffe
from torchcaffe.core.memory import ARRAY, ZERO, Memory
from torchcaffe.gpu.passes import RecordedPasses
from torchcaffe.gpu.update import RecordedUpdate


def tensors(result: object) -> list[torch.Tensor]:
    """Those in what an operation returns (tree_leaves takes longer than the operation)."""
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in tensors(part)]
    return [result] if isinstance(result, torch.Tensor) else []


class Tape(TorchDispatchMode):
    """Takes down every operation on tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function != torch.ops.aten._local_scalar_dense.default:  # a look, which code for a GPU never takes
            self.operations.append((function, args, kwargs or {}, tensors(result)))
        return result

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, results in self.operations:
                for old, new in zip(results, tensors(function(*args, **kwargs))):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


Recorder = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


def tape(work):
    with Tape() as taken:
        result = work()
    return result, taken.replay


class Capture(TorchDispatchMode):
    """Computes nothing, as a GPU that is recording: new tensors hold NaN, others what they held before."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        originals = {}

        def spared(value):
            copy = value.clone()
            originals[id(copy)] = value, copy
            return copy

        def given(argument, value):
            written = argument.alias_info is not None and argument.alias_info.is_write
            return tree_map_only(torch.Tensor, spared, value) if written else value

        arguments = function._schema.arguments
        kwargs = {a.name: given(a, kwargs[a.name]) for a in arguments if a.name in (kwargs or {})}
        result = function(*map(given, arguments, args), **kwargs)
        fresh = [output.alias_info is None for output in function._schema.returns]
        if all(fresh):
            tree_map_only(torch.Tensor, lambda t: t.fill_(math.nan) if t.is_floating_point() else t, result)
        return tree_map_only(torch.Tensor, lambda t: originals.get(id(t), (t,))[0], result)


def failing(number):
    """A recorder that fails at the end of its recording of this number, from 1."""
    pieces = itertools.count(1)

    def record(work):
        if next(pieces) != number:
            return tape(work)
        with Capture():
            work()
        raise RuntimeError("operation not permitted when stream is capturing")

    return record


NET = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 20 mean_file: "mean.binaryproto" scale: 0.02 }
  data_param { source: "lmdb" batch_size: 5 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 20 mean_value: 100 scale: 0.02 }
  data_param { source: "lmdb" batch_size: 3 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { moving_average_fraction: 0.9 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" lrn_param { local_size: 3 alpha: 0.1 } }
layer { name: "max" type: "Pooling" bottom: "norm" top: "max" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "ave" type: "Pooling" bottom: "norm" top: "ave" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "both" type: "Concat" bottom: "max" bottom: "ave" top: "both" }
layer { name: "ip" type: "InnerProduct" bottom: "both" top: "ip"
  inner_product_param { num_output: 7 weight_filler { type: "gaussian" std: 0.05 } } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "ip" top: "ip" }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.05 gamma: 0.5 stepsize: 6 momentum: 0.9 weight_decay: 0.01
max_iter: 20 random_seed: 4 snapshot_prefix: "s" test_iter: 4 test_interval: 5 """


def make(settings: str = 'lr_policy: "step"', recorder=None):
    """A solver with SOLVER's fields but for those in `settings`, as on a GPU with a recorder: bytes are cropped on the
    device, passes and updates recorded."""
    given = re.findall(r"(\w+):", settings)
    rest = [field for field in re.findall(r"\w+: \S+", SOLVER) if field.partition(":")[0] not in given]
    Path("solver.prototxt").write_text(" ".join([*rest, settings]))
    solver = caffe.get_solver("solver.prototxt")
    if recorder is not None:
        for net in (solver.net, *solver.test_nets):
            record(net, recorder)
            net.layers[0].pack_for_device()
        solver.update = RecordedUpdate(solver.rule, recorder)
    return solver


def record(net, recorder) -> None:
    """Let a net's passes be recorded."""
    net.passes = RecordedPasses(net.graph, recorder)


def made(net) -> tuple[bool, int]:
    """Whether the last forward pass was recorded or replayed, and how many kinds of backward passes are recorded."""
    passes = net.passes
    if not isinstance(passes, RecordedPasses):
        return False, 0
    return passes.recorded_forward.made, sum(backward.made for backward in passes.recorded_backward.values())


def values(memory: Memory, shape: tuple[int, ...]) -> np.ndarray:
    """What a memory holds, without a look that would change where."""
    if memory.where is ZERO:
        return np.zeros(shape, np.float32)
    if memory.where is ARRAY:
        return memory.array.reshape(shape).copy()
    tensor = memory.tensor if memory._stand_in is None else memory._stand_in
    return tensor.detach().cpu().numpy().reshape(shape).copy()


def everything(*nets) -> dict[tuple, np.ndarray]:
    """Data and diff of every blob and parameter."""
    found = {}
    for index, net in enumerate(nets):
        blobs = {name: blob for name, blob in zip(net._blob_names, net._blob_list)}
        blobs.update(
            ((name, i), b) for name, layer in zip(net._layer_names, net.layers) for i, b in enumerate(layer.blobs)
        )
        for name, blob in blobs.items():
            found[index, name, "data"] = values(blob.data_memory, blob.shape)
            found[index, name, "diff"] = values(blob.diff_memory, blob.shape)
    return found


def assert_all_same(eager, recorded, label="", tolerance: float = 0):
    """tolerance: of an array's distance from the other one, relative to its size; 1e-6 is as good as 0."""
    assert eager.keys() == recorded.keys()
    for key, wanted in eager.items():
        found, finite = recorded[key], np.isfinite(wanted)
        close = (
            tolerance
            and np.array_equal(np.isfinite(found), finite)
            and (np.linalg.norm((found - wanted)[finite]) <= tolerance * np.linalg.norm(wanted[finite]) + 1e-6)
        )
        if not close:
            np.testing.assert_array_equal(found, wanted, err_msg=f"{label} {key}")


def parameters(solver) -> list[np.ndarray]:
    return [blob.data.copy() for layer in solver.net.layers for blob in layer.blobs]


def assert_same(one, two):
    for a, b in zip(parameters(one), parameters(two)):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one.rule.arrays(), two.rule.arrays()):
        np.testing.assert_array_equal(a, b)
