"""The ranking of a folder of photos: each with its score, percentile, stars, checks and group of near-duplicates.

Photos are only read. Threads decode and measure photos while the net scores earlier ones.
"""

import functools
import os
import re
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ilgnet.ava import labels
from ilgnet.evaluate import metrics
from ilgnet.figures import pictures
from ilgnet.photos import checks as photo_checks
from ilgnet.photos import decode
from ilgnet.rank import cache as photo_cache
from ilgnet.run import outputs, processes, results
from ilgnet.scoring import scorers
from ilgnet.scoring.answers import Answer
from ilgnet.weights import models
from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.imageset import in_order
from torchcaffe.formats.files import sha256

# (lowest percentile, stars)
STARS = ((90, 5), (70, 4), (35, 3), (10, 2), (0, 1))
THUMBNAIL = 256  # pixels on its longer side
COLUMNS = (
    "rank",
    "file",
    "p_high",
    "margin",
    "mean_vote",
    "spread",
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
    "votes",
)
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")


@dataclass
class Spec(scorers.Settings):
    """A scorer that is loaded when the first photo needs it."""

    _scorer: scorers.NetScorer | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @functools.cached_property
    def file(self) -> Path:
        """The caffemodel."""
        return models.find(self.weights)

    def scorer(self) -> scorers.NetScorer:
        with self._lock:  # the decoding threads use it, too
            if self._scorer is None:
                self._scorer = scorers.NetScorer(self, heat=True)
            return self._scorer

    def key(self, cache: photo_cache.Cache) -> bytes:
        """A digest of everything that a score depends on; of files, their contents."""
        from ilgnet.nets import emit
        from ilgnet.nets.variants import PAPER, VARIANTS

        def net_digest(net: Path | str) -> bytes:
            if str(net) in VARIANTS:
                return photo_cache.digest(emit.deploy_text(emit.Choice(str(net))).encode())
            return cache.digest_of(net)

        # The nets among which the weights choose. Not NIMA, nor other targets: the weights tell them from these.
        nets = PAPER if self.net is None else [self.net]
        return photo_cache.combined(
            (
                cache.digest_of(self.file),
                *map(net_digest, nets),
                self.preset,
                cache.digest_of(self.mean) if self.mean is not None else None,
                self.engine,
                "cpu" if self.gpu is None else "gpu",
                self.precision,
                context.precision,
                str(scorers.VERSION),
            )
        )

    def about(self, known: photo_cache.About | None) -> photo_cache.About:
        """What reports say of it. known: what the cache knows of it; None loads the net."""
        found = known or self._loaded_about()
        found.sha256 = found.sha256 or sha256(self.file)
        return found

    def _loaded_about(self) -> photo_cache.About:
        scorer = self.scorer()
        return photo_cache.About(
            net=Path(scorer.net_path).name,
            title=scorer.title,
            meaning=scorer.meaning,
            heat_of=scorer.module,
            preprocess=results.Preprocessing(**scorer.preprocess.describe()),
            engine=self.engine,
        )


class Found(NamedTuple):
    """A photo's file: its name below the folder as text with slashes, its path and its stat."""

    name: str
    path: Path
    stat: os.stat_result


@dataclass
class Ranked:
    """A scored photo. digest: of its content. group: the name of its best near-duplicate, which may be itself."""

    name: str
    path: Path
    digest: bytes
    answer: Answer
    thumbnail: bytes
    facts: photo_cache.Facts
    rank: int = 0
    percentile: float = 0.0
    stars: int = 0
    group: str = ""

    @property
    def is_best(self) -> bool:
        """Whether no near-duplicate has a higher score."""
        return self.group == self.name


@dataclass
class Ranking:
    """All photos of a folder, best first; the unreadable ones, with the reason; and what scored them."""

    folder: str
    photos: list[Ranked]
    unread: list[tuple[str, str]]
    about: photo_cache.About
    from_cache: int = 0

    def top(self, count: int) -> list[Ranked]:
        """The best `count` photos, without near-duplicates."""
        return [photo for photo in self.photos if photo.is_best][:count]


def shown(path: Path, folder: Path) -> str:
    """A path below a folder as text with slashes; bytes that are not text become escapes.

    Different paths have different texts, since results are filed under them: a text with an escape, or with something
    that looks like one, has its backslashes doubled."""
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
        for path in (Path(where, name) for name in folders):
            if path.is_symlink():
                passed.append((shown(path, folder), "a link to a folder: not followed"))
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


