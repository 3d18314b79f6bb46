"""Drawings of nets, as pycaffe's draw: layers are boxes, blobs are octagons, in-place layers are green.

Pictures need Graphviz's program `dot`; only get_pydot_graph needs pydot.
"""

import os
import subprocess
from typing import Any, NamedTuple

from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike, write_bytes
from torchcaffe.proto import caffe_pb2

_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
_COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
# Scripts may change these. (pycaffe's layers are records, which look the same unless a name has a "|".)
LAYER_STYLE_DEFAULT = {"shape": "box", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE = {"shape": "box", "fillcolor": "#90EE90", "style": "filled"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}


class Graph(NamedTuple):
    """nodes: attributes by name; edges: (from, to, label)."""

    name: str
    rankdir: str
    nodes: dict[str, dict[str, str]]
    edges: list[tuple[str, str, str]]


def get_pooling_types_dict() -> dict[int, str]:
    """The names of the pooling methods by number."""
    return {number: name for name, number in caffe_pb2.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer: Any) -> str:
    """The label of the arrow from a layer to its top: a data layer's batch size, or the number of outputs."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type not in _LEARNING:
        return ""
    own = layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param
    return str(own.num_output)


def get_layer_lr_mult(layer: Any) -> tuple[float, float]:
    """The lr_mult of weights and bias of a Convolution, Deconvolution or InnerProduct layer. ValueError for others."""
    if layer.type not in _LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    if len(layer.param) > 2:
        raise ValueError(f"layer {layer.name} has {len(layer.param)} params; weights and bias make two")
    weights, bias = ([param.lr_mult for param in layer.param] + [1.0, 1.0])[:2]
    return weights, bias


def get_layer_label(layer: Any, rankdir: str, display_lrm: bool = False) -> str:
    """A layer's label: name, type, window, with display_lrm lr_mult; on several lines if the graph runs sideways."""
    kind, window = layer.type, None
    if kind == "Pooling":
        own = layer.pooling_param
        kind += " " + get_pooling_types_dict()[own.pool]
        window = (own.kernel_size, own.stride, own.pad)
    elif kind in ("Convolution", "Deconvolution"):
        own = layer.convolution_param
        window = ([*own.kernel_size, 1][0], [*own.stride, 1][0], [*own.pad, 0][0])
    parts = [layer.name, f"({kind})"]
    separator = " " if rankdir in ("TB", "BT") else "\n"
    if window:
        parts.append(separator.join(f"{name}: {n}" for name, n in zip(("kernel size", "stride", "pad"), window)))
    if display_lrm and layer.type in _LEARNING:
        multipliers = get_layer_lr_mult(layer)
        if any(multipliers):
            parts.append("lr mult: {:.1f}, {:.1f}".format(*multipliers))
    return separator.join(parts)


def choose_color_by_layertype(layertype: str) -> str:
    """A layer's fill colour by its type."""
    return _COLORS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def _in_phase(layer: Any, phase: int) -> bool:
    if layer.include and layer.exclude:
        raise ValueError(f"layer {layer.name} has both include and exclude specified.")
    # As in pycaffe, only a rule's phase counts; a rule without one has the schema's default, TRAIN.
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return all(rule.phase != phase for rule in layer.exclude)


def get_graph(
    caffe_net: Any, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Graph:
    """The graph of a NetParameter, or of its layers in one phase."""
    graph = Graph(caffe_net.name or "Net", rankdir, {}, [])
    for layer in caffe_net.layer:
        if phase is not None and not _in_phase(layer, phase):
            continue
        node = f"{layer.name}_{layer.type}"
        in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
        color = choose_color_by_layertype(layer.type)
        style = NEURON_LAYER_STYLE if in_place else {**LAYER_STYLE_DEFAULT, "fillcolor": color}
        graph.nodes[node] = {"label": get_layer_label(layer, rankdir, display_lrm), **style}
        for blob in list(layer.bottom) + list(layer.top):
            graph.nodes.setdefault(f"{blob}_blob", {"label": blob, **BLOB_STYLE})
        graph.edges.extend((f"{blob}_blob", node, "") for blob in layer.bottom)
        label = get_edge_label(layer) if label_edges else ""
        graph.edges.extend((node, f"{blob}_blob", label) for blob in layer.top)
    return graph


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""
    lines = [f"digraph {_quoted(graph.name)} {{", f"rankdir={graph.rankdir};"]
    for name, attributes in graph.nodes.items():
        lines.append(f"{_quoted(name)} [{', '.join(f'{key}={_quoted(v)}' for key, v in attributes.items())}];")
    for start, end, label in graph.edges:
        lines.append(f"{_quoted(start)} -> {_quoted(end)} [label={_quoted(label)}];")
    return "\n".join(lines + ["}", ""])


def get_pydot_graph(
    caffe_net: Any, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """The net as a pydot graph. Raises CaffeError if pydot is not installed."""
    try:
        import pydot
    except ImportError as error:
        raise CaffeError("get_pydot_graph needs the pydot package (pip install pydot)") from error
    text = to_dot(get_graph(caffe_net, rankdir, label_edges, phase, display_lrm))
    return next(iter(pydot.graph_from_dot_data(text) or ()))


def draw_net(
    caffe_net: Any, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The net's picture in the format `ext`: raw, dot and gv are Graphviz's language, others need Graphviz's `dot`.

    rankdir: LR, TB or BT. Raises CaffeError if `dot` is not installed or fails.
    """
    text = to_dot(get_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)).encode()
    if ext in ("raw", "dot", "gv"):
        return text
    try:
        done = subprocess.run(["dot", f"-T{ext}"], input=text, capture_output=True)
    except FileNotFoundError as error:
        raise CaffeError(f"drawing a net as {ext} needs Graphviz's program dot (apt-get install graphviz)") from error
    if done.returncode:
        raise CaffeError(f"dot cannot draw the net as {ext}: {' '.join(done.stderr.decode(errors='replace').split())}")
    return done.stdout


def draw_net_to_file(
    caffe_net: Any,
    filename: PathLike,
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draw the net to a file, whose name's extension says the format."""
    extension = os.fspath(filename).rpartition(".")[2]
    write_bytes(filename, draw_net(caffe_net, rankdir, extension, phase, display_lrm))
