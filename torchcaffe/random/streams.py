"""The process's random streams, one for each thread."""

import os
import threading

from torchcaffe.random.rng import Rng

# As in Caffe: a data layer's prefetch thread has its own stream.
_thread = threading.local()


def set_random_seed(seed: int) -> None:
    """Restart this thread's random stream from `seed` (an unsigned 32-bit number), as Caffe::set_random_seed does."""
    _thread.rng = Rng(int(seed))


def rng() -> Rng:
    """This thread's random stream, seeded from the system's entropy if no seed was set."""
    stream: Rng | None = getattr(_thread, "rng", None)
    if stream is None:
        set_random_seed(int.from_bytes(os.urandom(4), "little"))
        stream = _thread.rng
    return stream
