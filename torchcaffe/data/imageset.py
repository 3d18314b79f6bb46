"""Photos to an LMDB of Datums, and an LMDB's mean, as by BVLC's convert_imageset and compute_image_mean.

The same pictures and options give BVLC's records, byte for byte. All cores work, a killed run resumes, and photos that
are left out are reported."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data import pictures
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.lmdb_writer import BATCH, LmdbWriter, check_ours, records
from torchcaffe.data.transform import datum_image, parse_datum
from torchcaffe.formats.blobproto import write_blobproto
from torchcaffe.formats.files import PathLike, atomic, publish, read_bytes, read_text, sha256, write_bytes
from torchcaffe.proto import caffe_pb2

JOB = "imageset.json"  # in the LMDB's folder: the job and its result
FAULTS = "faults.jsonl"  # there during the job: photos left out or damaged so far


class Photo(NamedTuple):
    """A line of the list: a file below the root folder, and its label."""

    name: str
    label: int


class Unread(NamedTuple):
    """A photo that is not in the LMDB, or (in `damaged`) only in part, and the reason."""

    name: str
    reason: str


@dataclass
class Imageset:
    """The result for a list of photos."""

    records: int = 0
    labels: dict[str, int] = field(default_factory=dict)  # label -> records
    skipped: list[Unread] = field(default_factory=list)
    damaged: list[Unread] = field(default_factory=list)  # stored as far as they decode, as in BVLC
    size: int = 0  # of data.mdb, in bytes
    sha256: str = ""  # of data.mdb

    def count(self, photo: Photo) -> None:
        """Count a photo in the LMDB."""
        self.records += 1
        label = str(photo.label)
        self.labels[label] = self.labels.get(label, 0) + 1


# -- pictures ------------------------------------------------------------------------------------------------------


def encode_datum(picture: np.ndarray, label: int) -> bytes:
    """A serialized Datum of a uint8 picture, H x W or H x W x 3 (BGR): channels first, `encoded` set to false."""
    planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    channels, height, width = planes.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width, label=label, encoded=False)
    datum.data = np.ascontiguousarray(planes).tobytes()
    return datum.SerializeToString()


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG file's end marker is missing. OpenCV decodes such a file, with the rest grey."""
    if data[:2] != b"\xff\xd8":
        return False
    # Skip the segments before the picture: an embedded thumbnail has its own end marker.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0


@dataclass(frozen=True)
class Options:
    """convert_imageset's flags. resize: (height, width) or None; encode: "", "jpg", "png", ...; quality: of JPEG (BVLC
    always uses OpenCV's 95)."""

    resize: tuple[int, int] | None = None
    gray: bool = False
    encode: str = ""
    quality: int = 95


Read = Callable[[Path, Options], tuple[np.ndarray, str]]


def read_as_bvlc(path: Path, options: Options) -> tuple[np.ndarray, str]:
    """A photo as uint8 (H, W, 3) BGR, or (H, W), and its fault or "". Raises CaffeError if it is unusable."""
    # As in BVLC, three channels or one, turned upright by EXIF. Not imdecode: for a truncated JPEG it returns nothing,
    # or a picture other than imread's, which has a grey rest.
    picture = pictures.read(path, cv2.IMREAD_GRAYSCALE if options.gray else cv2.IMREAD_COLOR)
    return picture, "cut short: the end is missing" if is_cut_short(read_bytes(path)) else ""


def read_photo(path: Path, label: int, options: Options, read: Read = read_as_bvlc) -> tuple[bytes, str]:
    """A photo as a serialized Datum, and its fault or "". An unusable photo has no bytes."""
    try:
        picture, fault = read(path, options)
        if options.resize:
            height, width = options.resize
            picture = cv2.resize(picture, (width, height))
        if not options.encode:
            return encode_datum(picture, label), fault
        suffix = path.suffix.lower()[1:]
        if not options.resize and {"jpeg": "jpg"}.get(suffix, suffix) == options.encode:
            data = read_bytes(path)  # the file unchanged, as in BVLC
        else:
            data = _encode(picture, options)
    except CaffeError as error:
        return b"", str(error)
    return caffe_pb2.Datum(data=data, label=label, encoded=True).SerializeToString(), fault


def _encode(picture: np.ndarray, options: Options) -> bytes:
    """A compressed picture. Raises CaffeError for a format that OpenCV cannot write, or not in this size."""
    height, width = picture.shape[:2]
    quality = [cv2.IMWRITE_JPEG_QUALITY, options.quality] if options.encode == "jpg" else []  # else a warning
    with contextlib.suppress(cv2.error):
        done, data = cv2.imencode("." + options.encode, picture, quality)
        if done:
            return data.tobytes()
    raise CaffeError(f"{width} x {height} pixels: OpenCV cannot store them as {options.encode}")


def _check_options(options: Options) -> None:
    """Raise CaffeError for options that no photo can be stored with."""
    if options.resize:
        height, width = options.resize
        try:
            pictures.check_size(width, height)
        except CaffeError as error:
            raise CaffeError(f"photos would be warped to {error}") from None
    if options.encode:
        _encode(np.zeros((8, 8) if options.gray else (8, 8, 3), np.uint8), options)


