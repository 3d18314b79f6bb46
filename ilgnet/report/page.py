"""The report: the paper's Tables 1 to 4 and Figs. 2 to 5 beside our runs, in one file."""

import contextlib
import functools
import itertools
import operator
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.evaluate import caffe_log, feature_maps, protocol
from ilgnet.figures import html, pictures, plots
from ilgnet.nets import paper
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import records
from ilgnet.report import tables as report_tables
from ilgnet.run import outputs, results
from ilgnet.run.results import Benchmark, Evaluation, FeatureMaps
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.pictures import inside
from torchcaffe.formats.files import write_bytes
from torchcaffe.proto import caffe_pb2, parse_text

SHEET = 6  # photos of a group of the contact sheet
DRAWN = "v1bn"  # the net of Fig. 2 if no net of the report has the paper's labels


@dataclass
class Run:
    """A training log and its name in the report."""

    name: str
    log: caffe_log.CaffeLog


def read_runs(given: list[str]) -> list[Run]:
    """NAME=LOG or LOG each; the file's own name may contain "=". CaffeError for a name given twice."""
    runs = []
    for text in given:
        name, _, path = ("", "", text) if Path(text).is_file() else text.rpartition("=")
        runs.append(Run(name or Path(path).stem, caffe_log.read_log(path)))
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise CaffeError(f"--run: two runs have one name ({', '.join(names)}); write NAME=LOG")
    return runs


def read_evaluation(path: Path | str) -> Evaluation:
    """Read an evaluation. One with a confusion matrix must have what the page shows beside it."""
    found = results.read(path, Evaluation)
    if found.result.confusion:
        for name in ("title", "weights", "engine", "preprocess", "result.classes", "result.majority_baseline"):
            if operator.attrgetter(name)(found) is None:
                raise results.misfit(path, Evaluation, name)
    return found


def read_features(path: Path | str) -> FeatureMaps:
    found = results.read(path, FeatureMaps)
    if not found.stages:
        raise results.misfit(path, FeatureMaps, "stages")
    return found


def read_benchmark(path: Path | str) -> Benchmark:
    found = results.read(path, Benchmark)
    for i, row in enumerate(found.rows):
        for name, fits in (("variant", row.variant in VARIANTS), ("batch", row.batch >= 1)):
            if not fits:
                raise results.misfit(path, Benchmark, f"rows[{i}].{name}")
    return found


# --- curves ----------------------------------------------------------------------------------------------------------


