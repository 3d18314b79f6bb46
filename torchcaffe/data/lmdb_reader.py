"""LMDB databases of Datums, read and written as BVLC Caffe does."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data import lmdb_check
from torchcaffe.formats.files import PathLike

# A train and a test net may read one database, but python-lmdb refuses to open one twice in a process. The key has the
# file's number, too: a new database may have replaced an old one.
_environments: dict[tuple[str, int, int], "_Environment"] = {}
_lock = threading.RLock()  # the garbage collector may release a reader in the thread that holds the lock


class _Environment:
    """An lmdb.Environment and its readers. It closes with the last one."""

    def __init__(self, key: tuple[str, int, int]):
        # No lock file: the folder may be read-only, and a forked worker may continue to read. So nobody may write to a
        # database that is being read. Our writer completes a database before it gets its name.
        try:
            self.lmdb = lmdb.open(key[0], readonly=True, lock=False, create=False)
        except UnicodeEncodeError:
            raise CaffeError(f"{key[0]}: the name is not UTF-8, which py-lmdb needs") from None
        self.key = key
        self.readers: set[object] = set()
        self.closed = False

    def release(self, reader: object) -> None:
        """Remove a reader, and close the database after the last one."""
        with _lock:
            self.readers.discard(reader)
            if not self.readers:
                self.close()

    def close(self) -> None:
        """Close the database and forget it."""
        self.closed = True
        self.lmdb.close()
        if _environments.get(self.key) is self:
            del _environments[self.key]


def _open(path: PathLike, reader: object) -> _Environment:
    """The environment of a database. Release it for `reader`."""
    folder = Path(os.path.realpath(path))
    data = folder / "data.mdb"
    if not folder.exists():
        raise CaffeError(f"cannot open LMDB {path}: there is no such folder")
    if not folder.is_dir():
        raise CaffeError(f"cannot open LMDB {path}: name the folder that holds data.mdb, not a file")
    if not data.is_file():
        kind = "a LevelDB; only LMDB is read" if (folder / "CURRENT").exists() else "no LMDB: it holds no data.mdb"
        raise CaffeError(f"cannot open LMDB {path}: the folder is {kind}")
    with _lock, located(f"cannot open LMDB {path}", (lmdb.Error, OSError)):
        while True:
            about = data.stat()
            key = str(folder), about.st_dev, about.st_ino
            environment = _environments.get(key) or _checked_environment(path, data, key)
            environment.readers.add(reader)
            if not environment.closed:  # by the garbage collector, just now
                return environment


def _checked_environment(path: PathLike, data: Path, key: tuple[str, int, int]) -> _Environment:
    """Check and open a database, and enter it in `_environments`."""
    # LMDB takes an empty file for a new database.
    if data.stat().st_size == 0:
        raise CaffeError(f"cannot open LMDB {path}: data.mdb is empty")
    with located(f"cannot open LMDB {path}", lmdb_check.Damaged):
        lmdb_check.check(data)
    environment = _environments[key] = _Environment(key)
    return environment


class LmdbReader:
    """A cyclic cursor over an LMDB in key order, like a Data layer's.

    path: the folder that holds data.mdb. Raises CaffeError if it is missing, empty, truncated or not an LMDB.
    A reader is not thread-safe. Readers of one path share one environment."""

    def __init__(self, path: PathLike):
        self.path = path
        token = object()
        self._environment = _open(path, token)
        self._release = weakref.finalize(self, self._environment.release, token)
        self._release.atexit = False  # other threads may still read then
        self._transaction = self._environment.lmdb.begin(buffers=False)
        self._count = self._transaction.stat()["entries"]
        self._cursor = self._transaction.cursor()
        if not self._go(self._cursor.first):
            self.close()
            raise CaffeError(f"LMDB {path} holds no records")

    def __len__(self) -> int:
        """The number of records."""
        return self._count

    def next(self) -> tuple[bytes, bytes]:
        """The record (key, value) at the cursor, which then moves on."""
        record = self._go(self._cursor.item)
        self.skip()
        return record

    def skip(self) -> None:
        """Move on without reading."""
        if not self._go(self._cursor.next):
            self._cursor.first()

    def key(self) -> bytes:
        """The key of the next record."""
        return self._cursor.key()

    def seek(self, key: bytes) -> None:
        """Go to the record with that key. Raises CaffeError if there is none."""
        if not self._cursor.set_key(key):
            raise CaffeError(f"LMDB {self.path}: no record '{key.decode(errors='replace')}'")

    def seek_to_first(self) -> None:
        """Go back to the first record."""
        self._cursor.first()

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record once, in key order, independent of the cursor."""
        with self._transaction.cursor() as cursor:
            more = self._go(cursor.first)
            while more:
                yield self._go(cursor.item)
                more = self._go(cursor.next)

    def _go(self, step: Callable[[], Any]) -> Any:
        """Call a cursor's method; its errors become CaffeError."""
        with located(f"LMDB {self.path}", lmdb.Error):
            return step()

    def close(self) -> None:
        """Release the database."""
        self._cursor.close()
        self._transaction.abort()
        self._release()

    def __enter__(self) -> "LmdbReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
