"""Solverstates, binary and HDF5, as BVLC Caffe lays them out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError, located
from torchcaffe.formats import wire
from torchcaffe.formats.blobproto import blob_pieces, nested, parse_without_blobs, read_blob, write_pieces
from torchcaffe.formats.files import PathLike, map_file
from torchcaffe.formats.hdf5 import array_of, check_held, hdf5_file, is_hdf5, tried, write_hdf5
from torchcaffe.formats.wire import WireError
from torchcaffe.proto import caffe_pb2


@dataclass
class SolverState:
    """A snapshot of a solver. learned_net: the file with the weights; history: the solver's buffers in BVLC's order."""

    iter: int
    learned_net: str
    current_step: int
    history: list[np.ndarray]


def read_solverstate(path: PathLike) -> SolverState:
    """Read a solverstate, binary or HDF5. Raises CaffeError with file and field."""
    if is_hdf5(path):
        return _read_solverstate_hdf5(path)
    plain = parse_without_blobs(path, caffe_pb2.SolverState, "solverstate", {3: {}})
    if not plain.HasField("iter"):
        raise CaffeError(f"{path}: not a solverstate: it holds no iter")
    buffer, history = map_file(path), list[np.ndarray]()
    for number, kind, value, _ in wire.fields(buffer, 0, len(buffer)):
        if (number, kind) == (3, wire.BYTES):
            with located(f"{path}: history {len(history)}", WireError):
                history.append(read_blob(buffer, *value)[0])
    return SolverState(plain.iter & 0x7FFFFFFF, plain.learned_net, plain.current_step & 0x7FFFFFFF, history)


def write_solverstate(path: PathLike, state: SolverState, before_named: Callable[[Path], None] | None = None) -> None:
    """Write a solverstate as BVLC's solvers do, in HDF5 if the name ends in .h5.

    before_named: called with the finished file before it gets its name."""
    if str(path).endswith(".h5"):
        _write_solverstate_hdf5(path, state, before_named)
        return
    name = state.learned_net.encode()
    pieces: list[Any] = [wire.varint(1 << 3) + wire.varint(state.iter), wire.head(2, len(name)) + name]
    for array in state.history:
        pieces += nested(3, blob_pieces(array))
    pieces.append(wire.varint(4 << 3) + wire.varint(state.current_step))
    write_pieces(path, pieces, before_named)


def _only(file: Any, key: str) -> Any:
    """The only value of a dataset."""
    check_held(file[key])
    if file[key].size != 1:
        raise ValueError(f"{file[key].name} holds {file[key].size} values, not 1")
    return np.ravel(file[key][()])[0]


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
            [array_of(history[str(index)]) for index in range(len(history))],
        )


def _write_solverstate_hdf5(path: PathLike, state: SolverState, before_named: Callable[[Path], None] | None) -> None:
    import h5py

    def fill(file: Any) -> None:
        file.create_dataset("iter", data=np.asarray([state.iter], "<i4"))
        # A C string with its final NUL, as from H5LTmake_dataset_string: BVLC reads up to it.
        name = state.learned_net.encode() + b"\0"
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(len(name))
        kind.set_strpad(h5py.h5t.STR_NULLTERM)
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        plain = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plain.set_obj_track_times(False)  # as h5py's own datasets: the same state gives the same bytes
        text = h5py.h5d.create(file.id, b"learned_net", kind, space, plain)
        text.write(space, space, np.array(name, f"S{len(name)}"), kind)
        file.create_dataset("current_step", data=np.asarray([state.current_step], "<i4"))
        history = file.create_group("history")
        for index, array in enumerate(state.history):
            history.create_dataset(str(index), data=np.asarray(array, "<f4"))

    write_hdf5(path, fill, before_named)
