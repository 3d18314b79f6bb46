"""Make training and test LMDBs, mean image, lists and a manifest of an AVA folder, or of your own labelled photos.

`ilgnet prepare AVA --dataset ava1 --out data/ava1`, or `ilgnet prepare --labels MINE.csv --images DIR --out data/mine`.
An interrupted run resumes where it was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ilgnet.ava import labels, prepare, targets
from ilgnet.cli import make_lmdb, splits


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ava", type=Path, nargs="?", metavar="AVA", help="folder with AVA.txt and images/")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="your own: file, and label, mean or votes")
    parser.add_argument("--cut", type=float, default=labels.CUT, help=f"--labels: means above are high ({labels.CUT})")
    parser.add_argument("--held-out", type=float, default=0.2, help="--labels: share of each class that tests (0.2)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=Path, help="folder of the photos (AVA/images, or the CSV's)")
    parser.add_argument(
        "--targets",
        nargs="+",
        default=[],
        choices=targets.KINDS,
        metavar="KIND",
        help=f"also write LMDBs of labels, for gen-net --target: {', '.join(targets.KINDS)}",
    )
    parser.add_argument("--keep-order", action="store_true", help="store photos in the lists' order, not shuffled")
    splits.add_arguments(parser)
    make_lmdb.add_arguments(parser)
    args = parser.parse_args(argv)
    if (args.ava is None) == (args.labels is None):
        parser.error("give AVA, or --labels CSV")
    others, whose = ("cut", "held_out"), "--labels"
    if args.labels is not None:
        others, whose = ("dataset", "thresholds", "lists"), "AVA, not for --labels"
    for name in others:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is for {whose}")
    options = make_lmdb.options_of(args)
    if args.labels is not None:
        source = prepare.read_own(args.labels, args.images, args.cut, args.held_out, args.seed)
    else:
        source = prepare.read_ava(args.ava, args.images, splits.choice(args))
    manifest = prepare.prepare(source, args.out, options, args.seed, args.keep_order, args.targets, args.workers)
    for note in manifest["notes"]:
        print("note: " + note)
    lost = sum(len(manifest[name]["skipped"]) for name in ("train", "val"))
    print(f"{args.out}: ready" + (f"; {lost} photos left out, named in manifest.json" if lost else ""))
    return 0