Read = tuple[photo_cache.Facts, bytes, np.ndarray]  # facts, thumbnail, input of the net


def _read(found: Found, spec: Spec, known: set[bytes]) -> tuple[bytes | str, Read | None]:
    """A file's digest and, unless the cache knows it, its content; or the reason why it cannot be read.

    Errors of the net are raised."""
    try:
        data = decode.read_bytes(found.path)
        name = photo_cache.digest(data, "raw" if found.path.suffix.lower() in decode.RAW else "")
        if name in known:
            return name, None
        photo = decode.decode(data, found.path)
    except CaffeError as error:
        return str(error).replace(f"{outputs.plain(found.path)}: ", "", 1), None
    except MemoryError:
        return "not enough memory", None
    facts = photo_cache.Facts(photo.width, photo.height, photo.taken, photo_checks.measure(photo.bgr))
    thumbnail = pictures.small_jpeg(photo.bgr, THUMBNAIL)
    return name, (facts, thumbnail, spec.scorer().preprocess.photo(photo.bgr))


def rank(
    folder: Path | str, spec: Spec, cache: photo_cache.Cache, workers: int | None = None, progress: bool = False
) -> Ranking:
    """Score and rank the photos below a folder. Unreadable ones are listed.

    Of several processes (see processes.py) each scores a share into one cache, and all return the whole ranking."""
    folder = Path(folder)
    found, unread = processes.roots(find(folder))  # photos may come and go while processes start
    key, version = spec.key(cache), f"{decode.VERSION}.{photo_checks.VERSION}.{THUMBNAIL}"
    names = cache.names(version, key)
    cache.commit()  # a process that waits for the others must not keep them from writing
    known = processes.roots(names)  # others may score meanwhile
    about = spec.about(cache.about(key))  # where it loads the net, errors in it come first
    cache.set_about(key, about)
    about.weights, about.card = spec.file.name, models.card(spec.file)  # of today, wherever they lie
    cache.commit()  # other processes may be waiting to write
    outcomes = _score(found[processes.mine()], known, spec, cache, (version, key), workers, progress)
    outcomes = dict(processes.everyones(list(outcomes.items())))
    photos = []
    for item in found:
        outcome = outcomes[item.name]
        if not isinstance(outcome, bytes):
            unread.append((item.name, outcome))
            continue
        entry = cache.get(outcome, version, key)
        assert entry is not None  # it was known, or has just been put
        photos.append(Ranked(item.name, item.path, outcome, entry.answer, entry.thumbnail, entry.facts))
    set_order(photos)
    return Ranking(folder.resolve().name, photos, sorted(unread), about, sum(p.digest in known for p in photos))


def _score(
    share: list[Found],
    known: set[bytes],
    spec: Spec,
    cache: photo_cache.Cache,
    place: tuple[str, bytes],
    workers: int | None,
    progress: bool,
) -> dict[str, bytes | str | None]:
    """Score the photos that are not known, into the cache at `place`. Returns for each of the share, by name, its
    digest, or why it cannot be read."""
    from tqdm import tqdm

    outcomes: dict[str, bytes | str | None] = {item.name: cache.file_digest(item.path, item.stat) for item in share}
    todo = [item for item in share if outcomes[item.name] not in known]
    workers = workers or min(os.cpu_count() or 1, 8)
    read_files: list[tuple[Found, bytes]] = []
    batch: list[tuple[bytes, Read]] = []

    def score_batch() -> None:
        answers = spec.scorer().answers(np.stack([array for _, (*_, array) in batch])) if batch else []
        for (digest, (facts, thumbnail, _)), answer in zip(batch, answers):
            cache.put(digest, *place, photo_cache.Known(facts, thumbnail, answer))
        for item, digest in read_files:
            cache.remember_file(item.path, item.stat, digest)
        cache.commit()
        batch.clear()
        read_files.clear()

    with tqdm(total=len(share), initial=len(share) - len(todo), unit="photo", disable=not progress) as bar:
        # A photo's pixels are let go in the thread that decoded them, so memory holds one photo a worker.
        pairs = in_order(lambda item: (item, _read(item, spec, known)), todo, workers, workers + 2 * spec.batch)
        for item, (outcome, photo) in pairs:
            bar.update()
            outcomes[item.name] = outcome
            if isinstance(outcome, bytes):
                read_files.append((item, outcome))
            if photo is not None:
                batch.append((outcome, photo))
            if len(batch) == spec.batch:
                score_batch()
        score_batch()
    return outcomes


