"""Layers that bring data into a net: Input, DummyData, MemoryData and Data (LMDB)."""

from __future__ import annotations

import functools
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs
from torchcaffe.core.layer import Layer, layer, to_device
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.transform import DataTransformer, Packed, parse_datum
from torchcaffe.formats import files
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams
from torchcaffe.random.filler import fill


def one_per_top(field: str, values: Sequence[Any], tops: int) -> list[Any]:
    """The values of a repeated field, one for each top: as given, or one for all."""
    if len(values) not in (1, tops):
        raise CaffeError(f"{field}: {len(values)} given for {tops} tops: give one, or one for each top")
    return list(values) if len(values) == tops else [values[0]] * tops


def turns(phase: int) -> tuple[int, int]:
    """(count, rank): a layer reads every count-th record, from the one at rank on. Several solvers take turns; test
    nets read all."""
    return (1, 0) if phase == caffe_pb2.TEST else (context.solver_count, context.solver_rank)


def read_list(path: str, field: str) -> str:
    """A list's text; names that are not UTF-8 survive. Raises CaffeError with the field's and the file's name."""
    try:
        return files.read_text(path, errors="surrogateescape")
    except OSError as error:
        raise CaffeError(f"{field}: {path}: {error.strerror}") from None


class _Kept(Layer):
    """Tops that keep their values from one pass to the next."""

    _places: Sequence[int] = ()

    def feed(self, top: Blobs) -> bool:
        if not self.recorded:
            return True
        # An in-place layer binds another tensor in each pass; a recording would read the old one.
        before, self._places = self._places, [blob.t.data_ptr() for blob in top]
        return self._places == before


@layer(bottoms=0, tops=(1, None))
class Input(_Kept):
    """Blobs that the program fills. shape: one for all tops, one for each, or none."""

    makes_inputs = True

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        if len(self.p.shape):
            for blob, shape in zip(top, one_per_top("shape", self.p.shape, len(top))):
                blob.reshape(*shape.dim)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        pass


@layer(bottoms=0, tops=(1, None))
class DummyData(_Kept):
    """Blobs filled by fillers: with constants once, with random values in every forward pass."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p, tops = self.p, len(top)
        fillers = p.data_filler or [caffe_pb2.FillerParameter()]
        legacy = [p.num, p.channels, p.height, p.width]
        if any(map(len, legacy)):
            if len(p.shape):
                raise CaffeError("shape: give either shape or num, channels, height and width")
            shapes = list(zip(*(one_per_top("num, channels, height, width", sizes, tops) for sizes in legacy)))
        else:
            shapes = [shape.dim for shape in one_per_top("shape", p.shape, tops)]
        self._fillers = one_per_top("data_filler", fillers, tops)
        for blob, shape, filler in zip(top, shapes, self._fillers):
            blob.reshape(*shape)
            if filler.type == "constant":
                self._fill(blob, filler)
        self.recordable = all(filler.type == "constant" for filler in self._fillers)

    def _fill(self, blob: Blob, filler: caffe_pb2.FillerParameter) -> None:
        values = np.empty(blob.shape, np.float32)
        fill(values, filler, streams.rng())
        blob.t = torch.from_numpy(values).to(self.device)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        for blob, filler in zip(top, self._fillers):
            if filler.type != "constant":
                self._fill(blob, filler)


@layer(bottoms=0, tops=2)
class MemoryData(Layer):
    """Batches of the arrays that the program sets (Net.set_input_arrays), cyclically."""

    reshape_always = True
    recordable = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        p = self.p
        self.shape = (p.channels, p.height, p.width)
        if min(p.batch_size, *self.shape) < 1:
            raise CaffeError("batch_size, channels, height and width must be given, each 1 or more")
        self.transformer = DataTransformer(self.layer_param.transform_param, self.phase)
        self.transformer.init_rand(streams.rng())
        self._data: np.ndarray | None = None
        self._position = 0
        self.reshape(bottom, top)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        top[0].reshape(self.p.batch_size, *self.shape)
        # As in BVLC, labels have one axis at setup, and four from the first forward pass on.
        top[1].reshape(self.p.batch_size, *(() if self._data is None else (1, 1, 1)))

    def state(self) -> dict[str, np.ndarray]:
        return {"position": np.array(self._position), **self.transformer.state()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        self._position = int(state["position"])
        self.transformer.set_state(state)

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Set records (N, C, H, W) and labels (N, ...), N a multiple of the batch size. They are not transformed."""
        data, labels = np.asarray(data), np.asarray(labels)
        if data.dtype != np.float32 or labels.dtype != np.float32:
            raise CaffeError("set_input_arrays: data and labels must be float32")
        if data.shape[1:] != self.shape:
            raise CaffeError(
                f"set_input_arrays: data of shape {data.shape}, the layer takes (N, C, H, W) = (N, *{self.shape})"
            )
        if len(labels) != len(data) or labels.size != len(data):
            raise CaffeError(f"set_input_arrays: {len(data)} records and {labels.size} labels")
        if not len(data) or len(data) % self.p.batch_size:
            raise CaffeError(
                f"set_input_arrays: {len(data)} records: not a multiple of the batch size {self.p.batch_size}"
            )
        self._data, self._labels, self._position = data, labels.reshape(-1), 0

    def add_images(self, images: list[np.ndarray], labels: list[int]) -> None:
        """Set records from (C, H, W) arrays, uint8 or float, transformed by transform_param (BVLC's AddMatVector)."""
        self.set_arrays(self.transformer.transform_batch(images), np.asarray(labels, np.float32))

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        if self._data is None:
            raise CaffeError("no data: call net.set_input_arrays(data, labels) first")
        part = slice(self._position, self._position + self.p.batch_size)
        top[0].t = torch.tensor(self._data[part], device=self.device)
        top[1].t = torch.tensor(self._labels[part], device=self.device).reshape(-1, 1, 1, 1)
        self._position = (self._position + self.p.batch_size) % len(self._data)


