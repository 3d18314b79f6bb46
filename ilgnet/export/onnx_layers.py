"""Caffe's layers in ONNX: one small function a type, registered by a decorator. To add a type, add a function here.

A function gets a Step and returns the names of the layer's top tensors. Strides, axes and the like come from the
engine's layer, which has computed and checked them."""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np

from ilgnet.nets.folding import statistics
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2
from torchcaffe.proto.geometry import pyramid_window

POOLS = caffe_pb2.PoolingParameter
FLT_MAX = np.finfo(np.float32).max
# A blob's axes, each as its size in two runs of the net; where they differ, the size is free in the ONNX file.
Axes = Sequence[tuple[int, int]]


class Step:
    """A layer to convert: the engine's layer, the names of its bottoms' tensors, the axes of its blobs.

    emit(op, *inputs, **attributes) adds a node and returns the name of its output; constant(value, what) and indices
    add an initializer of float32 or int64, and return its name. `params` are the layer's arrays."""

    def __init__(self, graph: Any, name: str, layer: Any, inputs: list[str], bottoms: list[Axes], tops: list[Axes]):
        self.emit, self.constant = partial(graph.add_node, name), partial(graph.add_constant, name)
        self.indices = partial(self.constant, dtype=np.int64)
        self.layer, self.p, self.inputs, self.bottoms, self.tops = layer, layer.p, inputs, bottoms, tops
        self.params = [blob.data for blob in layer.own_blobs]

    def weights(self) -> list[str]:
        """Add the layer's weight and, if it has one, its bias."""
        return [self.constant(value, what) for value, what in zip(self.params, ("weight", "bias"))]

    def reshape(self, tensor: str, old: Axes, new: Axes) -> str:
        """The tensor with other axes. Free sizes keep their place, or one of them is inferred."""
        if list(old) == list(new):
            return tensor
        sizes = [a if a == b else 0 if i < len(old) and old[i] == (a, b) else -1 for i, (a, b) in enumerate(new)]
        if sizes.count(-1) > 1:
            raise CaffeError("its shape depends on more than one free size; export with fixed sizes")
        return self.emit("Reshape", tensor, self.indices(sizes, "shape"))


Converter = Callable[[Step], str | list[str]]
converters: dict[str, Converter] = {}


def converts(type_name: str) -> Callable[[Converter], Converter]:
    """Register the converter of a layer type (Caffe's name)."""

    def register(function: Converter) -> Converter:
        converters[type_name] = function
        return function

    return register


def fixed(axes: Axes) -> tuple[int, ...]:
    """The sizes of axes. CaffeError if one of them is free."""
    if any(a != b for a, b in axes):
        raise CaffeError("needs fixed sizes here")
    return tuple(a for a, _ in axes)


