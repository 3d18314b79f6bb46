"""HDF5 files of strangers: no links out of them, nothing larger than the file, and a trial in another process."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.formats.files import PathLike, atomic, open_file

Read = TypeVar("Read")

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: PathLike) -> bool:
    """Whether the file at `path` begins as HDF5 files do."""
    try:
        with open_file(path) as file:
            return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def hdf5_file(path: PathLike, mode: str) -> Iterator[Any]:
    """An open HDF5 file; h5py's many exceptions become CaffeError. One to be read must not link to others."""
    try:
        import h5py
    except ImportError as error:
        raise CaffeError(f"{path}: HDF5 files need the h5py package") from error
    try:
        if mode == "r":
            open_file(path).close()  # libhdf5 would wait for a pipe
        with h5py.File(str(path), mode) as file:
            if mode == "r":
                _check_links(file)
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        if mode == "r":
            raise CaffeError(f"cannot read {path}: {error}") from error
        raise WriteError(f"cannot write {path}: {error}") from error


def tried(read: Callable[..., Read]) -> Callable[..., Read]:
    """A reader of HDF5 files, which another process runs first: in damaged files libhdf5 crashes, or never ends.

    CaffeError where it does, "never" being so many seconds of computing as no sound file takes. Whatever else is wrong
    with the file is left to the reading itself to say. (A system without fork, such as Windows, has no such trial.)"""

    @functools.wraps(read)
    def read_twice(path: PathLike, *rest: Any) -> Read:
        if hasattr(os, "fork") and os.path.isfile(path):
            _try(path, lambda: read(path, *rest))
        return read(path, *rest)

    return read_twice


def _try(path: PathLike, read: Callable[[], Any]) -> None:
    import resource  # Windows has none

    seconds = 10 + os.path.getsize(path) // 10_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child does what follows only
        child = os.fork()
    if not child:
        try:
            faulthandler.disable()  # nobody wants to read it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]  # below which a process may go, above never
            resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard < 0 else min(seconds, hard), hard))
            read()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        raise CaffeError(f"cannot read {path}: damaged: libhdf5 does not come to an end in it ({seconds} s)")
    if status < 0:
        raise CaffeError(f"cannot read {path}: damaged: libhdf5 ends the process by {signal.Signals(-status).name}")


def write_hdf5(path: PathLike, fill: Callable[[Any], None], before_named: Callable[[Path], None] | None = None) -> None:
    with atomic(path) as temporary:
        with hdf5_file(temporary, "w") as file:
            fill(file)
        if before_named:
            before_named(temporary)


def array_of(dataset: Any) -> np.ndarray:
    """A dataset as float32."""
    check_held(dataset)
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} does not hold numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(dataset[()], np.float32)


def check_held(dataset: Any) -> None:
    """ValueError for a dataset whose values are in other files, which a file from a stranger must not name to be read,
    or are more than its file can hold: a few bytes can declare any size."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} keeps its values in other files")
    most = os.path.getsize(dataset.file.filename) * 1100  # deflate's best is 1 : 1032
    if dataset.size * dataset.dtype.itemsize > most:
        raise ValueError(f"{dataset.name} says {dataset.size} values, more than the file can hold")


def _check_links(file: Any) -> None:
    """ValueError where an HDF5 file links to another one."""
    import h5py

    def visit(group: Any, depth: int) -> None:
        if depth > 32:
            raise ValueError(f"groups are nested too deep at {group.name}")
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{group.name}/{key} links to another file, {link.filename}")
            if isinstance(link, h5py.HardLink) and group.get(key, getclass=True) is h5py.Group:
                visit(group[key], depth + 1)

    visit(file, 0)
