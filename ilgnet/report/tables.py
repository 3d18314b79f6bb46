"""The report's tables for HTML, Markdown and CSV: the paper's Tables 1 to 4 beside ours, results and runs. A cell of a
net that was not tested says "not run"."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ilgnet.ava.labels import safe_cell
from ilgnet.evaluate import protocol
from ilgnet.figures import html
from ilgnet.nets import paper, table1
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.variants import VARIANTS
from ilgnet.run.results import VOTES, Benchmark, Evaluation, FeatureMaps, Figures, Group, Proportion, Spread, Timed

NOT_RUN = "not run"
PARAMETERS = ("base_lr", "lr_policy", "stepsize", "gamma", "max_iter", "momentum", "weight_decay")  # Table 1's rows
BATCH = 48  # photos an iteration of the released training


class Cell(NamedTuple):
    """A cell. `small`: a second line; `numbers`: (value, from, to) in the unit of `text`, for the CSV."""

    text: str
    small: str = ""
    numbers: tuple[float, ...] = ()

    @property
    def line(self) -> str:
        return self.text + (f" ({self.small})" if self.small else "")


@dataclass
class Table:
    """`name` is that of the CSV file. `rows`: a cell for each column; `ours`: the rows of our nets."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""
    ours: set[int] = field(default_factory=set)

    def csv(self) -> Iterable[Sequence[str]]:
        """The rows of the CSV file: numbers where cells have them; a column with intervals becomes three."""
        made: list[tuple[str, ...]] = []
        for name, cells in zip(self.columns, zip(*self.rows)):
            given = [[f"{n:.6g}" for n in cell.numbers] or [safe_cell(cell.line)] for cell in cells]
            heads = map(safe_cell, (name, f"{name}, from", f"{name}, to"))
            made += list(itertools.zip_longest(heads, *given, fillvalue=""))[: max(map(len, given))]
        return zip(*made)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "columns": self.columns,
            "note": self.note,
            "rows": [[c._asdict() for c in row] for row in self.rows],
        }


EMPTY = Cell("–")


def printed(value: float | None, form: str = "{:.2f} %") -> Cell:
    """A number, by default in per cent; EMPTY for None and NaN."""
    return EMPTY if value is None or value != value else Cell(form.format(value), numbers=(value,))


def share(value: float | None) -> Cell:
    """0.8168 as 81.68 %."""
    return printed(None if value is None else 100 * value)


def number(value: float | None) -> Cell:
    return printed(value, "{:.4f}")


def interval(p: Proportion | None) -> Cell:
    """A proportion and its 95% interval."""
    if not p:
        return EMPTY
    return Cell(
        html.percent(p.value),
        f"{100 * p.low:.1f} % – {100 * p.high:.1f} %",
        (100 * p.value, 100 * p.low, 100 * p.high),
    )


def batches(first: Proportion | None) -> Cell:
    """The accuracy of the first batches, with their number unless it is 50."""
    count = first.batches if first else None
    return _marked(interval(first), f"{count} batches" if count not in (None, paper.DEFAULT_TEST_BATCHES) else "")


def runs_of(s: Spread | None, percent: bool = True) -> Cell:
    """Mean, standard deviation and range over runs."""
    if not s:
        return EMPTY
    scale, digits, unit = (100, 2, " %") if percent else (1, 4, "")
    mean, sd, low, high = (scale * value for value in (s.mean, s.sd, s.min, s.max))
    if s.runs == 1:
        return Cell(f"{mean:.{digits}f}{unit}", "1 run", (mean,))
    return Cell(
        f"{mean:.{digits}f} ± {sd:.{digits}f}{unit}",
        f"{s.runs} runs, {low:.{digits}f} – {high:.{digits}f}{unit}",
        (mean, low, high),
    )


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
        return Cell(value) if isinstance(value, str) else printed(float(f"{value:.7g}"), "{:.7g}")

    return Table(
        "table1",
        "Table 1: training parameters, as configured",
        ["parameter", *(c for c, _ in columns)],
        [[Cell(name), *(cell(solver, name) for _, solver in columns)] for name in PARAMETERS],
        "The first three columns are the paper's, as printed, and those of the committed solvers.",
    )


def accuracy_tables(tests: list[Evaluation], groups: list[Group]) -> list[Table]:
    """Tables 2 and 3: every published row, and our figures for the nets that were tested on that data set."""
    made = []
    for i, (title, columns, rows) in enumerate(paper.tables()):
        table = Table(f"table{i + 2}", title + ", as printed and here", ["method"])
        baseline = [Cell("always the majority class")]
        for dataset, heading in columns:
            table.columns += [f"{heading}: paper", "here, whole test set", "here, first 50 batches"]
            baseline += [EMPTY, _baseline(dataset, tests), EMPTY]
        table.rows.append(baseline)
        for row in rows:
            cells = [Cell(row.method)]
            for (dataset, _), figure in zip(columns, row.printed):
                cells += [printed(figure), *_ours(row.variant, dataset, tests, groups)]
            if row.variant:
                table.ours.add(len(table.rows))
            table.rows.append(cells)
        table.note = (
            "Rows in bold are nets of this toolkit; of several tests of one net here, the last given. "
            "The paper's own figures are those of 50 test batches."
        )
        made.append(table)
    return made


