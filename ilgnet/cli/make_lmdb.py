"""Write photos to an LMDB, as convert_imageset does.

`ilgnet prepare` does this as its second step. An interrupted run resumes.

Example:
  ilgnet make-lmdb out/demo/ava/images out/demo/lists/train.txt \\
    out/demo/train_lmdb --shuffle 1
"""

import argparse
from pathlib import Path

from ilgnet.ava.prepare import summary
from ilgnet.ava.splits import shuffled
from ilgnet.cli.arguments import check_range, make_parser
from torchcaffe.data.imageset import Options, convert_imageset, read_list

SIZE = 256  # the authors' LMDBs hold photos warped to 256 x 256
QUALITY = 90  # of JPEG: a ninth of the disk; BVLC's convert_imageset takes 95, a sixth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how photos are stored."""
    parser.add_argument("--size", type=int, default=SIZE, help=f"warp to SIZE x SIZE; 0: leave as it is ({SIZE})")
    parser.add_argument("--encoded", choices=("jpeg", "png"), help="store compressed (jpeg: about a ninth of the disk)")
    parser.add_argument("--workers", type=int, help="threads that decode (one a core)")


def options_of(args: argparse.Namespace) -> Options:
    """convert_imageset's flags for add_arguments' options."""
    check_range(args, "size", 0)
    check_range(args, "workers")
    resize = (args.size, args.size) if args.size else None
    return Options(resize, encode={None: "", "jpeg": "jpg", "png": "png"}[args.encoded], quality=QUALITY)


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
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
    print(f"Next: compute its mean: ilgnet mean {args.lmdb}")
    return 0
