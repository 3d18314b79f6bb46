"""A check that a ranking puts blurred and over-exposed copies of photos below their originals."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ilgnet.demo import demo_set
from ilgnet.evaluate import metrics
from ilgnet.figures import pictures
from ilgnet.photos import checks, decode
from ilgnet.rank import ranking
from ilgnet.rank.cache import Cache
from ilgnet.run import results
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import write_bytes

LONG = 1024  # pixels; larger photos are scaled down first


def blurred(bgr: np.ndarray, share: float) -> np.ndarray:
    """A photo out of focus: a Gaussian blur whose sigma is a share of the longer side."""
    import cv2

    return cv2.GaussianBlur(bgr, (0, 0), share * max(bgr.shape[:2]))


def over_exposed(bgr: np.ndarray, share: float) -> np.ndarray:
    """A photo with so much light that a share of the pixels is burnt out, as in the demo set."""
    return demo_set.to_bytes(demo_set.burn(bgr.astype(np.float32) / 255, share, checks.WHITE))


KINDS = {"blurred": blurred, "over-exposed": over_exposed}


class DemoPhoto(results.Result):
    source: str


class Demo(results.Result):
    """DEMO.json: the source of each photo of a demo set."""

    made_by = "ilgnet demo"

    photos: dict[str, DemoPhoto]


def held_out(folder: Path | str) -> set[str]:
    """The names of a demo set's source photos of which no version was trained on."""
    folder = Path(folder)
    try:
        photos = results.read(folder / "DEMO.json", Demo).photos
        words = (folder / "lists" / "val.txt").read_text().split()
        return {photos[Path(name).stem].source for name in words[::2]}
    except (OSError, ValueError, KeyError, CaffeError) as error:
        raise CaffeError(f"{folder}: not a demo set of ilgnet demo ({error})") from None


def make_set(paths: Sequence[Path], folder: Path, strengths: dict[str, Sequence[float]]) -> None:
    """Write N_original.png and a spoilt copy of each kind and strength for every photo. PNG loses nothing more."""
    for number, path in enumerate(paths):
        bgr = decode.read(path).bgr
        if max(bgr.shape[:2]) > LONG:
            bgr = pictures.scaled(bgr, LONG)
        versions = {"original": bgr}
        versions |= {f"{kind}-{s:g}": KINDS[kind](bgr, s) for kind, many in strengths.items() for s in many}
        for name, picture in versions.items():
            write_bytes(folder / f"{number:05d}_{name}.png", pictures.png(picture))


def pairs(made: ranking.Ranking) -> dict[str, results.Proportion]:
    """The proportion of copies of each kind and strength that rank below their originals."""
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
) -> dict[str, results.Proportion]:
    """Make the copies and rank them, in an empty folder."""
    if not paths:
        raise CaffeError("no photos to check the ranking with")
    (folder / "photos").mkdir()
    make_set(paths, folder / "photos", strengths)
    with contextlib.closing(Cache(folder / "cache.sqlite")) as cache:
        return pairs(ranking.rank(folder / "photos", spec, cache, progress=progress))
