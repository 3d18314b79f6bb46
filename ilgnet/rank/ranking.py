"""A folder of photos, ranked: each with its score, its percentile in the set, its stars, its checks and its group.

Photos are only ever read. They are decoded and measured in threads while the net scores those before them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.ava import labels
from ilgnet.evaluate import metrics, protocol
from ilgnet.figures import html
from ilgnet.photos import checks as photo_checks
from ilgnet.photos import decode
from ilgnet.rank import cache as photo_cache
from ilgnet.run import outputs, processes
from ilgnet.scoring import scorers
from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import read_bytes, sha256, write_bytes

# Percentile from which on a photo gets so many stars.
STARS = ((90, 5), (70, 4), (35, 3), (10, 2), (0, 1))
KIND = "ranking"  # of the JSON
THUMBNAIL = 256  # pixels on its longer side
COLUMNS = (
    "rank",
    "file",
    "p_high",
    "margin",
    "percentile",
    "stars",
    "group",
    "best_of_group",
    "sharpness",
    "brightness",
    "burnt",
    "crushed",
    "faults",
    "width",
    "height",
    "taken",
)
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")


@dataclass
class Spec:
    """What scores: as `scoring.Scorer` takes it. The net is loaded when the first photo needs it."""

    weights: Path | str
    net: Path | str | None = None
    preset: str | None = None
    mean: Path | str | None = None
    batch: int = 16
    engine: str = "torch"
    gpu: int | None = None
    precision: str | None = None
    _scorer: scorers.Scorer | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def scorer(self) -> scorers.Scorer:
        with self._lock:  # the threads that decode ask for it, too
            if self._scorer is None:
                self._scorer = scorers.Scorer(
                    self.weights,
                    self.net,
                    self.preset,
                    self.mean,
                    self.batch,
                    self.engine,
                    self.gpu,
                    heat=True,
                    precision=self.precision,
                )
            return self._scorer

    def key(self, cache: photo_cache.Cache) -> bytes:
        """A digest of all that a score depends on, from the files' contents, without loading them."""
        from ilgnet.nets.variants import VARIANTS

        nets = [scorers.deploy_path(self.net)] if self.net is not None else map(scorers.deploy_path, VARIANTS)
        return photo_cache.combined(
            (
                cache.digest_of(self.weights),
                *(cache.digest_of(net) for net in nets),
                self.preset,
                cache.digest_of(self.mean) if self.mean is not None else None,
                self.engine,
                "cpu" if self.gpu is None else "gpu",
                self.precision,
                context.precision,
                str(scorers.VERSION),
            )
        )

    def about(self) -> dict[str, Any]:
        """For reports."""
        scorer = self.scorer()
        return {
            "net": Path(scorer.net_path).name if self.net is not None else Path(scorer.net_path).parent.name,
            "title": protocol.net_title(scorer.net_path),
            "meaning": scorer.meaning,
            "heat_of": scorer.module,
            "preprocess": scorer.preprocess.describe(),
            "engine": self.engine,
        }


class Found(NamedTuple):
    """A photo's file: its name below the folder, with slashes, in text that can be shown; where it is; its stat."""

    name: str
    path: Path
    stat: os.stat_result


@dataclass
class Ranked:
    """A scored photo. digest: its content's. group: the name of the best photo that it nearly equals (its own where it
    stands alone)."""

    name: str
    path: Path
    digest: bytes
    p_high: float
    margin: float
    heat: np.ndarray | None
    thumbnail: bytes
    width: int
    height: int
    taken: float | None
    checks: photo_checks.Checks
    rank: int = 0
    percentile: float = 0.0
    stars: int = 0
    group: str = ""

    @property
    def is_best(self) -> bool:
        """Whether no photo that it nearly equals scores higher."""
        return self.group == self.name


@dataclass
class Ranking:
    """All photos of a folder, best first; those that could not be read, with the reason; what scored them."""

    folder: str
    photos: list[Ranked]
    unread: list[tuple[str, str]]
    about: dict[str, Any]
    from_cache: int = 0

    def top(self, count: int) -> list[Ranked]:
        """The best `count` photos of which no two are near-duplicates."""
        return [photo for photo in self.photos if photo.is_best][:count]


def shown(path: Path, folder: Path) -> str:
    """A path below a folder as text: with slashes, and what is no text in it written as escapes.

    No two paths have one text, as results are filed under it: where there is an escape, or what would pass for one,
    backslashes are doubled."""
    name = os.fsencode(path.relative_to(folder).as_posix())
    text = name.decode("utf-8", "backslashreplace")
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace") if _ESCAPE.search(text) else text


