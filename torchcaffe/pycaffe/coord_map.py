"""Maps between layers' coordinates, by which feature maps can be cropped to one another.

In a map (axis, scale, shift), output i lies at input scale * i + shift, on the spatial axes from `axis` + 1 on (None:
any). Pointwise layers are (None, 1, 0); maps compose, and Deconvolution's is the inverse of Convolution's.
"""

from collections import deque
from typing import Any

import numpy as np

from torchcaffe.pycaffe.net_spec import Top
from torchcaffe.pycaffe.net_spec import layers as L

CoordMap = tuple[int | None, Any, Any]

# A list, to which scripts append their own types, as in pycaffe. (Clip and Swish are not in pycaffe's.)
PASS_THROUGH_LAYERS = (
    "AbsVal BNLL BatchNorm Bias Clip Dropout ELU Eltwise Exp LRN Log MVN PReLU Power ReLU Scale Sigmoid Split Swish"
    " TanH Threshold".split()
)
_WINDOW_LAYERS = ("Convolution", "Deconvolution", "Im2col", "Pooling")


class UndefinedMapException(Exception):
    """The layer has no coordinate map."""


class AxisMismatchException(Exception):
    """Two maps along a path are for different axes."""


def conv_params(fn: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """(axis, stride, extent, pad) of a layer that slides a window; an entry for each spatial axis, or one for all."""
    params = fn.params.get("convolution_param") or fn.params.get("pooling_param") or fn.params
    if any(name + end in params for name in ("kernel", "stride", "pad") for end in ("_h", "_w")):
        raise AssertionError("cropping does not support legacy _h/_w params")
    if "kernel_size" not in params:  # global pooling
        raise UndefinedMapException(fn.type_name)
    kernel, stride, pad, dilation = (
        np.array(params.get(name, default), ndmin=1)
        for name, default in (("kernel_size", None), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Any) -> tuple[int, np.ndarray]:
    """(axis, offset) of a Crop layer; an offset for each axis from there on, or one for all."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Any) -> CoordMap:
    """The map from a net_spec Function's bottom to its top. Raises UndefinedMapException for layers without one."""
    if fn.type_name in PASS_THROUGH_LAYERS:
        return None, 1, 0
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    if fn.type_name not in _WINDOW_LAYERS:
        raise UndefinedMapException(fn.type_name)
    axis, stride, extent, pad = conv_params(fn)
    if fn.type_name == "Deconvolution":
        return axis, stride, (extent - 1) / 2 - pad
    return axis, 1 / stride, (pad - (extent - 1) / 2) / stride


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """The map that applies next_map, then base_map."""
    (base_axis, base_scale, base_shift), (axis, scale, shift) = base_map, next_map
    if base_axis is not None and axis is not None and base_axis != axis:
        raise AxisMismatchException(f"axes {base_axis} and {axis}")
    return axis if base_axis is None else base_axis, base_scale * scale, base_scale * shift + base_shift


def inverse(coord_map: CoordMap) -> CoordMap:
    """The map in the opposite direction."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def _ancestors(top: Top) -> dict[Top, CoordMap]:
    """The map to `top` from each top that it depends on through mapped layers, nearest first."""
    maps: dict[Top, CoordMap] = {top: (None, 1, 0)}
    queue = deque([top])
    while queue:
        current = queue.popleft()
        try:
            step = coord_map(current.fn)
        except UndefinedMapException:
            continue
        # A crop's second bottom only gives the size.
        for bottom in current.fn.inputs[: 1 if current.fn.type_name == "Crop" else None]:
            if bottom not in maps:
                maps[bottom] = compose(maps[current], step)
                queue.append(bottom)
    return maps


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map from one top's coordinates to another's, through the nearest common ancestor.

    If several paths lead there, their maps are assumed to be equal. Raises RuntimeError if nothing connects the two.
    """
    from_maps = _ancestors(top_from)
    for common, to_map in _ancestors(top_to).items():
        if common in from_maps:
            return compose(to_map, inverse(from_maps[common]))
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that crops `top_from` to `top_to`, at the offset between their coordinates.

    Raises AssertionError unless their scales are equal, the offset is a whole number of pixels, and top_to is inside.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    for wrong, message in (
        (np.not_equal(scale, 1), f"scale mismatch on crop (a = {scale})"),
        (np.greater(shift, 0), f"cannot crop negative offset (b = {shift})"),
        (np.not_equal(np.round(shift), shift), f"cannot crop noninteger offset (b = {shift})"),
    ):
        if np.any(wrong):
            raise AssertionError(message)
    offset = [int(-size) for size in np.ravel(np.round(shift))]
    return L.Crop(top_from, top_to, crop_param=dict(axis=2 if axis is None else axis + 1, offset=offset))