def run_plots(runs: list[Run], tests: list[Evaluation]) -> list[tuple[str, str, plots.Plot]]:
    """(file name, caption, plot) of the training loss, test loss and test accuracy that were logged."""
    coloured = list(zip(runs, itertools.cycle(plots.COLOURS)))
    found = []
    train = [
        plots.Curve(r.name, loss.iterations, loss.values, c, smooth=max(5, len(loss) // 20))
        for r, c in coloured
        if (loss := r.log.train_loss())
    ]
    if train:
        plot = plots.curves(train, "training loss")
        found.append(("train_loss", "Training loss of the last head as logged (faint) and its running mean.", plot))
    for kind in ("loss", "accuracy"):
        lines = [
            plots.Curve(r.name, s.iterations, s.values, c, dashed=True)
            for r, c in coloured
            if (s := r.log.test_series(kind))
        ]
        if lines:
            percent = kind == "accuracy"
            plot = plots.curves(lines, f"test {kind}", baseline_level(tests) if percent else None, percent)
            found.append((f"test_{kind}", f"{kind.capitalize()} on the test set during training.", plot))
    return found


def baseline_level(tests: list[Evaluation]) -> tuple[float, str] | None:
    """The majority baseline if all results have the same."""
    values = {t.result.majority_baseline.value for t in tests if t.result.majority_baseline}
    return (values.pop(), "always the majority class") if len(values) == 1 else None


def run_facts(run: Run) -> dict[str, Any]:
    """A run's row in the table of runs."""

    def at(values: Any, index: int) -> Any:
        return values[index] if len(values) else None

    log = run.log
    loss, accuracy = log.train_loss().values, (log.test_series("accuracy") or caffe_log.Series()).values
    finite = accuracy[np.isfinite(accuracy)]
    iterations, seconds = log.speed
    return {
        "name": run.name,
        "log": log.path,
        "iterations": at(log.loss.iterations, -1),
        "first_lr": at(log.lr.values, 0),
        "first_loss": at(loss, 0),
        "last_loss": at(loss, -1),
        "last_accuracy": at(finite, -1),
        "best_accuracy": finite.max() if len(finite) else None,
        "iterations_per_second": iterations / seconds if seconds else None,
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


def sheet(test: Evaluation) -> tuple[list[dict[str, Any]], str]:
    """The photos that the net is surest of, right and wrong, by class: [{"title", "right", "total", "photos"}], and the
    reason why the pictures are left out, if they are."""
    if not test.predictions or not test.lmdb:
        return [], ""
    predictions = protocol.read_csv(inside(_folder(test), test.predictions))
    labels, p = predictions.labels, predictions.p_high
    sure = predictions.margins()
    groups = [
        ("called high, rightly", True, (labels == 1) & (p > 0.5), -sure),
        ("called low, rightly", True, (labels == 0) & (p < 0.5), sure),
        ("called high, but low", False, (labels == 0) & (p > 0.5), -sure),
        ("called low, but high", False, (labels == 1) & (p < 0.5), sure),
    ]
    found: list[dict[str, Any]] = []
    for title, right, mask, order in groups:
        index = np.flatnonzero(mask)
        index = index[np.argsort(order[index], kind="stable")][:SHEET]
        photos = [{"key": predictions.keys[i], "p_high": p[i]} for i in index]
        found.append({"title": title, "right": right, "total": np.count_nonzero(mask), "photos": photos})
    shown = [photo for group in found for photo in group["photos"]]
    images, why = {}, ""
    if _may_show(test):
        with contextlib.suppress(CaffeError):  # the LMDB may be on another machine
            images = records.read_records(test.lmdb, [photo["key"] for photo in shown])
    else:
        why = (
            f"The photos of {test.lmdb} are left out: it lies neither below the result's folder nor below the "
            "folder that the report was made in."
        )
    for photo in shown:
        photo["name"] = photo["key"].split("_", 1)[-1]
        photo["bgr"] = image = images.get(photo["key"])
        photo["image"] = html.thumbnail(image) if image is not None else None
    return found, why


def _folder(result: results.Result) -> Path:
    return result.path.resolve().parent


def _may_show(test: Evaluation) -> bool:
    """Whether the test set lies where a result may name one. Otherwise a stranger's result could put photos of any LMDB
    on this machine into a page that is passed on."""
    try:
        data = Path(os.path.realpath(Path(str(test.lmdb)) / "data.mdb"))  # which may itself be a link
    except ValueError:  # not a path
        return False
    return any(folder in data.parents for folder in (_folder(test), Path().resolve()))


# --- Fig. 2 ----------------------------------------------------------------------------------------------------------


@functools.cache
def net_drawing(variant: str) -> tuple[plots.Plot, str]:
    """Fig. 2: a variant drawn with the paper's labels, and a sentence on it."""
    from ilgnet.figures import drawing, summary
    from ilgnet.run import engine
    from ilgnet.scoring import scorers

    log.set_level(2)
    caffe = engine.load_engine()
    found = summary.summarize(caffe, scorers.deploy_net(variant), caffe.TEST)
    return drawing.figure2(found, paper.labels(variant)), summary.depth_sentence(found)


# --- the page --------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """The contents of a report."""

    title: str
    runs: list[Run] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    features: list[FeatureMaps] = field(default_factory=list)
    benchmark: Benchmark | None = None
    synthetic: bool = False

    def __post_init__(self) -> None:
        given: list[Evaluation | FeatureMaps] = [*self.evaluations, *self.features]
        self.synthetic = self.synthetic or any(e.synthetic for e in given)
        # The page's own note on synthetic labels says more than the models' cautions.
        told = [] if self.synthetic else [c for e in self.evaluations for c in e.cautions or []]
        self.cautions = list(dict.fromkeys(told))
        self.groups = protocol.groups(self.evaluations)
        variants = [e.variant for e in given if e.variant in VARIANTS]
        self.variant = next((v for v in variants if v and paper.labels(v)), DRAWN)

    def tables(self) -> dict[str, report_tables.Table]:
        """Every table by name, in the order of the page; the paper's tables are always there."""
        made = []
        if self.evaluations:
            made.append(report_tables.results_table(self.evaluations))
        if self.groups:
            made.append(report_tables.groups_table(self.groups))
        if self.runs:
            made.append(report_tables.runs_table(list(map(run_facts, self.runs))))
        solvers, wrong = _solvers(self.runs)
        made.append(report_tables.parameters_table(solvers, self.variant))
        made[-1].note += wrong
        made += report_tables.accuracy_tables(self.evaluations, self.groups)
        made.append(report_tables.efficiency_table(self.benchmark, self.evaluations, self.groups))
        density = [report_tables.density_table(f) for f in self.features]
        for i, table in enumerate(density[1:], 2):
            table.name += str(i)
        return {table.name: table for table in made + density}


def _solvers(runs: list[Run]) -> tuple[list[tuple[str, Any]], str]:
    """(name, SolverParameter) of the runs whose log prints a solver, and a note on solvers that cannot be parsed: a
    fork of Caffe may print fields that BVLC does not know."""
    found, wrong = [], []
    for run in runs:
        if run.log.solver.strip():
            try:
                found.append((run.name, parse_text(run.log.solver, caffe_pb2.SolverParameter(), run.log.path)))
            except CaffeError as error:
                wrong.append(f" The solver of run {run.name} was not understood: {error}.")
    return found, "".join(wrong)


def embedded(features: FeatureMaps) -> list[dict[str, Any]]:
    """The photos of Fig. 5 with their pictures as data URIs. CaffeError naming a missing picture."""

    def load(name: str) -> str:
        path = inside(_folder(features), name)
        if not path.is_file():
            raise CaffeError(f"{path}: no such picture; it belongs to {features.name}'s result")
        return html.data_uri(path.read_bytes(), "image/png")

    return [
        dict(vars(s), name=Path(s.key).name.split("_", 1)[-1], photo=load(s.photo), maps=list(map(load, s.maps)))
        for s in features.shown
    ]


Figures = list[tuple[str, str, plots.Plot | bytes | None]]  # each: name, caption, what is drawn if anything
Shown = list[dict[str, Any]]  # what the page shows of each result


def write(out: Path, report: Report) -> int:
    """Write OUT (HTML), and beside it the same as Markdown and JSON, each table as CSV and each figure as SVG and PNG.
    Returns how many files of tables and figures there are."""
    tables = report.tables()
    net_title = VARIANTS[report.variant].title
    net_plot, net_text = net_drawing(report.variant)
    curves = run_plots(report.runs, report.evaluations)
    tests, test_plots, test_pictures = _tests(report.evaluations)
    features, feature_plots, feature_pictures = _features(report.features)
    net: Figures = [("fig2", f"Fig. 2: {net_title}, labelled as in the paper", net_plot)]
    runs: Figures = [("fig4" if name == "train_loss" else name, caption, plot) for name, caption, plot in curves]
    captions = _write_figures(out, net + runs + test_plots + feature_plots + test_pictures + feature_pictures)
    for name, table in tables.items():
        results.write_csv(out.with_name(f"{out.stem}_{name}.csv"), table.csv())
    common: dict[str, Any] = {
        "title": report.title,
        "synthetic": report.synthetic,
        "cautions": report.cautions,
        "tables": tables,
    }
    text = html.page(
        "report.html",
        **common,
        tests=tests,
        curves=curves,
        net_plot=net_plot,
        net_text=net_text,
        net_title=net_title,
        features=features,
    )
    markdown = html.page("report.md", **common, features=report.features, pictures=captions)
    for path, page in ((out, text), (out.with_suffix(".md"), markdown)):
        write_bytes(path, page.encode("utf-8", "backslashreplace"))
    results.write_json(
        out.with_suffix(".json"),
        {
            "title": report.title,
            "synthetic_labels": report.synthetic,
            "runs": [series(r) for r in report.runs],
            "tables": [t.as_dict() for t in tables.values()],
            "groups": report.groups,
            "benchmark": report.benchmark,
            "evaluations": report.evaluations,
            "features": report.features,
        },
    )
    return len(tables) + sum(2 if name.endswith(".svg") else 1 for name in captions)


def _tests(evaluations: list[Evaluation]) -> tuple[Shown, Figures, Figures]:
    """What the page shows of each evaluation; their calibration; Fig. 3's photos."""
    shown: Shown = []
    calibrations: Figures = []
    pictured: Figures = []
    for i, test in enumerate(evaluations, 1):
        groups, why = sheet(test)
        if why:
            print(outputs.plain(f"{test.name}: {why}"), file=sys.stderr)
        plot = _calibration(test)
        shown.append({"test": test, "sheet": groups, "left_out": why, "calibration": plot})
        calibrations.append((f"calibration{i}", f"Calibration of {test.name}", plot))
        pictured.append((f"fig3_{i}", f"Fig. 3: photos that {test.name} labels high and low", sheet_picture(groups)))
    return shown, calibrations, pictured


def _features(found: list[FeatureMaps]) -> tuple[Shown, Figures, Figures]:
    """What the page shows of each net's features; their density; Fig. 5's pictures."""
    shown: Shown = []
    densities: Figures = []
    pictured: Figures = []
    for i, f in enumerate(found, 1):
        plot, path = feature_maps.density_plot(f), f.figure and inside(_folder(f), f.figure)
        shown.append({"result": f, "shown": embedded(f), "density": plot})
        densities.append((f"density{i}", f"Active features in the last layer, {f.name}", plot))
        picture = path.read_bytes() if path and path.is_file() else None
        pictured.append((f"fig5_{i}", f"Fig. 5: features of {f.name}", picture))
    return shown, densities, pictured


def _write_figures(out: Path, figures: Figures) -> dict[str, str]:
    """Write plots as SVG and PNG, pictures as PNG. Returns the captions by file: of a plot, its SVG."""
    captions = {}
    for name, caption, figure in figures:
        place = out.with_name(f"{out.stem}_{name}.png")
        if isinstance(figure, plots.Plot):
            figure.write(place.with_suffix(""))
            place = place.with_suffix(".svg")
        elif figure:
            write_bytes(place, figure)
        else:
            continue
        captions[place.name] = caption
    return captions


def sheet_picture(groups: list[dict[str, Any]]) -> bytes | None:
    """Fig. 3 as one PNG: a row for each group, with its title above it. None without pictures."""
    import cv2

    side, gap, head = 160, 6, 22
    groups = [g for g in groups if g["photos"]]
    if not any(p["bgr"] is not None for g in groups for p in g["photos"]):
        return None
    image = np.full((len(groups) * (side + head + gap) + gap, SHEET * (side + gap) + gap, 3), 255, np.uint8)
    for row, group in enumerate(groups):
        y = gap + row * (side + head + gap)
        pictures.write_text(image, group["title"], gap, y + head - 7)
        for k, photo in enumerate(group["photos"]):
            if photo["bgr"] is not None:
                x = gap + k * (side + gap)
                small = cv2.resize(photo["bgr"], (side, side), interpolation=cv2.INTER_AREA)
                image[y + head : y + head + side, x : x + side] = small
    return pictures.png(image)


def _calibration(test: Evaluation) -> plots.Plot | None:
    bins = test.result.calibration.bins if test.result.calibration else []
    if not any(part.n > 0 for part in bins):
        return None
    return plots.calibration(*zip(*((part.p_high, part.observed, part.n) for part in bins)))
