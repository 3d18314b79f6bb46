"""Solvers: Caffe's training loop, and the update rules on one base."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError, Diverged
from torchcaffe.core.blob import Parameter
from torchcaffe.formats import hdf5, solverstate, upgrade
from torchcaffe.gpu.recording import Recording, recorder_of
from torchcaffe.nets.net import Net
from torchcaffe.proto import caffe_pb2, format_text
from torchcaffe.random import streams
from torchcaffe.solvers import snapshots

PathLike = Union[str, Path]
registry: dict[str, type[Solver]] = {}


def powf(base: np.float32, exponent: float) -> np.float32:
    """C's powf, which rounds right but in rare ties; NumPy's power of float32 is off by a last place or two."""
    return np.float32(np.power(np.float64(base), np.float64(exponent)))


def learning_rate(p: caffe_pb2.SolverParameter, iteration: int, current_step: int = 0) -> tuple[float, int]:
    """The rate of lr_policy at an iteration, as BVLC computes it, and multistep's step reached so far."""
    base, gamma, policy = p.base_lr, p.gamma, p.lr_policy
    if policy in ("step", "sigmoid") and p.stepsize <= 0:
        raise CaffeError(f"stepsize: {p.stepsize} must be 1 or more for lr_policy {policy}")
    if policy in ("step", "exp", "inv", "multistep", "sigmoid") and gamma < 0:
        raise CaffeError(f"gamma: {gamma:g} must not be below 0 for lr_policy {policy}")
    # As in C++, whatever the powers come to: infinity and NaN are no exceptions. What is written as float32 here, BVLC
    # computes in float; the rest in double.
    with np.errstate(all="ignore"):
        power: Any = np.float64(1)
        if policy == "fixed":
            pass
        elif policy == "step":
            current_step = iteration // p.stepsize
            power = np.power(np.float64(gamma), current_step)
        elif policy == "exp":
            power = np.power(np.float64(gamma), iteration)
        elif policy == "inv":
            power = powf(np.float32(1) + np.float32(gamma) * np.float32(iteration), -p.power)
        elif policy == "multistep":
            # One step a look, even where two are due.
            if current_step < len(p.stepvalue) and iteration >= p.stepvalue[current_step]:
                current_step += 1
                log.info("sgd_solver.cpp:50", f"MultiStep Status: Iteration {iteration}, step = {current_step}")
            power = np.power(np.float64(gamma), current_step)
        elif policy == "poly":
            power = powf(np.float32(1) - np.float32(iteration) / np.float32(p.max_iter), p.power)
        elif policy == "sigmoid":
            exponent = np.float32(-gamma) * (np.float32(iteration) - np.float32(p.stepsize))
            power = np.float32(1) / (np.float32(1) + np.float32(np.exp(np.float64(exponent))))  # expf rounds so
        else:
            raise CaffeError(f"lr_policy: unknown policy '{policy}'")
        return float(np.float32(base * power)), current_step


