"""Print what an AVA.txt holds: photos, votes, mean scores, low and high photos."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ilgnet.ava.ratings import read_ratings


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ava_txt", type=Path, help="AVA.txt")
    ratings = read_ratings(parser.parse_args(argv).ava_txt)
    voters = [rating.voters for rating in ratings]
    means = [rating.mean for rating in ratings]
    high = sum(mean > 5 for mean in means)
    print(f"photos  {len(ratings)}: {len(ratings) - high} low (mean <= 5), {high} high")
    print(f"votes   {min(voters)} to {max(voters)} a photo, {sum(voters) / len(voters):.1f} on average")
    print(f"means   {min(means):.4f} to {max(means):.4f}; {sum(m == 5 for m in means)} at exactly 5")
    return 0
