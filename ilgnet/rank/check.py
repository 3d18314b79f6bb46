"""Does a ranking put spoilt copies below their originals? Photos are blurred and over-exposed, and all are ranked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.demo import demo_set
from ilgnet.evaluate import metrics
from ilgnet.photos import checks, decode
from ilgnet.rank import ranking
from ilgnet.rank.cache import Cache
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import write_bytes

LONG = 1024  # pixels at most on the longer side of what is ranked: it need not be more


def blurred(bgr: np.ndarray, share: float) -> np.ndarray:
    """Out of focus: a Gaussian whose sigma is a share of the longer side (0.006 is 6 pixels of a photo of 1000)."""
    import cv2

    return cv2.GaussianBlur(bgr, (0, 0), share * max(bgr.shape[:2]))


def over_exposed(bgr: np.ndarray, share: float) -> np.ndarray:
    """More light, until that share of the pixels is burnt out: as the demo set's over-exposure."""
    return demo_set.to_bytes(demo_set.burn(bgr.astype(np.float32) / 255, share, checks.WHITE))


KINDS = {"blurred": blurred, "over-exposed": over_exposed}


def held_out(folder: Path | str) -> set[str]:
    """The names of a demo set's source photos of which no version was trained on."""
    folder = Path(folder)
    try:
        photos = json.loads((folder / "DEMO.json").read_bytes())["photos"]
        words = (folder / "lists" / "val.txt").read_text().split()
        return {photos[name[: -len(".jpg")]]["source"] for name in words[::2]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CaffeError(f"{folder}: not a demo set of data_prep/demo.py ({error})") from None


def make_set(paths: Sequence[Path], folder: Path, strengths: dict[str, Sequence[float]]) -> None:
    """Write N-original.png and a spoilt copy of each kind and strength for every photo. PNG: nothing else is lost."""
    import cv2

    for number, path in enumerate(paths):
        bgr = decode.read(path).bgr
        scale = LONG / max(bgr.shape[:2])
        if scale < 1:
            bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        versions = {"original": bgr}
        versions.update({f"{kind}-{s:g}": KINDS[kind](bgr, s) for kind, many in strengths.items() for s in many})
        for name, picture in versions.items():
            write_bytes(folder / f"{number:05d}_{name}.png", cv2.imencode(".png", picture)[1].tobytes())


def pairs(made: ranking.Ranking) -> dict[str, dict[str, Any]]:
    """For each kind and strength the share of copies that rank below their originals, with its 95% interval."""
    place = {photo.name[: -len(".png")]: photo.rank for photo in made.photos}
    below: dict[str, list[bool]] = {}
    for name, rank in place.items():
        number, _, version = name.partition("_")
        if version != "original":
            below.setdefault(version, []).append(rank > place[f"{number}_original"])
    return {version: metrics.proportion(sum(found), len(found)) for version, found in sorted(below.items())}


def check(
    paths: Sequence[Path],
    spec: ranking.Spec,
    folder: Path,
    strengths: dict[str, Sequence[float]],
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """The whole check in an empty folder, which keeps what was made."""
    if not paths:
        raise CaffeError("no photos to check the ranking with")
    (folder / "photos").mkdir()
    make_set(paths, folder / "photos", strengths)
    cache = Cache(folder / "cache.sqlite")
    try:
        return pairs(ranking.rank(folder / "photos", spec, cache, progress=progress))
    finally:
        cache.close()
