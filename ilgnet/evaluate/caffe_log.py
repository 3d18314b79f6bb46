"""Read Caffe's logs, BVLC's and ours: training (`caffe train`), testing (`caffe test`), resumed and cut-off ones."""

from __future__ import annotations

import datetime
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.evaluate import metrics
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files

_GLOG = re.compile(r"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?\s+\d+ [^\]]*\] ?")
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
_FLOATS = {"1.#qnan": "nan", "1.#ind": "nan", "1.#inf": "inf", "-1.#inf": "-inf", "-1.#ind": "nan"}


def _number(text: str) -> float:
    """A float as glog printed it, -nan and Windows' spellings too."""
    text = text.rstrip(",").lower()
    try:
        return float(_FLOATS.get(text, text))
    except ValueError:
        return float("nan")


class Series:
    """Values by iteration: `.iterations` (n,) int64, `.values` (n,) float64.

    A point at an iteration not after the last one means that the run was resumed there (or begun again): what came
    after that iteration is replaced.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []

    def add(self, iteration: int, value: float) -> None:
        while self._points and self._points[-1][0] >= iteration:
            self._points.pop()
        self._points.append((iteration, value))

    def __len__(self) -> int:
        return len(self._points)

    @property
    def iterations(self) -> np.ndarray:
        return np.array([i for i, _ in self._points], dtype=np.int64)

    @property
    def values(self) -> np.ndarray:
        return np.array([v for _, v in self._points], dtype=np.float64)


@dataclass
class TestRun:
    """What `caffe test` logged: each output's value per batch and on average, and the loss."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    batches: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)
    loss: float = float("nan")

    @property
    def iterations(self) -> int:
        return max((len(v) for v in self.batches.values()), default=0)


@dataclass
class CaffeLog:
    """One log file. `tests` maps a test net's number to its outputs' series; `nets`, `solver`: as printed. `speed`:
    iterations and seconds between the lines of loss, less what lies between a run and the one that resumes it."""

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

    def test_series(self, kind: str, net: int = 0) -> Series | None:
        """The accuracy's or the loss's series (kind "accuracy" or "loss") of a test net; None when not logged."""
        name = main_output(list(self.tests.get(net, {})), kind)
        return self.tests[net][name] if name else None


def main_output(names: list[str], kind: str) -> str | None:
    """Which output is the net's accuracy (or loss): top-1 before others, the last head before auxiliary ones."""
    if kind == "loss":
        found = [n for n in names if "loss" in n.lower() and not _is_accuracy(n)]
        return sorted(found)[-1] if found else None
    found = [n for n in names if _is_accuracy(n)]
    best = [n for n in found if not re.search(r"top-?[2-9]", n)]
    return sorted(best or found)[-1] if found else None


def _is_accuracy(name: str) -> bool:
    return re.search(r"acc|top-?\d", name.lower()) is not None


def read_log(path: str | Path) -> CaffeLog:
    """Parse a log; lines that say nothing known are passed over. CaffeError when it holds no result at all."""
    log = CaffeLog(str(path))
    with io.TextIOWrapper(files.open_file(path), encoding="utf-8", errors="replace") as file:
        _parse(log, file)
    if not (len(log.loss) or log.tests or log.test_run):
        raise CaffeError(f"{path}: no iteration and no test result in it; is it a Caffe log?")
    return log


def _parse(log: CaffeLog, lines: Any) -> None:
    iteration = test_net = 0
    first_time: datetime.datetime | None = None
    last: tuple[int, datetime.datetime] | None = None  # of this run: iteration and time of its last line of loss
    printing = ""  # "net" or "solver": inside a prototxt that the log prints, whose lines have no glog prefix
    for line in lines:
        prefix = _GLOG.search(line)
        if prefix is None and printing:
            if printing == "net":
                log.nets[-1] += line
            else:
                log.solver += line
            continue
        text = line[prefix.end() :] if prefix else line
        match = _PRINTED.search(text)
        printing = match.group(1) if match else ""
        if match:
            if printing == "net":
                log.nets.append("")
            else:
                log.solver = ""
                last = None  # another run begins
            continue
        match = _TESTING.search(text)
        if match:
            iteration, test_net = int(match.group(1)), int(match.group(2))
            log.tests.setdefault(test_net, {})
            continue
        match = _LOSS.search(text)
        if match:
            iteration = int(match.group(1))
            log.loss.add(iteration, _number(match.group(2)))
            now = _time(prefix) if prefix else None
            if now is not None:
                first_time = first_time or now
                log.seconds.add(iteration, (now - first_time).total_seconds())
                # a step back in iterations is another run's, in time a new year's
                if last and last[0] < iteration and last[1] <= now:
                    log.speed = (log.speed[0] + iteration - last[0], log.speed[1] + (now - last[1]).total_seconds())
                last = iteration, now
            continue
        match = _LR.search(text)
        if match:
            log.lr.add(int(match.group(1)), _number(match.group(2)))
            continue
        match = _OUTPUT.search(text)
        if match:
            where = log.train if match.group(1) == "Train" else log.tests.setdefault(test_net, {})
            where.setdefault(match.group(2), Series()).add(iteration, _number(match.group(3)))
            continue
        match = _SNAPSHOT.search(text)
        if match:
            log.snapshots.append(match.group(1))
            continue
        _parse_test_run(log, text)