def set_order(photos: list[Ranked]) -> None:
    """Sort photos best first, equal ones by name; set each one's rank, percentile, stars and group."""
    photos.sort(key=lambda photo: (-photo.answer.margin, photo.name))
    places = metrics.ranks(np.array([photo.answer.margin for photo in photos]))
    facts = [photo.facts for photo in photos]
    best = photo_checks.group([f.checks.phash for f in facts], [f.taken for f in facts], range(len(photos)))
    for i, photo in enumerate(photos):
        photo.rank = i + 1
        photo.percentile = float(100 * (places[i] - 0.5) / len(photos))
        photo.stars = next(stars for least, stars in STARS if photo.percentile >= least)
        photo.group = photos[best[i]].name


# --- CSV and JSON -----------------------------------------------------------------------------------------------------


def rows(ranking: Ranking) -> list[dict[str, Any]]:
    """A dictionary of COLUMNS for each photo. taken: the camera's clock, ISO 8601 without a zone. votes: the shares of
    the votes 1 to 10 in ten-thousandths, as `ilgnet prepare --labels` reads them."""
    made = []
    for photo in ranking.photos:
        facts, checks, answer = photo.facts, photo.facts.checks, photo.answer
        votes = None if answer.shares is None else np.rint(10000 * answer.shares.astype(np.float64)).astype(int)
        values = (
            photo.rank,
            photo.name,
            round(answer.p_high, 6),
            round(answer.margin, 4),
            None if answer.mean_vote is None else round(answer.mean_vote, 4),
            None if answer.spread is None else round(answer.spread, 4),
            round(photo.percentile, 2),
            photo.stars,
            photo.group,
            int(photo.is_best),
            checks.sharpness,
            checks.brightness,
            checks.burnt,
            checks.crushed,
            " ".join(checks.faults),
            facts.width,
            facts.height,
            clock(facts.taken),
            "" if votes is None else " ".join(map(str, votes)),
        )
        made.append(dict(zip(COLUMNS, values)))
    return made


def clock(taken: float | None) -> str:
    """The camera's clock as text."""
    if taken is None:
        return ""
    return datetime.fromtimestamp(taken, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-4].replace(".00", "")


def write_csv(path: Path | str, ranking: Ranking) -> None:
    """COLUMNS of every photo, best first. A "'" keeps a spreadsheet from taking text for a formula."""
    made = ([labels.safe_cell(v) if isinstance(v, str) else v for v in row.values()] for row in rows(ranking))
    results.write_csv(path, [COLUMNS, *made])


class Written(results.Result):
    """A ranking's JSON. sha256: digests of the files that were written beside it."""

    made_by = "ilgnet rank"

    kind: Literal["ranking"]
    folder: str
    scored_by: Any
    photos: Any
    unread: Any
    sha256: dict[str, str]


def write_json(path: Path | str, ranking: Ranking, beside: Sequence[Path] = ()) -> None:
    """Write the ranking, and the digests of the files `beside`, which exist already: see refuse_changed."""
    made = Written(
        kind="ranking",
        folder=ranking.folder,
        scored_by=ranking.about,
        photos=rows(ranking),
        unread=[{"file": name, "reason": reason} for name, reason in ranking.unread],
        sha256={other.name: sha256(other) for other in beside},
    )
    results.write_json(path, made)


def refuse_changed(path: Path, beside: Sequence[Path]) -> None:
    """CaffeError unless a ranking may be written to the JSON `path` and the files `beside`. Existing files must be a
    ranking's JSON and, unchanged, what it says was written beside it: a person may have added a column."""
    existing = [other for other in (path, *beside) if other.exists()]
    if not existing:
        return
    try:
        written = results.read(path, Written).sha256
        existing.remove(path)
    except (OSError, CaffeError):
        written = {}
    for other in existing:
        if written.get(other.name) != sha256(other):
            raise CaffeError(
                f"{other}: exists, and was not written by this program, is incomplete, or has been changed since; "
                "remove it, or choose another --out"
            )
