"""Caffe's log lines into a file as well as to stderr, whichever engine writes them."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

_GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d")
_SHOWN_BESIDE_BAR = re.compile(r"solver\.cpp:\d+\].*(Iteration|net output|Snapshotting|Optimization|Restoring)")


class _Terminal(io.TextIOBase):
    """The real stderr. A terminal that was closed must not end the training."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def isatty(self) -> bool:
        return self._stream.isatty()


class _Tee(io.TextIOBase):
    """A stderr that also appends to a log. Beside a bar the terminal shows only results, warnings and errors."""

    def __init__(self, log: IO[str], terminal: IO[str]):
        self._log, self._terminal, self._bar, self._shown = log, terminal, terminal.isatty(), True

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        if self._bar:
            for line in text.splitlines():
                self._beside_bar(line)
        else:
            self._terminal.write(text)
        return len(text)

    def _beside_bar(self, line: str) -> None:
        prefix = _GLOG.match(line)
        if prefix:  # a message's later lines go the way of its first
            self._shown = prefix.group(1) != "I" or _SHOWN_BESIDE_BAR.search(line) is not None
        if self._shown:
            self._terminal.write(f"\r\x1b[2K{line}\n")


@contextlib.contextmanager
def tee(path: Path | str) -> Iterator[IO[str]]:
    """Append everything that goes to sys.stderr to `path` too; yields the real stderr, for a progress bar."""
    with open(path, "a", errors="replace") as log, open(os.devnull, "w") as nowhere:
        terminal = cast(IO[str], _Terminal(sys.stderr or nowhere))
        with contextlib.redirect_stderr(_Tee(log, terminal)):
            yield terminal


def write_line(line: bytes) -> None:
    """Write a line of real Caffe's log to stderr, and so to the log."""
    sys.stderr.write(line.decode(errors="replace"))


_TOLD = {
    "stop": b"stopping after this iteration, with a snapshot; the same again stops at once\n",
    "snapshot": b"a snapshot comes after this iteration\n",
    "none": b"",
}


def tell(effect: str) -> None:
    """Say what a signal does, from its handler: that may run within a print, so this writes past it."""
    with contextlib.suppress(OSError):
        os.write(2, _TOLD[effect])
