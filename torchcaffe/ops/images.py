"""Layers that read pictures from files: ImageData and WindowData."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.layer import layer
from torchcaffe.data import pictures
from torchcaffe.data.transform import Packed
from torchcaffe.ops.data import PrefetchingLayer, read_list
from torchcaffe.random import streams
from torchcaffe.random.rng import Rng


def read_image(path: str, where: str, color: bool = True) -> np.ndarray:
    """A picture as OpenCV reads it, turned upright by EXIF: uint8 (H, W, 3) BGR, or (H, W). `where` names it in
    errors."""
    try:
        return pictures.read(path, cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
    except CaffeError as error:
        raise CaffeError(f"{where}: cannot read the picture {path}: {error}") from None


@layer(bottoms=0, tops=2)
class ImageData(PrefetchingLayer):
    """The pictures under root_folder that the file `source` lists ("name label" on each line), cyclically.

    new_height and new_width resize them; otherwise the pictures of a batch must have one size. shuffle: reorder them in
    every round; rand_skip: start at a random one of the first rand_skip."""

    def open(self) -> tuple[Sequence[int], str]:
        p = self.p
        if (p.new_height > 0) != (p.new_width > 0):
            raise CaffeError("image_data_param: new_height and new_width must be set together")
        log.info("image_data_layer.cpp:38", f"Opening file {p.source}")
        self._lines: list[tuple[str, int]] = []
        for line in read_list(p.source, "image_data_param.source").split("\n"):
            name, _, word = line.rpartition(" ")
            label = re.match(r"\s*[+-]?\d+", word)
            self._lines.append((name or line, int(label.group()) if label else 0))
        if not self._lines[-1][0]:
            self._lines.pop()
        if not self._lines:
            raise CaffeError(f"image_data_param.source: {p.source} is empty")
        rng = streams.rng()
        self._turns = np.arange(len(self._lines), dtype=np.int32)  # the order of the lines
        self._order = Rng(rng.rand()) if p.shuffle else None
        if p.shuffle:
            log.info("image_data_layer.cpp:53", "Shuffling data")
        self._shuffle()
        log.info("image_data_layer.cpp:63", f"A total of {len(self._lines)} images.")
        self._line = 0
        if p.rand_skip:
            self._line = rng.rand() % p.rand_skip
            log.info("image_data_layer.cpp:70", f"Skipping first {self._line} data points.")
            if self._line >= len(self._lines):
                raise CaffeError(f"image_data_param.rand_skip: skipping {self._line} of {len(self._lines)} pictures")
        return self.transformer.infer_shape(self._read()), "image_data_layer.cpp:90"

    def _shuffle(self) -> None:
        """With `shuffle`, put the lines into a new order: a new array, since place() has given the old one away."""
        if self._order is not None:
            turns = self._turns.tolist()
            self._order.shuffle(turns)
            self._turns = np.array(turns, np.int32)

    def _read(self) -> np.ndarray:
        """The current picture, (C, H, W) uint8."""
        p = self.p
        name = p.root_folder + self._lines[self._turns[self._line]][0]
        image = read_image(name, f"{p.source}: line {self._turns[self._line] + 1}", p.is_color)
        if p.new_height:
            image = cv2.resize(image, (p.new_width, p.new_height))
        return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)

    def place(self) -> dict[str, np.ndarray]:
        order = {} if self._order is None else {"order": self._order.state()}
        return {**super().place(), **order, "line": np.array(self._line), "turns": self._turns}

    def go_to(self, place: dict[str, np.ndarray]) -> None:
        super().go_to(place)
        self._turns, self._line = place["turns"], int(place["line"])
        if not np.array_equal(np.sort(self._turns), np.arange(len(self._lines))):
            raise CaffeError(f"{self.p.source}: has {len(self._lines)} lines, had {len(self._turns)} at the snapshot")
        if self._order is not None:
            self._order.set_state(place["order"])

    def load(self) -> tuple[np.ndarray | Packed, np.ndarray]:
        images, labels = [], []
        for _ in range(self.p.batch_size):
            images.append(self._read())
            labels.append(self._lines[self._turns[self._line]][1])
            self._line += 1
            if self._line == len(self._lines):
                self._line = 0
                self._shuffle()
        return self.transformed(images), np.array(labels, np.float32)


class Window(NamedTuple):
    """A box (x1, y1, x2, y2) in a picture of a window file, corners included."""

    image: int
    label: int
    box: list[int]


@layer(bottoms=0, tops=2)
class WindowData(PrefetchingLayer):
    """Random boxes of pictures, warped to crop_size x crop_size, for training R-CNN. A batch has boxes that do not
    overlap an object (label 0), then boxes that do (fg_fraction of the batch).

    `source` has for each picture "# index", path, channels, height, width, the number of boxes, and for each box a line
    with label, overlap, x1, y1, x2, y2. crop_size, mirror, mean_file and mean_value are transform_param's; scale is
    window_data_param's own."""

    def open(self) -> tuple[Sequence[int], str]:
        p, crop = self.p, self.layer_param.transform_param.crop_size
        if not crop:
            raise CaffeError("transform_param.crop_size: missing")
        self._rng = Rng(streams.rng().rand())
        self._images: list[str] = []
        self._cache: dict[int, np.ndarray] = {}
        self._windows: tuple[list[Window], list[Window]] = ([], [])  # background, foreground
        channels = self._read_windows(iter(read_list(p.source, "window_data_param.source").split()))
        if channels != 3:
            raise CaffeError(f"{p.source}: {channels} channels; pictures are read with 3")
        mean = self.transformer.mean
        if mean is not None:
            if mean.shape[1:] != (1, 1):
                start = max(mean.shape[2] - crop, 0) // 2
                mean = mean[:, start : start + crop, start : start + crop]
            mean = np.broadcast_to(mean, (3, crop, crop))
        self._mean = mean
        return (3, crop, crop), "window_data_layer.cpp:187"

    def _read_windows(self, words: Iterator[str]) -> int:
        """Fill the lists from the words of a window file. Returns the channels of the last picture."""
        p, channels, read = self.p, 0, 0
        fg_threshold, bg_threshold = np.float32(p.fg_threshold), np.float32(p.bg_threshold)
        try:
            for mark in words:
                index = int(next(words))
                if mark != "#" or index != len(self._images):
                    raise CaffeError(f"{p.source}: picture {len(self._images)}: begins with '{mark} {index}'")
                self._images.append(p.root_folder + next(words))
                channels = int(next(words))
                next(words), next(words)  # height and width
                for read in range(int(next(words))):
                    label, overlap = int(next(words)), np.float32(next(words))
                    box = [int(next(words)) for _ in range(4)]
                    if overlap >= fg_threshold:
                        if label < 1:
                            raise CaffeError(f"{p.source}: picture {index}: box {read}: label {label} of an object")
                        self._windows[1].append(Window(index, label, box))
                    elif overlap < bg_threshold:
                        self._windows[0].append(Window(index, 0, box))
        except (StopIteration, ValueError):
            where = f"{p.source}: picture {len(self._images)}, box {read}"
            raise CaffeError(f"{where}: truncated, or not a number") from None
        if not self._images:
            raise CaffeError(f"{p.source} is empty")
        if p.cache_images:
            self._cache = {index: self._read(index) for index in range(len(self._images))}
        log.info("window_data_layer.cpp:148", f"Number of images: {len(self._images)}")
        return channels

    def _read(self, index: int) -> np.ndarray:
        if index in self._cache:
            return self._cache[index]
        return read_image(self._images[index], f"{self.p.source}: picture {index}")

    def place(self) -> dict[str, np.ndarray]:
        return {**super().place(), "windows": self._rng.state()}

    def go_to(self, place: dict[str, np.ndarray]) -> None:
        super().go_to(place)
        self._rng.set_state(place["windows"])

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        p, t = self.p, self.layer_param.transform_param
        crop = t.crop_size
        data, labels = np.zeros((p.batch_size, 3, crop, crop), np.float32), np.zeros(p.batch_size, np.float32)
        foreground = int(np.float32(p.batch_size) * np.float32(p.fg_fraction))
        for windows, kind in zip(self._windows, ("background (overlap below bg_threshold)", "object")):
            if not windows:
                raise CaffeError(f"{p.source}: no {kind} box")
        for item in range(p.batch_size):
            windows = self._windows[item >= p.batch_size - foreground]
            window = windows[self._rng.rand() % len(windows)]
            mirror = bool(t.mirror and self._rng.rand() % 2)
            pixels, (top, left) = self._cut(window, mirror)
            rows, columns = slice(top, top + pixels.shape[1]), slice(left, left + pixels.shape[2])
            if self._mean is not None:
                pixels = pixels - self._mean[:, rows, columns]
            data[item, :, rows, columns] = pixels * np.float32(p.scale)
            labels[item] = window.label
        return data, labels

    def _cut(self, window: Window, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
        """The window's warped pixels, float32 (3, h, w), and their first row and column in the crop.

        context_pad widens the box by a margin of that many pixels of the crop; crop_mode "square" makes it square. The
        part outside the picture stays 0. Computed in float32 with C's rounding, as in BVLC."""
        crop, pad = self.layer_param.transform_param.crop_size, self.p.context_pad
        image = self._read(window.image)
        limits = np.array(image.shape[:2])
        first, last = np.array(window.box).reshape(2, 2)[:, ::-1]  # corners, (y, x) each
        sizes, starts = np.array([crop, crop]), np.array([0, 0])
        square = self.p.crop_mode == "square"
        if pad > 0 or square:
            scale = np.float32(crop) / np.float32(crop - 2 * pad)
            half = np.float32((last - first + 1) / 2)
            centre = np.float32(first) + half
            if square:
                half[:] = half.max()
            first, last = _round(centre - half * scale), _round(centre + half * scale)
            before, after = np.maximum(0, -first), np.maximum(0, last - limits + 1)
            # The size and place in the crop of the part inside the picture.
            ratio = np.float32(crop) / np.float32(last - first + 1)
            first, last = first + before, last - after
            starts = _round(np.float32(np.where([False, mirror], after, before)) * ratio)
            sizes = np.minimum(_round(np.float32(last - first + 1) * ratio), crop - starts)
        where = f"{self.p.source}: picture {window.image}: box {window.box}"
        if not ((0 <= first) & (first <= last) & (last < limits)).all():
            raise CaffeError(f"{where} is not within {limits[1]} x {limits[0]}")
        if min(sizes) < 1:
            raise CaffeError(f"{where} leaves nothing of the crop")
        (top, left), (bottom, right) = first, last + 1
        pixels = cv2.resize(image[top:bottom, left:right], sizes[::-1].tolist())
        if mirror:
            pixels = cv2.flip(pixels, 1)
        return pixels.transpose(2, 0, 1).astype(np.float32), starts


def _round(values: np.ndarray) -> np.ndarray:
    """C's round: halves away from zero."""
    return np.copysign(np.floor(np.abs(values.astype(float)) + 0.5), values).astype(int)
