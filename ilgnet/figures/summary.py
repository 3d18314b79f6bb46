"""Summaries of nets: shapes, parameters, multiply-adds and receptive fields of each layer, and the depth."""

import math
from dataclasses import dataclass, field
from typing import Any

from ilgnet.run import engine
from torchcaffe.proto.geometry import Sizes, read_window

# Depth counts these layers. Others with parameters (BatchNorm, Scale, PReLU, ...) belong to the layer before them.
WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct", "Embed", "LSTM", "RNN")
POOLINGS = ("Pooling", "SPP")
WINDOWS = ("Convolution", "Deconvolution", "Pooling", "Im2col")  # layers with kernel and stride
WHOLE = ("InnerProduct", "SPP", "Softmax", "SoftmaxWithLoss", "LSTM", "RNN")  # layers that see the whole photo


@dataclass(frozen=True)
class Field:
    """A receptive field: the part of the photo that a value of a blob depends on (None: all of it), and the step to the
    next value, in pixels as (height, width)."""

    size: Sizes | None = (1, 1)
    step: Sizes = (1, 1)

    def __str__(self) -> str:
        if self.size is None:
            return "all"
        return str(self.size[0]) if self.size[0] == self.size[1] else f"{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Row:
    """One layer. Shapes lack the batch axis."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shape: tuple[int, ...]  # of the first top
    parameters: int
    multiply_adds: int
    field: Field
    window: str = ""  # "3x3/2": kernel and stride


@dataclass(frozen=True)
class Summary:
    name: str
    rows: list[Row]
    depth: int  # layers with weights on the longest path
    poolings: int  # poolings on that path
    path: list[str] = field(default_factory=list)  # the names of both

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)


def summarize(caffe: Any, net: Any, phase: int, source: str = "net") -> Summary:
    """The Summary of an upgraded NetParameter in one phase, with an engine's shapes. Data layers need no data.

    As in papers, multiply-adds are those of convolutions and inner products for one photo. Parameters include
    estimated values, such as BatchNorm's statistics."""
    param = engine.without_data(net, phase, source=source)
    for layer in param.layer:  # only shapes are needed, and filling 150 million weights takes seconds
        layer.convolution_param.ClearField("weight_filler")
        layer.inner_product_param.ClearField("weight_filler")
    made = engine.make_net(caffe, param, phase, source)
    shapes = {name: tuple(blob.data.shape) for name, blob in made.blobs.items()}
    blobs = {name: [tuple(blob.data.shape) for blob in found] for name, found in made.params.items()}
    fields: dict[str, Field] = {}
    rows = []
    counted: set[str] = set()
    for layer in param.layer:
        weights = blobs.get(layer.name, [])
        shared = {i for i, p in enumerate(layer.param) if p.name and p.name in counted}
        counted.update(p.name for p in layer.param if p.name)
        tops = tuple(layer.top) or tuple(made.top_names[layer.name])
        seen = receptive_field(layer, [fields.get(b, Field()) for b in layer.bottom], shapes)
        fields.update(dict.fromkeys(tops, seen))
        rows.append(
            Row(
                layer.name,
                layer.type,
                tuple(layer.bottom),
                tops,
                shapes[tops[0]][1:] if tops else (),
                sum(math.prod(shape) for i, shape in enumerate(weights) if i not in shared),
                multiply_adds(layer, shapes, weights),
                seen,
                window(layer, shapes),
            )
        )
    depth, poolings, path = longest_path(rows)
    return Summary(param.name, rows, depth, poolings, path)


def geometry(layer: Any, shapes: dict) -> tuple[Sizes, Sizes]:
    """(kernel, stride) of a layer of WINDOWS, each as (height, width); the kernel includes dilation."""
    image = shapes[layer.bottom[0]][2:]
    pooling = layer.type == "Pooling"
    sizes = read_window(layer.pooling_param if pooling else layer.convolution_param, max(2, len(image)))
    return (sizes.extent or tuple(image))[:2], sizes.stride[:2]


