"""Check that an AVA folder is complete and has no leak.

Looks for missing, broken, duplicate and unlisted photos, and for photos both in
training and in test. The exit status is 1 if it finds any.

Example:
  ilgnet check-ava out/demo/ava --lists out/demo/ava/lists
"""

import json
import os
from pathlib import Path

from ilgnet.ava.check_ava import FINDINGS, check
from ilgnet.ava.ratings import read_ratings
from ilgnet.ava.splits import make_split
from ilgnet.cli import splits
from ilgnet.cli.arguments import make_parser
from ilgnet.run import outputs
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import write_bytes


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("ava", type=Path, metavar="AVA", help="folder with AVA.txt and images/")
    parser.add_argument("--images", type=Path, help="folder of the photos (AVA/images)")
    parser.add_argument("--out", type=Path, help="JSON file to write the whole report to")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads (one a core)")
    splits.add_arguments(parser)
    args = parser.parse_args(argv)
    images = args.images or args.ava / "images"
    for path in (args.ava / "AVA.txt", images):
        if not path.exists():
            raise CaffeError(f"{path}: not there; AVA's folder holds AVA.txt and images/")
    ratings = read_ratings(args.ava / "AVA.txt")
    split = make_split(ratings, splits.choice(args))
    if args.out:
        outputs.check(args.out)
    report = check(images, split, [rating.photo for rating in ratings], max(1, args.workers))
    print(f"{report['photos']} photos in AVA.txt and lists ({split.how})")
    for name in FINDINGS:
        items = report[name]
        first = f", {json.dumps(items[0])} for one" if items else ""
        print(f"{name.replace('_', ' '):21s}{len(items)}{first}")
    if args.out:
        write_bytes(args.out, (json.dumps(report, indent=1) + "\n").encode())
    print(f"Next: make its LMDBs: ilgnet prepare {args.ava} --out DATA")
    return int(any(report[name] for name in FINDINGS))
