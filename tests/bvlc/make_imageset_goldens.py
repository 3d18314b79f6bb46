"""Makes goldens/imageset.json with real Caffe (`make bvlc` first): python -m tests.bvlc.make_imageset_goldens

What convert_imageset and compute_image_mean write for the pictures below: checksums of records and of means."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from pathlib import Path

import cv2
import numpy as np

from torchcaffe.data.imageset import Options
from torchcaffe.data.lmdb_writer import records
from torchcaffe.formats.files import sha256

GOLDENS = Path(__file__).resolve().parent / "goldens" / "imageset.json"
COUNT, ABSENT = 2300, (0, 700, 2299)  # three transactions; pictures that are in the list only
CASES = {  # small values lie within LMDB's tree, large ones beside it; each map is doubled several times
    "small": Options((20, 24)),
    "large": Options((40, 36)),
    "gray": Options((31, 31), gray=True),
    "as_is": Options(),
}


def make_pictures(folder: Path) -> list[tuple[str, int]]:
    """Write PNG pictures of many sizes, the same pixels everywhere; return their list."""
    rng = np.random.RandomState(3)
    (folder / "sub").mkdir(parents=True)
    photos = []
    for number in range(COUNT):
        height, width = rng.randint(8, 40, 2)
        y, x = np.mgrid[:height, :width]
        picture = rng.randint(0, 256, 3) + 3 * x[..., None] * rng.randint(0, 5, 3) + y[..., None] * rng.randint(0, 7, 3)
        photos.append((f"{'sub/' if number % 3 else ''}{number} x.png", number % 7 - 1))
        if number not in ABSENT:
            cv2.imwrite(str(folder / photos[-1][0]), (picture % 256).astype(np.uint8))
    return photos


def records_sha256(lmdb: Path) -> str:
    """Of an LMDB's keys and values, each with its length, in key order."""
    digest = hashlib.sha256()
    for key, value in records(lmdb):
        digest.update(struct.pack("<QQ", len(key), len(value)) + key + value)
    return digest.hexdigest()


def main() -> None:
    from tests.bvlc import real

    goldens = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        photos = make_pictures(work / "png")
        (work / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in photos))
        for name, options in CASES.items():
            height, width = options.resize or (0, 0)
            flags = [f"-resize_height={height}", f"-resize_width={width}"] + ["-gray"] * options.gray
            real.binary("convert_imageset", *flags, f"{work}/png/", work / "list.txt", work / name)
            goldens[name] = {"records": records_sha256(work / name)}
            if options.resize:
                real.binary("compute_image_mean", work / name, work / "mean")
                goldens[name]["mean"] = sha256(work / "mean")
    GOLDENS.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
