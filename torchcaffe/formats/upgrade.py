"""Reads net and solver prototxts of every age: what older Caffes wrote becomes what BVLC Caffe 1.0.0 writes.

The steps, each taken where the net needs it and logged in BVLC's words: V0 layers (2013, `layers { layer { ... } }`) to
V1 (2014, `layers { type: CONVOLUTION }`), preprocessing in a data layer's own message to transform_param, V1 to
`layer { type: "Convolution" }`, `input` fields to an Input layer, learning rates of BatchNorm's statistics to 0.
The results equal those of BVLC's upgrade_net_proto_text; where BVLC aborts, a CaffeError says why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import blobproto, files
from torchcaffe.formats.files import PathLike
from torchcaffe.proto import caffe_pb2, format_text, parse_text
from torchcaffe.proto.types import V0_TYPES, V1_TYPE_NAMES

_HERE = "upgrade_proto.cpp"

# V0 field, its name in V1, and the V0 types that have it; in the order in which BVLC looks at them.
_V0_SETTINGS = (
    ("num_output", "num_output", ("conv", "innerproduct")),
    ("biasterm", "bias_term", ("conv", "innerproduct")),
    ("weight_filler", "weight_filler", ("conv", "innerproduct")),
    ("bias_filler", "bias_filler", ("conv", "innerproduct")),
    ("pad", "pad", ("conv", "pool")),
    ("kernelsize", "kernel_size", ("conv", "pool")),
    ("group", "group", ("conv",)),
    ("stride", "stride", ("conv", "pool")),
    ("pool", "pool", ("pool",)),
    ("dropout_ratio", "dropout_ratio", ("dropout",)),
    ("local_size", "local_size", ("lrn",)),
    ("alpha", "alpha", ("lrn",)),
    ("beta", "beta", ("lrn",)),
    ("k", "k", ("lrn",)),
    ("source", "source", ("data", "hdf5_data", "images", "window_data", "infogain_loss")),
    ("batchsize", "batch_size", ("data", "hdf5_data", "images", "window_data")),
    ("rand_skip", "rand_skip", ("data", "images")),
    ("shuffle_images", "shuffle", ("images",)),
    ("new_height", "new_height", ("images",)),
    ("new_width", "new_width", ("images",)),
    ("concat_dim", "concat_dim", ("concat",)),
    ("det_fg_threshold", "fg_threshold", ("window_data",)),
    ("det_bg_threshold", "bg_threshold", ("window_data",)),
    ("det_fg_fraction", "fg_fraction", ("window_data",)),
    ("det_context_pad", "context_pad", ("window_data",)),
    ("det_crop_mode", "crop_mode", ("window_data",)),
)
_V0_TRANSFORM = (("scale", "scale"), ("meanfile", "mean_file"), ("cropsize", "crop_size"), ("mirror", "mirror"))

# V1 data layers that once had preprocessing settings of their own.
_V1_DATA = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
_OLD_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


# ---- Reading ----


def read_net(path: PathLike):
    """The NetParameter in a prototxt of any age. Raises CaffeError("path:line:column: reason")."""
    return parse_net(_read_text(path), str(path))


def parse_net(text: str, source: str):
    """The NetParameter in a prototxt's text; `source` names the text in errors and in the log."""
    return upgrade_net(parse_text(text, caffe_pb2.NetParameter(), source), source)


def read_solver(path: PathLike):
    """The SolverParameter in a prototxt. As in BVLC, a snapshot_prefix that is missing becomes the prototxt's path less
    its extension, and one that is a folder gets the prototxt's name appended."""
    source = str(path)
    solver = upgrade_solver(parse_text(_read_text(path), caffe_pb2.SolverParameter(), source), source)
    for field, value in solver.ListFields():
        if field.type == field.TYPE_STRING and "\0" in "".join(value):
            raise CaffeError(f"{source}: {field.name}: it holds a NUL byte, which no file's name can")
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = os.path.splitext(source)[0]
        log.info(f"{_HERE}:1108", f"snapshot_prefix was not specified and is set to {solver.snapshot_prefix}")
    elif os.path.isdir(solver.snapshot_prefix):
        solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, Path(source).stem)
        log.info(f"{_HERE}:1113", f"snapshot_prefix was a directory and is replaced to {solver.snapshot_prefix}")
    return solver


