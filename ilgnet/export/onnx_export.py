"""Export of a trained net to ONNX: a loop over the engine's layers that knows none of their types (onnx_layers does).

torchcaffe reads the net in the TEST phase and reshapes it to a second batch size, which shows the axes that depend on
it. The file is written node by node and compared with the engine in ONNX Runtime."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.export.onnx_layers import Axes, Step, converters
from ilgnet.photos.preprocess import Preprocess
from ilgnet.run import engine as engines
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.formats import files
from torchcaffe.formats.files import PathLike

OPSET, IR_VERSION = 17, 8  # read by ONNX Runtime 1.12 and by OpenCV, OpenVINO and TensorRT since 2022
PHOTOS = "photos"  # the input of a file that preprocesses
TOLERANCE = 1e-4  # of the check, relative to the largest value; what is found is usually 1e-6
MAX_BYTES = 2**31 - 2**20  # protobuf's limit on a message, less what is not weights


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise CaffeError(f"ONNX export needs the package onnx (pip install onnx): {error}") from error
    return onnx


@dataclass
class Graph:
    """ONNX nodes and initializers. Every name is unique."""

    taken: set[str]
    constants: Any  # the model's own list, so that 600 MB of weights are not copied from message to message
    nodes: list[Any] = field(default_factory=list)
    bytes: int = 0

    def name(self, wanted: str) -> str:
        """`wanted`, with a number appended if that is taken."""
        name, number = wanted, 1
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name

    def add_node(self, layer: str, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node of a layer; the name of its output, or the list of them when there are more."""
        names = [self.name(f"{layer}:{op}") for _ in range(outputs)]
        self.nodes.append(_onnx().helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def add_constant(self, layer: str, value: Any, what: str, dtype: Any = np.float32) -> str:
        """Add an initializer named after the layer and `what`; its name."""
        value = np.asarray(value, dtype)
        self.bytes += value.nbytes
        if self.bytes > MAX_BYTES:
            raise CaffeError("more than 2 GB of weights, the limit of an ONNX file")
        name, data_type = self.name(f"{layer}:{what}"), _onnx().helper.np_dtype_to_tensor_dtype(value.dtype)
        self.constants.add(name=name, dims=value.shape, data_type=data_type, raw_data=value.tobytes())
        return name


@dataclass
class Export:
    """An ONNX model, and what is needed to check it."""

    model: Any
    net: Any  # the engine's, at its own sizes
    preprocess: Preprocess | None
    free_batch: bool
    compared: list[str]  # outputs, and what a Softmax reads: near 0 and 1 its output hides errors


def load(param: Any, net_path: PathLike, weights: PathLike) -> Any:
    """The engine's net of a NetParameter with its weights, in the TEST phase; `net_path` names it in errors.

    CaffeError unless every layer gets its weights, for a net without an input and for one with two layers of one
    name."""
    caffe = engines.load_engine()
    net = engines.make_net(caffe, param, caffe.TEST, str(net_path))
    if not net.inputs:
        raise CaffeError(f"{net_path}: it has no input to export")
    if len(net.layer_dict) < len(net.layers):
        raise CaffeError(f"{net_path}: two of its layers have one name; ONNX tells them apart by it")
    surgery.refuse_unloaded(engines.arrays(net), surgery.read_weights(weights), weights, net_path)
    net.copy_from(str(weights))
    return net


def export(
    net: Any,
    preprocess: Preprocess | None = None,
    free_batch: bool = True,
    free_size: bool = False,
    metadata: dict[str, str] | None = None,
) -> Export:
    """The ONNX model of an engine's TEST net.

    preprocess: the file takes photos, (N, height, width, 3) uint8 RGB of any size, and does this to them. free_batch:
    any number of photos (else the net's own). free_size: photos of any size go into the net as they are, which nets
    with spatial pyramid pooling take. CaffeError for a layer type, or a use of one, that ONNX cannot express."""
    helper, types = _onnx().helper, _onnx().TensorProto
    model = _onnx().ModelProto(
        producer_name="ilgnet", ir_version=IR_VERSION, opset_import=[helper.make_opsetid("", OPSET)]
    )
    axes = _axes(net, free_batch, free_size)
    graph = Graph(set(axes) | {PHOTOS}, model.graph.initializer)
    values = {name: name for name in net.inputs}  # blob -> the tensor with its current values
    for name, layer in net.layer_dict.items():
        if layer.type == "Input":
            continue
        tops, bottoms = net.top_names[name], net.bottom_names[name]
        where = f"{net.source}: layer '{name}' ({layer.type})"
        if layer.type not in converters:
            raise CaffeError(f"{where}: this type cannot be exported to ONNX (known: {', '.join(sorted(converters))})")
        step = Step(
            graph, name, layer, [values[b] for b in bottoms], [axes[b] for b in bottoms], [axes[t] for t in tops]
        )
        with located(where):
            made = converters[layer.type](step)
        values.update(zip(tops, [made] if isinstance(made, str) else made))
    _name_after_blobs(graph, values, net)
    symbols = _symbols(net, axes)
    described = {name: helper.make_tensor_value_info(name, types.FLOAT, symbols[name]) for name in axes}
    inputs = [described[name] for name in net.inputs]
    if preprocess is not None:
        inputs = [helper.make_tensor_value_info(PHOTOS, types.UINT8, [symbols[net.inputs[0]][0], "height", "width", 3])]
        graph.nodes = _preprocessing(net, preprocess, free_size, graph) + graph.nodes
    computed = {name for node in graph.nodes for name in node.output}
    model.graph.name = net.name or "net"
    model.graph.node.extend(graph.nodes)
    model.graph.input.extend(inputs)
    model.graph.output.extend(described[name] for name in net.outputs)
    model.graph.value_info.extend(
        info for name, info in described.items() if name in computed and name not in net.outputs
    )
    helper.set_model_props(model, metadata or {})
    return Export(model, net, preprocess, free_batch, _compared(net, computed))


def _axes(net: Any, free_batch: bool, free_size: bool) -> dict[str, Axes]:
    """Each blob's axes as pairs of sizes: the net's own, and those with a larger batch and larger photos."""
    own = {name: tuple(net.blobs[name].shape) for name in net.inputs}
    if free_size and any(len(shape) != 4 for shape in own.values()):
        raise CaffeError(f"{net.source}: sizes can be free in nets whose inputs have 4 axes, photos")
    first = _shapes(net)
    for name, shape in own.items():
        if free_batch:
            shape = (shape[0] + 1, *shape[1:])
        if free_size:
            shape = (*shape[:2], 2 * shape[2], 3 * shape[3])
        net.blobs[name].reshape(*shape)
    try:
        net.reshape()
        second = _shapes(net)
    except CaffeError as error:
        what = " and ".join(["the batch"] * free_batch + ["the photos' size"] * free_size)
        raise CaffeError(f"{error} ({what} cannot be free in this net)") from None
    finally:
        _reshape(net, own)
    return {name: list(zip(first[name], second[name])) for name in first}


def _shapes(net: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(blob.shape) for name, blob in net.blobs.items()}


def _reshape(net: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        net.blobs[name].reshape(*shape)
    net.reshape()


def _symbols(net: Any, axes: dict[str, Axes]) -> dict[str, list[Any]]:
    """Each blob's shape for readers of the file: sizes, N for the batch, height and width of the inputs, None else."""
    batch = next(iter(axes[net.inputs[0]]), None)
    result: dict[str, list[Any]] = {}
    for name, pairs in axes.items():
        result[name] = [a if a == b else "N" if (a, b) == batch and not i else None for i, (a, b) in enumerate(pairs)]
        if name in net.inputs and len(pairs) == 4:
            result[name][2:] = [size or symbol for size, symbol in zip(result[name][2:], ("height", "width"))]
    return result


def _name_after_blobs(graph: Graph, values: dict[str, str], net: Any) -> None:
    """Rename each blob's last tensor after the blob, outputs first; an output that shares a tensor gets a copy."""
    names: dict[str, str] = {}
    for blob in [*net.outputs, *values]:
        if values[blob] not in net.inputs and blob not in net.inputs:
            names.setdefault(values[blob], blob)
    for node in graph.nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for blob in net.outputs:
        if blob in net.inputs:
            raise CaffeError(f"{net.source}: blob '{blob}' is both input and output, which ONNX keeps apart")
        tensor = names.get(values[blob], values[blob])
        if tensor != blob:
            graph.nodes.append(_onnx().helper.make_node("Identity", [tensor], [blob], name=graph.name(f"{blob}:copy")))


def _preprocessing(net: Any, spec: Preprocess, free_size: bool, graph: Graph) -> list[Any]:
    """Photos (N, height, width, 3) uint8 RGB -> the net's input: what Preprocess.photo does, and OpenCV's rounding."""
    shape, *others = (net.blobs[name].shape for name in net.inputs)
    if others or len(shape) != 4 or shape[1] != 3:
        raise CaffeError(f"{net.source}: preprocessing needs a net with one input, N x 3 x H x W")
    if spec.preset == "nima":
        raise CaffeError("preset nima takes the nearest pixel as Pillow does, for which ONNX has no operator")
    if free_size and spec.preset != "direct":
        raise CaffeError(f"preset {spec.preset} warps photos to one size; photos of any size need preset direct")
    own = Graph(graph.taken, graph.constants)

    emit, constant = partial(own.add_node, "preprocess"), partial(own.add_constant, "preprocess")
    indices = partial(constant, dtype=np.int64)
    mean = spec.mean
    x = emit("Transpose", PHOTOS, perm=[0, 3, 1, 2])
    x = emit("Gather", x, indices([2, 1, 0], "bgr"), axis=1)
    x = emit("Cast", x, to=_onnx().TensorProto.FLOAT)
    if not free_size:
        sizes = emit("Concat", emit("Shape", x, start=0, end=2), indices(spec.warp, "warp"), axis=0)
        x = emit("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
        # OpenCV rounds to whole numbers. (It truncates intermediate results, so every eighth value is one less.)
        x = emit("Floor", emit("Add", x, constant(0.5, "half")))
        if spec.warp != spec.size:
            corner = [(warp - size) // 2 for warp, size in zip(spec.warp, spec.size)]
            opposite = [begin + size for begin, size in zip(corner, spec.size)]
            x = emit("Slice", x, indices(corner, "corner"), indices(opposite, "opposite"), indices([2, 3], "axes"))
            if mean.shape[1:] != (1, 1):
                mean = mean[:, corner[0] : opposite[0], corner[1] : opposite[1]]
    emit("Sub", x, constant(mean[None], "mean"))
    own.nodes[-1].output[0] = net.inputs[0]
    return own.nodes


def _compared(net: Any, made: set[str]) -> list[str]:
    """The blobs that check compares."""
    names = list(net.outputs)
    for name, layer in net.layer_dict.items():
        if layer.type == "Softmax":
            names += [b for b in net.bottom_names[name] if b in made and b not in names]
    return names


def describe(net_path: PathLike, weights: PathLike, net: Any, preprocess: Preprocess | None) -> dict[str, str]:
    """The file's metadata: its sources (names without folders) and what the two probabilities mean."""
    found = {"source_net": Path(net_path).name, "source_weights": Path(weights).name, "made_by": "ilgnet export-onnx"}
    if [net.blobs[name].shape[1:] for name in net.outputs] == [(2,)]:
        found["classes"] = json.dumps({"0": "low", "1": "high"})
    if preprocess is not None:
        found["input"] = "photos: N x height x width x 3, uint8, RGB"
        found["preprocessing"] = json.dumps(preprocess.describe())
    return found


def runtime() -> Any:
    """The module onnxruntime, or None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def check(made: Export) -> dict[str, float]:
    """Run the model in ONNX Runtime and the engine on the same random input; for each compared blob the largest
    difference relative to its largest value. With preprocessing also `preprocessing`, the largest difference in grey
    levels from OpenCV's. CaffeError when a difference is too large."""
    net, rng, found = made.net, np.random.RandomState(0), {}
    session, first = _session(made), net.inputs[0]
    batch = net.blobs[first].shape[0] + made.free_batch
    if made.preprocess is None:
        feed = {
            name: rng.uniform(-120, 135, (batch, *net.blobs[name].shape[1:])).astype(np.float32) for name in net.inputs
        }
        answers = dict(zip(made.compared, session.run(made.compared, feed)))
    else:
        height, width = net.blobs[first].shape[2:]
        photos = rng.randint(0, 256, (batch, height + 131, width + 67, 3)).astype(np.uint8)
        names = [*made.compared, first]
        answers = dict(zip(names, session.run(names, {PHOTOS: photos})))
        feed = {first: answers.pop(first)}
        if feed[first].shape[2:] == made.preprocess.size:
            wanted = np.stack([made.preprocess.photo(photo[:, :, ::-1]) for photo in photos])
        else:
            wanted = photos[:, :, :, ::-1].transpose(0, 3, 1, 2) - made.preprocess.mean
        found["preprocessing"] = float(np.abs(feed[first] - wanted).max())
        if found["preprocessing"] > 1.001:  # OpenCV's weights are whole 2048ths
            raise CaffeError(f"check: preprocessing differs from OpenCV's by {found['preprocessing']:.3g} grey levels")
    own = {name: tuple(net.blobs[name].shape) for name in net.inputs}
    _reshape(net, {name: value.shape for name, value in feed.items()})
    for name, value in feed.items():
        net.blobs[name].data[...] = value
    net.forward()
    for name, answer in answers.items():
        wanted = net.blobs[name].data
        if answer.shape != wanted.shape:
            raise CaffeError(f"check: '{name}' has shape {answer.shape} in ONNX Runtime, {wanted.shape} in the engine")
        found[name] = float(np.abs(answer - wanted).max() / max(np.abs(wanted).max(), 1e-30)) if answer.size else 0.0
        if not found[name] <= TOLERANCE:
            raise CaffeError(f"check: '{name}' differs by {found[name]:.2g} between ONNX Runtime and the engine")
    _reshape(net, own)
    return found


def _session(made: Export) -> Any:
    """A session with all compared blobs as outputs."""
    ort, outputs = runtime(), made.model.graph.output
    before, wanted = len(outputs), {*made.compared, *made.net.inputs}
    outputs.extend(info for info in made.model.graph.value_info if info.name in wanted)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        data = made.model.SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has exceptions of its own for everything
        raise CaffeError(f"check: ONNX Runtime does not take the model: {error}") from None
    finally:
        del outputs[before:]


def write(made: Export, path: PathLike) -> None:
    """Write the model, complete or not at all."""
    files.write_bytes(path, made.model.SerializeToString())
