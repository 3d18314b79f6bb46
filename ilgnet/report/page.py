"""The report: the paper's Tables 1 to 4 and Figs. 2 to 5 beside what was run here, in one file."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.evaluate import caffe_log, feature_maps, protocol
from ilgnet.figures import html, plots
from ilgnet.nets import paper
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import records
from ilgnet.report import tables as report_tables
from ilgnet.run import outputs
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.pictures import inside
from torchcaffe.formats.files import write_bytes
from torchcaffe.proto import caffe_pb2, parse_text

SHEET = 6  # photos a group of the contact sheet
# What a result may lack: a log gives an accuracy only.
FIGURES = (
    "accuracy",
    "majority_baseline",
    "balanced_accuracy",
    "auc",
    "average_precision",
    "loss",
    "confusion",
    "calibration",
    "first_batches",
)
DRAWN = "v1bn"  # the net of Fig. 2, where no net of the report has the paper's labels


@dataclass
class Run:
    """A training log under the name that the report gives it."""

    name: str
    log: caffe_log.CaffeLog


def read_runs(given: list[str]) -> list[Run]:
    """NAME=LOG or LOG each, the file's own name may have a "=" too. CaffeError for a name given twice."""
    runs = []
    for text in given:
        name, _, path = ("", "", text) if Path(text).is_file() else text.rpartition("=")
        runs.append(Run(name or Path(path).stem, caffe_log.read_log(path)))
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise CaffeError(f"--run: two runs have one name ({', '.join(names)}); write NAME=LOG")
    return runs


def check_fields(path: Path | str, made_by: str, value: Any, fields: dict[str, Any], where: str = "") -> None:
    """CaffeError unless `value` is an object with all of `fields`, {name: type or types}, and no number too large."""
    for name, kinds in fields.items():
        fits = isinstance(value, dict) and name in value and isinstance(value[name], kinds)
        if not fits or isinstance(value[name], int) and abs(value[name]) > 1 << 53:
            raise CaffeError(f"{path}: not a result of {made_by}: {where}'{name}' is missing or of another kind")


NUMBER, MAYBE = (int, float), type(None)
SHARE = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": int}
# Each of these may be null or not there.
TEXTS = dict.fromkeys(
    (
        "dataset",
        "group",
        "lmdb",
        "log",
        "net",
        "picks",
        "precision",
        "predictions",
        "title",
        "tta",
        "variant",
        "weights",
    ),
    str,
)
FIGURE = {
    **dict.fromkeys(("balanced_accuracy", "auc", "average_precision", "loss", *protocol.VOTES), NUMBER),
    "whole": int,
    "confusion": list,
    "classes": list,
}
RESULT = {
    "accuracy": SHARE,
    "first_batches": SHARE,
    "majority_baseline": {**SHARE, "answer": str},
    "calibration": {"ece": (*NUMBER, MAYBE), "bins": list},
}
BIN = {"n": int, "p_high": NUMBER, "observed": NUMBER}


def read_evaluations(paths: list[str]) -> list[dict[str, Any]]:
    """What tools/evaluate.py --out wrote; "file" and "folder" are added: its own, and where the photos' CSV lies."""
    found = []
    for path in paths:
        result = protocol.read_json(path)
        if not isinstance(result, dict) or result.get("kind") != "evaluation":
            raise CaffeError(f"{path}: not a result of tools/evaluate.py")
        _check_evaluation(path, result)
        found.append(dict(result, file=str(path), folder=str(Path(path).resolve().parent)))
    return found


