"""Fig. 5: the feature maps of good and bad photos at the paper's labels (1) to (7), and a test of the paper's
observation that good photos have denser active features in the last layer."""

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.ava.labels import safe_cell
from ilgnet.evaluate import metrics, protocol
from ilgnet.figures import pictures, plots
from ilgnet.nets import paper
from ilgnet.photos import preprocess, records
from ilgnet.run import results
from ilgnet.scoring.scorers import NetScorer, batched
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.pictures import inside
from torchcaffe.formats import files

TILES = 36  # the most active channels of a blob with maps are shown
SIDE = 192  # pixels of a picture


class Shown(NamedTuple):
    """A photo of the figure. `maps`: a picture of each stage, (H, W, 3) uint8 BGR."""

    key: str
    label: int | None
    p_high: float
    photo: np.ndarray
    maps: list[np.ndarray]


class Features(NamedTuple):
    """`density`: (photos, stages), the share of a stage's values that are above 0; `labels`: (photos,), -1 for a photo
    without a label."""

    stages: list[paper.Label]
    shapes: list[list[tuple[int, ...]]]
    keys: list[str]
    labels: np.ndarray
    p_high: np.ndarray
    density: np.ndarray
    shown: list[Shown]


def stages(scorer: NetScorer, blobs: list[str] | None = None) -> list[paper.Label]:
    """The paper's labels in the scorer's net, or the given blobs. CaffeError for a net without the labels."""
    if blobs:
        return [paper.Label("", name, (name,)) for name in blobs]
    # gen_net adds options to the name, in brackets.
    variant = protocol.variant_of(scorer.title.partition(" (")[0])
    found = []
    for label in paper.labels(variant) if variant else []:
        # Layers after spatial pyramids have their own names (gen_net --spp).
        names = tuple(b if b in scorer.blobs else f"{b}_spp" for b in label.blobs)
        found.append(label._replace(blobs=names))
    if not found:
        raise CaffeError(
            f"{scorer.net_path}: not an ILGNet, so the paper's labels (1) to (7) are not in it; name the "
            "blobs to look at (--blobs)"
        )
    return found


def extract(scorer: NetScorer, source: Path | str, stages: list[paper.Label], shown: int, progress: bool) -> Features:
    """Run every photo of an LMDB or folder through the net, and make pictures of the first `shown` photos of each
    class. In a folder, the net's answer is the class."""
    from tqdm import tqdm

    names = [name for stage in stages for name in stage.blobs]
    rows: list[tuple[str, int, float, list[float]]] = []
    chosen: dict[int, list[Shown]] = {0: [], 1: []}
    shapes: list[list[tuple[int, ...]]] = []
    with tqdm(unit="photo", disable=not progress) as bar:
        for group in batched(records.stream(source, scorer.preprocess), scorer.batch):
            answers = scorer.answers(np.stack([image for _, _, image in group]))
            values = scorer.features(names)
            shapes = [[values[name].shape[1:] for name in stage.blobs] for stage in stages]
            for i, (key, label, _) in enumerate(group):
                p_high = answers[i].p_high
                per_stage = [[values[name][i] for name in stage.blobs] for stage in stages]
                active = [float(np.mean(np.concatenate(stage, axis=None) > 0)) for stage in per_stage]
                rows.append((key, -1 if label is None else label, p_high, active))
                like = chosen.get(int(p_high > 0.5) if label is None else label)
                if like is not None and len(like) < shown:
                    like.append(Shown(key, label, p_high, np.zeros(0), list(map(picture, per_stage))))
            bar.update(len(group))
    first = chosen[1] + chosen[0]
    shown_keys = [s.key for s in first]
    if records.is_lmdb(source):
        photos = records.read_records(source, shown_keys)
    else:
        photos = {key: preprocess.read_photo(key) for key in shown_keys}
    keys, *columns = zip(*rows)
    labels, p_highs, density = map(np.array, columns)
    first = [s._replace(photo=photos[s.key]) for s in first]
    return Features(stages, shapes, list(keys), labels, p_highs, density, first)


# --- pictures --------------------------------------------------------------------------------------------------------


