"""Read Caffe's logs, BVLC's and ours, of `caffe train` and `caffe test`; a run may be resumed or cut off."""

import datetime
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ilgnet.evaluate import metrics
from ilgnet.run.results import Proportion
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files

_GLOG = re.compile(r"[IWEF](\d{4} \d\d:\d\d:\d\d)(?:(\.\d{1,6})\d*)?\s+\d+ [^\]]*\] ?")
# BVLC 1.0.0 puts the speed between the iteration and the loss: "Iteration 20 (3.1 iter/s, 6.4s/20 iters), loss = 0.7"
_LOSS = re.compile(r"Iteration (\d+)(?: \([^)]*\))?, loss = (\S+)")
_LR = re.compile(r"Iteration (\d+), lr = (\S+)")
_TESTING = re.compile(r"Iteration (\d+), Testing net \(#(\d+)\)")
_OUTPUT = re.compile(r"(Train|Test) net output #\d+: (.+?) = (\S+)(?: \(\* .*\))?\s*$")
_BATCH = re.compile(r"^Batch (\d+), (.+?) = (\S+)\s*$")
_TEST_LOSS = re.compile(r"^Loss: (\S+)\s*$")
_TEST_OUTPUT = re.compile(r"^(\S+) = (\S+)(?: \(\* .*\))?\s*$")
_SNAPSHOT = re.compile(r"Snapshotting to (?:binary proto|HDF5) file (\S+)")
_PRINTED = re.compile(r"Initializing (net|solver) from parameters")


def _number(text: str) -> float:
    """A float as glog printed it, including Windows' 1.#INF; NaN for anything else, such as 1.#QNAN."""
    try:
        return float(text.rstrip(",").replace("1.#INF", "inf"))
    except ValueError:
        return float("nan")


class Series(list[tuple[int, float]]):
    """Values by iteration: `.iterations` (n,) int64, `.values` (n,) float64.

    A point that is not after the last one means that the run was resumed or restarted there: it replaces the points
    from that iteration on.
    """

    def add(self, iteration: int, value: float) -> None:
        while self and self[-1][0] >= iteration:
            self.pop()
        self.append((iteration, value))

    @property
    def iterations(self) -> np.ndarray:
        return np.array([i for i, _ in self], np.int64)

    @property
    def values(self) -> np.ndarray:
        return np.array([v for _, v in self], np.float64)


@dataclass
class TestRun:
    """A log of `caffe test`: each output's value per batch and on average, and the loss."""

    __test__ = False  # pytest takes it for a test class

    batches: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)
    loss: float = float("nan")


@dataclass
class CaffeLog:
    """One log file. `tests` maps a test net's number to its outputs' series. `nets` and `solver` are prototxts, as
    printed. `speed`: iterations and seconds between the lines of loss, without the time between a run and the one that
    resumes it."""

    path: str
    loss: Series = field(default_factory=Series)
    train: dict[str, Series] = field(default_factory=dict)
    lr: Series = field(default_factory=Series)
    tests: dict[int, dict[str, Series]] = field(default_factory=dict)
    seconds: Series = field(default_factory=Series)
    speed: tuple[int, float] = (0, 0.0)
    test_run: TestRun | None = None
    nets: list[str] = field(default_factory=list)
    solver: str = ""
    snapshots: list[str] = field(default_factory=list)

    def train_loss(self) -> Series:
        """The training loss that compares nets: with several heads the last head's, as in test_series, else the total,
        which the solver may have smoothed. GoogLeNet's total holds 0.3 of each auxiliary loss, too."""
        heads = [name for name in self.train if "loss" in name.lower()]
        return self.train[max(heads)] if len(heads) > 1 else self.loss

    def test_series(self, kind: str) -> Series | None:
        """The series of the first test net's "accuracy" or "loss"; None when it is not logged."""
        name = main_output(list(self.tests.get(0, {})), kind)
        return self.tests[0][name] if name else None

    def printed(self, pattern: str) -> str | None:
        """A field, as the first group of a pattern, of the last net that the log prints and that has it."""
        found = (re.search(pattern, net, re.M) for net in reversed(self.nets))
        return next((match[1] for match in found if match), None)


def main_output(names: list[str], kind: str) -> str | None:
    """The output that is the net's accuracy (or loss): top-1 before others, the last head before auxiliary ones."""
    found = [n for n in names if re.search(r"acc|top-?\d", n.lower())]
    if kind == "loss":
        found = [n for n in names if "loss" in n.lower() and n not in found]
    return max([n for n in found if not re.search(r"top-?[2-9]", n)] or found, default=None)


def read_log(path: str | Path) -> CaffeLog:
    """Parse a log; unknown lines are ignored. CaffeError when it holds no result."""
    log = CaffeLog(str(path))
    with io.TextIOWrapper(files.open_file(path), encoding="utf-8", errors="replace") as file:
        _parse(log, file)
    if not (len(log.loss) or log.tests or log.test_run):
        raise CaffeError(f"{path}: no iteration and no test result in it; is it a Caffe log?")
    return log