def receptive_field(layer: Any, below: list[Field], shapes: dict) -> Field:
    """The Field of a layer's tops: a window of k values, `step` pixels apart, adds (k - 1) * step pixels."""
    sizes = [f.size for f in below if f.size is not None]
    step = below[0].step if below else (1, 1)
    size: Sizes | None = tuple(map(max, zip((1, 1), *sizes)))
    pools_all = layer.type == "Pooling" and layer.pooling_param.global_pooling
    if layer.type in WHOLE or len(sizes) < len(below) or pools_all:
        size = None
    if layer.type in WINDOWS:
        kernel, stride = geometry(layer, shapes)
    else:
        lrn, stride = layer.lrn_param, (1, 1)
        within = layer.type == "LRN" and lrn.norm_region == lrn.WITHIN_CHANNEL
        kernel = (lrn.local_size if within else 1,) * 2
    if layer.type == "Deconvolution":  # `stride` values of the top take the place of one of the bottom
        step = (max(1, step[0] // stride[0]), max(1, step[1] // stride[1]))
        stride = (1, 1)
    if size is not None:
        size = (size[0] + (kernel[0] - 1) * step[0], size[1] + (kernel[1] - 1) * step[1])
    return Field(size, (step[0] * stride[0], step[1] * stride[1]))


def multiply_adds(layer: Any, shapes: dict, weights: list) -> int:
    """Multiply-adds for one photo: one for each weight and each position where it is used."""
    if not weights:
        return 0
    if layer.type == "InnerProduct":
        top = shapes[layer.top[0]]
        return math.prod(weights[0]) * math.prod(top[1:]) // layer.inner_product_param.num_output
    if layer.type in ("Convolution", "Deconvolution"):
        over = layer.top[0] if layer.type == "Convolution" else layer.bottom[0]
        return math.prod(weights[0]) * math.prod(shapes[over][2:])
    return 0


def window(layer: Any, shapes: dict) -> str:
    if layer.type not in WINDOWS:
        return ""
    (height, width), stride = geometry(layer, shapes)
    return f"{height}x{width}" + (f"/{stride[0]}" if max(stride) > 1 else "")


Depth = tuple[int, int, list[str]]  # layers with weights, poolings, the names of both


def longest_path(rows: list[Row]) -> Depth:
    """The Depth along the path with the most layers with weights."""
    none: Depth = (0, 0, [])
    best: dict[str, Depth] = {}  # by blob
    longest = none
    for row in rows:
        depth, poolings, path = max((best.get(b, none) for b in row.bottoms), default=none)
        weighted, pooling = row.type in WEIGHTED, row.type in POOLINGS
        here = (depth + weighted, poolings + pooling, path + [row.name] * (weighted or pooling))
        best.update(dict.fromkeys(row.tops, here))
        longest = max(longest, here)
    return longest


def table(summary: Summary) -> str:
    """The summary as text: a line for each layer, the totals, and the net's depth."""
    lines = [("layer", "type", "output", "parameters", "multiply-adds", "sees")]
    for row in summary.rows:
        kind = f"{row.type} {row.window}".strip()
        shape = "x".join(map(str, row.shape)) or "1"
        lines.append((row.name, kind, shape, number(row.parameters), number(row.multiply_adds), str(row.field)))
    lines.append(("total", "", "", number(summary.parameters), number(summary.multiply_adds), ""))
    widths = [max(map(len, column)) for column in zip(*lines)]
    form = "{{:{}}}  {{:{}}}  {{:{}}}  {{:>{}}}  {{:>{}}}  {{:>{}}}".format(*widths)
    head, *text, total = [form.format(*line).rstrip() for line in lines]
    rule = "-" * max(map(len, [head, *text, total]))
    return "\n".join([head, rule, *text, rule, total, "", depth_sentence(summary), ""])


def depth_sentence(summary: Summary) -> str:
    return (
        f"{summary.name or 'The net'} has {summary.depth} layers with parameters on its longest path, and "
        f"{summary.poolings} pooling{'s' * (summary.poolings != 1)} on it."
    )


def number(n: int) -> str:
    return f"{n:,}" if n else ""
