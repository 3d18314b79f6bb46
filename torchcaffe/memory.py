"""How the process's memory is kept between iterations, and how much there is."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

from torchcaffe.errors import CaffeError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the system.

    An iteration frees and takes the same hundreds of megabytes of activations again. By default glibc maps each large
    one anew, and the kernel zeroes every page at the first touch, which costs as much as the arithmetic."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library (musl): its own ways
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1 & 0x7FFFFFFF)


@functools.cache
def total() -> int:
    """The bytes of memory that this process can have: the machine's, or its container's (cgroup 2)."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return sys.maxsize
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        found = min(found, int(limit))
    except (OSError, ValueError):
        pass  # no container, or no limit
    return found


def check_fits(count: int, what: str) -> None:
    """CaffeError for more float32 values than the memory could ever hold: a prototxt of a few bytes can ask for them,
    and the system would end the process where they are written."""
    if 4 * count > total():
        raise CaffeError(f"{what}: {4 * count / 1e9:.1f} GB; there are {total() / 1e9:.1f} GB of memory")
