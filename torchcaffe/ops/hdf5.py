"""Layers that read and write HDF5 files: HDF5Data and HDF5Output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import torch

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.base.malloc import check_fits
from torchcaffe.core.blob import Blobs
from torchcaffe.core.layer import Layer, layer
from torchcaffe.formats import files, hdf5
from torchcaffe.ops.data import read_list, turns


class LibcRand:
    """glibc's rand(), never seeded: the additive generator from which std::random_shuffle draws."""

    def __init__(self) -> None:
        state = [1]
        for _ in range(30):
            state.append(16807 * state[-1] % 2147483647)
        self._state = [*state[3:], *state[:3]]
        for _ in range(310):
            self.rand()

    def rand(self) -> int:
        value = (self._state[0] + self._state[28]) & 0xFFFFFFFF
        self._state = [*self._state[1:], value]
        return value >> 1

    def shuffle(self, items: np.ndarray) -> None:
        """std::random_shuffle: swap each item from the second on with one at or before it."""
        for i in range(1, len(items)):
            j = self.rand() % (i + 1)
            items[i], items[j] = items[j], items[i]


_libc = LibcRand()  # one stream for the process, as in C


@hdf5.tried
def read_datasets(path: files.PathLike, tops: Sequence[str]) -> list[np.ndarray]:
    """The datasets of a file with the tops' names, as float32."""
    with hdf5.hdf5_file(path, "r") as file:
        return [_dataset(file, path, top) for top in tops]


def _dataset(file: Any, path: files.PathLike, top: str) -> np.ndarray:
    values = file.get(top)
    if not isinstance(values, h5py.Dataset):
        raise CaffeError(f"{path}: has no dataset '{top}'")
    if values.dtype.kind not in "fiu" or not values.shape:
        raise CaffeError(f"{path}: dataset '{top}' ({values.dtype} {values.shape}): rows of numbers expected")
    hdf5.check_held(values)
    check_fits(values.size, f"{path}: dataset '{top}'")
    return np.asarray(values, np.float32)


@layer(bottoms=0, tops=(1, None))
class HDF5Data(Layer):
    """Rows of the datasets with the tops' names, from the files that `source` lists, cyclically.

    shuffle: reorder the files, and the rows in each, in every round; as in BVLC, independent of random_seed."""

    recordable = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        if self.layer_param.HasField("transform_param"):
            raise CaffeError("transform_param: HDF5Data does not transform data")
        log.info("hdf5_data_layer.cpp:81", f"Loading list of HDF5 filenames from: {p.source}")
        self._files = read_list(p.source, "hdf5_data_param.source").split()
        log.info("hdf5_data_layer.cpp:94", f"Number of HDF5 files: {len(self._files)}")
        if not self._files:
            raise CaffeError(f"hdf5_data_param.source: {p.source} lists no file")
        if p.batch_size < 1:
            raise CaffeError(f"hdf5_data_param.batch_size: {p.batch_size} must be 1 or more")
        self._row_order = np.empty(0, int)
        self._file_order = np.arange(len(self._files))
        if p.shuffle:
            _libc.shuffle(self._file_order)
        self._file = self._row = self._offset = 0
        self._load()
        for blob, rows in zip(top, self._datasets):
            blob.reshape(p.batch_size, *rows.shape[1:])

    def state(self) -> dict[str, np.ndarray]:
        at = np.array([self._file, self._row, self._offset])
        order = {"files": self._file_order.copy(), "rows": self._row_order.copy()}  # copies: shuffled in place
        return {"at": at, **order, "libc": np.array(_libc._state)}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        if len(state["files"]) != len(self._files):
            raise CaffeError(f"{self.p.source}: lists {len(self._files)} files, {len(state['files'])} at the snapshot")
        self._file_order = state["files"]
        self._file, self._row, self._offset = map(int, state["at"])
        self._load()
        if len(state["rows"]) != len(self._row_order):
            raise CaffeError(
                f"{self._name()}: has {len(self._row_order)} rows, had {len(state['rows'])} at the snapshot"
            )
        self._row_order, _libc._state = state["rows"], state["libc"].tolist()

    def _name(self) -> str:
        """The current file's name."""
        return self._files[self._file_order[self._file]]

    def _load(self) -> None:
        """The datasets of the current file."""
        name = self._name()
        self._datasets = read_datasets(name, self.layer_param.top)
        rows = {len(values) for values in self._datasets}
        if len(rows) > 1:
            raise CaffeError(f"{name}: the datasets {', '.join(self.layer_param.top)} have different numbers of rows")
        if 0 in rows:
            raise CaffeError(f"{name}: the datasets have no rows")
        self._row_order = np.arange(rows.pop())
        if self.p.shuffle:
            _libc.shuffle(self._row_order)

    def _next(self) -> None:
        """Go to the next row."""
        self._offset += 1
        self._row += 1
        if self._row < len(self._row_order):
            return
        self._row = 0
        if len(self._files) > 1:
            self._file = (self._file + 1) % len(self._files)
            if self.p.shuffle and not self._file:
                _libc.shuffle(self._file_order)
            self._load()
        if self.p.shuffle:
            _libc.shuffle(self._row_order)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        count, rank = turns(self.phase)
        batches = [np.empty(blob.shape, np.float32) for blob in top]
        for item in range(self.p.batch_size):
            while self._offset % count != rank:
                self._next()
            row = self._row_order[self._row]
            for batch, values in zip(batches, self._datasets):
                if values.shape[1:] != batch.shape[1:]:
                    raise CaffeError(
                        f"{self._name()}: rows of shape {values.shape[1:]}, {batch.shape[1:]} in the first file"
                    )
                batch[item] = values[row]
            self._next()
        for blob, batch in zip(top, batches):
            blob.t = torch.from_numpy(batch).to(self.device)


@layer(bottoms=2, tops=0)
class HDF5Output(Layer):
    """Writes its bottoms to file_name as the datasets "data" and "label", with four axes each.

    setup makes the file, which holds one forward pass. It overwrites HDF5 files only: the name may be a stranger's."""

    recordable = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        name = self.p.file_name
        if os.path.lexists(name) and not (os.path.isfile(name) and hdf5.is_hdf5(name)):
            raise CaffeError(f"hdf5_output_param.file_name: {name} exists and is not an HDF5 file: not overwritten")
        self._access("w")

    def _access(self, mode: str, datasets: dict[str, np.ndarray] | None = None) -> None:
        # Opened and closed each time, so that the file is always complete for readers.
        name = self.p.file_name
        try:
            with h5py.File(name, mode) as file:
                for key, values in (datasets or {}).items():
                    file[key] = values
        except (OSError, ValueError) as error:
            raise CaffeError(f"hdf5_output_param.file_name: cannot write {name}: {error}") from None

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        shapes = [(blob.num, blob.channels, blob.height, blob.width) for blob in bottom]
        if shapes[0][0] != shapes[1][0]:
            raise CaffeError(f"bottoms 0 and 1 have {shapes[0][0]} and {shapes[1][0]} items: expected the same number")
        log.info("hdf5_output_layer.cpp:31", f"Saving HDF5 file {self.p.file_name}")
        arrays = [blob.t.cpu().numpy().reshape(shape) for blob, shape in zip(bottom, shapes)]
        self._access("a", {"data": arrays[0], "label": arrays[1]})
        log.info("hdf5_output_layer.cpp:36", f"Successfully saved {shapes[0][0]} rows")

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        """Leave the bottoms' diffs as they are."""