def _baseline(dataset: str, tests: list[Evaluation]) -> Cell:
    """The share of the majority class in the test sets used here, or else in the released list."""
    used = (t.result.majority_baseline for t in tests if t.dataset == dataset)
    own = sorted({baseline.value for baseline in used if baseline})
    if not own:
        low, high = paper.RELEASED_TEST[dataset]
        return share(max(low, high) / (low + high))._replace(small="of the released list")
    if len(own) == 1:
        return share(own[0])
    return Cell(f"{html.percent(own[0])} – {html.percent(own[-1])}", "of different test sets")


def how_tested(test: Evaluation) -> str:
    """The differences from the authors' test: full precision, the centre of a photo warped to 256 x 256."""
    found = ["from a log"] if test.log else []
    if test.tta:
        found.append(f"views: {test.tta}")
    if test.precision not in (None, "fp32"):
        found.append(test.precision)
    if test.preprocess and test.preprocess.preset == "direct":
        found.append("preset direct")
    return ", ".join(found)


def _marked(cell: Cell, how: str) -> Cell:
    return cell._replace(small="; ".join(filter(None, (cell.small, how)))) if cell.numbers else cell


def _between(cell: Cell, figures: Figures, name: str, scale: float = 1) -> Cell:
    """The cell with the figure's 95% interval."""
    if not cell.numbers or name not in (figures.intervals or {}):
        return cell
    low, high = (scale * value for value in figures.intervals[name])  # type: ignore[index]
    unit, digits = (" %", 1) if scale > 1 else ("", 3)
    return Cell(cell.text, f"{low:.{digits}f}{unit} – {high:.{digits}f}{unit}", (cell.numbers[0], low, high))


def _ours(variant: str | None, dataset: str, tests: list[Evaluation], groups: list[Group]) -> list[Cell]:
    """[whole test set, first 50 batches] of the last group of runs, or else of the last test that has the figure (a log
    has one of the two)."""
    if variant is None:
        return [Cell("")] * 2
    tests = [t for t in tests if (t.variant, t.dataset) == (variant, dataset)]
    if not tests:
        return [Cell(NOT_RUN)] * 2
    group = [g for g in groups if (g.variant, g.dataset) == (variant, dataset)]
    if group:
        how = next(how_tested(t) for t in tests if t.group == group[-1].name)
        return [_marked(runs_of(group[-1].spread.get(name)), how) for name in ("accuracy", "first_batches")]
    cells = []
    for name, cell in (("accuracy", interval), ("first_batches", batches)):
        test = next((t for t in reversed(tests) if getattr(t.result, name)), tests[-1])
        cells.append(_marked(cell(getattr(test.result, name)), how_tested(test)))
    return cells


class Efficiency(NamedTuple):
    """Table 4 for a net, as timed here; None for what was not timed. `days` of training on AVA1 by Table 1's schedule;
    `train`: what they are computed from; seconds a photo when tested one at a time, and in batches."""

    days: float | None
    one: float | None
    many: float | None
    train: Timed | None


def efficiency(rows: Sequence[Timed]) -> dict[str, Efficiency]:
    """Table 4's figures of each variant that torchcaffe was timed on."""
    ours = {(row.variant, row.task): row for row in rows if row.engine == "torchcaffe"}
    found = {}
    for variant, _ in ours:
        train, one, many = (ours.get((variant, task)) for task in ("train", "test1", "test"))
        days = train.median_s * BATCH / train.batch * table1.TABLE1["ava1"].max_iter / 86400 if train else None
        single, several = (row.median_s / row.batch if row else None for row in (one, many))
        found[variant] = Efficiency(days, single, several, train)
    return found


def efficiency_table(benchmark: Benchmark | None, tests: list[Evaluation], groups: list[Group]) -> Table:
    """Table 4, with our times if there is a benchmark."""
    found = efficiency(benchmark.rows if benchmark else [])
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
    )
    listed = [v for v in VARIANTS.values() if v.table4[1] is not None]
    listed.sort(key=lambda v: v.table4[2] or 0, reverse=True)  # the paper's order: slowest first
    listed += [VARIANTS[name] for name in found if VARIANTS[name] not in listed]
    for v in listed:
        accuracy, days, seconds = v.table4
        here = found.get(v.name, Efficiency(None, None, None, None))
        one, many = (
            Cell(NOT_RUN) if value is None else Cell(f"{value * 1000:.1f} ms", numbers=(value,))
            for value in (here.one, here.many)
        )
        table.ours.add(len(table.rows))
        table.rows.append(
            [
                Cell(v.title),
                printed(accuracy),
                _ours(v.name, "ava1", tests, groups)[0],
                printed(days, "{:g} days"),
                Cell(NOT_RUN) if here.days is None else printed(here.days, "{:.1f} days"),
                printed(seconds, "{:g} s"),
                one,
                many,
            ]
        )
    where = "Not timed here: ilgnet benchmark does that."
    if benchmark and benchmark.machine:
        m = benchmark.machine
        device = f"GPU {m.gpu}" if m.gpu is not None else f"{m.threads} threads"
        where = (
            f"Here: {m.cpu}, {device}, {m.sgemm_flops / 1e9:,.0f} GFLOP/s in a matrix product; training is "
            f"{table1.TABLE1['ava1'].max_iter:,} iterations of {BATCH} photos at the speed of those that were timed."
        )
    table.note = f"The paper's times are of a GTX 980 Ti. {where}"
    return table


