"""One's own labels: a CSV of photos that one keeps or rejects, or rates, for `prepare.py --labels` and for measuring.

Its first line names the columns, in any order; others than these are passed over:
file    the photo, below the images folder; stars, 1 to 5, may be given besides, for rating sidecars
label   1, high or keep; 0, low or reject (`pick`, which the gallery of tools/rank_photos.py exports, is the same)
mean    a mean score; above --cut (default 5, AVA's rule) is high
votes   how many voted 1, 2, ..., as whole numbers parted by spaces (AVA has ten)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ilgnet.ava.splits import Entry, Split, shuffled
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import read_bytes

CUT = 5.0
WORDS = {"1": 1, "high": 1, "keep": 1, "0": 0, "low": 0, "reject": 0}
_FORMULA = "=+-@\t\r'"  # what a spreadsheet takes for a formula's beginning, and the mark that keeps it from that


@dataclass(frozen=True)
class Label:
    """A photo's label (1: high, 0: low; None: not decided), what it came from, and a person's stars, if any."""

    photo: str
    label: int | None
    mean: float | None = None
    votes: tuple[int, ...] = ()
    stars: int | None = None


def safe_cell(text: str) -> str:
    """Text for a CSV's cell that no spreadsheet takes for a formula; plain_cell undoes it."""
    return "'" + text if text[:1] and text[0] in _FORMULA else text


def plain_cell(text: str) -> str:
    """What safe_cell was given."""
    return text[1:] if len(text) > 1 and text[0] == "'" and text[1] in _FORMULA else text


def read_labels(path: Path | str, cut: float = CUT, only_names: bool = False) -> list[Label]:
    """All photos of the CSV that have a label, in its order. only_names: for who compares the names and opens no file
    by them; any name will do then (a gallery shows what is no text as an escape), and an empty label, too.

    CaffeError naming file and line: a column missing, a value that is none, a photo twice, a path out of the folder."""
    path = Path(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaffeError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = [" ".join(name.split()).lower() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise CaffeError(f"{path}:1: {error}") from None
    reader.fieldnames = columns
    kind = next((name for name in ("label", "pick", "mean", "votes") if name in columns), None)
    if "file" not in columns or kind is None:
        raise CaffeError(
            f"{path}: line 1: expected the column file and one of label, pick, mean, votes; "
            f"found {', '.join(columns) or 'nothing'}"
        )
    found: list[Label] = []
    line_of: dict[str, int] = {}
    for row in _rows(reader, path):
        where = f"{path}:{reader.line_num}"
        photo, value = plain_cell(row["file"] or ""), (row[kind] or "").strip()
        if not photo.strip():
            raise CaffeError(f"{where}: file: empty")
        if not (photo.isprintable() or only_names):  # a line end would break the lists that are written of it
            raise CaffeError(f"{where}: file: {photo!r} holds characters that cannot be printed")
        path_of = PurePosixPath(photo)
        if not only_names:
            photo = str(path_of)  # ./a.jpg is a.jpg: one photo must not be there with two labels
        if photo in line_of:
            raise CaffeError(f"{where}: file: {photo} was already on line {line_of[photo]}")
        line_of[photo] = reader.line_num
        if (path_of.is_absolute() or ".." in path_of.parts or "\\" in photo) and not only_names:
            raise CaffeError(f"{where}: file: {photo} is not below the images folder (write folders with /)")
        if value or only_names:
            label = _label(photo, kind, value.lower(), cut, where) if value else Label(photo, None)
            found.append(replace(label, stars=_stars((row.get("stars") or "").strip(), where)))
    if not found:
        raise CaffeError(f"{path}: no labelled photos in it")
    return found


def _rows(reader: csv.DictReader, path: Path) -> Iterator[dict]:
    """The rows; what is no CSV at all is a CaffeError, too."""
    try:
        yield from reader
    except csv.Error as error:
        raise CaffeError(f"{path}:{reader.line_num}: {error}") from None


def _label(photo: str, kind: str, value: str, cut: float, where: str) -> Label:
    if kind in ("label", "pick"):
        if value not in WORDS:
            raise CaffeError(f"{where}: {kind}: {value!r} is none of {', '.join(WORDS)}")
        return Label(photo, WORDS[value])
    try:
        if kind == "mean":
            mean, votes = float(value), ()
        else:
            votes = tuple(int(word) for word in value.split())
            mean = sum(score * count for score, count in enumerate(votes, 1)) / sum(votes)
        if not -1e6 < mean < 1e6 or min(votes, default=0) < 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise CaffeError(
            f"{where}: {kind}: {value!r} is not {'a number' if kind == 'mean' else 'vote counts'}"
        ) from None
    return Label(photo, int(mean > cut), mean, votes)


def _stars(value: str, where: str) -> int | None:
    if value not in ("", "1", "2", "3", "4", "5"):
        raise CaffeError(f"{where}: stars: {value!r} is not 1 to 5")
    return int(value) if value else None


def split(rows: Sequence[Label], seed: int, held_out: float) -> Split:
    """A random split that leaves both halves the same share of high photos: `held_out` of each class, at least one.

    CaffeError where a class has fewer than two photos."""
    if not 0 < held_out < 1:
        raise CaffeError(f"--held-out {held_out}: must be above 0 and below 1")
    train: list[Entry] = []
    val: list[Entry] = []
    for label, name in ((0, "low"), (1, "high")):
        photos = shuffled([Entry(row.photo, label) for row in rows if row.label == label], seed)
        if len(photos) < 2:
            raise CaffeError(f"labels: {len(photos)} {name} photo(s); at least 2 of each class are needed")
        count = min(max(1, round(held_out * len(photos))), len(photos) - 1)
        val += photos[:count]
        train += photos[count:]
    return Split(train, val, f"random, {held_out} of each class held out, seed {seed}", "own")
