"""Plot the losses and accuracies in Caffe training logs.

Writes PREFIX_train_loss, PREFIX_test_loss and PREFIX_test_accuracy as SVG and
PNG. The logs may be any Caffe's.

Example:
  ilgnet plot-log out/demo/snapshots/demo.log
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.report import page
from torchcaffe.base.errors import CaffeError


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("logs", nargs="+", metavar="[NAME=]LOG")
    parser.add_argument("--out", type=Path, metavar="PREFIX", help="default: the first log's name without its suffix")
    args = parser.parse_args(argv)
    runs = page.read_runs(args.logs)
    found = page.run_plots(runs, [])
    if not found:
        raise CaffeError(f"{args.logs[0]}: no training iteration and no test net output in it")
    prefix = args.out or Path(runs[0].log.path).with_suffix("")
    for name, _, plot in found:
        plot.write(f"{prefix}_{name}")
        print(f"wrote {prefix}_{name}.svg and .png")
    return 0