def _read_text(path: PathLike) -> str:
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise CaffeError(f"{path}: {error.strerror or error}") from None
    if b"\0" in data[:4096]:
        raise CaffeError(f"{path}: this is a binary file, not a prototxt")
    # Comments may be in any encoding; a string that is not UTF-8 is refused by parse_text.
    return data.decode("utf-8-sig", "surrogateescape")


# ---- Nets ----


def net_needs_upgrade(net) -> bool:
    """Whether upgrade_net changes anything (or, as BVLC counts, might)."""
    return bool(net.layers) or _needs_input_upgrade(net) or _needs_batch_norm_upgrade(net)


def upgrade_net(net, source: str):
    """Upgrades `net` in place where it needs it, and returns it. `source` names the net in errors and in the log.

    Raises CaffeError where BVLC aborts: unknown V0 types, `layer` beside `layers`, misused V0 padding layers.
    """
    _upgrade_net(net, source)
    return net


def _upgrade_net(net, source: str) -> bool:
    """Returns False when a V0 layer had settings that its type does not know; they are logged and dropped."""
    compatible = True
    what = "Attempting to upgrade input file specified using deprecated"
    done = "Successfully upgraded file specified using deprecated"
    future = "Note that future Caffe releases will"
    if any(layer.HasField("layer") for layer in net.layers):
        log.info(f"{_HERE}:28", f"{what} V0LayerParameter: {source}")
        compatible = _upgrade_v0(net, source)
        if compatible:
            log.info(f"{_HERE}:36", f"{done} V0LayerParameter")
        else:
            problems = "Warning: had one or more problems upgrading V0NetParameter to NetParameter (see above)"
            log.error(f"{_HERE}:33", f"{problems}; continuing anyway.")
        log.warning(
            f"{_HERE}:39",
            f"{future} not support V0NetParameter; use ./build/tools/upgrade_net_proto_text for prototxt and ./build/"
            "tools/upgrade_net_proto_binary for model weights upgrade this and any other net protos to the new format.",
        )
    if _needs_transform_upgrade(net):
        log.info(f"{_HERE}:46", f"{what} transformation parameters: {source}")
        _upgrade_transform(net)
        log.info(f"{_HERE}:49", f"{done} data transformation parameters.")
        log.warning(f"{_HERE}:51", f"{future} only support transform_param messages for transformation fields.")
    if net.layers:
        log.info(f"{_HERE}:55", f"{what} V1LayerParameter: {source}")
        _upgrade_v1(net, source)
        log.info(f"{_HERE}:63", f"{done} V1LayerParameter")
    if _needs_input_upgrade(net):
        log.info(f"{_HERE}:69", f"{what} input fields: {source}")
        _upgrade_input(net, source)
        log.info(f"{_HERE}:72", f"{done} input fields.")
        log.warning(f"{_HERE}:74", f"{future} only support input layers and not input fields.")
    if _needs_batch_norm_upgrade(net):
        log.info(f"{_HERE}:79", f"Attempting to upgrade batch norm layers using deprecated params: {source}")
        _upgrade_batch_norm(net)
        log.info(f"{_HERE}:82", "Successfully upgraded batch norm layers using deprecated params.")
    return compatible


def _copy_field(old, old_name: str, new, new_name: str) -> None:
    """Copies a field that is set in `old`; one value becomes the first of a repeated field."""
    value, target = getattr(old, old_name), getattr(new, new_name)
    if hasattr(target, "extend"):
        target.extend(value if hasattr(value, "extend") else [value])
    elif hasattr(target, "CopyFrom"):
        target.SetInParent()  # an empty message that is there stays there
        target.CopyFrom(value)
    else:
        setattr(new, new_name, value)


