"""Reading and writing whole files: atomic writes, regular files only, maps."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import mmap
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np

from torchcaffe.base.errors import CaffeError, WriteError

PathLike = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def atomic(path: PathLike, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the block ends well it becomes `path`, else it is removed.

    Whoever reads `path` meanwhile, or after a crash, finds the whole old file or the whole new one. What a process that
    was killed has left of this file is removed. Raises WriteError where it cannot be written; without `replace`
    FileExistsError where something has that name, be it a link that leads nowhere.
    """
    # through a link: replace the file it names, not the link
    target = Path(os.path.realpath(path) if replace else os.path.abspath(path))
    if not target.parent.is_dir():
        raise WriteError(f"cannot write {path}: there is no folder {target.parent}")
    if replace and target.exists() and not (target.is_file() or target.is_dir()):
        raise WriteError(f"cannot write {path}: it is a device, a pipe or a socket, not a file")
    temporary = target.with_name(f".{_stem(target)}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    _being_written.add(temporary)
    try:
        _remove_leftovers(target)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        publish(temporary, target, replace)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and (replace or not isinstance(error, FileExistsError)):
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    finally:
        _being_written.discard(temporary)


def _stem(target: Path) -> str:
    """What temporary files of `target` are called: its name, or a digest of one that leaves no room for more."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= 220 else hashlib.sha256(name).hexdigest()[:32]


_being_written: set[Path] = set()  # temporary files of this process


def publish(made: PathLike, target: PathLike, replace: bool = True) -> None:
    """Give a file, or a folder, that is whole and on the disk its final name, so that a power cut cannot undo it.

    Without `replace` FileExistsError where that name is taken."""
    if replace:
        os.replace(made, target)
    else:
        _rename_new(made, target)
    folder = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename_new(made: PathLike, target: PathLike) -> None:
    """Rename a file, never over another one. A second link refuses a name that is taken, which renaming does not."""
    try:
        os.link(made, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if os.path.lexists(target):  # a memory card's file system has no links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(made, target)
    else:
        os.unlink(made)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of `target` whose process is gone: a killed trainer's may have 600 MB each."""
    pattern = re.compile(re.escape(f".{_stem(target)}.") + r"(\d+)\.[0-9a-f]{8}\.tmp")
    for name in os.listdir(target.parent):
        match = pattern.fullmatch(name)
        if match and target.with_name(name) not in _being_written and not _is_another(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target.with_name(name))


def _is_another(pid: int) -> bool:
    """Whether a process other than this one runs under that number. (In containers every trainer may have the same.)"""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid != os.getpid()


def write_bytes(path: PathLike, data: bytes, replace: bool = True) -> None:
    """Write a whole file atomically; `replace` as in `atomic`."""
    with atomic(path, replace) as temporary:
        temporary.write_bytes(data)


def open_file(path: PathLike) -> BinaryIO:
    """Open a file for reading. Raises CaffeError for a pipe or a device, which may never end, else as `open` does."""
    # Not blocking: opening a pipe that nobody writes to would wait for ever.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CaffeError(f"{path}: not a regular file")
    return file


def read_bytes(path: PathLike) -> bytes:
    """A whole file. Raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def read_text(path: PathLike, encoding: str | None = None, errors: str = "strict") -> str:
    """A whole file, as Path.read_text gives it. Raises as `open_file` does, and UnicodeDecodeError."""
    with io.TextIOWrapper(open_file(path), encoding, errors) as file:
        return file.read()


def map_file(path: PathLike) -> mmap.mmap:
    """The file's bytes as a read-only map. Raises CaffeError when it is missing, empty or unreadable."""
    try:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CaffeError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error


def pieces(values: np.ndarray, size: int = 1 << 18) -> Iterator[tuple[int, np.ndarray]]:
    """(start, values[start : start + size]) of an array seen as flat, of any type.

    Where it is a view of a file's map, the pages that were read are let go: they would count as the process's memory,
    as much again as the weights they are copied to."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    flat = values.reshape(-1)
    released = 0
    for start in range(0, flat.size, size):
        yield start, flat[start : start + size]
        if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
            first = flat.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
            end = (first + min(start + size, flat.size) * flat.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
            released = max(released, first // mmap.PAGESIZE * mmap.PAGESIZE)
            if end > released:
                base.madvise(mmap.MADV_DONTNEED, released, end - released)
                released = end


def sha256(path: PathLike) -> str:
    """A file's SHA-256; models have 600 MB, so it is read in pieces. CaffeError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
