"""A demo set: a folder like AVA's (AVA.txt, images/) whose labels are known because its faults were made.

`ilgnet demo --out data/demo` paints scenes; `--photos DIR` takes real photographs. Each source gets good versions
(clean, level, well exposed, subject on a third) and bad ones, which also have faults (blur, noise, heavy JPEG, tilt,
wrong exposure, colour cast, cluttered crop). The votes are drawn around a score that falls with the faults' severity:
synthetic, as DEMO.json says, which also lists the faults of each photo. All versions of a source are in the same list,
lists/train.txt or lists/val.txt: a net that knows another version of a test photo has not learnt to judge."""

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ilgnet.ava.splits import Entry, write_list
from ilgnet.demo import scenes
from ilgnet.demo.brushes import Picture, Random, blurred, cover, distance, mix, polygon, unit
from ilgnet.nets.targets import SCORES
from ilgnet.photos.decode import PLAIN
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data import pictures
from torchcaffe.formats.files import PathLike, read_bytes, write_bytes

COUNT, SEED = 600, 1
VERSIONS = 3  # of each source, on average
TEST_SHARE = 0.2  # of the sources
LONG = 480  # pixels on a photo's longer side
SYNTHETIC = (
    "Synthetic labels: no person voted. The scores were set by how strongly each photo was degraded on purpose, so "
    "accuracies on this set say that the software works, and nothing about photographs' beauty."
)


class Made(NamedTuple):
    """One photo of the set."""

    source: str
    faults: dict[str, float]  # name -> severity from 0 to 1; none: a good photo
    score: float  # what the votes are drawn around


# -- faults: each takes a picture (H x W x 3 float32 RGB, 0 to 1) and a severity from 0 to 1 ------------------------


