"""Solvers: Caffe's training loop. Each of its parts has a module of its own."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import float32

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Arrays, Tensors
from torchcaffe.formats import hdf5, solverstate, upgrade
from torchcaffe.formats.files import PathLike
from torchcaffe.nets.net import Net
from torchcaffe.proto import format_text
from torchcaffe.proto.caffe_pb2 import SolverParameter
from torchcaffe.random import streams
from torchcaffe.solvers import making, rules, schedule, snapshots
from torchcaffe.solvers.divergence import Guard, refuse_broken
from torchcaffe.solvers.losses import SmoothedLoss

registry: dict[str, type[Solver]] = {}
_REQUESTS = (None, "snapshot", "stop")  # the later one wins among processes


class Solver:
    """pycaffe's Solver: net, test_nets, iter, step, solve, restore, snapshot. A subclass for each update rule.

    Solver(path) reads a solver prototxt. Raises CaffeError naming file and field for bad input.

    Attributes: `rule` the update rule, with the history; `loss` the smoothed loss; `waiting` the share of the time
    between the last two displays in which the train net had no data."""

    type = ""

    def __init_subclass__(cls) -> None:
        registry[cls.type] = cls

    def __init__(self, param_file: PathLike | SolverParameter, source: str = "solver"):
        """`source` names a solver that is given as a message (upgraded) in errors."""
        p, self.source = _read(param_file, source)
        self.p = self.param = p
        log.info("solver.cpp:45", "Initializing solver from parameters: \n" + format_text(p))
        rule = rules.registry[self.type]
        try:
            _check(p)
            rule.check(p)
        except CaffeError as error:
            raise CaffeError(f"{self.source}: {error}") from None
        if p.random_seed >= 0:
            streams.set_random_seed((p.random_seed + context.solver_rank) & 0xFFFFFFFF)
        self._iter = 0
        self.lr_step = 0  # the step of lr_policy that the last update had reached
        self._net = making.train_net(p, self.source)
        self._test_nets = making.test_nets(p, self.source)
        self._callbacks: list[tuple[Callable, Callable]] = []
        # Asked after every iteration and before every test batch: "stop", "snapshot" or None.
        self.requested_action: Callable[[], str | None] = lambda: None
        self._deferred: str | None = None  # what was asked in a test, for all processes together to do after it
        self._stopped = False
        # Of several processes, whether it holds in any; each asks at the same point.
        self.agreed: Callable[[int], int] = int
        self.debug_nan = False  # also look at every gradient before each update
        self.stateful = snapshots.stateful_layers(self)
        self._places: Arrays | None = None  # at the start of this iteration
        self.snapshot_of: int | None = None  # the iteration of the last snapshot that was taken or restored
        self._waited = 0.0  # seconds, at the last display
        self.waiting = 0.0
        self.loss = SmoothedLoss(p.average_loss)
        self._guard = Guard(self.net)
        self.rule = rule(p, self.net.graph.parameters)
        self.update: Callable[[float, float, int], None] = self.rule.update
        for wrap in context.on_made:
            wrap(self)
        log.info("solver.cpp:57", "Solver scaffolding done.")

    @property
    def net(self) -> Net:
        """The train net."""
        return self._net

    @property
    def test_nets(self) -> list[Net]:
        """The test nets."""
        return self._test_nets

    @property
    def iter(self) -> int:
        """How often the weights have been updated."""
        return self._iter

    @property
    def lr(self) -> float:
        """The learning rate of the current iteration."""
        return schedule.learning_rate(self.p, self._iter, self.lr_step)[0]

    # -- the loop ----------------------------------------------------------------------------------------------------

    def step(self, iterations: int) -> None:
        """Run that many iterations: test and snapshot where the solver file says so."""
        if not isinstance(iterations, (int, np.integer)):
            raise TypeError(f"step: {iterations!r} is not a number of iterations")
        self._run(self.iter + int(iterations))

    def _run(self, stop: int) -> None:
        """Iterate until `stop`, or until a stop is requested."""
        self.loss.start()
        self._guard.start()
        self._timer, self._last_display = time.perf_counter(), self.iter
        while self._iter < stop and self._iterate():
            pass

    def _iterate(self) -> bool:
        """One iteration: tests that are due, passes, update, the snapshot that is due. Returns False where a stop was
        requested."""
        p, on_cpu = self.p, self.net.device == "cpu"
        display = self._due(p.display)
        # A GPU is not kept waiting in each iteration, but in those that are displayed or snapshots follow.
        look = on_cpu or self.debug_nan or display or bool(p.snapshot) and (self.iter + 1) % p.snapshot == 0
        self._places = snapshots.places(self.stateful)
        if look:
            self._guard.before()
        self.net.clear_param_diffs()
        if self._due(p.test_interval) and (self.iter > 0 or p.test_initialization):
            self.test_all()
            self._stopped = bool(self.agreed(self._stopped))
            if self._stopped:
                return False
        for on_start, _ in self._callbacks:
            on_start()
        if on_cpu:
            self.net.passes.release()  # (after the callbacks, which may look at the last iteration's blobs)
        self.net.graph.debug_info = display and p.debug_info
        loss = self._forward_backward()
        self._guard.after(self, loss, look)
        self.loss.add(loss if p.iter_size == 1 else loss / p.iter_size)
        if display:
            self._display()
        for _, on_gradients in self._callbacks:
            on_gradients()
        self.apply_update()
        request = _REQUESTS[self.agreed(_REQUESTS.index(self._deferred or self.requested_action()))]
        self._deferred = None
        if self._due(p.snapshot) or request == "snapshot":
            self.snapshot()
        self._stopped |= request == "stop"
        return request != "stop"

    def _due(self, interval: int) -> bool:
        return bool(interval) and self._iter % interval == 0

    def _forward_backward(self) -> Any:
        """Accumulate the gradients of iter_size passes; returns the sum of their losses, left on its device."""
        net, last = self.net, len(self.net.nodes) - 1
        loss: Any = None
        for _ in range(self.p.iter_size):
            part = net.run_forward(0, last)
            loss = part if loss is None else loss + part
            net.run_backward(last, 0)
            if net.graph.debug_info:
                net.passes.log_norms()
        return loss

    def apply_update(self) -> None:
        """Update the parameters from their diffs: clip, divide by iter_size, regularise, then the solver's own rule."""
        rate, step = schedule.learning_rate(self.p, self._iter, self.lr_step)
        if step != self.lr_step:
            self.lr_step = step
            schedule.log_step(self.p, self._iter, step)
        if self._due(self.p.display):
            log.info("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {rate:g}")
        with torch.no_grad():
            self.update(rate, self._clip_scale(), self._iter)
        self._iter += 1
        self._places = None

    def _clip_scale(self) -> float:
        """The factor that brings the L2 norm of all summed gradients down to clip_gradients."""
        limit = self.p.clip_gradients
        if limit < 0:
            return 1.0
        parts = [part for b in self.net.learnable if b.has_diff() for part in b.g.reshape(-1).split(1 << 20)]
        if not parts:
            return 1.0
        total = float(torch.stack([torch.dot(part, part) for part in parts]).sum(dtype=torch.float64))
        norm = float(float32(math.sqrt(total)))
        if not norm > limit:  # (NaN is not, either)
            return 1.0
        scale = float(float32(limit) / float32(norm))
        log.info(
            "sgd_solver.cpp:99",
            f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > {limit:g}) by scale factor {scale:g}",
        )
        return scale

    def solve(self, resume_file: PathLike | None = None) -> None:
        """Train to max_iter, from a solverstate if given; snapshot and test at the end as BVLC does."""
        p = self.p
        log.info("solver.cpp:289", f"Solving {self.net.name}")
        log.info("solver.cpp:290", f"Learning Rate Policy: {p.lr_policy}")
        self._stopped = False
        if resume_file:
            log.info("solver.cpp:295", f"Restoring previous solver status from {resume_file}")
            self.restore(resume_file)
        self._run(p.max_iter)
        self._places = snapshots.places(self.stateful)
        if p.snapshot_after_train and not self._due(p.snapshot):
            self.snapshot()
        if self._stopped:
            log.info("solver.cpp:310", "Optimization stopped early.")
            return
        if self._due(p.display):
            self.loss.add(self.net.run_forward(0, len(self.net.nodes) - 1))
            log.info("solver.cpp:327", f"Iteration {self.iter}, loss = {self.loss.mean():g}")
        if self._due(p.test_interval):
            self.test_all()
        log.info("solver.cpp:332", "Optimization Done.")

    # -- display and tests -------------------------------------------------------------------------------------------

    def _display(self) -> None:
        now = time.perf_counter()
        lapse = now - self._timer
        rate = (self.iter - self._last_display) / (lapse or 1.0)
        waited, self._waited = self._waited, self.net.waited
        # (In its first iteration a run has no batch ahead, so its wait doesn't count.)
        self.waiting = (self._waited - waited) / lapse if self.iter > self._last_display else 0.0
        loss = self.loss.mean()
        log.info(
            "solver.cpp:239",
            f"Iteration {self.iter} ({rate:g} iter/s, {lapse:g}s/{self.p.display} iters), loss = {loss:g}",
        )
        if self.waiting >= 0.01:
            log.warning("solver.py:1", f"Waiting for data {self.waiting:.0%} of the time: records come too slowly")
        self._timer, self._last_display = now, self.iter
        outputs = {name: self.net.blobs[name].t.cpu().numpy() for name in self.net.outputs}
        self.net.log_outputs("solver.cpp:258", "    Train net output", outputs)

    def test_all(self) -> None:
        """Run every test net over its test_iter batches and log the means of its outputs. Of several processes, the
        root does."""
        if context.solver_rank > 0:
            return
        for index in range(len(self.test_nets)):
            if self._stopped:
                return
            self.test(index)

    def test(self, index: int = 0) -> Arrays:
        """Run one test net over its test_iter batches; log and return the outputs' means. {} where a stop came."""
        net, batches = self.test_nets[index], self.p.test_iter[index]
        log.info("solver.cpp:347", f"Iteration {self.iter}, Testing net (#{index})")
        net.share_with(self.net)
        loss: Any = 0.0
        totals: Tensors = []
        for _ in range(batches):
            while (request := self.requested_action()) is not None:
                # (A snapshot of this iteration may exist already. After training, one more forward pass has changed
                # running statistics, so a second one would differ.)
                if request == "stop":
                    self._stopped = True
                elif context.multiprocess:
                    self._deferred = request
                elif self.snapshot_of != self.iter:
                    self.snapshot()
            if self._stopped:
                log.info("solver.cpp:396", "Test interrupted.")
                return {}
            loss = loss + net.run_forward(0, len(net.nodes) - 1)
            values = [net.blobs[name].t for name in net.outputs]
            totals = [a + b for a, b in zip(totals, values)] if totals else [value.clone() for value in values]
        if self.p.test_compute_loss and batches:
            log.info("solver.cpp:401", f"Test loss: {float(loss) / batches:g}")
        means = {name: total.cpu().numpy() / float32(batches) for name, total in zip(net.outputs, totals)}
        net.log_outputs("solver.cpp:414", "    Test net output", means)
        return means

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot_name(self, extension: str) -> str:
        """The path of this iteration's snapshot, .h5 added where snapshot_format is HDF5."""
        hdf5 = self.p.snapshot_format == SolverParameter.HDF5
        return f"{self.p.snapshot_prefix}_iter_{self.iter}{extension}" + ".h5" * hdf5

    def snapshot(self) -> None:
        """Write PREFIX_iter_N.caffemodel, .solverstate (or .h5) and .resume.npz, each whole or not at all, and the
        solverstate last: if it exists, so do the others. Raises Diverged where weights or history are not finite."""
        # An update may break the weights though the loss before it was finite.
        refuse_broken(self, f"{self.source}: iteration {self.iter}: training has diverged (lower base_lr?)")
        snapshots.save(self)
        self.snapshot_of = self.iter

    def places(self) -> Arrays:
        """The positions of the random stream and the layers, for a snapshot: before an update those at the start of
        its iteration, since a resumed run repeats the whole iteration, its tests included."""
        return self._places or snapshots.places(self.stateful)

    def _history_arrays(self) -> list[np.ndarray]:
        return self.rule.arrays()

    def restore(self, path: PathLike) -> None:
        """Resume from a .solverstate (or .h5): iteration, history, and the weights it names.

        With the extra state beside it (see snapshots.py) the run continues exactly; without, as in BVLC, each data
        layer starts at its first record and the random stream stays as it is."""
        path = os.fspath(path)
        state = solverstate.read_solverstate(path)
        try:
            self.rule.check_arrays(state.history)
        except CaffeError as error:
            raise CaffeError(f"{path}: {error}") from None
        model = snapshots.model_of(path, state.learned_net)
        if model is not None:
            try:
                self.net.copy_from(model)
            except CaffeError as error:
                raise CaffeError(f"{path}: learned_net: {error}") from None
        if not hdf5.is_hdf5(path):
            log.info("sgd_solver.cpp:336", f"{type(self).__name__}: restoring history")
        self._iter = self.snapshot_of = state.iter
        self._places = None
        self.lr_step = state.current_step
        self.rule.set_arrays(state.history)
        snapshots.restore(self, path)

    # -- pycaffe's others --------------------------------------------------------------------------------------------

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call on_start() before each iteration and on_gradients_ready() before its update."""
        self._callbacks.append((on_start, on_gradients_ready))

    def share_weights(self, net: Net) -> None:
        """Share the train net's parameters with another net."""
        if not isinstance(net, Net):
            raise TypeError(f"share_weights takes a Net, not {net!r}")
        net.share_with(self.net)