def _parse_test_run(log: CaffeLog, text: str) -> None:
    match = _BATCH.search(text)
    if match:
        if log.test_run is None or (int(match.group(1)) == 0 and match.group(2) in log.test_run.batches):
            log.test_run = TestRun()  # a second test in the same file replaces the first
        log.test_run.batches.setdefault(match.group(2), []).append(_number(match.group(3)))
        return
    if log.test_run is None:
        return
    match = _TEST_LOSS.search(text)
    if match:
        log.test_run.loss = _number(match.group(1))
        return
    match = _TEST_OUTPUT.search(text)
    if match and match.group(1) in log.test_run.batches:
        log.test_run.outputs[match.group(1)] = _number(match.group(2))


def _time(prefix: re.Match[str]) -> datetime.datetime | None:
    """The line's time. glog prints no year: a leap year keeps 29 February valid."""
    month, day, hour, minute, second = (int(prefix.group(i)) for i in range(1, 6))
    try:
        micro = int((prefix.group(6) or "0")[:6].ljust(6, "0"))
        return datetime.datetime(2020, month, day, hour, minute, second, micro)
    except ValueError:
        return None


def batch_size(log: CaffeLog) -> int | None:
    """The data layer's batch_size in the last net that the log prints; None when it prints none."""
    for net in reversed(log.nets):
        found = re.search(r"\bbatch_size:\s*(\d+)", net)
        if found:
            return int(found.group(1))
    return None


def source(log: CaffeLog) -> str | None:
    """The data layer's source in the last net that the log prints."""
    for net in reversed(log.nets):
        found = re.search(r"\bsource:\s*[\"']([^\"']*)[\"']", net)
        if found:
            return found.group(1)
    return None


def title(log: CaffeLog) -> str | None:
    """The name of the last net that the log prints; its layers' names are indented."""
    for net in reversed(log.nets):
        found = re.search(r"^name:\s*[\"']([^\"']*)[\"']", net, re.M)
        if found:
            return found.group(1)
    return None


def test_result(log: CaffeLog) -> dict[str, Any]:
    """A log of `caffe test`, or the last test in a training log, as a result with the interval of what it tested.

    Returns {"accuracy": metrics.proportion(...) with "batch" and "batches", "loss", "output", "source", "title"}.
    CaffeError when the log has no test, no accuracy among its outputs, or does not show the batch size.
    """
    run = log.test_run
    names = list(run.batches) if run else list(log.tests.get(0, {}))
    if not names:
        raise CaffeError(f"{log.path}: no test in it (no line 'Batch 0, ...' or 'Test net output')")
    name = main_output(names, "accuracy")
    if name is None:
        raise CaffeError(f"{log.path}: no accuracy among the outputs {', '.join(names)}")
    batch = batch_size(log)
    if batch is None:
        raise CaffeError(f"{log.path}: the log does not print the net, so its batch_size is unknown")
    if run:
        batches, loss = len(run.batches[name]), run.loss
        value = run.outputs.get(name, float(np.mean(run.batches[name])))
    else:
        found = re.search(r"\btest_iter:\s*(\d+)", log.solver)
        if not found:
            raise CaffeError(f"{log.path}: the log does not print the solver, so its test_iter is unknown")
        batches, value = int(found.group(1)), float(log.tests[0][name].values[-1])
        losses = log.test_series("loss")
        loss = float(losses.values[-1]) if losses is not None and len(losses) else float("nan")
    if not 0 <= value <= 1:
        raise CaffeError(f"{log.path}: {name} = {value} is no accuracy")
    n = batch * batches
    accuracy = metrics.proportion(int(round(value * n)), n)
    accuracy.update(value=value, batch=batch, batches=batches)
    return {"accuracy": accuracy, "loss": loss, "output": name, "source": source(log), "title": title(log)}
