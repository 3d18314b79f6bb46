"""An estimate of a solver's training time on this machine, from a few of its iterations and test batches.

These run in a process of their own, so that the estimate does not affect the training that follows.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ilgnet.run import engine as engines
from ilgnet.run import processes
from torchcaffe.base import context, log
from torchcaffe.formats import upgrade
from torchcaffe.proto import format_text

ROUNDS = 5  # the median of so many is taken
LEAST = 0.1  # seconds a round


def measure(path: Path | str, engine: str, gpu: int | None) -> dict[str, Any]:
    """{"iteration_s": seconds, "test_batch_s": [seconds a batch of each test net]} of a solver, at this process's
    precision. CaffeError if it does not run."""
    with processes.elsewhere() as pool:
        return pool.submit(measure_here, path, engine, gpu, context.precision).result()


def text(settings: Any, measured: dict[str, Any], done: int = 0) -> str:
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
    return f"estimated on this machine: {span(total)} ({', '.join(out)}; snapshots not counted)"


def span(seconds: float) -> str:
    """A time in words: days and hours, hours and minutes, minutes, or seconds."""
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
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
def measure_here(path: Path | str, engine: str, gpu: int | None, precision: str) -> dict[str, Any]:
    """What `measure` returns, measured in this process."""
    log.set_level(2)
    context.set_precision(precision)
    caffe = engines.load_engine(engine, gpu)
    settings = upgrade.read_solver(path)
    never = 2**31 - 1
    settings.max_iter, settings.display, settings.snapshot, settings.base_lr = never, 0, 0, 1e-12
    settings.test_interval, settings.test_initialization = never, False
    with tempfile.TemporaryDirectory() as folder:
        settings.snapshot_prefix = f"{folder}/unused"
        copy = Path(folder, "solver.prototxt")
        copy.write_text(format_text(settings))
        solver = caffe.get_solver(copy)

        def train(count: int) -> None:
            solver.step(count)
            finish(solver.net)

        def test(net: Any, count: int) -> None:
            for _ in range(count):
                net.forward()
            finish(net)

        return {"iteration_s": timed(train), "test_batch_s": [timed(partial(test, net)) for net in solver.test_nets]}


def finish(net: Any) -> None:
    """Wait for a GPU by reading the net's outputs."""
    for name in net.outputs:
        net.blobs[name].data.sum()
