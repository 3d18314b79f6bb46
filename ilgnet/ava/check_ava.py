"""Check whether an AVA folder is complete and whether its split leaks.

Finds photos that are missing, broken or truncated; files that AVA.txt does not list; duplicates, as the same file or as
the same picture in another file; and duplicates with one copy in the training list and one in the test list."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ilgnet.ava import splits
from torchcaffe.base.errors import CaffeError
from torchcaffe.data import pictures
from torchcaffe.data.imageset import in_order, is_cut_short, progress_of

# The report's lists of faults, in the order in which they are printed.
FINDINGS = ("missing", "broken", "damaged", "unlisted", "same_file", "same_picture", "leaks", "contradicting_labels")


class Seen(NamedTuple):
    """The content of one photo's file."""

    photo: str
    fault: str = ""  # why the file cannot be used
    damaged: str = ""  # why only a part of it can
    content: str = ""  # digest of the file's bytes
    ratio: float = 0  # width / height
    small: np.ndarray = np.zeros(0)  # the picture at 16 x 16 x 3
    pattern: int = 0  # 64 bits: the signs of its lowest frequencies


def look_at(images: Path, photo: str) -> Seen:
    """Read a photo as far as it can be read."""
    path = images / photo
    try:
        pictures.inside(images, photo)
        picture = pictures.read(path, cv2.IMREAD_COLOR)
        data = path.read_bytes()
        cut = is_cut_short(data)
    except (OSError, CaffeError) as error:
        return Seen(photo, " ".join(str(error).split()))
    small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32))[:8, 1:9]
    return Seen(
        photo,
        damaged="cut short: the end is missing" if cut else "",
        content=hashlib.blake2b(data, digest_size=16).hexdigest(),
        ratio=picture.shape[1] / picture.shape[0],
        small=cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA),
        pattern=int.from_bytes(np.packbits(waves > np.median(waves)).tobytes(), "big"),
    )


def is_same_picture(a: Seen, b: Seen) -> bool:
    """Whether one is the other, rescaled or recompressed. Never for pictures too plain to tell apart."""
    apart = np.abs(a.small.astype(np.int16) - b.small)
    return bool(a.small.std((0, 1)).max() > 6 and apart.mean() < 2.5 and abs(a.ratio - b.ratio) < 0.02 * a.ratio)


def same_files(photos: Sequence[Seen]) -> list[list[Seen]]:
    """All photos, those with the same bytes together."""
    by_content = defaultdict(list)
    for seen in photos:
        by_content[seen.content].append(seen)
    return list(by_content.values())


def same_pictures(photos: Sequence[Seen]) -> list[list[str]]:
    """Groups of photos with the same picture, in the same file or in different ones.

    Only photos that share a quarter of their patterns are compared: with at most 3 of 64 bits wrong, they always do."""
    files = same_files(photos)
    group_of = {same[0].photo: sorted(seen.photo for seen in same) for same in files}
    for quarter in range(4):
        buckets = defaultdict(list)
        for same in files:
            buckets[same[0].pattern >> 16 * quarter & 0xFFFF].append(same[0])
        for bucket in buckets.values():
            for a, b in combinations(bucket, 2):
                if bin(a.pattern ^ b.pattern).count("1") <= 3 and is_same_picture(a, b):
                    joined = {*group_of[a.photo], *group_of[b.photo]}
                    group_of.update(dict.fromkeys(joined & group_of.keys(), sorted(joined)))
    return [list(group) for group in sorted({tuple(group) for group in group_of.values() if len(group) > 1})]


def check(images: Path, split: splits.Split, photos: Sequence[str], workers: int) -> dict:
    """The report: lists of photos under `missing`, `broken`, `damaged`, `unlisted`, groups under `same_file`
    and `same_picture`, and groups that are in both lists under `leaks`."""
    there = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    wanted = dict.fromkeys([*photos, *dict(split.train + split.val)])
    present = [photo for photo in wanted if photo in there]
    seen = []
    with progress_of(len(present), "check") as progress:
        for one in in_order(lambda photo: look_at(images, photo), present, workers, 64 * workers):
            progress(1)
            seen.append(one)
    whole = [one for one in seen if not one.fault]
    report: dict = {
        "photos": len(wanted),
        "missing": sorted(wanted.keys() - there),
        "unlisted": sorted(there - wanted.keys()),
        "broken": [{"photo": one.photo, "reason": one.fault} for one in seen if one.fault],
        "damaged": [{"photo": one.photo, "reason": one.damaged} for one in whole if one.damaged],
        "same_file": sorted(sorted(one.photo for one in same) for same in same_files(whole) if len(same) > 1),
        "same_picture": same_pictures(whole),
    }
    train, val = dict(split.train), dict(split.val)
    groups = report["same_file"] + [group for group in report["same_picture"] if group not in report["same_file"]]
    report["leaks"] = [
        {"train": [p for p in group if p in train], "val": [p for p in group if p in val]}
        for group in groups
        if any(p in train for p in group) and any(p in val for p in group)
    ]
    labels = train | val
    report["contradicting_labels"] = [g for g in groups if len({labels[p] for p in g if p in labels}) > 1]
    return report
