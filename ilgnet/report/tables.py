"""The report's tables, once for HTML, Markdown and CSV: the paper's Tables 1 to 4 beside ours, results and runs.

What was not run says so; nothing is guessed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ilgnet.ava.labels import safe_cell
from ilgnet.figures import html
from ilgnet.nets import paper, table1
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.variants import VARIANTS

NOT_RUN = "not run"
# against what people voted, where it is known
VOTES = {
    "spearman": "Spearman's correlation with the votes",
    "pearson": "Pearson's correlation with the votes",
    "emd": "earth mover's distance from the votes",
}
PARAMETERS = ("base_lr", "lr_policy", "stepsize", "gamma", "max_iter", "momentum", "weight_decay")  # Table 1's rows


class Cell(NamedTuple):
    """One cell. `small`: a second line; `numbers`: (value, from, to) in the unit of `text`, for the CSV."""

    text: str
    small: str = ""
    numbers: tuple[float, ...] = ()

    @property
    def missing(self) -> bool:
        return self.text == NOT_RUN


@dataclass
class Table:
    """`name` is that of the CSV file. `rows`: a cell a column each; `ours`: the rows of our nets."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    ours: set[int] = field(default_factory=set)

    def markdown(self) -> str:
        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

        def text(cell: Cell) -> str:
            return cell.text + (f" ({cell.small})" if cell.small else "")

        out = [f"**{self.title}**", "", line(self.columns), "|" + "---|" * len(self.columns)]
        out += [line(map(text, row)) for row in self.rows]
        return "\n".join(out + (["", self.note] if self.note else [])) + "\n"

    def csv(self) -> str:
        """Numbers where cells have them; a column with intervals becomes three."""
        triple = [any(len(row[i].numbers) == 3 for row in self.rows) for i in range(len(self.columns))]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [
                safe_cell(name)
                for column, three in zip(self.columns, triple)
                for name in ([column, f"{column}, from", f"{column}, to"] if three else [column])
            ]
        )
        for row in self.rows:
            values: list[str] = []
            for cell, three in zip(row, triple):
                numbers = [f"{n:.6g}" for n in cell.numbers]
                given = numbers or [safe_cell(cell.text + (f" ({cell.small})" if cell.small else ""))]
                values += (given + ["", ""])[:3] if three else given[:1]
            writer.writerow(values)
        return text.getvalue()

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "columns": self.columns,
            "note": self.note,
            "rows": [[c._asdict() for c in row] for row in self.rows],
        }


EMPTY = Cell("–")


def share(value: float | None) -> Cell:
    """0.8168 as 81.68 %."""
    return EMPTY if value is None or value != value else Cell(html.percent(value), numbers=(100 * value,))


def number(value: float | None, digits: int = 4) -> Cell:
    return EMPTY if value is None or value != value else Cell(html.number(value, digits), numbers=(value,))


def interval(p: dict[str, Any] | None) -> Cell:
    """A proportion and its 95% interval."""
    if not p:
        return EMPTY
    return Cell(
        html.percent(p["value"]),
        f"{html.percent(p['low'], 1)} – {html.percent(p['high'], 1)}",
        (100 * p["value"], 100 * p["low"], 100 * p["high"]),
    )


def batches(first: dict[str, Any] | None) -> Cell:
    """The first batches' accuracy: 50 of them, or a log's number."""
    count = (first or {}).get("batches", paper.DEFAULT_TEST_BATCHES)
    return _marked(interval(first), f"{count} batches" if count != paper.DEFAULT_TEST_BATCHES else "")


def runs_of(spread: dict[str, float] | None, percent: bool = True) -> Cell:
    """Mean, standard deviation and range over runs."""
    if not spread:
        return EMPTY
    mean, low, high = ((100 if percent else 1) * spread[key] for key in ("mean", "min", "max"))
    digits, unit = (2, " %") if percent else (4, "")
    if spread["runs"] == 1:
        return Cell(f"{mean:.{digits}f}{unit}", "1 run", (mean,))
    sd = (100 if percent else 1) * spread["sd"]
    return Cell(
        f"{mean:.{digits}f} ± {sd:.{digits}f}{unit}",
        f"{spread['runs']} runs, {low:.{digits}f} – {high:.{digits}f}{unit}",
        (mean, low, high),
    )