def find(folder: Path | str) -> tuple[list[Found], list[tuple[str, str]]]:
    """The photos below a folder, sorted by name, and (name, reason) of what was passed over for a reason worth telling.

    Hidden files and folders are left out. A link is followed to a file inside the folder only, never to a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CaffeError(f"{folder}: no such folder of photos")
    inside = folder.resolve()
    found, passed = [], []

    def trouble(error: OSError) -> None:
        passed.append((shown(Path(error.filename), folder) if error.filename else "?", error.strerror or str(error)))

    for where, folders, names in os.walk(folder, onerror=trouble):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(where, name)):
                passed.append((shown(Path(where, name), folder), "a link to a folder: not followed"))
        for name in names:
            path = Path(where, name)
            if name.startswith(".") or path.suffix.lower() not in decode.SUFFIXES:
                continue
            text = shown(path, folder)
            try:
                if path.is_symlink() and inside not in path.resolve().parents:
                    passed.append((text, "a link out of the folder: not followed"))
                    continue
                status = path.stat()
            except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
                passed.append((text, getattr(error, "strerror", None) or str(error)))
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(Found(text, path, status))
            else:
                passed.append((text, "not a regular file"))
    return sorted(found), passed


class _Read(NamedTuple):
    """What a thread made of a file. array is None where the cache knows the content already."""

    digest: bytes
    facts: dict[str, Any]
    thumbnail: bytes
    array: np.ndarray | None


def _read(found: Found, spec: Spec, known: set[bytes]) -> _Read | str:
    """A file's content, or the reason why it cannot be read. What is wrong with the net is raised."""
    try:
        data = decode.read_bytes(found.path)
        name = photo_cache.digest(data, "raw" if found.path.suffix.lower() in decode.RAW else "")
        if name in known:
            return _Read(name, {}, b"", None)
        photo = decode.decode(data, found.path)
    except CaffeError as error:
        return str(error).replace(f"{outputs.plain(found.path)}: ", "", 1)
    except MemoryError:
        return "not enough memory"
    facts = {
        "width": photo.width,
        "height": photo.height,
        "taken": photo.taken,
        "checks": photo_checks.measure(photo.bgr).as_dict(),
    }
    return _Read(name, facts, html.small_jpeg(photo.bgr, THUMBNAIL), spec.scorer().preprocess.photo(photo.bgr))