class Batch(NamedTuple):
    """A batch on its way into a net. tensors: labels and records on the net's device; place: where the layer continues
    after it; arrived: the event after which a GPU has it."""

    tensors: list[torch.Tensor]
    place: dict[str, np.ndarray]
    arrived: torch.cuda.Event | None


def place_crops(
    pixels: torch.Tensor, placements: torch.Tensor, size: Sequence[int], mean: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """DataTransformer's arithmetic, bit for bit, on the device of a Packed batch. Returns float32 (N, C, *size).

    mean: (C, H, W), or (C, 1, 1) or (1, 1, 1)."""
    count, channels = pixels.shape[:2]
    mirror, top, left = placements.unbind(1)
    steps = [torch.arange(n, device=pixels.device) for n in (count, channels, *size)]
    rows, columns = top[:, None] + steps[2], left[:, None] + steps[3]
    columns = torch.where(mirror[:, None] != 0, columns.flip(1), columns)
    index = (steps[0][:, None, None, None], steps[1][:, None, None], rows[:, None, :, None], columns[:, None, None, :])
    out = pixels[index].to(torch.float32)
    if mean is not None:
        out -= mean if mean.shape[1:] == (1, 1) else mean[index[1:]]
    return out if scale == 1 else out.mul_(scale)


class PrefetchingLayer(Layer, ABC):
    """Base of layers whose thread prepares batches ahead and starts to copy them to a GPU.

    Subclasses define open() and load(), which runs in the thread; and place() and go_to(place), the position of the
    next load(), from which a resumed run continues.
    waited: seconds for which passes have waited for batches; on a GPU only those in which it was idle."""

    reshape_always = True
    prefetch = 4

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.transformer = DataTransformer(self.layer_param.transform_param, self.phase)
        if self.p.batch_size < 1:
            raise CaffeError(f"{self.param_field}.batch_size: {self.p.batch_size} must be 1 or more")
        # BVLC draws from the process's stream in this order: the transformer's seed, what open() needs, the
        # transformer's seed again (the one that counts), the thread's seed.
        rng = streams.rng()
        self.transformer.init_rand(rng)
        shape, where = self.open()
        top[0].reshape(self.p.batch_size, *shape)
        log.info(where, f"output data size: {','.join(map(str, top[0].shape))}")
        for blob in top[1:]:
            blob.reshape(self.p.batch_size)
        self.transformer.init_rand(rng)
        rng.rand()
        self.packs = False
        self._thread: ThreadPoolExecutor | None = None
        self._workers: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[Batch]] = deque()
        self._reached = self.place()  # after the last batch given to forward; load() is ahead of it
        self._held: list[torch.Tensor] = []
        self._stream: torch.cuda.Stream | None = None
        if self.device != "cpu":
            self._stream = torch.cuda.Stream(self.device)
            self.pack_for_device()

    def pack_for_device(self) -> None:
        """Send images to the device as bytes, and crop them there. Call it before the first batch."""
        mean = self.transformer.mean
        self.packs, self._device_mean = True, None if mean is None else to_device(mean.copy(), self.device)

    @abstractmethod
    def open(self) -> tuple[Sequence[int], str]:
        """Open the source. Returns a record's shape, and the line of BVLC's source that logs the batch's."""

    @abstractmethod
    def load(self) -> tuple[np.ndarray | Packed, np.ndarray]:
        """The next batch: float32 (N, C, H, W), or a result of `transformed`; and labels."""

    def transformed(self, items: Sequence[Any]) -> np.ndarray | Packed:
        """Transform a batch of Datums or images, in several threads if there are cores for them."""
        workers = min((os.cpu_count() or 1) - 1, 8)
        if self._workers is None and workers > 1:
            self._workers = ThreadPoolExecutor(workers, thread_name_prefix=f"transform-{self.layer_param.name}")
        return (self.transformer.pack if self.packs else self.transformer.transform_batch)(items, pool=self._workers)

    def place(self) -> dict[str, np.ndarray]:
        """The position of the next load()."""
        return self.transformer.state()

    def go_to(self, place: dict[str, np.ndarray]) -> None:
        """Let the next load() start at a position that place() returned."""
        self.transformer.set_state(place)

    def state(self) -> dict[str, np.ndarray]:
        return self._reached

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        self.close()
        self.go_to(state)
        self._reached = self.place()

    def _load(self) -> Batch:
        data, labels = self.load()
        arrays = [labels, *data] if isinstance(data, Packed) else [labels, data]
        if self._stream is None:
            return Batch([torch.from_numpy(array) for array in arrays], self.place(), None)
        with torch.cuda.stream(self._stream):  # beside the net's own work
            tensors = [to_device(array, self.device) for array in arrays]
            return Batch(tensors, self.place(), self._stream.record_event())

    def feed(self, top: Blobs) -> bool:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"prefetch-{self.layer_param.name}")
        while len(self._ahead) <= self.prefetch:
            self._ahead.append(self._thread.submit(self._load))
        batch = self._wait(self._ahead[0])
        self._ahead.popleft()  # only now: a signal may interrupt the wait
        if batch.arrived is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(batch.arrived)
            for tensor in batch.tensors:
                tensor.record_stream(stream)
        self._reached = batch.place
        before, shapes = self._held, [blob.shape for blob in top]
        self._held = [self.hold(old, new) for old, new in zip([*before, None, None, None], batch.tensors)]
        labels, data = self._held[:2]
        crop = self.layer_param.transform_param.crop_size
        top[0].reshape(*data.shape[:2], *((crop, crop) if crop else data.shape[2:]))
        for blob in top[1:]:
            blob.reshape(*labels.shape)
        return [*map(id, before)] == [*map(id, self._held)] and shapes == [blob.shape for blob in top]

    def _wait(self, future: Future[Batch]) -> Batch:
        """The next batch. Adds to `waited` the time without a batch or anything else to compute."""
        if not future.done():
            if self.device != "cpu":
                torch.cuda.current_stream(self.device).synchronize()  # until then the GPU is busy
            start = time.perf_counter()
            future.exception()
            self.waited += time.perf_counter() - start
        return future.result()

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        labels, data, *placements = self._held
        if placements:
            scale = self.layer_param.transform_param.scale
            data = place_crops(data, placements[0], top[0].shape[2:], self._device_mean, scale)
        for blob, value in zip(top, (data, labels)):
            blob.t = value

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
            self._ahead.clear()
            self.go_to(self._reached)  # batches read ahead are read again
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None


