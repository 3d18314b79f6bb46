"""Labels of one's own: a CSV of photos that are kept or rejected, or rated, for `ilgnet prepare --labels` and for
measuring.

Its first line names the columns, in any order; other columns are ignored:
file    the photo, below the images folder; an optional column stars (1 to 5) is for rating sidecars
label   1, high or keep; 0, low or reject (`pick`, which the gallery of `ilgnet rank` exports, means the same)
mean    a mean score; above --cut (default 5, AVA's rule) is high
votes   counts of the votes 1, 2, ..., as whole numbers separated by spaces (AVA has ten)

Where there are several of them, the first one gives the label; the others may be empty."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ilgnet.ava.ratings import mean_vote, read_utf8
from ilgnet.ava.splits import Entry, Split, shuffled
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike

CUT = 5.0
WORDS = {"1": 1, "high": 1, "keep": 1, "0": 0, "low": 0, "reject": 0}
_FORMULA = "=+-@\t\r'"  # characters that begin a formula in a spreadsheet, and the mark that prevents it


@dataclass(frozen=True)
class Label:
    """A photo's label (1: high, 0: low; None: undecided), the mean or votes it comes from, and stars, if any."""

    photo: str
    label: int | None
    mean: float | None = None
    votes: tuple[int, ...] = ()
    stars: int | None = None


def safe_cell(text: str) -> str:
    """Text for a CSV cell that no spreadsheet reads as a formula. plain_cell undoes it."""
    return "'" + text if text[:1] and text[0] in _FORMULA else text


def plain_cell(text: str) -> str:
    """The text given to safe_cell."""
    return text[1:] if len(text) > 1 and text[0] == "'" and text[1] in _FORMULA else text


def read_labels(path: PathLike, cut: float = CUT, only_names: bool = False) -> list[Label]:
    """All photos of the CSV that have a label, in its order. only_names: for callers that open no file by the names:
    any name is accepted then (a gallery shows undecodable names escaped), and so is an empty label.

    CaffeError naming file and line for a missing column, a bad value, a repeated photo, a path outside the folder."""
    reader = csv.DictReader(io.StringIO(read_utf8(path), newline=""))
    try:
        columns = [" ".join(name.split()).lower() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise CaffeError(f"{path}:1: {error}") from None
    reader.fieldnames = columns
    kinds = [name for name in ("label", "pick", "mean", "votes") if name in columns]
    if "file" not in columns or not kinds:
        raise CaffeError(
            f"{path}: line 1: expected the column file and one of label, pick, mean, votes; "
            f"found {', '.join(columns) or 'nothing'}"
        )
    found: list[Label] = []
    line_of: dict[str, int] = {}
    for row in _rows(reader, path):
        where = f"{path}:{reader.line_num}"
        photo = plain_cell(row["file"] or "")
        values = {kind: (row[kind] or "").strip().lower() for kind in kinds}
        if not photo.strip():
            raise CaffeError(f"{where}: file: empty")
        if not (photo.isprintable() or only_names):  # a line end would break the lists
            raise CaffeError(f"{where}: file: {photo!r} holds characters that cannot be printed")
        path_of = PurePosixPath(photo)
        if not only_names:
            photo = str(path_of)  # ./a.jpg is a.jpg: one photo must not be there with two labels
        if photo in line_of:
            raise CaffeError(f"{where}: file: {photo} was already on line {line_of[photo]}")
        line_of[photo] = reader.line_num
        if (path_of.is_absolute() or ".." in path_of.parts or "\\" in photo) and not only_names:
            raise CaffeError(f"{where}: file: {photo} is not below the images folder (write folders with /)")
        if values[kinds[0]] or only_names:
            label = Label(photo, None)
            for kind in reversed(kinds):  # the first one's label counts
                if values[kind]:
                    label = _label(label, kind, values[kind], cut, where)
            found.append(replace(label, stars=_stars((row.get("stars") or "").strip(), where)))
    if not found:
        raise CaffeError(f"{path}: no labelled photos in it")
    return found


def _rows(reader: csv.DictReader, path: PathLike) -> Iterator[dict]:
    """The rows. CaffeError for malformed CSV."""
    try:
        yield from reader
    except csv.Error as error:
        raise CaffeError(f"{path}:{reader.line_num}: {error}") from None


def _label(known: Label, kind: str, value: str, cut: float, where: str) -> Label:
    """What a cell adds to what is known of a photo."""
    if kind in ("label", "pick"):
        if value not in WORDS:
            raise CaffeError(f"{where}: {kind}: {value!r} is none of {', '.join(WORDS)}")
        return replace(known, label=WORDS[value])
    votes = known.votes
    try:
        if kind == "mean":
            mean = float(value)
        else:
            votes = tuple(int(word) for word in value.split())
            mean = mean_vote(votes)
        if not -1e6 < mean < 1e6 or min(votes, default=0) < 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise CaffeError(
            f"{where}: {kind}: {value!r} is not {'a number' if kind == 'mean' else 'vote counts'}"
        ) from None
    return replace(known, label=int(mean > cut), mean=mean, votes=votes)


def _stars(value: str, where: str) -> int | None:
    if value not in ("", *"12345"):
        raise CaffeError(f"{where}: stars: {value!r} is not 1 to 5")
    return int(value) if value else None


def split(rows: Sequence[Entry], seed: int, held_out: float) -> Split:
    """A random split that leaves both halves the same share of high photos: `held_out` of each class, at least one.

    CaffeError where a class has fewer than two photos."""
    if not 0 < held_out < 1:
        raise CaffeError(f"--held-out {held_out}: must be above 0 and below 1")
    train: list[Entry] = []
    val: list[Entry] = []
    for label, name in ((0, "low"), (1, "high")):
        photos = shuffled([row for row in rows if row.label == label], seed)
        if len(photos) < 2:
            raise CaffeError(f"labels: {len(photos)} {name} photo(s); at least 2 of each class are needed")
        count = min(max(1, round(held_out * len(photos))), len(photos) - 1)
        val += photos[:count]
        train += photos[count:]
    return Split(train, val, f"random, {held_out} of each class held out, seed {seed}", "own")