# -- convert_imageset ----------------------------------------------------------------------------------------------


def read_list(path: PathLike) -> list[Photo]:
    """convert_imageset's list: on each line a file name and an integer label, separated by the last space."""
    photos = []
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CaffeError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    for number, line in enumerate(lines, 1):
        name, _, word = line.rstrip().rpartition(" ")
        with contextlib.suppress(ValueError):
            if name and -(1 << 31) <= int(word) < 1 << 31:  # a Datum's range
                photos.append(Photo(name, int(word)))
        if len(photos) < number:
            raise CaffeError(f"{path}:{number}: label: expected 'NAME LABEL', found {line[:80]!r}")
    return photos


def convert_imageset(
    root: PathLike,
    photos: Sequence[tuple[str, int]],
    out: PathLike,
    options: Options = Options(),  # noqa: B008 (frozen)
    workers: int | None = None,
    read: Read = read_as_bvlc,
) -> Imageset:
    """Write the LMDB folder `out` of photos below `root`, in the given order. A key is position (8 digits), _, name.

    OUT.partial gets its final name when it is complete. After a crash another call continues behind the last record
    and produces the same file. If the same job has already made `out`, nothing is done.
    workers: the number of decoding threads (default: one for each core); the result does not depend on it.
    read: replaces BVLC's way to read a photo.
    Raises CaffeError if no photo can be read, if something else made `out`, or if it lacks photos that can now be
    read."""
    _check_options(options)
    root, out = Path(root), Path(out)
    listed = [Photo(*photo) for photo in photos]
    job = {"photos": len(listed), "list_sha256": _digest(listed), **asdict(options)}
    job["resize"] = options.resize and list(options.resize)  # as JSON gives it back
    if read is not read_as_bvlc:
        job["read"] = read.__name__
    one = functools.partial(_read_one, root, options, read)
    if out.exists():
        result = _finished(out, job)
        label_of = dict(listed)
        found = [name for name, _ in result.skipped if one(Photo(name, label_of[name]))[0]]
        if found:
            raise CaffeError(
                f"{out}: was made without {len(result.skipped)} photos that could not be read; "
                f"{len(found)} can be read now, for example {found[0]}: remove {out.name} to include them"
            )
        return result
    if not root.is_dir():
        raise CaffeError(f"{root}: no such folder of photos")
    partial = out.with_name(out.name + ".partial")
    check_ours(partial, JOB, FAULTS)
    partial.mkdir(parents=True, exist_ok=True)
    with _only_one(partial):
        if _read_json(partial / JOB).get("job") != job:  # another job's, or new: start again
            for path in [*partial.glob("*.mdb"), *partial.glob(FAULTS)]:
                path.unlink()
            write_bytes(partial / JOB, _json({"job": job}))
        if "result" not in _read_json(partial / JOB):
            result = _convert(one, listed, partial, options, workers or os.cpu_count() or 1)
            if result.records == 0:
                first = f"; {result.skipped[0].name}: {result.skipped[0].reason}" if result.skipped else ""
                shutil.rmtree(partial)
                raise CaffeError(f"{root}: none of {len(listed)} photos could be read{first}")
            result.size, result.sha256 = (partial / "data.mdb").stat().st_size, sha256(partial / "data.mdb")
            write_bytes(partial / JOB, _json({"job": job, "result": asdict(result)}))
        (partial / FAULTS).unlink(missing_ok=True)
        publish(partial, out)
    return _finished(out, job)


def _read_one(root: Path, options: Options, read: Read, photo: Photo) -> tuple[bytes, str]:
    try:
        path = pictures.inside(root, photo.name)
    except CaffeError as error:
        return b"", str(error)
    return read_photo(path, photo.label, options, read)


def _resumed(writer: LmdbWriter, photos: list[Photo]) -> tuple[Imageset, int]:
    """What is in the writer's LMDB already, and the number of the first photo that is not."""
    partial, result = writer.path, Imageset()
    key = writer.last_key()
    start = int(key[:8]) + 1 if key and key[:8].isdigit() else 0
    # Faults of photos up to the last record are on file; later photos are read again.
    faults = [fault for fault in _read_faults(partial / FAULTS) if fault[0] < start]
    for _, kind, *unread in faults:
        getattr(result, kind).append(Unread(*unread))
    skipped = {number for number, kind, *_ in faults if kind == "skipped"}
    for number in range(min(start, len(photos))):
        if number not in skipped:
            result.count(photos[number])
    there = result.records
    last = _key(start - 1, photos[start - 1]) if 0 < start <= len(photos) else None
    if there != writer.entries or key != last:  # another program has written to the folder
        raise CaffeError(f"{partial}: holds {writer.entries} records, not the {there} expected; delete the folder")
    if there:
        log.info("convert_imageset.cpp:110", f"{partial}: continuing after record {there}")
    write_bytes(partial / FAULTS, "".join(json.dumps(fault) + "\n" for fault in faults).encode())
    return result, start


