"""What else pycaffe has at its top level: Timer, NCCL, the log, and this process's place among several.

Also `caffe.pycaffe` and `caffe._caffe`, for scripts that import from there: every other name is torchcaffe's."""

from __future__ import annotations

import time
from typing import Any

from torchcaffe.base import context, log
from torchcaffe.random import streams

__version__ = "1.0.0"


def _whole(what: str, value: Any) -> int:
    """The value, which must be an int (or a bool, which counts as one)."""
    if not isinstance(value, int):
        raise TypeError(f"{what}: {value!r} is no whole number")
    return int(value)


def init_log(level: int | None = None, stderr: bool = False) -> None:
    """Log nothing below `level` from now on (0 INFO, 1 WARNING, 2 ERROR). Lines go to stderr in any case."""
    if level is not None:
        log.set_level(_whole("init_log", level))


def set_random_seed(seed: int) -> None:
    """Restart the random stream from `seed`. Raises OverflowError unless it is an unsigned 32-bit number."""
    if not 0 <= _whole("set_random_seed", seed) < 1 << 32:
        raise OverflowError(f"set_random_seed: {seed} is not an unsigned 32-bit number")
    streams.set_random_seed(seed)


def solver_count() -> int:
    """How many solvers train together."""
    return context.solver_count


def solver_rank() -> int:
    """Which of them this is, from 0."""
    return context.solver_rank


def set_solver_count(count: int) -> None:
    """Say how many solvers train together."""
    context.solver_count = _whole("set_solver_count", count)


def set_solver_rank(rank: int) -> None:
    """Say which of them this is."""
    context.solver_rank = _whole("set_solver_rank", rank)


def set_multiprocess(multiprocess: bool) -> None:
    """Say whether the solvers are processes of their own (torchcaffe's always are)."""
    if not isinstance(multiprocess, (int, type(None))):
        raise TypeError(f"set_multiprocess: {multiprocess!r} is neither True nor False")
    context.multiprocess = bool(multiprocess)


def has_nccl() -> bool:
    """Whether pycaffe's NCCL class works: never, as in a CPU build of BVLC."""
    return False


class NCCL:
    """pycaffe's class for several GPUs. As in BVLC's CPU build it can be made and does nothing: it has no bcast and no
    new_uid, and has_nccl() is False. Raises TypeError for other arguments than a solver (or None) and a uid."""

    def __init__(self, solver: Any, uid: str | bytes):
        from torchcaffe.solvers.solver import Solver

        if not isinstance(solver, (Solver, type(None))) or not isinstance(uid, (str, bytes)):
            raise TypeError(f"NCCL takes a solver and a uid, not {solver!r}, {uid!r}")


class Timer:
    """start(), stop(), and `ms` between them."""

    def __init__(self) -> None:
        self._begin: float | None = None
        self._ms = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._begin = time.perf_counter()

    def stop(self) -> None:
        """End; `ms` keeps what was measured."""
        if self._begin is not None:
            if context.gpu:
                import torch

                torch.cuda.synchronize()
            self._ms = 1e3 * (time.perf_counter() - self._begin)
            self._begin = None

    @property
    def ms(self) -> float:
        """Milliseconds between start and stop (or now, which stops it)."""
        self.stop()
        return self._ms


def __getattr__(name: str) -> Any:
    import torchcaffe

    if name.startswith("__"):  # what Python asks every module for: torchcaffe's __all__ and __path__ are its own
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name in ("Blob", "BlobVec"):
        from torchcaffe.core import blob

        return getattr(blob, name)
    return getattr(torchcaffe, name)
