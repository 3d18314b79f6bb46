"""Make a net's starting weights from another net's: copy by name what fits, fill the rest, prepare BatchNorms."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.photos import preprocess
from ilgnet.run import engine, outputs
from ilgnet.weights import surgery
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.formats import caffemodel, files, upgrade


def images_for(net: Any, folder: Path, count: int, mean: str | None, source: str = "net") -> np.ndarray:
    """(count, 3, H, W): the first photos of an LMDB or a folder, preprocessed as the net's own data layer says."""
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


def operate(args: argparse.Namespace) -> surgery.Report:
    """Build the net with its fillers, transplant, calibrate if asked, save."""
    caffe = engine.load_engine(args.engine, args.gpu)
    source = caffemodel.read_caffemodel(args.weights)
    net = upgrade.read_net(args.net)
    images = images_for(net, args.calibrate, args.images, args.mean, args.net) if args.calibrate else None
    if args.seed is not None:
        caffe.set_random_seed(args.seed)
    train_net = engine.without_data(net, caffe.TRAIN, source=args.net)
    train = engine.make_net(caffe, train_net, caffe.TRAIN, args.net)
    report = surgery.transplant(train_net, engine.arrays(train), source)
    if not report.count("copied"):
        raise CaffeError(f"nothing was copied: no layer of {args.weights} fits one of the same name in {args.net}")
    if images is not None:
        test_net = engine.without_data(net, caffe.TEST, source=args.net)
        test = engine.make_net(caffe, test_net, caffe.TEST, args.net)
        surgery.share(train, test)
        change, count = surgery.calibrate_on(test, test_net, report, images)
        surgery.share(test, train)
        fresh = "; behind new layers they normalise" if any(bias is None for bias in report.made.values()) else ""
        print(
            f"calibrated {count} BatchNorm layers on {len(images)} photos; the scores moved by {change:.1e} "
            f"(||after - before|| / ||before||){fresh}"
        )
    with files.atomic(args.out) as temporary:
        train.save(str(temporary))
    return report


def print_table(report: surgery.Report) -> None:
    """One line a layer: name, type, shapes, what happened to it."""
    rows = [("layer", "type", "shape", "")] + [
        (r.layer, r.type, r.shape, r.what + (f" ({r.note})" if r.note else "")) for r in report.rows
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths + [0])).rstrip())
    counts = {what: report.count(what) for what in ("copied", "made", "filled", "shape differs", "unused")}
    print(", ".join(f"{count} {what}" for what, count in counts.items() if count))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, metavar="SOURCE", help="caffemodel to take weights from")
    parser.add_argument("--net", required=True, metavar="TARGET", help="prototxt to make weights for (train_val)")
    parser.add_argument("--out", required=True, type=Path, metavar="CAFFEMODEL")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="PHOTOS",
        help="LMDB or folder: give new BatchNorms these photos' statistics, keeping the net's answers",
    )
    parser.add_argument("--images", type=int, default=32, metavar="N", help="photos to calibrate on (default 32)")
    parser.add_argument("--mean", help="mean file for --calibrate (default: the one that TARGET names)")
    parser.add_argument("--seed", type=int, help="random seed of the fillers")
    engine.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.seed is not None and not 0 <= args.seed < 2**32:
        raise CaffeError(f"--seed {args.seed}: must be at least 0 and below 2^32")
    if args.images < 2:
        raise CaffeError(f"--images {args.images}: a calibration needs at least 2")
    outputs.check(args.out)
    log.set_level(2)
    print_table(operate(args))
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
