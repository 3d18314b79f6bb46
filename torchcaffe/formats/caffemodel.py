"""Caffemodels, binary and HDF5, as BVLC Caffe lays them out.

Reading walks the wire format over a map of the file: arrays are views of the map, so 600 MB of weights need no 600 MB
of memory. Writing goes field by field, so that no message of that size is built.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError, located
from torchcaffe.formats import wire
from torchcaffe.formats.blobproto import Arrays, blob_pieces, nested, parse_without_blobs, read_blob, write_pieces
from torchcaffe.formats.files import PathLike, map_file
from torchcaffe.formats.hdf5 import array_of, hdf5_file, is_hdf5, tried, write_hdf5
from torchcaffe.formats.wire import WireError
from torchcaffe.proto import caffe_pb2
from torchcaffe.proto.types import current_type


@dataclass
class LayerBlobs:
    """One layer's parameters in a weights file.

    name, type: Caffe's current names (Convolution, not CONVOLUTION or conv).
    blobs: float32 arrays; legacy num, channels, height and width stay four axes. They are read-only views of the file's
        map: copy before you change them. None, in HDF5 files only, is a parameter that another layer owns.
    diffs: as blobs, or None if the file has no diff.
    """

    name: str
    type: str
    blobs: list[np.ndarray | None]
    diffs: list[np.ndarray | None] = field(default_factory=list)


_NET_V1_LAYER, _NET_LAYER, _V1_V0_LAYER = 2, 100, 1
# The field numbers of name, type and blobs in each generation of layer message.
_FORMS = {"V0": (1, 2, 50), "V1": (4, 5, 6), "current": (1, 2, 7)}
_BLOBS = _FORMS["current"][2]
# As for parse_without_blobs.
_HOLDS_BLOBS: dict = {
    _NET_LAYER: {_BLOBS: {}},
    _NET_V1_LAYER: {_FORMS["V1"][2]: {}, _V1_V0_LAYER: {_FORMS["V0"][2]: {}}},
}


def _layer_spans(buffer: Any, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(generation, begin, end) of each layer message in a NetParameter, in file order."""
    for number, kind, value, _ in wire.fields(buffer, start, end):
        if number == _NET_LAYER and kind == wire.BYTES:
            yield "current", *value
        elif number == _NET_V1_LAYER and kind == wire.BYTES:
            nested = [v for n, k, v, _ in wire.fields(buffer, *value) if n == _V1_V0_LAYER and k == wire.BYTES]
            yield ("V0", *nested[0]) if nested else ("V1", *value)


def _read_layer(path: PathLike, buffer: Any, generation: str, start: int, end: int) -> LayerBlobs:
    name_number, type_number, blobs_number = _FORMS[generation]
    name, kind_of_layer, spans = "", "", []
    for number, kind, value, _ in wire.fields(buffer, start, end):
        if number == blobs_number and kind == wire.BYTES:
            spans.append(value)
        elif number == name_number and kind == wire.BYTES:
            name = wire.text(buffer, value)
        elif number == type_number:
            kind_of_layer = wire.text(buffer, value) if kind == wire.BYTES else str(value)
    layer = LayerBlobs(name, current_type(generation, kind_of_layer), [])
    for index, span in enumerate(spans):
        with located(f"{path}: layer '{name}', blob {index}", WireError):
            data, diff = read_blob(buffer, *span)
        layer.blobs.append(data)
        layer.diffs.append(diff)
    return layer


def read_caffemodel(path: PathLike) -> list[LayerBlobs]:
    """The layers of a caffemodel in file order, including those without parameters.

    Reads the current format, V1 (`layers`, enum types) and V0 (nested `layer`), old and new blob shapes, floats and
    doubles, and HDF5. Raises CaffeError with file, layer and blob for a truncated or malformed file."""
    if is_hdf5(path):
        return _read_caffemodel_hdf5(path)
    buffer = map_file(path)
    with located(f"{path}: not a caffemodel, or a damaged one", WireError):
        layers = [_read_layer(path, buffer, *span) for span in _layer_spans(buffer, 0, len(buffer))]
    if not layers:
        raise CaffeError(f"{path}: not a caffemodel: it holds no layers")
    return layers


