"""Training runs: checks of every input, then the engine's solver with a progress bar, and its snapshots."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ilgnet.run import engine, processes
from ilgnet.train import card, logtee
from ilgnet.weights import surgery
from torchcaffe.base import context, signals
from torchcaffe.base.errors import CaffeError, Diverged
from torchcaffe.formats import upgrade
from torchcaffe.formats.blobproto import same_shape
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers import snapshots as extra_state

AUTO = "auto"  # --snapshot: the newest complete one


def check_inputs(solver: Any, solver_path: str, weights: str | None, snapshot: str | None) -> None:
    """CaffeError naming file and field, unless all of the run's input exists. Makes the snapshots' folder."""
    if weights and snapshot and snapshot != AUTO:
        raise CaffeError("--weights and --snapshot: give one; a snapshot brings its own weights")
    if solver.max_iter <= 0:
        raise CaffeError(f"{solver_path}: max_iter is {solver.max_iter}; nothing to train")
    named = [("net", solver.net), ("train_net", solver.train_net), *(("test_net", path) for path in solver.test_net)]
    named = [(field, path) for field, path in named if path]
    if not (named or solver.HasField("net_param") or solver.HasField("train_net_param")):
        raise CaffeError(f"{solver_path}: net is not set")
    for field, path in named:
        if not Path(path).is_file():
            raise CaffeError(f"{solver_path}: {field}: no file {path} (relative to {Path.cwd()})")
        check_sources(path, upgrade.read_net(path))
    earlier = snapshots(solver.snapshot_prefix)
    for path in [None if earlier and snapshot == AUTO else weights, None if snapshot == AUTO else snapshot]:
        if path and not Path(path).is_file():
            raise CaffeError(f"{path}: no such file")
    if earlier and not snapshot:  # --snapshot auto could not tell the snapshots of the two runs apart
        raise CaffeError(
            f"{earlier[0]}: an earlier run's; go on with it by --snapshot auto, remove its snapshots, or "
            f"choose another snapshot_prefix in {solver_path}"
        )
    Path(solver.snapshot_prefix).parent.mkdir(parents=True, exist_ok=True)


def check_sources(path: str, net: Any) -> None:
    """CaffeError unless the Data layers' LMDBs and mean files exist, in both phases."""
    for phase in (caffe_pb2.TRAIN, caffe_pb2.TEST):
        for layer in engine.of_phase(net, phase).layer:
            where = f"{path}: layer '{layer.name}'"
            if layer.type == "Data":
                source = layer.data_param.source
                if layer.data_param.backend != caffe_pb2.DataParameter.LMDB:
                    raise CaffeError(f"{where}: data_param.backend: only LMDB is read")
                if not (Path(source) / "data.mdb").is_file():
                    raise CaffeError(f"{where}: data_param.source: no LMDB at {source} (relative to {Path.cwd()})")
            mean = layer.transform_param.mean_file
            if mean and not Path(mean).is_file():
                raise CaffeError(f"{where}: transform_param.mean_file: no file {mean}")


def load_weights(net: Any, weights: str) -> int:
    """copy_from after a check of the shapes, where BVLC would abort. Returns the number of layers that match."""
    source = {layer.name: layer for layer in surgery.read_weights(weights) if layer.blobs}
    common = [name for name in net.params if name in source]
    if not common:
        raise CaffeError(f"{weights}: none of its layers is in the net")
    for name in common:
        have = [tuple(b.shape) for b in source[name].blobs]
        want = [tuple(b.data.shape) for b in net.params[name]]
        if len(have) != len(want) or not all(map(same_shape, have, want)):
            raise CaffeError(
                f"{weights}: layer '{name}': shapes {have} do not fit the net's {want}; "
                "make fitting weights with ilgnet surgery"
            )
    net.copy_from(weights)
    return len(common)


_STATE = r"_iter_([0-9]+)\.solverstate(\.h5)?"
_EXTRA = r"_iter_([0-9]+)\.resume(\.rank[0-9]+)?\.npz"


def _numbered(prefix: str, ending: str) -> list[tuple[int, Path]]:
    """The files of a snapshot_prefix with an ending, and their iterations, newest first."""
    pattern = re.compile(re.escape(Path(prefix).name) + ending)
    found = ((pattern.fullmatch(path.name), path) for path in Path(prefix).parent.glob("*"))
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def snapshots(prefix: str) -> list[Path]:
    """The solverstates of a snapshot_prefix, newest first."""
    return [path for _, path in _numbered(prefix, _STATE)]


def iteration_of(snapshot: str, prefix: str) -> int:
    """The iteration in a solverstate's name (AUTO: the newest one's); 0 without one."""
    names = map(str, snapshots(prefix)) if snapshot == AUTO else [snapshot]
    match = re.search(_STATE + "$", next(iter(names), ""))
    return int(match[1]) if match else 0


def newest_snapshot(prefix: str, terminal: IO[str]) -> str | None:
    """The newest complete snapshot, or None. Prints which ones are incomplete, and why."""
    for path in snapshots(prefix):
        why = extra_state.whole(path)
        if not why:
            print(f"going on with {path}", file=terminal)
            return str(path)
        print(f"not going on with {path}: {why}", file=terminal)
    return None


