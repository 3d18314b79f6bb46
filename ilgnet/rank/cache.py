"""What is known of photos already, kept in the user's cache folder (SQLite), never among the photos.

All is filed under a photo's content, so moving or renaming one costs nothing. A file is only read again when its size
or one of its times of change is another: exiftool -P puts the time of its content back, and cannot that of its inode.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.photos import checks as photo_checks
from ilgnet.scoring.scorers import Answer
from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.formats import files

SCHEMA = 1
NAME = f"ilgnet/photos-{SCHEMA}.sqlite"  # in the cache folder
FRESH_NS = 2 * 10**9  # a file changed so lately could change again without its time showing it: not remembered
_TABLES = """
CREATE TABLE IF NOT EXISTS stats (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS photos (digest BLOB, version TEXT, facts TEXT, thumbnail BLOB,
                                   PRIMARY KEY (digest, version));
CREATE TABLE IF NOT EXISTS scores (digest BLOB, spec BLOB, p_high REAL, margin REAL, rows INTEGER, heat BLOB,
                                   PRIMARY KEY (digest, spec));
CREATE TABLE IF NOT EXISTS specs (spec BLOB PRIMARY KEY, about TEXT);
"""


class Known(NamedTuple):
    """What the cache holds of one photo."""

    facts: dict[str, Any]
    thumbnail: bytes
    answer: Answer


def default_path() -> Path:
    """photos-N.sqlite in the cache folder of this system's users."""
    try:
        home = Path.home()
    except RuntimeError:  # in a container that knows no such user
        raise CaffeError("this user has no home folder to keep the cache in; name a file with --cache") from None
    if sys.platform == "darwin":
        folder = home / "Library" / "Caches"
    elif os.name == "nt":
        folder = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return folder / NAME


def digest(data: bytes, kind: str = "") -> bytes:
    """A name for a content; `kind` parts what is read differently though the bytes agree."""
    return hashlib.blake2b(data, digest_size=20, person=kind.encode()[:16]).digest()


def state(found: os.stat_result) -> tuple[int, int, int]:
    """What is another when a file has changed: its size and its times of change (on Windows, the second is the file's
    creation)."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Cache:
    """The cache at `path` (None: the default one). CaffeError when the file is something else, or cannot be written."""

    def __init__(self, path: Path | str | None = None):
        self.path = Path(path) if path is not None else default_path()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(str(self.path), timeout=60)
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise self._refusal(error) from None

    def close(self) -> None:
        self.commit()
        self._db.close()

    def commit(self) -> None:
        try:
            self._db.commit()
        except sqlite3.Error as error:
            raise self._refusal(error) from None

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        """A statement's rows. CaffeError: the tables are another program's, or broken; another holds them, too long."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> CaffeError:
        kind = WriteError if "disk is full" in str(error) else CaffeError
        return kind(f"{self.path}: cannot be used as the cache ({error}); name another with --cache")

    def file_digest(self, path: Path, found: os.stat_result) -> bytes | None:
        """The digest of a file that has not changed since `remember_file`, or None."""
        rows = self._run(
            "SELECT digest FROM stats WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?",
            (_key(path), *state(found)),
        )
        return rows[0][0] if rows else None

    def remember_file(self, path: Path, found: os.stat_result, name: bytes) -> None:
        """`found`: what stat said before the file was read."""
        if time.time_ns() - found.st_mtime_ns > FRESH_NS:
            self._run("INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?, ?)", (_key(path), *state(found), name))

    def digest_of(self, path: Path | str) -> bytes:
        """The digest of a large file such as a caffemodel, read only when it has changed."""
        path = Path(path)
        try:
            found = path.stat()
            name = self.file_digest(path, found)
            if name is None:
                state = hashlib.blake2b(digest_size=20)
                with files.open_file(path) as file:
                    for block in iter(lambda: file.read(1 << 22), b""):
                        state.update(block)
                name = state.digest()
                self.remember_file(path, found, name)
        except OSError as error:
            raise CaffeError(f"{path}: {error.strerror or error}") from None
        return name

    def get(self, name: bytes, version: str, spec: bytes) -> Known | None:
        """All of a photo, or None when something is missing."""
        found = self._run(
            "SELECT facts, thumbnail, p_high, margin, rows, heat FROM photos JOIN scores USING (digest) "
            "WHERE digest = ? AND version = ? AND spec = ?",
            (name, version, spec),
        )
        if not found:
            return None
        facts, thumbnail, p_high, margin, rows, heat = found[0]
        try:
            facts = json.loads(facts)
            if heat is not None:
                heat = np.frombuffer(heat, np.int8).reshape(rows, -1).astype(np.float32) / 127
            _check_row(facts, thumbnail, p_high, margin)
        except (ValueError, TypeError, KeyError):
            raise self._refusal(ValueError("it holds a photo's row of another kind")) from None
        return Known(facts, thumbnail, Answer(p_high, margin, heat))

    def names(self, version: str, spec: bytes) -> set[bytes]:
        """The digests of all photos that `get` knows."""
        return {
            row[0]
            for row in self._run(
                "SELECT digest FROM photos JOIN scores USING (digest) WHERE version = ? AND spec = ?", (version, spec)
            )
        }

    def put(self, name: bytes, version: str, spec: bytes, known: Known) -> None:
        """File all of a photo. The heat map is kept in 255 steps."""
        heat = known.answer.heat
        self._run(
            "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?)",
            (name, version, json.dumps(known.facts), known.thumbnail),
        )
        self._run(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)",
            (
                name,
                spec,
                known.answer.p_high,
                known.answer.margin,
                None if heat is None else len(heat),
                None if heat is None else np.rint(heat * 127).astype(np.int8).tobytes(),
            ),
        )

    def about(self, spec: bytes) -> dict[str, Any] | None:
        """What `set_about` filed of a spec."""
        found = self._run("SELECT about FROM specs WHERE spec = ?", (spec,))
        try:
            about = json.loads(found[0][0])
            return about if isinstance(about["title"], str) and about["preprocess"]["preset"] else None
        except (IndexError, ValueError, TypeError, KeyError):
            return None

    def set_about(self, spec: bytes, about: dict[str, Any]) -> None:
        self._run("INSERT OR REPLACE INTO specs VALUES (?, ?)", (spec, json.dumps(about)))


def _check_row(facts: dict[str, Any], thumbnail: bytes, p_high: float, margin: float) -> None:
    """One of the errors that `get` expects, where a row is not as `put` files it."""
    checks = photo_checks.Checks(**facts["checks"])
    int(checks.phash, 16)
    memoryview(thumbnail)
    math.fsum(
        (
            p_high,
            margin,
            facts["width"],
            facts["height"],
            facts["taken"] or 0,
            checks.sharpness,
            checks.brightness,
            checks.burnt,
            checks.crushed,
        )
    )


def _key(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))  # names need not be text


def combined(parts: Iterable[bytes | str | None]) -> bytes:
    """One digest of several parts, none of which can pass for another's end."""
    return digest(json.dumps([part.hex() if isinstance(part, bytes) else part for part in parts]).encode())