def _upgrade_v0(net, source: str) -> bool:
    """V0 layers to V1 layers. As in BVLC, all that V0 nets did not have is dropped from the net."""
    old = caffe_pb2.NetParameter()
    old.CopyFrom(net)
    _fold_padding_layers(old, source)
    net.Clear()
    for name in ("name", "force_backward"):
        if old.HasField(name):
            setattr(net, name, getattr(old, name))
    net.input.extend(old.input)
    net.input_dim.extend(old.input_dim)
    compatible = True
    for layer in old.layers:
        compatible = _upgrade_v0_layer(layer, net.layers.add(), source) and compatible
    return compatible


def _fold_padding_layers(net, source: str) -> None:
    """V0 padded in a layer of its own. Such layers go, and the convolution or pooling on top pads instead."""
    made_by = {name: None for name in net.input}  # blob: the layer that last wrote it
    kept = []
    for connection in net.layers:
        kind, where = connection.layer.type, f"{source}: V0 layer {connection.layer.name!r}"
        makers = []
        for bottom in connection.bottom:
            if bottom not in made_by:
                raise CaffeError(f"{where}: Unknown blob input {bottom}")
            makers.append(made_by[bottom])
        for index, maker in enumerate(makers):
            if maker is None or maker.layer.type != "padding":
                continue
            if kind not in ("conv", "pool"):
                raise CaffeError(f"{where}: a padding layer's top can go into a conv or pool layer only, not {kind}")
            if len(connection.bottom) != 1:
                raise CaffeError(f"{where}: a layer that takes a padding layer's top has no other bottom")
            if len(maker.bottom) != 1 or len(maker.top) != 1:
                raise CaffeError(f"{source}: V0 layer {maker.layer.name!r}: padding has one bottom and one top")
            connection.layer.pad = maker.layer.pad
            connection.bottom[index] = maker.bottom[0]
        if kind != "padding":
            kept.append(connection)
        made_by.update((top, connection) for top in connection.top)
    upgraded = caffe_pb2.NetParameter(layers=kept)
    net.ClearField("layers")
    net.MergeFrom(upgraded)


def _upgrade_v0_layer(connection, new, source: str) -> bool:
    new.bottom.extend(connection.bottom)
    new.top.extend(connection.top)
    if not connection.HasField("layer"):
        return True
    old = connection.layer
    if old.HasField("name"):
        new.name = old.name
    own = ""  # the message of the type's settings
    if old.HasField("type"):
        if old.type not in V0_TYPES:
            raise CaffeError(f"{source}: V0 layer {old.name!r}: Unknown layer name: {old.type}")
        type_name, own = V0_TYPES[old.type]
        new.type = new.LayerType.Value(type_name)
    for name in ("blobs", "blobs_lr", "weight_decay"):
        _copy_field(old, name, new, name)
    for old_name, new_name in _V0_TRANSFORM:
        if old.HasField(old_name):
            _copy_field(old, old_name, new.transform_param, new_name)
    compatible = True
    for old_name, new_name, types in _V0_SETTINGS:
        if not old.HasField(old_name):
            continue
        if old.type in types:
            try:
                _copy_field(old, old_name, getattr(new, own), new_name)
            except ValueError:  # V0's new_height and new_width have a sign
                value = getattr(old, old_name)
                raise CaffeError(f"{source}: V0 layer {old.name!r}: {old_name}: {value}, 0 or more expected") from None
        else:
            compatible = _unknown_v0_setting("shuffle" if old_name == "shuffle_images" else old_name, old.type)
    if old.HasField("hdf5_output_param"):
        if old.type == "hdf5_output":
            _copy_field(old, "hdf5_output_param", new, "hdf5_output_param")
        else:
            compatible = _unknown_v0_setting("hdf5_output_param", old.type)
    return compatible


