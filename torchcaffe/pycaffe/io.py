"""pycaffe's caffe.io: arrays of blobs and Datums, images, and the Transformer that prepares a net's input."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy import float32, ndarray

from torchcaffe.base.errors import located
from torchcaffe.data import pictures
from torchcaffe.formats.files import PathLike
from torchcaffe.proto import caffe_pb2

# -- messages and arrays -------------------------------------------------------------------------------------------


def blobproto_to_array(blob: Any, return_diff: bool = False) -> ndarray:
    """A BlobProto's data (or diff) as a float64 array; legacy sizes give four axes, no shape gives a scalar.

    Raises ValueError if the number of values is not the shape's.
    """
    values, legacy = np.array(blob.diff if return_diff else blob.data, float), ("num", "channels", "height", "width")
    if any(map(blob.HasField, legacy)):
        return values.reshape([getattr(blob, name) for name in legacy])
    return values.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: ndarray, diff: ndarray | None = None) -> Any:
    """A BlobProto of the array's shape and data, and of the diff if given (its shape is not checked)."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(np.ravel(arr).tolist())
    if diff is not None:
        blob.diff.extend(np.ravel(diff).tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[ndarray]) -> bytes:
    """A serialised BlobProtoVector of the arrays."""
    return caffe_pb2.BlobProtoVector(blobs=map(array_to_blobproto, arraylist)).SerializeToString()


def blobprotovector_str_to_arraylist(str: bytes) -> list[ndarray]:
    """The arrays of a serialised BlobProtoVector."""
    return list(map(blobproto_to_array, caffe_pb2.BlobProtoVector.FromString(str).blobs))


def array_to_datum(arr: ndarray, label: int | None = None) -> Any:
    """A Datum of a C x H x W array: bytes if it is uint8, else float_data. Raises ValueError for other shapes."""
    if arr.ndim != 3:
        raise ValueError(f"a datum has C x H x W values, not {arr.ndim} axes")
    datum = caffe_pb2.Datum(label=label)
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(np.ravel(arr).tolist())
    return datum


def datum_to_array(datum: Any) -> ndarray:
    """A Datum's C x H x W array: uint8 for bytes, float64 for float_data. An encoded datum is not decoded."""
    shape = (datum.channels, datum.height, datum.width)
    values = np.array(bytearray(datum.data)) if datum.data else np.array(datum.float_data, float)
    return values.reshape(shape)


# -- preparing a net's input ---------------------------------------------------------------------------------------


class Transformer:
    """Turns images into a net's input and back: resize, transpose, swap channels, scale, subtract a mean, scale.

    inputs: each input's shape (N, C, H, W) by name.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]):
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise Exception(f"{in_} is not one of the net inputs: {self.inputs}")
        return tuple(self.inputs[in_])

    def preprocess(self, in_: str, data: ndarray) -> ndarray:
        """An H' x W' x K image as input `in_` takes it: float32, K x H x W. The steps are in the class's order."""
        size = self._shape(in_)[2:]
        # A copy: pycaffe may change its caller's float32 image.
        image = np.array(data, float32)
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_]), :, :]
        image *= self.raw_scale.get(in_, 1)
        image -= self.mean.get(in_, 0)
        image *= self.input_scale.get(in_, 1)
        return image

    def deprocess(self, in_: str, data: ndarray) -> ndarray:
        """The inverse of `preprocess`, except for the size: a K x H x W input as an H x W x K image."""
        self._shape(in_)
        image = data.copy().squeeze()
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Reorder the axes: (2, 0, 1) turns H x W x K into K x H x W."""
        if len(order) != len(self._shape(in_)) - 1:
            raise Exception("Transpose order needs to have the same number of dimensions as the input.")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Reorder the channels, the first axis after the transpose: (2, 1, 0) turns RGB into BGR."""
        if len(order) != self._shape(in_)[1]:
            raise Exception("Channel swap needs to have the same number of dimensions as the input channels.")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Multiply before the mean is subtracted: 255 turns images in [0, 1] into the range of bytes."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: ndarray) -> None:
        """Subtract a mean: one number for each channel (C,), or C x H x W, resized if its size differs.

        H x W (one channel) stays so, to fit an image of two axes, too."""
        shape = self._shape(in_)[1:]
        if mean.ndim == 1:
            if mean.shape[0] != shape[0]:
                raise ValueError("Mean channels incompatible with input.")
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim not in (2, 3):
            raise ValueError("Mean shape invalid")
        elif (size := (1,) * (3 - mean.ndim) + mean.shape) != shape:
            mean = mean.reshape(size)
            low, span = mean.min(), (mean.max() - mean.min()) or 1
            resized = resize_image(((mean - low) / span).transpose(1, 2, 0), shape[1:])
            mean = resized.transpose(2, 0, 1) * span + low
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Multiply at the end."""
        self._shape(in_)
        self.input_scale[in_] = scale


# -- images --------------------------------------------------------------------------------------------------------


def load_image(filename: PathLike, color: bool = True) -> ndarray:
    """Read an image as float32 in [0, 1]: H x W x 3 RGB, or H x W x 1 if `color` is false. Alpha is dropped.

    EXIF orientation is ignored, as in pycaffe. Raises CaffeError if the file cannot be read.
    """
    import cv2

    with located(f"cannot read {filename}"):
        image = pictures.read(os.fspath(filename), cv2.IMREAD_UNCHANGED)
    if image.ndim == 3:
        image = image[:, :, 2::-1]  # BGR or BGRA
    if image.dtype.kind == "u":
        top = np.iinfo(image.dtype).max
        image = (np.arange(top + 1) * (1.0 / top)).astype(float32)[image]
    image = image.astype(float32, copy=False)
    if image.ndim == 3:
        if color:
            return np.ascontiguousarray(image)
        # scikit-image's luminance weights (ITU-R BT.709), which differ from OpenCV's.
        return (image.astype(np.float64) @ np.array([0.2125, 0.7154, 0.0721])).astype(float32)[:, :, None]
    return np.repeat(image[:, :, None], 3 if color else 1, axis=2)


def resize_image(im: ndarray, new_dims: Iterable[int], interp_order: int = 1) -> ndarray:
    """Resize an H x W x K image to new_dims = (height, width); float32.

    interp_order: 1 (linear) or 0 (nearest); ValueError otherwise. As in pycaffe with scikit-image 0.15 and later,
    images of 1 or 3 channels are blurred before they shrink, samples lie at the pixels' centres, and the image's
    minimum surrounds it. Other numbers of channels are sampled from corner to corner, without blur.
    Of two equally near pixels, order 0 takes the later one. So does pycaffe for float32 images; for other types its
    choice depends on the rounding errors of an SVD.
    """
    if interp_order not in (0, 1):
        raise ValueError(f"interp_order is {interp_order}: 0 (nearest) and 1 (linear) are implemented")
    height, width = (int(size) for size in new_dims)
    if im.shape[-1] not in (1, 3):
        return _resize_between_corners(im, (height, width), interp_order)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((height, width, im.shape[-1]), low, float32)
    image = (im - low) / (high - low)
    if image.dtype != float32:
        image = image.astype(np.float64, copy=False)
    blurred = _blur(image, (height, width))
    # In the image's own precision, since scikit-image casts its matrix to it; otherwise images differ by 1e-5.
    rows, columns = (_steps(old, new, image.dtype) for old, new in zip(image.shape, (height, width)))
    resized = _sample(_sample(blurred, columns, 1, interp_order), rows, 0, interp_order)
    if interp_order:
        # Zeros, which are outside, stay.
        resized = np.where(resized == 0, resized, np.clip(resized, blurred.min(), blurred.max()))
    return (resized * (high - low) + low).astype(float32)


def _steps(old: int, new: int, dtype: Any) -> ndarray:
    """The positions of `new` pixels' centres among `old` pixels."""
    factor = old / new
    return np.arange(new).astype(dtype) * dtype.type(factor) + dtype.type(factor * 0.5 - 0.5)