class Solver:
    """pycaffe's Solver: net, test_nets, iter, step, solve, restore, snapshot. Subclasses give the update rule.

    Solver(path) reads a solver prototxt. Raises CaffeError naming file and field for bad input."""

    type = ""
    slots = 1  # history arrays a parameter

    def __init_subclass__(cls) -> None:
        if cls.type:
            registry[cls.type] = cls

    def __init__(self, param_file: PathLike | caffe_pb2.SolverParameter, source: str = "solver"):
        """`source` names a solver that is given as a message (upgraded) in errors."""
        if isinstance(param_file, caffe_pb2.SolverParameter):
            self.source, self.p = source, param_file
        elif isinstance(param_file, (str, bytes, Path)):
            self.source = os.fsdecode(param_file)
            self.p = upgrade.read_solver(self.source)
        else:
            raise TypeError(f"a solver is made from the path of its prototxt, not from {param_file!r}")
        p = self.p
        log.info("solver.cpp:45", "Initializing solver from parameters: \n" + format_text(p))
        self._check()
        if p.random_seed >= 0:
            streams.set_random_seed((p.random_seed + context.solver_rank) & 0xFFFFFFFF)
        self._iter = 0
        self._current_step = 0
        self._callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._net = self._make_train_net()
        self._test_nets = self._make_test_nets()
        self._losses: list[np.float32] = []
        self._unread_losses: deque[tuple[int, Any]] = deque()
        self._smoothed_loss = np.float32(0)
        self._first = 0
        self._window: tuple[list[np.float32], np.float32, int] | None = None
        # Asked after every iteration and before every test batch: "stop", "snapshot" or None.
        self.requested_action: Callable[[], str | None] = lambda: None
        self._stopped = False
        # Of several processes, whether it holds in any; each asks at the same point.
        self.agreed: Callable[[bool], bool] = bool
        self.debug_nan = False  # also look at every gradient before each update
        self._at_start: tuple[int, snapshots.Places] | None = None
        self._snapshot_of: int | None = None  # the iteration of the last snapshot that was taken, or gone on from
        self._timer = time.perf_counter()
        self._last_display = 0
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

    def _net_file(self, path: str) -> tuple[caffe_pb2.NetParameter, str]:
        return upgrade.read_net(path), path

    def _net_message(self, value: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
        param = caffe_pb2.NetParameter()
        param.CopyFrom(value)
        return upgrade.upgrade_net(param, self.source)

    def _make_train_net(self) -> Net:
        p = self.p
        given = [f for f in ("net", "net_param", "train_net", "train_net_param") if p.HasField(f)]
        if len(given) != 1:
            raise CaffeError(
                f"{self.source}: net: give exactly one of net, net_param, train_net, train_net_param"
                + (f", not {' and '.join(given)}" if given else "")
            )
        field = given[0]
        value = getattr(p, field)
        line = {"train_net_param": 88, "train_net": 92, "net_param": 97, "net": 102}[field]
        if field.endswith("param"):
            log.info(f"solver.cpp:{line}", f"Creating training net specified in {field}.")
            param, source = self._net_message(value), self.source
        else:
            log.info(f"solver.cpp:{line}", f"Creating training net from {field} file: {value}")
            param, source = self._net_file(value)
        state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
        state.MergeFrom(param.state)
        state.MergeFrom(p.train_state)
        param.state.CopyFrom(state)
        net = Net.from_param(param, source)
        self._load_weights(net)
        return net

    def _load_weights(self, net: Net) -> None:
        """`weights` of the solver file: each a caffemodel, or several separated by commas."""
        for entry in self.p.weights:
            for path in filter(None, map(str.strip, entry.split(","))):
                log.info("solver.cpp:72", f"Finetuning from {path}")
                net.copy_from(path)

    def _make_test_nets(self) -> list[Net]:
        p = self.p
        generic = p.HasField("net") or p.HasField("net_param")
        specific = len(p.test_net_param) + len(p.test_net)
        wanted = len(p.test_iter)
        if generic:
            if wanted < specific:
                raise CaffeError(f"{self.source}: test_iter: {wanted} given for {specific} test nets")
        elif wanted != specific:
            raise CaffeError(f"{self.source}: test_iter: {wanted} given for {specific} test nets: give one each")
        if p.test_state and len(p.test_state) != wanted:
            raise CaffeError(f"{self.source}: test_state: {len(p.test_state)} given for {wanted} test nets")
        if wanted and p.test_interval <= 0:
            raise CaffeError(f"{self.source}: test_interval: missing or not above 0, with test_iter given")
        # Each: the net, the file in errors, and what BVLC's log says it is specified by.
        sources: list[tuple[caffe_pb2.NetParameter, str, str]] = []
        for i, value in enumerate(p.test_net_param):
            sources.append((self._net_message(value), f"{self.source}: test_net_param {i}", "test_net_param"))
        for path in p.test_net:
            sources.append((*self._net_file(path), f"test_net file: {path}"))
        while generic and len(sources) < wanted:
            if p.HasField("net_param"):
                sources.append((self._net_message(p.net_param), self.source, "net_param"))
            else:
                sources.append((*self._net_file(p.net), f"net file: {p.net}"))
        nets = []
        for i, (param, source, specified) in enumerate(sources):
            state = caffe_pb2.NetState(phase=caffe_pb2.TEST)
            state.MergeFrom(param.state)
            if p.test_state:
                state.MergeFrom(p.test_state[i])
            param.state.CopyFrom(state)
            log.info("solver.cpp:190", f"Creating test net (#{i}) specified by {specified}")
            net = Net.from_param(param, source)
            net.debug_info = p.debug_info
            # Its weights are its own until its first test, as in BVLC: a program may load others into it.
            self._load_weights(net)
            nets.append(net)
        return nets

    def _prepare(self) -> None:
        """Gradient and history arrays of what learns (those of the rest are made when something asks for them).

        They stay for life, so they come before the first activations: among these they would cut the memory that is
        freed and taken again into pieces."""
        self._history: list[list[torch.Tensor | None]] = [[None] * self.slots for _ in self.net.learnable]
        self._rates = [1.0 if m is None else m for m in self.net.lr_mults]
        self._decays = [1.0 if m is None else m for m in self.net.decay_mults]
        for index, blob in enumerate(self.net.learnable):
            if self._rates[index]:
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
        start = self.iter
        window, self._window = self._window, None
        self._losses, self._smoothed_loss, seen = window or ([], np.float32(0), 0)
        self._unread_losses.clear()
        first = start - seen  # the iteration whose loss was the first of this mean
        self._first = first
        self._timer, self._last_display = time.perf_counter(), self.iter
        unseen: Any = 0.0  # the sum of the losses since the last look
        while self.iter < stop:
            display = bool(p.display) and self.iter % p.display == 0
            # A GPU is not kept waiting in each iteration, but in those that are displayed or snapshots follow.
            look = self.net.device == "cpu" or self.debug_nan or display
            look |= bool(p.snapshot) and (self.iter + 1) % p.snapshot == 0
            self._at_start = self.iter, snapshots.places(self)
            statistics = self._statistics() if look else []
            for blob in self.net.learnable:
                blob.clear_diff()
            due = p.test_interval and self.iter % p.test_interval == 0 and (self.iter > 0 or p.test_initialization)
            if due and context.solver_rank == 0:
                self.test_all()
                if self._stopped:
                    return
            for on_start, _ in self._callbacks:
                on_start()
            if self.net.device == "cpu":
                self.net.release()  # (after the callbacks, which may look at the last iteration's blobs)
            self.net.debug_info = display and p.debug_info
            loss: Any = 0.0
            last = len(self.net.layers) - 1
            for _ in range(p.iter_size):
                forward = self.net.run_forward(0, last)
                self.net.run_backward(last, 0)
                if self.net.debug_info:
                    self.net.log_norms()
                loss = loss if forward is None else loss + forward
            unseen = unseen + loss
            if look:
                bad = "" if math.isfinite(float(loss)) else f"the loss is {float(loss):g}"
                if not bad and not math.isfinite(float(unseen)):
                    bad = "the loss of an earlier iteration, not looked at one by one, was not finite"
                unseen = 0.0
                if self.debug_nan and not bad and not all(_finite(b.g) for b in self.net.learnable if b.has_diff()):
                    bad = "a gradient is not finite"
                if self.agreed(bool(bad)):
                    self._stop_diverged(bad or "in another process", statistics)
            self._add_loss(loss / p.iter_size, self.iter - first)
            if display:
                self._display()
            for _, on_gradients in self._callbacks:
                on_gradients()
            self.apply_update()
            request = self.requested_action()
            if (p.snapshot and self.iter % p.snapshot == 0) or request == "snapshot":
                self.snapshot()
            if request == "stop":
                self._stopped = True
                return

    # -- divergence --------------------------------------------------------------------------------------------------

    def _statistics(self) -> list[tuple[Parameter, torch.Tensor]]:
        """What a forward pass changes for good, and its values now."""
        blobs = [layer.blobs[index] for layer in self.net._layers for index in layer.written_by_forward]
        return [(blob, blob.t.clone()) for blob in blobs]

    def _stop_diverged(self, bad: str, statistics: list[tuple[Parameter, torch.Tensor]]) -> None:
        """Snapshot the state before this iteration, run it once more to see where it goes wrong, raise Diverged."""
        said = f"{self.source}: iteration {self.iter}: {bad}: training has diverged (lower base_lr?)"
        self._put_back(statistics)
        self._refuse_broken(said)
        if self.p.HasField("snapshot_prefix"):
            self.snapshot()
            said += f"; snapshot of the state before it: {self.snapshot_name('.solverstate' + self._suffix())}"
        self._put_back(statistics)
        raise Diverged(f"{said}; first in {self._first_bad() or 'no layer when it is repeated'}")

    def _refuse_broken(self, said: str) -> None:
        """Diverged where weights or history are not finite: a snapshot of them would take the last good one's place."""
        broken = ""
        for name, blob, slots in zip(self.net._learnable_names, self.net.learnable, self._history):
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

    def _put_back(self, statistics: list[tuple[Parameter, torch.Tensor]]) -> None:
        snapshots.go_to(self, self.places())
        for blob, values in statistics:
            blob.t = values
            blob.clear_diff()

    def _first_bad(self) -> str:
        """Repeat this iteration layer by layer: the first layer, and its blob, that is not finite; "" if none."""
        net = self.net
        last = len(net.layers) - 1
        for blob in net.learnable:
            blob.clear_diff()
        for _ in range(self.p.iter_size):
            for i in range(last + 1):
                net.run_forward(i, i)
                for name, blob in zip(net.top_names[net._layer_names[i]], net._tops[i]):
                    if not _finite(blob.t):
                        return f"layer '{net._layer_names[i]}' ({net._layers[i].type}): top blob '{name}'"
            for i in range(last, -1, -1):
                net.run_backward(i, i)
                where = f"layer '{net._layer_names[i]}' ({net._layers[i].type})"
                for index, blob in enumerate(net._layers[i].blobs):
                    if blob.has_diff() and not _finite(blob.g):
                        return f"{where}: gradient of its parameter blob {index}"
                for name, blob, wanted in zip(
                    net.bottom_names[net._layer_names[i]], net._bottoms[i], net._bottom_needs[i]
                ):
                    if net._needs_backward[i] and wanted and not _finite(blob.g):
                        return f"{where}: gradient of its bottom blob '{name}'"
        return ""

    # -- the loss ----------------------------------------------------------------------------------------------------

    def _add_loss(self, loss: Any, index: int) -> None:
        """Take in the loss of this run's iteration `index`. It stays on its device until the mean is asked for."""
        self._unread_losses.append((index, loss))
        if len(self._unread_losses) > 1000:
            _ = self.smoothed_loss

    @property
    def smoothed_loss(self) -> float:
        """The mean of the last average_loss losses, kept up to date in float, as BVLC's UpdateSmoothedLoss."""
        average = self.p.average_loss
        while self._unread_losses:
            index, value = self._unread_losses.popleft()
            loss, size = np.float32(float(value)), np.float32(len(self._losses) + 1)
            with np.errstate(all="ignore"):
                if len(self._losses) < average:
                    self._losses.append(loss)
                    self._smoothed_loss = (self._smoothed_loss * (size - np.float32(1)) + loss) / size
                else:
                    slot = index % average
                    self._smoothed_loss += (loss - self._losses[slot]) / np.float32(average)
                    self._losses[slot] = loss
        return float(self._smoothed_loss)

    def loss_window(self) -> tuple[list[np.float32], np.float32, int]:
        """The smoothed loss's losses, its value, and how many losses it has seen."""
        _ = self.smoothed_loss
        return list(self._losses), self._smoothed_loss, self.iter - self._first

    def set_loss_window(self, losses: list[np.float32], smoothed: np.float32, seen: int) -> None:
        """Let the next run's smoothed loss go on from there."""
        self._window = (losses, smoothed, seen)

    def _display(self) -> None:
        now = time.perf_counter()
        lapse = now - self._timer
        rate = (self.iter - self._last_display) / (lapse or 1.0)
        waited, self._waited = self._waited, self.net.waited
        # (In its first iteration a run has no batch ahead.)
        self.waiting = (self._waited - waited) / lapse if self.iter > self._last_display else 0.0
        loss = self.smoothed_loss
        log.info(
            "solver.cpp:239",
            f"Iteration {self.iter} ({rate:g} iter/s, {lapse:g}s/{self.p.display} iters), loss = {loss:g}",
        )
        if self.waiting >= 0.01:
            log.warning("solver.py:1", f"Waiting for data {self.waiting:.0%} of the time: records come too slowly")
        self._timer, self._last_display = now, self.iter
        self._log_outputs("solver.cpp:258", "    Train net output", self.net, None)

    def _log_outputs(self, where: str, prefix: str, net: Net, means: list[np.ndarray] | None) -> None:
        index = 0
        for i, name in enumerate(net.outputs):
            values = (net.blobs[name].t.detach().cpu().numpy() if means is None else means[i]).reshape(-1)
            weight = net.blob_loss_weights[name]
            for value in values:
                text = f"{prefix} #{index}: {name} = {value:g}"
                if weight:
                    text += f" (* {weight:g} = {np.float32(weight) * value:g} loss)"
                log.info(where, text)
                index += 1

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
        self._at_start = self.iter, snapshots.places(self)
        if p.snapshot_after_train and (not p.snapshot or self.iter % p.snapshot):
            self.snapshot()
        if self._stopped:
            log.info("solver.cpp:310", "Optimization stopped early.")
            return
        if p.display and self.iter % p.display == 0:
            loss = self.net.run_forward(0, len(self.net.layers) - 1)
            self._add_loss(0.0 if loss is None else loss, self.iter - self._first)
            log.info("solver.cpp:327", f"Iteration {self.iter}, loss = {self.smoothed_loss:g}")
        if p.test_interval and self.iter % p.test_interval == 0 and context.solver_rank == 0:
            self.test_all()
        log.info("solver.cpp:332", "Optimization Done.")

    def test_all(self) -> None:
        """Run every test net over its test_iter batches and log the means of its outputs."""
        for index in range(len(self.test_nets)):
            if self._stopped:
                return
            self.test(index)

    def test(self, index: int = 0) -> dict[str, np.ndarray]:
        """One test net over its test_iter batches: the outputs' means, which it logs (nothing where a stop came)."""
        net, batches = self.test_nets[index], self.p.test_iter[index]
        log.info("solver.cpp:347", f"Iteration {self.iter}, Testing net (#{index})")
        net.share_with(self.net)
        loss: Any = 0.0
        totals: list[torch.Tensor | None] = [None] * len(net.outputs)
        for _ in range(batches):
            while (request := self.requested_action()) is not None:
                # (After training one more forward pass has changed running statistics: not what goes on from here.)
                if request == "snapshot" and self._snapshot_of != self.iter:
                    self.snapshot()
                elif request == "stop":
                    self._stopped = True
            if self._stopped:
                log.info("solver.cpp:396", "Test interrupted.")
                return {}
            found = net.run_forward(0, len(net.layers) - 1)
            loss = loss if found is None else loss + found
            for i, name in enumerate(net.outputs):
                value = net.blobs[name].t
                totals[i] = value.clone() if totals[i] is None else totals[i] + value
        means = [np.zeros(1, np.float32) if t is None else t.cpu().numpy() / np.float32(batches) for t in totals]
        if self.p.test_compute_loss:
            log.info("solver.cpp:401", f"Test loss: {float(loss) / batches:g}")
        if batches:
            self._log_outputs("solver.cpp:414", "    Test net output", net, means)
        return dict(zip(net.outputs, means))

    # -- the update --------------------------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The learning rate of the current iteration."""
        rate, self._current_step = learning_rate(self.p, self.iter, self._current_step)
        return rate

    @property
    def param(self) -> caffe_pb2.SolverParameter:
        return self.p

    def apply_update(self) -> None:
        """Update the parameters from their diffs: clip, divide by iter_size, regularise, then the solver's own rule."""
        rate = self.lr
        if self.p.display and self.iter % self.p.display == 0:
            log.info("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {rate:g}")
        with torch.no_grad():
            self._update(rate, self._clip_scale())
        self._iter += 1

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
        """clip_gradients: the factor that brings the L2 norm of all summed gradients down to the limit."""
        limit = self.p.clip_gradients
        if limit < 0:
            return 1.0
        parts = [part for b in self.net.learnable if b.has_diff() for part in b.g.reshape(-1).split(1 << 20)]
        if not parts:
            return 1.0
        total = float(torch.stack([torch.dot(part, part) for part in parts]).sum(dtype=torch.float64))
        norm = float(np.float32(math.sqrt(total)))
        if not norm > limit:  # (NaN is not, either)
            return 1.0
        scale = float(np.float32(limit) / np.float32(norm))
        log.info(
            "sgd_solver.cpp:99",
            f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > {limit:g}) by scale factor {scale:g}",
        )
        return scale

    def update(self, rate: float, clip: float) -> None:
        """Update every parameter; the base does it one by one through `step_parameter`."""
        for index, blob in enumerate(self.net.learnable):
            local = float(np.float32(rate) * np.float32(self._rates[index]))
            if self._idle(index):
                blob.clear_diff()
                continue
            # An infinite norm clips to 0, which BVLC's BLAS makes of infinity, too.
            gradient = blob.g * (clip / self.p.iter_size) if clip else torch.zeros_like(blob.g)
            decay = float(np.float32(self.p.weight_decay) * np.float32(self._decays[index]))
            if decay:
                gradient.add_(blob.t if self.p.regularization_type == "L2" else blob.t.sign(), alpha=decay)
            change = self.change(gradient, self._history_of(index), local)
            blob.g = change
            blob.t.sub_(change)
            blob.data_memory._written()

    def _idle(self, index: int) -> bool:
        """A parameter with lr_mult 0 stays as it is: its update is zero, and its history too (a sum of updates)."""
        return self.slots == 1 and self._rates[index] == 0 and self._history[index][0] is None

    def _history_of(self, index: int) -> list[torch.Tensor]:
        """The history arrays of learnable parameter `index`, zero at first."""
        blob: Parameter = self.net.learnable[index]
        slots = self._history[index]
        for k, array in enumerate(slots):
            if array is None:
                slots[k] = torch.zeros(blob.shape, device=blob.device)
        return slots

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
        """What is subtracted from the weights; updates `history` in place. `gradient` may be overwritten."""
        raise CaffeError(f"solver type {self.type} has no update rule")

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot_name(self, extension: str) -> str:
        return f"{self.p.snapshot_prefix}_iter_{self.iter}{extension}"

    def _suffix(self) -> str:
        return ".h5" if self.p.snapshot_format == caffe_pb2.SolverParameter.HDF5 else ""

    def snapshot(self) -> None:
        """Write PREFIX_iter_N.caffemodel, .solverstate (or .h5) and .resume.npz, each whole or not at all, and the
        solverstate last: where it is, the others are. Diverged where there is nothing to go on from."""
        # An update may break the weights though the loss before it was finite.
        self._refuse_broken(f"{self.source}: iteration {self.iter}: training has diverged (lower base_lr?)")
        suffix = self._suffix()
        hdf5, kind = bool(suffix), "HDF5" if suffix else "binary proto"
        model = self.snapshot_name(".caffemodel" + suffix)
        if context.solver_rank > 0:  # of several solvers the root writes what they share
            snapshots.write(self, self.snapshot_name(".solverstate" + suffix), {})
            self.agreed(False)  # the root waits for it
            return
        log.info("solver.cpp:" + ("474" if hdf5 else "464"), f"Snapshotting to {kind} file {model}")
        (self.net.save_hdf5 if hdf5 else self.net.save)(model)
        state_file = self.snapshot_name(".solverstate" + suffix)
        source = "sgd_solver.cpp:" + ("296" if hdf5 else "284")
        log.info(source, f"Snapshotting solver state to {kind} file {state_file}")
        state = solverstate.SolverState(
            iter=self.iter, learned_net=model, current_step=self._current_step, history=self._history_arrays()
        )
        self.agreed(False)
        solverstate.write_solverstate(
            state_file, state, lambda written: snapshots.write(self, state_file, {model: model, state_file: written})
        )
        self._snapshot_of = self.iter

    def places(self) -> snapshots.Places:
        """Where the random stream and the layers are, for a snapshot: before an update where they were when its
        iteration began, since a run that goes on from there begins the iteration anew, its tests included."""
        if self._at_start is not None and self._at_start[0] == self.iter:
            return self._at_start[1]
        return snapshots.places(self)

    def _history_arrays(self) -> list[np.ndarray]:
        """The history in BVLC's order: every parameter's first array, then every second one."""
        return [
            np.zeros(blob.shape, np.float32) if slots[k] is None else slots[k].detach().cpu().numpy()
            for k in range(self.slots)
            for blob, slots in zip(self.net.learnable, self._history)
        ]

    def restore(self, path: PathLike) -> None:
        """Go on from a .solverstate (or .h5): iteration, history, and the weights it names.

        With the extra state (see snapshots.py) beside it everything else goes on, too; without, as BVLC does: each
        data layer from its first record, the random stream as it is."""
        path = os.fspath(path)
        state = solverstate.read_solverstate(path)
        count = len(self.net.learnable)
        if len(state.history) != count * self.slots:
            raise CaffeError(
                f"{path}: history: {len(state.history)} blobs, {count * self.slots} expected ({self.type} on this net)"
            )
        for k in range(self.slots):
            for index, blob in enumerate(self.net.learnable):
                values = state.history[k * count + index]
                if values.size != blob.count:
                    raise CaffeError(f"{path}: history {k * count + index}: {values.shape}, {blob.shape} expected")
        model = snapshots.model_of(path, state.learned_net)
        if model is not None:
            try:
                self.net.copy_from(model)
            except CaffeError as error:
                raise CaffeError(f"{path}: learned_net: {error}") from None
        if not hdf5.is_hdf5(path):
            log.info("sgd_solver.cpp:336", f"{type(self).__name__}: restoring history")
        self._iter = self._snapshot_of = state.iter
        self._at_start = None
        self._current_step = state.current_step
        for k in range(self.slots):
            for index, blob in enumerate(self.net.learnable):
                values = np.asarray(state.history[k * count + index], np.float32)
                if self._rates[index] == 0 and not values.any():
                    self._history[index][k] = None
                    continue
                self._history_of(index)[k].copy_(torch.tensor(values, device=blob.device).view(blob.shape))
        self.restored()
        snapshots.restore(self, path)

    def restored(self) -> None:
        """For subclasses that keep what they derive from the history."""

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

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
        return history[0].mul_(self.p.momentum).add_(gradient, alpha=rate)

    def update(self, rate: float, clip: float) -> None:
        """One pass over the weights by torch's fused kernel.

        It computes buf = momentum buf + (grad / grad_scale + weight_decay W), W -= lr buf. With lr = 1,
        weight_decay = decay rate and grad_scale = iter_size / (rate clip), buf is Caffe's V itself."""
        p = self.p
        # (torch's kernel keeps no buffer without momentum, while Caffe keeps V.)
        # (And it divides by what an infinite norm clips to 0.)
        if self.type != "SGD" or p.regularization_type != "L2" or rate == 0 or clip == 0 or p.momentum == 0:
            super().update(rate, clip)
            return
        groups: dict[tuple[float, float], list[int]] = {}
        for index, (lr, decay) in enumerate(zip(self._rates, self._decays)):
            if self._idle(index):
                self.net.learnable[index].clear_diff()
                continue
            groups.setdefault((lr, decay), []).append(index)
        for (lr, decay), indices in groups.items():
            local = rate * lr
            blobs = [self.net.learnable[i] for i in indices]
            buffers = [self._history_of(i)[0] for i in indices]
            if local == 0:
                for blob, buffer in zip(blobs, buffers):
                    buffer.mul_(p.momentum)
                    blob.t.sub_(buffer)
                    blob.data_memory._written()
                continue
            # (Not torch.tensor, which would wait for a GPU.)
            scale = torch.full((), p.iter_size / (local * clip), dtype=torch.float32, device=blobs[0].device)
            torch._fused_sgd_(
                [b.t for b in blobs],
                [b.g for b in blobs],
                buffers,
                weight_decay=p.weight_decay * decay * local,
                momentum=p.momentum,
                lr=1.0,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
                grad_scale=scale,
            )
            for blob, buffer in zip(blobs, buffers):
                blob.data_memory._written()
                # BVLC leaves the update, which is V, in the diff.
                blob.diff_memory.stand_in(buffer)