def _unknown_v0_setting(name: str, type_name: str) -> bool:
    log.error(f"{_HERE}:237", f"Unknown parameter {name} for layer type {type_name}")
    return False


def _transform_settings(layer):
    """The message of a V1 data layer that may hold old preprocessing settings, else None."""
    name = _V1_DATA.get(layer.LayerType.Name(layer.type))
    return getattr(layer, name) if name else None


def _needs_transform_upgrade(net) -> bool:
    settings = filter(None, map(_transform_settings, net.layers))
    return any(old.HasField(name) for old in settings for name in _OLD_TRANSFORM)


def _upgrade_transform(net) -> None:
    for layer in net.layers:
        old = _transform_settings(layer)
        if old is None:
            continue
        old.SetInParent()  # BVLC leaves both messages behind, empty or not
        layer.transform_param.SetInParent()
        for name in _OLD_TRANSFORM:
            if old.HasField(name):
                setattr(layer.transform_param, name, getattr(old, name))
                old.ClearField(name)


def _upgrade_v1(net, source: str) -> None:
    if net.layer:
        raise CaffeError(
            f"{source}: Refusing to upgrade inconsistent NetParameter input; the definition includes both 'layer' and "
            "'layers' fields. The current format defines 'layer' fields with string type like "
            "layer { type: 'Layer' ... } and not layers { type: LAYER ... }. Manually switch the definition to 'layer' "
            "format to continue."
        )
    for old in net.layers:
        _upgrade_v1_layer(old, net.layer.add())
    net.ClearField("layers")


def _upgrade_v1_layer(old, new) -> None:
    for field, values in old.ListFields():
        name = field.name
        if name == "type":
            new.type = V1_TYPE_NAMES[old.LayerType.Name(old.type)]
        elif name in _V1_PARAM_LISTS:
            while len(new.param) < len(values):
                new.param.add()
            for param, value in zip(new.param, values):
                setattr(param, _V1_PARAM_LISTS[name], value)
        else:
            _copy_field(old, name, new, name)


# V1's parallel lists, one value per blob, and the fields of `param` that they fill.
_V1_PARAM_LISTS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


def _needs_input_upgrade(net) -> bool:
    return len(net.input) > 0


def _upgrade_input(net, source: str) -> None:
    """The fields input, input_shape and input_dim to an Input layer in front; without any shape they just go."""
    inputs, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    if shapes or dims:
        layer = caffe_pb2.LayerParameter(name="input", type="Input", top=inputs)
        for index, name in enumerate(inputs):
            shape = layer.input_param.shape.add()
            if shapes:
                if index >= len(shapes):
                    raise CaffeError(f"{source}: input {name!r}: there are {len(shapes)} input_shape for {len(inputs)}")
                shape.CopyFrom(shapes[index])
            else:
                if 4 * index + 4 > len(dims):
                    raise CaffeError(f"{source}: input {name!r}: input_dim has {len(dims)} numbers, 4 per input needed")
                shape.dim.extend(dims[4 * index : 4 * index + 4])
        layers = caffe_pb2.NetParameter(layer=[layer])
        layers.layer.MergeFrom(net.layer)
        net.ClearField("layer")
        net.layer.MergeFrom(layers.layer)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _old_batch_norm(layer) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _needs_batch_norm_upgrade(net) -> bool:
    return any(map(_old_batch_norm, net.layer))


def _upgrade_batch_norm(net) -> None:
    """BatchNorm's three blobs are statistics, not weights: no solver may change them."""
    for layer in filter(_old_batch_norm, net.layer):
        for param in layer.param:
            param.lr_mult = param.decay_mult = 0


# ---- Solvers ----


