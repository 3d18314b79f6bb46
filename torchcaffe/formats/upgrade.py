"""Reads net and solver prototxts of any age, and upgrades them to those of BVLC Caffe 1.0.0.

The steps, each taken if the net needs it and logged in BVLC's words: V0 layers (2013, `layers { layer { ... } }`) to
V1 (2014, `layers { type: CONVOLUTION }`), preprocessing in a data layer's own message to transform_param, V1 to
`layer { type: "Convolution" }`, `input` fields to an Input layer, learning rates of BatchNorm's statistics to 0.
The results equal those of BVLC's upgrade_net_proto_text. Where BVLC aborts, a CaffeError says why.
"""

import os
from pathlib import Path
from typing import Any

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import blobproto, files
from torchcaffe.formats.files import PathLike
from torchcaffe.proto import parse_text
from torchcaffe.proto.caffe_pb2 import LayerParameter, NetParameter, SolverParameter, V1LayerParameter
from torchcaffe.proto.types import V0_TYPES, V1_TYPE_NAMES

# V0 field, its name in V1, and the V0 types that have it, in BVLC's order.
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
    ("hdf5_output_param", "hdf5_output_param", ("hdf5_output",)),
)
_V0_TRANSFORM = (("scale", "scale"), ("meanfile", "mean_file"), ("cropsize", "crop_size"), ("mirror", "mirror"))

# V1 data layers that once had their own preprocessing settings.
_V1_DATA = ("DATA", "IMAGE_DATA", "WINDOW_DATA")
_OLD_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")

_SOLVER_TYPES = {name.upper(): name for name in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")}


# ---- Reading ----


def read_net(path: PathLike) -> NetParameter:
    """The NetParameter in a prototxt of any age. Raises CaffeError("path:line:column: reason")."""
    return parse_net(read_text(path), str(path))


def parse_net(text: str, source: str) -> NetParameter:
    """The NetParameter in a prototxt's text. source: its name in errors and in the log."""
    return upgrade_net(parse_text(text, NetParameter(), source), source)


def read_solver(path: PathLike) -> SolverParameter:
    """The SolverParameter in a prototxt. As in BVLC, a missing snapshot_prefix becomes the prototxt's path without its
    extension, and the prototxt's name is appended to one that is a folder."""
    source = str(path)
    solver = upgrade_solver(parse_text(read_text(path), SolverParameter(), source), source)
    for field, value in solver.ListFields():
        if field.type == field.TYPE_STRING and "\0" in "".join(value):
            raise CaffeError(f"{source}: {field.name}: a file name cannot contain a NUL byte")
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = os.path.splitext(source)[0]
        log.info("upgrade_proto.cpp:1108", f"snapshot_prefix was not specified and is set to {solver.snapshot_prefix}")
    elif os.path.isdir(solver.snapshot_prefix):
        solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, Path(source).stem)
        log.info(
            "upgrade_proto.cpp:1113", f"snapshot_prefix was a directory and is replaced to {solver.snapshot_prefix}"
        )
    return solver


def read_text(path: PathLike) -> str:
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise CaffeError(f"{path}: {error.strerror or error}") from None
    if b"\0" in data[:4096]:
        raise CaffeError(f"{path}: this is a binary file, not a prototxt")
    # Comments may have any encoding; parse_text refuses strings that are not UTF-8.
    return data.decode("utf-8-sig", "surrogateescape")


# ---- Nets ----


def net_needs_upgrade(net: NetParameter) -> bool:
    """Whether BVLC would upgrade the net; upgrade_net may still leave it unchanged."""
    return bool(net.layers or net.input or _old_batch_norms(net))


def upgrade_net(net: NetParameter, source: str) -> NetParameter:
    """Upgrade `net` in place if necessary, and return it. source: its name in errors and in the log.

    Raises CaffeError where BVLC aborts: unknown V0 types, `layer` beside `layers`, misused V0 padding layers."""
    upgrade_in_place(net, source)
    return net