class NesterovSolver(SGDSolver):
    """V = momentum V + rate gradient; W -= (1 + momentum) V - momentum (V before)."""

    type = "Nesterov"

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
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

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
        squares = history[0].addcmul_(gradient, gradient)
        return gradient.div_(squares.sqrt().add_(self.p.delta)).mul_(rate)


class RMSPropSolver(AdaGradSolver):
    """S = rms_decay S + (1 - rms_decay) gradient^2; W -= rate gradient / (sqrt(S) + delta)."""

    type = "RMSProp"

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.p.rms_decay < 1:
            raise CaffeError(f"{self.source}: rms_decay: {self.p.rms_decay:g} must be at least 0 and below 1")

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
        squares, decay = history[0], self.p.rms_decay
        squares.mul_(decay).addcmul_(gradient, gradient, value=_one_minus(decay))
        return gradient.div_(squares.sqrt().add_(self.p.delta)).mul_(rate)


class AdaDeltaSolver(SGDSolver):
    """S = m S + (1-m) gradient^2; D = gradient sqrt((T + delta) / (S + delta)); T = m T + (1-m) D^2; W -= rate D."""

    type = "AdaDelta"
    slots = 2

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
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
        # With others 1 - b^t is 0 or below: BVLC goes on, with infinity and NaN.
        for field in ("momentum", "momentum2"):
            value = getattr(self.p, field)
            if not -1 < value < 1:
                raise CaffeError(f"{self.source}: {field}: {value:g} must be above -1 and below 1 for {self.type}")

    def constants(self, rate: float, clip: float) -> tuple[float, ...]:
        return rate, clip, self.iter

    def change(self, gradient: torch.Tensor, history: list[torch.Tensor], rate: float) -> torch.Tensor:
        (mean, squares), b1, b2, t = history, self.p.momentum, self.p.momentum2, self.iter + 1
        mean.mul_(b1).add_(gradient, alpha=_one_minus(b1))
        squares.mul_(b2).addcmul_(gradient, gradient, value=_one_minus(b2))
        # In BVLC the powers of the two floats are doubles, and so what is made of them.
        correction = np.float32(math.sqrt(1 - b2**t) / (1 - b1**t))
        rate = float(np.float32(rate) * correction)
        return torch.div(mean, squares.sqrt().add_(self.p.delta), out=gradient).mul_(rate)


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _one_minus(value: float) -> float:
    return float(np.float32(1) - np.float32(value))


def get_solver(path: PathLike | caffe_pb2.SolverParameter, source: str = "solver") -> Solver:
    """The solver of the type that a solver prototxt (or an upgraded message, which `source` names) asks for."""
    if isinstance(path, caffe_pb2.SolverParameter):
        param = path
    elif isinstance(path, (str, bytes, Path)):
        source = os.fsdecode(path)
        param = upgrade.read_solver(source)
    else:
        raise TypeError(f"get_solver takes the path of a solver prototxt, not {path!r}")
    if param.type not in registry:
        raise CaffeError(f"{source}: type: unknown solver type '{param.type}' (known: {', '.join(sorted(registry))})")
    return registry[param.type](param, source)