def upgrade_solver(solver, source: str):
    """Upgrades `solver` in place where it needs it (the enum solver_type to the string type), and returns it."""
    if solver.HasField("solver_type"):
        what = "deprecated 'solver_type' field (enum)"
        log.info(f"{_HERE}:1084", f"Attempting to upgrade input file specified using {what}': {source}")
        if solver.HasField("type"):
            raise CaffeError(
                f"{source}: Failed to upgrade solver: old solver_type field (enum) and new type field (string) cannot "
                "be both specified in solver proto text."
            )
        solver.type = _SOLVER_TYPES[solver.SolverType.Name(solver.solver_type)]
        solver.ClearField("solver_type")
        log.info(f"{_HERE}:1091", f"Successfully upgraded file specified using {what} to 'type' field (string).")
        future = "Note that future Caffe releases will only support 'type' field (string) for a solver's type."
        log.warning(f"{_HERE}:1093", future)
    return solver


# ---- Programs ----


def upgrade_net_proto_text(argv: list[str]) -> int:
    """`upgrade_net_proto_text IN OUT`: writes the upgraded prototxt. Returns BVLC's exit status: 0, or 1
    for wrong usage or for V0 settings that were dropped. Raises CaffeError for what cannot be read."""
    return _run("upgrade_net_proto_text", argv, _read_net_text, _upgrade_net_logged, _write_text)


def upgrade_net_proto_binary(argv: list[str]) -> int:
    """`upgrade_net_proto_binary IN OUT`: the same for a caffemodel."""
    return _run("upgrade_net_proto_binary", argv, _read_net_binary, _upgrade_net_logged, _write_binary)


def upgrade_solver_proto_text(argv: list[str]) -> int:
    """`upgrade_solver_proto_text IN OUT`: the same for a solver's prototxt."""
    return _run("upgrade_solver_proto_text", argv, _read_solver_text, _upgrade_solver_logged, _write_text)


def _run(program: str, argv: list[str], read: Callable, upgrade: Callable, write: Callable) -> int:
    if len(argv) != 2:
        what = "solver" if "solver" in program else "net"
        age = "old_solver" if what == "solver" else "v0_net"
        print(f"Usage: {program} {age}_proto_file_in {what}_proto_file_out", file=sys.stderr)
        return 1
    path, result = argv
    message = read(path)
    compatible = upgrade(program, message, path)
    write(result, message)
    kind = "binary" if program.endswith("binary") else "text"
    log.info(f"{program}.cpp:49", f"Wrote upgraded {message.DESCRIPTOR.name} {kind} proto to {result}")
    return 0 if compatible else 1


def _read_net_text(path: str):
    return parse_text(_read_text(path), caffe_pb2.NetParameter(), path)


def _read_solver_text(path: str):
    return parse_text(_read_text(path), caffe_pb2.SolverParameter(), path)


def _read_net_binary(path: str):
    net = caffe_pb2.NetParameter()
    with files.map_file(path) as data:
        if len(data) > blobproto.MAX_BYTES:
            raise CaffeError(f"{path}: {len(data)} bytes; a protobuf message has at most {blobproto.MAX_BYTES}")
        content = bytes(data)
    try:
        net.ParseFromString(content)
    except Exception as error:  # DecodeError; other types, too, in older protobuf's Python code
        raise CaffeError(f"{path}: not a binary NetParameter: {error}") from None
    return net


def _upgrade_net_logged(program: str, net, path: str) -> bool:
    if not net_needs_upgrade(net):
        log.error(f"{program}.cpp:43", f"File already in latest proto format: {path}")
        return True
    compatible = _upgrade_net(net, path)
    if not compatible:
        log.error(f"{program}.cpp:39", "Encountered error(s) while upgrading prototxt; see details above.")
    return compatible


def _upgrade_solver_logged(program: str, solver, path: str) -> bool:
    if not solver.HasField("solver_type"):
        log.error(f"{program}.cpp:43", f"File already in latest proto format: {path}")
    upgrade_solver(solver, path)
    return True


def _write_text(path: str, message) -> None:
    files.write_bytes(path, format_text(message).encode("ascii"))


def _write_binary(path: str, message) -> None:
    files.write_bytes(path, message.SerializeToString())