def _ahead(
    items: list[Found], work: Callable[[Found], _Read | str], workers: int, ahead: int
) -> Iterator[tuple[Found, _Read | str]]:
    """Each item with what `work` makes of it, in order; at most `ahead` results wait. A photo's pixels are let go in
    the thread that decoded them, so memory holds one photo a worker."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Found, Future[_Read | str]]] = deque()
        rest = iter(items)
        try:
            while True:
                while len(waiting) < ahead:
                    item = next(rest, None)
                    if item is None:
                        break
                    waiting.append((item, pool.submit(work, item)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                yield item, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def rank(
    folder: Path | str, spec: Spec, cache: photo_cache.Cache, workers: int | None = None, progress: bool = False
) -> Ranking:
    """Score and rank the photos below a folder. What cannot be read is listed, and stops nothing.

    Several processes (see processes.py) score a share each, into one cache, and all get the whole ranking."""
    from tqdm import tqdm

    folder = Path(folder)
    found, unread = processes.roots(find(folder))  # photos may come and go while processes start
    key, version = spec.key(cache), f"{decode.VERSION}.{photo_checks.VERSION}.{THUMBNAIL}"
    known = cache.names(version, key)
    share = found[processes.mine()]
    digests = {item.name: cache.file_digest(item.path, item.stat) for item in share}
    todo = [item for item in share if digests[item.name] not in known]
    about = cache.about(key)
    if about is None:
        about = spec.about()  # loads the net, so that one that is no good is told at once
        cache.set_about(key, about)
    cache.commit()  # as others may be waiting to write
    workers = workers or min(os.cpu_count() or 1, 8)
    # What became of each: its digest, or why it cannot be read; and whether the net was asked.
    outcomes: dict[str, tuple[bytes | str | None, bool]] = {name: (digest, False) for name, digest in digests.items()}
    read_files: list[tuple[Found, bytes]] = []
    batch: list[_Read] = []

    def score_batch() -> None:
        answers = spec.scorer().answers(np.stack([read.array for read in batch]), heat=True) if batch else []
        for read, answer in zip(batch, answers):
            cache.put(read.digest, version, key, photo_cache.Known(read.facts, read.thumbnail, answer))
        for item, digest in read_files:
            cache.remember_file(item.path, item.stat, digest)
        cache.commit()
        batch.clear()
        read_files.clear()

    with tqdm(total=len(share), initial=len(share) - len(todo), unit="photo", disable=not progress) as bar:
        for item, read in _ahead(todo, lambda item: _read(item, spec, known), workers, workers + 2 * spec.batch):
            bar.update()
            if isinstance(read, str):
                outcomes[item.name] = read, False
                continue
            outcomes[item.name] = read.digest, read.array is not None
            read_files.append((item, read.digest))
            if read.array is not None:
                batch.append(read)
                if len(batch) == spec.batch:
                    score_batch()
        score_batch()
    outcomes = dict(processes.everyones(list(outcomes.items())))
    photos, scored = [], 0
    for item in found:
        digest, asked = outcomes[item.name]
        if isinstance(digest, str):
            unread.append((item.name, digest))
            continue
        scored += asked
        facts, thumbnail, answer = cache.get(digest, version, key)
        checks = photo_checks.Checks(**facts.pop("checks"))
        photos.append(Ranked(item.name, item.path, digest, *answer, thumbnail, checks=checks, **facts))
    set_order(photos)
    return Ranking(folder.resolve().name, photos, sorted(unread), about, len(photos) - scored)


def set_order(photos: list[Ranked]) -> None:
    """Sort photos best first; give each its rank, percentile, stars and group. Equal photos go by name."""
    if not photos:
        return
    photos.sort(key=lambda photo: (-photo.margin, photo.name))
    places = metrics.ranks(np.array([photo.margin for photo in photos]))
    best = photo_checks.group(
        [photo.checks.phash for photo in photos], [photo.taken for photo in photos], range(len(photos))
    )
    for i, photo in enumerate(photos):
        photo.rank = i + 1
        photo.percentile = float(100 * (places[i] - 0.5) / len(photos))
        photo.stars = next(stars for least, stars in STARS if photo.percentile >= least)
        photo.group = photos[best[i]].name


# --- CSV and JSON -----------------------------------------------------------------------------------------------------


def rows(ranking: Ranking) -> list[dict[str, Any]]:
    """A dictionary of COLUMNS for each photo. taken: the camera's clock, ISO 8601 without a zone."""
    return [
        {
            "rank": photo.rank,
            "file": photo.name,
            "p_high": round(photo.p_high, 6),
            "margin": round(photo.margin, 4),
            "percentile": round(photo.percentile, 2),
            "stars": photo.stars,
            "group": photo.group,
            "best_of_group": int(photo.is_best),
            "sharpness": photo.checks.sharpness,
            "brightness": photo.checks.brightness,
            "burnt": photo.checks.burnt,
            "crushed": photo.checks.crushed,
            "faults": " ".join(photo.checks.faults),
            "width": photo.width,
            "height": photo.height,
            "taken": clock(photo.taken),
        }
        for photo in ranking.photos
    ]


def clock(taken: float | None) -> str:
    """The camera's clock as text."""
    if taken is None:
        return ""
    return datetime.fromtimestamp(taken, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-4].replace(".00", "")


def write_csv(path: Path | str, ranking: Ranking) -> None:
    """COLUMNS of every photo, best first. Text that a spreadsheet would take for a formula is kept from it by a '."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(ranking):
        writer.writerow(
            {key: labels.safe_cell(value) if isinstance(value, str) else value for key, value in row.items()}
        )
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))


def write_json(path: Path | str, ranking: Ranking, beside: Sequence[Path] = ()) -> None:
    """All of the ranking, and the digests of the files `beside`, which are written already: see refuse_changed."""
    protocol.write_json(
        path,
        {
            "kind": KIND,
            "folder": ranking.folder,
            "scored_by": ranking.about,
            "photos": rows(ranking),
            "unread": [{"file": name, "reason": reason} for name, reason in ranking.unread],
            "sha256": {other.name: sha256(other) for other in beside},
        },
    )


def refuse_changed(path: Path, beside: Sequence[Path]) -> None:
    """CaffeError unless a ranking may be written to the JSON `path` and the files `beside`: what is there must be a
    ranking's JSON, and what it says was written beside it, byte for byte. A person may have added a column."""
    written = {}
    if path.exists():
        try:
            found = json.loads(read_bytes(path))
            written = dict(found["sha256"]) if found["kind"] == KIND else None
        except (ValueError, TypeError, KeyError, RecursionError):
            written = None
    for other in [path] * (written is None) + [other for other in beside if other.exists()]:
        if not written or written.get(other.name) != sha256(other):
            raise CaffeError(
                f"{other}: is there, and this program did not write it, or was stopped before it had "
                "written all, or somebody has changed it since; remove it, or choose another --out"
            )
