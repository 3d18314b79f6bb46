"""Caffe's weight fillers, bit for bit: the numbers of BVLC Caffe 1.0.0, and the position of its random stream."""

from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError, located
from torchcaffe.random.rng import Rng

_TYPES = ("bilinear", "constant", "gaussian", "msra", "positive_unitball", "uniform", "xavier")
_F = np.float32
_FAN_OUT, _AVERAGE = 1, 2  # FillerParameter.VarianceNorm; FAN_IN is 0


def fill(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Fill a blob's float32, C-contiguous `array` in place by the FillerParameter `filler`, drawing from `rng`.

    Raises CaffeError, before it draws or writes, if one of Caffe's checks fails: unknown type, `sparse` with a type
    other than gaussian, empty blob, std not positive, min above max, no axis for a filler that needs fans, bilinear
    kernel not square."""
    if array.dtype != _F or not array.flags.c_contiguous:
        raise ValueError("fill needs a float32 C-contiguous array")
    if filler.type not in _TYPES:
        raise CaffeError(f"unknown filler type {filler.type!r} (known: {', '.join(_TYPES)})")
    if filler.type != "gaussian" and filler.sparse != -1:
        raise CaffeError(f"filler {filler.type}: sparse is only supported by gaussian")
    if array.size == 0:
        raise CaffeError(f"filler {filler.type}: the blob is empty (shape {array.shape})")
    with located(f"filler {filler.type}"):
        _fill(array, filler, rng)


def _fill(array: np.ndarray, filler: Any, rng: Rng) -> None:
    flat = array.reshape(-1)
    match filler.type:
        case "constant":
            flat[:] = filler.value
        case "uniform":
            rng.uniform(flat.size, filler.min, filler.max, flat)
        case "gaussian":
            _gaussian(array, filler, rng)
        case "xavier":  # uniform in +-sqrt(3 / n)
            scale = np.sqrt(_F(3) / _fan(array, filler))
            rng.uniform(flat.size, -scale, scale, flat)
        case "msra":  # normal with standard deviation sqrt(2 / n)
            rng.gaussian(flat.size, 0, np.sqrt(_F(2) / _fan(array, filler)), flat)
        case "positive_unitball":
            _positive_unitball(array, rng)
        case "bilinear":
            _bilinear(array)


def _gaussian(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Normal. sparse: keep each value with probability sparse / shape[0], drawn after all values."""
    if filler.sparse != -1 and not 0 <= filler.sparse <= _num(array):
        raise CaffeError(f"sparse {filler.sparse} is not from 0 to the blob's first axis ({array.shape[0]})")
    rng.gaussian(array.size, filler.mean, filler.std, array.reshape(-1))
    if filler.sparse != -1:
        # A product, as in Caffe: dropped negative values become -0.
        keep = rng.bernoulli(array.size, _F(filler.sparse) / _F(array.shape[0]), single=True)
        array *= keep.astype(_F).reshape(array.shape)


def _positive_unitball(array: np.ndarray, rng: Rng) -> None:
    """Uniform in [0, 1], then each of the `num` slices is divided by its sum."""
    num = _num(array)
    rng.uniform(array.size, 0, 1, array.reshape(-1))
    for row in array.reshape(num, -1):
        row /= np.add.accumulate(row)[-1]  # adds in order, unlike sum, as Caffe does: float32 sums depend on it


def _bilinear(array: np.ndarray) -> None:
    """The kernel of bilinear upsampling, for a Deconvolution with stride ceil(kernel / 2)."""
    if array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise CaffeError(f"the blob must have 4 axes and a square kernel (shape {array.shape})")
    width = array.shape[3]
    factor = (width + 1) // 2
    centre = _F((width - 1) / (2.0 * factor))
    tent = _F(1) - np.abs(np.arange(width, dtype=_F) / _F(factor) - centre)
    array[...] = tent[:, None] * tent


def _num(array: np.ndarray) -> int:
    """The length of the first axis. (The 1.0.0 tag refused more than 4 axes; Debian's 1.0.0 of 2018 takes them.)"""
    if array.ndim == 0:
        raise CaffeError("the blob has no axes")
    return array.shape[0]


def _fan(array: np.ndarray, filler: Any) -> np.float32:
    """n by variance_norm: fan_in = count / num, fan_out = count / channels (with one axis: count), or the mean."""
    fan_in = array.size // _num(array)
    fan_out = array.size // array.shape[1] if array.ndim > 1 else array.size
    if filler.variance_norm == _AVERAGE:
        return _F(fan_in + fan_out) / _F(2)
    return _F(fan_out if filler.variance_norm == _FAN_OUT else fan_in)