def printed(value: float | None) -> Cell:
    """The paper's figure, in per cent."""
    return EMPTY if value is None else Cell(f"{value:.2f} %", numbers=(value,))


# --- the paper's -----------------------------------------------------------------------------------------------------


def parameters_table(solvers: list[tuple[str, Any]], variant: str = "v1bn") -> Table:
    """Table 1 as the toolkit configures it, the released solvers, and those of our runs (name, SolverParameter)."""
    columns = [(d.title, table1.solver(d.name, variant)) for d in DATASETS.values()]
    columns += [(f"released, {DATASETS[d].title}", table1.solver(d, "v1", released=True)) for d in table1.RELEASED]
    columns += [(f"run {name}", solver) for name, solver in solvers]

    def cell(solver: Any, name: str) -> Cell:
        if not solver.HasField(name):
            return EMPTY
        value = getattr(solver, name)
        return Cell(value) if isinstance(value, str) else Cell(f"{value:.7g}", numbers=(float(f"{value:.7g}"),))

    rows = [[Cell(name), *(cell(solver, name) for _, solver in columns)] for name in PARAMETERS]
    return Table(
        "table1",
        "Table 1: training parameters, as configured",
        ["parameter", *(c for c, _ in columns)],
        rows,
        "The first three columns are the paper's, as printed, and those of the committed solvers.",
    )


def accuracy_tables(evaluations: list[dict[str, Any]], groups: list[dict[str, Any]]) -> list[Table]:
    """Tables 2 and 3, every published row, and ours where a net was tested on that data set."""
    made = []
    for i, (title, columns, rows) in enumerate(paper.tables()):
        table = Table(f"table{i + 2}", title + ", as printed and here", ["method"], [])
        baseline = [Cell("always the commoner class")]
        for dataset, heading in columns:
            table.columns += [f"{heading}: paper", "here, whole test set", "here, first 50 batches"]
            baseline += [EMPTY, _baseline(dataset, evaluations), EMPTY]
        table.rows.append(baseline)
        for row in rows:
            cells = [Cell(row.method)]
            for (dataset, _), figure in zip(columns, row.printed):
                cells += [printed(figure), *_ours(row.variant, dataset, evaluations, groups)]
            if row.variant:
                table.ours.add(len(table.rows))
            table.rows.append(cells)
        table.note = (
            "Rows in bold are nets of this toolkit; of several tests of one net here, the last given. "
            "The paper's own figures are those of 50 test batches."
        )
        made.append(table)
    return made


def _baseline(dataset: str, evaluations: list[dict[str, Any]]) -> Cell:
    """The commoner class's share in the test sets that were used here (a split of one's own has its own), else in the
    released list."""
    own = sorted(
        {
            e["result"]["majority_baseline"]["value"]
            for e in evaluations
            if e.get("dataset") == dataset and e["result"].get("majority_baseline")
        }
    )
    if not own:
        low, high = paper.RELEASED_TEST[dataset]
        return share(max(low, high) / (low + high))._replace(small="of the released list")
    if len(own) == 1:
        return share(own[0])
    return Cell(f"{html.percent(own[0])} – {html.percent(own[-1])}", "of different test sets")


def how_tested(evaluation: dict[str, Any]) -> str:
    """What of a test is not as the authors tested (in full precision, the centre of a photo warped to 256 x 256), and
    whether only a log tells of it."""
    found = ["from a log"] if evaluation.get("log") else []
    if evaluation.get("tta"):
        found.append(f"views: {evaluation['tta']}")
    if evaluation.get("precision") not in (None, "fp32"):
        found.append(evaluation["precision"])
    if (evaluation.get("preprocess") or {}).get("preset") == "direct":
        found.append("preset direct")
    return ", ".join(found)


def _marked(cell: Cell, how: str) -> Cell:
    return cell._replace(small="; ".join(filter(None, (cell.small, how)))) if cell.numbers else cell


