"""Print statistics of AVA.txt: photos, votes and scores.

Example:
  ilgnet ratings out/demo/ava/AVA.txt
"""

from pathlib import Path

from ilgnet.ava.ratings import read_ratings
from ilgnet.cli.arguments import make_parser


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("ava_txt", type=Path, help="AVA.txt")
    ava_txt = parser.parse_args(argv).ava_txt
    ratings = read_ratings(ava_txt)
    voters = [rating.voters for rating in ratings]
    means = [rating.mean for rating in ratings]
    high = sum(mean > 5 for mean in means)
    print(f"photos  {len(ratings)}: {len(ratings) - high} low (mean <= 5), {high} high")
    print(f"votes   {min(voters)} to {max(voters)} a photo, {sum(voters) / len(voters):.1f} on average")
    print(f"means   {min(means):.4f} to {max(means):.4f}; {sum(m == 5 for m in means)} at exactly 5")
    print(f"Next: make LMDBs: ilgnet prepare {ava_txt.parent} --out DATA")
    return 0
