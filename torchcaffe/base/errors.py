"""The exceptions that end a program, and how a program reports them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool


class CaffeError(RuntimeError):
    """Bad input: one line that names the file, the record or layer, and the field.

    It is a RuntimeError because pycaffe raises that where it does not end the process. `status` is the program's exit
    status. Names in the message come from strangers' files: line ends become spaces, and characters that do not print
    (a terminal's escape codes) are escaped."""

    status = 2

    def __init__(self, message: object = ""):
        line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(message)).strip()
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


class WriteError(CaffeError):
    """A file cannot be written: the disk is full, or the folder is read-only or gone. An old file stays intact."""

    status = 3


class OutOfMemory(CaffeError):
    """The machine, or the GPU, has too little memory."""

    status = 4


class DeviceError(CaffeError):
    """The GPU failed."""

    status = 5


class WorkerLost(CaffeError):
    """A worker process was killed."""

    status = 6


class Diverged(CaffeError):
    """Training diverged: a value is NaN or infinite."""

    status = 7


@contextlib.contextmanager
def located(where: object, kinds: type[Exception] | tuple[type[Exception], ...] = CaffeError) -> Iterator[None]:
    """Raise an error of these kinds in the block as a CaffeError whose text begins with the place."""
    try:
        yield
    except kinds as error:
        raise CaffeError(f"{where}: {error}") from None


# Error numbers of failed writes. Others come from reading: bad input.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EPIPE)


def named(error: BaseException) -> CaffeError | None:
    """The error as one of this module's exceptions; None if it is none that a program reports in one line."""
    if isinstance(error, CaffeError):
        return error
    text = str(error)
    if isinstance(error, MemoryError):
        return OutOfMemory(f"out of memory: {text or 'the machine has no more'}")
    if isinstance(error, BrokenProcessPool):
        return WorkerLost("a worker process was killed (by the system, if memory ran out)")
    if isinstance(error, ImportError) and error.name == "cv2":
        return CaffeError(f"OpenCV does not load ({text}): apt install libgl1, or pip install opencv-python-headless")
    if isinstance(error, OSError):
        return (WriteError if error.errno in _UNWRITABLE else CaffeError)(text)
    # PyTorch's exceptions by name: this module does not import it.
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if "OutOfMemoryError" in kinds or "can't allocate memory" in text or "not enough memory" in text:
        return OutOfMemory("out of memory: " + text[:300])
    if "AcceleratorError" in kinds or "CUDA error" in text:
        return DeviceError("the GPU failed: " + text[:300])
    return None


def run_main(main: Callable[[], int]) -> None:
    """Run a program's main and exit with its status; on an error above print one line and exit with the error's status;
    on Ctrl-C exit with 130. The same if nobody reads the program's output any more."""
    line = ""
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code, line = 130, "interrupted"
    except Exception as error:
        found = named(error)
        if found is None:
            raise
        code, line = found.status, f"error: {found}"
    for stream in (sys.stdout, sys.stderr):
        try:
            if line and stream is sys.stderr:
                print(line, file=stream)
            stream.flush()
        except OSError:  # at exit Python would try again, and change the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
