"""Train a net with Caffe's solver file, on either engine; the log goes next to the snapshots."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from ilgnet.report import tensorboard
from ilgnet.run import engine, processes
from ilgnet.train import estimate, logtee, runs
from torchcaffe.base import context, log, signals
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.formats import upgrade
from torchcaffe.proto import caffe_pb2


@context.denormals_flushed()
def train(args: argparse.Namespace, settings: caffe_pb2.SolverParameter, log_file: str) -> int:
    """Solve; stopped by a signal, leave a snapshot. Returns the exit status. Of several processes the root talks."""
    parallel = processes.start(args)
    root = parallel is None or parallel.root()
    show = root and sys.stderr.isatty()
    with logtee.tee(log_file, bar=show) if root else open(os.devnull, "w") as terminal:
        snapshot = args.snapshot
        if snapshot == runs.AUTO:
            snapshot = runs.newest_snapshot(settings.snapshot_prefix, terminal)
            if snapshot is None:
                print(f"no snapshot yet: starting from {args.weights or 'the fillers'}", file=terminal)
        caffe = engine.load_engine(args.engine, args.gpu, logtee.write_line)
        solver = caffe.get_solver(args.solver)
        if args.weights and snapshot is None:
            count = runs.load_weights(solver.net, args.weights)
            print(f"{count} layers take their weights from {args.weights}", file=terminal)
        if parallel:
            parallel.join(solver)
        if args.debug_nan:
            solver.debug_nan = True
        told = signals.Signals(args.sigint_effect, args.sighup_effect, logtee.tell)
        watcher = runs.Watcher(
            solver,
            settings,
            told,
            terminal,
            show,
            args.keep if root else None,
            parallel.any_of_us if parallel else int,
            look_every=settings.display or 100 if args.gpu is not None else 1,
        )
        solver.add_callback(watcher, lambda: None)
        try:
            with told:
                solver.solve(snapshot) if snapshot else solver.solve()
        except runs.Stopped:
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


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solver", required=True, metavar="PROTOTXT", help="paths in it are relative to this folder")
    parser.add_argument("--weights", metavar="CAFFEMODEL", help="start from these (tools/surgery.py makes them)")
    parser.add_argument(
        "--snapshot",
        metavar="SOLVERSTATE",
        help="go on where this was taken; auto: where the "
        "newest whole one of the solver's snapshot_prefix was, or at --weights where there is none",
    )
    parser.add_argument("--keep", type=int, metavar="N", help="keep the newest N snapshots (default: all)")
    parser.add_argument(
        "--sigint-effect",
        choices=signals.EFFECTS,
        default="stop",
        help="Ctrl-C: stop with a snapshot (default; again: at once), take a snapshot, or do nothing",
    )
    parser.add_argument(
        "--sighup-effect",
        choices=signals.EFFECTS,
        default="snapshot",
        help="a hangup: the same (default snapshot). SIGTERM always stops",
    )
    parser.add_argument(
        "--debug-nan",
        action="store_true",
        help="look at every gradient before each update: stop "
        "before the first that is not finite, and say where it came from",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="in the end, TensorBoard's event file beside the "
        "log (PREFIX_tensorboard/); tools/log_to_tensorboard.py --follow makes it while training",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="first time a few iterations of a copy, and print how long the whole schedule will take on this machine",
    )
    engine.add_arguments(parser, several=True)
    args = parser.parse_args(argv)
    log.set_level(2)  # the checks say nothing unless something is wrong
    settings = upgrade.read_solver(args.solver)
    if args.keep is not None and args.keep < 1:
        raise CaffeError("--keep must be 1 or more")
    if args.debug_nan and args.engine != "torch":
        raise CaffeError(f"--engine {args.engine}: only torch has --debug-nan")
    processes.wanted(args)
    engine.set_precision(args)
    runs.check_inputs(settings, args.solver, args.weights, args.snapshot)
    log_file = settings.snapshot_prefix + ".log"
    if args.tensorboard:
        tensorboard.require()
    log.set_level(0)  # from here on the log is the product
    inner = [word for word in argv if word != "--tensorboard"]  # the root writes it, after all have ended
    if args.estimate and "WORLD_SIZE" not in os.environ:
        measured = estimate.measure(args.solver, args.engine, args.gpu[0] if args.gpu else None)
        done = runs.iteration_of(args.snapshot, settings.snapshot_prefix) if args.snapshot else 0
        print("\n".join(estimate.lines(settings, measured, done)), flush=True)
    code = processes.launch(args, __file__, inner)
    if code is None:
        code = train_here(args, settings, log_file)
    if args.tensorboard:
        folder = settings.snapshot_prefix + "_tensorboard"
        tensorboard.write(log_file, folder)
        print(f"tensorboard --logdir {folder}")
    return code


def train_here(args: argparse.Namespace, settings: caffe_pb2.SolverParameter, log_file: str) -> int:
    """Train in this process."""
    if args.gpu is None and settings.HasField("solver_mode") and settings.solver_mode == caffe_pb2.SolverParameter.GPU:
        print(f"{args.solver}: solver_mode GPU but --gpu not given: training on the CPU", file=sys.stderr)
    code = train(args, settings, log_file)
    with contextlib.suppress(OSError):  # Ctrl-C ends a `| tee`, too
        print(f"log: {log_file}", flush=True)
    return code


if __name__ == "__main__":
    run_main(main)
