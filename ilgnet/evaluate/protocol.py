"""A test as a result: every photo's P(high), the figures, and the files that reports read."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.ava.labels import plain_cell, safe_cell
from ilgnet.evaluate import caffe_log, metrics
from ilgnet.nets import paper
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import records
from ilgnet.run import processes
from ilgnet.scoring import tta
from ilgnet.scoring.scorers import HIGH, LOW, Scorer
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
    """What a net said of every record of a test set, in the LMDB's order."""

    keys: list[str]
    labels: np.ndarray
    rows: np.ndarray  # (n, outputs) float64

    def predictions(self) -> Predictions:
        """What a two-class net's answers say."""
        high, low = self.rows[:, HIGH], self.rows[:, LOW]
        return Predictions(self.keys, self.labels, high, metrics.margins(high, low))


def predict(scorer: Scorer, lmdb: Path | str, progress: bool = False, augment: str | None = None) -> Predictions:
    """P(high) of every record of the LMDB, once each; with `augment` (see tta.KINDS) the mean of its views'.

    CaffeError naming the record whose label is not 0 or 1, and for a net that knows no two classes."""
    if scorer.target.label:
        raise CaffeError(f"{scorer.net_path}: answers {scorer.target.answer}; expected a two-class net")
    return ask(scorer, lmdb, progress, augment).predictions()


def ask(scorer: Scorer, lmdb: Path | str, progress: bool = False, augment: str | None = None) -> Answers:
    """The net's answers to every record of the LMDB, as `predict`, for nets of any target.

    Several processes (see processes.py) answer for a share each, and all get everyone's."""
    from tqdm import tqdm

    from torchcaffe.data.lmdb_reader import LmdbReader

    spec = scorer.preprocess if augment is None else tta.Views(scorer.preprocess, augment)
    views = 1 if augment is None else tta.KINDS[augment]

    with LmdbReader(lmdb) as reader:
        count = len(range(len(reader))[processes.mine()])
    keys: list[str] = []
    labels: list[int] = []

    def inputs():
        for key, label, image in records.stream(lmdb, spec, processes.mine()):
            if label not in (0, 1):
                raise CaffeError(f"{lmdb}: record '{key}': label {label}; expected 0 (low) or 1 (high)")
            keys.append(key)
            labels.append(label)
            yield from image[None] if augment is None else image

    rows = list(
        tqdm(
            scorer.stream_rows(inputs()), total=count * views, unit="view" if augment else "photo", disable=not progress
        )
    )
    means = np.array(rows, dtype=np.float64).reshape(count, views, -1).mean(axis=1) if count else []
    keys, labels, means = map(list, zip(*processes.everyones(list(zip(keys, labels, means)))))
    return Answers(keys, np.array(labels), np.array(means))


def variant_of(title: str | None) -> str | None:
    """The variant that a net's name says it is."""
    return next((v.name for v in VARIANTS.values() if v.title == title), None)


def dataset_of(source: str | None) -> str | None:
    """The data set that a folder's name says it is: .../ava1/val_lmdb."""
    parts = [part.lower() for part in str(source or "").replace("\\", "/").split("/")]
    return next((name for name in ("ava1_delta1", "ava1", "ava2") if name in parts), None)


def about(lmdb: Path | str) -> tuple[str | None, Any]:
    """(data set, what is synthetic about it or None) from the manifest that data_prep writes beside an LMDB."""
    folder = Path(lmdb).resolve().parent
    if (folder / "manifest.json").is_file():
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict):
            raise CaffeError(f"{folder / 'manifest.json'}: not a manifest of data_prep/prepare.py: no object")
        if manifest.get("synthetic"):
            return "demo", manifest["synthetic"]
        return manifest.get("dataset"), None
    return dataset_of(str(folder)), None


def mean_beside(lmdb: Path | str) -> str | None:
    """The mean.binaryproto that data_prep writes beside an LMDB, if it is there."""
    beside = Path(lmdb).resolve().parent / "mean.binaryproto"
    return str(beside) if beside.is_file() else None


