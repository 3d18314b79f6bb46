"""Make a demo set: a folder like AVA's with good and bad photos, whose (synthetic) labels are known."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ilgnet.demo.demo_set import COUNT, SEED, SYNTHETIC, make_demo


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
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
    return 0
