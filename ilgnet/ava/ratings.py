"""Reader of AVA.txt: ten vote counts a photo.

A row has 15 whole numbers: index, image id, votes for the scores 1 to 10, two semantic tags (0: none), challenge."""

import operator
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from ilgnet.nets.targets import SCORES
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike, read_bytes

FIELDS = ("index", "image id", *(f"votes for {score}" for score in range(1, SCORES + 1)), "tag 1", "tag 2", "challenge")


class Rating(NamedTuple):
    """One photo's row of AVA.txt."""

    id: int
    votes: tuple[int, ...]  # how many voted 1, 2, ..., 10
    tags: tuple[int, int]  # 0: none
    challenge: int

    @property
    def voters(self) -> int:
        """How many people voted."""
        return sum(self.votes)

    @property
    def mean(self) -> float:
        """The mean score, 1 to 10."""
        return mean_vote(self.votes)

    @property
    def photo(self) -> str:
        """The photo's file name in AVA's images folder and in the released lists."""
        return f"{self.id}.jpg"


def read_utf8(path: PathLike) -> str:
    """A text file, with or without a byte order mark. CaffeError where it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaffeError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None


def mean_vote(votes: Sequence[int]) -> float:
    """The mean score of counts of votes for 1, 2, ...

    Python divides whole numbers with a single rounding, so equal means compare equal and exactly 5 is 5.0: many photos
    of AVA are there, on the edge between the labels. ZeroDivisionError where nobody voted."""
    return sum(map(operator.mul, votes, count(1))) / sum(votes)


def read_ratings(path: PathLike) -> list[Rating]:
    """All rows of an AVA.txt, in file order.

    A byte order mark, CRLF line ends and blank lines are fine. Anything else that is not AVA's format raises CaffeError
    with file:line and field: a column too few or too many, a number that is none, a photo without a vote or twice."""
    ratings: list[Rating] = []
    line_of: dict[int, int] = {}
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{number}"
        if len(words) != len(FIELDS):
            lacks = f", no {FIELDS[len(words)]}" if len(words) < len(FIELDS) else ""
            raise CaffeError(f"{where}: {len(words)} columns{lacks} (AVA.txt has {len(FIELDS)}: {', '.join(FIELDS)})")
        values = []
        for field, word in zip(FIELDS, words):
            # str.isdigit alone would let other scripts' digits and superscripts through.
            if not (word.isascii() and word.isdigit() and len(word) <= 18):
                raise CaffeError(f"{where}: {field}: {word[:40]!r} is not a whole number, or too large")
            values.append(int(word))
        rating = Rating(values[1], tuple(values[2:-3]), (values[-3], values[-2]), values[-1])
        if rating.voters == 0:
            raise CaffeError(f"{where}: votes: photo {rating.id} has none, so no mean score")
        if rating.id in line_of:
            raise CaffeError(f"{where}: image id: {rating.id} was already on line {line_of[rating.id]}")
        line_of[rating.id] = number
        ratings.append(rating)
    if not ratings:
        raise CaffeError(f"{path}: no ratings in it")
    return ratings