def picture(blobs: list[np.ndarray]) -> np.ndarray:
    """A photo's blobs as one picture, (H, W, 3) uint8 BGR: of maps (C, H, W) a grid of the TILES most active channels,
    of vectors a grid of all values. Black is 0 or below, the brightest colour the 99.5th percentile or above."""
    import cv2

    if all(b.ndim == 3 and b.shape[1] * b.shape[2] > 1 for b in blobs):
        channels = np.concatenate(blobs) if len({b.shape[1:] for b in blobs}) == 1 else blobs[0]
        order = np.argsort(-channels.mean(axis=(1, 2)), kind="stable")[:TILES]
        grid = montage(channels[order])
    else:
        grid = montage(np.concatenate(blobs, axis=None)[:, None, None], gap=0)
    grid = np.maximum(grid, 0)
    top = np.percentile(grid, 99.5) or grid.max()
    grey = np.clip(grid / top * 255, 0, 255).astype(np.uint8) if top > 0 else np.zeros(grid.shape, np.uint8)
    scale = max(1, SIDE // max(grey.shape))
    return cv2.applyColorMap(grey.repeat(scale, axis=0).repeat(scale, axis=1), cv2.COLORMAP_INFERNO)


def montage(tiles: np.ndarray, gap: int = 1) -> np.ndarray:
    """(n, h, w) tiles in a grid that is nearly square, with `gap` zeros between them."""
    n, h, w = tiles.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = np.pad(tiles, ((0, rows * columns - n), (0, gap), (0, gap)))
    grid = padded.reshape(rows, columns, h + gap, w + gap).swapaxes(1, 2).reshape(rows * (h + gap), -1)
    return grid[: len(grid) - gap, : grid.shape[1] - gap]


# --- the claim -------------------------------------------------------------------------------------------------------


def compare(found: Features) -> list[results.Comparison] | list[None]:
    """metrics.compare_groups of the density of each stage; None without photos of both classes."""
    high, low = found.labels == 1, found.labels == 0
    if not high.any() or not low.any():
        return [None] * len(found.stages)
    return [metrics.compare_groups(column[high], column[low]) for column in found.density.T]


def verdict(c: results.Comparison | None, synthetic: Any = None) -> str:
    """Whether the paper's observation under Fig. 5 holds here, in one sentence."""
    if c is None:
        return "Not tested: the photos have no labels of both classes."
    holds = "Not shown" if c.p_value >= 0.05 else "It holds" if c.difference > 0 else "The opposite holds"
    return (
        f"{holds} on these {c.high.n + c.low.n} photos{' (with synthetic labels)' if synthetic else ''}: "
        f"{100 * c.high.mean:.2f} % of the last layer's features are active in high photos, "
        f"{100 * c.low.mean:.2f} % in low ones (p = {c.p_value:.2g}, permutation test; Cohen's d {c.cohens_d:.2f})."
    )


# --- files -----------------------------------------------------------------------------------------------------------


def write(out: Path, found: Features, facts: dict[str, Any]) -> results.FeatureMaps:
    """Write OUT (JSON), and beside it the densities as CSV, Fig. 5 as one PNG and its pictures in a folder. facts: more
    fields of the result."""
    comparisons = compare(found)
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)

    def save(name: str, image: np.ndarray) -> str:
        files.write_bytes(folder / name, pictures.png(image))
        return f"{folder.name}/{name}"

    shown = [
        results.ShownPhoto(
            key=s.key,
            label=s.label,
            p_high=s.p_high,
            photo=save(f"{i}_photo.png", pictures.scaled(s.photo, SIDE)),
            maps=[save(f"{i}_{k}.png", m) for k, m in enumerate(s.maps, 1)],
        )
        for i, s in enumerate(found.shown, 1)
    ]
    if shown:
        files.write_bytes(f"{folder}.png", pictures.png(figure5(found)))
    table = out.with_suffix(".csv")
    rows: list[list] = [["key", "label", "p_high", *(safe_cell("+".join(stage.blobs)) for stage in found.stages)]]
    for key, label, p, row in zip(found.keys, found.labels, found.p_high, found.density):
        rows.append([safe_cell(key), "" if label < 0 else label, f"{p:.9g}", *(f"{d:.6g}" for d in row)])
    results.write_csv(table, rows)
    result = results.FeatureMaps(
        kind="features",
        **facts,
        photos=len(found.keys),
        densities=table.name,
        figure=f"{folder.name}.png" if shown else None,
        claim=verdict(comparisons[-1], facts.get("synthetic")),
        shown=shown,
        stages=[
            results.Stage(mark=s.mark, what=s.what, blobs=list(s.blobs), shapes=shapes, comparison=c)
            for s, shapes, c in zip(found.stages, found.shapes, comparisons)
        ],
    )
    results.write_json(out, result)
    return result


def figure5(found: Features) -> np.ndarray:
    """The photos and their maps in one picture, a row each, high photos first; (H, W, 3) uint8 BGR, on white."""
    import cv2

    gap, head = 8, 26
    heads = ["photo", *(s.mark or s.what for s in found.stages)]
    sheet = np.full((head + len(found.shown) * (SIDE + gap), len(heads) * (SIDE + gap) + gap, 3), 255, np.uint8)
    for k, mark in enumerate(heads):
        pictures.write_text(sheet, mark, gap + k * (SIDE + gap), head - 9)
    for row, s in enumerate(found.shown):
        y = head + row * (SIDE + gap)
        for k, image in enumerate([s.photo, *s.maps]):
            image = pictures.scaled(image, SIDE)
            x = gap + k * (SIDE + gap)
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
        called = "called high" if s.p_high > 0.5 else "called low"
        name = {0: "low photo", 1: "high photo", None: called}[s.label]
        cv2.rectangle(sheet, (gap, y), (gap + 84, y + 16), (255, 255, 255), -1)
        pictures.write_text(sheet, name, gap + 2, y + 12)
    return sheet


def density_plot(result: results.FeatureMaps) -> plots.Plot | None:
    """Histograms of the last stage's density in high and in low photos; None without photos of both classes.

    CaffeError for a broken CSV."""
    if result.stages[-1].comparison is None:
        return None
    path = inside(result.path.resolve().parent, result.densities)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        labels, density = np.array([int(row[1]) for row in rows]), np.array([float(row[-1]) for row in rows])
    except (OSError, ValueError, IndexError) as error:
        raise CaffeError(f"{path}: not the densities of {result.name}: {error}") from None
    groups = [
        (f"{name} photos", 100 * density[labels == label], plots.COLOURS[label + 1])
        for label, name in ((1, "high"), (0, "low"))
    ]
    return plots.histograms(groups, "active features in the last layer (%)", "share of photos (%)")
