"""Every layer type under a recording (see tests/test_recording.py), and on a pretended GPU, never waiting for it."""

from __future__ import annotations

import contextlib
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ilgnet.bench import benchmark
from ilgnet.nets import emit
from tests.torchcaffe.gpu.recorded import assert_all_same, make, tape
from tests.torchcaffe.gpu.scripts import TYPES, made_ready, rows_of, run_script
from torchcaffe.nets.passes import Passes
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers.solver import get_solver

pytestmark = pytest.mark.usefixtures("one_thread", "quiet")


@pytest.mark.parametrize("type_", TYPES)
def test_every_layer_type_replays_as_it_runs_and_its_blobs_are_up_to_date_after_each_pass(type_):
    for row in rows_of(type_, 3):
        for number, (eager, replayed) in enumerate(zip(run_script(row, None), run_script(row, tape))):
            assert_all_same(eager, replayed, f"{row.id} {number}")


# What PyTorch does not compute on its device without values.
NO_META = {
    torch.ops.aten.batch_norm_update_stats.default: lambda x, *_: (x.new_empty(x.shape[1]), x.new_empty(x.shape[1])),
    torch.ops.aten._fused_sgd_.default: lambda *_: None,
}


class Device(TorchDispatchMode):
    """Stands in for a GPU that is recording: the host must not look at its values, nor bring any."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.dim():
                raise RuntimeError(f"{function} takes values from the host")
        if function in NO_META:
            return NO_META[function](*args)
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError(f"{function}: the host looks at values")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_values_from_the_host():
    """Neither by the functions that PyTorch's own device without values does not show."""
    with contextlib.ExitStack() as stack:
        for name in ("torch.tensor", "torch.Tensor.new_tensor"):
            stack.enter_context(mock.patch(name, side_effect=RuntimeError(f"{name} brings values from the host")))
        yield


def moved(net) -> None:
    """Let a net's tensors lie on a device without values, as if it had been made there."""

    def move(value):
        if isinstance(value, torch.Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
            return [move(v) for v in value]
        return value

    net.device = "meta"
    blobs = [*net._blob_list, *(b for node in net.nodes for b in node.layer.blobs)]
    for blob in blobs:
        blob.device = "meta"
    for memory in {id(m): m for blob in blobs for m in (blob.data_memory, blob.diff_memory)}.values():
        memory.tensor, memory.array, memory._stand_in = move(memory.tensor), None, move(memory._stand_in)
    for layer in (node.layer for node in net.nodes):
        layer.device = "meta"
        for name, value in vars(layer).items():
            if name != "blobs":
                setattr(layer, name, move(value))


def pass_on_device(net, backward: bool = True) -> None:
    last = len(net.layers) - 1
    moved(net)
    with Device(), no_values_from_the_host():
        Passes.forward(net.passes, 0, last, last + 1)
        if backward:
            Passes.backward(net.passes, last, 0)


@pytest.mark.parametrize("type_", TYPES)
def test_no_layer_type_waits_for_a_gpu(type_):
    for row in rows_of(type_, 100):
        with made_ready(row) as (net, job, fill):
            if all(node.layer.recordable for node in net.nodes):
                fill(1)
                net.forward()
                try:
                    pass_on_device(net, row.backward)
                except RuntimeError as error:
                    raise AssertionError(row.id) from error


def update_on_device(solver) -> None:
    rule = solver.rule
    for group in rule.groups():
        group.history = [[torch.empty_like(array, device="meta") for array in arrays] for arrays in group.history]
    with Device(), torch.no_grad(), no_values_from_the_host():
        rule.update(0.1, 1.0, 0)


def test_training_from_records_never_waits_for_a_gpu(folder):
    solver = make(recorder=lambda work: (work(), lambda: None))  # bytes on the device
    solver.step(1)
    pass_on_device(solver.net)
    update_on_device(solver)


@pytest.mark.parametrize("variant", ["v1", "v1bn"])
def test_training_ilgnet_never_waits_for_a_gpu(variant):
    net = benchmark.training_net(emit.Choice(variant=variant, batch_size=2, crop=96))
    param = caffe_pb2.SolverParameter(net_param=net, base_lr=1e-6, lr_policy="fixed", momentum=0.9, weight_decay=2e-4)
    solver = get_solver(param)
    solver.step(1)
    pass_on_device(solver.net)
    update_on_device(solver)
