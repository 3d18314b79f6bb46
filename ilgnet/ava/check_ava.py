"""Is an AVA folder whole, and does its split leak? `python data_prep/check_ava.py AVA --lists data/ava1 --out c.json`
(data/ava1: what prepare.py made; without --lists, the random split that it makes by default).

Finds photos that are missing, broken or cut short; files that no row of AVA.txt lists; photos that are there twice, as
the same file or as the same picture in another; and those of them that are in both the training and the test list."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ilgnet.ava import splits
from ilgnet.ava.ratings import read_ratings
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.data import pictures
from torchcaffe.data.imageset import in_order, is_cut_short, progress_of
from torchcaffe.formats.files import write_bytes


class Seen(NamedTuple):
    """What one photo's file holds."""

    photo: str
    fault: str = ""  # broken: cannot be used
    damaged: str = ""  # can, in part
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
    """Whether one is the other, scaled or compressed anew. Never for pictures too plain to tell apart."""
    apart = np.abs(a.small.astype(np.int16) - b.small)
    return bool(a.small.std((0, 1)).max() > 6 and apart.mean() < 2.5 and abs(a.ratio - b.ratio) < 0.02 * a.ratio)


def same_pictures(photos: Sequence[Seen]) -> list[list[str]]:
    """Groups of photos with the same picture, in the same file or in different ones.

    Compared are those that share a quarter of their patterns: with at most three of 64 bits wrong, they do."""
    by_content = defaultdict(list)
    for seen in photos:
        by_content[seen.content].append(seen)
    group_of = {same[0].photo: sorted(seen.photo for seen in same) for same in by_content.values()}
    for quarter in range(4):
        buckets = defaultdict(list)
        for seen in (same[0] for same in by_content.values()):
            buckets[seen.pattern >> 16 * quarter & 0xFFFF].append(seen)
        for bucket in buckets.values():
            for index, a in enumerate(bucket):
                for b in bucket[index + 1 :]:
                    if bin(a.pattern ^ b.pattern).count("1") <= 3 and is_same_picture(a, b):
                        joined = {*group_of[a.photo], *group_of[b.photo]}
                        group_of.update(dict.fromkeys(joined & group_of.keys(), sorted(joined)))
    return [list(group) for group in sorted({tuple(group) for group in group_of.values() if len(group) > 1})]


def check(ava: Path, images: Path, split: splits.Split, photos: Sequence[str], workers: int) -> dict:
    """The report: lists of photos under `missing`, `broken`, `damaged`, `unlisted`, groups under `same_file`,
    `same_picture`, and those that part between the lists under `leaks`."""
    there = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    wanted = dict.fromkeys([*photos, *(entry.photo for entry in split.train + split.val)])
    report: dict = {"photos": len(wanted), "missing": sorted(photo for photo in wanted if photo not in there)}
    report["unlisted"] = sorted(there - set(wanted))
    seen, by_content = [], defaultdict(list)
    report["broken"], report["damaged"] = [], []
    present = [photo for photo in wanted if photo in there]
    with progress_of(len(present), "check") as progress:
        for one in in_order(lambda photo: look_at(images, photo), present, workers, 64 * workers):
            progress(1)
            if one.fault:
                report["broken"].append({"photo": one.photo, "reason": one.fault})
                continue
            if one.damaged:
                report["damaged"].append({"photo": one.photo, "reason": one.damaged})
            seen.append(one)
            by_content[one.content].append(one.photo)
    report["same_file"] = sorted(sorted(group) for group in by_content.values() if len(group) > 1)
    report["same_picture"] = same_pictures(seen)
    train, val = {e.photo: e.label for e in split.train}, {e.photo: e.label for e in split.val}
    groups = report["same_file"] + [group for group in report["same_picture"] if group not in report["same_file"]]
    report["leaks"] = [
        {"train": [p for p in group if p in train], "val": [p for p in group if p in val]}
        for group in groups
        if any(p in train for p in group) and any(p in val for p in group)
    ]
    labels = {**train, **val}
    report["contradicting_labels"] = [g for g in groups if len({labels[p] for p in g if p in labels}) > 1]
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Look for missing, broken, doubled and unlisted photos in AVA's folder, and its split for leaks. Exit 1: some."""
    parser = argparse.ArgumentParser(description=main.__doc__)
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
    split = splits.from_arguments(args, ratings)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)  # before the photos are read, not after
        if args.out.is_dir():
            raise CaffeError(f"{args.out}: is a folder; give a file")
    report = check(args.ava, images, split, [rating.photo for rating in ratings], max(1, args.workers))
    print(f"{report['photos']} photos in AVA.txt and lists ({split.how})")
    found = 0
    for name in (
        "missing",
        "broken",
        "damaged",
        "unlisted",
        "same_file",
        "same_picture",
        "leaks",
        "contradicting_labels",
    ):
        items = report[name]
        found += len(items)
        first = f", {json.dumps(items[0])} for one" if items else ""
        print(f"{name.replace('_', ' '):21s}{len(items)}{first}")
    if args.out:
        write_bytes(args.out, (json.dumps(report, indent=1) + "\n").encode())
    return 1 if found else 0


if __name__ == "__main__":
    run_main(main)
