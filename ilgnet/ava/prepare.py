"""An AVA folder to what a net trains on, in one go: `python data_prep/prepare.py AVA --dataset ava1 --out data/ava1`.

Reads AVA/AVA.txt and AVA/images/; writes OUT/train_lmdb, val_lmdb, mean.binaryproto, mean.npy, train.txt, val.txt (both
in the LMDBs' order) and manifest.json. Cut short, by a power cut too, it goes on where it was when started again.

`python data_prep/prepare.py --labels MINE.csv --images DIR --out data/mine` does the same with one's own photos and
labels (see data_prep/labels.py), to fine-tune on them. --targets adds what other nets than two-class ones learn from
(see data_prep/targets.py)."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import lmdb
import numpy as np

from ilgnet.ava import labels, make_lmdb, splits, targets
from ilgnet.ava.ratings import read_ratings
from ilgnet.photos import decode
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.data.imageset import (
    Imageset,
    Options,
    Photo,
    compute_image_mean,
    convert_imageset,
    read_as_bvlc,
    write_mean,
)
from torchcaffe.formats.files import read_bytes, sha256, write_bytes

SYNTHETIC = "DEMO.json"  # in a demo set: says that its labels are synthetic


def prepare(args: argparse.Namespace) -> dict:
    """Do the whole job; returns the manifest. Raises CaffeError before any work when something is missing."""
    options = make_lmdb.options_of(args)
    if options.resize is None:
        raise CaffeError("--size 0: a mean image is made of photos of one size; make_lmdb.py keeps them as they are")
    out = args.out
    if args.labels is not None:
        read = _read_as_scored
        source, images, synthetic = args.labels, args.images or args.labels.parent, None
        ratings = labels.read_labels(source, args.cut)
        rated = [splits.Entry(row.photo, row.label) for row in ratings]
        split = labels.split(rated, args.seed, args.held_out)
    else:
        read = read_as_bvlc
        source, images, synthetic = args.ava / "AVA.txt", args.images or args.ava / "images", _synthetic(args)
        for path, what in ((source, "ratings"), (images, "photos")):
            if not path.exists():
                raise CaffeError(f"{path}: no such {what}; AVA's folder holds AVA.txt and images/ (see the README)")
        ratings = read_ratings(source)
        rated, split = splits.entries(ratings), splits.from_arguments(args, ratings)
    halves = {"train": split.train, "val": split.val}
    if not args.keep_order:
        halves = {name: splits.shuffled(photos, args.seed) for name, photos in halves.items()}
    known = {row.photo: row for row in ratings}
    targets.check(args.targets, halves["train"] + halves["val"], known)
    _check_photos(images, halves["train"])
    out.mkdir(parents=True, exist_ok=True)
    _check_room(out, sum(map(len, halves.values())), options)

    manifest = {
        "dataset": split.dataset,
        "split": split.how,
        "seed": args.seed,
        "synthetic": synthetic,
        "ratings": {**splits.counts(rated), "sha256": sha256(source)},
        "dropped_by_delta": split.dropped_by_delta,
        "notes": split.notes,
        "options": asdict(options),
        "versions": {"opencv": cv2.__version__, "lmdb": ".".join(map(str, lmdb.version()))},
    }
    for name, photos in halves.items():
        text = "".join(f"{photo} {label}\n" for photo, label in photos).encode()
        target = out / f"{name}_lmdb"
        result = convert_imageset(images, photos, target, options, args.workers, read)
        write_bytes(out / f"{name}.txt", text)
        manifest[name] = _report(photos, result)
        for kind in args.targets:
            manifest[name][kind] = targets.write_labels(target, kind, known, dict(photos))
        print(make_lmdb.summary(target.name, result))
    manifest["mean"] = _mean(out, manifest["train"]["data_mdb_sha256"])
    write_bytes(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def _synthetic(args: argparse.Namespace) -> str | None:
    """What a demo set says of its labels; its lists are then the default."""
    if not (args.ava / SYNTHETIC).is_file():
        return None
    if args.lists is None:
        args.lists = args.ava / "lists"  # a random split would part versions of one photo
    try:
        found = json.loads((args.ava / SYNTHETIC).read_bytes())["synthetic"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise CaffeError(f"{args.ava / SYNTHETIC}: not of data_prep/demo.py: 'synthetic' is missing or no text")
    return found


def _read_as_scored(path: Path, options: Options) -> tuple[np.ndarray, str]:
    """One's own photos may be HEIC or RAW, and are prepared for a net as they are scored."""
    bgr = decode.read(path).bgr
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) if options.gray else bgr, ""


