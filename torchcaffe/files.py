"""Caffe's binary files: caffemodel, solverstate and binaryproto, in protobuf and HDF5, as BVLC Caffe lays them out.

Weights are read by walking the wire format over a map of the file, so that the arrays are views of the map and 600 MB
cost no 600 MB; they are written field by field, so that no message of that size is ever built.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import functools
import hashlib
import io
import math
import mmap
import os
import re
import secrets
import signal
import stat
import struct
import tokenize
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional, TypeVar, Union

import numpy as np

from torchcaffe import wire
from torchcaffe.errors import CaffeError, WriteError
from torchcaffe.wire import WireError

PathLike = Union[str, "os.PathLike[str]"]
Arrays = Sequence[Optional[np.ndarray]]
Read = TypeVar("Read")

# BVLC's limits: protobuf's on a message, Blob's on axes and count.
MAX_BYTES = MAX_COUNT = 2**31 - 1
MAX_AXES = 32

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


# -- files ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: PathLike, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the block ends well it becomes `path`, else it is removed.

    Whoever reads `path` meanwhile, or after a crash, finds the whole old file or the whole new one. What a process that
    was killed has left of this file is removed. Raises WriteError where it cannot be written; without `replace`
    FileExistsError where something has that name, be it a link that leads nowhere.
    """
    # through a link: replace the file it names, not the link
    target = Path(os.path.realpath(path) if replace else os.path.abspath(path))
    if not target.parent.is_dir():
        raise WriteError(f"cannot write {path}: there is no folder {target.parent}")
    if replace and target.exists() and not (target.is_file() or target.is_dir()):
        raise WriteError(f"cannot write {path}: it is a device, a pipe or a socket, not a file")
    temporary = target.with_name(f".{_stem(target)}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    _being_written.add(temporary)
    try:
        _remove_leftovers(target)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        publish(temporary, target, replace)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and (replace or not isinstance(error, FileExistsError)):
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    finally:
        _being_written.discard(temporary)


def _stem(target: Path) -> str:
    """What temporary files of `target` are called: its name, or a digest of one that leaves no room for more."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= 220 else hashlib.sha256(name).hexdigest()[:32]


_being_written: set[Path] = set()  # temporary files of this process


def publish(made: PathLike, target: PathLike, replace: bool = True) -> None:
    """Give a file, or a folder, that is whole and on the disk its final name, so that a power cut cannot undo it.

    Without `replace` FileExistsError where that name is taken."""
    if replace:
        os.replace(made, target)
    else:
        _rename_new(made, target)
    folder = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename_new(made: PathLike, target: PathLike) -> None:
    """Rename a file, never over another one. A second link refuses a name that is taken, which renaming does not."""
    try:
        os.link(made, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if os.path.lexists(target):  # a memory card's file system has no links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(made, target)
    else:
        os.unlink(made)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of `target` whose process is gone: a killed trainer's may have 600 MB each."""
    pattern = re.compile(re.escape(f".{_stem(target)}.") + r"(\d+)\.[0-9a-f]{8}\.tmp")
    for name in os.listdir(target.parent):
        match = pattern.fullmatch(name)
        if match and target.with_name(name) not in _being_written and not _is_another(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target.with_name(name))


def _is_another(pid: int) -> bool:
    """Whether a process other than this one runs under that number. (In containers every trainer may have the same.)"""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid != os.getpid()


def write_bytes(path: PathLike, data: bytes, replace: bool = True) -> None:
    """Write a whole file atomically; `replace` as in `atomic`."""
    with atomic(path, replace) as temporary:
        temporary.write_bytes(data)


def open_file(path: PathLike) -> BinaryIO:
    """Open a file for reading. Raises CaffeError for a pipe or a device, which may never end, else as `open` does."""
    # Not blocking: opening a pipe that nobody writes to would wait for ever.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CaffeError(f"{path}: not a regular file")
    return file


def read_bytes(path: PathLike) -> bytes:
    """A whole file. Raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def read_text(path: PathLike, encoding: str | None = None, errors: str = "strict") -> str:
    """A whole file, as Path.read_text gives it. Raises as `open_file` does, and UnicodeDecodeError."""
    with io.TextIOWrapper(open_file(path), encoding, errors) as file:
        return file.read()


def map_file(path: PathLike) -> mmap.mmap:
    """The file's bytes as a read-only map. Raises CaffeError when it is missing, empty or unreadable."""
    try:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CaffeError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error


def pieces(values: np.ndarray, size: int = 1 << 18) -> Iterator[tuple[int, np.ndarray]]:
    """(start, values[start : start + size]) of an array seen as flat, of any type.

    Where it is a view of a file's map, the pages that were read are let go: they would count as the process's memory,
    as much again as the weights they are copied to."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    flat = values.reshape(-1)
    released = 0
    for start in range(0, flat.size, size):
        yield start, flat[start : start + size]
        if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
            first = flat.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
            end = (first + min(start + size, flat.size) * flat.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
            released = max(released, first // mmap.PAGESIZE * mmap.PAGESIZE)
            if end > released:
                base.madvise(mmap.MADV_DONTNEED, released, end - released)
                released = end


def is_hdf5(path: PathLike) -> bool:
    """Whether the file at `path` begins as HDF5 files do."""
    try:
        with open_file(path) as file:
            return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error


# -- NumPy's files -------------------------------------------------------------------------------------------------


def read_npy(path: PathLike) -> np.ndarray:
    """The array of a .npy file. No pickle, and no memory for more than the file holds. Raises CaffeError."""
    try:
        with open_file(path) as file:
            return _npy(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error
    except _NOT_NUMPY as error:
        raise CaffeError(f"{path}: not an array of NumPy's, or damaged: {_words(error)}") from error


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that np.savez wrote, which compresses nothing. As `read_npy`."""
    try:
        with open_file(path) as whole, zipfile.ZipFile(whole) as archive:
            found = {}
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename} is compressed")
                with archive.open(entry) as file:
                    found[entry.filename[: -len(".npy")]] = _npy(file, entry.file_size)
            return found
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error
    except (*_NOT_NUMPY, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CaffeError(f"{path}: not arrays of NumPy's, or damaged: {_words(error)}") from error


# What NumPy raises over a head that is none: it evaluates it as a literal.
_NOT_NUMPY = (ValueError, TypeError, KeyError, EOFError, SyntaxError, RecursionError, MemoryError, AttributeError,
              tokenize.TokenError)  # fmt: skip


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _npy(file: Any, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_head is None:
        raise ValueError(f"version {version}")
    shape, fortran, dtype = read_head(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    bytes_ = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or bytes_ > size:
        raise ValueError(f"its head says {shape} {dtype}, more than the file holds")
    data = file.read(bytes_)
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C").copy()


# -- BlobProto on the wire -----------------------------------------------------------------------------------------

_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_LEGACY = (1, 2, 3, 4)  # num, channels, height, width
_FLOATS = {_DATA: "<f4", _DIFF: "<f4", _DOUBLE_DATA: "<f8", _DOUBLE_DIFF: "<f8"}
_NAMES = {_DATA: "data", _DIFF: "diff", _DOUBLE_DATA: "double_data", _DOUBLE_DIFF: "double_diff"}
# The tag bytes of single, unpacked floats.
_UNPACKED = {n << 3 | (wire.FIXED32 if t == "<f4" else wire.FIXED64): n for n, t in _FLOATS.items()}


def _read_blob(buffer: Any, start: int, end: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(data, diff or None) of the BlobProto in [start, end): float32, shaped, views of the buffer where possible."""
    floats: dict[int, list[np.ndarray]] = {number: [] for number in _FLOATS}
    legacy: dict[int, int] = {}
    dims: list[int] = []
    position = start
    while position < end:
        unpacked = _UNPACKED.get(buffer[position])
        if unpacked is not None:
            values, after = wire.unpacked_run(buffer, position, end, _FLOATS[unpacked])
            if after > position:
                floats[unpacked].append(values)
                position = after
                continue
        number, kind, value, (_, position) = next(wire.fields(buffer, position, end))
        if number in _FLOATS:
            floats[number].append(wire.float_field(buffer, kind, value, _FLOATS[number]))
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
    # BVLC takes the doubles where there are any. Data must be there; a diff need not be.
    data_field = _DOUBLE_DATA if sum(map(len, floats[_DOUBLE_DATA])) else _DATA
    diff_field = _DOUBLE_DIFF if sum(map(len, floats[_DOUBLE_DIFF])) else _DIFF
    arrays = [_join(floats[number]) for number in (data_field, diff_field)]
    for number, array in zip((data_field, diff_field), arrays):
        if len(array) != count and (number == data_field or len(array)):
            shown = " x ".join(map(str, shape)) or "one value"
            raise WireError(f"{_NAMES[number]} holds {len(array)} values, its shape ({shown}) needs {count}")
    data, diff = (array.reshape(shape) if len(array) == count else None for array in arrays)
    assert data is not None
    return data, diff if len(arrays[1]) else None


def _count(shape: Sequence[int]) -> int:
    """The number of values in a blob; WireError for a shape that BVLC would not take."""
    count = 1
    for dim in shape:
        if dim < 0:
            raise WireError(f"shape has a negative size, {dim}")
        count *= max(dim, 1)
        if count > MAX_COUNT:
            raise WireError("shape holds more values than a blob can (2^31 - 1)")
    return 0 if 0 in shape else count


def _join(chunks: list[np.ndarray]) -> np.ndarray:
    if not chunks:
        return np.empty(0, np.float32)
    joined = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    with np.errstate(over="ignore", invalid="ignore"):  # a double beyond float's range becomes infinite, as in C++
        return joined if joined.dtype == np.float32 else joined.astype(np.float32)


def _blob_pieces(data: np.ndarray, diff: np.ndarray | None = None, legacy: bool = False) -> list[Any]:
    """The bytes of a BlobProto, in order, as BVLC's Blob::ToProto fills and protobuf serialises it."""
    pieces: list[Any] = []
    data = np.ascontiguousarray(data, "<f4").reshape(np.shape(data))
    if legacy:
        for number, size in zip(_LEGACY, data.shape):
            pieces.append(wire.varint(number << 3) + wire.varint(size))
    for number, array in ((_DATA, data), (_DIFF, diff)):
        if array is not None and array.size:
            flat = np.ascontiguousarray(array, "<f4").reshape(-1)
            if flat.size != data.size:
                raise CaffeError(f"a blob of {data.size} values cannot have a diff of {flat.size}")
            pieces += [wire.head(number, 4 * flat.size), memoryview(flat).cast("B")]
    if not legacy and data.ndim:
        dims = b"".join(map(wire.varint, data.shape))
        shape = wire.head(1, len(dims)) + dims
        pieces += [wire.head(_SHAPE, len(shape)), shape]
    return pieces


def _nested(number: int, pieces: list[Any]) -> list[Any]:
    return [wire.head(number, sum(map(len, pieces)))] + pieces


def _write_pieces(path: PathLike, pieces: Sequence[Any], before_named: Callable[[Path], None] | None = None) -> None:
    total = sum(map(len, pieces))
    if total > MAX_BYTES:
        raise CaffeError(
            f"cannot write {path}: it would be {total} bytes and a protobuf message ends at {MAX_BYTES}; "
            "use HDF5 (snapshot_format: HDF5, or a name that ends in .h5)"
        )
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        if before_named:
            before_named(temporary)


# -- caffemodel ----------------------------------------------------------------------------------------------------


@dataclass
class LayerBlobs:
    """One layer's parameters as a weights file holds them.

    name, type: Caffe's (current names: Convolution, not CONVOLUTION or conv).
    blobs: float32 arrays; legacy num/channels/height/width stays four axes. Read-only views of the file's map: copy
        what is to change. None, in HDF5 files only, stands for a parameter that another layer owns.
    diffs: as blobs, with None where the file has no diff.
    """

    name: str
    type: str
    blobs: list[np.ndarray | None]
    diffs: list[np.ndarray | None] = field(default_factory=list)


_NET_V1_LAYER, _NET_LAYER, _V1_V0_LAYER = 2, 100, 1


@dataclass(frozen=True)
class _LayerForm:
    """Field numbers of one generation of layer message."""

    name: int
    type: int
    blobs: int


_FORMS = {"V0": _LayerForm(1, 2, 50), "V1": _LayerForm(4, 5, 6), "current": _LayerForm(1, 2, 7)}


def _layer_spans(buffer: Any, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(generation, begin, end) of each layer message in a NetParameter, in the file's order."""
    for number, kind, value, _ in wire.fields(buffer, start, end):
        if number == _NET_LAYER and kind == wire.BYTES:
            yield ("current",) + value
        elif number == _NET_V1_LAYER and kind == wire.BYTES:
            nested = [v for n, k, v, _ in wire.fields(buffer, *value) if n == _V1_V0_LAYER and k == wire.BYTES]
            yield ("V0",) + nested[0] if nested else ("V1",) + value


def _read_layer(path: PathLike, buffer: Any, generation: str, start: int, end: int) -> LayerBlobs:
    form = _FORMS[generation]
    name, kind_of_layer, spans = "", "", []
    for number, kind, value, _ in wire.fields(buffer, start, end):
        if number == form.blobs and kind == wire.BYTES:
            spans.append(value)
        elif number == form.name and kind == wire.BYTES:
            name = _text(buffer, value)
        elif number == form.type:
            kind_of_layer = _text(buffer, value) if kind == wire.BYTES else str(value)
    layer = LayerBlobs(name, _current_type(generation, kind_of_layer), [])
    for index, span in enumerate(spans):
        try:
            data, diff = _read_blob(buffer, *span)
        except WireError as error:
            raise CaffeError(f"{path}: layer '{name}', blob {index}: {error}") from error
        layer.blobs.append(data)
        layer.diffs.append(diff)
    return layer


def _text(buffer: Any, span: tuple[int, int]) -> str:
    return bytes(buffer[span[0] : span[1]]).decode("utf-8", "replace")


def _current_type(generation: str, text: str) -> str:
    if generation == "current":
        return text
    from torchcaffe import upgrade

    return upgrade.current_type(generation, text)


def read_caffemodel(path: PathLike) -> list[LayerBlobs]:
    """The layers of a caffemodel in the file's order, those without parameters too.

    Takes the current format, V1 (`layers`, enum types) and V0 (nested `layer`), blob shapes old and new, floats and
    doubles, and HDF5 weights. Raises CaffeError naming file, layer and blob for anything truncated or malformed.
    """
    if is_hdf5(path):
        return _read_caffemodel_hdf5(path)
    buffer = map_file(path)
    try:
        layers = [_read_layer(path, buffer, *span) for span in _layer_spans(buffer, 0, len(buffer))]
    except WireError as error:
        raise CaffeError(f"{path}: not a caffemodel, or a damaged one: {error}") from error
    if not layers:
        raise CaffeError(f"{path}: not a caffemodel: it holds no layers")
    return layers


def read_caffemodel_net(path: PathLike) -> Any:
    """The NetParameter of a binary caffemodel without its blobs, as stored (not upgraded). Raises CaffeError."""
    from google.protobuf.message import DecodeError

    from torchcaffe.proto import caffe_pb2

    buffer = map_file(path)
    out = []
    try:
        for number, kind, value, (begin, end) in wire.fields(buffer, 0, len(buffer)):
            if kind == wire.BYTES and number == _NET_LAYER:
                out += _nested(number, [_without(buffer, value, 7)])
            elif kind == wire.BYTES and number == _NET_V1_LAYER:
                out += _nested(number, [_without_v1(buffer, value)])
            else:
                out.append(buffer[begin:end])
        return caffe_pb2.NetParameter.FromString(b"".join(out))
    except (DecodeError, ValueError, IndexError, struct.error) as error:  # protobuf's pure Python lets others through
        raise CaffeError(f"{path}: not a caffemodel, or a damaged one: {error}") from error


def _without(buffer: Any, span: tuple[int, int], unwanted: int) -> bytes:
    return b"".join(buffer[begin:end] for n, _, _, (begin, end) in wire.fields(buffer, *span) if n != unwanted)


def _without_v1(buffer: Any, span: tuple[int, int]) -> bytes:
    out = []
    for number, kind, value, (begin, end) in wire.fields(buffer, *span):
        if number == _V1_V0_LAYER and kind == wire.BYTES:
            out += _nested(number, [_without(buffer, value, _FORMS["V0"].blobs)])
        elif number != _FORMS["V1"].blobs:
            out.append(buffer[begin:end])
    return b"".join(out)


def write_caffemodel(
    path: PathLike,
    net: Any,
    blobs: dict[str, Arrays],
    diffs: dict[str, Arrays] | None = None,
    hdf5: bool | None = None,
) -> None:
    """Write weights as BVLC's Net::ToProto does, byte for byte; as Net::ToHDF5 with hdf5=True, or when it isn't given
    and the name ends in .h5.

    net: a NetParameter of current layers, split layers and all; only its name and layers are written.
    blobs, diffs: layer name -> its arrays. A None among the blobs (shared, another layer owns it) is left out of HDF5.
    Raises CaffeError when the file would pass protobuf's 2 GB, naming HDF5 as the way out.
    """
    if str(path).endswith(".h5") if hdf5 is None else hdf5:
        _write_caffemodel_hdf5(path, net, blobs, diffs)
        return
    from torchcaffe.proto import caffe_pb2

    pieces: list[Any] = [caffe_pb2.NetParameter(name=net.name).SerializeToString()] if net.HasField("name") else []
    for layer in net.layer:
        bare = caffe_pb2.LayerParameter()
        bare.CopyFrom(layer)
        bare.ClearField("blobs")
        inside = wire.by_number(bare.SerializeToString())
        of_layer: list[Any] = [part for number, part in inside.items() if number < _FORMS["current"].blobs]
        own_diffs = (diffs or {}).get(layer.name, ())
        for index, data in enumerate(blobs.get(layer.name, ())):
            if data is None:
                raise CaffeError(f"cannot write {path}: layer '{layer.name}', blob {index} is missing")
            diff = own_diffs[index] if index < len(own_diffs) else None
            of_layer += _nested(_FORMS["current"].blobs, _blob_pieces(data, diff))
        of_layer += [part for number, part in inside.items() if number > _FORMS["current"].blobs]
        pieces += _nested(_NET_LAYER, of_layer)
    _write_pieces(path, pieces)


# -- solverstate ---------------------------------------------------------------------------------------------------


@dataclass
class SolverState:
    """A snapshot of the solver: the weights are in the file `learned_net`, history is its buffers in BVLC's order."""

    iter: int
    learned_net: str
    current_step: int
    history: list[np.ndarray]


def read_solverstate(path: PathLike) -> SolverState:
    """Read a solverstate, binary or HDF5. Raises CaffeError naming file and field."""
    if is_hdf5(path):
        return _read_solverstate_hdf5(path)
    buffer = map_file(path)
    state = SolverState(0, "", 0, [])
    seen = set()
    try:
        for number, kind, value, _ in wire.fields(buffer, 0, len(buffer)):
            seen.add(number)
            if (number, kind) == (1, wire.VARINT):
                state.iter = value & 0x7FFFFFFF
            elif (number, kind) == (2, wire.BYTES):
                state.learned_net = _text(buffer, value)
            elif (number, kind) == (3, wire.BYTES):
                try:
                    state.history.append(_read_blob(buffer, *value)[0])
                except WireError as error:
                    raise CaffeError(f"{path}: history {len(state.history)}: {error}") from error
            elif (number, kind) == (4, wire.VARINT):
                state.current_step = value & 0x7FFFFFFF
            elif number <= 4:
                raise WireError(f"field {number} has wire type {kind}")
    except WireError as error:
        raise CaffeError(f"{path}: not a solverstate, or a damaged one: {error}") from error
    if 1 not in seen:
        raise CaffeError(f"{path}: not a solverstate: it holds no iter")
    return state


def write_solverstate(
    path: PathLike, state: SolverState, before_named: Callable[[Path], None] | None = None
) -> None:
    """Write a solverstate as BVLC's solvers do; HDF5 when the name ends in .h5.

    before_named: called with the file when it is complete, and before it has its name."""
    if str(path).endswith(".h5"):
        _write_solverstate_hdf5(path, state, before_named)
        return
    name = state.learned_net.encode()
    pieces: list[Any] = [wire.varint(1 << 3) + wire.varint(state.iter), wire.head(2, len(name)) + name]
    for array in state.history:
        pieces += _nested(3, _blob_pieces(array))
    pieces.append(wire.varint(4 << 3) + wire.varint(state.current_step))
    _write_pieces(path, pieces, before_named)


# -- binaryproto ---------------------------------------------------------------------------------------------------


def read_blobproto(path: PathLike) -> np.ndarray:
    """The float32 array of a BlobProto file such as mean.binaryproto, with the axes stored (a mean: 1 x C x H x W)."""
    buffer = map_file(path)
    try:
        return _read_blob(buffer, 0, len(buffer))[0]
    except WireError as error:
        raise CaffeError(f"{path}: not a BlobProto, or a damaged one: {error}") from error


def write_blobproto(path: PathLike, array: np.ndarray) -> None:
    """Write an array of at most 4 axes in legacy fields, as BVLC's compute_image_mean writes mean.binaryproto.

    C x H x W becomes 1 x C x H x W.
    """
    if array.ndim > 4:
        raise CaffeError(f"cannot write {path}: {array.ndim} axes do not fit num, channels, height, width")
    _write_pieces(path, _blob_pieces(array.reshape((1,) * (4 - array.ndim) + array.shape), legacy=True))


# -- HDF5 ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hdf5_file(path: PathLike, mode: str) -> Iterator[Any]:
    """An open HDF5 file; h5py's many exceptions become CaffeError. One to be read must not link to others."""
    try:
        import h5py
    except ImportError as error:
        raise CaffeError(f"{path}: HDF5 files need the h5py package") from error
    try:
        if mode == "r":
            open_file(path).close()  # libhdf5 would wait for a pipe
        with h5py.File(str(path), mode) as file:
            if mode == "r":
                _check_links(file)
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        if mode == "r":
            raise CaffeError(f"cannot read {path}: {error}") from error
        raise WriteError(f"cannot write {path}: {error}") from error


def tried(read: Callable[..., Read]) -> Callable[..., Read]:
    """A reader of HDF5 files, which another process runs first: in damaged files libhdf5 crashes, or never ends.

    CaffeError where it does, "never" being so many seconds of computing as no sound file takes. Whatever else is wrong
    with the file is left to the reading itself to say. (A system without fork, such as Windows, has no such trial.)"""

    @functools.wraps(read)
    def read_twice(path: PathLike, *rest: Any) -> Read:
        if hasattr(os, "fork") and os.path.isfile(path):
            _try(path, lambda: read(path, *rest))
        return read(path, *rest)

    return read_twice


def _try(path: PathLike, read: Callable[[], Any]) -> None:
    import resource  # Windows has none

    seconds = 10 + os.path.getsize(path) // 10_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child does what follows only
        child = os.fork()
    if not child:
        try:
            faulthandler.disable()  # nobody wants to read it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]  # below which a process may go, above never
            resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard < 0 else min(seconds, hard), hard))
            read()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        raise CaffeError(f"cannot read {path}: damaged: libhdf5 does not come to an end in it ({seconds} s)")
    if status < 0:
        raise CaffeError(f"cannot read {path}: damaged: libhdf5 ends the process by {signal.Signals(-status).name}")


def _write_hdf5(
    path: PathLike, fill: Callable[[Any], None], before_named: Callable[[Path], None] | None = None
) -> None:
    with atomic(path) as temporary:
        with hdf5_file(temporary, "w") as file:
            fill(file)
        if before_named:
            before_named(temporary)


def _array(dataset: Any) -> np.ndarray:
    """A dataset as float32."""
    check_held(dataset)
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} does not hold numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(dataset[()], np.float32)


def _only(file: Any, key: str) -> Any:
    """The one value of a dataset."""
    check_held(file[key])
    if file[key].size != 1:
        raise ValueError(f"{file[key].name} holds {file[key].size} values, not 1")
    return np.ravel(file[key][()])[0]


def check_held(dataset: Any) -> None:
    """ValueError for a dataset whose values are in other files, which a file from a stranger must not name to be read,
    or are more than its file can hold: a few bytes can declare any size."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} keeps its values in other files")
    most = os.path.getsize(dataset.file.filename) * 1100  # deflate's best is 1 : 1032
    if dataset.size * dataset.dtype.itemsize > most:
        raise ValueError(f"{dataset.name} says {dataset.size} values, more than the file can hold")


def _check_links(file: Any) -> None:
    """ValueError where an HDF5 file links to another one."""
    import h5py

    def visit(group: Any, depth: int) -> None:
        if depth > 32:
            raise ValueError(f"groups are nested too deep at {group.name}")
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{group.name}/{key} links to another file, {link.filename}")
            if isinstance(link, h5py.HardLink) and group.get(key, getclass=True) is h5py.Group:
                visit(group[key], depth + 1)

    visit(file, 0)


@tried
def _read_caffemodel_hdf5(path: PathLike) -> list[LayerBlobs]:
    """data/<layer>/<i>, diff/<layer>/<i>. Types are not stored. A layer named a/b is a group in a group."""
    import h5py

    with hdf5_file(path, "r") as file:
        if not isinstance(file.get("data"), h5py.Group):
            raise CaffeError(f"{path}: not a caffemodel: it has no group data")
        layers: list[LayerBlobs] = []

        def visit(group: Any, name: str, depth: int) -> None:
            inner = [key for key in group if isinstance(group[key], h5py.Group)]
            data = _indexed(group)
            if name and (data or not inner):
                diff = _indexed(file.get(f"diff/{name}", {}))
                indices = range(1 + max([-1, *data, *diff]))
                layer = LayerBlobs(name, "", [data.get(i) for i in indices], [diff.get(i) for i in indices])
                layers.append(layer)
            if depth > 16:
                raise ValueError(f"groups are nested too deep at data/{name}")
            for key in inner:
                visit(group[key], f"{name}/{key}" if name else key, depth + 1)

        visit(file["data"], "", 0)
    return layers


def _indexed(group: Any) -> dict[int, np.ndarray]:
    """The datasets named 0, 1, ... of a layer's group."""
    found = {}
    for key in group:
        if key.isdigit() and hasattr(group[key], "dtype"):
            if len(key) > 3:
                raise ValueError(f"{group.name}: blob number {key}")
            found[int(key)] = _array(group[key])
    return found


def _write_caffemodel_hdf5(path: PathLike, net: Any, blobs: dict[str, Arrays], diffs: dict[str, Arrays] | None) -> None:
    def fill(file: Any) -> None:
        for root, arrays in (("data", blobs), ("diff", diffs)):
            if arrays is None:
                continue
            group = file.create_group(root)
            for layer in net.layer:
                inside = group.require_group(layer.name)
                for index, array in enumerate(arrays.get(layer.name, ())):
                    if array is not None:
                        inside.create_dataset(str(index), data=np.asarray(array, "<f4"))

    _write_hdf5(path, fill)


@tried
def _read_solverstate_hdf5(path: PathLike) -> SolverState:
    with hdf5_file(path, "r") as file:
        for key in ("iter", "learned_net", "current_step", "history"):
            if key not in file:
                raise CaffeError(f"{path}: not a solverstate: it has no {key}")
        name = _only(file, "learned_net")
        history = file["history"]
        return SolverState(
            int(_only(file, "iter")),
            name.decode() if isinstance(name, bytes) else str(name),
            int(_only(file, "current_step")),
            [_array(history[str(index)]) for index in range(len(history))],
        )


def _write_solverstate_hdf5(
    path: PathLike, state: SolverState, before_named: Callable[[Path], None] | None
) -> None:
    import h5py

    def fill(file: Any) -> None:
        file.create_dataset("iter", data=np.asarray([state.iter], "<i4"))
        # A C string with its final NUL, as H5LTmake_dataset_string makes: BVLC reads up to that.
        name = state.learned_net.encode() + b"\0"
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(len(name))
        kind.set_strpad(h5py.h5t.STR_NULLTERM)
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        plain = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plain.set_obj_track_times(False)  # the same state has the same bytes, as h5py's own datasets have
        text = h5py.h5d.create(file.id, b"learned_net", kind, space, plain)
        text.write(space, space, np.array(name, f"S{len(name)}"), kind)
        file.create_dataset("current_step", data=np.asarray([state.current_step], "<i4"))
        history = file.create_group("history")
        for index, array in enumerate(state.history):
            history.create_dataset(str(index), data=np.asarray(array, "<f4"))

    _write_hdf5(path, fill, before_named)
