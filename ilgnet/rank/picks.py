"""Picked photos: copies, links, rating sidecars, and a test of a net on them. Photos are never changed or overwritten.

The functions that write return what they did, or with dry_run would do, as lines of text.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ilgnet.ava.labels import Label, read_labels
from ilgnet.evaluate import protocol, votes
from ilgnet.photos import decode
from ilgnet.photos.preprocess import read_photo
from ilgnet.rank import xmp
from ilgnet.rank.ranking import Ranked, Ranking
from ilgnet.run.results import Evaluation
from ilgnet.scoring.scorers import NetScorer
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.pictures import inside
from torchcaffe.formats.files import atomic, write_bytes

Choices = dict[str, Label]


class Rating(NamedTuple):
    """A photo's XMP rating, and whether a person chose it."""

    value: int
    by_person: bool


def read_choices(path: Path | str) -> Choices:
    """The rows of the gallery's export, or of any CSV of labels, by file as a ranking names it."""
    return {row.photo: row for row in read_labels(path, only_names=True)}


def missing(choices: Choices, names: Iterable[str], folder: Path | str) -> list[str]:
    """The files in `choices` that are not among the photos: deleted or unreadable ones.

    CaffeError if that is all of them, since they were picked in another folder."""
    found = sorted(set(choices) - set(names))
    if found and len(found) == len(choices):
        raise CaffeError(
            f"picks: none of the {len(found)} files, such as {found[0]!r}, is among the photos of "
            f"{folder} that can be read; name the folder that they were picked in"
        )
    return found


def ask(scorer: NetScorer, decided: Sequence[Label], folder: Path | str) -> protocol.Answers:
    """The net's answers to the photos that a person decided on. CaffeError for a path out of the folder."""
    paths = []
    for row in decided:
        try:
            paths.append(inside(folder, row.photo))
        except CaffeError as error:
            raise CaffeError(f"picks: {row.photo}: {error}") from None
    rows = scorer.stream_rows(scorer.preprocess.photo(read_photo(path)) for path in paths)
    return protocol.Answers(
        [row.photo for row in decided], np.array([row.label for row in decided]), np.array(list(rows), np.float64)
    )


def measure(
    scorer: NetScorer, path: Path | str, folder: Path | str | None = None, out: Path | None = None
) -> Evaluation:
    """Test a net on the labels, mean votes or votes in a CSV, whose photos are below `folder` or beside it. The result
    lacks kind, name, group, engine and precision. out: the result's JSON, beside which the scores are written."""
    folder = Path(path).parent if folder is None else Path(folder)
    rows = read_labels(path)
    answers, known = ask(scorer, rows, folder), votes.votes_in(rows)
    try:
        figures = votes.figures(scorer.target, answers, known)
    except CaffeError as error:
        raise CaffeError(f"{scorer.weights} on {path}: {error}") from None
    if out is not None:
        votes.write_csv(out.with_suffix(".csv"), scorer.target, answers, known)
    return Evaluation(
        dataset="own",
        synthetic=None,
        picks=str(path),
        photos=str(folder.resolve()),
        weights=scorer.weights,
        net=scorer.net_path,
        title=scorer.title,
        variant=protocol.variant_of(scorer.title),
        target=scorer.target.name,
        preprocess=scorer.preprocess.describe(),
        result=figures,
    )


def chosen(ranking: Ranking, choices: Choices | None, top: int | None) -> list[Ranked]:
    """The picks: the photos kept in `choices`, or else the top ones, or else the best of each group."""
    if choices is None:
        return ranking.top(len(ranking.photos) if top is None else top)
    return [photo for photo in ranking.photos if photo.name in choices and choices[photo.name].label == 1]


def check_place(to: Path, folder: Path) -> None:
    """CaffeError when `to` is not a folder, or inside `folder`, where the next ranking would include the copies."""
    inside, target = folder.resolve(), to.resolve()
    if inside == target or inside in target.parents:
        raise CaffeError(f"{to}: is inside {folder}; choose a folder elsewhere for the picks")
    if to.exists() and not to.is_dir():
        raise CaffeError(f"{to}: is not a folder")


def transfer(picks: Sequence[Ranked], folder: Path, to: Path, link: bool = False, dry_run: bool = False) -> list[str]:
    """Copy the photos into `to`, or link to them, under their names below `folder`; existing files are left alone.

    CaffeError as in check_place."""
    check_place(to, folder)
    done = []
    for photo in picks:
        place = to / photo.path.relative_to(folder)
        if os.path.lexists(place):
            done.append(f"left alone, already there: {place}")
            continue
        done.append(f"{'link' if link else 'copy'}: {photo.name} -> {place}")
        if not dry_run:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                if link:
                    place.symlink_to(photo.path.resolve())
                else:
                    _copy(photo.path, place)
            except FileExistsError:
                done[-1] = f"left alone, already there: {place}"
    return done


def _copy(source: Path, place: Path) -> None:
    with open(source, "rb") as read, atomic(place, replace=False) as temporary, open(temporary, "wb") as made:
        shutil.copyfileobj(read, made, 1 << 20)
    with contextlib.suppress(OSError):  # keep the copy even if its times cannot be set
        shutil.copystat(source, place)


def ratings(ranking: Ranking, choices: Choices | None, reject_below: float = 0.0) -> dict[str, Rating]:
    """The rating of each photo: the person's stars or those of its percentile; -1 if the person rejected it, or did not
    decide and its percentile is below `reject_below`."""
    result = {}
    for photo in ranking.photos:
        choice = (choices or {}).get(photo.name) or Label(photo.name, None)
        by_person = choice.label is not None or choice.stars is not None
        reject = choice.label == 0 if by_person else photo.percentile < reject_below
        result[photo.name] = Rating(-1 if reject else choice.stars or photo.stars, by_person)
    return result


def write_sidecars(ranking: Ranking, given: dict[str, Rating], style: str, dry_run: bool = False) -> list[str]:
    """Write a rating sidecar beside each photo that nobody has rated, neither in the photo nor in a sidecar of either
    style. An unchanged sidecar of this program is replaced, unless it holds a person's choice and the new rating is the
    net's."""
    done, owners = [], _owners({photo.path.parent for photo in ranking.photos}, style)
    for photo in sorted(ranking.photos, key=lambda photo: photo.name):
        place, rating = xmp.sidecar(photo.path, style), given[photo.name]
        owner = owners.get(place, photo.path)
        if owner != photo.path:
            done.append(f"left alone, the sidecar is {owner.name}'s: {photo.name}")
            continue
        reason = xmp.rated_by_hand(photo.path, rating.by_person)
        if reason is not None:
            done.append(f"left alone, {reason}: {photo.name}")
            continue
        text = xmp.render(*rating, photo.answer, photo.percentile)
        ours = os.path.lexists(place)
        if ours and place.read_bytes() == text:
            continue
        done.append(f"rate {rating.value}: {place}")
        if not dry_run:
            write_bytes(place, text, replace=ours)
    return done


def _owners(folders: Iterable[Path], style: str) -> dict[Path, Path]:
    """The photo of each sidecar in the folders. If two photos share one (IMG_1.CR2 and IMG_1.JPG), it is the RAW's,
    even if that cannot be read and so is not ranked."""
    photos = [path for folder in folders for path in folder.iterdir() if path.suffix.lower() in decode.SUFFIXES]
    photos.sort(key=lambda path: (path.suffix.lower() not in decode.RAW, path.name), reverse=True)
    return {xmp.sidecar(path, style): path for path in photos}  # the last one counts
