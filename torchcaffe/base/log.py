"""Log lines in glog's form, so that every parser of Caffe logs reads ours."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
import types
from pathlib import Path
from typing import IO

_SEVERITY = {"I": 0, "W": 1, "E": 2}
_lock = threading.Lock()
_file: IO[str] | None = None


def set_level(level: int) -> None:
    """Log nothing below this severity from now on (0 INFO, 1 WARNING, 2 ERROR).

    Kept where glog itself reads it, so that the last word counts and programs started from here, real Caffe's too,
    inherit it.
    """
    os.environ["GLOG_minloglevel"] = str(level)


def _emit(letter: str, source: str, text: str) -> None:
    # The level is read at every line: pycaffe users set GLOG_minloglevel in os.environ before (or after) the import.
    try:
        least = int(os.environ.get("GLOG_minloglevel", "0"))
    except ValueError:
        least = 0
    if _SEVERITY[letter] < least and _file is None:
        return
    now = datetime.datetime.now()
    thread = threading.get_native_id()
    line = f"{letter}{now:%m%d %H:%M:%S.%f} {thread:5d} {source}] {text}"
    if not line.endswith("\n"):  # glog's way: messages that print a whole prototxt end in a newline of their own
        line += "\n"
    with _lock:
        if _SEVERITY[letter] >= least and sys.stderr is not None:
            with contextlib.suppress(OSError):  # as glog: a terminal that was closed does not end a training
                sys.stderr.write(line)
        if _file is not None:
            _file.write(line)
            _file.flush()


def info(source: str, text: str) -> None:
    """One line of severity INFO; `source` is the file and line BVLC logs the same thing from, as solver.cpp:239."""
    _emit("I", source, text)


def warning(source: str, text: str) -> None:
    """One line of severity WARNING."""
    _emit("W", source, text)


def error(source: str, text: str) -> None:
    """One line of severity ERROR."""
    _emit("E", source, text)


class _Log(types.ModuleType):
    """`caffe.log` is a function in pycaffe and this module here: it is both."""

    def __call__(self, text: str) -> None:
        info("_caffe.cpp:68", text)


sys.modules[__name__].__class__ = _Log


def to_file(path: Path | str | None) -> None:
    """Append every line to this file too (all severities, whatever GLOG_minloglevel says); None ends that."""
    global _file
    with _lock:
        if _file is not None:
            _file.close()
        _file = open(path, "a", encoding="utf-8") if path is not None else None
