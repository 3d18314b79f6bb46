"""From an AVA folder, or one's own photos and labels, to what a net trains on.

Reads AVA/AVA.txt and AVA/images/; writes OUT/train_lmdb, val_lmdb, mean.binaryproto, mean.npy, train.txt, val.txt (both
in the LMDBs' order) and manifest.json. An interrupted run resumes when started again, even after a power failure."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np

from ilgnet.ava import labels, splits, targets
from ilgnet.ava.labels import Label
from ilgnet.ava.ratings import Rating, read_ratings
from ilgnet.ava.splits import Entry, Split
from ilgnet.photos import decode
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.imageset import (
    Imageset,
    Options,
    Read,
    compute_image_mean,
    convert_imageset,
    read_as_bvlc,
    write_mean,
)
from torchcaffe.formats.files import read_bytes, sha256, write_bytes

SYNTHETIC = "DEMO.json"  # in a demo set: says that its labels are synthetic


@dataclass(frozen=True)
class Source:
    """A data set's photos, what people said of them, and their split."""

    ratings: Path  # AVA.txt, or a CSV of labels
    images: Path
    rows: Sequence[Rating | Label]
    entries: Sequence[Entry]
    split: Split
    read: Read
    synthetic: str | None = None  # what a demo set says of its labels
    teacher: str | None = None  # the model that gave the labels


def read_ava(ava: Path, images: Path | None, choice: splits.Choice) -> Source:
    """An AVA folder's photos; `images` if they are not in its own images/. A demo set has lists of its own, which are
    the default: a random split would put versions of one photo into both halves."""
    synthetic = _synthetic(ava / SYNTHETIC)
    if synthetic is not None and choice.lists is None:
        choice = replace(choice, lists=ava / "lists")
    path_of_ratings, images = ava / "AVA.txt", images or ava / "images"
    for path, what in ((path_of_ratings, "ratings"), (images, "photos")):
        if not path.exists():
            raise CaffeError(f"{path}: no such {what}; AVA's folder holds AVA.txt and images/ (see the README)")
    ratings = read_ratings(path_of_ratings)
    split = splits.make_split(ratings, choice)
    return Source(path_of_ratings, images, ratings, splits.entries(ratings), split, read_as_bvlc, synthetic)


def read_own(csv: Path, images: Path | None, cut: float, held_out: float, seed: int) -> Source:
    """Photos of one's own with the labels of a CSV (see labels.py); `images` if they are not beside it."""
    rows = labels.read_labels(csv, cut)
    entries = [Entry(row.photo, row.label) for row in rows if row.label is not None]
    split = labels.split(entries, seed, held_out)
    return Source(csv, images or csv.parent, rows, entries, split, _read_as_scored, teacher=_teacher(csv))


