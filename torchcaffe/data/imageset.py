"""Photos to an LMDB of Datums, and the mean of one: what BVLC's convert_imageset and compute_image_mean do.

Byte for byte the same for the same pictures and options; on all cores, resumable, and nothing is dropped unsaid."""

from __future__ import annotations

import contextlib
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
from torchcaffe.base.errors import CaffeError
from torchcaffe.data import pictures
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.lmdb_writer import BATCH, LmdbWriter, check_ours, records
from torchcaffe.data.transform import datum_image, parse_datum
from torchcaffe.formats.blobproto import write_blobproto
from torchcaffe.formats.files import atomic, open_file, publish, read_bytes, read_text, sha256, write_bytes
from torchcaffe.proto import caffe_pb2

JOB = "imageset.json"  # in the LMDB's folder: what was asked, and what came of it
FAULTS = "faults.jsonl"  # there while it is written: photos left out or damaged so far


class Photo(NamedTuple):
    """A line of the list: a file below the root folder, and its label."""

    name: str
    label: int


class Unread(NamedTuple):
    """A photo that is not in the LMDB (or, under `damaged`, only in part), and why."""

    name: str
    reason: str


@dataclass
class Imageset:
    """What became of a list of photos."""

    records: int = 0
    labels: dict[str, int] = field(default_factory=dict)  # label -> records
    skipped: list[Unread] = field(default_factory=list)
    damaged: list[Unread] = field(default_factory=list)  # stored as far as they decode, as BVLC does
    size: int = 0  # of data.mdb, in bytes
    sha256: str = ""  # of data.mdb

    def count(self, photo: Photo) -> None:
        """Count a photo that is in the LMDB."""
        self.records += 1
        self.labels[str(photo.label)] = self.labels.get(str(photo.label), 0) + 1


# -- pictures ------------------------------------------------------------------------------------------------------


def encode_datum(picture: np.ndarray, label: int) -> bytes:
    """A Datum of an H x W or H x W x 3 (BGR) uint8 picture: channels first, `encoded: false` written out."""
    planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    channels, height, width = planes.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width, label=label, encoded=False)
    datum.data = np.ascontiguousarray(planes).tobytes()
    return datum.SerializeToString()


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG file's end marker is missing. OpenCV decodes such a file and leaves the rest grey."""
    if data[:2] != b"\xff\xd8":
        return False
    # Step over the segments before the picture: an embedded thumbnail has an end marker of its own.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0


def is_file_cut_short(path: Path) -> bool:
    """is_cut_short for a file, reading no more of it than needed."""
    with open_file(path) as file:
        if file.seek(0, os.SEEK_END) < 2:
            return False
        file.seek(-2, os.SEEK_END)
        if file.read() == b"\xff\xd9":  # as nearly all end
            return False
        file.seek(0)
        return is_cut_short(file.read())


@dataclass(frozen=True)
class Options:
    """convert_imageset's flags. resize: (height, width) or None; encode: "", "jpg", "png", ...; quality: of JPEG, which
    BVLC leaves at OpenCV's 95."""

    resize: tuple[int, int] | None = None
    gray: bool = False
    encode: str = ""
    quality: int = 95


Read = Callable[[Path, Options], tuple[np.ndarray, str]]


def read_as_bvlc(path: Path, options: Options) -> tuple[np.ndarray, str]:
    """A photo as uint8 (H, W, 3) BGR, or (H, W), and what is wrong with it ("": nothing). CaffeError: unusable."""
    # As BVLC: three channels (or one), turned upright by EXIF's orientation. Not imdecode: of a JPEG that is cut short
    # it gives nothing, or something else than imread's picture with a grey rest.
    picture = pictures.read(path, cv2.IMREAD_GRAYSCALE if options.gray else cv2.IMREAD_COLOR)
    return picture, "cut short: the end is missing" if is_file_cut_short(path) else ""


def read_photo(path: Path, label: int, options: Options, read: Read = read_as_bvlc) -> tuple[bytes, str]:
    """A photo as a serialized Datum, and what is wrong with it ("": nothing). No bytes: it is unusable."""
    try:
        picture, fault = read(path, options)
    except CaffeError as error:
        return b"", str(error)
    if options.resize:
        height, width = options.resize
        picture = cv2.resize(picture, (width, height))
    if not options.encode:
        return encode_datum(picture, label), fault
    suffix = path.suffix.lower()[1:]
    if not options.resize and {"jpeg": "jpg"}.get(suffix, suffix) == options.encode:
        data = read_bytes(path)  # the file as it is, as BVLC
    else:
        try:
            data = _encode(picture, options)
        except CaffeError as error:
            return b"", str(error)
    return caffe_pb2.Datum(data=data, label=label, encoded=True).SerializeToString(), fault


