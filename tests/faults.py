"""A file layer that fails: the disk is full, the device has an error, a write takes a part, a rename is refused.

It stands between Python and the system, for files below one folder. What C libraries write (LMDB, HDF5) does not pass
through it: tests/crash.py fills a real disk for those, and RLIMIT_FSIZE stops them in tests/test_faults.py."""

from __future__ import annotations

import builtins
import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

ENOSPC, EIO, EROFS = errno.ENOSPC, errno.EIO, errno.EROFS


class Faults:
    """Counts the steps (opening for writing, write, fsync, rename) below `folder`, and lets the `at`th fail with
    `error`. short: before that, each write takes at most so many bytes, as write(2) may."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = str(folder)
        self.steps: list[str] = []
        self.at = 0
        self.error = 0
        self.short: int | None = None
        real_open = builtins.open

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self.is_ours(file):
                return real_open(file, mode, *args, **options)
            self.step(f"open {Path(file).name}")
            raw = _Raw(self, file, mode.replace("b", "").replace("t", ""))
            binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return _File(binary)
            return io.TextIOWrapper(binary, options.get("encoding"), newline=options.get("newline"))

        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)
        for name in ("fsync", "replace", "rename"):
            monkeypatch.setattr(os, name, self.counted(name, getattr(os, name)))

    def is_ours(self, file: Any) -> bool:
        return isinstance(file, (str, os.PathLike)) and os.path.abspath(file).startswith(self.folder)

    def counted(self, name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.step(name)
            return function(*args, **options)

        return call

    def step(self, what: str) -> None:
        self.steps.append(what)
        if len(self.steps) == self.at:
            raise OSError(self.error, os.strerror(self.error))

    def fail(self, at: int, error: int) -> None:
        """From now on the `at`th step fails (0: none does)."""
        self.steps, self.at, self.error = [], at, error


class _Raw(io.FileIO):
    def __init__(self, faults: Faults, *args: Any):
        super().__init__(*args)
        self.faults = faults

    def write(self, data: Any) -> int | None:
        self.faults.step("write")
        return super().write(memoryview(data).cast("B")[: self.faults.short])


class _File:
    """An open file that NumPy does not take for one of C's, which it would write to past this layer."""

    def __init__(self, file: Any):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