# --- ours ------------------------------------------------------------------------------------------------------------


def results_table(tests: list[Evaluation]) -> Table:
    """A column for each evaluation."""

    def paper_figure(t: Evaluation) -> Cell:
        if t.variant not in VARIANTS or t.dataset not in paper.RELEASED_TEST:
            return EMPTY
        v = VARIANTS[t.variant]
        return printed(dict(zip(paper.RELEASED_TEST, (*v.table2, v.table3)))[t.dataset])

    def column(t: Evaluation) -> dict[str, Cell]:
        r = t.result
        size = "the set's size is unknown" if t.log and not r.whole else ""
        return {
            "test set": Cell((t.dataset or "own") + (", from a log" if t.log else "")),
            "net": Cell(t.title) if t.title else EMPTY,
            "photos tested": _marked(
                printed((r.accuracy or r.first_batches or r).n, "{:.0f}"),
                f"{r.tested} in the log: some more than once" if r.tested else "",
            ),
            "whole test set": interval(r.accuracy) if r.accuracy else Cell(NOT_RUN, size),
            "first 50 batches, as the authors tested": batches(r.first_batches),
            "always the majority class": share(r.majority_baseline.value if r.majority_baseline else None),
            "balanced accuracy": _between(share(r.balanced_accuracy), r, "balanced_accuracy", 100),
            "AUC": _between(number(r.auc), r, "auc"),
            "average precision": number(r.average_precision),
            "loss": number(r.loss),
            "calibration error": number(r.calibration.ece if r.calibration else None),
            **{title: _between(number(getattr(r, name)), r, name) for name, (_, title) in VOTES.items()},
            "views a photo": Cell(t.tta or "1"),
            "precision": Cell(t.precision) if t.precision else EMPTY,
            "the paper's figure": paper_figure(t),
        }

    columns = list(map(column, tests))
    unseen = {title for _, title in VOTES.values() if not any(c[title].numbers for c in columns)}
    return Table(
        "results",
        "Accuracy, with 95% intervals",
        ["", *(t.name for t in tests)],
        [[Cell(name), *(c[name] for c in columns)] for name in columns[0] if name not in unseen],
        "Intervals of accuracies are Wilson's, of the AUC DeLong's, of Spearman's correlation Bonett and Wright's. The "
        "released accuracies, 81.68 % and 85.50 %, are those of 50 batches.",
    )


def groups_table(groups: list[Group]) -> Table:
    """A column for each group of runs."""
    names = {
        "accuracy": "whole test set",
        "first_batches": "first 50 batches",
        "balanced_accuracy": "balanced accuracy",
        "auc": "AUC",
        "average_precision": "average precision",
        "loss": "loss",
        "calibration": "calibration error",
    }
    rows = [[Cell("test set"), *(Cell(g.dataset or "own") for g in groups)]]
    for name, title in names.items():
        rows.append([Cell(title), *(runs_of(g.spread.get(name), name in protocol.PERCENT) for g in groups)])
    title = "Several runs of one net: mean ± standard deviation"
    return Table("groups", title, ["", *(g.name for g in groups)], rows)


def runs_table(facts: list[dict[str, Any]]) -> Table:
    """A row for each training log (see page.run_facts)."""
    columns = ["run", "last iteration", "first rate", "first loss", "last loss", "last accuracy", "best accuracy"]
    rows = [
        [
            Cell(f["name"]),
            printed(f["iterations"], "{:.0f}"),
            printed(f["first_lr"], "{:g}"),
            number(f["first_loss"]),
            number(f["last_loss"]),
            share(f["last_accuracy"]),
            share(f["best_accuracy"]),
            printed(f["iterations_per_second"], "{:.2f}"),
        ]
        for f in facts
    ]
    return Table("runs", "Training runs", [*columns, "iterations/s"], rows)


def density_table(features: FeatureMaps) -> Table:
    """Density of active features at each label, high photos against low ones."""
    columns = ["layer", "in high photos", "in low photos", "difference", "Cohen's d", "P(high above low)", "p"]
    rows = []
    for stage in features.stages:
        c, cells = stage.comparison, [EMPTY] * 6
        if c:
            cells = [
                share(c.high.mean),
                share(c.low.mean),
                printed(100 * c.difference, "{:+.2f} points"),
                printed(c.cohens_d, "{:.2f}"),
                printed(c.p_superior, "{:.3f}"),
                printed(c.p_value, "{:.4f}" if c.p_value >= 1e-4 else "{:.1e}"),
            ]
        rows.append([Cell(f"{stage.mark} {stage.what}".strip(), " + ".join(stage.blobs)), *cells])
    return Table("density", f"Share of active features (above 0), {features.name}", columns, rows)