def _encode(picture: np.ndarray, options: Options) -> bytes:
    """A picture compressed. CaffeError for a kind that OpenCV does not write, and a size that the kind cannot have."""
    height, width = picture.shape[:2]
    quality = [cv2.IMWRITE_JPEG_QUALITY, options.quality] if options.encode == "jpg" else []  # OpenCV warns of others'
    with contextlib.suppress(cv2.error):
        done, data = cv2.imencode("." + options.encode, picture, quality)
        if done:
            return data.tobytes()
    raise CaffeError(f"{width} x {height} pixels: OpenCV does not store them as {options.encode}")


def _check_options(options: Options) -> None:
    """CaffeError for what no photo could be stored with."""
    if options.resize:
        height, width = options.resize
        try:
            pictures.check_size(width, height)
        except CaffeError as error:
            raise CaffeError(f"photos are to be warped to {error}") from None
    if options.encode:
        _encode(np.zeros((8, 8) if options.gray else (8, 8, 3), np.uint8), options)


# -- convert_imageset ----------------------------------------------------------------------------------------------


def read_list(path: Path | str) -> list[Photo]:
    """convert_imageset's list: a file name and a label (a whole number) a line, parted by the last space."""
    photos = []
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CaffeError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    for number, line in enumerate(lines, 1):
        name, _, word = line.rstrip().rpartition(" ")
        try:
            photos.append(Photo(name, int(word)))
            if not -(1 << 31) <= photos[-1].label < 1 << 31:  # a Datum holds no more
                name = ""
        except ValueError:
            name = ""
        if not name:
            raise CaffeError(f"{path}:{number}: label: expected 'NAME LABEL', found {line[:80]!r}")
    return photos


def convert_imageset(
    root: Path | str,
    photos: Sequence[tuple[str, int]],
    out: Path | str,
    options: Options = Options(),  # noqa: B008 (frozen)
    workers: int | None = None,
    read: Read = read_as_bvlc,
) -> Imageset:
    """Write the LMDB folder `out` of photos below `root`, in the order given; key: position (8 digits), _, name.

    Works in OUT.partial, which gets its name when it is whole; called again after a crash, it goes on behind the last
    record and comes to the same bytes. If `out` is there and the same job made it, nothing is done. `workers` is the
    number of threads that decode (default: one a core); it changes nothing but the speed. `read`: how, if not as BVLC.
    Raises CaffeError when no photo can be read, for an `out` that something else made, and for one that lacks photos
    which can be read by now."""
    _check_options(options)
    root, out = Path(root), Path(out)
    photos = [Photo(*photo) for photo in photos]
    job = {"photos": len(photos), "list_sha256": _digest(photos), **asdict(options)}
    job["resize"] = list(options.resize) if options.resize else None
    if read is not read_as_bvlc:
        job["read"] = read.__name__
    one = functools.partial(_read_one, root, options, read)
    if out.exists():
        result = _finished(out, job)
        label_of = dict(photos)
        found = [name for name, _ in result.skipped if one(Photo(name, label_of[name]))[0]]
        if found:
            raise CaffeError(
                f"{out}: was made without {len(result.skipped)} photos that could not be read; "
                f"{len(found)} can be now, {found[0]} for one: remove {out.name} to have them in it"
            )
        return result
    if not root.is_dir():
        raise CaffeError(f"{root}: no such folder of photos")
    partial = out.with_name(out.name + ".partial")
    check_ours(partial, JOB, FAULTS)
    partial.mkdir(parents=True, exist_ok=True)
    with _only_one(partial):
        if _read_json(partial / JOB).get("job") != job:  # another job's, or none yet: start afresh
            for path in [*partial.glob("*.mdb"), *partial.glob(FAULTS)]:
                path.unlink()
            write_bytes(partial / JOB, _json({"job": job}))
        if "result" not in _read_json(partial / JOB):
            result = _convert(one, photos, partial, options, workers or os.cpu_count() or 1, out.name)
            if result.records == 0:
                first = f"; {result.skipped[0].name}: {result.skipped[0].reason}" if result.skipped else ""
                shutil.rmtree(partial)
                raise CaffeError(f"{root}: none of {len(photos)} photos could be read{first}")
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