def read_caffemodel_net(path: PathLike) -> Any:
    """The NetParameter of a binary caffemodel without its blobs, not upgraded. Raises CaffeError."""
    return parse_without_blobs(path, caffe_pb2.NetParameter, "caffemodel", _HOLDS_BLOBS)


def write_caffemodel(
    path: PathLike,
    net: Any,
    blobs: Mapping[str, Arrays],
    diffs: Mapping[str, Arrays] | None = None,
    hdf5: bool | None = None,
) -> None:
    """Write weights as BVLC's Net::ToProto does, byte for byte; as Net::ToHDF5 does if hdf5 is true, or is None and the
    name ends in .h5.

    net: a NetParameter with current layers, including split layers; only its name and layers are written.
    blobs, diffs: layer name -> arrays. None among the blobs (shared, owned by another layer) is left out of HDF5.
    Raises CaffeError for more than protobuf's 2 GB, and then recommends HDF5."""
    if str(path).endswith(".h5") if hdf5 is None else hdf5:
        _write_caffemodel_hdf5(path, net, blobs, diffs)
        return

    pieces: list[Any] = [caffe_pb2.NetParameter(name=net.name).SerializeToString()] if net.HasField("name") else []
    for layer in net.layer:
        bare = caffe_pb2.LayerParameter()
        bare.CopyFrom(layer)
        bare.ClearField("blobs")
        inside = wire.by_number(bare.SerializeToString())
        of_layer: list[Any] = [part for number, part in inside.items() if number < _BLOBS]
        own_diffs = (diffs or {}).get(layer.name, ())
        for index, data in enumerate(blobs.get(layer.name, ())):
            if data is None:
                raise CaffeError(f"cannot write {path}: layer '{layer.name}', blob {index} is missing")
            diff = own_diffs[index] if index < len(own_diffs) else None
            of_layer += nested(_BLOBS, blob_pieces(data, diff))
        of_layer += [part for number, part in inside.items() if number > _BLOBS]
        pieces += nested(_NET_LAYER, of_layer)
    write_pieces(path, pieces)


@tried
def _read_caffemodel_hdf5(path: PathLike) -> list[LayerBlobs]:
    """Datasets data/<layer>/<i> and diff/<layer>/<i>, without layer types. A layer named a/b is a group in a group."""
    import h5py

    with hdf5_file(path, "r") as file:
        if not isinstance(file.get("data"), h5py.Group):
            raise CaffeError(f"{path}: not a caffemodel: it has no group data")
        layers: list[LayerBlobs] = []

        def visit(name: str, item: Any) -> None:
            if not isinstance(item, h5py.Group):
                return
            data = _indexed(item)
            if data or not any(isinstance(item[key], h5py.Group) for key in item):
                diff = _indexed(file.get(f"diff/{name}", {}))
                indices = range(1 + max([-1, *data, *diff]))
                layers.append(LayerBlobs(name, "", [data.get(i) for i in indices], [diff.get(i) for i in indices]))

        file["data"].visititems(visit)
    return layers


def _indexed(group: Any) -> dict[int, np.ndarray]:
    """The datasets named 0, 1, ... in a layer's group."""
    found = {}
    for key in group:
        if key.isdigit() and hasattr(group[key], "dtype"):
            if len(key) > 3:
                raise ValueError(f"{group.name}: blob number {key}")
            found[int(key)] = array_of(group[key])
    return found


def _write_caffemodel_hdf5(
    path: PathLike, net: Any, blobs: Mapping[str, Arrays], diffs: Mapping[str, Arrays] | None
) -> None:
    def fill(file: Any) -> None:
        for root, arrays in (("data", blobs), ("diff", diffs)):
            if arrays is None:
                continue
            group = file.create_group(root)
            for layer in net.layer:
                inside = group.require_group(layer.name)
                for index, array in enumerate(arrays.get(layer.name, ())):
                    if array is not None:
                        inside.create_dataset(str(index), data=np.asarray(array, "<f4"))

    write_hdf5(path, fill)