def upgrade_in_place(net: NetParameter, source: str) -> bool:
    """Upgrade as upgrade_net does. Returns False if a V0 layer had settings that its type does not know; they are
    logged and dropped."""
    compatible = True
    what = "Attempting to upgrade input file specified using deprecated"
    done = "Successfully upgraded file specified using deprecated"
    future = "Note that future Caffe releases will"
    if any(layer.HasField("layer") for layer in net.layers):
        log.info("upgrade_proto.cpp:28", f"{what} V0LayerParameter: {source}")
        compatible = _upgrade_v0(net, source)
        if compatible:
            log.info("upgrade_proto.cpp:36", f"{done} V0LayerParameter")
        else:
            problems = "Warning: had one or more problems upgrading V0NetParameter to NetParameter (see above)"
            log.error("upgrade_proto.cpp:33", f"{problems}; continuing anyway.")
        log.warning(
            "upgrade_proto.cpp:39",
            f"{future} not support V0NetParameter; use ./build/tools/upgrade_net_proto_text for prototxt and ./build/"
            "tools/upgrade_net_proto_binary for model weights upgrade this and any other net protos to the new format.",
        )
    if any(old.HasField(name) for _, old in _transform_settings(net) for name in _OLD_TRANSFORM):
        log.info("upgrade_proto.cpp:46", f"{what} transformation parameters: {source}")
        _upgrade_transform(net)
        log.info("upgrade_proto.cpp:49", f"{done} data transformation parameters.")
        log.warning(
            "upgrade_proto.cpp:51", f"{future} only support transform_param messages for transformation fields."
        )
    if net.layers:
        log.info("upgrade_proto.cpp:55", f"{what} V1LayerParameter: {source}")
        _upgrade_v1(net, source)
        log.info("upgrade_proto.cpp:63", f"{done} V1LayerParameter")
    if net.input:
        log.info("upgrade_proto.cpp:69", f"{what} input fields: {source}")
        _upgrade_input(net, source)
        log.info("upgrade_proto.cpp:72", f"{done} input fields.")
        log.warning("upgrade_proto.cpp:74", f"{future} only support input layers and not input fields.")
    if _old_batch_norms(net):
        log.info("upgrade_proto.cpp:79", f"Attempting to upgrade batch norm layers using deprecated params: {source}")
        _upgrade_batch_norm(net)
        log.info("upgrade_proto.cpp:82", "Successfully upgraded batch norm layers using deprecated params.")
    return compatible


def _copy_field(old: Any, old_name: str, new: Any, new_name: str) -> None:
    """Copy a field that is set in `old`. A single value becomes the first of a repeated field."""
    value, target = getattr(old, old_name), getattr(new, new_name)
    if hasattr(target, "extend"):
        target.extend(value if hasattr(value, "extend") else [value])
    elif hasattr(target, "CopyFrom"):
        target.SetInParent()  # an empty message stays set
        target.CopyFrom(value)
    else:
        setattr(new, new_name, value)


def _upgrade_v0(net: NetParameter, source: str) -> bool:
    """V0 layers to V1 layers. As in BVLC, fields that V0 nets did not have are dropped from the net."""
    old = NetParameter()
    old.CopyFrom(net)
    net.Clear()
    for name in ("name", "force_backward"):
        if old.HasField(name):
            setattr(net, name, getattr(old, name))
    net.input.extend(old.input)
    net.input_dim.extend(old.input_dim)
    compatible = True
    for layer in _without_padding_layers(old, source):
        compatible = _upgrade_v0_layer(layer, net.layers.add(), source) and compatible
    return compatible


def _without_padding_layers(net: NetParameter, source: str) -> list[V1LayerParameter]:
    """The layers but for V0's separate padding layers; the convolution or pooling above pads instead."""
    made_by: dict[str, V1LayerParameter | None] = dict.fromkeys(net.input)  # by blob
    kept = []
    for connection in net.layers:
        kind, where = connection.layer.type, f"{source}: V0 layer {connection.layer.name!r}"
        for bottom in connection.bottom:
            if bottom not in made_by:
                raise CaffeError(f"{where}: Unknown blob input {bottom}")
        for index, maker in enumerate([made_by[bottom] for bottom in connection.bottom]):
            if maker is None or maker.layer.type != "padding":
                continue
            if kind not in ("conv", "pool"):
                raise CaffeError(f"{where}: a padding layer's top can only go into a conv or pool layer, not {kind}")
            if len(connection.bottom) != 1:
                raise CaffeError(f"{where}: a layer above a padding layer must have no other bottom")
            if len(maker.bottom) != 1 or len(maker.top) != 1:
                raise CaffeError(f"{source}: V0 layer {maker.layer.name!r}: padding must have one bottom and one top")
            connection.layer.pad = maker.layer.pad
            connection.bottom[index] = maker.bottom[0]
        if kind != "padding":
            kept.append(connection)
        made_by.update((top, connection) for top in connection.top)
    return kept


