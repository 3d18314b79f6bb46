"""Photos to an LMDB, as convert_imageset makes it: `python data_prep/make_lmdb.py PHOTOS/ train.txt train_lmdb`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ilgnet.ava.splits import shuffled
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.data.imageset import Imageset, Options, convert_imageset, read_list

SIZE = 256  # the authors' LMDBs hold photos warped to 256 x 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how photos are stored."""
    parser.add_argument("--size", type=int, default=SIZE, help=f"warp to SIZE x SIZE; 0: leave as it is ({SIZE})")
    parser.add_argument("--encoded", choices=("jpeg", "png"), help="store compressed (jpeg: about a ninth of the disk)")
    parser.add_argument(
        "--quality", type=int, default=90, help="of JPEG (90; BVLC's convert_imageset uses 95: a sixth)"
    )
    parser.add_argument("--gray", action="store_true", help="store one channel")
    parser.add_argument("--workers", type=int, help="threads that decode (one a core)")


def options_of(args: argparse.Namespace) -> Options:
    """convert_imageset's flags for add_arguments' options."""
    if args.size < 0 or not 1 <= args.quality <= 100 or (args.workers is not None and args.workers < 1):
        raise CaffeError("--size must be at least 0, --quality 1 to 100, --workers at least 1")
    resize = (args.size, args.size) if args.size else None
    return Options(resize, args.gray, {None: "", "jpeg": "jpg", "png": "png"}[args.encoded], args.quality)


def summary(name: str, result: Imageset) -> str:
    """A line on what came of it."""
    labels = ", ".join(f"{count} of label {label}" for label, count in sorted(result.labels.items()))
    lost = f"; {len(result.skipped)} photos left out" if result.skipped else ""
    lost += f"; {len(result.damaged)} damaged" if result.damaged else ""
    return f"{name}: {result.records} records ({labels}), {result.size / 2**20:.1f} MiB{lost}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write photos into an LMDB, byte for byte as BVLC's convert_imageset. Resumes where it was cut short."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photos", type=Path, help="folder of the photos")
    parser.add_argument("list", type=Path, help="text file, a line a photo: NAME LABEL")
    parser.add_argument("lmdb", type=Path, help="folder to write")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="in an order that SEED decides, not the list's")
    add_arguments(parser)
    args = parser.parse_args(argv)
    photos = read_list(args.list)
    if args.shuffle is not None:
        photos = shuffled(photos, args.shuffle)
    result = convert_imageset(args.photos, photos, args.lmdb, options_of(args), args.workers)
    print(summary(args.lmdb.name, result))
    for what, unread in [("left out", result.skipped), ("damaged", result.damaged)]:
        for name, reason in unread:
            print(f"{what}: {name}: {reason}")
    return 0


if __name__ == "__main__":
    run_main(main)
