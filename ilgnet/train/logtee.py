"""Caffe's log lines into a file as well as to stderr, whichever engine writes them.

Real Caffe writes to file descriptor 2 from C++, and holds Python's lock while it trains: so the copying is done by a
child process on the other end of a pipe, which no full buffer can stall.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_GLOG = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d")
_SHOWN_BESIDE_BAR = re.compile(rb"solver\.cpp:\d+\].*(Iteration|net output|Snapshotting|Optimization|Restoring)")


@contextlib.contextmanager
def tee(path: Path | str, bar: bool = False) -> Iterator[IO[str]]:
    """Append everything that goes to stderr to `path` too; yields the real stderr, for a progress bar.

    With a bar only what a person watches passes through to the terminal: results, warnings and errors.
    """
    sys.stderr.flush()
    log = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    terminal = os.dup(2)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(write_end)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # they are for the trainer; its last lines are still to come
            _copy(read_end, log, terminal, bar)
        finally:
            os._exit(0)
    os.close(read_end)
    os.close(log)
    os.dup2(write_end, 2)
    os.close(write_end)
    python_stderr, sys.stderr = sys.stderr, os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
    try:
        with io.TextIOWrapper(_Terminal(terminal), errors="replace", write_through=True) as real:
            yield real
    finally:
        sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(terminal, 2)  # closes the pipe's last end: the child sees the end and stops
        os.close(terminal)
        os.waitpid(child, 0)


class _Terminal(io.RawIOBase):
    """The real stderr. One that was closed takes what it is told in silence: a run does not end with its terminal."""

    def __init__(self, fd: int):
        self._fd = os.dup(fd)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: bytes) -> int:
        data = bytes(data)
        _write(self._fd, data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def teller(terminal: IO[str]) -> Callable[[str], None]:
    """What a signal's handler says. It may run within a print, which a second one would break: so it writes past it."""
    words = {
        "stop": "stopping after this iteration, with a snapshot; the same again stops at once\n",
        "snapshot": "a snapshot comes after this iteration\n",
        "none": "",
    }
    return lambda effect: _write(terminal.fileno(), words[effect].encode())


def _copy(source: int, log: int, terminal: int, bar: bool) -> None:
    rest, shown = b"", True
    while True:
        chunk = os.read(source, 65536)
        if chunk:
            _write(log, chunk)
        if not bar:
            _write(terminal, chunk)
        elif chunk or rest:
            *lines, rest = (rest + chunk).split(b"\n") if chunk else [rest, b""]
            for line in lines:
                prefix = _GLOG.match(line)
                if prefix:
                    shown = prefix.group(1) != b"I" or _SHOWN_BESIDE_BAR.search(line) is not None
                if shown:
                    _write(terminal, b"\r\x1b[2K" + line + b"\n")
        if not chunk:
            return


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed must not end the log
        while data:
            data = data[os.write(fd, data) :]
