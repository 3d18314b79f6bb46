"""Make a small data set like AVA, with known labels.

It paints scenes, or takes your photographs with --photos, and spoils a part of
them: those are the low photos. The labels are synthetic.

Example:
  ilgnet demo --out out/demo/ava --count 900
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.demo.demo_set import COUNT, SEED, SYNTHETIC, make_demo


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write: AVA.txt, images/, lists/, DEMO.json")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="use DIR's photographs; without, scenes are painted")
    parser.add_argument("--count", type=int, default=COUNT, help=f"photos to make ({COUNT})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"({SEED})")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    args = parser.parse_args(argv)
    made = make_demo(args.out, args.photos, args.count, args.seed, args.workers)
    good = sum(not version.faults for version in made)
    sources = len({version.source for version in made})
    print(f"{args.out}: {len(made)} photos, {good} good, {len(made) - good} bad, of {sources} sources")
    print(SYNTHETIC)
    print(f"Next: make its LMDBs: ilgnet prepare {args.out} --lists {args.out / 'lists'} --out DATA")
    return 0
