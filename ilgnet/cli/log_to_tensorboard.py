"""Convert a Caffe training log to TensorBoard's event files.

They hold the loss, the learning rate, every output, and histograms of the
snapshots' weights. The log may be any Caffe's.

Example:
  ilgnet log-to-tensorboard out/demo/snapshots/demo.log
"""

import time
from pathlib import Path

from ilgnet.cli.arguments import check_range, make_parser
from ilgnet.report import tensorboard


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: LOG_tensorboard beside the log")
    parser.add_argument("--no-weights", action="store_true", help="without the histograms of the snapshots' weights")
    parser.add_argument(
        "--follow",
        type=float,
        metavar="SECONDS",
        help="look for new lines and snapshots every SECONDS until Ctrl-C",
    )
    args = parser.parse_args(argv)
    check_range(args, "follow", 0.001, 1_000_000)
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