@layer(bottoms=0, tops=(1, 2))
class Data(PrefetchingLayer):
    """Records of an LMDB in key order, cyclically; the second top is the label."""

    def __init__(self, layer_param: caffe_pb2.LayerParameter, device: str | None = None):
        super().__init__(layer_param, device)
        p = self.p
        if p.backend != caffe_pb2.DataParameter.LMDB:
            raise CaffeError(
                "data_param.backend: LEVELDB (the default) is not read: convert to LMDB and set backend: LMDB"
            )
        self.prefetch = p.prefetch
        self.reader = LmdbReader(p.source)
        log.info("db_lmdb.cpp:35", f"Opened lmdb {p.source}")

    def open(self) -> tuple[Sequence[int], str]:
        self._offset = 0
        key, value = self.reader.next()
        self.reader.seek_to_first()
        return self._located(key, lambda: self.transformer.infer_shape(parse_datum(value))), "data_layer.cpp:45"

    def place(self) -> dict[str, np.ndarray]:
        key = np.frombuffer(self.reader.key(), np.uint8)
        return {**super().place(), "next_key": key, "offset": np.array(self._offset)}

    def go_to(self, place: dict[str, np.ndarray]) -> None:
        super().go_to(place)
        self.reader.seek(place["next_key"].tobytes())
        self._offset = int(place["offset"])

    def _located(self, key: bytes, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except CaffeError as error:
            raise CaffeError(f"{self.p.source}: record '{key.decode(errors='replace')}': {error}") from None

    def _next(self) -> tuple[bytes, bytes]:
        count, rank = turns(self.phase)
        while self._offset % count != rank:
            self.reader.skip()
            self._offset += 1
        self._offset += 1
        return self.reader.next()

    def load(self) -> tuple[np.ndarray | Packed, np.ndarray]:
        records = [self._next() for _ in range(self.p.batch_size)]
        datums = [self._located(key, functools.partial(parse_datum, value)) for key, value in records]
        where = b"..".join((records[0][0], records[-1][0]))
        data = self._located(where, lambda: self.transformed(datums))
        return data, np.array([d.label for d in datums], np.float32)