def _parse(log: CaffeLog, lines: io.TextIOWrapper) -> None:
    iteration = test_net = 0
    first_time: datetime.datetime | None = None
    last: tuple[int, datetime.datetime] | None = None  # of this run: iteration and time of its last line of loss
    printing = ""  # "net" or "solver" inside a prototxt that the log prints, whose lines have no glog prefix
    for line in lines:
        prefix = _GLOG.search(line)
        if prefix is None and printing:
            if printing == "net":
                log.nets[-1] += line
            else:
                log.solver += line
            continue
        text = line[prefix.end() :] if prefix else line
        printing = ""
        if match := _PRINTED.search(text):
            printing = match[1]
            if printing == "net":
                log.nets.append("")
            else:
                log.solver = ""
                last = None  # another run begins
        elif match := _TESTING.search(text):
            iteration, test_net = int(match[1]), int(match[2])
            log.tests.setdefault(test_net, {})
        elif match := _LOSS.search(text):
            iteration = int(match[1])
            log.loss.add(iteration, _number(match[2]))
            now = _time(prefix) if prefix else None
            if now is not None:
                first_time = first_time or now
                log.seconds.add(iteration, (now - first_time).total_seconds())
                # A step back in iterations is another run, a step back in time a new year.
                if last and last[0] < iteration and last[1] <= now:
                    log.speed = (log.speed[0] + iteration - last[0], log.speed[1] + (now - last[1]).total_seconds())
                last = iteration, now
        elif match := _LR.search(text):
            log.lr.add(int(match[1]), _number(match[2]))
        elif match := _OUTPUT.search(text):
            where = log.train if match[1] == "Train" else log.tests.setdefault(test_net, {})
            where.setdefault(match[2], Series()).add(iteration, _number(match[3]))
        elif match := _SNAPSHOT.search(text):
            log.snapshots.append(match[1])
        else:
            _parse_test_run(log, text)


def _parse_test_run(log: CaffeLog, text: str) -> None:
    run = log.test_run
    if match := _BATCH.search(text):
        if run is None or (int(match[1]) == 0 and match[2] in run.batches):
            log.test_run = run = TestRun()  # a second test in the same file replaces the first
        run.batches.setdefault(match[2], []).append(_number(match[3]))
    elif run and (match := _TEST_LOSS.search(text)):
        run.loss = _number(match[1])
    elif run and (match := _TEST_OUTPUT.search(text)) and match[1] in run.batches:
        run.outputs[match[1]] = _number(match[2])


def _time(prefix: re.Match[str]) -> datetime.datetime | None:
    """The line's time. glog prints no year; in a leap year, 29 February is valid."""
    try:
        return datetime.datetime.strptime(f"2020{prefix[1]}{prefix[2] or '.0'}", "%Y%m%d %H:%M:%S.%f")
    except ValueError:
        return None


class LastTest(NamedTuple):
    """A log's last test: the accuracy of what it tested, and the data layer's source and the net's name as printed."""

    accuracy: Proportion  # with batch and batches
    loss: float
    source: str | None
    title: str | None


def last_test(log: CaffeLog) -> LastTest:
    """The test that a log of `caffe test` has, or the last one of a training log.

    CaffeError when the log has no test, no accuracy among its outputs, or does not show the batch size."""
    run = log.test_run
    names = list(run.batches if run else log.tests.get(0, {}))
    if not names:
        raise CaffeError(f"{log.path}: no test in it (no line 'Batch 0, ...' or 'Test net output')")
    name = main_output(names, "accuracy")
    if name is None:
        raise CaffeError(f"{log.path}: no accuracy among the outputs {', '.join(names)}")
    batch = log.printed(r"\bbatch_size:\s*(\d+)")
    if batch is None:
        raise CaffeError(f"{log.path}: the log does not print the net, so its batch_size is unknown")
    if run:
        batches, loss = len(run.batches[name]), run.loss
        value = run.outputs.get(name, float(np.mean(run.batches[name])))
    else:
        found = re.search(r"\btest_iter:\s*(\d+)", log.solver)
        if not found:
            raise CaffeError(f"{log.path}: the log does not print the solver, so its test_iter is unknown")
        batches, value = int(found[1]), float(log.tests[0][name].values[-1])
        losses = log.test_series("loss")
        loss = float(losses.values[-1]) if losses else float("nan")
    if not 0 <= value <= 1:
        raise CaffeError(f"{log.path}: {name} = {value} is not an accuracy")
    n = int(batch) * batches
    accuracy = metrics.proportion(round(value * n), n)
    accuracy.value, accuracy.batch, accuracy.batches = value, int(batch), batches
    source, title = (log.printed(rf"{field}:\s*[\"']([^\"']*)[\"']") for field in (r"\bsource", "^name"))
    return LastTest(accuracy, loss, source, title)
