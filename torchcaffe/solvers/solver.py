"""Solvers: Caffe's training loop, and the update rules on one base."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import float32
from torch import Tensor

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError, Diverged
from torchcaffe.core import private_torch
from torchcaffe.core.blob import Arrays, Parameter, Tensors
from torchcaffe.formats import hdf5, solverstate, upgrade
from torchcaffe.formats.files import PathLike
from torchcaffe.gpu.recording import Recording, recorder_of
from torchcaffe.nets.net import Net
from torchcaffe.proto import format_text
from torchcaffe.proto.caffe_pb2 import TEST, TRAIN, NetParameter, NetState, SolverParameter
from torchcaffe.random import streams
from torchcaffe.solvers import snapshots

registry: dict[str, type[Solver]] = {}
Statistics = list[tuple[Parameter, Tensor]]  # parameters that a forward pass changes, and their values
Window = tuple[list[float32], float32, int]  # the losses of the smoothed loss, its value, how many it has seen


def powf(base: float32, exponent: float) -> float32:
    """C's powf: correctly rounded but for rare ties. NumPy's power of float32 is off by an ulp or two."""
    return float32(np.power(np.float64(base), np.float64(exponent)))


def learning_rate(p: SolverParameter, iteration: int, current_step: int = 0) -> tuple[float, int]:
    """The rate of lr_policy at an iteration, as BVLC computes it, and the step that multistep has reached."""
    gamma, policy = p.gamma, p.lr_policy
    if policy in ("step", "sigmoid") and p.stepsize <= 0:
        raise CaffeError(f"stepsize: {p.stepsize} must be 1 or more for lr_policy {policy}")
    if policy in ("step", "exp", "inv", "multistep", "sigmoid") and gamma < 0:
        raise CaffeError(f"gamma: {gamma:g} must not be below 0 for lr_policy {policy}")
    # As in C++, a power may be infinity or NaN. What is float32 here, BVLC computes in float; the rest in double.
    one, now, exponent = float32(1), float32(iteration), 0
    power: Any = None
    with np.errstate(all="ignore"):
        match policy:
            case "fixed":
                pass
            case "step":
                exponent = current_step = iteration // p.stepsize
            case "exp":
                exponent = iteration
            case "inv":
                power = powf(one + float32(gamma) * now, -p.power)
            case "multistep":
                # One step per call, even where two are due.
                if current_step < len(p.stepvalue) and iteration >= p.stepvalue[current_step]:
                    current_step += 1
                    log.info("sgd_solver.cpp:50", f"MultiStep Status: Iteration {iteration}, step = {current_step}")
                exponent = current_step
            case "poly":
                power = powf(one - now / float32(p.max_iter), p.power)
            case "sigmoid":
                exponential = np.exp(np.float64(float32(-gamma) * (now - float32(p.stepsize))))
                power = one / (one + float32(exponential))  # expf rounds so
            case _:
                raise CaffeError(f"lr_policy: unknown policy '{policy}'")
        if power is None:
            power = np.power(np.float64(gamma), exponent)
        return float(float32(p.base_lr * power)), current_step


class Solver:
    """pycaffe's Solver: net, test_nets, iter, step, solve, restore, snapshot. Subclasses give the update rule.

    Solver(path) reads a solver prototxt. Raises CaffeError naming file and field for bad input."""

    type = ""
    slots = 1  # history arrays a parameter

    def __init_subclass__(cls) -> None:
        if cls.type:
            registry[cls.type] = cls

    def __init__(self, param_file: PathLike | SolverParameter, source: str = "solver"):
        """`source` names a solver that is given as a message (upgraded) in errors."""
        p, self.source = _read(param_file, source)
        self.p = self.param = p
        log.info("solver.cpp:45", "Initializing solver from parameters: \n" + format_text(p))
        self._check()
        if p.random_seed >= 0:
            streams.set_random_seed((p.random_seed + context.solver_rank) & 0xFFFFFFFF)
        self._iter = 0
        self._current_step = 0
        self._callbacks: list[tuple[Callable, Callable]] = []
        self._net = self._make_train_net()
        self._test_nets = self._make_test_nets()
        self._losses: list[float32] = []
        self._unread_losses: deque[tuple[int, Any]] = deque()
        self._smoothed_loss = float32(0)
        self._first = 0  # the iteration whose loss is the first of the smoothed loss
        self._window: Window | None = None
        # Asked after every iteration and before every test batch: "stop", "snapshot" or None.
        self.requested_action: Callable[[], str | None] = lambda: None
        self._stopped = False
        # Of several processes, whether it holds in any; each asks at the same point.
        self.agreed: Callable[[int], int] = int
        self.debug_nan = False  # also look at every gradient before each update
        self._places: Arrays | None = None  # at the start of this iteration
        self._snapshot_of: int | None = None  # the iteration of the last snapshot that was taken or restored
        self._waited = 0.0  # seconds, at the last display
        self.waiting = 0.0  # the share of the time between the last two displays in which the train net had no data
        self._recording = Recording(recorder_of(self.net.device))
        self._prepare()
        log.info("solver.cpp:57", "Solver scaffolding done.")

    # -- making the nets ---------------------------------------------------------------------------------------------

    def _check(self) -> None:
        p = self.p
        if p.regularization_type not in ("L1", "L2"):
            raise CaffeError(f"{self.source}: regularization_type: '{p.regularization_type}' is neither L1 nor L2")
        if p.average_loss < 1:
            raise CaffeError(f"{self.source}: average_loss: {p.average_loss} must be 1 or more")
        if p.iter_size < 1:
            raise CaffeError(f"{self.source}: iter_size: {p.iter_size} must be 1 or more")
        try:
            learning_rate(p, 0)
        except CaffeError as error:
            raise CaffeError(f"{self.source}: {error}") from None
        if p.snapshot and p.snapshot_prefix:
            folder = Path(p.snapshot_prefix).parent
            if not folder.is_dir():
                raise CaffeError(f"{self.source}: snapshot_prefix: folder {folder} does not exist")

    def _upgraded(self, given: Any) -> NetParameter:
        """A net's upgraded message, from its file or a message."""
        if isinstance(given, str):
            return upgrade.read_net(given)
        param = NetParameter()
        param.CopyFrom(given)
        return upgrade.upgrade_net(param, self.source)

    def _make_net(self, param: NetParameter, source: str, phase: int, states: Sequence[NetState]) -> Net:
        """A net in its file's state merged with `states`."""
        state = NetState(phase=phase)
        for more in (param.state, *states):
            state.MergeFrom(more)
        param.state.CopyFrom(state)
        net = Net.from_param(param, source)
        # Each entry is a caffemodel, or several separated by commas.
        for path in filter(None, (path.strip() for entry in self.p.weights for path in entry.split(","))):
            log.info("solver.cpp:72", f"Finetuning from {path}")
            net.copy_from(path)
        return net

    def _make_train_net(self) -> Net:
        p = self.p
        lines = {"net": 102, "net_param": 97, "train_net": 92, "train_net_param": 88}
        given = [field for field in lines if p.HasField(field)]
        if len(given) != 1:
            raise CaffeError(
                f"{self.source}: net: give exactly one of {', '.join(lines)}"
                + (f", not {' and '.join(given)}" if given else "")
            )
        field = given[0]
        value = getattr(p, field)
        if field.endswith("param"):
            source, where = self.source, f"specified in {field}."
        else:
            source, where = value, f"from {field} file: {value}"
        log.info(f"solver.cpp:{lines[field]}", f"Creating training net {where}")
        return self._make_net(self._upgraded(value), source, TRAIN, [p.train_state])

    def _make_test_nets(self) -> list[Net]:
        p = self.p
        specific = len(p.test_net_param) + len(p.test_net)
        wanted = len(p.test_iter)
        if wanted < specific or wanted > specific and not (p.HasField("net") or p.HasField("net_param")):
            raise CaffeError(f"{self.source}: test_iter: {wanted} given for {specific} test nets: give one each")
        if p.test_state and len(p.test_state) != wanted:
            raise CaffeError(f"{self.source}: test_state: {len(p.test_state)} given for {wanted} test nets")
        if wanted and p.test_interval <= 0:
            raise CaffeError(f"{self.source}: test_interval: missing or not above 0, with test_iter given")
        # Each: the net, what errors call it, and what BVLC's log says it is specified by.
        inline = p.HasField("net_param")
        rest = (p.net_param, self.source, "net_param") if inline else (p.net, p.net, f"net file: {p.net}")
        sources = [
            *((net, f"{self.source}: test_net_param {i}", "test_net_param") for i, net in enumerate(p.test_net_param)),
            *((path, path, f"test_net file: {path}") for path in p.test_net),
            *[rest] * (wanted - specific),
        ]
        nets = []
        params = [self._upgraded(given) for given, *_ in sources]
        for i, (param, (_, source, specified)) in enumerate(zip(params, sources)):
            log.info("solver.cpp:190", f"Creating test net (#{i}) specified by {specified}")
            # Its weights are its own until its first test, as in BVLC: a program may load others into it.
            nets.append(self._make_net(param, source, TEST, p.test_state[i : i + 1]))
            nets[-1].graph.debug_info = p.debug_info
        return nets

    def _prepare(self) -> None:
        """Allocate gradients and history of the parameters that learn (those of the others only when used).

        They stay for life, so they come before the first activations: among these they would fragment the heap."""
        self._history: list[list[Tensor | None]] = [[None] * self.slots for _ in self.net.learnable]
        self.rates = [1.0 if r.lr_mult is None else r.lr_mult for r in self.net.graph.parameters]
        self._decays = [1.0 if r.decay_mult is None else r.decay_mult for r in self.net.graph.parameters]
        for index, blob in enumerate(self.net.learnable):
            if self.rates[index]:
                blob.grad_buffer()
                self._history_of(index)

    # -- the loop ----------------------------------------------------------------------------------------------------

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

    def step(self, iterations: int) -> None:
        """Run that many iterations: test and snapshot where the solver file says so."""
        if not isinstance(iterations, (int, np.integer)):
            raise TypeError(f"step: {iterations!r} is not a number of iterations")
        self._run(self.iter + int(iterations))

    def _run(self, stop: int) -> None:
        """Iterate until `stop`, or until a stop is requested."""
        p = self.p
        window, self._window = self._window, None
        self._losses, self._smoothed_loss, seen = window or ([], float32(0), 0)
        self._unread_losses.clear()
        self._first = self.iter - seen
        self._timer, self._last_display = time.perf_counter(), self.iter
        unseen: Any = 0.0  # the sum of the losses since the last look
        while self.iter < stop:
            display = self._due(p.display)
            # A GPU is not kept waiting in each iteration, but in those that are displayed or snapshots follow.
            look = self.net.device == "cpu" or self.debug_nan or display
            look |= bool(p.snapshot) and (self.iter + 1) % p.snapshot == 0
            self._places = snapshots.places(self)
            statistics = self._statistics() if look else []
            self.net.clear_param_diffs()
            if self._test_due() and (self.iter > 0 or p.test_initialization):
                self.test_all()
                if self._stopped:
                    return
            for on_start, _ in self._callbacks:
                on_start()
            if self.net.device == "cpu":
                self.net.passes.release()  # (after the callbacks, which may look at the last iteration's blobs)
            self.net.graph.debug_info = display and p.debug_info
            loss = self._forward_backward()
            unseen = unseen + loss
            if look:
                self._check_finite(loss, unseen, statistics)
                unseen = 0.0
            self._add_loss(loss / p.iter_size)
            if display:
                self._display()
            for _, on_gradients in self._callbacks:
                on_gradients()
            self.apply_update()
            request = self.requested_action()
            if self._due(p.snapshot) or request == "snapshot":
                self.snapshot()
            if request == "stop":
                self._stopped = True
                return

    def _due(self, interval: int) -> bool:
        return bool(interval) and self.iter % interval == 0

    def _test_due(self) -> bool:
        return self._due(self.p.test_interval) and context.solver_rank == 0

    def _forward_backward(self) -> Any:
        """Accumulate the gradients of iter_size passes; returns the sum of their losses, left on its device."""
        loss: Any = 0.0
        last = len(self.net.nodes) - 1
        for _ in range(self.p.iter_size):
            loss = loss + self.net.run_forward(0, last)
            self.net.run_backward(last, 0)
            if self.net.graph.debug_info:
                self.net.passes.log_norms()
        return loss

    # -- divergence --------------------------------------------------------------------------------------------------

    def _statistics(self) -> Statistics:
        """The running statistics now."""
        layers = [node.layer for node in self.net.nodes]
        blobs = [layer.blobs[index] for layer in layers for index in layer.written_by_forward]
        return [(blob, blob.t.clone()) for blob in blobs]

    def _check_finite(self, loss: Any, unseen: Any, statistics: Statistics) -> None:
        """Raise Diverged unless this iteration's loss, and the sum `unseen` since the last look, are finite (with
        debug_nan the gradients, too)."""
        bad = ""
        if not math.isfinite(float(loss)):
            bad = f"the loss is {float(loss):g}"
        elif not math.isfinite(float(unseen)):
            bad = "the loss of an earlier iteration, not looked at one by one, was not finite"
        elif self.debug_nan and not all(_finite(b.g) for b in self.net.learnable if b.has_diff()):
            bad = "a gradient is not finite"
        if self.agreed(bool(bad)):
            self._stop_diverged(bad or "in another process", statistics)

    def _stop_diverged(self, bad: str, statistics: Statistics) -> None:
        """Snapshot the state before this iteration, repeat the iteration to find the layer, raise Diverged."""
        said = f"{self.source}: iteration {self.iter}: {bad}: training has diverged (lower base_lr?)"
        self._put_back(statistics)
        self._refuse_broken(said)
        if self.p.HasField("snapshot_prefix"):
            self.snapshot()
            said += f"; snapshot of the state before it: {self.snapshot_name('.solverstate')}"
        self._put_back(statistics)
        raise Diverged(f"{said}; first in {self._first_bad() or 'no layer when it is repeated'}")

    def _refuse_broken(self, said: str) -> None:
        """Raise Diverged where weights or history are not finite: their snapshot would replace the last good one."""
        broken = ""
        for record, slots in zip(self.net.graph.parameters, self._history):
            name, blob = record.name, record.blob
            if not _finite(blob.t):
                broken = name
            elif not all(array is None or _finite(array) for array in slots):
                broken = f"the history of {name}"
            if broken:
                break
        if self.agreed(bool(broken)):
            where = broken or "weights in another process"
            raise Diverged(
                f"{said}; the update before has broken {where}, so go on from the last snapshot"
                + ("" if self.debug_nan else ", with debug_nan to look at every gradient, too")
            )

    def _put_back(self, statistics: Statistics) -> None:
        snapshots.go_to(self, self.places())
        for blob, values in statistics:
            blob.t = values
            blob.clear_diff()

    def _first_bad(self) -> str:
        """Repeat this iteration layer by layer: the first layer, and its blob, that is not finite; "" if none."""
        net = self.net
        net.clear_param_diffs()
        for _ in range(self.p.iter_size):
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

    # -- the loss ----------------------------------------------------------------------------------------------------

    def _add_loss(self, loss: Any) -> None:
        """Add this iteration's loss to the smoothed loss. It stays on its device until the mean is read."""
        self._unread_losses.append((self.iter - self._first, loss))
        if len(self._unread_losses) > 1000:
            _ = self.smoothed_loss

    @property
    def smoothed_loss(self) -> float:
        """The mean of the last average_loss losses, updated in float, as BVLC's UpdateSmoothedLoss."""
        average = self.p.average_loss
        while self._unread_losses:
            index, value = self._unread_losses.popleft()
            loss, size = float32(float(value)), float32(len(self._losses) + 1)
            with np.errstate(all="ignore"):
                if len(self._losses) < average:
                    self._losses.append(loss)
                    self._smoothed_loss = (self._smoothed_loss * (size - float32(1)) + loss) / size
                else:
                    slot = index % average
                    self._smoothed_loss += (loss - self._losses[slot]) / float32(average)
                    self._losses[slot] = loss
        return float(self._smoothed_loss)

    def loss_window(self) -> Window:
        """The state of the smoothed loss."""
        _ = self.smoothed_loss
        return list(self._losses), self._smoothed_loss, self.iter - self._first

    def set_loss_window(self, window: Window) -> None:
        """Let the smoothed loss of the next run continue from loss_window()."""
        self._window = window

    def _display(self) -> None:
        now = time.perf_counter()
        lapse = now - self._timer
        rate = (self.iter - self._last_display) / (lapse or 1.0)
        waited, self._waited = self._waited, self.net.waited
        # (In its first iteration a run has no batch ahead, so its wait doesn't count.)
        self.waiting = (self._waited - waited) / lapse if self.iter > self._last_display else 0.0
        loss = self.smoothed_loss
        log.info(
            "solver.cpp:239",
            f"Iteration {self.iter} ({rate:g} iter/s, {lapse:g}s/{self.p.display} iters), loss = {loss:g}",
        )
        if self.waiting >= 0.01:
            log.warning("solver.py:1", f"Waiting for data {self.waiting:.0%} of the time: records come too slowly")
        self._timer, self._last_display = now, self.iter
        outputs = {name: self.net.blobs[name].t.cpu().numpy() for name in self.net.outputs}
        self._log_outputs("solver.cpp:258", "    Train net output", outputs, self.net)

    def _log_outputs(self, where: str, prefix: str, outputs: Arrays, net: Net) -> None:
        flat = ((name, value) for name, values in outputs.items() for value in values.reshape(-1))
        for index, (name, value) in enumerate(flat):
            log.info(where, f"{prefix} #{index}: {name} = {value:g}{net.loss_term(name, value)}")

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
        self._places = snapshots.places(self)
        if p.snapshot_after_train and not self._due(p.snapshot):
            self.snapshot()
        if self._stopped:
            log.info("solver.cpp:310", "Optimization stopped early.")
            return
        if self._due(p.display):
            self._add_loss(self.net.run_forward(0, len(self.net.nodes) - 1))
            log.info("solver.cpp:327", f"Iteration {self.iter}, loss = {self.smoothed_loss:g}")
        if self._test_due():
            self.test_all()
        log.info("solver.cpp:332", "Optimization Done.")

    def test_all(self) -> None:
        """Run every test net over its test_iter batches and log the means of its outputs."""
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
                if request == "snapshot" and self._snapshot_of != self.iter:
                    self.snapshot()
                elif request == "stop":
                    self._stopped = True
            if self._stopped:
                log.info("solver.cpp:396", "Test interrupted.")
                return {}
            loss = loss + net.run_forward(0, len(net.nodes) - 1)
            values = [net.blobs[name].t for name in net.outputs]
            totals = [a + b for a, b in zip(totals, values)] if totals else [value.clone() for value in values]
        if self.p.test_compute_loss and batches:
            log.info("solver.cpp:401", f"Test loss: {float(loss) / batches:g}")
        means = {name: total.cpu().numpy() / float32(batches) for name, total in zip(net.outputs, totals)}
        self._log_outputs("solver.cpp:414", "    Test net output", means, net)
        return means

    # -- the update --------------------------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The learning rate of the current iteration."""
        rate, self._current_step = learning_rate(self.p, self.iter, self._current_step)
        return rate

    def apply_update(self) -> None:
        """Update the parameters from their diffs: clip, divide by iter_size, regularise, then the solver's own rule."""
        rate = self.lr
        if self._due(self.p.display):
            log.info("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {rate:g}")
        with torch.no_grad():
            self._update(rate, self._clip_scale())
        self._iter += 1
        self._places = None

    def _update(self, rate: float, clip: float) -> None:
        """update(), recorded on a GPU."""
        blobs = self.net.learnable
        memories = [blob.diff_memory for blob in blobs] + [blob.data_memory for blob in blobs]
        places = [memory.place() for memory in memories]
        histories = [0 if array is None else array.data_ptr() for slots in self._history for array in slots]
        key = (self.constants(rate, clip), [blob.diff_memory.source() for blob in blobs], places, histories)
        if self._recording.ready(key):
            self._recording.run(memories, lambda: self.update(rate, clip))
        else:
            self.update(rate, clip)

    def constants(self, rate: float, clip: float) -> tuple[float, ...]:
        """The numbers of an update that change from one to the next."""
        return rate, clip

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

    def update(self, rate: float, clip: float) -> None:
        """Update every parameter by the solver's own rule, `change`."""
        for index, blob in enumerate(self.net.learnable):
            local = float(float32(rate) * float32(self.rates[index]))
            if self._idle(index):
                blob.clear_diff()
                continue
            # An infinite norm clips to 0, and BVLC's BLAS makes 0 of infinity times 0, too.
            gradient = blob.g * (clip / self.p.iter_size) if clip else torch.zeros_like(blob.g)
            decay = float(float32(self.p.weight_decay) * float32(self._decays[index]))
            if decay:
                gradient.add_(blob.t if self.p.regularization_type == "L2" else blob.t.sign(), alpha=decay)
            change = self.change(gradient, self._history_of(index), local)
            blob.g = change
            blob.t.sub_(change)
            blob.data_memory.written()

    def _idle(self, index: int) -> bool:
        """Whether a parameter has lr_mult 0: its update is zero, and so is its history (a sum of updates)."""
        return self.slots == 1 and self.rates[index] == 0 and self._history[index][0] is None

    def _history_of(self, index: int) -> Tensors:
        """The history arrays of learnable parameter `index`, zero at first."""
        blob, slots = self.net.learnable[index], self._history[index]
        slots[:] = [torch.zeros(blob.shape, device=blob.device) if array is None else array for array in slots]
        return slots

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        """Return what is subtracted from the weights, and update `history` in place. May overwrite `gradient`."""
        raise CaffeError(f"solver type {self.type} has no update rule")

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot_name(self, extension: str) -> str:
        """The path of this iteration's snapshot, .h5 added where snapshot_format is HDF5."""
        hdf5 = self.p.snapshot_format == SolverParameter.HDF5
        return f"{self.p.snapshot_prefix}_iter_{self.iter}{extension}" + ".h5" * hdf5

    def snapshot(self) -> None:
        """Write PREFIX_iter_N.caffemodel, .solverstate (or .h5) and .resume.npz, each whole or not at all, and the
        solverstate last: if it exists, so do the others. Raises Diverged where weights or history are not finite."""
        # An update may break the weights though the loss before it was finite.
        self._refuse_broken(f"{self.source}: iteration {self.iter}: training has diverged (lower base_lr?)")
        model, state_file = self.snapshot_name(".caffemodel"), self.snapshot_name(".solverstate")
        if context.solver_rank > 0:  # the root writes the files that all processes share
            snapshots.write(self, state_file, {})
            self.agreed(False)  # the root waits for it
            return
        hdf5 = model.endswith(".h5")
        kind, lines = ("HDF5", (474, 296)) if hdf5 else ("binary proto", (464, 284))
        log.info(f"solver.cpp:{lines[0]}", f"Snapshotting to {kind} file {model}")
        self.net.save(model, hdf5)
        log.info(f"sgd_solver.cpp:{lines[1]}", f"Snapshotting solver state to {kind} file {state_file}")
        state = solverstate.SolverState(
            iter=self.iter, learned_net=model, current_step=self._current_step, history=self._history_arrays()
        )
        self.agreed(False)
        solverstate.write_solverstate(
            state_file, state, lambda written: snapshots.write(self, state_file, {model: model, state_file: written})
        )
        self._snapshot_of = self.iter

    def places(self) -> Arrays:
        """The positions of the random stream and the layers, for a snapshot: before an update those at the start of
        its iteration, since a resumed run repeats the whole iteration, its tests included."""
        return self._places or snapshots.places(self)

    def _history_arrays(self) -> list[np.ndarray]:
        """The history in BVLC's order: every parameter's first array, then every second one."""
        return [
            np.zeros(blob.shape, float32) if array is None else array.cpu().numpy()
            for arrays in zip(*self._history)
            for blob, array in zip(self.net.learnable, arrays)
        ]

    def restore(self, path: PathLike) -> None:
        """Resume from a .solverstate (or .h5): iteration, history, and the weights it names.

        With the extra state beside it (see snapshots.py) the run continues exactly; without, as in BVLC, each data
        layer starts at its first record and the random stream stays as it is."""
        path = os.fspath(path)
        state = solverstate.read_solverstate(path)
        places = [(index, k) for k in range(self.slots) for index in range(len(self.net.learnable))]
        if len(state.history) != len(places):
            raise CaffeError(
                f"{path}: history: {len(state.history)} blobs, {len(places)} expected ({self.type} on this net)"
            )
        for number, ((index, _), values) in enumerate(zip(places, state.history)):
            blob = self.net.learnable[index]
            if values.size != blob.count:
                raise CaffeError(f"{path}: history {number}: {values.shape}, {blob.shape} expected")
        model = snapshots.model_of(path, state.learned_net)
        if model is not None:
            try:
                self.net.copy_from(model)
            except CaffeError as error:
                raise CaffeError(f"{path}: learned_net: {error}") from None
        if not hdf5.is_hdf5(path):
            log.info("sgd_solver.cpp:336", f"{type(self).__name__}: restoring history")
        self._iter = self._snapshot_of = state.iter
        self._places = None
        self._current_step = state.current_step
        for (index, k), values in zip(places, state.history):
            if self.rates[index] == 0 and not values.any():
                self._history[index][k] = None
                continue
            self._history_of(index)[k].copy_(torch.tensor(values).view(self.net.learnable[index].shape))
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
    """V = momentum V + rate (gradient + decay W); W -= V. The rate is inside V, so changing it rescales nothing.

    The other solvers are its subclasses, as in pycaffe; they give `change`, and `update` goes one by one."""

    type = "SGD"

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        return history[0].mul_(self.p.momentum).add_(gradient, alpha=rate)

    def update(self, rate: float, clip: float) -> None:
        """One pass over the weights by torch's fused kernel.

        It computes buf = momentum buf + (grad / grad_scale + weight_decay W), W -= lr buf. With lr = 1,
        weight_decay = decay rate and grad_scale = iter_size / (rate clip), buf is Caffe's V itself."""
        p = self.p
        # Without momentum torch's kernel keeps no buffer, while Caffe keeps V. An infinite norm clips to 0, by which
        # the kernel would divide.
        if self.type != "SGD" or p.regularization_type != "L2" or clip == 0 or p.momentum == 0:
            super().update(rate, clip)
            return
        groups: dict[tuple[float, float], list[int]] = {}
        for index, (lr, decay) in enumerate(zip(self.rates, self._decays)):
            if self._idle(index):
                self.net.learnable[index].clear_diff()
                continue
            groups.setdefault((lr, decay), []).append(index)
        for (lr, decay), indices in groups.items():
            local = rate * lr
            blobs = [self.net.learnable[i] for i in indices]
            buffers = [self._history_of(i)[0] for i in indices]
            divisor = p.iter_size / (local * clip) if local else math.inf
            # (torch.tensor would wait for a GPU.)
            scale = torch.full((), divisor, dtype=torch.float32, device=blobs[0].device)
            private_torch.sgd(
                [b.t for b in blobs], [b.g for b in blobs], buffers, p.weight_decay * decay * local, p.momentum, scale
            )
            for blob, buffer in zip(blobs, buffers):
                blob.data_memory.written()
                # BVLC leaves the update, which is V, in the diff.
                blob.diff_memory.stand_in(buffer)


