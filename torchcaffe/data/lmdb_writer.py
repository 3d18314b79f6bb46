"""Writes LMDBs with the records that BVLC's convert_imageset writes, in the same transactions.

BVLC leaves LMDB's map at its default of 1 MiB, doubles it when it is full and replays the transaction, and commits
every 1,000 records."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb

from torchcaffe.base.errors import CaffeError, WriteError, located
from torchcaffe.data import lmdb_check
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.formats.files import PathLike

BATCH = 1000  # records in a transaction
_SLICE = 256 << 20


class LmdbWriter:
    """Appends records in ascending key order. What `commit` has written survives a power cut; a later LmdbWriter on the
    same folder continues behind it.

    The same records, committed in the same batches, make the same file, whether one process or several wrote them. LMDB
    does not clear the memory of pages that it reuses, so unused bytes of a page depend on what the process wrote
    before. Therefore each transaction gets a newly opened environment."""

    def __init__(self, path: PathLike):
        """Open or make the folder `path`."""
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._batch: list[tuple[bytes, bytes]] = []
        data = self.path / "data.mdb"
        try:
            if data.exists() and data.stat().st_size:  # a killed program's, or damaged since
                lmdb_check.check(data)
            self._open()
        except (lmdb.Error, lmdb_check.Damaged) as error:
            raise CaffeError(f"{path}: cannot be opened as an LMDB: {error}; delete the folder") from error

    def _open(self, map_size: int = 0) -> None:
        """Open the environment. A map_size of 0 is LMDB's default for a new file, and the file's own for an old one."""
        self._env = lmdb.open(str(self.path), map_size=map_size)

    @property
    def entries(self) -> int:
        """The number of committed records."""
        return self._env.stat()["entries"]

    def last_key(self) -> bytes | None:
        """The last committed key."""
        with self._env.begin() as txn, txn.cursor() as cursor:
            return bytes(cursor.key()) if cursor.last() else None

    def put(self, key: bytes, value: bytes) -> None:
        """Add a record, which the next `commit` writes. convert_imageset commits every BATCH records."""
        self._batch.append((key, value))

    def commit(self) -> None:
        """Write all new records in one transaction, doubling the map until they fit."""
        map_size = 0
        while self._batch:
            try:
                with self._env.begin(write=True) as txn:
                    for key, value in self._batch:
                        txn.put(key, value)
                self._batch = []
            except lmdb.MapFullError:
                map_size = 2 * self._env.info()["map_size"]
            except lmdb.Error as error:
                kind = CaffeError if isinstance(error, lmdb.BadValsizeError) else WriteError  # a key above 511 bytes
                raise kind(f"{self.path}: records from {self._batch[0][0].decode()}: {error}") from error
            self.close()
            self._open(map_size)

    def close(self) -> None:
        """Close the LMDB. Records that were not committed are lost."""
        self._env.close()


def check_ours(path: Path, *more: str) -> None:
    """Raise CaffeError unless `path` does not exist, or is a folder with no files but an LMDB's and those named `more`:
    programs delete such a folder before they make it anew."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CaffeError(f"{path}: is a link or a file, not a folder that this program made: remove it first")
    ours = ("data.mdb", "lock.mdb", *more)
    temporary = tuple(f".{name}." for name in ours)  # left by a program killed in `atomic`
    for name in sorted(os.listdir(path)) if path.exists() else ():
        if name not in ours and not (name.startswith(temporary) and name.endswith(".tmp")):
            raise CaffeError(
                f"{path}: holds {name}, which this program did not write: move it away, or remove the folder"
            )


def remove(path: Path, *more: str) -> None:
    """Delete the folder `path` if it exists. Raises CaffeError as `check_ours` does."""
    check_ours(path, *more)
    if path.exists():
        shutil.rmtree(path)


def records(path: PathLike) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a finished LMDB in key order.

    The map is reopened every 256 MiB: the pages read through a map stay in the process's memory until it is closed."""
    LmdbReader(path).close()  # raises CaffeError for a damaged file
    key: bytes | None = b""
    while key is not None:
        with located(f"cannot open LMDB {path}", lmdb.Error):
            env = lmdb.open(str(path), readonly=True, lock=False, create=False)
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
