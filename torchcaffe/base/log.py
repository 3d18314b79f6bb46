"""Log lines in glog's form, so that every parser of Caffe logs reads ours."""

import contextlib
import datetime
import os
import sys
import threading
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

_SEVERITY = {"I": 0, "W": 1, "E": 2}
_lock = threading.Lock()
_file: IO[str] | None = None


def set_level(level: int) -> None:
    """Log nothing below this severity from now on (0 INFO, 1 WARNING, 2 ERROR).

    The environment keeps the level, as for glog, so that programs started from here, real Caffe's too, inherit it."""
    os.environ["GLOG_minloglevel"] = str(level)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log errors alone inside the block."""
    before = os.environ.get("GLOG_minloglevel")
    set_level(2)
    try:
        yield
    finally:
        if before is None:
            del os.environ["GLOG_minloglevel"]
        else:
            os.environ["GLOG_minloglevel"] = before


def _emit(letter: str, source: str, text: str) -> None:
    # Read the level for every line: pycaffe users set GLOG_minloglevel in os.environ before or after the import.
    least = int(os.environ.get("GLOG_minloglevel", "0"))
    if _SEVERITY[letter] < least and _file is None:
        return
    now = datetime.datetime.now()
    thread = threading.get_native_id()
    line = f"{letter}{now:%m%d %H:%M:%S.%f} {thread:5d} {source}] {text}"
    if not line.endswith("\n"):  # as glog: a message that prints a whole prototxt has its own final newline
        line += "\n"
    with _lock:
        if _SEVERITY[letter] >= least:
            with contextlib.suppress(OSError):  # as glog: training survives a closed terminal
                sys.stderr.write(line)
        if _file is not None:
            _file.write(line)
            _file.flush()


# Log one line of this severity. source: the file and line where BVLC logs it, such as solver.cpp:239.
info, warning, error = (partial(_emit, letter) for letter in _SEVERITY)


class _Log(types.ModuleType):
    """This module, which can be called: `caffe.log` is a function in pycaffe."""

    def __call__(self, text: str) -> None:
        info("_caffe.cpp:68", text)


sys.modules[__name__].__class__ = _Log


def to_file(path: Path | str | None) -> None:
    """Append every line of any severity to this file, too, whatever GLOG_minloglevel says; None ends that."""
    global _file
    with _lock:
        if _file is not None:
            _file.close()
        _file = open(path, "a", encoding="utf-8") if path is not None else None
