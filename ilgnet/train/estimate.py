"""An estimate of a solver's training time on this machine, from a few of its iterations and test batches.

These run in a separate process, `python -m ilgnet.train.estimate SOLVER ENGINE GPU PRECISION` (GPU: a number, or "" for
the CPU), so that the estimate does not affect the training that follows.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ilgnet.run import engine as engines
from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import upgrade
from torchcaffe.proto import format_text

ROUNDS = 5  # the median of so many is taken
LEAST = 0.1  # seconds a round


def measure(path: Path | str, engine: str, gpu: int | None) -> dict[str, Any]:
    """{"iteration_s": seconds, "test_batch_s": [seconds a batch of each test net]} of a solver, at this process's
    precision. CaffeError if it does not run."""
    words = [str(path), engine, "" if gpu is None else str(gpu), context.precision]
    command = [sys.executable, "-m", "ilgnet.train.estimate", *words]
    path_to_us = os.pathsep.join([str(engines.ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "GLOG_minloglevel": "2", "PYTHONPATH": path_to_us}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise CaffeError(f"{path}: cannot be timed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def lines(settings: Any, measured: dict[str, Any], done: int = 0) -> list[str]:
    """The estimate as text. settings: the SolverParameter; done: iterations already made."""
    left = max(settings.max_iter - done, 0)
    each = measured["iteration_s"]
    out, total = [f"{left} iterations of {each:.3g} s"], left * each
    if settings.test_interval:
        every = settings.test_interval
        tests = settings.max_iter // every - done // every  # after `done`
        tests += done % every == 0 and (done > 0 or settings.test_initialization)
        for batches, seconds in zip(settings.test_iter, measured["test_batch_s"]):
            out.append(f"{tests} tests of {batches} batches of {seconds:.3g} s")
            total += tests * batches * seconds
    return [f"estimated on this machine: {span(total)} ({', '.join(out)}; snapshots not counted)"]


def span(seconds: float) -> str:
    """A time in words: days and hours, hours and minutes, minutes, or seconds."""
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def timed(work: Callable[[int], None]) -> float:
    """Seconds for one unit of work(n): the median of ROUNDS rounds with n so large that one takes at least LEAST."""
    work(3)  # the first iterations allocate
    count = 1
    times: list[float] = []
    while len(times) < ROUNDS:
        start = time.perf_counter()
        work(count)
        seconds = time.perf_counter() - start
        if seconds < LEAST and not times:
            count *= 2
            continue
        times.append(seconds / count)
    return statistics.median(times)


@context.denormals_flushed()  # as in training
def main(path: str, engine: str, gpu: str, precision: str) -> None:
    log.set_level(2)
    context.set_precision(precision)
    caffe = engines.load_engine(engine, int(gpu) if gpu else None)
    settings = upgrade.read_solver(path)
    never = 2**31 - 1
    settings.max_iter, settings.display, settings.snapshot, settings.base_lr = never, 0, 0, 1e-12
    settings.test_interval, settings.test_initialization = never, False
    with tempfile.TemporaryDirectory() as folder:
        settings.snapshot_prefix = os.path.join(folder, "unused")
        copy = os.path.join(folder, "solver.prototxt")
        Path(copy).write_text(format_text(settings))
        solver = caffe.get_solver(copy)

        def train(count: int) -> None:
            solver.step(count)
            finish(solver.net)

        def test(net: Any) -> Callable[[int], None]:
            def forward(count: int) -> None:
                for _ in range(count):
                    net.forward()
                finish(net)

            return forward

        found = {"iteration_s": timed(train), "test_batch_s": [timed(test(net)) for net in solver.test_nets]}
    print(json.dumps(found))


def finish(net: Any) -> None:
    """Wait for a GPU by reading the net's outputs."""
    for name in net.outputs:
        net.blobs[name].data.sum()


if __name__ == "__main__":
    main(*sys.argv[1:])