class SGDSolver(Solver):
    """The solver of type SGD. The others are its subclasses, as in pycaffe; solvers/rules.py has what they compute."""

    type = "SGD"


class NesterovSolver(SGDSolver):
    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    type = "AdaDelta"


class AdamSolver(SGDSolver):
    type = "Adam"


def _check(p: SolverParameter) -> None:
    """Raise CaffeError for a solver's bad fields."""
    if p.regularization_type not in ("L1", "L2"):
        raise CaffeError(f"regularization_type: '{p.regularization_type}' is neither L1 nor L2")
    if p.average_loss < 1:
        raise CaffeError(f"average_loss: {p.average_loss} must be 1 or more")
    if p.iter_size < 1:
        raise CaffeError(f"iter_size: {p.iter_size} must be 1 or more")
    schedule.check(p)
    if p.snapshot and p.snapshot_prefix:
        folder = Path(p.snapshot_prefix).parent
        if not folder.is_dir():
            raise CaffeError(f"snapshot_prefix: folder {folder} does not exist")


def _read(given: PathLike | SolverParameter, source: str) -> tuple[SolverParameter, str]:
    """A solver's message and what errors call it, from the path of its prototxt or from an upgraded message."""
    if isinstance(given, SolverParameter):
        return given, source
    if not isinstance(given, (str, bytes, Path)):
        raise TypeError(f"a solver is made from the path of its prototxt, not from {given!r}")
    path = os.fsdecode(given)
    return upgrade.read_solver(path), path


def get_solver(path: PathLike | SolverParameter, source: str = "solver") -> Solver:
    """Make the solver that a solver prototxt (or an upgraded message, which `source` names in errors) asks for."""
    param, source = _read(path, source)
    if param.type not in registry:
        raise CaffeError(f"{source}: type: unknown solver type '{param.type}' (known: {', '.join(sorted(registry))})")
    return registry[param.type](param, source)