class NesterovSolver(SGDSolver):
    """V = momentum V + rate gradient; W -= (1 + momentum) V - momentum (V before)."""

    type = "Nesterov"

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (v,), mu = history, self.p.momentum
        before = v.clone()
        v.mul_(mu).add_(gradient, alpha=rate)
        return before.mul_(-mu).add_(v, alpha=1 + mu)


class AdaGradSolver(SGDSolver):
    """S += gradient^2; W -= rate gradient / (sqrt(S) + delta)."""

    type = "AdaGrad"

    def _check(self) -> None:
        super()._check()
        if self.p.momentum:
            raise CaffeError(f"{self.source}: momentum: {self.p.momentum:g} cannot be used with {self.type}")

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        squares = history[0].addcmul_(gradient, gradient)
        return gradient.div_(squares.sqrt().add_(self.p.delta)).mul_(rate)


class RMSPropSolver(AdaGradSolver):
    """S = rms_decay S + (1 - rms_decay) gradient^2; W -= rate gradient / (sqrt(S) + delta)."""

    type = "RMSProp"

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.p.rms_decay < 1:
            raise CaffeError(f"{self.source}: rms_decay: {self.p.rms_decay:g} must be at least 0 and below 1")

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        squares, decay = history[0], self.p.rms_decay
        squares.mul_(decay).addcmul_(gradient, gradient, value=_one_minus(decay))
        return gradient.div_(squares.sqrt().add_(self.p.delta)).mul_(rate)


