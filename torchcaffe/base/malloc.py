"""How the process's memory is kept between iterations, and how much there is."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from torchcaffe.base.errors import CaffeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_LARGE = 1 << 20  # bytes of a block to be mapped by itself

_kept: bool | None = None  # what keep_freed_memory was last told


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's mallopt; None with another C library (musl, macOS's), which has its own ways."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None


def keep_freed_memory(keep: bool) -> None:
    """Have glibc take large blocks from the heap and keep what is freed there, or (not keep) map each by itself.

    An iteration frees and takes the same hundreds of megabytes of activations again. By default glibc maps each large
    one anew, and the kernel zeroes every page at the first touch, which costs as much as the arithmetic. But a net's
    first pass also makes thousands of small things for life, oneDNN's kernels above all: among activations on the heap
    they would keep those from ever becoming one free piece again, which costs training a twentieth of its memory. So
    the activations of first passes are mapped."""
    global _kept
    mallopt = _mallopt()
    if mallopt is None or keep is _kept:
        return
    _kept = keep
    mallopt(_M_TRIM_THRESHOLD, -1 & 0x7FFFFFFF)
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_MMAP_MAX, 0 if keep else 65536)


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
