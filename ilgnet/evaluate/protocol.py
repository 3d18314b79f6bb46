"""The test of a net: P(high) of every photo, the figures, and the files that reports read."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ilgnet.ava.labels import plain_cell, safe_cell
from ilgnet.evaluate import caffe_log, metrics
from ilgnet.figures import html
from ilgnet.nets import paper
from ilgnet.nets.targets import Target
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import records
from ilgnet.run import processes, results
from ilgnet.run.results import VOTES, Evaluation, Figures, Group, Spread
from ilgnet.scoring import tta
from ilgnet.scoring.answers import HIGH, LOW, above_cut, mean_votes, predicts_votes
from ilgnet.scoring.scorers import NetScorer
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files


class Predictions(NamedTuple):
    """Every record of a test set, in the LMDB's order."""

    keys: list[str]
    labels: np.ndarray
    p_high: np.ndarray
    margin: np.ndarray | None = None  # None where only P(high) is known

    def margins(self) -> np.ndarray:
        """What to order photos by (see metrics.margins)."""
        return metrics.margins(self.p_high) if self.margin is None else self.margin


class Answers(NamedTuple):
    """A net's answers to every record of a test set, in the LMDB's order."""

    keys: list[str]
    labels: np.ndarray
    rows: np.ndarray  # (n, outputs) float64

    def predictions(self, target: Target) -> Predictions:
        """P(high) of a two-class net, P(mean vote > 5) of one that predicts votes. CaffeError for a ranking net."""
        if predicts_votes(target):
            return Predictions(self.keys, self.labels, *above_cut(mean_votes(target, self.rows)))
        high, low = self.rows[:, HIGH], self.rows[:, LOW]
        return Predictions(self.keys, self.labels, high, metrics.margins(high, low))


def ask(scorer: NetScorer, lmdb: Path | str, progress: bool = False, augment: str | None = None) -> Answers:
    """The answer to every record of the LMDB; with `augment` (see tta.KINDS) the mean over its views.

    Of several processes (see processes.py) each answers for a share, and all return the whole. CaffeError naming the
    record whose label is not 0 or 1."""
    from tqdm import tqdm

    from torchcaffe.data.lmdb_reader import LmdbReader

    spec: Any = scorer.preprocess if augment is None else tta.Views(scorer.preprocess, augment)
    views = 1 if augment is None else tta.KINDS[augment]

    with LmdbReader(lmdb) as reader:
        count = len(range(len(reader))[processes.mine()])
    keys: list[str] = []
    labels: list[int] = []

    def inputs() -> Iterator[np.ndarray]:
        for key, label, image in records.stream(lmdb, spec, processes.mine()):
            if label not in (0, 1):
                raise CaffeError(f"{lmdb}: record '{key}': label {label}; expected 0 (low) or 1 (high)")
            keys.append(key)
            labels.append(label)
            yield from image[None] if augment is None else image

    unit = "view" if augment else "photo"
    rows = list(tqdm(scorer.stream_rows(inputs()), total=count * views, unit=unit, disable=not progress))
    means = np.array(rows, dtype=np.float64).reshape(count, views, -1).mean(axis=1) if count else []
    everyones = processes.everyones(list(zip(keys, labels, means)))
    all_keys, all_labels, all_means = map(list, zip(*everyones))
    return Answers(all_keys, np.array(all_labels), np.array(all_means))


def variant_of(title: str | None) -> str | None:
    """The variant with this title as the net's name."""
    return next((v.name for v in VARIANTS.values() if v.title == title), None)


def dataset_of(source: str | None) -> str | None:
    """The data set that a folder is named after: .../ava1/val_lmdb."""
    parts = str(source or "").lower().replace("\\", "/").split("/")
    return next((name for name in ("ava1_delta1", "ava1", "ava2") if name in parts), None)


def about(lmdb: Path | str) -> tuple[str | None, Any]:
    """(data set, what is synthetic about it or None), from the manifest beside an LMDB or the folder's name."""
    beside = Path(lmdb).resolve().with_name("manifest.json")
    if not beside.is_file():
        return dataset_of(str(beside.parent)), None
    manifest = results.read(beside, results.Manifest)
    return ("demo", manifest.synthetic) if manifest.synthetic else (manifest.dataset, None)


def cautions_on(lmdb: Path | str) -> list[str]:
    """What everybody who reads a test on this LMDB must know of its labels."""
    beside = Path(lmdb).resolve().with_name("manifest.json")
    teacher = results.read(beside, results.Manifest).teacher if beside.is_file() else None
    return [f"The test labels are {teacher}'s: figures are of agreement with it, not with people."] if teacher else []


def from_log(path: Path | str, dataset: str | None = None) -> Evaluation:
    """The last test in a log, without kind, name and group.

    A log does not tell the test set's size: the photos that it tested are the first batches, and the whole set only
    where the size of the released list is known."""
    test = caffe_log.last_test(caffe_log.read_log(path))
    # The manifest, where the LMDB still exists, knows more than the folder's name.
    source = test.source
    found, synthetic = about(source) if source and Path(source).is_dir() else (dataset_of(source), None)
    dataset = dataset or found
    accuracy = test.accuracy
    figures = Figures(accuracy=None, first_batches=accuracy, loss=test.loss, n=accuracy.n, whole=None)
    if dataset in paper.RELEASED_TEST:
        low, high = paper.RELEASED_TEST[dataset]
        figures.whole = whole = low + high
        if accuracy.n > whole:  # the batches started again: a photo met again adds no evidence
            figures.n, figures.tested = whole, accuracy.n
            once = metrics.proportion(round(accuracy.value * whole), whole)
            accuracy.low, accuracy.high, accuracy.correct, accuracy.n = once.low, once.high, once.correct, whole
        if accuracy.n == whole:
            figures.accuracy, figures.first_batches = accuracy, None
        figures.majority_baseline = baseline = metrics.proportion(max(low, high), whole)
        baseline.answer, baseline.of = "high" if high > low else "low", "the released test list"
    return Evaluation(
        dataset=dataset,
        synthetic=synthetic,
        log=str(path),
        source=test.source,
        title=test.title,
        variant=variant_of(test.title),
        result=figures,
    )