def _ours(
    variant: str | None, dataset: str, evaluations: list[dict[str, Any]], groups: list[dict[str, Any]]
) -> tuple[Cell, Cell]:
    """(whole test set, first 50 batches) of the last group of runs that was given, or else each of the last single one
    that has it: a log has one of the two."""
    if variant is None:
        return Cell(""), Cell("")
    tests = [e for e in evaluations if (e.get("variant"), e.get("dataset")) == (variant, dataset)]
    if not tests:
        return Cell(NOT_RUN), Cell(NOT_RUN)
    group = [g for g in groups if (g["variant"], g["dataset"]) == (variant, dataset)]
    if group:
        how = next(how_tested(e) for e in tests if e.get("group") == group[-1]["name"])
        whole, first = (runs_of(group[-1]["spread"].get(name)) for name in ("accuracy", "first_batches"))
        return _marked(whole, how), _marked(first, how)
    whole, first = (
        next((e for e in reversed(tests) if e["result"].get(name)), tests[-1]) for name in ("accuracy", "first_batches")
    )
    return (
        _marked(interval(whole["result"].get("accuracy")), how_tested(whole)),
        _marked(batches(first["result"].get("first_batches")), how_tested(first)),
    )


def efficiency_table(
    benchmark: dict[str, Any] | None, evaluations: list[dict[str, Any]], groups: list[dict[str, Any]]
) -> Table:
    """Table 4 from what tools/benchmark.py --out wrote, or without it."""
    rows = [r for r in (benchmark or {}).get("rows", []) if r["engine"] == "torchcaffe"]
    found = {(r["variant"], r["task"]): r for r in rows}
    iterations, batch = table1.TABLE1["ava1"].max_iter, 48
    table = Table(
        "table4",
        "Table 4: efficiency, as printed and here",
        [
            "method",
            "AVA1 δ = 0: paper",
            "here, whole test set",
            "training: paper",
            "here",
            "test a photo: paper",
            "here, one at a time",
            "here, in batches",
        ],
        [],
    )
    listed = [v for v in VARIANTS.values() if v.table4[1] is not None]
    listed.sort(key=lambda v: -v.table4[2])  # the paper's order: slowest first
    extra = [VARIANTS[name] for name in dict.fromkeys(r["variant"] for r in rows) if VARIANTS[name] not in listed]
    for v in listed + extra:
        accuracy, days, seconds = v.table4
        train, one, many = (found.get((v.name, task)) for task in ("train", "test1", "test"))
        here = [Cell(NOT_RUN)] * 3
        if train:
            value = train["median_s"] * batch / train["batch"] * iterations / 86400
            here[0] = Cell(f"{value:.1f} days", numbers=(value,))
        for k, row in ((1, one), (2, many)):
            if row:
                value = row["median_s"] / row["batch"]
                here[k] = Cell(f"{value * 1000:.1f} ms", numbers=(value,))
        table.ours.add(len(table.rows))
        table.rows.append(
            [
                Cell(v.title),
                printed(accuracy),
                _ours(v.name, "ava1", evaluations, groups)[0],
                Cell(f"{days:g} days", numbers=(days,)) if days else EMPTY,
                here[0],
                Cell(f"{seconds:g} s", numbers=(seconds,)) if seconds else EMPTY,
                here[1],
                here[2],
            ]
        )
    machine = (benchmark or {}).get("machine")
    where = "Not timed here: tools/benchmark.py does that."
    if machine:
        device = f"GPU {machine['gpu']}" if machine["gpu"] is not None else f"{machine['threads']} threads"
        where = (
            f"Here: {machine['cpu']}, {device}, {machine['sgemm_flops'] / 1e9:,.0f} GFLOP/s in a matrix product; "
            f"training is {iterations:,} iterations of {batch} photos at the speed of those that were timed."
        )
    table.note = f"The paper's times are of a GTX 980 Ti. {where}"
    return table


# --- ours ------------------------------------------------------------------------------------------------------------


