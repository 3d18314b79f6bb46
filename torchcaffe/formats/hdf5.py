"""HDF5 files from strangers: no links to other files, no sizes beyond the file's, and a trial in another process."""

import contextlib
import faulthandler
import functools
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.formats.files import PathLike, atomic, open_file, reading

Read = TypeVar("Read")

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: PathLike) -> bool:
    """Whether the file at `path` begins with HDF5's signature."""
    with reading(path) as file:
        return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE


@contextlib.contextmanager
def hdf5_file(path: PathLike, mode: str) -> Iterator[Any]:
    """An open HDF5 file; h5py's many exceptions become CaffeError. A file to read must not link to others."""
    import h5py

    try:
        if mode == "r":
            open_file(path).close()  # libhdf5 would wait for a pipe's writer
        with h5py.File(str(path), mode) as file:
            if mode == "r":
                _check_links(file)
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        if mode == "r":
            raise CaffeError(f"cannot read {path}: {error}") from error
        raise WriteError(f"cannot write {path}: {error}") from error


def tried(read: Callable[..., Read]) -> Callable[..., Read]:
    """A decorator for readers of HDF5 files, which runs them in a child process first: libhdf5 crashes, or loops, on
    damaged files.

    Raises CaffeError if the child crashes, or computes for more seconds than any intact file takes. Other errors are
    left to the reader itself."""

    @functools.wraps(read)
    def read_twice(path: PathLike, *rest: Any) -> Read:
        if os.path.isfile(path):
            _try(path, lambda: read(path, *rest))
        return read(path, *rest)

    return read_twice


def _try(path: PathLike, read: Callable[[], Any]) -> None:
    seconds = 10 + os.path.getsize(path) // 10_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads: the child only reads the file
        child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard < 0 else min(seconds, hard), hard))
            read()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        raise CaffeError(f"cannot read {path}: damaged: libhdf5 did not finish within {seconds} s")
    if status < 0:
        raise CaffeError(f"cannot read {path}: damaged: libhdf5 crashes with {signal.Signals(-status).name}")


def write_hdf5(path: PathLike, fill: Callable[[Any], None], before_named: Callable[[Path], None] | None = None) -> None:
    """Write an HDF5 file atomically. fill: called with the open file; before_named: with the finished file's path."""
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
    """Raise ValueError for a dataset with values in other files, which a stranger's file must not have read, or with
    more values than its file can hold: a few bytes can declare any size."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} keeps its values in other files")
    most = os.path.getsize(dataset.file.filename) * 1100  # deflate's highest ratio is 1032
    if dataset.size * dataset.dtype.itemsize > most:
        raise ValueError(f"{dataset.name} says {dataset.size} values, more than the file can hold")


def _check_links(file: Any) -> None:
    """Raise ValueError if an HDF5 file links to another one."""
    import h5py

    def external(name: bytes, link: Any) -> bytes | None:
        return name if link.type == h5py.h5l.TYPE_EXTERNAL else None

    links = file.id.links
    if name := links.visit(external, info=True):  # the first found
        raise ValueError(f"/{name.decode(errors='replace')} links to another file, {links.get_val(name)[0]!r}")