def _check_evaluation(path: Path | str, result: dict[str, Any]) -> None:
    """CaffeError naming the field that is not as tools/evaluate.py writes it."""

    def check(value: Any, fields: dict[str, Any], where: str = "") -> None:
        check_fields(path, "tools/evaluate.py", value, fields, where)

    def given(value: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        return {name: kinds for name, kinds in fields.items() if value.get(name) is not None}

    check(result, {"name": str, "result": dict, **given(result, {**TEXTS, "preprocess": dict})})
    figures = result["result"]
    check(figures, {"n": int, **given(figures, FIGURE)}, "result.")
    for name in given(figures, RESULT):
        check(figures[name], RESULT[name], f"result.{name}.")
    if figures.get("first_batches") is not None:
        check(
            figures["first_batches"],
            given(figures["first_batches"], {"batches": int, "batch": int}),
            "result.first_batches.",
        )
    for i, part in enumerate((figures.get("calibration") or {}).get("bins", ())):
        check(part, BIN, f"result.calibration.bins[{i}].")
    if figures.get("confusion"):  # of weights: the page says which
        check(result, {"title": str, "weights": str, "engine": str, "preprocess": dict})
        check(result["preprocess"], {"preset": str, "warp": list, "crop": list}, "preprocess.")
        check(figures, {"classes": list, "majority_baseline": dict}, "result.")
        rows = [*figures["confusion"], figures["classes"]]
        if len(rows) != 3 or not all(isinstance(row, list) and len(row) == 2 for row in rows):
            raise CaffeError(
                f"{path}: not a result of tools/evaluate.py: result.'confusion' or result.'classes' is of another kind"
            )


# --- curves ----------------------------------------------------------------------------------------------------------


def run_plots(runs: list[Run], evaluations: list[dict[str, Any]]) -> list[tuple[str, str, plots.Plot]]:
    """(file name, caption, plot): training loss, test loss and test accuracy, where they were logged."""
    colours = [plots.COLOURS[i % len(plots.COLOURS)] for i in range(len(runs))]
    found = []
    train = [
        plots.Curve(r.name, r.log.loss.iterations, r.log.loss.values, c, smooth=max(5, len(r.log.loss) // 20))
        for r, c in zip(runs, colours)
        if len(r.log.loss)
    ]
    if train:
        found.append(
            (
                "train_loss",
                "Training loss as logged (faint) and its running mean.",
                plots.curves(train, "training loss"),
            )
        )
    for kind, name, caption in (
        ("loss", "test_loss", "Loss on the test set during training."),
        ("accuracy", "test_accuracy", "Accuracy on the test set during training."),
    ):
        tests = [(r.name, r.log.test_series(kind), c) for r, c in zip(runs, colours)]
        lines = [plots.Curve(n, s.iterations, s.values, c, dashed=True) for n, s, c in tests if s]
        if lines:
            level = baseline_level(evaluations) if kind == "accuracy" else None
            found.append((name, caption, plots.curves(lines, f"test {kind}", level, percent=kind == "accuracy")))
    return found


def baseline_level(evaluations: list[dict[str, Any]]) -> tuple[float, str] | None:
    """The majority baseline, where all results have the same."""
    values = {e["result"]["majority_baseline"]["value"] for e in evaluations if e["result"].get("majority_baseline")}
    return (values.pop(), "always the commoner class") if len(values) == 1 else None


def run_facts(run: Run) -> dict[str, Any]:
    """A run's row in the table of runs."""
    log = run.log
    accuracy = log.test_series("accuracy")
    finite = accuracy.values[np.isfinite(accuracy.values)] if accuracy is not None else np.zeros(0)
    iterations, seconds = log.speed
    speed = iterations / seconds if seconds else None
    return {
        "name": run.name,
        "log": log.path,
        "iterations": int(log.loss.iterations[-1]) if len(log.loss) else None,
        "first_lr": float(log.lr.values[0]) if len(log.lr) else None,
        "first_loss": float(log.loss.values[0]) if len(log.loss) else None,
        "last_loss": float(log.loss.values[-1]) if len(log.loss) else None,
        "last_accuracy": float(finite[-1]) if len(finite) else None,
        "best_accuracy": float(finite.max()) if len(finite) else None,
        "iterations_per_second": speed,
    }


def series(run: Run) -> dict[str, Any]:
    """A run's numbers, for the JSON."""

    def points(s: caffe_log.Series) -> dict[str, Any]:
        return {"iteration": s.iterations, "value": s.values}

    return dict(
        run_facts(run),
        loss=points(run.log.loss),
        lr=points(run.log.lr),
        train={name: points(s) for name, s in run.log.train.items()},
        test={str(i): {name: points(s) for name, s in net.items()} for i, net in run.log.tests.items()},
    )


# --- the contact sheet -----------------------------------------------------------------------------------------------


def sheet(result: dict[str, Any], count: int = SHEET) -> tuple[list[dict[str, Any]], str]:
    """The photos that the net is surest of, right and wrong, a group a class: [{"title", "right", "photos"}]; and why
    the pictures are not there, where they are not."""
    if not result.get("predictions") or not result.get("lmdb"):
        return [], ""
    predictions = protocol.read_csv(inside(result["folder"], result["predictions"]))
    labels, p = predictions.labels, predictions.p_high
    sure = predictions.margins()
    groups = [
        ("called high, rightly", True, (labels == 1) & (p > 0.5), -sure),
        ("called low, rightly", True, (labels == 0) & (p < 0.5), sure),
        ("called high, but low", False, (labels == 0) & (p > 0.5), -sure),
        ("called low, but high", False, (labels == 1) & (p < 0.5), sure),
    ]
    found = []
    for title, right, mask, order in groups:
        index = np.flatnonzero(mask)
        index = index[np.argsort(order[index], kind="stable")][:count]
        found.append(
            {
                "title": title,
                "right": right,
                "total": int(mask.sum()),
                "photos": [{"key": predictions.keys[i], "p_high": float(p[i])} for i in index],
            }
        )
    pictures, why = {}, ""
    if _may_show(result):
        # The report may be written where the LMDB is not.
        with contextlib.suppress(CaffeError):
            pictures = records.read_records(result["lmdb"], [ph["key"] for g in found for ph in g["photos"]])
    else:
        why = (
            f"The photos of {result['lmdb']} are left out: it lies neither below the result's folder nor below the "
            "folder that the report was made in."
        )
    for group in found:
        for photo in group["photos"]:
            photo["name"] = photo["key"].split("_", 1)[-1]
            image = pictures.get(photo["key"])
            photo["bgr"], photo["image"] = image, html.thumbnail(image) if image is not None else None
    return found, why


def _may_show(result: dict[str, Any]) -> bool:
    """Whether the test set lies where a result may name one: a stranger's may name any LMDB of this machine, whose
    photos would be in a page that is passed on."""
    try:
        data = Path(os.path.realpath(Path(result["lmdb"]) / "data.mdb"))  # which may itself be a link
    except ValueError:  # no path at all
        return False
    return any(Path(folder).resolve() in data.parents for folder in (result["folder"], "."))


# --- Fig. 2 ----------------------------------------------------------------------------------------------------------


@functools.cache
def net_drawing(variant: str) -> tuple[plots.Plot | None, str]:
    """Fig. 2: a variant drawn with the paper's labels, and a sentence on it; no plot where no engine gives its shapes,
    and the reason why."""
    from ilgnet.figures import drawing, summary
    from ilgnet.run import engine
    from ilgnet.scoring import scorers

    log.set_level(2)
    try:
        caffe = engine.load_engine()
    except CaffeError as error:
        return None, f"Not drawn: {error}"
    found = summary.summarize(caffe, scorers.deploy_net(variant), caffe.TEST)
    return drawing.figure2(found, paper.labels(variant)), summary.depth_sentence(found)


# --- the page --------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a report is made of. `features` are feature_maps.read's, `benchmark` is tools/benchmark.py's JSON."""

    title: str
    runs: list[Run] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    benchmark: dict[str, Any] | None = None
    synthetic: bool = False

    def __post_init__(self) -> None:
        given = [*self.evaluations, *self.features]
        self.synthetic = self.synthetic or any(e.get("synthetic") for e in given)
        self.groups = protocol.groups(self.evaluations)
        variants = [e.get("variant") for e in given if e.get("variant") in VARIANTS]
        self.variant = next((v for v in variants if paper.labels(v)), DRAWN)

    def tables(self) -> dict[str, report_tables.Table]:
        """Every table by name, those of the paper always, in the order of the page."""
        made = []
        if self.evaluations:
            made.append(report_tables.results_table([dict(e, result=_whole(e)) for e in self.evaluations]))
        if self.groups:
            made.append(report_tables.groups_table(self.groups))
        if self.runs:
            made.append(report_tables.runs_table([run_facts(r) for r in self.runs]))
        solvers, wrong = _solvers(self.runs)
        made.append(report_tables.parameters_table(solvers, self.variant))
        made[-1].note += wrong
        made += report_tables.accuracy_tables(self.evaluations, self.groups)
        made.append(report_tables.efficiency_table(self.benchmark, self.evaluations, self.groups))
        density = [report_tables.density_table(f) for f in self.features]
        for i, table in enumerate(density[1:], 2):
            table.name += str(i)
        return {table.name: table for table in made + density}


def _whole(result: dict[str, Any]) -> dict[str, Any]:
    """A result with every figure that there is, None for those that it lacks."""
    return dict(dict.fromkeys(FIGURES), **result["result"])


def _solvers(runs: list[Run]) -> tuple[list[tuple[str, Any]], str]:
    """(name, SolverParameter) of the runs whose log prints one, and what is wrong with the others': a fork of Caffe may
    print fields that BVLC does not know, which spoils no other part of the report."""
    found, wrong = [], []
    for run in runs:
        if run.log.solver.strip():
            try:
                found.append((run.name, parse_text(run.log.solver, caffe_pb2.SolverParameter(), run.log.path)))
            except CaffeError as error:
                wrong.append(f" The solver of run {run.name} was not understood: {error}.")
    return found, "".join(wrong)


def read_features(path: Path | str) -> dict[str, Any]:
    """What tools/visualize.py wrote."""
    found = feature_maps.read(path)
    check_fields(
        path, "tools/visualize.py", found, {"name": str, "stages": list, "shown": list, "claim": str, "densities": str}
    )
    if not found["stages"]:
        raise CaffeError(f"{path}: not a result of tools/visualize.py: 'stages' is empty")
    for i, stage in enumerate(found["stages"]):
        check_fields(
            path,
            "tools/visualize.py",
            stage,
            {"mark": str, "what": str, "blobs": list, "comparison": (dict, MAYBE)},
            f"stages[{i}].",
        )
    for i, photo in enumerate(found["shown"]):
        check_fields(
            path,
            "tools/visualize.py",
            photo,
            {"key": str, "photo": str, "maps": list, "p_high": NUMBER, "label": (int, MAYBE)},
            f"shown[{i}].",
        )
    return found


def read_benchmark(path: Path | str) -> dict[str, Any]:
    """What tools/benchmark.py --out wrote."""
    found = protocol.read_json(path)
    check_fields(path, "tools/benchmark.py", found, {"machine": (dict, MAYBE), "rows": list})
    if found["machine"]:
        check_fields(
            path,
            "tools/benchmark.py",
            found["machine"],
            {"cpu": str, "gpu": (int, str, MAYBE), "threads": int, "sgemm_flops": NUMBER},
            "machine.",
        )
    for i, row in enumerate(found["rows"]):
        check_fields(
            path,
            "tools/benchmark.py",
            row,
            {"engine": str, "variant": str, "task": str, "batch": int, "median_s": NUMBER},
            f"rows[{i}].",
        )
        if row["variant"] not in VARIANTS or row["batch"] < 1:
            raise CaffeError(
                f"{path}: not a result of tools/benchmark.py: rows[{i}]: variant {row['variant']}, batch {row['batch']}"
            )
    return found


def embedded(features: dict[str, Any]) -> list[dict[str, Any]]:
    """The photos of Fig. 5 with their pictures inside. CaffeError naming the picture that is not there."""

    def load(name: str) -> str:
        path = inside(features["folder"], name)
        if not path.is_file():
            raise CaffeError(f"{path}: no such picture; it belongs to {features['name']}'s result")
        return html.data_uri(path.read_bytes(), "image/png")

    return [
        dict(s, name=Path(s["key"]).name.split("_", 1)[-1], photo=load(s["photo"]), maps=list(map(load, s["maps"])))
        for s in features["shown"]
    ]


def write(out: Path, report: Report) -> list[Path]:
    """OUT (HTML), and beside it the same as Markdown and JSON, each table as CSV and each figure as SVG and PNG.
    Returns their paths."""
    tables = report.tables()
    net_plot, net_text = net_drawing(report.variant)
    results = [
        dict(
            e,
            log=e.get("log"),
            variant=e.get("variant"),
            tta=e.get("tta"),
            sheet=groups,
            left_out=why,
            calibration=_calibration(e),
            result=_whole(e),
        )
        for e in report.evaluations
        for groups, why in [sheet(e)]
    ]
    for e in results:
        if e["left_out"]:
            print(outputs.plain(f"{e['name']}: {e['left_out']}"), file=sys.stderr)
    curves = run_plots(report.runs, report.evaluations)
    shown = [dict(f, shown=embedded(f), density=feature_maps.read_density(f)) for f in report.features]
    figures = [("fig2", f"Fig. 2: {VARIANTS[report.variant].title}, labelled as in the paper", net_plot)]
    figures += [("fig4" if name == "train_loss" else name, caption, plot) for name, caption, plot in curves]
    figures += [
        (f"calibration{i}", f"Calibration of {e['name']}", e["calibration"])
        for i, e in enumerate(results, 1)
        if e["calibration"]
    ]
    figures += [
        (f"density{i}", f"Active features in the last layer, {f['name']}", f["density"]) for i, f in enumerate(shown, 1)
    ]
    figures = [(name, caption, plot) for name, caption, plot in figures if plot]
    written = [out]
    for name, _, plot in figures:
        plot.write(out.with_name(f"{out.stem}_{name}"))
        written += [out.with_name(f"{out.stem}_{name}{suffix}") for suffix in (".svg", ".png")]
    pictures = [
        (f"{out.stem}_fig3_{i}.png", f"Fig. 3: photos that {e['name']} labels high and low", sheet_picture(e))
        for i, e in enumerate(results, 1)
        if any(p["bgr"] is not None for g in e["sheet"] for p in g["photos"])
    ]
    pictures = [(name, caption, _png(image)) for name, caption, image in pictures]
    for i, f in enumerate(report.features, 1):
        path = inside(f["folder"], f["figure"]) if f.get("figure") else None
        if path is not None and path.is_file():
            pictures.append((f"{out.stem}_fig5_{i}.png", f"Fig. 5: features of {f['name']}", path.read_bytes()))
    for name, _, data in pictures:
        write_bytes(out.with_name(name), data)
        written.append(out.with_name(name))
    for name, table in tables.items():
        write_bytes(out.with_name(f"{out.stem}_{name}.csv"), table.csv().encode("utf-8", "backslashreplace"))
        written.append(out.with_name(f"{out.stem}_{name}.csv"))
    text = html.page(
        "report.html",
        title=report.title,
        synthetic=report.synthetic,
        tables=tables,
        results=results,
        curves=curves,
        net_plot=net_plot,
        net_text=net_text,
        net_title=VARIANTS[report.variant].title,
        labels_note=paper.LABELS_NOTE,
        features=shown,
    )
    write_bytes(out, text.encode("utf-8", "backslashreplace"))
    plain = markdown(
        report,
        tables,
        [(f"{out.stem}_{name}.svg", caption) for name, caption, _ in figures]
        + [(name, caption) for name, caption, _ in pictures],
    )
    write_bytes(out.with_suffix(".md"), plain.encode("utf-8", "backslashreplace"))
    protocol.write_json(
        out.with_suffix(".json"),
        {
            "title": report.title,
            "synthetic_labels": report.synthetic,
            "runs": [series(r) for r in report.runs],
            "tables": [t.as_dict() for t in tables.values()],
            "groups": report.groups,
            "benchmark": report.benchmark,
            "evaluations": [{k: v for k, v in e.items() if k not in ("file", "folder")} for e in report.evaluations],
            "features": [{k: v for k, v in f.items() if k != "folder"} for f in report.features],
        },
    )
    return written + [out.with_suffix(".md"), out.with_suffix(".json")]


def markdown(report: Report, tables: dict[str, report_tables.Table], pictures: list[tuple[str, str]]) -> str:
    """The report as Markdown: `pictures` are (file beside it, caption)."""
    parts = [f"# {report.title}\n"]
    if report.synthetic:
        parts.append(
            "**Synthetic labels.** These photos were not rated by people: the figures say that the software "
            "works, and nothing about AVA.\n"
        )
    parts += [table.markdown() for table in tables.values()]
    parts += [f"{f['name']}, the paper's observation under Fig. 5: {f['claim']}\n" for f in report.features]
    parts += [f"![{caption}]({name})\n\n{caption}\n" for name, caption in pictures]
    return "\n".join(parts)


def sheet_picture(result: dict[str, Any], side: int = 160) -> np.ndarray:
    """Fig. 3 as one picture, (H, W, 3) uint8 BGR: a row a group, its title above it."""
    import cv2

    gap, head = 6, 22
    groups = [g for g in result["sheet"] if g["photos"]]
    image = np.full((len(groups) * (side + head + gap) + gap, SHEET * (side + gap) + gap, 3), 255, np.uint8)
    for row, group in enumerate(groups):
        y = gap + row * (side + head + gap)
        cv2.putText(
            image, group["title"], (gap, y + head - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 35, 31), 1, cv2.LINE_AA
        )
        for k, photo in enumerate(group["photos"]):
            if photo["bgr"] is not None:
                x = gap + k * (side + gap)
                image[y + head : y + head + side, x : x + side] = cv2.resize(
                    photo["bgr"], (side, side), interpolation=cv2.INTER_AREA
                )
    return image


def _png(bgr: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", bgr)[1].tobytes()


def _calibration(result: dict[str, Any]) -> plots.Plot | None:
    found = result["result"].get("calibration")
    return plots.calibration(found["bins"]) if found and any(part["n"] > 0 for part in found["bins"]) else None
