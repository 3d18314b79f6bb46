"""Photos from an LMDB or from a folder, one at a time, in an order that is always the same."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ilgnet.photos.decode import SUFFIXES
from ilgnet.photos.preprocess import Preprocess, read_photo
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data import pictures
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.transform import datum_image, parse_datum
from torchcaffe.formats.files import PathLike


def is_lmdb(path: PathLike) -> bool:
    return (Path(path) / "data.mdb").is_file()


def decode(key: str, value: bytes, where: PathLike) -> tuple[int, np.ndarray]:
    """A record's (label, (3, H, W) uint8 BGR), from a raw or an encoded Datum. Raises CaffeError with the record."""
    with located(f"{where}: record '{key}'"):
        datum = parse_datum(value)
        image = datum_image(datum, force_color=datum.encoded)
        if image.dtype != np.uint8 or len(image) != 3 or not image.size:
            raise CaffeError(f"{image.dtype} values of shape {image.shape}, not a photo with 3 channels")
    return datum.label, image


def records(path: PathLike, turns: slice = slice(None)) -> Iterator[tuple[str, int, np.ndarray]]:
    """(key, label, (3, H, W) uint8 BGR) of every record of an LMDB, or of some by their turns, once, in key order."""
    with LmdbReader(path) as reader:
        for raw_key, value in itertools.islice(reader, turns.start, turns.stop, turns.step):
            key = raw_key.decode("utf-8", "replace")
            label, image = decode(key, value, path)
            yield key, label, image


def read_records(path: PathLike, keys: list[str]) -> dict[str, np.ndarray]:
    """The pictures of some records, (H, W, 3) uint8 BGR by key."""
    wanted, found = set(keys), {}
    with LmdbReader(path) as reader:
        for raw_key, value in reader:
            key = raw_key.decode("utf-8", "replace")
            if key in wanted:
                found[key] = np.ascontiguousarray(decode(key, value, path)[1].transpose(1, 2, 0))
                if len(found) == len(wanted):
                    break
    return found


def files_in(folder: PathLike) -> list[Path]:
    """The pictures below a folder, sorted. CaffeError when there are none."""
    if not Path(folder).is_dir():
        raise CaffeError(f"{folder}: no such folder")
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in found:
        pictures.inside(folder, path.relative_to(folder).as_posix())
    if not found:
        raise CaffeError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    return found


def stream(
    path: PathLike, spec: Preprocess, turns: slice = slice(None)
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """(key, label or None, (3, h, w) float32) of an LMDB's records or a folder's photos, or of some by their turns,
    preprocessed."""
    if is_lmdb(path):
        for key, label, image in records(path, turns):
            with located(f"{path}: record '{key}'"):
                warped = spec.warped(image)
            yield key, label, warped
    else:
        for file in files_in(path)[turns]:
            yield str(file), None, spec.photo(read_photo(file))
