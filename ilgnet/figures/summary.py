"""What a net is made of: shapes, parameters, multiply-adds and receptive fields, layer by layer, and its depth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ilgnet.run import engine
from torchcaffe.proto.geometry import Sizes, read_window

# Layers that depth is counted in. Others with parameters (BatchNorm, Scale, PReLU, ...) belong to the one before them.
WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct", "Embed", "LSTM", "RNN")
POOLINGS = ("Pooling", "SPP")
WINDOWS = ("Convolution", "Deconvolution", "Pooling", "Im2col")  # layers with kernel and stride
WHOLE = ("InnerProduct", "SPP", "Softmax", "SoftmaxWithLoss", "LSTM", "RNN")  # layers that see everything at once


@dataclass(frozen=True)
class Field:
    """The part of the photo that one value of a blob can depend on, and the step from one value to the next, in pixels
    as (height, width). None: all of the photo."""

    size: Sizes | None = (1, 1)
    step: Sizes = (1, 1)

    def __str__(self) -> str:
        if self.size is None:
            return "all"
        return str(self.size[0]) if self.size[0] == self.size[1] else f"{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Row:
    """One layer. Shapes are of one photo: without the batch axis."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shape: tuple[int, ...]  # of the first top
    parameters: int
    multiply_adds: int
    field: Field
    window: str = ""  # "3x3/2": kernel and stride, where there are any


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
    """The Summary of an upgraded NetParameter in one phase (its data layers need no data), by an engine's shapes.

    Multiply-adds are those of convolutions and inner products for one photo, which is how papers count them.
    Parameters are all learned or estimated values: BatchNorm's statistics, too."""
    param = engine.without_data(net, phase, source=source)
    for layer in param.layer:  # only shapes are wanted: a net with 150 million random weights takes seconds to fill
        layer.convolution_param.ClearField("weight_filler")
        layer.inner_product_param.ClearField("weight_filler")
    made = engine.make_net(caffe, param, phase, source)
    shapes = {name: tuple(blob.data.shape) for name, blob in made.blobs.items()}
    blobs = {name: [tuple(blob.data.shape) for blob in found] for name, found in made.params.items()}
    fields: dict[str, Field] = {}
    rows, counted = [], set()
    for layer in param.layer:
        weights = blobs.get(layer.name, [])
        shared = {i for i, p in enumerate(layer.param) if p.name and p.name in counted}
        counted.update(p.name for p in layer.param if p.name)
        tops = tuple(layer.top) or tuple(made.top_names[layer.name])
        seen = receptive_field(layer, [fields.get(b, Field()) for b in layer.bottom], shapes)
        fields.update({top: seen for top in tops})
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
    """(kernel, stride) of a layer of WINDOWS, each as (height, width); dilation included in the kernel."""
    image = shapes[layer.bottom[0]][2:]
    pooling = layer.type == "Pooling"
    sizes = read_window(layer.pooling_param if pooling else layer.convolution_param, max(2, len(image)))
    return (sizes.extent or tuple(image))[:2], sizes.stride[:2]


def receptive_field(layer: Any, below: list[Field], shapes: dict) -> Field:
    """The Field of a layer's tops: each window of k values, `step` pixels apart, adds (k - 1) * step pixels."""
    sizes = [f.size for f in below]
    step = below[0].step if below else (1, 1)
    size: Sizes | None = (1, 1)
    if layer.type in WHOLE or None in sizes or (layer.type == "Pooling" and layer.pooling_param.global_pooling):
        size = None
    elif sizes:
        size = (max(s[0] for s in sizes), max(s[1] for s in sizes))
    if layer.type in WINDOWS:
        kernel, stride = geometry(layer, shapes)
    elif layer.type == "LRN" and layer.lrn_param.norm_region == layer.lrn_param.WITHIN_CHANNEL:
        kernel, stride = (layer.lrn_param.local_size,) * 2, (1, 1)
    else:
        kernel, stride = (1, 1), (1, 1)
    if layer.type == "Deconvolution":  # `stride` values of the top stand where one of the bottom does
        step = tuple(max(1, s // t) for s, t in zip(step, stride))
        stride = (1, 1)
    grown = None if size is None else tuple(s + (k - 1) * t for s, k, t in zip(size, kernel, step))
    return Field(grown, tuple(s * t for s, t in zip(step, stride)))


def multiply_adds(layer: Any, shapes: dict, weights: list) -> int:
    """Multiplications (each with an addition) for one photo: every weight once for each position it is used at."""
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


def longest_path(rows: list[Row]) -> tuple[int, int, list[str]]:
    """(layers with weights, poolings, their names) along the path with the most layers with weights."""
    best: dict[str, tuple[int, int, list[str]]] = {}  # by blob
    longest: tuple[int, int, list[str]] = (0, 0, [])
    for row in rows:
        depth, poolings, path = max((best.get(b, (0, 0, [])) for b in row.bottoms), default=(0, 0, []))
        weighted, pooling = row.type in WEIGHTED, row.type in POOLINGS
        here = (depth + weighted, poolings + pooling, path + [row.name] * (weighted or pooling))
        best.update({top: here for top in row.tops})
        longest = max(longest, here)
    return longest


def table(summary: Summary) -> str:
    """The summary as text: a line a layer, the totals, and the net's depth."""
    heads = ("layer", "type", "output", "parameters", "multiply-adds", "sees")
    lines = [heads]
    for row in summary.rows:
        kind = f"{row.type} {row.window}".strip()
        shape = "x".join(map(str, row.shape)) or "1"
        lines.append((row.name, kind, shape, number(row.parameters), number(row.multiply_adds), str(row.field)))
    lines.append(("total", "", "", number(summary.parameters), number(summary.multiply_adds), ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    left = (0, 1, 2)
    text = []
    for line in lines:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        text.append("  ".join(cells).rstrip())
    rule = "-" * max(map(len, text))
    text[1:1] = [rule]
    text[-1:-1] = [rule]
    return "\n".join(text) + "\n\n" + depth_sentence(summary) + "\n"


def depth_sentence(summary: Summary) -> str:
    return (
        f"{summary.name or 'The net'} has {summary.depth} layers with parameters on its longest path, and "
        f"{summary.poolings} pooling{'s' * (summary.poolings != 1)} on it."
    )


def number(n: int) -> str:
    return f"{n:,}" if n else ""
