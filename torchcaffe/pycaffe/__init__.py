"""pycaffe's modules, and the rest of its top level: Timer, NCCL, logging, and this process's place among several.

This is also `caffe.pycaffe` and `caffe._caffe`; all other names in there are torchcaffe's."""

import time
from typing import Any

from torchcaffe.base import context, log
from torchcaffe.random import streams

__version__ = "1.0.0"


def _whole(what: str, value: Any) -> int:
    """The value as an int. Raises TypeError for other types (but bool)."""
    if not isinstance(value, int):
        raise TypeError(f"{what}: {value!r} is not a whole number")
    return int(value)


def init_log(level: int | None = None, stderr: bool = False) -> None:
    """Log nothing below `level` (0 INFO, 1 WARNING, 2 ERROR). Lines always go to stderr."""
    if level is not None:
        log.set_level(_whole("init_log", level))


def set_random_seed(seed: int) -> None:
    """Restart the random stream from `seed`. Raises OverflowError unless it is an unsigned 32-bit number."""
    if not 0 <= _whole("set_random_seed", seed) < 1 << 32:
        raise OverflowError(f"set_random_seed: {seed} is not an unsigned 32-bit number")
    streams.set_random_seed(seed)


def solver_count() -> int:
    """The number of solvers that train together."""
    return context.solver_count


def solver_rank() -> int:
    """This solver's number among them, from 0."""
    return context.solver_rank


def set_solver_count(count: int) -> None:
    """Set the number of solvers that train together."""
    context.solver_count = _whole("set_solver_count", count)


def set_solver_rank(rank: int) -> None:
    """Set this solver's number among them."""
    context.solver_rank = _whole("set_solver_rank", rank)


def set_multiprocess(multiprocess: bool) -> None:
    """Set whether each solver is a process of its own (torchcaffe's always are)."""
    if not isinstance(multiprocess, (int, type(None))):
        raise TypeError(f"set_multiprocess: {multiprocess!r} is neither True nor False")
    context.multiprocess = bool(multiprocess)


def has_nccl() -> bool:
    """False, as in a CPU build of BVLC: the NCCL class does nothing."""
    return False


class NCCL:
    """pycaffe's class for several GPUs, which as in BVLC's CPU build has no methods.

    Raises TypeError unless it is given a solver (or None) and a uid."""

    def __init__(self, solver: Any, uid: str | bytes):
        from torchcaffe.solvers.solver import Solver

        if not isinstance(solver, (Solver, type(None))) or not isinstance(uid, (str, bytes)):
            raise TypeError(f"NCCL takes a solver and a uid, not {solver!r}, {uid!r}")


class Timer:
    """A stopwatch: start(), stop(), and `ms` between the two."""

    def __init__(self) -> None:
        self._begin: float | None = None
        self._ms = 0.0

    def start(self) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        if self._begin is not None:
            if context.gpu:
                import torch

                torch.cuda.synchronize()
            self._ms = 1e3 * (time.perf_counter() - self._begin)
            self._begin = None

    @property
    def ms(self) -> float:
        """Milliseconds from start to stop. Stops a running clock."""
        self.stop()
        return self._ms


def __getattr__(name: str) -> Any:
    import torchcaffe

    if name.startswith("__"):  # a module's own __all__, __path__ and the like are not torchcaffe's
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name in ("Blob", "BlobVec"):
        from torchcaffe.core import blob

        return getattr(blob, name)
    return getattr(torchcaffe, name)