def _convert(
    one: Callable[[Photo], tuple[bytes, str]],
    photos: list[Photo],
    partial: Path,
    options: Options,
    workers: int,
    name: str,
) -> Imageset:
    """Append to the LMDB in `partial` what it lacks, from its last key on."""
    result = Imageset()
    writer = LmdbWriter(partial)
    key = writer.last_key()
    start = int(key[:8]) + 1 if key and key[:8].isdigit() else 0
    # What was found wrong with photos up to the last record is on file; the later ones are looked at again.
    faults = [fault for fault in _read_faults(partial / FAULTS) if fault[0] < start]
    for _, kind, *unread in faults:
        getattr(result, kind).append(Unread(*unread))
    skipped = {number for number, kind, *_ in faults if kind == "skipped"}
    for number in range(min(start, len(photos))):
        if number not in skipped:
            result.count(photos[number])
    there = result.records
    last = _key(start - 1, photos[start - 1]) if 0 < start <= len(photos) else None
    if there != writer.entries or key != last:  # some other program has been in the folder
        raise CaffeError(f"{partial}: holds {writer.entries} records, not the {there} expected; delete the folder")
    if there:
        log.info("convert_imageset.cpp:110", f"{partial}: going on behind record {there}")

    def read(number: int) -> tuple[int, bytes, str]:
        return (number, *one(photos[number]))

    # Full-size pictures are kept few; small ones as many as are decoded while a transaction is written.
    ahead = min(32 * workers, 512) if options.resize or options.encode else 2 * workers
    write_bytes(partial / FAULTS, "".join(json.dumps(fault) + "\n" for fault in faults).encode())
    with open(partial / FAULTS, "a") as file, progress_of(len(photos), name, start) as progress, _one_opencv_thread():

        def commit() -> None:
            """The records so far, after the faults found up to the last one."""
            file.flush()
            os.fsync(file.fileno())
            writer.commit()

        for number, datum, fault in in_order(read, range(start, len(photos)), workers, ahead):
            photo = photos[number]
            if fault:
                kind = "damaged" if datum else "skipped"
                getattr(result, kind).append(Unread(photo.name, fault))
                file.write(json.dumps([number, kind, photo.name, fault]) + "\n")
                if len(result.damaged) + len(result.skipped) <= 20:  # the rest are in the report
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
    """function(item) for each item, in their order, computed in threads; at most `ahead` are begun and not taken."""
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
    """The faults on file; a last line that a crash has cut is of no record that is committed."""
    faults = []
    with contextlib.suppress(OSError, ValueError):
        for line in read_text(path).splitlines():
            faults.append(json.loads(line))
    return faults


def _finished(out: Path, job: dict) -> Imageset:
    """What `out` holds, if the same job made it."""
    made = _read_json(out / JOB)
    if made.get("job") != job or "result" not in made:
        raise CaffeError(f"{out}: is there already, and not made from this list with these options; remove it first")
    made["result"].pop("note", None)  # of earlier versions
    result = Imageset(**made["result"])
    result.skipped = [Unread(*item) for item in result.skipped]
    result.damaged = [Unread(*item) for item in result.damaged]
    return result


# -- compute_image_mean --------------------------------------------------------------------------------------------


def compute_image_mean(lmdb: Path | str, workers: int | None = None) -> np.ndarray:
    """The mean of an LMDB's Datums, float32, C x H x W: summed in float32 in key order, as BVLC does (a sum above 2^24,
    so beyond 65,793 bright pictures, loses digits; so did the released means)."""

    def read(record: tuple[bytes, bytes]) -> tuple[str, np.ndarray]:
        where = f"{lmdb}: record {record[0].decode(errors='replace')}"
        try:
            return where, datum_image(parse_datum(record[1]))
        except CaffeError as error:
            raise CaffeError(f"{where}: {error}") from None

    workers = workers or os.cpu_count() or 1
    total: np.ndarray | None = None
    number = 0
    with progress_of(_entries(lmdb), f"mean of {Path(lmdb).name}") as progress, _one_opencv_thread():
        for where, values in in_order(read, records(lmdb), workers, 8 * workers):
            if total is None:
                total = np.zeros(values.shape, np.float32)
            if values.shape != total.shape:
                raise CaffeError(f"{where}: data: {values.shape}, but the first record is {total.shape}")
            total += values
            number += 1
            progress(1)
    return total / np.float32(number)


def write_mean(mean: np.ndarray, binaryproto: Path | str, npy: Path | str | None = None) -> None:
    """Write mean.binaryproto (1 x C x H x W, as BVLC's tool) and mean.npy (C x H x W)."""
    write_blobproto(binaryproto, mean)
    if npy is not None:
        with atomic(npy) as temporary, open(temporary, "wb") as file:
            np.save(file, mean)


def _entries(lmdb: Path | str) -> int:
    with LmdbReader(lmdb) as reader:
        return len(reader)


# -- small things --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_of(total: int, what: str, start: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes a number of records done: a bar on a terminal, else a log line every 10,000."""
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
    """The threads are ours: OpenCV shall not start its own in each."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a folder that another process is writing; the system drops the lock when a process dies."""
    import fcntl

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
