"""Caffe's DataTransformer in NumPy: crop, mirror, mean and scale, with BVLC's random draws and float32 arithmetic."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data import pictures
from torchcaffe.formats import wire
from torchcaffe.formats.blobproto import read_blobproto, shape_text
from torchcaffe.proto import caffe_pb2
from torchcaffe.random.rng import Rng


class Placement(NamedTuple):
    """The random choices for one image: whether it is mirrored, and the crop's offset."""

    mirror: bool
    h_off: int
    w_off: int


class Packed(NamedTuple):
    """A decoded batch for a device that crops, mirrors and subtracts the mean itself (ops/data.py).

    pixels: (N, C, H, W) uint8; placements: (N, 3) int64, one Placement for each image."""

    pixels: np.ndarray
    placements: np.ndarray


class DataTransformer:
    """Turns an image into a layer's input: (pixel - mean) * scale, cropped and mirrored.

    phase: caffe_pb2.TRAIN (random crop) or TEST (centre crop). Raises CaffeError for contradictory parameters and for a
    bad mean_file."""

    def __init__(self, param: caffe_pb2.TransformationParameter, phase: int):
        self.param = param
        self.phase = phase
        self._rng: Rng | None = None
        self._scale = np.float32(param.scale)
        # The mean, float32: (C, H, W) for the whole image, (C, 1, 1) or (1, 1, 1); None without one.
        self.mean: np.ndarray | None = None
        if len(param.mean_value):
            self.mean = np.array(param.mean_value, np.float32)[:, None, None]
        if param.HasField("mean_file"):
            if self.mean is not None:
                raise CaffeError("transform_param: mean_file and mean_value cannot both be given")
            log.info("data_transformer.cpp:25", f"Loading mean file from: {param.mean_file}")
            mean = read_blobproto(param.mean_file)
            if mean.ndim > 4 or mean.size == 0:
                raise CaffeError(f"{param.mean_file}: a mean must have C x H x W values, not {shape_text(mean.shape)}")
            mean = mean.reshape((1,) * (4 - mean.ndim) + mean.shape)[0]
            self.mean = np.ascontiguousarray(mean)
            self._mirrored_mean = np.ascontiguousarray(mean[:, :, ::-1])

    def init_rand(self, rng: Rng) -> None:
        """Seed the transformer's own stream with one draw of `rng`. Without random choices, draw nothing."""
        if self.param.mirror or (self.phase == caffe_pb2.TRAIN and self.param.crop_size):
            self._rng = Rng(rng.rand())

    def state(self) -> dict[str, np.ndarray]:
        """The random stream's position, for Layer.state."""
        return {} if self._rng is None else {"transformer": self._rng.state()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go to a position that `state()` returned."""
        if self._rng is not None:
            self._rng.set_state(state["transformer"])

    def _rand(self, n: int) -> int:
        if self._rng is None:
            raise CaffeError("transform_param: call init_rand before a mirror or a random crop")
        return self._rng.rand() % n

    def image(self, item: Any) -> np.ndarray:
        """The C x H x W array, uint8 or float32, of a Datum (decoded by force_color and force_gray) or an array."""
        if not isinstance(item, np.ndarray):
            return datum_image(item, self.param.force_color, self.param.force_gray)
        if item.ndim != 3:
            raise CaffeError(f"an image must have C x H x W values, not {shape_text(item.shape)}")
        return item if item.dtype == np.uint8 else item.astype(np.float32, copy=False)

    def infer_shape(self, item: Any) -> tuple[int, int, int]:
        """The shape (channels, height, width) that `transform_batch` makes of a Datum or C x H x W array."""
        channels, height, width = self._check(self.image(item))
        crop = self.param.crop_size
        return (channels, crop, crop) if crop else (channels, height, width)

    def _check(self, image: np.ndarray) -> tuple[int, int, int]:
        channels, height, width = image.shape
        crop = self.param.crop_size
        if channels == 0 or min(height, width) < max(crop, 1):
            raise CaffeError(f"transform_param: crop_size {crop} does not fit an image of {shape_text(image.shape)}")
        if self.mean is None:
            return image.shape
        if self.param.HasField("mean_file") and self.mean.shape != image.shape:
            raise CaffeError(
                f"transform_param: the mean in {self.param.mean_file} is {shape_text(self.mean.shape)}, "
                f"an image is {shape_text(image.shape)}"
            )
        if len(self.mean) not in (1, channels):
            raise CaffeError(
                f"transform_param: {len(self.mean)} mean_value for {channels} channels; give one, or one each"
            )
        return image.shape

    def draw(self, height: int, width: int) -> Placement:
        """Draw the next image's placement as BVLC does: mirror (in both phases), then h and w offset in TRAIN."""
        crop = self.param.crop_size
        mirror = bool(self.param.mirror and self._rand(2))
        if not crop:
            return Placement(mirror, 0, 0)
        if self.phase == caffe_pb2.TRAIN:
            return Placement(mirror, self._rand(height - crop + 1), self._rand(width - crop + 1))
        return Placement(mirror, (height - crop) // 2, (width - crop) // 2)

    def apply(self, image: np.ndarray, placement: Placement, out: np.ndarray) -> None:
        """Write one transformed C x H x W image to `out`, float32 of the right shape. Draws nothing: thread-safe."""
        mirror, top, left = placement
        height, width = out.shape[1:]
        right = image.shape[2] - left - width
        image = image[:, top : top + height, left : left + width]
        # Mirror bytes, not floats, and keep a mirrored mean: a quarter of the memory traffic, and every inner loop runs
        # forward. One channel at a time stays in the cache.
        if mirror:
            image = _mirrored(image)
        whole = self.param.HasField("mean_file")
        mean, start = (self._mirrored_mean, right) if mirror and whole else (self.mean, left)
        for channel, (source, target) in enumerate(zip(image, out)):
            target[...] = source
            if mean is not None and whole:
                target -= mean[channel, top : top + height, start : start + width]
            elif mean is not None:
                target -= mean[channel % len(mean), 0, 0]
            if self._scale != 1:
                target *= self._scale

    def transform_batch(self, items: Sequence[Any], pool: Executor | None = None) -> np.ndarray:
        """Datums or C x H x W arrays as one float32 N x C x H x W batch; bit for bit as one by one.

        pool: an executor that decodes and computes; draws stay in order. Raises CaffeError if the shapes differ."""
        return self._placed(*self._drawn(items, pool), pool)

    def pack(self, items: Sequence[Any], pool: Executor | None = None) -> Packed | np.ndarray:
        """As `transform_batch`, with the same draws, but left for the device to crop. Images that are not all bytes, or
        differ in shape, are transformed here (float32)."""
        images, placements = self._drawn(items, pool)
        if any(image.dtype != np.uint8 or image.shape != images[0].shape for image in images):
            return self._placed(images, placements, pool)
        return Packed(np.stack(images), np.array(placements, np.int64))

    def _drawn(self, items: Sequence[Any], pool: Executor | None) -> tuple[list[np.ndarray], list[Placement]]:
        """The items' images, checked, and their placements."""
        images = list((map if pool is None else pool.map)(self.image, items))
        return images, [self.draw(*self._check(image)[1:]) for image in images]

    def _placed(self, images: list[np.ndarray], placements: list[Placement], pool: Executor | None) -> np.ndarray:
        """The images' crops as one batch."""
        shape = self.infer_shape(images[0])
        for found in map(self.infer_shape, images):
            if found != shape:
                raise CaffeError(f"an image becomes {shape_text(found)} in a batch of {shape_text(shape)}")
        out = np.empty((len(images), *shape), np.float32)
        for _ in (map if pool is None else pool.map)(self.apply, images, placements, out):
            pass
        return out


class Datum(NamedTuple):
    """caffe_pb2.Datum's fields, for reading: parsed five times as fast, without a copy."""

    channels: int = 0
    height: int = 0
    width: int = 0
    data: bytes | memoryview = b""
    label: int = 0
    float_data: Sequence[float] | np.ndarray = ()
    encoded: bool = False


def parse_datum(value: bytes) -> Datum:
    """Parse a serialised Datum; its data is a view of `value`. Raises CaffeError."""
    found: dict[str, Any] = {}
    floats: list[np.ndarray] = []
    with located("not a Datum, or a damaged one", wire.WireError):
        for number, kind, content, _ in wire.fields(value, 0, len(value), _FLOATS):
            name = Datum._fields[number - 1] if number <= len(Datum._fields) else ""
            if name == "float_data":
                floats.append(content)
            elif name and kind != (wire.BYTES if name == "data" else wire.VARINT):
                raise wire.WireError(f"{name} has wire type {kind}")
            elif name == "data":
                found[name] = memoryview(value)[content[0] : content[1]]
            elif name == "encoded":
                found[name] = content != 0
            elif name:
                found[name] = (content & 0xFFFFFFFF) - ((content & 0x80000000) << 1)  # int32
    if floats:
        found["float_data"] = np.concatenate(floats)
    return Datum(**found)


_FLOATS = {6: "<f4"}  # float_data


def datum_image(datum: Any, force_color: bool = False, force_gray: bool = False) -> np.ndarray:
    """A Datum's C x H x W pixels: uint8, or float32 from float_data. An encoded Datum is decoded (BGR)."""
    if datum.encoded:
        if force_color and force_gray:
            raise CaffeError("transform_param: force_color and force_gray cannot both be set")
        return _decode(datum.data, force_color, force_gray)
    if force_color or force_gray:
        log.error("data_transformer.cpp:152", "force_color and force_gray only for encoded datum")
    shape = (datum.channels, datum.height, datum.width)
    data = datum.data
    image = np.frombuffer(data, np.uint8) if data else np.array(datum.float_data, np.float32)
    if min(shape) < 0 or image.size != shape[0] * shape[1] * shape[2]:
        raise CaffeError(f"datum: {image.size} values where channels, height, width say {shape_text(shape)}")
    return image.reshape(shape)


def _decode(data: bytes, force_color: bool, force_gray: bool) -> np.ndarray:
    import cv2

    flag = cv2.IMREAD_COLOR if force_color else cv2.IMREAD_GRAYSCALE if force_gray else cv2.IMREAD_UNCHANGED
    with located("datum: the encoded image cannot be decoded"):
        image = pictures.decode(data, flag)
    if image.dtype != np.uint8:
        raise CaffeError(f"datum: the encoded image has {image.dtype} pixels, not 8 bits a channel")
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _mirrored(image: np.ndarray) -> np.ndarray:
    """The image, mirrored. OpenCV takes a tenth of the time of NumPy's [::-1]."""
    import cv2

    flat = np.ascontiguousarray(image).reshape(-1, image.shape[2])
    return cv2.flip(flat, 1).reshape(image.shape)
