"""BlobProto on the wire, and files of one, such as mean.binaryproto.

Arrays are views of the file's map if possible. They are written in pieces, without a message of their size."""

import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from torchcaffe.base.errors import CaffeError, located
from torchcaffe.formats import wire
from torchcaffe.formats.files import PathLike, atomic, map_file
from torchcaffe.formats.wire import WireError

Arrays = Sequence[np.ndarray | None]

# BVLC's limits: protobuf's on a message, Blob's on axes and count.
MAX_BYTES = MAX_COUNT = 2**31 - 1
MAX_AXES = 32

_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_LEGACY = (1, 2, 3, 4)  # num, channels, height, width
_FLOATS = {_DATA: "<f4", _DIFF: "<f4", _DOUBLE_DATA: "<f8", _DOUBLE_DIFF: "<f8"}


def read_blob(buffer: Any, start: int, end: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(data, diff or None) of the BlobProto in [start, end): float32, shaped, views of the buffer if possible."""
    floats: dict[int, list[np.ndarray]] = {number: [] for number in _FLOATS}
    legacy: dict[int, int] = {}
    dims: list[int] = []
    for number, kind, value, _ in wire.fields(buffer, start, end, _FLOATS):
        if number in _FLOATS and len(value):
            floats[number].append(value)
        elif number in _LEGACY and kind == wire.VARINT:
            legacy[number] = (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)  # int32
        elif number == _SHAPE and kind == wire.BYTES:
            for inner, inner_kind, inner_value, _ in wire.fields(buffer, *value):
                if inner == 1:
                    dims += wire.integers(buffer, inner_kind, inner_value, MAX_AXES)
                    if len(dims) > MAX_AXES:
                        raise WireError(f"shape has more than {MAX_AXES} axes")
    shape = [legacy.get(number, 0) for number in _LEGACY] if legacy else dims
    count = _count(shape)
    # BVLC takes doubles if there are any.
    data = _join(floats[_DOUBLE_DATA] or floats[_DATA])
    diff = _join(floats[_DOUBLE_DIFF] or floats[_DIFF])
    for name, array in (("data", data), ("diff", diff)):
        if len(array) != count and (name == "data" or len(array)):
            raise WireError(f"{name} holds {len(array)} values, its shape ({shape_text(shape)}) needs {count}")
    return data.reshape(shape), diff.reshape(shape) if len(diff) else None


def shape_text(shape: Sequence[int]) -> str:
    """A shape in an error: "3 x 256 x 256"."""
    return " x ".join(map(str, shape)) or "one value"


def same_shape(source: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether Caffe copies a stored blob: equal shapes, or a legacy shape (num, channels, height, width) equal to the
    target's with ones in front, as Blob::ShapeEquals."""
    return source == target or len(source) == 4 and source == (1,) * (4 - len(target)) + target


def _count(shape: Sequence[int]) -> int:
    """The number of values in a blob. Raises WireError for a shape that BVLC refuses."""
    if min(shape, default=0) < 0:
        raise WireError(f"shape has a negative size, {min(shape)}")
    if math.prod(max(dim, 1) for dim in shape) > MAX_COUNT:
        raise WireError("shape holds more values than a blob can (2^31 - 1)")
    return math.prod(shape)


def _join(chunks: list[np.ndarray]) -> np.ndarray:
    joined = chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, np.float32), *chunks])
    with np.errstate(over="ignore", invalid="ignore"):  # as in C++, a double beyond float's range becomes infinite
        return joined.astype(np.float32, copy=False)


def blob_pieces(data: np.ndarray, diff: np.ndarray | None = None, legacy: bool = False) -> list[Any]:
    """The bytes of a BlobProto, in order, as BVLC's Blob::ToProto makes it. legacy: with num, channels, height, width
    instead of a shape."""
    pieces: list[Any] = []
    data = np.ascontiguousarray(data, "<f4").reshape(np.shape(data))
    if legacy:
        for number, size in zip(_LEGACY, map(int, data.shape)):
            pieces.append(wire.varint(number << 3) + wire.varint(size))
    for number, array in ((_DATA, data), (_DIFF, diff)):
        if array is not None and array.size:
            flat = np.ascontiguousarray(array, "<f4").reshape(-1)
            if flat.size != data.size:
                raise CaffeError(f"a blob of {data.size} values cannot have a diff of {flat.size}")
            pieces += [wire.head(number, 4 * flat.size), flat.data.cast("B")]
    if not legacy and data.ndim:
        dims = b"".join(map(wire.varint, data.shape))
        shape = wire.head(1, len(dims)) + dims
        pieces += [wire.head(_SHAPE, len(shape)), shape]
    return pieces


def nested(number: int, pieces: list[Any]) -> list[Any]:
    """The pieces as the payload of a field."""
    return [wire.head(number, sum(map(len, pieces)))] + pieces


def write_pieces(path: PathLike, pieces: Sequence[Any], before_named: Callable[[Path], None] | None = None) -> None:
    """Write a message atomically. before_named: called with the finished file before it gets its name.

    Raises CaffeError for more than protobuf's 2 GB."""
    total = sum(map(len, pieces))
    if total > MAX_BYTES:
        raise CaffeError(
            f"cannot write {path}: it would be {total} bytes and a protobuf message has at most {MAX_BYTES}; "
            "use HDF5 (snapshot_format: HDF5, or a name that ends in .h5)"
        )
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        if before_named:
            before_named(temporary)


def read_blobproto(path: PathLike) -> np.ndarray:
    """The float32 array of a BlobProto file such as mean.binaryproto, with the axes stored (a mean: 1 x C x H x W)."""
    buffer = map_file(path)
    with located(f"{path}: not a BlobProto, or a damaged one", WireError):
        return read_blob(buffer, 0, len(buffer))[0]


def write_blobproto(path: PathLike, array: np.ndarray) -> None:
    """Write an array of at most 4 axes in legacy fields, as BVLC's compute_image_mean writes mean.binaryproto.

    C x H x W becomes 1 x C x H x W.
    """
    if array.ndim > 4:
        raise CaffeError(f"cannot write {path}: {array.ndim} axes do not fit num, channels, height, width")
    write_pieces(path, blob_pieces(array.reshape((1,) * (4 - array.ndim) + array.shape), legacy=True))


def parse_without_blobs(path: PathLike, message: Any, what: str, holders: dict) -> Any:
    """The message in a file, of that class, without its blobs. Raises CaffeError, where `what` names the kind of file.

    holders: the fields that hold blobs: number -> the numbers inside; with none inside it is a field of blobs."""
    buffer = map_file(path)
    kinds = (DecodeError, ValueError, IndexError, struct.error)  # the last two from protobuf in pure Python
    with located(f"{path}: not a {what}, or a damaged one", kinds):
        return message.FromString(_without_blobs(buffer, 0, len(buffer), holders))


def _without_blobs(buffer: Any, start: int, end: int, holders: dict) -> bytes:
    out: list[Any] = []
    for number, kind, value, (begin, after) in wire.fields(buffer, start, end):
        if number not in holders or kind != wire.BYTES:
            out.append(buffer[begin:after])
        elif inside := holders[number]:
            out += nested(number, [_without_blobs(buffer, value[0], value[1], inside)])
    return b"".join(out)
