"""Write the training and test lists of AVA1 or AVA2.

`ilgnet prepare` does this as its first step.

Example:
  ilgnet splits out/demo/ava/AVA.txt --dataset ava2 --out out/demo/lists
"""

import argparse
from pathlib import Path

from ilgnet.ava import splits
from ilgnet.ava.ratings import read_ratings
from ilgnet.cli.arguments import make_parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a split."""
    low, high = splits.RELEASED_THRESHOLDS
    parser.add_argument(
        "--dataset", choices=splits.DATASETS, default="ava1", help="which of the paper's data sets (default ava1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random split and of the LMDBs' order (1)")
    parser.add_argument(
        "--thresholds",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"AVA2: choose by mean score instead; the released lists': {low} {high}",
    )
    parser.add_argument("--lists", type=Path, metavar="DIR", help="DIR with the split: train.txt and val.txt")
    parser.add_argument(
        "--test-photos", type=int, metavar="N", help="AVA1: that many test photos; the paper prints 19930"
    )
    parser.add_argument(
        "--drop-unrated",
        action="store_true",
        help="ava1_delta1 with --lists: leave out training photos without a rating",
    )


def choice(args: argparse.Namespace) -> splits.Choice:
    """The choice that add_arguments' options make."""
    return splits.Choice(args.dataset, args.seed, args.thresholds, args.lists, args.test_photos, args.drop_unrated)


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("ava_txt", type=Path, help="AVA.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.txt and val.txt")
    add_arguments(parser)
    args = parser.parse_args(argv)
    split = splits.make_split(read_ratings(args.ava_txt), choice(args))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, photos in (("train", split.train), ("val", split.val)):
        splits.write_list(args.out / f"{name}.txt", photos)
        number = splits.counts(photos)
        print(f"{name:5s} {number['photos']} photos: {number['low']} low, {number['high']} high")
    for note in split.notes:
        print("note: " + note)
    print(f"Next: write the photos to an LMDB: ilgnet make-lmdb PHOTOS {args.out / 'train.txt'} train_lmdb")
    return 0
