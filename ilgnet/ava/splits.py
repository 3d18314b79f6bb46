"""Labels and splits: which photos train, which test, and which class each is in (paper, section 4.1).

AVA1    all photos; label 1 (high) iff the mean is above 5; delta drops 5 - delta < mean < 5 + delta from training.
AVA2    the tenth with the highest means (1) and the tenth with the lowest (0), or those beyond two thresholds; halved.
lists   the authors' train.txt and val.txt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ilgnet.ava.ratings import Rating, read_utf8
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike, write_bytes

DATASETS = ("ava1", "ava1_delta1", "ava2")
FRACTION = Fraction(1, 10)  # AVA2's share of AVA in each class
RELEASED_THRESHOLDS = (4.4653, 6.3077)  # AVA2: the highest low mean and the lowest high mean of the released lists
AVA_PHOTOS, AVA_LOW, AVA_HIGH = 255529, 74673, 180856  # the paper's counts, and the released lists'
AVA1_TRAIN, AVA1_VAL = 235529, 20000  # the released lists'
AVA2_EACH = 25553  # photos a class, and photos a list


class Entry(NamedTuple):
    """A line of train.txt or val.txt."""

    photo: str  # file name, below the images folder
    label: int  # 1: high quality, 0: low


@dataclass
class Split:
    """The photos to train and to test on, in the lists' order, and notes on them."""

    train: list[Entry]
    val: list[Entry]
    how: str
    dataset: str = ""  # one of DATASETS, or a description of another set, which reports keep out of the paper's tables
    dropped_by_delta: int = 0
    notes: list[str] = field(default_factory=list)


def label(rating: Rating) -> int:
    """1 iff the mean score is above 5; exactly 5 is low, as in the released lists."""
    return int(rating.mean > 5)


def is_ambiguous(rating: Rating) -> bool:
    """Whether 4 < mean < 6: the photos that delta = 1 drops."""
    return 4 < rating.mean < 6


def entries(ratings: Sequence[Rating]) -> list[Entry]:
    """Photos with their AVA1 labels."""
    return [Entry(rating.photo, label(rating)) for rating in ratings]


def shuffled(items: Sequence, seed: int) -> list:
    """The items in an order that the seed alone decides (NumPy's RandomState stream is frozen across versions)."""
    if not 0 <= seed < 2**32:
        raise CaffeError(f"seed {seed}: must be at least 0 and below 2^32")
    return [items[i] for i in np.random.RandomState(seed).permutation(len(items))]


def split_ava1(ratings: Sequence[Rating], seed: int, test_photos: int | None) -> Split:
    """A random split in the released lists' sizes (235,529 + 20,000), in proportion for another number of photos, or
    with a number of test photos (the paper's own: 19,930)."""
    if len(ratings) < 2:
        raise CaffeError("AVA1: only 1 photo has a row in AVA.txt; a split needs 2")
    order = shuffled(ratings, seed)
    held_out = test_photos or max(1, round(len(order) * AVA1_VAL / AVA_PHOTOS))
    if held_out >= len(order):
        raise CaffeError(f"test photos {held_out}: only {len(order)} photos have a row in AVA.txt")
    how = f"random, seed {seed}" + (f", {test_photos} test photos" if test_photos else "")
    return Split(entries(order[held_out:]), entries(order[:held_out]), how)


def choose_ava2(ratings: Sequence[Rating], thresholds: Sequence[float] | None = None) -> list[Entry]:
    """AVA2's photos: the tenth with the highest means and the tenth with the lowest (ties by image id), or, given
    thresholds (low, high), those with mean <= low and mean >= high."""
    if thresholds is not None:
        low, high = thresholds
        if not low < high:
            raise CaffeError(f"AVA2 thresholds {low} and {high}: the low one must be below the high one")
        bad = [rating for rating in ratings if rating.mean <= low]
        good = [rating for rating in ratings if rating.mean >= high]
    else:
        ordered = sorted(ratings, key=lambda rating: (rating.mean, rating.id))
        count = int(len(ordered) * FRACTION + Fraction(1, 2))  # 25,552.9 of AVA gives the paper's 25,553
        bad, good = ordered[:count], ordered[len(ordered) - count :]
    return [Entry(rating.photo, 0) for rating in bad] + [Entry(rating.photo, 1) for rating in good]