def from_log(path: Path | str, dataset: str | None = None) -> dict[str, Any]:
    """The figures that a log of `caffe test`, or the last test in a training log, gives.

    A log does not say how many photos the test set has: what it tested is the first batches' figure, and the whole
    set's only where the released list's size is known."""
    result = caffe_log.test_result(caffe_log.read_log(path))
    source = result["source"]
    # the manifest, where the LMDB is still there, knows more than its folder's name
    found, synthetic = about(source) if source and Path(source).is_dir() else (dataset_of(source), None)
    dataset = dataset or found
    accuracy = result["accuracy"]
    figures: dict[str, Any] = {
        "accuracy": None,
        "first_batches": accuracy,
        "loss": result["loss"],
        "n": accuracy["n"],
        "whole": None,
    }
    if dataset in paper.RELEASED_TEST:
        low, high = paper.RELEASED_TEST[dataset]
        figures["whole"] = whole = low + high
        if accuracy["n"] > whole:  # the batches went round: photos met again add no evidence
            figures.update(n=whole, tested=accuracy["n"])
            accuracy.update(metrics.proportion(round(accuracy["value"] * whole), whole), value=accuracy["value"])
        if accuracy["n"] == whole:
            figures.update(accuracy=accuracy, first_batches=None)
        figures["majority_baseline"] = dict(
            metrics.proportion(max(low, high), low + high),
            answer="high" if high > low else "low",
            of="the released test list",
        )
    return {
        "dataset": dataset,
        "synthetic": synthetic,
        "log": str(path),
        "source": source,
        "title": result["title"],
        "variant": variant_of(result["title"]),
        "result": figures,
    }


COLUMNS = ["key", "label", "p_high", "margin"]  # of the photos' CSV


def write_csv(path: Path | str, predictions: Predictions) -> None:
    """key, label, p_high, margin a photo."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, label, p, m in zip(*predictions[:3], predictions.margins()):
        writer.writerow([safe_cell(key), label, f"{p:.9g}", f"{m:.9g}"])
    files.write_bytes(path, text.getvalue().encode())


def read_csv(path: Path | str) -> Predictions:
    """What write_csv wrote, or wrote before it knew of margins. CaffeError naming file and line."""
    keys, labels, numbers = [], [], []
    with io.TextIOWrapper(files.open_file(path), "utf-8", newline="") as file:
        reader = csv.reader(file)
        try:
            columns = next(reader, None)
            if columns not in (COLUMNS, COLUMNS[:-1]):
                raise CaffeError(f"{path}: line 1: expected the columns {','.join(COLUMNS)}")
            for key, label, p, *margin in reader:
                keys.append(plain_cell(key))
                labels.append(int(label))
                numbers.append([float(p), *map(float, margin)])
                if len(numbers[-1]) != len(columns) - 2:
                    raise ValueError
            found = np.array(numbers).reshape(len(keys), len(columns) - 2).T
            return Predictions(keys, np.array(labels, np.int64), *found)
        except (ValueError, OverflowError, csv.Error):  # of what is no text, too
            raise CaffeError(f"{path}: line {reader.line_num}: expected {','.join(COLUMNS)}") from None


def write_json(path: Path | str, value: Any) -> None:
    """Strict JSON: what is not a number becomes null."""
    text = json.dumps(_plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    # Of a file's name that is no text, backslashreplace makes the escape that JSON has for it.
    files.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path | str) -> Any:
    """CaffeError when it is not JSON."""
    try:
        return json.loads(files.read_text(path, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise CaffeError(f"{path}: not JSON: {error}") from None


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures for a person to read."""

    def share(p: dict[str, Any]) -> str:
        value, low, high = (100 * p[key] for key in ("value", "low", "high"))
        return f"{value:6.2f}%  (95% interval {low:.2f} to {high:.2f}, {p['n']} photos)"

    a, f = figures["accuracy"], figures.get("first_batches")
    if a:
        out = [f"whole test set     {share(a)}"]
        if "tested" in figures:
            out.append(f"                   of {figures['tested']} in the log, which counts some photos more than once")
    elif "whole" in figures and figures["whole"] is None:
        out = [f"whole test set     unknown: {f['n']} photos were tested; the set's size is unknown (--dataset)"]
    elif "whole" in figures:
        out = [f"whole test set     not in this log: {f['n']} of {figures['whole']} photos were tested"]
    else:
        out = ["whole test set     no accuracy: a ranking has no threshold; --cut-on TRAIN_LMDB finds one"]
    if f:
        usual = "`caffe test`'s default, " if f["batches"] == paper.DEFAULT_TEST_BATCHES else ""
        out.append(f"{'first ' + str(f['batches']) + ' batches':18} {share(f)}: {usual}in batches of {f['batch']}")
    base = figures.get("majority_baseline")
    if base:
        of = f" of {base['of']}" if base.get("of") else ""
        out.append(f'majority baseline  {100 * base["value"]:6.2f}%  (always answering "{base["answer"]}"{of})')
    if "balanced_accuracy" in figures:
        out.append(f"balanced accuracy  {100 * figures['balanced_accuracy']:6.2f}%")
    named = {"auc": "AUC", "average_precision": "average precision", "loss": "loss", **VOTES}
    out += [
        f"{title:18} {figures[name]:.4f}"
        for name, title in named.items()
        if not math.isnan(figures.get(name, math.nan))
    ]
    if "calibration" in figures:
        out.append(f"calibration error  {figures['calibration']['ece']:.4f}")
    if "confusion" in figures:
        (ll, lh), (hl, hh) = figures["confusion"]
        out.append(
            f"confusion          low photos: {ll} called low, {lh} high; high photos: {hl} called low, {hh} high"
        )
    return out