COLUMNS = ["key", "label", "p_high", "margin"]  # of the photos' CSV


def cell(number: float) -> str:
    """A number in a CSV; empty where it is unknown."""
    return "" if math.isnan(number) else f"{number:.9g}"


def write_csv(
    path: Path | str, predictions: Predictions, more: Mapping[str, np.ndarray] = MappingProxyType({})
) -> None:
    """COLUMNS of every photo, and more columns by name."""
    found = zip(*predictions[:3], predictions.margins(), *more.values())
    rows = [[safe_cell(key), label, *map(cell, numbers)] for key, label, *numbers in found]
    results.write_csv(path, [[*COLUMNS, *more], *rows])


def read_csv(path: Path | str) -> Predictions:
    """Read COLUMNS of what write_csv wrote; older files lack the margin. CaffeError naming file and line."""
    keys, labels, numbers = [], [], []
    with io.TextIOWrapper(files.open_file(path), "utf-8", newline="") as file:
        reader = csv.reader(file)
        try:
            columns = next(reader, [])
            known = len(COLUMNS) if columns[: len(COLUMNS)] == COLUMNS else len(COLUMNS) - 1
            if columns[:known] != COLUMNS[:known]:
                raise CaffeError(f"{path}: line 1: expected the columns {','.join(COLUMNS)}")
            for row in reader:
                if len(row) != len(columns):
                    raise ValueError
                keys.append(plain_cell(row[0]))
                labels.append(int(row[1]))
                numbers.append([float(value) for value in row[2:known]])
            found = np.array(numbers).reshape(len(keys), known - 2).T
            return Predictions(keys, np.array(labels, np.int64), *found)
        except (ValueError, OverflowError, csv.Error):
            raise CaffeError(f"{path}: line {reader.line_num}: expected {','.join(COLUMNS)}") from None


def lines(test: Evaluation) -> list[str]:
    """The figures as text."""
    made = html.page("evaluation.txt", test=test, votes=VOTES, usual_batches=paper.DEFAULT_TEST_BATCHES)
    return made.splitlines()


# --- several runs of one net (seeds) ---------------------------------------------------------------------------------

SPREAD = ("accuracy", "first_batches", "balanced_accuracy", "auc", "average_precision", "loss", "calibration", *VOTES)
PERCENT = SPREAD[:3]  # the others are numbers


def spread(tests: list[Evaluation]) -> dict[str, Spread]:
    """The Spread of each figure that all of the evaluations have."""
    found = {}
    for name in SPREAD:
        values = [getattr(test.result, name) for test in tests]
        values = [getattr(v, "ece" if name == "calibration" else "value", v) for v in values]
        if all(v is not None and math.isfinite(v) for v in values):
            found[name] = metrics.spread(values)
    return found


def groups(tests: list[Evaluation]) -> list[Group]:
    """The evaluations with a group, by group and test set. CaffeError when a group holds different nets, differently
    made tests, or tests of different photos."""
    found: dict[tuple, list[Evaluation]] = {}
    for test in tests:
        if test.group:
            found.setdefault((test.group, test.dataset), []).append(test)
    made = []
    for (name, dataset), members in found.items():
        for what in ("title", "tta", "preprocess", "precision"):
            usual = "fp32" if what == "precision" else None
            kinds = {json.dumps(results.plain(getattr(m, what) or usual), sort_keys=True) for m in members}
            if len(kinds) > 1:
                raise CaffeError(
                    f"group '{name}': its evaluations differ in {what} ({' and '.join(sorted(kinds))}): "
                    "they are not runs of one net"
                )
        first, *others = members
        for other in others:
            if tested(other) != tested(first):
                raise CaffeError(
                    f"group '{name}': {whose(first)} tests {tested(first)}, {whose(other)} "
                    f"{tested(other)}: their mean would be of different photos"
                )
        made.append(
            Group(
                name=name,
                dataset=dataset,
                variant=first.variant,
                members=[m.name for m in members],
                spread=spread(members),
            )
        )
    return made


def tested(test: Evaluation) -> str:
    """The photos that an evaluation's figures are of."""
    first = test.result.first_batches
    some = f", of them {first.n} in the first batches" if first else ""
    return f"{test.result.n} photos of {test.lmdb or test.picks or test.source or 'an unknown set'}{some}"


def whose(test: Evaluation) -> str:
    """An evaluation's file, or its name before it has one."""
    return str(test.path) if test.path.name else test.name


def group_lines(group: Group) -> list[str]:
    """A group as text."""
    first, *others = html.page("group.txt", group=group, percent=PERCENT).splitlines()
    return [f"{group.name}: {first}", *others]