def split_ava2(ratings: Sequence[Rating], seed: int, thresholds: Sequence[float] | None) -> Split:
    """AVA2's photos in two random halves (not balanced by class, as the released lists are not)."""
    order = shuffled(choose_ava2(ratings, thresholds), seed)
    if len(order) < 2:
        raise CaffeError(f"AVA2: only {len(order)} photo(s) chosen from {len(ratings)} ratings")
    how = f"thresholds {thresholds[0]} and {thresholds[1]}" if thresholds else "fraction 0.1"
    half = len(order) // 2
    return Split(order[half:], order[:half], f"{how}, random halves, seed {seed}")


def read_list(path: PathLike) -> list[Entry]:
    """A train.txt or val.txt: a file name and a label (0 or 1) a line, parted by the last space (as BVLC's)."""
    result: list[Entry] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if not line.strip():
            continue
        name, _, word = line.strip().rpartition(" ")
        name = name.strip()
        if not name or word not in ("0", "1"):
            raise CaffeError(f"{path}:{number}: label: expected 'NAME 0' or 'NAME 1', found {line.strip()[:80]!r}")
        if name in line_of:
            raise CaffeError(f"{path}:{number}: name: {name} was already on line {line_of[name]}")
        line_of[name] = number
        result.append(Entry(name, int(word)))
    if not result:
        raise CaffeError(f"{path}: no photos in it")
    return result


def write_list(path: PathLike, photos: Sequence[Entry]) -> None:
    """Write a train.txt or val.txt."""
    write_bytes(path, "".join(f"{photo} {value}\n" for photo, value in photos).encode())


def split_by_lists(folder: PathLike, ratings: Sequence[Rating]) -> Split:
    """The split and the labels of FOLDER/train.txt and FOLDER/val.txt; labels that AVA.txt contradicts are noted.

    AVA2's lists label by rank, not by 5, but no mean near 5 is in them, so the same comparison holds."""
    folder = Path(folder)
    train, val = read_list(folder / "train.txt"), read_list(folder / "val.txt")
    if both := dict(train).keys() & dict(val).keys():
        raise CaffeError(f"{folder}: {len(both)} photos are in both the training and the test list: {min(both)}, ...")
    known = dict(entries(ratings))
    unrated = [photo for photo, _ in train + val if photo not in known]
    against = [photo for photo, value in train + val if known.get(photo, value) != value]
    split = Split(train, val, f"lists in {folder.name}")
    if unrated:
        split.notes.append(f"{len(unrated)} photos of the lists have no row in AVA.txt, {unrated[0]} for one")
    if against:
        split.notes.append(f"{len(against)} labels of the lists disagree with AVA.txt's means, {against[0]} for one")
    return split


@dataclass(frozen=True)
class Choice:
    """Which split to make. CaffeError for values that do not go together.

    dataset: one of DATASETS. lists: a folder with train.txt and val.txt; without it, the split is random from the seed.
    thresholds: see choose_ava2. test_photos: see split_ava1. drop_unrated: with delta = 1, leave out training photos of
    the lists that have no rating."""

    dataset: str = "ava1"
    seed: int = 1
    thresholds: Sequence[float] | None = None
    lists: PathLike | None = None
    test_photos: int | None = None
    drop_unrated: bool = False

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise CaffeError(f"dataset {self.dataset!r}: one of {', '.join(DATASETS)}")
        if self.thresholds is not None and (self.dataset != "ava2" or self.lists is not None):
            raise CaffeError("thresholds: they choose AVA2's photos from AVA.txt, so not with other lists or data sets")
        if self.test_photos is not None and (self.test_photos < 1 or self.dataset == "ava2" or self.lists is not None):
            raise CaffeError(f"test photos {self.test_photos}: of AVA1's random split, 1 or more")
        if self.drop_unrated and (self.dataset != "ava1_delta1" or self.lists is None):
            raise CaffeError("drop unrated: for ava1_delta1 with lists, which may name photos without a rating")


def make_split(ratings: Sequence[Rating], choice: Choice) -> Split:
    """The split chosen, named, with its counts checked."""
    if choice.lists is not None:
        split = split_by_lists(choice.lists, ratings)
    elif choice.dataset == "ava2":
        split = split_ava2(ratings, choice.seed, choice.thresholds)
    else:
        split = split_ava1(ratings, choice.seed, choice.test_photos)
    left_out = 0
    if choice.dataset == "ava1_delta1":
        left_out = _drop_unrated(ratings, split, choice.drop_unrated)
        doubtful = {rating.photo for rating in ratings if is_ambiguous(rating)}
        kept = [entry for entry in split.train if entry.photo not in doubtful]
        split.dropped_by_delta = len(split.train) - len(kept)
        split.train = kept
        split.how += ", delta 1" + (f", {left_out} unrated photos left out" if left_out else "")
        if not kept:
            raise CaffeError("delta 1: leaves no photo to train on")
    split.notes += check_counts(ratings, split, choice.dataset)
    split.dataset = choice.dataset
    if choice.lists is not None:
        _check_lists(ratings, split)
    elif choice.thresholds is not None and tuple(choice.thresholds) != RELEASED_THRESHOLDS:
        split.dataset += f", thresholds {choice.thresholds[0]} and {choice.thresholds[1]}"
    if left_out:
        split.dataset += f", {left_out} unrated photos left out"
    if split.dataset not in DATASETS:
        split.notes.append(f"'{split.dataset}' is none of the paper's data sets: reports show it beside no figure")
    return split


