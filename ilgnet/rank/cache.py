"""A cache of what is known of photos: an SQLite file in the user's cache folder.

Entries are filed under a photo's content, so that moving or renaming a photo costs nothing. A file is read again only
when its size, mtime or ctime has changed; the ctime is needed because exiftool -P restores the mtime.
"""

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.nets.targets import SCORES
from ilgnet.photos.checks import Checks
from ilgnet.run import results
from ilgnet.scoring.answers import Answer
from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.formats import files

SCHEMA = 1
NAME = f"ilgnet/photos-{SCHEMA}.sqlite"  # in the cache folder
FRESH_NS = 2 * 10**9  # a file changed this recently could change again without a new mtime: it is not remembered
_TABLES = """
CREATE TABLE IF NOT EXISTS stats (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS photos (digest BLOB, version TEXT, facts TEXT, thumbnail BLOB,
                                   PRIMARY KEY (digest, version));
CREATE TABLE IF NOT EXISTS scores (digest BLOB, spec BLOB, p_high REAL, margin REAL, rows INTEGER, heat BLOB,
                                   PRIMARY KEY (digest, spec));
CREATE TABLE IF NOT EXISTS votes (digest BLOB, spec BLOB, mean_vote REAL, shares BLOB, PRIMARY KEY (digest, spec));
CREATE TABLE IF NOT EXISTS specs (spec BLOB PRIMARY KEY, about TEXT);
"""


@dataclass
class Facts:
    """Facts about a photo that need no net. taken: the camera's clock as seconds since 1970, or None."""

    width: int
    height: int
    taken: float | None
    checks: Checks


@dataclass
class Row:
    """A row of the database, apart from the heat map."""

    facts: Facts
    thumbnail: bytes
    p_high: float
    margin: float
    mean_vote: float | None
    shares: bytes | None


class About(results.Result):
    """What reports say of a scorer. meaning: of its answer; heat_of: the blob of the heat map; weights, sha256: the
    caffemodel's name and digest; card: what is known of it."""

    net: str
    title: str
    meaning: str
    heat_of: str | None
    preprocess: results.Preprocessing
    engine: str
    sha256: str | None = None
    weights: str | None = None
    card: results.Card | None = None


class Known(NamedTuple):
    """A photo in the cache."""

    facts: Facts
    thumbnail: bytes
    answer: Answer


def default_path() -> Path:
    """The cache in the user's cache folder."""
    try:
        home = Path.home()
    except RuntimeError:  # a container without this user
        raise CaffeError("this user has no home folder for the cache; name a file with --cache") from None
    usual = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / NAME


def digest(data: bytes, kind: str = "") -> bytes:
    """A digest of a content; `kind` separates equal bytes that are read differently."""
    return hashlib.blake2b(data, digest_size=20, person=kind.encode()[:16]).digest()


def state(found: os.stat_result) -> tuple[int, int, int]:
    """Size, mtime and ctime, of which one differs when a file has changed."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Cache:
    """The cache at `path`, or the default one. CaffeError when the file is not a cache or cannot be written."""

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
        if self._db.in_transaction:
            self._run("COMMIT")

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        """A statement's rows. CaffeError when the tables are not the cache's, broken, or locked for too long."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> CaffeError:
        kind = WriteError if "disk is full" in str(error) else CaffeError
        return kind(f"{self.path}: cannot be used as the cache ({error}); name another with --cache")

    def file_digest(self, path: Path, found: os.stat_result) -> bytes | None:
        """The digest of a file that is unchanged since `remember_file`, or None."""
        rows = self._run(
            "SELECT digest FROM stats WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?",
            (_key(path), *state(found)),
        )
        return rows[0][0] if rows else None

    def remember_file(self, path: Path, found: os.stat_result, name: bytes) -> None:
        """`found`: the file's stat from before it was read."""
        if time.time_ns() - found.st_mtime_ns > FRESH_NS:
            self._run("INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?, ?)", (_key(path), *state(found), name))

    def digest_of(self, path: Path | str) -> bytes:
        """The digest of a large file such as a caffemodel, which is read only when it has changed."""
        path = Path(path)
        try:
            found = path.stat()
            name = self.file_digest(path, found)
            if name is None:
                state = hashlib.blake2b(digest_size=20)
                with files.open_file(path) as file:
                    while block := file.read(1 << 22):
                        state.update(block)
                name = state.digest()
                self.remember_file(path, found, name)
        except OSError as error:
            raise CaffeError(f"{path}: {error.strerror or error}") from None
        return name

    def get(self, name: bytes, version: str, spec: bytes) -> Known | None:
        """A photo, or None if it is not known."""
        found = self._run(
            "SELECT facts, thumbnail, p_high, margin, mean_vote, shares, rows, heat FROM photos JOIN scores "
            "USING (digest) LEFT JOIN votes USING (digest, spec) WHERE digest = ? AND version = ? AND spec = ?",
            (name, version, spec),
        )
        if not found:
            return None
        facts, *values, rows, heat = found[0]
        try:
            names = "thumbnail", "p_high", "margin", "mean_vote", "shares"
            row = results.fit(Row, {"facts": json.loads(facts), **dict(zip(names, values))})
            int(row.facts.checks.phash, 16)
            shares = None if row.shares is None else np.frombuffer(row.shares, "<f4").reshape(SCORES)
            if heat is not None:
                heat = np.frombuffer(heat, np.int8).reshape(rows, -1).astype(np.float32) / 127
        except (ValueError, TypeError):
            raise self._refusal(ValueError("it holds a photo's row of another kind")) from None
        return Known(row.facts, row.thumbnail, Answer(row.p_high, row.margin, heat, row.mean_vote, shares))

    def names(self, version: str, spec: bytes) -> set[bytes]:
        """The digests of all photos that `get` knows."""
        statement = "SELECT digest FROM photos JOIN scores USING (digest) WHERE version = ? AND spec = ?"
        return {row[0] for row in self._run(statement, (version, spec))}

    def put(self, name: bytes, version: str, spec: bytes, known: Known) -> None:
        """Store a photo. The heat map is stored in 255 steps."""
        facts = json.dumps(results.plain(known.facts))
        self._run("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?)", (name, version, facts, known.thumbnail))
        p_high, margin, heat, mean_vote, shares = known.answer
        steps = (None, None) if heat is None else (len(heat), np.rint(heat * 127).astype(np.int8).tobytes())
        self._run("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", (name, spec, p_high, margin, *steps))
        if mean_vote is not None:
            ten = None if shares is None else shares.astype("<f4").tobytes()
            self._run("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?)", (name, spec, mean_vote, ten))

    def about(self, spec: bytes) -> About | None:
        """What `set_about` stored for a spec; None if there is nothing, or something broken."""
        found = self._run("SELECT about FROM specs WHERE spec = ?", (spec,))
        try:
            return results.fit(About, json.loads(found[0][0]))
        except (IndexError, ValueError, TypeError):
            return None

    def set_about(self, spec: bytes, about: About) -> None:
        self._run("INSERT OR REPLACE INTO specs VALUES (?, ?)", (spec, json.dumps(results.plain(about))))


def _key(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))  # a name may hold bytes that are not text


def combined(parts: Iterable[bytes | str | None]) -> bytes:
    """One digest of several parts; JSON keeps them apart."""
    return digest(json.dumps([part.hex() if isinstance(part, bytes) else part for part in parts]).encode())
