"""The guard against divergence: a run ends before NaN or infinity reaches a snapshot.

BVLC goes on after a NaN, and corrupts its memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchcaffe.base.errors import Diverged
from torchcaffe.core.blob import Parameter
from torchcaffe.solvers import snapshots

if TYPE_CHECKING:
    from torchcaffe.nets.net import Net
    from torchcaffe.solvers.solver import Solver

Statistics = list[tuple[Parameter, Tensor]]  # parameters that a forward pass changes, and their values


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


class Guard:
    """Looks at the losses of a run. On a GPU it doesn't look in each iteration, but it adds them up."""

    def __init__(self, net: Net):
        self._written = [node.layer.blobs[i] for node in net.nodes for i in node.layer.written_by_forward]
        self._unseen: Any = None  # the sum of the losses since the last look
        self._statistics: Statistics = []

    def start(self) -> None:
        """Begin a run."""
        self._unseen = None

    def before(self) -> None:
        """Remember the running statistics before an iteration whose loss is looked at."""
        self._statistics = [(blob, blob.t.clone()) for blob in self._written]

    def after(self, solver: Solver, loss: Any, look: bool) -> None:
        """Raise Diverged unless this iteration's loss, and the sum since the last look, are finite (with debug_nan the
        gradients, too)."""
        unseen = self._unseen
        if not look:
            self._unseen = loss if unseen is None else unseen + loss
            return
        bad = ""
        if not math.isfinite(float(loss)):
            bad = f"the loss is {float(loss):g}"
        elif unseen is not None and not math.isfinite(float(unseen)):
            bad = "the loss of an earlier iteration, not looked at one by one, was not finite"
        elif solver.debug_nan and not all(_finite(b.g) for b in solver.net.learnable if b.has_diff()):
            bad = "a gradient is not finite"
        self._unseen = None
        if solver.agreed(bool(bad)):
            self._stop(solver, bad or "in another process")
        self._statistics = []

    def _stop(self, solver: Solver, bad: str) -> None:
        """Snapshot the state before this iteration, repeat the iteration to find the layer, raise Diverged."""
        said = f"{solver.source}: iteration {solver.iter}: {bad}: training has diverged (lower base_lr?)"
        self._put_back(solver)
        refuse_broken(solver, said)
        if solver.p.HasField("snapshot_prefix"):
            solver.snapshot()
            said += f"; snapshot of the state before it: {solver.snapshot_name('.solverstate')}"
        self._put_back(solver)
        found = first_bad(solver.net, solver.p.iter_size)
        raise Diverged(f"{said}; first in {found or 'no layer when it is repeated'}")

    def _put_back(self, solver: Solver) -> None:
        snapshots.go_to(solver.stateful, solver.places())
        for blob, values in self._statistics:
            blob.t = values
            blob.clear_diff()


def refuse_broken(solver: Solver, said: str) -> None:
    """Raise Diverged where weights or history are not finite: their snapshot would replace the last good one."""
    broken = ""
    for record, history in zip(solver.net.graph.parameters, solver.rule.history):
        if not _finite(record.blob.t):
            broken = record.name
        elif not all(map(_finite, history)):
            broken = f"the history of {record.name}"
        if broken:
            break
    if solver.agreed(bool(broken)):
        where = broken or "weights in another process"
        raise Diverged(
            f"{said}; the update before has broken {where}, so go on from the last snapshot"
            + ("" if solver.debug_nan else ", with debug_nan to look at every gradient, too")
        )


def first_bad(net: Net, iter_size: int) -> str:
    """Repeat an iteration layer by layer: the first layer, and its blob, that is not finite; "" if none."""
    net.clear_param_diffs()
    for _ in range(iter_size):
        for i, node in enumerate(net.nodes):
            net.run_forward(i, i)
            for name, blob in zip(net.top_names[node.name], node.tops):
                if not _finite(blob.t):
                    return f"layer '{node.name}' ({node.layer.type}): top blob '{name}'"
        for i, node in reversed(list(enumerate(net.nodes))):
            net.run_backward(i, i)
            where = f"layer '{node.name}' ({node.layer.type}): gradient of its"
            for index, parameter in enumerate(node.layer.blobs):
                if parameter.has_diff() and not _finite(parameter.g):
                    return f"{where} parameter blob {index}"
            for name, blob, wanted in zip(net.bottom_names[node.name], node.bottoms, node.bottom_needs):
                if node.needs_backward and wanted and not _finite(blob.g):
                    return f"{where} bottom blob '{name}'"
    return ""
