"""Fold BatchNorm and Scale into the convolutions before them: the same answers from a smaller, faster net."""

from __future__ import annotations

import argparse
from pathlib import Path

from ilgnet.run import outputs
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.formats import caffemodel, files, upgrade
from torchcaffe.proto import format_text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", required=True, metavar="PROTOTXT", help="deploy net with BatchNorm layers")
    parser.add_argument("--weights", required=True, metavar="CAFFEMODEL", help="its weights")
    parser.add_argument("--out-net", required=True, type=Path, metavar="PROTOTXT")
    parser.add_argument("--out", required=True, type=Path, metavar="CAFFEMODEL")
    args = parser.parse_args(argv)
    outputs.check(args.out)
    outputs.check(args.out_net)
    net = upgrade.read_net(args.net)
    try:
        merged, arrays, folded = surgery.merge(net, surgery.read_weights(args.weights))
    except CaffeError as error:
        raise CaffeError(f"{args.net} with {args.weights}: {error}") from None
    if not folded:
        raise CaffeError(f"{args.net}: no BatchNorm behind a convolution in it")
    caffemodel.write_caffemodel(args.out, merged, arrays)
    files.write_bytes(args.out_net, format_text(merged).encode())
    print(f"folded BatchNorm into {len(folded)} convolutions; wrote {args.out_net} and {args.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
