"""Whole files: atomic writes, reads of regular files only, maps, digests."""

import contextlib
import errno
import hashlib
import io
import mmap
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchcaffe.base.errors import CaffeError, WriteError

PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def atomic(path: PathLike, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder. If the block succeeds it becomes `path`, else it is removed.

    Readers of `path`, also after a crash, find the whole old file or the whole new one. Temporary files that a killed
    process left of this file are removed. Raises WriteError if the file cannot be written; without `replace`
    FileExistsError if the name is taken, even by a broken link.
    """
    # Through a link: replace the file it names, not the link.
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
    """What the names of temporary files of `target` contain: its name, or a digest if that is too long."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= 220 else hashlib.sha256(name).hexdigest()[:32]


_being_written: set[Path] = set()  # temporary files of this process


def publish(made: PathLike, target: PathLike, replace: bool = True) -> None:
    """Give a complete file or folder that is on the disk its final name, and sync the folder that holds it.

    Without `replace` FileExistsError if that name is taken."""
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
    """Rename a file, but never over another one: making a link fails if the name is taken; renaming does not."""
    try:
        os.link(made, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if os.path.lexists(target):  # the file system of a memory card has no links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(made, target)
    else:
        os.unlink(made)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of `target` whose process is gone: those of a killed trainer may have 600 MB each."""
    pattern = re.compile(re.escape(f".{_stem(target)}.") + r"(\d+)\.[0-9a-f]{8}\.tmp")
    for name in os.listdir(target.parent):
        match = pattern.fullmatch(name)
        if match and target.with_name(name) not in _being_written and not _is_another(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target.with_name(name))


def _is_another(pid: int) -> bool:
    """Whether `pid` is a running process other than this one. (In containers all trainers may have one number.)"""
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


def copy(source: PathLike, target: PathLike) -> None:
    """Copy a whole file atomically."""
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def open_file(path: PathLike, limit: int | None = None) -> BinaryIO:
    """Open a file for reading. Raises CaffeError for a pipe or device, which may never end, and for a file of more than
    `limit` bytes; OSError as `open` does."""
    # O_NONBLOCK: opening a pipe without a writer would wait forever.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    found = os.fstat(file.fileno())
    why = "" if stat.S_ISREG(found.st_mode) else "not a regular file"
    if limit is not None and found.st_size > limit:
        why = f"{found.st_size} bytes; at most {limit} are read"
    if why:
        file.close()
        raise CaffeError(f"{path}: {why}")
    return file


@contextlib.contextmanager
def reading(path: PathLike) -> Iterator[BinaryIO]:
    """The file, opened for reading. Raises CaffeError if it cannot be read."""
    try:
        with open_file(path) as file:
            yield file
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error


def read_bytes(path: PathLike, limit: int | None = None) -> bytes:
    """A whole file. Raises as `open_file` does."""
    with open_file(path, limit) as file:
        return file.read()


def read_text(path: PathLike, encoding: str | None = None, errors: str = "strict") -> str:
    """A whole file, as Path.read_text returns it. Raises as `open_file` does, and UnicodeDecodeError."""
    with io.TextIOWrapper(open_file(path), encoding, errors) as file:
        return file.read()


def map_file(path: PathLike) -> mmap.mmap:
    """The file's bytes as a read-only map. Raises CaffeError if it is missing, empty or unreadable."""
    with reading(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CaffeError(f"{path}: the file is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def pieces(values: np.ndarray, size: int = 1 << 18) -> Iterator[tuple[int, np.ndarray]]:
    """(start, values[start : start + size]) of an array of any type, flattened.

    If it is a view of a file's map, pages that were read are released: they would count as the process's memory, as
    much again as the weights they are copied to."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    flat = values.reshape(-1)
    released = 0
    for start in range(0, flat.size, size):
        yield start, flat[start : start + size]
        if isinstance(base, mmap.mmap):
            first = flat.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
            end = (first + min(start + size, flat.size) * flat.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
            released = max(released, first // mmap.PAGESIZE * mmap.PAGESIZE)
            if end > released:
                base.madvise(mmap.MADV_DONTNEED, released, end - released)
                released = end


def digest(path: PathLike, kind: str) -> str:
    """A file's digest in hexadecimal; kind: hashlib's name of it. Raises CaffeError if it cannot be read."""
    found = hashlib.new(kind)
    with reading(path) as file:
        while piece := file.read(1 << 22):  # models have 600 MB
            found.update(piece)
    return found.hexdigest()


def sha256(path: PathLike) -> str:
    """A file's SHA-256, as `digest`."""
    return digest(path, "sha256")
