"""Kernel, stride, pad and dilation, as ConvolutionParameter and PoolingParameter give them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torchcaffe.base.errors import CaffeError

Sizes = tuple[int, ...]  # one number for each spatial axis; (height, width) of an image


class Window(NamedTuple):
    """A sliding window. `kernel` is empty for global pooling, whose window is the whole image."""

    kernel: Sizes
    stride: Sizes
    pad: Sizes
    dilation: Sizes

    @property
    def extent(self) -> Sizes:
        """The number of pixels that the dilated kernel spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation))


def read_window(param: Any, axes: int = 2) -> Window:
    """The window of a ConvolutionParameter or PoolingParameter over `axes` spatial axes.

    Raises CaffeError for sizes that are missing, contradict each other or are out of range."""
    whole = getattr(param, "global_pooling", False)
    kernel = _given(param, "kernel", axes)
    if whole and (kernel or param.HasField("kernel_h") or param.HasField("kernel_w")):
        raise CaffeError("kernel_size: cannot be given with global_pooling")
    if axes and not whole and not kernel:
        raise CaffeError("kernel_size: missing")
    dilation = _given(param, "dilation", axes) if hasattr(param, "dilation") else []
    return Window(
        () if whole else _each("kernel_size", kernel or [1], axes, 1),
        _each("stride", _given(param, "stride", axes) or [1], axes, 1),
        _each("pad", _given(param, "pad", axes) or [0], axes, 0),
        _each("dilation", dilation or [1], axes, 0),
    )


def _given(param: Any, short: str, axes: int) -> list[int]:
    """The values that the prototxt gives: the field itself, or SHORT_h and SHORT_w."""
    field = "kernel_size" if short == "kernel" else short
    value, pair = getattr(param, field), [f"{short}_h", f"{short}_w"]
    pooling = isinstance(value, int)  # PoolingParameter has one number where ConvolutionParameter has a list
    values = ([value] if param.HasField(field) else []) if pooling else list(value)
    found = [f in param.DESCRIPTOR.fields_by_name and param.HasField(f) for f in pair]
    if not any(found) or (pooling and values and short == "kernel" and not all(found)):
        return values  # BVLC's Pooling ignores a lone kernel_h or kernel_w beside kernel_size
    if axes != 2:
        raise CaffeError(f"{pair[0]} and {pair[1]} are for 2 spatial axes, the bottom has {axes}")
    if values:
        raise CaffeError(f"{field}: give either {field} or {pair[0]} and {pair[1]}, not both")
    if pooling and not all(found):
        raise CaffeError(f"{pair[0]} and {pair[1]}: give both")
    return [getattr(param, f) for f in pair]


def _each(field: str, values: list[int], axes: int, least: int) -> Sizes:
    if len(values) not in (1, axes):
        raise CaffeError(f"{field}: {len(values)} values given for {axes} spatial axes: give one, or one an axis")
    if any(v < least for v in values):
        raise CaffeError(f"{field}: {values} must be {least} or more")
    return tuple(values * axes if len(values) == 1 else values)


def pyramid_window(image: Sequence[int], bins: int) -> Window:
    """The window with which SPP pools an image (its spatial sizes) into `bins` bins an axis.

    The bins reach past the image by less than one pixel a bin; half of that, rounded up, lies on the near side."""
    kernel = tuple(-(-size // bins) for size in image)
    pad = tuple((k * bins - size + 1) // 2 for k, size in zip(kernel, image))
    return Window(kernel, kernel, pad, (1,) * len(kernel))