def remove_old_snapshots(prefix: str, keep: int, done: int) -> None:
    """Remove all but the newest `keep` snapshots up to iteration `done`: solverstate, caffemodel and each process's
    extra state. Later ones are from an earlier run, which this one was resumed behind."""
    states = [(number, path) for number, path in _numbered(prefix, _STATE) if number <= done]
    for _, path in states[keep:]:
        path.unlink(missing_ok=True)  # first, so that no solverstate lacks its other files
    kept = {number for number, _ in states[:keep]}
    for number, extra in _numbered(prefix, _EXTRA):
        if number <= done and number not in kept:
            # The extra state goes last, so that another run finds what a kill left half written or half removed.
            for model in (".caffemodel", ".caffemodel.h5"):
                Path(f"{prefix}_iter_{number}{model}").unlink(missing_ok=True)
            extra.unlink(missing_ok=True)


class Stopped(Exception):
    """A signal asked real Caffe's training to stop."""


@dataclass
class Watcher:
    """The solver's callback before each iteration: the progress bar and a check that the loss is finite.

    keep: how many snapshots to keep (None: all). look_every: iterations between looks at the loss, each of which waits
    for the GPU. asked: signals, where the solver does not ask itself (real Caffe's); Stopped when one asks for it."""

    solver: Any
    settings: Any
    terminal: IO[str]
    asked: Callable[[], str | None] = lambda: None
    keep: int | None = None
    look_every: int = 1
    bar: Any = None

    def __call__(self) -> None:
        from tqdm import tqdm

        done = int(self.solver.iter)
        if self.bar is None:  # only now is a resumed run's iteration known
            self.bar = tqdm(
                total=self.settings.max_iter,
                initial=done,
                file=self.terminal,
                disable=not self.terminal.isatty(),
                unit="it",
                dynamic_ncols=True,
            )
        else:
            if done % self.look_every == 0:
                self.check_loss(done)
            self.bar.update(1)
            every = self.settings.snapshot
            if every and done % every == 0:
                self.tidy()
        action = self.asked()
        if action == "snapshot":
            self.solver.snapshot()
            self.tidy()
        elif action == "stop":
            raise Stopped

    def check_loss(self, done: int) -> None:
        """Diverged when the last iteration's loss is not finite, where BVLC would go on and damage its memory;
        torchcaffe's solver checks before its update."""
        net = self.solver.net
        weights = net.blob_loss_weights
        loss = sum(weights[name] * float(net.blobs[name].data.sum()) for name in net.outputs if weights[name])
        if not math.isfinite(loss):
            raise Diverged(f"iteration {done - 1}: the loss is {loss}: training has diverged; lower base_lr")
        if not self.bar.disable:
            waiting = getattr(self.solver, "waiting", 0)
            self.bar.set_postfix_str(
                f"loss={loss:.4g}" + f", waiting for data {waiting:.0%}" * (waiting >= 0.01), refresh=False
            )

    def tidy(self) -> None:
        if self.keep:
            remove_old_snapshots(self.settings.snapshot_prefix, self.keep, int(self.solver.iter))

    def close(self) -> None:
        self.tidy()
        if self.bar is not None:
            self.bar.update(int(self.solver.iter) - self.bar.n)
            self.bar.close()


@context.denormals_flushed()
def train(args: argparse.Namespace, settings: caffe_pb2.SolverParameter, log_file: str) -> int:
    """Train as the options of `ilgnet train` say, and return the exit status. A signal stops with a snapshot.

    Of several processes, only rank 0 prints."""
    if args.gpu is None and settings.HasField("solver_mode") and settings.solver_mode == caffe_pb2.SolverParameter.GPU:
        print(f"{args.solver}: solver_mode GPU but --gpu not given: training on the CPU", file=sys.stderr)
    parallel = processes.start(args)
    root = processes.root()
    with logtee.tee(log_file) if root else open(os.devnull, "w") as terminal:
        snapshot = args.snapshot
        if snapshot == AUTO:
            snapshot = newest_snapshot(settings.snapshot_prefix, terminal)
            if snapshot is None:
                print(f"no snapshot yet: starting from {args.weights or 'the fillers'}", file=terminal)
        refused = card.write(settings) if root else None
        if refused:
            print(refused, file=terminal)
        caffe = engine.load_engine(args.engine, args.gpu, logtee.write_line)
        solver = caffe.get_solver(args.solver)
        if args.weights and snapshot is None:
            count = load_weights(solver.net, args.weights)
            print(f"{count} layers take their weights from {args.weights}", file=terminal)
        if parallel:
            parallel.join(solver)
        if args.debug_nan:
            solver.debug_nan = True
        told = signals.Signals(args.sigint_effect, args.sighup_effect, logtee.tell)
        watcher = Watcher(
            solver,
            settings,
            terminal,
            keep=args.keep if root else None,
            look_every=settings.display or 100 if args.gpu is not None else 1,
        )
        if args.engine == "torch":
            solver.requested_action = told  # in the middle of tests, too
        else:
            watcher.asked = told
        solver.add_callback(watcher, lambda: None)
        try:
            with told:
                solver.solve(snapshot) if snapshot else solver.solve()
                if told.stopped_by:
                    raise Stopped
        except Stopped:
            if args.engine != "torch" or solver.snapshot_of != solver.iter:
                solver.snapshot()
            print(
                f"stopped at iteration {solver.iter}; go on with --snapshot "
                f"{settings.snapshot_prefix}_iter_{solver.iter}.solverstate",
                file=terminal,
            )
            return told.status
        except KeyboardInterrupt:
            print("stopped at once, without a snapshot; go on from the last with --snapshot auto", file=terminal)
            return told.status
        finally:
            watcher.close()
    return 0