def blur(rng: Random, picture: Picture, severity: float) -> Picture:
    """Out of focus, or shaken along a line."""
    if rng.rand() < 0.5:
        return blurred(picture, 2.2 + 4.5 * severity)
    length = int(11 + 22 * severity) | 1
    line = np.zeros((length, length), np.float32)
    line[length // 2] = 1
    turn = cv2.getRotationMatrix2D((length // 2, length // 2), rng.uniform(0, 180), 1)
    line = cv2.warpAffine(line, turn, (length, length))
    return cv2.filter2D(picture, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT)


def grain(rng: Random, picture: Picture, severity: float) -> Picture:
    """Sensor noise, in brightness and in colour, coarse enough to survive the warp to 256 x 256."""
    height, width = picture.shape[:2]
    fine = rng.randn(height, width, 1)
    coarse = cv2.resize(rng.randn(height // 2, width // 2, 3), (width, height), interpolation=cv2.INTER_LINEAR)
    return picture + ((0.05 + 0.1 * severity) * fine + (0.09 + 0.16 * severity) * coarse).astype(np.float32)


def jpeg(rng: Random, picture: Picture, severity: float) -> Picture:
    """Few pixels, compressed until the blocks show."""
    height, width = picture.shape[:2]
    shrink = 1.5 + 1.5 * severity
    small = cv2.resize(to_bytes(picture), (int(width / shrink), int(height / shrink)), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, int(12 - 8 * severity)])[1]
    return cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (width, height)).astype(np.float32) / 255


def to_light(value: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 in linear light (sRGB's curve, IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def expose(picture: Picture, stops: float) -> Picture:
    """More light by so many stops (less, below 0), clipped as by a sensor. Values from 0 to 1 in any shape."""
    light = np.minimum(to_light(unit(picture)) * 2**stops, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def burn(picture: Picture, share: float, white: int = 250) -> Picture:
    """Expose until that share of the pixels is burnt out (all channels `white` of 255 or more), by 1 to 4 stops: a
    photo that is largely white already gets one stop, a night at most 4. (A fixed number of stops would improve dark
    photos.)"""
    brightest = max(float(np.quantile(picture.min(axis=2), 1 - share)), 1 / 255)  # the darkest value that shall burn
    white, below = np.log2(to_light(np.array([white / 255, brightest])))
    return expose(picture, float(np.clip(white - below, 1, 4)))


def over_exposure(rng: Random, picture: Picture, severity: float) -> Picture:
    """Burnt out: a tenth of the pixels to a half of them."""
    return burn(picture, 0.1 + 0.4 * severity)


def under_exposure(rng: Random, picture: Picture, severity: float) -> Picture:
    """Far too dark, by 2 to 4 stops."""
    return expose(picture, -2 - 2 * severity)


def cast(rng: Random, picture: Picture, severity: float) -> Picture:
    """A wrong white balance."""
    away = np.array([(1, 0.9, 0.3), (0.4, 1, 0.6), (0.9, 0.45, 1), (0.35, 0.8, 1), (1, 0.5, 0.4)][rng.randint(5)])
    return picture * (1 + (away - 1) * (0.55 + 0.45 * severity)).astype(np.float32)


def haze(rng: Random, picture: Picture, severity: float) -> Picture:
    """Flat: little contrast, little colour."""
    flat = mix(picture, picture.mean(2, keepdims=True), 0.5 + 0.4 * severity)
    return 0.5 + (flat - 0.5) * (0.45 - 0.2 * severity) + rng.uniform(0, 0.15)


def tilt(rng: Random, picture: Picture, severity: float) -> Picture:
    """A slanting horizon."""
    height, width = picture.shape[:2]
    angle = (7 + 11 * severity) * rng.choice((-1, 1))
    sine, cosine = abs(np.sin(np.radians(angle))), np.cos(np.radians(angle))
    zoom = max(cosine + sine * height / width, cosine + sine * width / height)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, zoom)
    return cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def clutter(rng: Random, picture: Picture, severity: float) -> Picture:
    """A careless crop with objects at the edges."""
    height, width = picture.shape[:2]
    keep = 0.75 - 0.25 * severity
    y, x = int(rng.choice((0, 1)) * (1 - keep) * height), int(rng.choice((0, 1)) * (1 - keep) * width)
    part = picture[y : y + int(keep * height), x : x + int(keep * width)]
    picture = np.ascontiguousarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR))
    for _ in range(2 + int(4 * severity)):
        side, along, reach, wide = rng.randint(4), rng.rand(), rng.uniform(0.15, 0.5), rng.uniform(0.02, 0.1)
        top = [(along - wide, -0.1), (along + wide, -0.1)]
        shape = np.array([*top, (along + wide * 0.7 + 0.1, reach), (along, reach * 1.1)])
        shape = shape if side < 2 else shape[:, ::-1]
        shape = shape if side % 2 else 1 - shape
        colour = rng.rand(3).astype(np.float32) * rng.uniform(0.2, 1)
        mask = polygon(picture, shape * (width, height))
        cover(picture, colour, blurred(mask, rng.uniform(0.5, 3)))
    return picture


FAULTS = {  # in a camera's order: lens, sensor, processing, file
    fault.__name__: fault for fault in (clutter, tilt, blur, over_exposure, under_exposure, cast, haze, grain, jpeg)
}
COMPOSING = ("tilt", "clutter")  # subtle to a net that sees 256 x 256 pixels: never the only fault
TECHNICAL = ("blur", "grain", "jpeg", "over_exposure", "under_exposure", "cast", "haze")
RANGE = ("over_exposure", "under_exposure", "haze")  # one at most: two undo each other, or leave nothing


def spoil(rng: Random, picture: Picture) -> tuple[Picture, dict[str, float], float]:
    """A bad version, its faults with their severities, and its score: 4.4 for slight faults down to 1.8."""
    level = rng.uniform(0.3, 1)
    names = rng.permutation(TECHNICAL)[: 1 + (rng.rand() < 0.7)].tolist()
    if names == ["cast"]:  # it could pass for a sunset
        names.append("haze")
    elif set(names) <= set(RANGE):
        names = names[:1]
    names += [name for name in COMPOSING if rng.rand() < 0.4]
    done = {}
    for name in sorted(names, key=[*FAULTS].index):
        severity = float(unit(level + rng.uniform(-0.1, 0.1)))
        picture = unit(FAULTS[name](rng, picture, severity))
        done[name] = round(severity, 3)
    return picture, done, 4.4 - 2.6 * (level - 0.3) - 0.25 * (len(names) - 1)


def finish(rng: Random, picture: Picture) -> Picture:
    """A photographer's finish of random strength: contrast, colour, sharpness, a vignette. Good and bad versions get it
    alike, so that only its faults distinguish a bad one."""
    contrast, colour, sharpness, vignette = rng.rand(4)
    picture = 0.5 + (picture - 0.5) * (1 + 0.15 * contrast)
    grey = picture.mean(2, keepdims=True)
    picture = grey + (picture - grey) * (0.95 + 0.45 * colour)
    picture = picture + 0.4 * sharpness * (picture - blurred(picture, 1.2))
    height, width = picture.shape[:2]
    away = distance(picture, width / 2, height / 2) / np.hypot(width / 2, height / 2)
    return unit(picture * (1 - 0.25 * vignette * away[..., None] ** 2.5)).astype(np.float32)


def praise(picture: Picture) -> float:
    """A good version's score, 5.4 to 7.8: the more contrast (standard deviation of luma) and colourfulness (Hasler and
    Suesstrunk, "Measuring colourfulness in natural images", 2003) it has, the higher."""
    red, green, blue = np.moveaxis(picture, 2, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, centre = opponents.std((1, 2)), opponents.mean((1, 2))
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    vividness = luma.std() + np.hypot(*spread) + 0.3 * np.hypot(*centre)  # 0.2 to 0.55 in most photographs and scenes
    return 5.4 + 2.4 * float(unit((vividness - 0.2) / 0.35))


# -- sources -------------------------------------------------------------------------------------------------------


def painted(seed: int, number: int) -> tuple[str, Picture]:
    """Scene `number` of a seed, landscape or portrait, and its name."""
    rng = Random([seed, number])
    height, width = ((320, 480), (320, 480), (360, 480), (400, 360))[rng.randint(4)]
    name, picture = scenes.paint(rng, height, width)
    return f"{name} {number}", picture


def photographed(path: Path) -> tuple[str, Picture]:
    """A photograph with its levels stretched to the full range, cropped so that its eye-catcher is on a third."""
    with located(path):
        data = pictures.read(path, cv2.IMREAD_COLOR)
    shrink = LONG / 0.85 / max(data.shape[:2])
    data = cv2.resize(data, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC)
    picture = data[..., ::-1].astype(np.float32) / 255
    low, high = np.percentile(picture, (0.5, 99.5)).tolist()
    picture = unit((picture - np.float32(low)) / np.float32(max(high - low, 0.3)))
    height, width = picture.shape[:2]
    tall, wide = int(height * 0.85), int(width * 0.85)
    y, x = eye_catcher(picture)
    room = height - tall, width - wide
    corners = [np.array((y - t * tall, x - s * wide)) for t in (1 / 3, 2 / 3) for s in (1 / 3, 2 / 3)]
    best = min(corners, key=lambda corner: np.abs(corner - np.clip(corner, 0, room)).sum())
    top, left = np.clip(best, 0, room).astype(int)
    return path.name, np.ascontiguousarray(picture[top : top + tall, left : left + wide])


def eye_catcher(picture: Picture) -> tuple[float, float]:
    """Row and column of the centre of what stands out: detail in colours unlike the picture's mean."""
    lab = cv2.cvtColor(blurred(picture, 3), cv2.COLOR_RGB2LAB)
    unlike = np.linalg.norm(lab - lab.mean((0, 1)), axis=2)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    detail = blurred(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), 8)
    weight = unlike / (unlike.mean() + 1e-6) * detail / (detail.mean() + 1e-6)
    weight = np.where(weight >= np.quantile(weight, 0.9), weight, 0) + 1e-9
    rows, columns = np.indices(weight.shape)
    return (rows * weight).sum() / weight.sum(), (columns * weight).sum() / weight.sum()


def to_bytes(picture: Picture) -> Picture:
    """0 to 1 as 0 to 255."""
    return np.round(unit(picture) * 255).astype(np.uint8)


def make_versions(images: Path, seed: int, photos: Sequence[Path], job: tuple[int, Sequence[int]]) -> list[Made]:
    """Write the versions of one source, every other one good: job is its number and its versions' image ids."""
    number, ids = job
    cv2.setNumThreads(1)
    source, picture = photographed(photos[number]) if photos else painted(seed, number)
    made = []
    for version, image_id in enumerate(ids):
        rng = Random([seed, number, version + 1])
        copy = finish(rng, picture[:, ::-1] if rng.rand() < 0.5 else picture)
        faults: dict[str, float] = {}
        if (number + version) % 2:
            score = praise(copy)
        else:
            copy, faults, score = spoil(rng, copy)
        data = cv2.imencode(".jpg", to_bytes(copy)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 93])[1]
        (images / f"{image_id}.jpg").write_bytes(data.tobytes())
        made.append(Made(source, faults, score))
    return made


# -- votes and lists -----------------------------------------------------------------------------------------------


def draw_votes(rng: Random, score: float) -> np.ndarray:
    """Ten vote counts with a mean near `score` and on its side of 5, spread as AVA's are: 210 voters on average, their
    votes' deviation about 1.4."""
    grades = np.arange(1, SCORES + 1)
    spread, voters = rng.uniform(1.2, 1.6), int(np.clip(rng.normal(210, 60), 80, 500))
    low, high = -4.0, 15.0
    while high - low > 1e-3:  # a bell cut off at 1 and 10 is not centred on its mean
        centre = (low + high) / 2
        share = np.exp(-((grades - centre) ** 2) / (2 * spread**2))
        share /= share.sum()
        low, high = (centre, high) if share @ grades < score else (low, centre)
    while True:
        votes = rng.multinomial(voters, share)
        if (votes @ grades > 5 * voters) == (score > 5):
            return votes


def make_demo(
    out: PathLike, photos: PathLike | None = None, count: int = COUNT, seed: int = SEED, workers: int | None = None
) -> list[Made]:
    """Write the folder `out`. The same arguments give the same set, whatever the number of workers. Nothing is done if
    the set is there already."""
    out, workers = Path(out), workers or os.cpu_count() or 1
    if count < 10:
        raise CaffeError(f"--count {count}: at least 10 photos are needed for a training and a test set")
    if not 0 <= seed < 2**32:
        raise CaffeError(f"--seed {seed}: must be from 0 to {2**32 - 1}")
    paths = find_photos(Path(photos)) if photos else []
    asked = {"count": count, "seed": seed, "photographs": [path.name for path in paths]}
    if (out / "AVA.txt").exists():
        return _finished(out, asked)
    rng = Random(seed)
    if len(paths) * VERSIONS > count:
        paths = [paths[i] for i in rng.permutation(len(paths))[: max(5, count // VERSIONS)]]
    sources = len(paths) if photos else max(5, count // VERSIONS)
    numbers = rng.permutation(np.arange(1000, 1000 + 40 * count))[:count].tolist()  # they reveal nothing
    jobs = [(number, numbers[number::sources]) for number in range(sources)]
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "lists").mkdir(exist_ok=True)
    work = partial(make_versions, out / "images", seed, paths)
    bar = partial(tqdm, total=sources, desc="demo set", unit="source", disable=not sys.stderr.isatty())
    if workers == 1:
        made = list(bar(map(work, jobs)))
    else:
        with ProcessPoolExecutor(min(workers, sources), multiprocessing.get_context("spawn")) as pool:
            made = list(bar(pool.map(work, jobs, chunksize=4)))

    held_out = set(rng.permutation(sources)[: max(1, round(sources * TEST_SHARE))].tolist())
    rows, described = {}, {}
    lists: dict[str, list[Entry]] = {"train": [], "val": []}
    for (number, ids), versions in zip(jobs, made):
        for image_id, version in zip(ids, versions):
            rows[image_id] = draw_votes(rng, version.score)
            lists["val" if number in held_out else "train"].append(Entry(f"{image_id}.jpg", int(not version.faults)))
            described[image_id] = {**version._asdict(), "score": round(version.score, 3)}
    table = "".join(
        f"{i} {k} {' '.join(map(str, votes))} 0 0 0\n" for i, (k, votes) in enumerate(sorted(rows.items()), 1)
    )
    for name, entries in lists.items():
        write_list(out / "lists" / f"{name}.txt", sorted(entries))
    record = {
        "synthetic": SYNTHETIC,
        "sources": f"{sources} photographs" if paths else f"{sources} painted scenes",
        "asked": asked,
        "photos": dict(sorted(described.items())),
    }
    write_bytes(out / "DEMO.json", (json.dumps(record, indent=1) + "\n").encode())
    write_bytes(out / "AVA.txt", table.encode())  # last: it marks the set as complete
    return [version for versions in made for version in versions]


def _finished(out: Path, asked: dict) -> list[Made]:
    """The set in `out`, if it was made with the same arguments."""
    try:
        record = json.loads(read_bytes(out / "DEMO.json"))
        if record["asked"] == asked:
            return [Made(**photo) for photo in record["photos"].values()]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise CaffeError(f"{out}: holds another AVA.txt already; choose another folder, or remove it")


def find_photos(folder: Path) -> list[Path]:
    """The photographs in a folder, sorted by name. CaffeError if there are fewer than five."""
    if not folder.is_dir():
        raise CaffeError(f"--photos {folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PLAIN)
    if len(paths) < 5:
        raise CaffeError(f"--photos {folder}: {len(paths)} photographs in it; at least 5 are needed")
    return paths
