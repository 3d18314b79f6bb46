"""Make LMDBs and the mean image from AVA or your own photos.

Writes train_lmdb, val_lmdb, the mean, the lists and a manifest. For your own
photos, give a CSV of labels with --labels. An interrupted run resumes.

Example:
  ilgnet prepare out/demo/ava --dataset ava1 --lists out/demo/ava/lists \\
    --out out/demo/data
"""

from pathlib import Path

from ilgnet.ava import labels, prepare, targets
from ilgnet.cli import make_lmdb, splits
from ilgnet.cli.arguments import given, make_parser

SPLIT = ("dataset", "thresholds", "lists", "test_photos", "drop_unrated")  # options of AVA's sets


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
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
    for option in given(parser, args, SPLIT if args.labels else ("cut", "held_out")):
        parser.error(f"{option} is for " + ("AVA, not for --labels" if args.labels else "--labels"))
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
    print(f"Next: write a net that trains on it: ilgnet gen-net --variant v1bn --source {args.out}")
    return 0