def _upgrade_v0_layer(connection: Any, new: V1LayerParameter, source: str) -> bool:
    new.bottom.extend(connection.bottom)
    new.top.extend(connection.top)
    if not connection.HasField("layer"):
        return True
    old = connection.layer
    if old.HasField("name"):
        new.name = old.name
    own: Any = None  # the message of the type's settings
    if old.HasField("type"):
        if old.type not in V0_TYPES:
            raise CaffeError(f"{source}: V0 layer {old.name!r}: Unknown layer name: {old.type}")
        type_name = V0_TYPES[old.type]
        new.type = new.LayerType.Value(type_name)
        own = getattr(new, f"{type_name.lower()}_param", None)
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
                _copy_field(old, old_name, new if old_name == "hdf5_output_param" else own, new_name)
            except ValueError:  # V0's new_height and new_width are signed
                value = getattr(old, old_name)
                raise CaffeError(f"{source}: V0 layer {old.name!r}: {old_name}: {value}, 0 or more expected") from None
        else:
            name = "shuffle" if old_name == "shuffle_images" else old_name
            log.error("upgrade_proto.cpp:237", f"Unknown parameter {name} for layer type {old.type}")
            compatible = False
    return compatible


def _transform_settings(net: NetParameter) -> list[tuple[V1LayerParameter, Any]]:
    """The V1 data layers that may have old preprocessing settings, and the messages of these."""
    kinds = [layer.LayerType.Name(layer.type) for layer in net.layers]
    return [
        (layer, getattr(layer, f"{kind.lower()}_param")) for layer, kind in zip(net.layers, kinds) if kind in _V1_DATA
    ]


def _upgrade_transform(net: NetParameter) -> None:
    for layer, old in _transform_settings(net):
        old.SetInParent()  # BVLC leaves both messages behind, empty or not
        layer.transform_param.SetInParent()
        for name in _OLD_TRANSFORM:
            if old.HasField(name):
                setattr(layer.transform_param, name, getattr(old, name))
                old.ClearField(name)


def _upgrade_v1(net: NetParameter, source: str) -> None:
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


def _upgrade_v1_layer(old: V1LayerParameter, new: LayerParameter) -> None:
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


# V1's parallel lists, one value for each blob, and the fields of `param` that they fill.
_V1_PARAM_LISTS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


def _upgrade_input(net: NetParameter, source: str) -> None:
    """Replace the fields input, input_shape and input_dim by an Input layer in front; without any shape by nothing."""
    dims = list(net.input_dim)
    shapes: list[Any] = [shape.dim for shape in net.input_shape] or [
        dims[at : at + 4] for at in range(0, len(dims) - 3, 4)
    ]
    if net.input_shape or dims:
        if len(shapes) < len(net.input):
            raise CaffeError(
                f"{source}: shapes of {len(shapes)} inputs, not of {len(net.input)} (input_dim: 4 for each)"
            )
        layer = LayerParameter(name="input", type="Input", top=net.input)
        for _, shape in zip(net.input, shapes):
            layer.input_param.shape.add(dim=shape)
        net.layer.insert(0, layer)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _old_batch_norms(net: NetParameter) -> list[LayerParameter]:
    return [layer for layer in net.layer if layer.type == "BatchNorm" and len(layer.param) == 3]


def _upgrade_batch_norm(net: NetParameter) -> None:
    """Set the rates of BatchNorm's three blobs to 0: they are statistics, which no solver may change."""
    for layer in _old_batch_norms(net):
        for param in layer.param:
            param.lr_mult = param.decay_mult = 0


# ---- Solvers ----


def upgrade_solver(solver: SolverParameter, source: str) -> SolverParameter:
    """Upgrade `solver` in place if necessary (the enum solver_type to the string type), and return it."""
    if solver.HasField("solver_type"):
        what = "deprecated 'solver_type' field (enum)"
        log.info("upgrade_proto.cpp:1084", f"Attempting to upgrade input file specified using {what}': {source}")
        if solver.HasField("type"):
            raise CaffeError(
                f"{source}: Failed to upgrade solver: old solver_type field (enum) and new type field (string) cannot "
                "be both specified in solver proto text."
            )
        solver.type = _SOLVER_TYPES[solver.SolverType.Name(solver.solver_type)]
        solver.ClearField("solver_type")
        log.info(
            "upgrade_proto.cpp:1091", f"Successfully upgraded file specified using {what} to 'type' field (string)."
        )
        future = "Note that future Caffe releases will only support 'type' field (string) for a solver's type."
        log.warning("upgrade_proto.cpp:1093", future)
    return solver


def read_net_binary(path: PathLike) -> NetParameter:
    """The NetParameter in a caffemodel of any age. Raises CaffeError if there is none."""
    content = files.map_file(path)
    if len(content) > blobproto.MAX_BYTES:
        raise CaffeError(f"{path}: {len(content)} bytes; protobuf reads at most {blobproto.MAX_BYTES}")
    try:
        return NetParameter.FromString(content[:])
    except Exception as error:  # DecodeError; in old protobuf's Python code also other types
        raise CaffeError(f"{path}: not a binary NetParameter: {error}") from None