def _drop_unrated(ratings: Sequence[Rating], split: Split, drop: bool) -> int:
    """Leave out training photos without a rating, of which nobody knows whether they are ambiguous. Returns how many.
    Raises CaffeError if there are some and they are not to be dropped."""
    rated = {rating.photo for rating in ratings}
    unrated = [photo for photo, _ in split.train if photo not in rated]
    if unrated and not drop:
        raise CaffeError(
            f"delta 1: {len(unrated)} training photos have no row in AVA.txt, {unrated[0]} for one, so whether they "
            "are ambiguous is not known; --drop-unrated leaves them out"
        )
    split.train = [entry for entry in split.train if entry.photo in rated]
    return len(unrated)


def _check_lists(ratings: Sequence[Rating], split: Split) -> None:
    """Detect lists of another data set: AVA2 has no photo between its two tenths, where most of AVA1 is."""
    low, high = RELEASED_THRESHOLDS
    means = {rating.photo: round(rating.mean, 4) for rating in ratings}  # rounded as the thresholds are
    rated = [photo for photo, _ in split.train + split.val if photo in means]
    between = [photo for photo in rated if low < means[photo] < high]
    is_ava2 = split.dataset == "ava2"
    if rated and bool(between) == is_ava2:
        split.dataset += ", other lists"
        split.notes.append(
            f"{len(between)} photos of the lists have means between {low} and {high}, {between[0]} for "
            "one: they are not AVA2's lists"
            if is_ava2
            else f"no photo of the lists has a mean between {low} and {high}: they are not AVA1's lists"
        )


def counts(photos: Sequence[Entry]) -> dict[str, int]:
    """How many photos, and of each class."""
    high = sum(entry.label for entry in photos)
    return {"photos": len(photos), "low": len(photos) - high, "high": high}


def check_counts(ratings: Sequence[Rating], split: Split, dataset: str) -> list[str]:
    """Compare the counts of a full AVA.txt and of the split with the paper's and the released lists', and explain the
    differences. A line a finding; none for a part of AVA."""
    if len(ratings) < 0.99 * AVA_PHOTOS:
        return []
    photos, lows, highs = counts(entries(ratings)).values()
    compared = ", as the paper says"
    if (photos, lows, highs) != (AVA_PHOTOS, AVA_LOW, AVA_HIGH):
        released = f"{AVA_PHOTOS}, {AVA_LOW} and {AVA_HIGH}"
        compared = f"; the paper and the released lists have {released}: rows were added or removed"
    notes = [f"AVA.txt: {photos} photos, {lows} low and {highs} high{compared}"]
    train, val = len(split.train) + split.dropped_by_delta, len(split.val)
    if dataset == "ava2":
        if (train, val) != (AVA2_EACH, AVA2_EACH):
            notes.append(
                f"AVA2: {train} + {val} photos; the paper and the released lists have {AVA2_EACH} + {AVA2_EACH}. A cut "
                f"by thresholds {RELEASED_THRESHOLDS[0]} and {RELEASED_THRESHOLDS[1]} also admits ties at the edge "
                "that a cut at a tenth leaves out"
            )
        return notes
    notes.append(
        f"AVA1: {train} + {val} photos. The paper prints 234599 + 19930, which is 1000 short of its own 255529 (AVA's "
        f"own lists hold 235599 + 19930); the released lists, and a random split here, hold {AVA1_TRAIN} + {AVA1_VAL}"
    )
    low = counts(split.val)["low"]
    if low * 5 != len(split.val):
        notes.append(
            f"AVA1 test set: {low / max(1, val):.2%} low; the released one was drawn per class, 4000 low, 16000 high, "
            f"where all of AVA has {AVA_LOW / AVA_PHOTOS:.2%} low: accuracies on the two do not compare"
        )
    if split.dropped_by_delta:
        left = counts(split.train)
        notes.append(
            f"delta: {left['low']} low and {left['high']} high photos left to train on; the paper says 7500 and "
            "45000 for delta 1"
        )
    return notes
