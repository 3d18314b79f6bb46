"""How the process's memory is kept between iterations."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def return_freed_memory() -> None:
    """Have glibc return what is free now, in the middle of the heap, too. It will be mapped anew: not for every day."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


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
