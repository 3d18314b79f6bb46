"""Several processes that do a tool's work together: one a GPU of --gpu 0,1, or those that torchrun started.

Each takes its turn at the photos and tells the others; the root (rank 0) prints and writes."""

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError


def wanted(args: Any) -> int:
    """How many processes there are, or are to be. CaffeError for several with an engine that runs in one."""
    count = max(len(args.gpu or ()), context.world_size())
    if count > 1 and args.engine != "torch":
        raise CaffeError(f"--engine {args.engine}: works in one process, on one GPU")
    return count


def launch(args: Any, command: str, argv: list[str]) -> int | None:
    """For several GPUs: run the command `ilgnet COMMAND` in a process each, and return the exit status. None if this
    process shall do the work itself."""
    if len(args.gpu or ()) < 2 or context.world_size() > 1:
        return None
    from torchcaffe.solvers import parallel

    for gpu in args.gpu:  # here, where it is one line: of a process that ends, torchrun prints a page
        context.check_gpu(gpu)
    return parallel.launch(["-m", "ilgnet", command, *argv], len(args.gpu))


def start(args: Any) -> Any:
    """torchcaffe's module `parallel`, its group joined, where torchrun started several processes; else None.
    `args.gpu`, a list, becomes this process's own number."""
    gpus, args.gpu = args.gpu or [], args.gpu[0] if args.gpu else None
    if context.world_size() == 1:
        return None
    from torchcaffe.solvers import parallel

    parallel.start(gpus)
    args.gpu = context.device_id if gpus else None
    return parallel


def elsewhere() -> ProcessPoolExecutor:
    """One process beside this one, in which nothing is imported yet. Ctrl-C ends it without a message."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, signal.signal, (signal.SIGINT, signal.SIG_DFL))


def root() -> bool:
    """Whether this process prints and writes."""
    return context.solver_rank == 0


def mine() -> slice:
    """This process's turns at a sequence."""
    return slice(context.solver_rank, None, context.solver_count)


def roots(value: Any) -> Any:
    """What the root has for it. All must ask."""
    if context.solver_count == 1:
        return value
    from torchcaffe.solvers import parallel

    return parallel.gather(value)[0]


def everyones(items: list) -> list:
    """What all processes made of their turns, in the sequence's order. All must ask."""
    if context.solver_count == 1:
        return items
    from torchcaffe.solvers import parallel

    parts = parallel.gather(items)
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]