# figures that take what people voted (see votes.py), where it is known
VOTES = {"spearman": "Spearman, votes", "pearson": "Pearson, votes", "emd": "EMD, votes"}


# --- several runs of one net (seeds) ---------------------------------------------------------------------------------

SPREAD = ("accuracy", "first_batches", "balanced_accuracy", "auc", "average_precision", "loss", "calibration", *VOTES)


def spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over several evaluations' results of each figure that all of them have: {figure: spread}."""
    found = {}
    for name in SPREAD:
        values = [r["result"].get(name) for r in results]
        values = [v.get("value", v.get("ece")) if isinstance(v, dict) else v for v in values]
        if all(v is not None and math.isfinite(v) for v in values):
            found[name] = metrics.spread(values)
    return found


def groups(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations of one group and test set together, in the order of their first: {"name", "dataset", "variant",
    "members", "spread"}. CaffeError when one group holds different nets, tests that were not made alike, or tests of
    different photos."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        if result.get("group"):
            found.setdefault((result["group"], result.get("dataset")), []).append(result)
    made = []
    for (name, dataset), members in found.items():
        for what, usual in (("title", None), ("tta", None), ("preprocess", None), ("precision", "fp32")):
            kinds = {json.dumps(m.get(what) or usual, sort_keys=True) for m in members}
            if len(kinds) > 1:
                raise CaffeError(
                    f"group '{name}': its evaluations differ in {what} ({' and '.join(sorted(kinds))}): "
                    "they are not runs of one net"
                )
        first = members[0]
        for other in members[1:]:
            if tested(other) != tested(first):
                raise CaffeError(
                    f"group '{name}': {whose(first)} tests {tested(first)}, {whose(other)} "
                    f"{tested(other)}: their mean would be of different photos"
                )
        made.append(
            {
                "name": name,
                "dataset": dataset,
                "variant": members[0].get("variant"),
                "members": [m["name"] for m in members],
                "spread": spread(members),
            }
        )
    return made


def tested(result: dict[str, Any]) -> str:
    """The photos that an evaluation's figures are of."""
    figures = result["result"]
    first = figures.get("first_batches")
    some = f", of them {first['n']} in the first batches" if first else ""
    of = next((result[key] for key in ("lmdb", "picks", "source") if result.get(key)), "an unknown set")
    return f"{figures['n']} photos of {of}{some}"


def whose(result: dict[str, Any]) -> str:
    """Which evaluation it is: its file, or before it has one, its name."""
    return result.get("file") or result["name"]


def group_lines(group: dict[str, Any]) -> list[str]:
    """A group for a person to read."""
    titles = {"accuracy": "whole test set", "first_batches": "first 50 batches", "calibration": "calibration error"}
    runs = len(group["members"])
    out = [
        f"{group['name']}: {runs} runs, mean ± standard deviation (smallest to largest)"
        if runs > 1
        else f"{group['name']}: 1 run"
    ]
    for name, s in group["spread"].items():
        percent = name in ("accuracy", "first_batches", "balanced_accuracy")
        mean, sd, low, high = ((100 if percent else 1) * s[key] for key in ("mean", "sd", "min", "max"))
        digits, unit = (2, "%") if percent else (4, "")
        around = f" ± {sd:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})" if runs > 1 else ""
        out.append(f"{titles.get(name, name.replace('_', ' ')):18} {mean:.{digits}f}{unit}{around}")
    return out
