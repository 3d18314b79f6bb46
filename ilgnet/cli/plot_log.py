"""Draw anybody's Caffe training log: PREFIX_train_loss, _test_loss and _test_accuracy as SVG and PNG."""

from __future__ import annotations

import argparse
from pathlib import Path

from ilgnet.report import page
from torchcaffe.base.errors import CaffeError, run_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
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


if __name__ == "__main__":
    run_main(main)