class AdaDeltaSolver(SGDSolver):
    """S = m S + (1-m) gradient^2; D = gradient sqrt((T + delta) / (S + delta)); T = m T + (1-m) D^2; W -= rate D."""

    type = "AdaDelta"
    slots = 2

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (squares, updates), m, delta = history, self.p.momentum, self.p.delta
        squares.mul_(m).addcmul_(gradient, gradient, value=_one_minus(m))
        gradient.mul_((updates + delta).div_(squares + delta).sqrt_())
        updates.mul_(m).addcmul_(gradient, gradient, value=_one_minus(m))
        return gradient.mul_(rate)


class AdamSolver(SGDSolver):
    """M = b1 M + (1 - b1) gradient; S = b2 S + (1 - b2) gradient^2; W -= rate c M / (sqrt(S) + delta), with
    c = sqrt(1 - b2^t) / (1 - b1^t) and t the number of this update, from 1."""

    type = "Adam"
    slots = 2

    def _check(self) -> None:
        super()._check()
        # Otherwise 1 - b^t is 0 or below, and BVLC would compute infinity and NaN.
        for field in ("momentum", "momentum2"):
            value = getattr(self.p, field)
            if not -1 < value < 1:
                raise CaffeError(f"{self.source}: {field}: {value:g} must be above -1 and below 1 for {self.type}")

    def constants(self, rate: float, clip: float) -> tuple[float, ...]:
        return rate, clip, self.iter

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (mean, squares), b1, b2, t = history, self.p.momentum, self.p.momentum2, self.iter + 1
        mean.mul_(b1).add_(gradient, alpha=_one_minus(b1))
        squares.mul_(b2).addcmul_(gradient, gradient, value=_one_minus(b2))
        # In BVLC the powers of the two floats are doubles, and so is this factor.
        correction = float32(math.sqrt(1 - b2**t) / (1 - b1**t))
        rate = float(float32(rate) * correction)
        return torch.div(mean, squares.sqrt().add_(self.p.delta), out=gradient).mul_(rate)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _one_minus(value: float) -> float:
    return float(float32(1) - float32(value))


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