def _sample(image: ndarray, positions: ndarray, axis: int, order: int) -> ndarray:
    """Interpolate along one axis, with zeros outside."""
    size = image.shape[axis]
    shape = [1] * image.ndim
    shape[axis] = -1

    def pixels(index: ndarray) -> ndarray:
        inside = ((index >= 0) & (index < size)).astype(image.dtype).reshape(shape)
        return np.take(image, np.clip(index, 0, size - 1), axis) * inside

    if order == 0:
        return pixels((np.sign(positions) * np.floor(np.abs(positions) + 0.5)).astype(int))
    before = np.floor(positions)
    part = (positions - before).reshape(shape)
    return (1 - part) * pixels(before.astype(int)) + part * pixels(np.ceil(positions).astype(int))


def _blur(image: ndarray, size: tuple[int, int]) -> ndarray:
    """scikit-image's Gaussian before shrinking: sigma = (factor - 1) / 2, truncated at 4 sigma, with zeros outside."""
    import cv2

    kernels = []
    for old, new in zip(image.shape, size):
        sigma = max(0.0, (old / new - 1) / 2)
        radius = int(4 * sigma + 0.5)
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2) if radius else np.ones(1)
        kernels.append(kernel / kernel.sum())
    if all(len(kernel) == 1 for kernel in kernels):
        return image
    rows, columns = kernels
    blurred = cv2.sepFilter2D(image, cv2.CV_64F, columns, rows, borderType=cv2.BORDER_CONSTANT)
    return blurred.reshape(image.shape).astype(image.dtype)


def _resize_between_corners(im: ndarray, size: tuple[int, int], order: int) -> ndarray:
    """Resize as scipy.ndimage.zoom: the first and last pixels stay the first and last."""
    resized = im.astype(np.float64)
    for axis, new in enumerate(size):
        last = im.shape[axis] - 1
        positions = np.minimum(np.arange(new) * (last / (new - 1) if new > 1 else 1.0), last)
        resized = _sample(resized, positions, axis, order)
    if im.dtype.kind in "iu":  # zoom keeps the type
        resized = np.floor(resized + 0.5)
    return resized.astype(float32)


def oversample(images: Sequence[ndarray] | ndarray, crop_dims: Iterable[int]) -> ndarray:
    """Ten crops of each H x W x K image: four corners and the centre, then those mirrored; float32 10N x h x w x K."""
    height, width, channels = images[0].shape
    h, w = (int(size) for size in crop_dims)
    offsets = [(top, left) for top in (0, height - h) for left in (0, width - w)]
    offsets.append((int(height / 2 - h / 2), int(width / 2 - w / 2)))
    crops = [[image[top : top + h, left : left + w] for top, left in offsets] for image in images]
    five = np.array(crops, float32)
    return np.concatenate([five, five[..., ::-1, :]], axis=1).reshape(-1, h, w, channels)
