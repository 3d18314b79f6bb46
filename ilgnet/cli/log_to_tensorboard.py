"""Anybody's Caffe log as TensorBoard's event files: loss, rate, every output, histograms of its snapshots' weights."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ilgnet.report import tensorboard
from torchcaffe.base.errors import CaffeError, run_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: beside the log, its name and _tensorboard")
    parser.add_argument("--no-weights", action="store_true", help="leave out the histograms of the snapshots' weights")
    parser.add_argument(
        "--follow",
        type=float,
        metavar="SECONDS",
        help="look for new lines and snapshots every SECONDS seconds, until Ctrl-C",
    )
    args = parser.parse_args(argv)
    if args.follow is not None and not 0 < args.follow < 1e6:
        raise CaffeError(f"--follow {args.follow}: must be above 0 seconds, and below a million")
    out = args.out or args.log.with_name(args.log.stem + "_tensorboard")
    events = tensorboard.EventLog(args.log, out, not args.no_weights)
    try:
        events.update()
        print(f"{events.scalars} scalars and {events.histograms} histograms; tensorboard --logdir {out}", flush=True)
        while args.follow is not None:
            time.sleep(args.follow)
            events.update()
    except KeyboardInterrupt:
        print(f"{events.scalars} scalars and {events.histograms} histograms")
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    run_main(main)
