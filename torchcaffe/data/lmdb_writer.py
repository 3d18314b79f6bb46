"""Writes LMDBs byte for byte as BVLC's convert_imageset does, also when the writing was cut short and resumed.

BVLC leaves LMDB's map at its default of 1 MiB, doubles it when it is full and replays the transaction, and commits
every 1,000 records. With the same calls the file comes out the same, but for one thing: LMDB reuses the memory of the
pages it has written, without clearing it, so the bytes that no record needs hold what earlier pages of the same process
held. A process that resumes has no such past. `restore_unused_bytes` gives it one."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.data import lmdb_check
from torchcaffe.data.lmdb_reader import LmdbReader

BATCH = 1000  # records a transaction
_OVERFLOW = 0x04  # page flag: the first of the pages that hold one large value
_SLICE = 256 << 20


class LmdbWriter:
    """Appends records in ascending key order. What `commit` has written survives a power cut; a later LmdbWriter on the
    same folder goes on behind it."""

    def __init__(self, path: Path | str, sync: bool = True):
        """Open or make the folder `path`. sync=False leaves it to the system when to write (scratch files)."""
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        data = self.path / "data.mdb"
        try:
            if data.exists() and data.stat().st_size:  # of a killed program's, or spoilt since
                lmdb_check.check(data)
            # map_size=0: LMDB's own default for a new file, the file's own size for an old one.
            self._env = lmdb.open(str(self.path), map_size=0, sync=sync)
        except (lmdb.Error, lmdb_check.Damaged) as error:
            raise CaffeError(f"{path}: cannot be opened as an LMDB: {error}; delete the folder") from error
        self._batch: list[tuple[bytes, bytes]] = []

    @property
    def entries(self) -> int:
        """How many records are committed."""
        return self._env.stat()["entries"]

    @property
    def last_page(self) -> int:
        """The number of the file's last page."""
        return self._env.info()["last_pgno"]

    def last_key(self) -> bytes | None:
        """The last committed key."""
        with self._env.begin() as txn, txn.cursor() as cursor:
            return bytes(cursor.key()) if cursor.last() else None

    def put(self, key: bytes, value: bytes) -> None:
        """Add a record, to be written by the next commit. convert_imageset commits every BATCH records."""
        self._batch.append((key, value))

    def commit(self) -> None:
        """Write what was put, in one transaction, in a map large enough."""
        while self._batch:
            try:
                with self._env.begin(write=True) as txn:
                    for key, value in self._batch:
                        txn.put(key, value)
                self._batch = []
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                kind = CaffeError if isinstance(error, lmdb.BadValsizeError) else WriteError  # a key above 511 bytes
                raise kind(f"{self.path}: records from {self._batch[0][0].decode()}: {error}") from error

    def close(self) -> None:
        """Close the LMDB; what was not committed is lost."""
        self._env.close()


def check_ours(path: Path, *more: str) -> None:
    """CaffeError unless nothing at all is at `path`, or a folder with no other files than an LMDB's and those named
    `more`: what these programs make anew, they delete first."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CaffeError(f"{path}: is a link or a file, not a folder of this program's: remove it first")
    ours = ("data.mdb", "lock.mdb", *more)
    temporary = tuple(f".{name}." for name in ours)  # what a killed program's `atomic` has left
    for name in sorted(os.listdir(path)) if path.exists() else ():
        if name not in ours and not (name.startswith(temporary) and name.endswith(".tmp")):
            raise CaffeError(f"{path}: holds {name}, which is not this program's: move it away, or remove the folder")


def remove(path: Path, *more: str) -> None:
    """Delete the folder `path`, if it is there. CaffeError as `check_ours`."""
    check_ours(path, *more)
    if path.exists():
        shutil.rmtree(path)


def records(path: Path | str) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a finished LMDB in key order.

    The map is opened anew every 256 MiB: pages of a map that were read stay in the process's memory."""
    LmdbReader(path).close()  # says what is wrong with the folder, if anything is
    key: bytes | None = b""
    while key is not None:
        try:
            env = lmdb.open(str(path), readonly=True, lock=False, create=False)
        except lmdb.Error as error:
            raise CaffeError(f"cannot open LMDB {path}: {error}") from error
        try:
            with env.begin() as txn, txn.cursor() as cursor:
                if not cursor.set_range(key):
                    return
                read, key = 0, None
                for name, value in cursor:
                    if read > _SLICE:
                        key = name
                        break
                    read += len(value)
                    yield name, value
        finally:
            env.close()