def only(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Fixed sizes as axes."""
    return [(size, size) for size in sizes]


def product(axes: Axes) -> tuple[int, int]:
    """Axes flattened into one."""
    return math.prod(a for a, _ in axes), math.prod(b for _, b in axes)


# -- activations -------------------------------------------------------------------------------------------------------


@converts("ReLU")
def relu(s: Step) -> str:
    slope = s.p.negative_slope
    return s.emit("LeakyRelu", *s.inputs, alpha=slope) if slope else s.emit("Relu", *s.inputs)


@converts("PReLU")
def prelu(s: Step) -> str:
    behind = len(s.bottoms[0]) - 2
    return s.emit("PRelu", s.inputs[0], s.constant(s.params[0].reshape((-1,) + (1,) * behind), "slope"))


@converts("ELU")
def elu(s: Step) -> str:
    return s.emit("Elu", *s.inputs, alpha=s.p.alpha)


@converts("Sigmoid")
def sigmoid(s: Step) -> str:
    return s.emit("Sigmoid", *s.inputs)


@converts("TanH")
def tanh(s: Step) -> str:
    return s.emit("Tanh", *s.inputs)


@converts("Power")
def power(s: Step) -> str:
    """(shift + scale x) ^ power"""
    y = s.inputs[0]
    if s.p.scale != 1:
        y = s.emit("Mul", y, s.constant(s.p.scale, "scale"))
    if s.p.shift != 0:
        y = s.emit("Add", y, s.constant(s.p.shift, "shift"))
    return s.emit("Pow", y, s.constant(s.p.power, "power")) if s.p.power != 1 else y


@converts("Clip")
def clip(s: Step) -> str:
    """As Caffe's: min wins over max, and is what NaN becomes."""
    (x,), low, high = s.inputs, s.constant(s.p.min, "min"), s.constant(max(s.p.min, s.p.max), "max")
    below = s.emit("Where", s.emit("Less", x, high), x, high)
    return s.emit("Where", s.emit("Greater", x, low), below, low)


@converts("Dropout")
def dropout(s: Step) -> str:
    if s.layer.phase != caffe_pb2.TEST:
        raise CaffeError("phase: drops at random in TRAIN; an export is of the TEST phase")
    return s.inputs[0]


@converts("Softmax")
def softmax(s: Step) -> str:
    return s.emit("Softmax", *s.inputs, axis=s.layer.axis)


# -- layers with weights -----------------------------------------------------------------------------------------------


@converts("Convolution")
@converts("Deconvolution")
def convolution(s: Step) -> list[str]:
    layer, op = s.layer, "Conv" if s.layer.type == "Convolution" else "ConvTranspose"
    if not 1 <= layer.axes <= 3:
        raise CaffeError(f"convolves {layer.axes} axes; 1 to 3 can be exported")
    weights, tops = s.weights(), []
    for x, bottom, top in zip(s.inputs, s.bottoms, s.tops):
        axis = layer.axis  # Caffe's channels may be any axis; ONNX has them second
        x = s.reshape(x, bottom, [product(bottom[:axis]), *bottom[axis:]]) if axis != 1 else x
        y = s.emit(
            op,
            x,
            *weights,
            kernel_shape=layer.kernel,
            strides=layer.stride,
            pads=layer.pad + layer.pad,
            dilations=layer.dilation,
            group=layer.group,
        )
        tops.append(s.reshape(y, [product(top[:axis]), *top[axis:]], top) if axis != 1 else y)
    return tops


@converts("InnerProduct")
def inner_product(s: Step) -> str:
    axis, bottom, top = s.layer.axis, s.bottoms[0], s.tops[0]
    x = s.inputs[0] if (axis, len(bottom)) == (1, 2) else s.emit("Flatten", *s.inputs, axis=axis)
    y = s.emit("Gemm", x, *s.weights(), transB=0 if s.p.transpose else 1)
    return s.reshape(y, [product(bottom[:axis]), top[-1]], top)


# -- normalisation -----------------------------------------------------------------------------------------------------


@converts("LRN")
def lrn(s: Step) -> str:
    p = s.p
    if p.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS:
        return s.emit("LRN", *s.inputs, size=p.local_size, alpha=p.alpha, beta=p.beta, bias=p.k)
    # x (1 + alpha / n^2 * sum over n x n pixels of x^2)^-beta
    x, n = s.inputs[0], p.local_size
    mean = s.emit("AveragePool", s.emit("Mul", x, x), kernel_shape=[n, n], pads=[n // 2] * 4, count_include_pad=1)
    scale = s.emit("Add", s.emit("Mul", mean, s.constant(p.alpha, "alpha")), s.constant(1, "one"))
    return s.emit("Mul", x, s.emit("Pow", scale, s.constant(-p.beta, "power")))


@converts("BatchNorm")
def batch_norm(s: Step) -> str:
    """(x - mean) / sqrt(variance + eps), the stored sums divided by their factor (by nothing, 0, if that is 0)."""
    if not s.layer.use_global:
        raise CaffeError("use_global_stats: false, so that it normalises by the batch: cannot be exported")
    mean, variance = statistics(s.params)
    if len(s.bottoms[0]) < 2:
        centred = s.emit("Sub", s.inputs[0], s.constant(mean, "mean"))
        return s.emit("Div", centred, s.constant(np.sqrt(variance + s.p.eps), "deviation"))
    given = zip((np.ones_like(mean), np.zeros_like(mean), mean, variance), ("scale", "bias", "mean", "variance"))
    return s.emit("BatchNormalization", s.inputs[0], *(s.constant(v, what) for v, what in given), epsilon=s.p.eps)


def _stretched(s: Step, what: str) -> str:
    """Bottom 1 or parameter 0 of Scale and Bias, with as many axes of 1 behind it as bottom 0 has there."""
    if len(s.inputs) > 1:
        behind = len(s.bottoms[0]) - s.layer.axis - len(s.bottoms[1])
        return s.reshape(s.inputs[1], s.bottoms[1], [*s.bottoms[1], *only((1,) * behind)])
    return s.constant(s.params[0].reshape(s.layer.stretched), what)


@converts("Scale")
def scale(s: Step) -> str:
    y = s.emit("Mul", s.inputs[0], _stretched(s, "scale"))
    if not s.p.bias_term:
        return y
    return s.emit("Add", y, s.constant(s.params[-1].reshape(s.layer.stretched), "bias"))


@converts("Bias")
def bias(s: Step) -> str:
    return s.emit("Add", s.inputs[0], _stretched(s, "bias"))


# -- pooling -----------------------------------------------------------------------------------------------------------


def takes_maximum(s: Step) -> bool:
    """Whether a pooling takes the maximum, else the average. SPP numbers the kinds as Pooling does."""
    if s.p.pool not in (POOLS.MAX, POOLS.AVE):
        raise CaffeError("pool: STOCHASTIC cannot be exported")
    return s.p.pool == POOLS.MAX


def pool_all(s: Step) -> str:
    """One window as large as the image."""
    return s.emit("GlobalMaxPool" if takes_maximum(s) else "GlobalAveragePool", s.inputs[0])


def pool(s: Step, windows: Any, floor: bool = False) -> str:
    """Caffe's pooling of s.inputs[0] as ONNX's, which rounds the number of windows down. `windows` has Caffe's kernel,
    stride and pad.

    Caffe's n windows along an axis: rounded up, and if any axis is padded none starts at or past size + pad, so
    n - 1 = floor(min(size + 2 pad - kernel + stride - 1, size + pad - 1) / stride). With `far` padding behind the image
    ONNX has n - 1 = floor((size + pad + far - kernel) / stride), which is the same for
    far = min(pad + stride - 1, kernel - 1), whatever the size."""
    x, kernel, stride, pad = s.inputs[0], windows.kernel, windows.stride, windows.pad
    axes, padded, largest = range(2), any(pad), takes_maximum(s)
    far = [pad[i] if floor else min(pad[i] + stride[i] - 1, kernel[i] - 1) for i in axes]
    if largest:
        y = s.emit("MaxPool", x, kernel_shape=kernel, strides=stride, pads=[*pad, *far])
    else:
        # The divisor counts the padding as far as `pad` reaches, and nothing behind that.
        if padded and list(far) != list(pad):
            x = s.emit("Pad", x, s.indices([0, 0, *pad, 0, 0, *pad], "pad"))
            pad, far = (0, 0), [f - p for f, p in zip(far, pad)]
        y = s.emit(
            "AveragePool", x, kernel_shape=kernel, strides=stride, pads=[*pad, *far], count_include_pad=int(any(pad))
        )
    if floor or padded:
        return y
    return _append_empty_windows(s, y, largest, kernel, stride)


def _append_empty_windows(s: Step, y: str, largest: bool, kernel: Sequence[int], stride: Sequence[int]) -> str:
    """With a stride longer than the kernel, Caffe's last window along an axis can begin behind the image: its maximum
    is -FLT_MAX, its average 0 / (size - begin), NaN where that is 0."""
    lengths = {}
    for i in range(2):
        if stride[i] > kernel[i]:
            (size,) = fixed([s.bottoms[0][2 + i]])
            begin = -(-(size - kernel[i]) // stride[i]) * stride[i]
            if begin >= size:
                lengths[i] = size - begin
    for i in sorted(lengths, key=lambda i: lengths[i] == 0):  # NaN last, so that the corner becomes NaN
        nothing = -FLT_MAX if largest else np.nan if lengths[i] == 0 else 0
        pads = [0] * 8
        pads[6 + i] = 1
        y = s.emit("Pad", y, s.indices(pads, "empty"), s.constant(nothing, "nothing"))
    return y


@converts("Pooling")
def pooling(s: Step) -> str:
    if len(s.tops) > 1:
        raise CaffeError("top 1: the mask of MAX pooling cannot be exported")
    return pool_all(s) if s.layer.global_pooling else pool(s, s.layer, s.p.round_mode == POOLS.FLOOR)


@converts("SPP")
def spp(s: Step) -> str:
    """For each level 2^level x 2^level windows side by side over the image, padded to a multiple of their number."""
    free = any(a != b for a, b in s.bottoms[0][2:])
    levels = [(_tiles if free else _windows)(s, 2**level) for level in range(s.p.pyramid_height)]
    if len(levels) == 1:
        return levels[0]  # Caffe leaves this one as it is, N x C x 1 x 1
    return s.emit("Concat", *(s.emit("Flatten", level, axis=1) for level in levels), axis=1)


def _windows(s: Step, bins: int) -> str:
    return pool(s, pyramid_window(fixed(s.bottoms[0][2:]), bins))


def _tiles(s: Step, bins: int) -> str:
    """The same for an image whose size is known at run time: pad, fold each axis into (bins, kernel), reduce."""
    if bins == 1:
        return pool_all(s)
    x, largest = s.inputs[0], takes_maximum(s)
    size = s.emit("Shape", x, start=2)
    many, one, two = s.indices([bins] * 2, "bins"), s.indices([1, 1], "one"), s.indices([2, 2], "two")
    kernel = s.emit("Div", s.emit("Add", size, s.indices([bins - 1] * 2, "round_up")), many)
    missing = s.emit("Sub", s.emit("Mul", kernel, many), size)
    near = s.emit("Div", s.emit("Add", missing, one), two)
    none = s.indices([0, 0], "none")
    pads = s.emit("Concat", none, near, none, s.emit("Sub", missing, near), axis=0)
    x = s.emit("Pad", x, pads, s.constant(-FLT_MAX if largest else 0, "outside"))
    height, width = s.emit("Split", kernel, outputs=2, axis=0)
    keep, bins_1 = s.indices([0, 0, bins], "keep"), s.indices([bins], "bins")
    x = s.emit("Reshape", x, s.emit("Concat", keep, height, bins_1, width, axis=0))
    return s.emit("ReduceMax" if largest else "ReduceMean", x, axes=[3, 5], keepdims=0)


# -- layers that move values -------------------------------------------------------------------------------------------


@converts("Split")
def split(s: Step) -> list[str]:
    return s.inputs * len(s.tops)


@converts("Concat")
def concat(s: Step) -> str:
    return s.emit("Concat", *s.inputs, axis=s.layer.axis) if len(s.inputs) > 1 else s.inputs[0]


@converts("Slice")
def slice_(s: Step) -> list[str]:
    if len(s.tops) == 1:
        return s.inputs
    sizes = fixed([top[s.layer.axis] for top in s.tops])
    return s.emit("Split", s.inputs[0], s.indices(sizes, "sizes"), outputs=len(s.tops), axis=s.layer.axis)


@converts("Flatten")
@converts("Reshape")
def reshape(s: Step) -> str:
    return s.reshape(s.inputs[0], s.bottoms[0], s.tops[0])


@converts("Crop")
def crop(s: Step) -> str:
    """Bottom 0 cut to bottom 1's size from `axis` on, beginning at `offset` (one for all axes, or one an axis)."""
    axes, top = len(s.bottoms[0]), s.tops[0]
    first = s.p.axis % axes
    starts = np.broadcast_to(np.array(list(s.p.offset) or [0]), (axes - first,))
    begin = s.indices(starts, "begin")
    if all(a == b for a, b in top[first:]):
        end = s.indices(starts + fixed(top[first:]), "end")
    else:
        end = s.emit("Add", s.emit("Shape", s.inputs[1], start=first), begin)
    return s.emit("Slice", s.inputs[0], begin, end, s.indices(range(first, axes), "axes"))


@converts("Eltwise")
def eltwise(s: Step) -> str:
    kinds, y = caffe_pb2.EltwiseParameter, s.inputs
    if s.layer.operation == kinds.MAX:
        return s.emit("Max", *y)
    if s.layer.operation == kinds.SUM:
        # A term with coefficient 0 is left out if there is another: as in Caffe, its infinities vanish.
        terms = [(x, c) for x, c in zip(y, s.layer.coeff) if c] or [(y[0], 0.0)]
        y = [s.emit("Mul", x, s.constant(c, "coeff")) if c != 1 else x for x, c in terms]
        return s.emit("Sum", *y)
    return reduce(partial(s.emit, "Mul"), y)
