"""What a net is made of: a table a layer (output shape, parameters, multiply-adds, receptive field), its totals and
depth, and a drawing. Reads any Caffe net; data layers need no data."""

from __future__ import annotations

import argparse
from pathlib import Path

from ilgnet.figures import drawing, summary
from ilgnet.run import engine, outputs
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.formats import files, upgrade


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="summarize.py", description=__doc__)
    p.add_argument("net", metavar="NET.prototxt")
    p.add_argument("--phase", choices=["train", "test"], default="test", help="which layers of the net (default test)")
    p.add_argument("--svg", type=Path, metavar="FILE", help="also draw the net")
    p.add_argument("--engine", choices=engine.ENGINES, default="torch", help="who computes the shapes (default torch)")
    args = p.parse_args(argv)
    log.set_level(2)
    caffe = engine.load_engine(args.engine)
    net = upgrade.read_net(args.net)
    if not net.layer:
        raise CaffeError(f"{args.net}: no layer in it")
    found = summary.summarize(caffe, net, caffe.TRAIN if args.phase == "train" else caffe.TEST, args.net)
    print(summary.table(found), end="")
    if args.svg:
        files.write_bytes(args.svg, drawing.svg(found).encode())
        print(outputs.plain(f"drawn in {args.svg}"))
    return 0


if __name__ == "__main__":
    run_main(main)
