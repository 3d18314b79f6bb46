"""Caffe's weight fillers, bit for bit: the numbers of BVLC Caffe 1.0.0, and the position of its random stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.random.rng import Rng

_F = np.float32
_FAN_OUT, _AVERAGE = 1, 2  # FillerParameter.VarianceNorm; FAN_IN is 0


def fill(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Fill a blob's float32, C-contiguous `array` in place by the FillerParameter `filler`, drawing from `rng`.

    Raises CaffeError, before it draws or writes, if one of Caffe's checks fails: unknown type, `sparse` with a type
    other than gaussian, empty blob, std not positive, min above max, no axis for a filler that needs fans, bilinear
    kernel not square."""
    if array.dtype != _F or not array.flags.c_contiguous:
        raise ValueError("fill needs a float32 C-contiguous array")
    if filler.type not in _FILLERS:
        raise CaffeError(f"unknown filler type {filler.type!r} (known: {', '.join(sorted(_FILLERS))})")
    if filler.type != "gaussian" and filler.sparse != -1:
        raise CaffeError(f"filler {filler.type}: sparse is only supported by gaussian")
    if array.size == 0:
        raise CaffeError(f"filler {filler.type}: the blob is empty (shape {array.shape})")
    try:
        _FILLERS[filler.type](array, filler, rng)
    except CaffeError as error:
        raise CaffeError(f"filler {filler.type}: {error}") from None


def _constant(array: np.ndarray, filler: Any, rng: Rng) -> None:
    array[...] = filler.value


def _uniform(array: np.ndarray, filler: Any, rng: Rng) -> None:
    rng.uniform(array.size, filler.min, filler.max, out=array.reshape(-1))


def _gaussian(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Normal. sparse: keep each value with probability sparse / shape[0], drawn after all values."""
    if filler.sparse >= 0:
        if array.ndim == 0:
            raise CaffeError("sparse needs a blob of at least 1 axis")
        if filler.sparse > array.shape[0]:
            raise CaffeError(f"sparse {filler.sparse} is more than the blob's first axis ({array.shape[0]})")
    elif filler.sparse != -1:
        raise CaffeError(f"sparse {filler.sparse} is below -1")
    rng.gaussian(array.size, filler.mean, filler.std, out=array.reshape(-1))
    if filler.sparse >= 0:
        # A product, as in Caffe: dropped negative values become -0.
        keep = rng.bernoulli(array.size, _F(filler.sparse) / _F(array.shape[0]), single=True)
        array *= keep.astype(_F).reshape(array.shape)


def _positive_unitball(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Uniform in [0, 1], then each of the `num` slices is divided by its sum."""
    num = _num(array)
    rng.uniform(array.size, 0, 1, out=array.reshape(-1))
    rows = array.reshape(num, -1)
    step = max(1, (1 << 20) // rows.shape[1])
    for start in range(0, num, step):
        block = rows[start : start + step]
        # accumulate, unlike sum, adds in order, as Caffe does: float32 sums depend on it.
        block /= np.add.accumulate(block, axis=1, dtype=_F)[:, -1:]


def _xavier(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Uniform in +-sqrt(3 / n)."""
    scale = np.sqrt(_F(3) / _fan(array, filler))
    rng.uniform(array.size, -scale, scale, out=array.reshape(-1))


def _msra(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """Normal with standard deviation sqrt(2 / n)."""
    rng.gaussian(array.size, 0, np.sqrt(_F(2) / _fan(array, filler)), out=array.reshape(-1))


def _bilinear(array: np.ndarray, filler: Any, rng: Rng) -> None:
    """The kernel of bilinear upsampling, for a Deconvolution with stride ceil(kernel / 2)."""
    if array.ndim != 4:
        raise CaffeError(f"the blob must have 4 axes (shape {array.shape})")
    if array.shape[2] != array.shape[3]:
        raise CaffeError(f"the kernel must be square (shape {array.shape})")
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


_FILLERS: dict[str, Callable[[np.ndarray, Any, Rng], None]] = {
    "bilinear": _bilinear,
    "constant": _constant,
    "gaussian": _gaussian,
    "msra": _msra,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
}