def results_table(evaluations: list[dict[str, Any]]) -> Table:
    """A column an evaluation."""

    def row(name: str, cell: Any) -> list[Cell]:
        return [Cell(name), *(cell(e, e["result"]) for e in evaluations)]

    def paper_figure(e: dict[str, Any], r: dict[str, Any]) -> Cell:
        variant = VARIANTS.get(e.get("variant") or "")
        figures = {} if variant is None else dict(zip(paper.RELEASED_TEST, (*variant.table2, variant.table3)))
        return printed(figures.get(e.get("dataset")))

    def whole(e: dict[str, Any], r: dict[str, Any]) -> Cell:
        if r.get("accuracy"):
            return interval(r["accuracy"])
        return Cell(NOT_RUN, "the set's size is unknown" if e.get("log") and not r.get("whole") else "")

    def photos(e: dict[str, Any], r: dict[str, Any]) -> Cell:
        cell = number((r.get("accuracy") or r.get("first_batches") or r)["n"], 0)
        return _marked(cell, f"{r['tested']} in the log: some more than once" if r.get("tested") else "")

    rows = [
        row("test set", lambda e, r: Cell((e.get("dataset") or "own") + (", from a log" if e.get("log") else ""))),
        row("net", lambda e, r: Cell(str(e["title"])) if e.get("title") else EMPTY),
        row("photos tested", photos),
        row("whole test set", whole),
        row("first 50 batches, as the authors tested", lambda e, r: batches(r.get("first_batches"))),
        row("always the commoner class", lambda e, r: share((r.get("majority_baseline") or {}).get("value"))),
        row("balanced accuracy", lambda e, r: share(r.get("balanced_accuracy"))),
        row("AUC", lambda e, r: number(r.get("auc"))),
        row("average precision", lambda e, r: number(r.get("average_precision"))),
        row("loss", lambda e, r: number(r.get("loss"))),
        row("calibration error", lambda e, r: number((r.get("calibration") or {}).get("ece"))),
        *(
            row(title, lambda e, r, name=name: number(r.get(name)))
            for name, title in VOTES.items()
            if any(e["result"].get(name) is not None for e in evaluations)
        ),
        row("views a photo", lambda e, r: Cell(e.get("tta") or "1")),
        row("precision", lambda e, r: Cell(e["precision"]) if e.get("precision") else EMPTY),
        row("the paper's figure", paper_figure),
    ]
    return Table(
        "results",
        "Accuracy, with 95% intervals",
        ["", *(e["name"] for e in evaluations)],
        rows,
        "Intervals are Wilson's. The released accuracies, 81.68 % and 85.50 %, are those of 50 batches.",
    )


def groups_table(groups: list[dict[str, Any]]) -> Table:
    """A column a group of runs."""
    names = {
        "accuracy": "whole test set",
        "first_batches": "first 50 batches",
        "balanced_accuracy": "balanced accuracy",
        "auc": "AUC",
        "average_precision": "average precision",
        "loss": "loss",
        "calibration": "calibration error",
    }
    rows = [[Cell("test set"), *(Cell(g["dataset"] or "own") for g in groups)]]
    for name, title in names.items():
        percent = name in ("accuracy", "first_batches", "balanced_accuracy")
        rows.append([Cell(title), *(runs_of(g["spread"].get(name), percent) for g in groups)])
    return Table(
        "groups", "Several runs of one net: mean ± standard deviation", ["", *(g["name"] for g in groups)], rows
    )


def runs_table(facts: list[dict[str, Any]]) -> Table:
    """A row a training log."""

    def rate(value: float | None) -> Cell:
        return EMPTY if value is None else Cell(f"{value:g}", numbers=(value,))

    rows = [
        [
            Cell(f["name"]),
            number(f["iterations"], 0),
            rate(f["first_lr"]),
            number(f["first_loss"]),
            number(f["last_loss"]),
            share(f["last_accuracy"]),
            share(f["best_accuracy"]),
            number(f["iterations_per_second"], 2),
        ]
        for f in facts
    ]
    return Table(
        "runs",
        "Training runs",
        [
            "run",
            "last iteration",
            "first rate",
            "first loss",
            "last loss",
            "last accuracy",
            "best accuracy",
            "iterations/s",
        ],
        rows,
    )


def density_table(features: dict[str, Any]) -> Table:
    """Density of active features at each label, high photos against low ones."""
    table = Table(
        "density",
        f"Share of active features (above 0), {features['name']}",
        ["layer", "in high photos", "in low photos", "difference", "Cohen's d", "P(high above low)", "p"],
        [],
    )
    for stage in features["stages"]:
        c = stage.get("comparison")
        cells = (
            [EMPTY] * 6
            if not c
            else [
                share(c["high"]["mean"]),
                share(c["low"]["mean"]),
                Cell(f"{100 * c['difference']:+.2f} points", numbers=(100 * c["difference"],)),
                number(c["cohens_d"], 2),
                number(c["p_superior"], 3),
                Cell(f"{c['p_value']:.4f}" if c["p_value"] >= 1e-4 else f"{c['p_value']:.1e}", numbers=(c["p_value"],)),
            ]
        )
        table.rows.append([Cell(f"{stage['mark']} {stage['what']}".strip(), " + ".join(stage["blobs"])), *cells])
    return table