def restore_unused_bytes(path: Path | str, progress: Callable[[int], None] | None = None) -> str:
    """Make the LMDB in `path`, written by several processes in turn, the one that a single process would have written.

    Writes its records once more into a scratch LMDB beside it, giving large values' room back at once (so it needs
    little disk), then copies from there the bytes of those pages that differ: such bytes are in no record. Being cut
    short does no harm. `progress` is called with a number of records. Returns "", or why it could not be done."""
    path = Path(path)
    scratch = path.with_name(path.name + ".scratch")
    try:
        remove(scratch, "trial")  # of a killed program's
    except CaffeError as error:
        return str(error)
    try:
        if not _can_punch(path):
            needed = (path / "data.mdb").stat().st_size
            if shutil.disk_usage(path).free < needed + (1 << 30):
                return f"no room on the disk for a scratch copy of {needed >> 20} MiB"
        values = _copy(path, scratch, progress)
        return _copy_pages(scratch / "data.mdb", path / "data.mdb", values)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(path: Path, scratch: Path, progress: Callable[[int], None] | None) -> list[tuple[int, int]]:
    """Write path's records to scratch, and punch out the pages of large values. Returns these (first page, count)."""
    writer = LmdbWriter(scratch, sync=False)
    values: list[tuple[int, int]] = []
    seen = 2  # pages 0 and 1 are the file's two heads
    with open(scratch / "data.mdb", "rb+") as file:
        for number, (key, value) in enumerate(records(path), 1):
            writer.put(key, value)
            if number % BATCH == 0:
                writer.commit()
                seen = _punch_new(file.fileno(), seen, writer.last_page, values)
                if progress:
                    progress(BATCH)
        writer.commit()
    writer.close()
    return values


def _punch_new(fd: int, page: int, last: int, values: list[tuple[int, int]]) -> int:
    """Punch out the large values in the pages from `page` to `last`; return the page after them."""
    size = os.sysconf("SC_PAGESIZE")  # LMDB's page size is the machine's
    while page <= last:
        # A page's head: its number (8 bytes), padding (2), flags (2); of a large value: its number of pages (4).
        head = os.pread(fd, 16, page * size)
        flags, count = struct.unpack("=10xHI", head) if len(head) == 16 else (0, 1)
        if flags & _OVERFLOW:
            _punch(fd, page * size, count * size)
            values.append((page, count))
            page += count
        else:
            page += 1
    return page


def _copy_pages(source: Path, target: Path, values: list[tuple[int, int]]) -> str:
    """Make the bytes of target those of source, large values aside."""
    size = os.sysconf("SC_PAGESIZE")
    if source.stat().st_size != target.stat().st_size:
        return "the copy has another length"
    with open(source, "rb") as good, open(target, "rb+") as file:
        if good.read(2 * size) != file.read(2 * size):
            return "the copy has another head"
        page, end = 2, source.stat().st_size // size
        for first, count in [*values, (end, 0)]:
            while page < first:
                pages = min(first - page, 1024)
                wanted = os.pread(good.fileno(), pages * size, page * size)
                if os.pread(file.fileno(), pages * size, page * size) != wanted:
                    os.pwrite(file.fileno(), wanted, page * size)
                page += pages
            page += count
        os.fsync(file.fileno())
    return ""


def _punch(fd: int, start: int, length: int) -> bool:
    """Give a stretch of a file back to the file system (Linux; elsewhere nothing happens)."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return False
    keep_size_punch_hole = 0x01 | 0x02
    return fallocate(fd, keep_size_punch_hole, ctypes.c_int64(start), ctypes.c_int64(length)) == 0


def _can_punch(folder: Path) -> bool:
    trial = folder.with_name(folder.name + ".scratch")
    trial.mkdir(parents=True)
    with open(trial / "trial", "wb+") as file:
        file.truncate(1 << 16)
        return _punch(file.fileno(), 0, 1 << 16)