def _convert(
    one: Callable[[Photo], tuple[bytes, str]],
    photos: list[Photo],
    partial: Path,
    options: Options,
    workers: int,
) -> Imageset:
    """Append the missing records to the LMDB in `partial`."""
    writer = LmdbWriter(partial)
    result, start = _resumed(writer, photos)
    # Few full-size pictures; as many small ones as are decoded while a transaction is written.
    ahead = min(32 * workers, 512) if options.resize or options.encode else 2 * workers
    with (
        open(partial / FAULTS, "a") as file,
        progress_of(len(photos), partial.stem, start) as progress,
        _one_opencv_thread(),
    ):

        def commit() -> None:
            """Write the faults, then the records."""
            file.flush()
            os.fsync(file.fileno())
            writer.commit()

        for number, (datum, fault) in enumerate(in_order(one, photos[start:], workers, ahead), start):
            photo = photos[number]
            if fault:
                kind = "damaged" if datum else "skipped"
                getattr(result, kind).append(Unread(photo.name, fault))
                file.write(json.dumps([number, kind, photo.name, fault]) + "\n")
                if len(result.damaged) + len(result.skipped) <= 20:  # the report has all
                    log.warning("convert_imageset.cpp:130", f"{kind}: {photo.name}: {fault}")
            if datum:
                writer.put(_key(number, photo), datum)
                result.count(photo)
                if result.records % BATCH == 0:
                    commit()
            progress(1)
        commit()
    writer.close()
    return result


def in_order(function: Callable, items: Iterable, workers: int, ahead: int) -> Iterator:
    """function(item) for each item, in order, computed in threads. At most `ahead` are started and not yielded."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _key(number: int, photo: Photo) -> bytes:
    return f"{number:08d}_{photo.name}".encode()


def _read_faults(path: Path) -> list:
    """The faults on file. A last line cut by a crash belongs to a record that was not committed."""
    faults: list = []
    with contextlib.suppress(OSError, ValueError):
        faults.extend(map(json.loads, read_text(path).splitlines()))
    return faults


def _finished(out: Path, job: dict) -> Imageset:
    """The result in `out`, if the same job made it."""
    made = _read_json(out / JOB)
    if made.get("job") != job or "result" not in made:
        raise CaffeError(f"{out}: exists, but was not made from this list with these options; remove it first")
    made["result"].pop("note", None)  # of earlier versions
    for kind in ("skipped", "damaged"):
        made["result"][kind] = [Unread(*item) for item in made["result"][kind]]
    return Imageset(**made["result"])


# -- compute_image_mean --------------------------------------------------------------------------------------------


def compute_image_mean(lmdb: PathLike) -> np.ndarray:
    """The mean of an LMDB's Datums, float32, C x H x W. As in BVLC, the sum is in float32 and in key order: above 2^24,
    so from 65,794 bright pictures on, it loses digits, as the released means did."""

    def read(record: tuple[bytes, bytes]) -> tuple[str, np.ndarray]:
        where = f"{lmdb}: record {record[0].decode(errors='replace')}"
        with located(where):
            return where, datum_image(parse_datum(record[1]))

    workers = os.cpu_count() or 1
    total: np.ndarray | None = None
    with LmdbReader(lmdb) as reader:
        count = len(reader)
    with progress_of(count, f"mean of {Path(lmdb).name}") as progress, _one_opencv_thread():
        for where, values in in_order(read, records(lmdb), workers, 8 * workers):
            if total is None:
                total = np.zeros(values.shape, np.float32)
            if values.shape != total.shape:
                raise CaffeError(f"{where}: data: {values.shape}, but the first record is {total.shape}")
            total += values
            progress(1)
    return total / np.float32(count)


def write_mean(mean: np.ndarray, binaryproto: PathLike, npy: PathLike | None = None) -> None:
    """Write mean.binaryproto (1 x C x H x W, as BVLC's tool) and mean.npy (C x H x W)."""
    write_blobproto(binaryproto, mean)
    if npy is not None:
        with atomic(npy) as temporary, open(temporary, "wb") as file:
            np.save(file, mean)


# -- helpers --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_of(total: int, what: str, start: int = 0) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes a number of finished records: a bar on a terminal, else a log line every 10,000."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=start, desc=what, unit="rec", smoothing=0.05, file=sys.stderr) as bar:
            yield bar.update
        return
    done, began = start, time.monotonic()

    def update(count: int) -> None:
        nonlocal done
        done += count
        if done // 10000 > (done - count) // 10000:
            left = (time.monotonic() - began) / (done - start) * (total - done) / 60
            log.info("convert_imageset.cpp:147", f"{what}: processed {done} of {total}, about {left:.0f} min left.")

    yield update


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads in each of ours."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a folder that another process is writing. The system releases the lock when a process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CaffeError(f"{folder}: another process is writing it") from None
    finally:
        os.close(descriptor)


def _digest(photos: Sequence[Photo]) -> str:
    return hashlib.sha256("".join(f"{name} {label}\n" for name, label in photos).encode()).hexdigest()


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _read_json(path: Path) -> dict:
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError):
        return {}
