"""How the process's memory is kept between iterations."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def _libc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def return_freed_memory() -> None:
    """Have glibc return what is free now, in the middle of the heap, too. It will be mapped anew: not for every day."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(ctypes.c_size_t(0))


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the system.

    An iteration frees and takes the same hundreds of megabytes of activations again. By default glibc maps each large
    one anew, and the kernel zeroes every page at the first touch, which costs as much as the arithmetic."""
    libc = _libc()
    if libc is not None:  # else: another C library's own ways
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1 & 0x7FFFFFFF)