def prepare(
    source: Source,
    out: Path,
    options: Options,
    seed: int,
    keep_order: bool = False,
    kinds: Sequence[str] = (),
    workers: int | None = None,
) -> dict:
    """Write the folder `out`; returns the manifest. Raises CaffeError before any work when something is missing.

    The seed shuffles each half of the split, unless keep_order. kinds: of targets.KINDS, the LMDBs of labels to add."""
    if options.resize is None:
        raise CaffeError("--size 0: a mean image is made of photos of one size; make-lmdb keeps them as they are")
    split = source.split
    halves = {"train": split.train, "val": split.val}
    if not keep_order:
        halves = {name: splits.shuffled(photos, seed) for name, photos in halves.items()}
    known = {row.photo: row for row in source.rows}
    targets.check(kinds, halves["train"] + halves["val"], known)
    _check_photos(source.images, halves["train"])
    out.mkdir(parents=True, exist_ok=True)
    _check_room(out, sum(map(len, halves.values())), *options.resize, options)

    manifest: dict[str, Any] = {
        "dataset": split.dataset,
        "split": split.how,
        "seed": seed,
        "synthetic": source.synthetic,
        "teacher": source.teacher,
        "ratings": {**splits.counts(source.entries), "sha256": sha256(source.ratings)},
        "dropped_by_delta": split.dropped_by_delta,
        "notes": split.notes,
        "options": asdict(options),
        "versions": {"opencv": cv2.__version__, "lmdb": ".".join(map(str, lmdb.version()))},
    }
    for name, photos in halves.items():
        text = "".join(f"{photo} {label}\n" for photo, label in photos).encode()
        target = out / f"{name}_lmdb"
        result = convert_imageset(source.images, photos, target, options, workers, source.read)
        write_bytes(out / f"{name}.txt", text)
        manifest[name] = _report(photos, result)
        for kind in kinds:
            manifest[name][kind] = targets.write_labels(target, kind, known, dict(photos))
        print(summary(target.name, result))
    manifest["mean"] = _mean(out, manifest["train"]["data_mdb_sha256"])
    write_bytes(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def summary(name: str, result: Imageset) -> str:
    """A line on an LMDB that was made."""
    classes = ", ".join(f"{count} of label {label}" for label, count in sorted(result.labels.items()))
    lost = f"; {len(result.skipped)} photos left out" if result.skipped else ""
    lost += f"; {len(result.damaged)} damaged" if result.damaged else ""
    return f"{name}: {result.records} records ({classes}), {result.size / 2**20:.1f} MiB{lost}"


def _synthetic(path: Path) -> str | None:
    """What a demo set says of its labels; None for another folder."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())["synthetic"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise CaffeError(f"{path}: not of ilgnet demo: 'synthetic' is missing or no text")
    return found


def _teacher(csv: Path) -> str | None:
    """The model that scored the photos of a CSV of `ilgnet rank`, by the JSON beside it; None for a person's labels."""
    try:
        found = json.loads(csv.with_suffix(".json").read_bytes())
        if found["kind"] == "ranking" and found["sha256"][csv.name] == sha256(csv):
            about = found["scored_by"]
            return f"{about['title']} ({about['weights']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _read_as_scored(path: Path, options: Options) -> tuple[np.ndarray, str]:
    """A photo as it is scored: the user's own may be HEIC or RAW."""
    return decode.read(path).bgr, ""


def _report(photos: Sequence[splits.Entry], result: Imageset) -> dict:
    """A split's part of the manifest."""
    return {
        "listed": splits.counts(photos),
        "records": result.records,
        "low": result.labels.get("0", 0),
        "high": result.labels.get("1", 0),
        "skipped": [dict(zip(("photo", "reason"), found)) for found in result.skipped],
        "damaged": [dict(zip(("photo", "reason"), found)) for found in result.damaged],
        "data_mdb_bytes": result.size,
        "data_mdb_sha256": result.sha256,
    }


def _mean(out: Path, train_sha256: str) -> dict:
    """Write the mean's two files, unless they are there for the same LMDB; returns their part of the manifest."""
    try:
        made = json.loads(read_bytes(out / "manifest.json"))
        if made["train"]["data_mdb_sha256"] == train_sha256 and all(
            sha256(out / name) == digest for name, digest in made["mean"]["sha256"].items()
        ):
            return made["mean"]
    except (OSError, CaffeError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    mean = compute_image_mean(out / "train_lmdb")
    write_mean(mean, out / "mean.binaryproto", out / "mean.npy")
    channels = [round(float(value), 4) for value in mean.mean(axis=(1, 2), dtype="float64")]
    print(f"mean: {', '.join(map(str, channels))} (B, G, R)")
    return {"channels": channels, "sha256": {name: sha256(out / name) for name in ("mean.binaryproto", "mean.npy")}}


def _check_photos(images: Path, photos: Sequence[Entry]) -> None:
    """CaffeError, before an hour of work, for a folder that holds other photos, or none."""
    some = photos[:200]
    if not any((images / photo).is_file() for photo, _ in some):
        raise CaffeError(f"{images}: none of the first {len(some)} photos is in it, {some[0][0]} for one")


def _check_room(out: Path, photos: int, height: int, width: int, options: Options) -> None:
    """CaffeError when the disk is too small (a rough estimate for compressed photos)."""
    pixels = height * width * 3
    each = -(-(pixels + 64) // 4096) * 4096 if not options.encode else pixels // (8 if options.encode == "jpg" else 2)
    there = sum(path.stat().st_size for path in out.glob("*_lmdb*/data.mdb"))
    needed, free = photos * each - there, shutil.disk_usage(out).free
    if needed > free:
        less = "" if options.encode else "; --encoded jpeg takes about a ninth"
        raise CaffeError(f"{out}: {photos} photos need about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free{less}")
