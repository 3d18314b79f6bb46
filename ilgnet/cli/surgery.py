"""Make a net's starting weights from another net's.

Copies by name what fits, fills the rest, and prepares BatchNorm layers.

Example:
  ilgnet surgery --weights weights/bvlc_googlenet.caffemodel \\
    --net out/demo/net/train_val.prototxt --out out/demo/init.caffemodel
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.cli.arguments import check_range, make_parser
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import preprocess
from ilgnet.run import engine, outputs
from ilgnet.weights import balance, surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files, upgrade


def images_for(net: Any, folder: Path, count: int, mean: str | None, source: str = "net") -> np.ndarray:
    """The first photos of an LMDB or a folder, preprocessed as by the net's data layer: (count, 3, H, W)."""
    from ilgnet.photos import records

    data = next((layer for layer in net.layer if layer.transform_param.crop_size), None)
    shape = next((layer.input_param.shape[0].dim for layer in net.layer if layer.input_param.shape), ())
    if data is None and len(shape) != 4:
        raise CaffeError(
            f"{source}: no layer has transform_param.crop_size, and none is an Input of photos, so their "
            "size is unknown"
        )
    size = (data.transform_param.crop_size,) * 2 if data is not None else tuple(shape[2:])
    if mean is None and data is not None and data.transform_param.HasField("mean_file"):
        mean = data.transform_param.mean_file
    spec = preprocess.make(None, mean, size)
    found = [image for _, _, image in islice(records.stream(folder, spec), count)]
    if len(found) < 2:
        raise CaffeError(f"{folder}: {len(found)} photo(s); a calibration needs at least 2")
    return np.stack(found)


def fitting(title: str) -> str:
    """Which weights the trunk of a net of this name takes, if it is one of ours."""
    sources = {variant.title: variant.source for variant in VARIANTS.values()}
    if title not in sources:
        return ""
    return f"; {title} takes those of {sources[title]}, or starts from random weights (make with WEIGHTS=none)"


def operate(args: argparse.Namespace) -> surgery.Report:
    """Build the net with its fillers, copy the weights, calibrate if asked, and save."""
    caffe = engine.load_engine(args.engine, args.gpu)
    source = surgery.read_weights(args.weights)
    net = upgrade.read_net(args.net)
    images = images_for(net, args.calibrate, args.images, args.mean, args.net) if args.calibrate else None
    if args.seed is not None:
        caffe.set_random_seed(args.seed)
    train_net = engine.without_data(net, caffe.TRAIN, source=args.net)
    train = engine.make_net(caffe, train_net, caffe.TRAIN, args.net)
    report = surgery.transplant(train_net, engine.arrays(train), source)
    if not report.count("copied"):
        raise CaffeError(
            f"nothing was copied: no layer of {args.weights} fits one of the same name in {args.net}{fitting(net.name)}"
        )
    if images is not None:
        test_net = engine.without_data(net, caffe.TEST, source=args.net)
        test = engine.make_net(caffe, test_net, caffe.TEST, args.net)
        surgery.share(train, test)
        change, count = surgery.calibrate_on(test, test_net, report, images)
        balanced = balance.balance(test, test_net, report) if args.balance else []
        surgery.share(test, train)
        fresh = "; behind new layers they normalise" if any(bias is None for bias in report.made.values()) else ""
        print(
            f"calibrated {count} BatchNorm layers on {len(images)} photos; the scores moved by {change:.1e} "
            f"(||after - before|| / ||before||){fresh}"
        )
        for line in balanced:
            print(f"balanced for {line} in root mean square, and are 1")
    with files.atomic(args.out) as temporary:
        train.save(str(temporary))
    return report


def print_table(report: surgery.Report) -> None:
    """Print a line a layer: name, type, shapes, what happened to it."""
    rows = [("layer", "type", "shape", "")] + [
        (r.layer, r.type, r.shape, r.what + (f" ({r.note})" if r.note else "")) for r in report.rows
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths + [0])).rstrip())
    counts = {what: report.count(what) for what in ("copied", "made", "filled", "shape differs", "unused")}
    print(", ".join(f"{count} {what}" for what, count in counts.items() if count))


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    parser.add_argument("--weights", required=True, metavar="SOURCE", help="caffemodel to copy from")
    parser.add_argument("--net", required=True, metavar="TARGET", help="train_val.prototxt to make weights for")
    parser.add_argument("--out", required=True, type=Path, metavar="CAFFEMODEL")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="PHOTOS",
        help="LMDB or folder of photos whose statistics new BatchNorms take; the net's answers stay",
    )
    parser.add_argument("--images", type=int, default=32, metavar="N", help="photos to calibrate on (default 32)")
    parser.add_argument("--mean", help="mean file for --calibrate (default: the one that TARGET names)")
    parser.add_argument(
        "--balance",
        action="store_true",
        help="with --calibrate: maps that new inner products read get size 1; copied layers compute the same",
    )
    parser.add_argument("--seed", type=int, help="random seed of the fillers")
    engine.add_arguments(parser)
    args = parser.parse_args(argv)
    check_range(args, "seed", 0, 2**32 - 1)
    check_range(args, "images", 2)
    if args.balance and not args.calibrate:
        parser.error("--balance needs --calibrate PHOTOS")
    outputs.check(args.out)
    print_table(operate(args))
    print(f"wrote {args.out}")
    outputs.say(f"Next: train from it: ilgnet train --weights {args.out} --solver SOLVER")
    return 0
