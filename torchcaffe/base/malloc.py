"""The allocator's settings, and the size of memory."""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from torchcaffe.base.errors import CaffeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_LARGE = 1 << 20  # bytes from which a block is mapped by itself

_kept: bool | None = None  # keep_freed_memory's last argument


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's mallopt; None with another C library (musl, macOS)."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None


def keep_freed_memory(keep: bool) -> None:
    """Let glibc take large blocks from the heap and keep freed ones (keep), or map each large block by itself.

    Every iteration frees and allocates the same hundreds of megabytes of activations. By default glibc maps each large
    block anew, and the kernel zeroes every page at the first access, which takes as long as the arithmetic. But a net's
    first pass also allocates thousands of small objects that stay, above all oneDNN's kernels. Between activations on
    the heap they would fragment it, which costs training 5 % more memory. So the first passes map their blocks."""
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
    """The memory that this process can have, in bytes: the machine's, or its container's (cgroup 2)."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def check_fits(count: int, what: str) -> None:
    """Raise CaffeError for more float32 values than memory can hold. A prototxt of a few bytes can ask for them, and
    the system would kill the process that writes them."""
    if 4 * count > total():
        raise CaffeError(f"{what}: {4 * count / 1e9:.1f} GB; there are {total() / 1e9:.1f} GB of memory")
