"""The results that one program writes and another reads: a dataclass each, and one pair of functions to write and read
them as JSON."""

import csv
import functools
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files

R = TypeVar("R")
# Figures that compare with what people voted, with their names for a line and for a table.
VOTES = {
    "spearman": ("Spearman, votes", "Spearman's correlation with the votes"),
    "pearson": ("Pearson, votes", "Pearson's correlation with the votes"),
    "emd": ("EMD, votes", "earth mover's distance from the votes"),
}


class Result:
    """Base of the results, which makes each a dataclass. Fields are given by keyword; a field that is not given has its
    class's default and is not written: a test that is read from a log, for example, has no weights. Fields that no
    program reads need no annotation. `path`: the file that it was read from."""

    path = Path()

    def __init_subclass__(cls) -> None:
        dataclass(init=False)(cls)

    def __init__(self, **fields: Any):
        vars(self).update(fields)


# --- a test of a net ------------------------------------------------------------------------------------------------


class Proportion(Result):
    """A proportion with its 95% interval; also one of the first batches, or of the majority class's answer."""

    value: float
    low: float
    high: float
    n: int
    batch: int | None = None
    batches: int | None = None
    answer: str | None = None
    of: str | None = None
    correct: int | None = None


class Bin(Result):
    """The photos whose P(high) is from `low` to `high`: their number, mean P(high), and share of high photos."""

    n: int
    p_high: float
    observed: float


class Calibration(Result):
    """`ece`: the expected calibration error."""

    ece: float | None
    bins: list[Bin]


class Figures(Result):
    """The figures of a test of `n` photos; of `voted` of them people's votes are known. `whole`: size of the whole test
    set, `tested`: photos in a log of its test, some counted twice. `intervals`: 95% ones, by figure."""

    n: int
    classes: tuple[str, str] | None = None
    accuracy: Proportion | None = None
    majority_baseline: Proportion | None = None
    balanced_accuracy: float | None = None
    auc: float | None = None
    average_precision: float | None = None
    loss: float | None = None
    confusion: tuple[tuple[int, int], tuple[int, int]] | None = None
    calibration: Calibration | None = None
    first_batches: Proportion | None = None
    whole: int | None = None
    tested: int | None = None
    voted: int | None = None
    spearman: float | None = None
    pearson: float | None = None
    emd: float | None = None
    intervals: dict[str, tuple[float, float]] | None = None


class Preprocessing(Result):
    """What preprocess.Preprocess.describe gives."""

    preset: str
    warp: tuple[int, int]
    crop: tuple[int, int]


class Evaluation(Result):
    """A test of a net: on an LMDB, on the photos of a person's picks, or as a log tells of it."""

    made_by = "ilgnet evaluate"

    kind: Literal["evaluation"]
    name: str
    result: Figures
    group: str | None = None
    dataset: str | None = None
    synthetic: Any = None
    lmdb: str | None = None
    picks: str | None = None
    log: str | None = None
    source: str | None = None
    weights: str | None = None
    net: str | None = None
    title: str | None = None
    variant: str | None = None
    engine: str | None = None
    precision: str | None = None
    preprocess: Preprocessing | None = None
    tta: str | None = None
    predictions: str | None = None
    cautions: list[str] | None = None  # what to know of the model


class Spread(Result):
    """A figure over several runs. `sd`: standard deviation (n - 1), NaN for one run."""

    mean: float
    sd: float
    min: float
    max: float
    runs: int


class Group(Result):
    """Evaluations of several runs of one net on one test set. `members`: their names; `spread`: by figure."""

    name: str
    dataset: str | None
    variant: str | None
    members: list[str]
    spread: dict[str, Spread]


# --- feature maps ---------------------------------------------------------------------------------------------------


class Mean(Result):
    """The mean of `n` photos."""

    mean: float
    n: int


class Comparison(Result):
    """High photos against low ones (see metrics.compare_groups)."""

    high: Mean
    low: Mean
    difference: float
    p_superior: float
    p_value: float
    cohens_d: float | None


class Stage(Result):
    """One of the paper's labels (1) to (7), its blobs, their shapes, and the density of their active features."""

    mark: str
    what: str
    blobs: list[str]
    comparison: Comparison | None


class ShownPhoto(Result):
    """A photo of Fig. 5: its picture and those of its maps, one a stage, as files below the result's folder."""

    key: str
    label: int | None
    p_high: float
    photo: str
    maps: list[str]


class FeatureMaps(Result):
    """Fig. 5. `densities` (CSV) and `figure` (PNG): files beside the result."""

    made_by = "ilgnet visualize"

    kind: Literal["features"]
    name: str
    stages: list[Stage]
    shown: list[ShownPhoto]
    claim: str
    densities: str
    figure: str | None = None
    variant: str | None = None
    synthetic: Any = None


