"""The exception for bad input and what else ends a program, and how a program reports it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import TextIO


class CaffeError(RuntimeError):
    """Bad input: one line that names the file, the record or layer, and the field.

    A RuntimeError, since that is what pycaffe raises where it does not end the process.
    `status` is what a program that ends by it exits with. Names come from strangers' files: what ends a line is a space
    in the message, and what does not print (a terminal's escape codes) is spelt out."""

    status = 2

    def __init__(self, message: object = ""):
        line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(message)).strip()
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


class WriteError(CaffeError):
    """A file cannot be written: the disk is full, the folder read-only or gone. What was there before is intact."""

    status = 3


class OutOfMemory(CaffeError):
    """The machine's memory, or the GPU's, does not suffice."""

    status = 4


class DeviceError(CaffeError):
    """The GPU is lost, or has failed."""

    status = 5


class WorkerLost(CaffeError):
    """A process that this one waited for was killed."""

    status = 6


class Diverged(CaffeError):
    """Training has come to numbers that are none."""

    status = 7


# What a failed write says. Reading gives the others, which are bad input.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EPIPE)


def named(error: BaseException) -> CaffeError | None:
    """The error as one of this module's, where it is a program's to report in a line; None where it is a bug's."""
    if isinstance(error, CaffeError):
        return error
    text = str(error)
    if isinstance(error, MemoryError):
        return OutOfMemory(f"out of memory: {text or 'the machine has no more'}")
    if isinstance(error, BrokenProcessPool):
        return WorkerLost("a worker process was killed (by the system, where memory ran out)")
    if isinstance(error, ImportError) and error.name == "cv2":
        return CaffeError(f"OpenCV does not load ({text}): apt install libgl1, or pip install opencv-python-headless")
    if isinstance(error, OSError):
        return (WriteError if error.errno in _UNWRITABLE else CaffeError)(text)
    # PyTorch's, by name: this module does without it.
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if "OutOfMemoryError" in kinds or "can't allocate memory" in text or "not enough memory" in text:
        return OutOfMemory("out of memory: " + text[:300])
    if "AcceleratorError" in kinds or "CUDA error" in text:
        return DeviceError("the GPU has failed: " + text[:300])
    return None


def run_main(main: Callable[[], int]) -> None:
    """Run a program's main and exit: 0 when done, 2 with one line on bad input, 3 to 7 for the errors above, 130 on
    Ctrl-C. Where nobody reads any more what it prints, the status is the same."""
    _open_streams()
    last = ""
    try:
        code = main()
    except KeyboardInterrupt:
        code, last = 130, "interrupted"
    except Exception as error:
        found = named(error)
        if found is None:
            raise
        code, last = found.status, f"error: {found}"
    lost = _finish(sys.stdout)
    if lost and not code:
        code, last = WriteError.status, f"error: standard output: {lost}"
    _finish(sys.stderr, last)
    sys.exit(code)


def _open_streams() -> None:
    """Open /dev/null for those of the three streams that the program was started without (>&-): else the next file
    gets such a stream's number, which libraries in C print to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _finish(stream: TextIO, line: str = "") -> str:
    """Print the line, if any, and all that a stream still holds; returns why it could not be done, or ""."""
    try:
        if line:
            print(line, file=stream)
        stream.flush()
    except OSError as error:
        # Python tries again when it ends, and would change the status.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error.strerror or str(error)
    return ""