def _report(photos: Sequence[splits.Entry], result: Imageset) -> dict:
    """A split's part of the manifest."""
    return {
        "listed": splits.counts(photos),
        "records": result.records,
        "low": result.labels.get("0", 0),
        "high": result.labels.get("1", 0),
        "skipped": [{"photo": name, "reason": reason} for name, reason in result.skipped],
        "damaged": [{"photo": name, "reason": reason} for name, reason in result.damaged],
        "data_mdb_bytes": result.size,
        "data_mdb_sha256": result.sha256,
    }


def _mean(out: Path, train_sha256: str) -> dict:
    """Write the mean's two files, unless an earlier run did for the same LMDB; returns their part of the manifest."""
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


def _check_photos(images: Path, photos: Sequence[Photo]) -> None:
    """Refuse to spend an hour on a folder that holds other photos, or none."""
    some = photos[:200]
    if not any((images / photo).is_file() for photo, _ in some):
        raise CaffeError(f"{images}: none of the first {len(some)} photos is in it, {some[0][0]} for one")


def _check_room(out: Path, photos: int, options: Options) -> None:
    """Refuse to start what the disk cannot hold (a rough guess for what is stored compressed)."""
    height, width = options.resize
    pixels = height * width * (1 if options.gray else 3)
    each = -(-(pixels + 64) // 4096) * 4096 if not options.encode else pixels // (8 if options.encode == "jpg" else 2)
    there = sum(path.stat().st_size for path in out.glob("*_lmdb*/data.mdb"))
    needed, free = photos * each - there, shutil.disk_usage(out).free
    if needed > free:
        less = "" if options.encode else "; --encoded jpeg takes about a ninth"
        raise CaffeError(f"{out}: {photos} photos need about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free{less}")


def main(argv: Sequence[str] | None = None) -> int:
    """Make training and test LMDBs, mean image, lists and a manifest of an AVA folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("ava", type=Path, nargs="?", metavar="AVA", help="folder with AVA.txt and images/")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="one's own: file, and label, mean or votes")
    parser.add_argument("--cut", type=float, default=labels.CUT, help=f"--labels: means above are high ({labels.CUT})")
    parser.add_argument("--held-out", type=float, default=0.2, help="--labels: share of each class that tests (0.2)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=Path, help="folder of the photos (AVA/images, or the CSV's)")
    parser.add_argument(
        "--targets",
        nargs="+",
        default=[],
        choices=targets.KINDS,
        metavar="KIND",
        help=f"LMDBs of labels besides, for gen_net.py --target: {', '.join(targets.KINDS)}",
    )
    parser.add_argument("--keep-order", action="store_true", help="store photos in the lists' order, not shuffled")
    splits.add_arguments(parser)
    make_lmdb.add_arguments(parser)
    args = parser.parse_args(argv)
    if (args.ava is None) == (args.labels is None):
        parser.error("give AVA, or --labels CSV")
    others, whose = ("cut", "held_out"), "--labels"
    if args.labels is not None:
        others, whose = ("dataset", "delta", "fraction", "thresholds", "lists", "official"), "AVA, not for --labels"
    for name in others:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is for {whose}")
    manifest = prepare(args)
    for note in manifest["notes"]:
        print("note: " + note)
    lost = sum(len(manifest[name]["skipped"]) for name in ("train", "val"))
    print(f"{args.out}: ready" + (f"; {lost} photos left out, named in manifest.json" if lost else ""))
    return 0


if __name__ == "__main__":
    run_main(main)
