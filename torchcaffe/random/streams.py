"""The process's random streams: one a thread."""

from __future__ import annotations

import os
import threading

from torchcaffe.base.errors import CaffeError
from torchcaffe.random.rng import Rng

# Caffe keeps one stream per thread (a data layer's prefetch thread has its own).
_thread = threading.local()


def set_random_seed(seed: int) -> None:
    """Restart this thread's random stream from `seed` (an unsigned 32-bit number), as Caffe::set_random_seed does."""
    if not 0 <= int(seed) < 1 << 32:
        raise CaffeError(f"random_seed {seed}: not an unsigned 32-bit number")
    _thread.rng = Rng(int(seed))


def rng() -> Rng:
    """This thread's random stream; seeded from the system's entropy when no seed was set."""
    stream: Rng | None = getattr(_thread, "rng", None)
    if stream is None:
        set_random_seed(int.from_bytes(os.urandom(4), "little"))
        stream = _thread.rng
    return stream
