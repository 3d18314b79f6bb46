"""Votes as LMDBs that BVLC Caffe's Data layer reads in step with the photos': `train_distribution_lmdb` and
`train_mean_lmdb` beside `train_lmdb`, with the same keys (`ilgnet prepare --targets`).

A record is a Datum of float_data, 1 x 1 x 10 (the shares of the votes 1 to 10) or 1 x 1 x 1 (the mean vote), and has
its photo's label."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import lmdb
import numpy as np

from ilgnet.ava.labels import Label
from ilgnet.ava.ratings import Rating
from ilgnet.ava.splits import Entry
from ilgnet.nets.targets import SCORES
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.lmdb_writer import BATCH, LmdbWriter, check_ours, remove
from torchcaffe.data.transform import parse_datum
from torchcaffe.formats.files import PathLike, publish, sha256
from torchcaffe.proto import caffe_pb2

Rated = Rating | Label  # a row of AVA.txt, or of one's own labels


def distribution(rated: Rated) -> list[float]:
    """The shares of the votes 1 to 10; they sum to 1. ValueError where the ten counts are not known."""
    if len(rated.votes) != SCORES:
        raise ValueError(f"{len(rated.votes)} vote counts are known for it, not {SCORES}")
    return [count / sum(rated.votes) for count in rated.votes]


def mean(rated: Rated) -> list[float]:
    """The mean vote. ValueError where it is not known."""
    if rated.mean is None:
        raise ValueError("no mean vote is known for it")
    return [rated.mean]


KINDS = {"distribution": distribution, "mean": mean}


def check(kinds: Sequence[str], photos: Sequence[Entry], rated: Mapping[str, Rated]) -> None:
    """CaffeError naming the first photo that lacks a label of one of `kinds`."""
    for photo, _ in photos:
        for kind in kinds:
            try:
                if photo not in rated:
                    raise ValueError("it is not rated")
                KINDS[kind](rated[photo])
            except ValueError as error:
                raise CaffeError(f"--targets {kind}: {photo}: {error}") from None


def path_for(photos: PathLike, kind: str) -> Path:
    """Where the labels of a photos' LMDB are: .../val_lmdb -> .../val_mean_lmdb."""
    photos = Path(photos)
    return photos.with_name(f"{photos.name.removesuffix('_lmdb')}_{kind}_lmdb")


def keys(path: PathLike) -> Iterator[bytes]:
    """An LMDB's keys in order, without reading the photos behind them."""
    LmdbReader(path).close()  # says what is wrong with the folder, if anything is
    with lmdb.open(str(path), readonly=True, lock=False, create=False) as env, env.begin() as txn, txn.cursor() as at:
        yield from at.iternext(keys=True, values=False)


def write_labels(photos: PathLike, kind: str, rated: Mapping[str, Rated], classes: Mapping[str, int]) -> dict:
    """Write the LMDB of one of KINDS for the photos' LMDB `photos`; an earlier one is replaced.

    classes: each photo's label. Returns its part of the manifest. Every photo must have passed `check`."""
    out = path_for(photos, kind)
    partial = out.with_name(out.name + ".partial")
    check_ours(out)
    remove(partial)
    writer = LmdbWriter(partial)
    for number, key in enumerate(keys(photos), 1):
        photo = key.decode().partition("_")[2]
        values = KINDS[kind](rated[photo])
        datum = caffe_pb2.Datum(channels=1, height=1, width=len(values), float_data=values, label=classes[photo])
        writer.put(key, datum.SerializeToString())
        if number % BATCH == 0:
            writer.commit()
    writer.commit()
    entries = writer.entries
    writer.close()
    remove(out)
    publish(partial, out)
    return {"records": entries, "data_mdb_sha256": sha256(out / "data.mdb")}


def read_labels(photos: PathLike, kind: str) -> np.ndarray | None:
    """(N, 10) or (N, 1) float32 of the labels beside a photos' LMDB, in its order; None where there are none.

    CaffeError for records that are not the photos', naming the first."""
    path = path_for(photos, kind)
    if not (path / "data.mdb").is_file():
        return None
    rows, wanted = [], list(keys(photos))
    with LmdbReader(path) as reader:
        if len(reader) != len(wanted):
            raise CaffeError(f"{path}: {len(reader)} records; the photos' LMDB has {len(wanted)}")
        for number, ((key, value), photo) in enumerate(zip(reader, wanted)):
            name = key.decode(errors="replace")
            if key != photo:
                raise CaffeError(
                    f"{path}: record {name}: the photos' record {number} is {photo.decode(errors='replace')}"
                )
            with located(f"{path}: record {name}"):
                rows.append(np.array(parse_datum(value).float_data, np.float32))
            if len(rows[-1]) != len(rows[0]) or not len(rows[0]):
                raise CaffeError(f"{path}: record {name}: {len(rows[-1])} numbers; expected {len(rows[0]) or 'some'}")
    return np.stack(rows)