# --- a benchmark ----------------------------------------------------------------------------------------------------


class Machine(Result):
    """`sgemm_flops`, `copy_bytes_per_s`: measured limits. `gpu`: its number, or None for the CPU."""

    cpu: str
    threads: int
    gpu: Any
    sgemm_flops: float
    copy_bytes_per_s: float


class Timed(Result):
    """An engine's time for one batch of a task. `difference`: of its answer from ours, relative."""

    engine: str
    variant: str
    task: str
    batch: int
    median_s: float
    spread: float = 0.0
    peak_memory_bytes: int = 0
    difference: float | None = None
    flops: float = 0.0
    weight_bytes_per_s: float = 0.0


class Benchmark(Result):
    made_by = "ilgnet benchmark"

    machine: Machine | None
    rows: list[Timed]
    photos: Any = None
    layers: Any = None
    precision: Any = None
    ratios: Any = None


# --- a model --------------------------------------------------------------------------------------------------------


class Card(Result):
    """What weights are, as a JSON beside a caffemodel, or beside all snapshots of a training run.

    net: as --net takes it. mean: the file of the mean, in the same folder. dataset, photos, synthetic, teacher: what it
    was trained on, and whose labels (see Manifest). measured: what others or we found."""

    made_by = "ilgnet fetch-weights or ilgnet train"

    kind: Literal["model"]
    title: str
    answer: str
    net: str | None = None
    mean: str | None = None
    licence: str | None = None
    source: Any = None
    input: str | None = None
    measured: str | None = None
    dataset: str | None = None
    photos: int | None = None
    synthetic: str | None = None
    teacher: str | None = None


# --- what data preparation writes -----------------------------------------------------------------------------------


class Half(Result):
    """What a manifest says of the training or the test photos."""

    records: int


class Manifest(Result):
    """What training and evaluation need of the manifest beside an LMDB. `synthetic`: what is synthetic about its
    labels; `teacher`: the model that gave them."""

    made_by = "ilgnet prepare"

    dataset: str | None = None
    synthetic: Any = None
    teacher: str | None = None
    train: Half | None = None


# --- reading and writing --------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A dataclass, or what holds some, as JSON has it; a float that is not finite becomes null."""
    if is_dataclass(value):
        value = {name: item for name, item in vars(value).items() if name != "path"}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path | str, value: Any) -> None:
    """Write a dataclass, or what `plain` takes besides, as strict JSON."""
    text = json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    # A file's name may hold bytes that are not text: backslashreplace writes JSON's own escape for them.
    files.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path | str) -> Any:
    """CaffeError when it is not JSON."""
    try:
        return json.loads(files.read_text(path, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise CaffeError(f"{path}: not JSON: {error}") from None


def read(path: Path | str, kind: type[R]) -> R:
    """Read what `write_json` wrote of a Result. CaffeError naming the file and the field that is not as annotated;
    other fields are kept as they are."""
    value = read_json(path)
    try:
        found = fit(kind, value)
    except TypeError as error:
        raise misfit(path, kind, str(error)) from None
    found.path = Path(path)  # type: ignore[attr-defined]
    return found


def misfit(path: Path | str, kind: type, field: str) -> CaffeError:
    """The error for a file of a result with a field that does not fit."""
    what = f"'{field}' is missing or has the wrong type" if field else "it is no JSON object"
    return CaffeError(f"{path}: not a result of {kind.made_by}: {what}")  # type: ignore[attr-defined]


_hints = functools.cache(get_type_hints)


def fit(kind: Any, value: Any, where: str = "") -> Any:
    """`value`, from JSON, as the type `kind`: a dataclass or another annotation. TypeError with the field's name."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or value is None and NoneType in args:
        return value
    if NoneType in args:
        return fit(args[0], value, where)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints, before = _hints(kind), f"{where}." if where else ""
        for name in hints:
            if name not in value and not hasattr(kind, name):
                raise TypeError(before + name)
        return kind(**{name: fit(hints.get(name, Any), item, before + name) for name, item in value.items()})
    if origin is list and isinstance(value, list):
        return [fit(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: fit(args[1], item, f"{where}.{name}") for name, item in value.items()}
    if origin is tuple and isinstance(value, list) and len(value) == len(args):
        return [fit(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(args, value))]
    if origin is Literal:
        fits = value in args
    else:
        fits = origin is None and isinstance(value, (int, float) if kind is float else kind)
    # larger integers do not fit a float
    if not fits or isinstance(value, int) and abs(value) > 1 << 53:
        raise TypeError(where)
    return value


def write_csv(path: Path | str, rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))
