"""Train a net by a Caffe solver file.

The log goes beside the snapshots. Ctrl-C stops with a snapshot.

Example:
  ilgnet train --solver out/demo/solver.prototxt
"""

import argparse
import contextlib
import os

from ilgnet.cli.arguments import check_range, make_parser
from ilgnet.report import tensorboard
from ilgnet.run import engine, processes
from ilgnet.train import estimate, runs
from torchcaffe.base import log, signals
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import upgrade


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__name__, quiet=True)
    parser.add_argument("--solver", required=True, metavar="PROTOTXT", help="paths in it are relative to this folder")
    parser.add_argument("--weights", metavar="CAFFEMODEL", help="starting weights (`ilgnet surgery` makes them)")
    parser.add_argument(
        "--snapshot",
        metavar="SOLVERSTATE",
        help="resume from it; auto: from the newest complete one of the solver's snapshot_prefix, else from --weights",
    )
    parser.add_argument("--keep", type=int, metavar="N", help="keep the newest N snapshots (default: all)")
    parser.add_argument(
        "--sigint-effect",
        choices=signals.EFFECTS,
        default="stop",
        help="on Ctrl-C: stop with a snapshot (default; a second Ctrl-C stops at once), take a snapshot, or do nothing",
    )
    parser.add_argument(
        "--sighup-effect",
        choices=signals.EFFECTS,
        default="snapshot",
        help="the same on a hangup (default snapshot). SIGTERM always stops",
    )
    parser.add_argument(
        "--debug-nan",
        action="store_true",
        help="check every gradient before each update, and stop at the first NaN or infinity with its layer's name",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="at the end, write TensorBoard's event files to PREFIX_tensorboard/ (during training: "
        "`ilgnet log-to-tensorboard --follow`)",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="first time a few iterations of a copy, and print how long the whole training will take",
    )
    engine.add_arguments(parser, several=True)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    settings = upgrade.read_solver(args.solver)
    check_range(args, "keep")
    if args.debug_nan and args.engine != "torch":
        raise CaffeError(f"--engine {args.engine}: only torch has --debug-nan")
    processes.wanted(args)
    engine.set_precision(args)
    runs.check_inputs(settings, args.solver, args.weights, args.snapshot)
    log_file = settings.snapshot_prefix + ".log"
    if args.tensorboard:
        tensorboard.require()
    log.set_level(0)  # from here on the log is the product
    inner = [word for word in argv if word != "--tensorboard"]  # this process writes it at the end
    if args.estimate and "WORLD_SIZE" not in os.environ:
        measured = estimate.measure(args.solver, args.engine, args.gpu[0] if args.gpu else None)
        done = runs.iteration_of(args.snapshot, settings.snapshot_prefix) if args.snapshot else 0
        print(estimate.text(settings, measured, done), flush=True)
    code = processes.launch(args, "train", inner)
    if code is None:
        code = runs.train(args, settings, log_file)
        with contextlib.suppress(OSError):  # Ctrl-C ends a `| tee`, too
            print(f"log: {log_file}", flush=True)
    if args.tensorboard:
        folder = settings.snapshot_prefix + "_tensorboard"
        tensorboard.write(log_file, folder)
        print(f"tensorboard --logdir {folder}")
    if code == 0 and "WORLD_SIZE" not in os.environ:
        weights = f"{settings.snapshot_prefix}_iter_{settings.max_iter}.caffemodel"
        print(f"Next: test it: ilgnet evaluate --weights {weights} --lmdb VAL_LMDB")
    return code
