"""A net's weights: read from files, written to files, shared with another net."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, hdf5
from torchcaffe.formats.blobproto import same_shape
from torchcaffe.formats.files import PathLike
from torchcaffe.nets.graph import Graph
from torchcaffe.proto.caffe_pb2 import NetParameter


def copy_from(graph: Graph, path: PathLike) -> None:
    """Copy the parameters of same-named layers from a .caffemodel (protobuf or HDF5); others are left alone."""
    path = os.fspath(path)
    from_hdf5 = hdf5.is_hdf5(path)
    owners = {id(record.blob) for record in graph.parameters}
    layers = graph.first_of_each_name()
    for source in caffemodel.read_caffemodel(path):
        if source.name not in layers:
            log.info("net.cpp:801" if from_hdf5 else "net.cpp:746", f"Ignoring source layer {source.name}")
            continue
        targets = layers[source.name].blobs
        where = f"{path}: layer '{source.name}'"
        blobs = list(source.blobs)
        if from_hdf5:  # which leaves out parameters that another layer owns
            blobs += [None] * (len(targets) - len(blobs))
        if len(targets) != len(blobs):
            raise CaffeError(f"{where}: holds {len(blobs)} blob(s), the net's layer has {len(targets)}")
        for index, (target, values) in enumerate(zip(targets, blobs)):
            if values is None:
                if id(target) in owners:
                    raise CaffeError(f"{where}: blob {index} is not in the file")
                continue
            if not same_shape(values.shape, target.shape):
                raise CaffeError(
                    f"{where}: blob {index}: shape {values.shape} does not fit the net's {target.shape} "
                    "(rename the layer to learn it from scratch)"
                )
            target.load(values)


def save(graph: Graph, path: PathLike, hdf5: bool) -> None:
    """Write a .caffemodel. HDF5 holds a shared parameter once, at its owner; the binary format at every layer."""
    owners = {id(record.blob.data_memory): record.blob for record in graph.parameters}
    arrays: dict[str, Sequence[np.ndarray | None]] = {
        node.name: [None if hdf5 and owners.get(id(b.data_memory), b) is not b else b.data for b in node.layer.blobs]
        for node in graph.nodes
        if node.layer.blobs
    }
    caffemodel.write_caffemodel(os.fsdecode(path), to_proto(graph), arrays, hdf5=hdf5)


def to_proto(graph: Graph) -> NetParameter:
    """Return the net as BVLC writes it into a caffemodel (filtered, split), without its blobs."""
    param = NetParameter(name=graph.name)
    for node in graph.nodes:
        param.layer.add().CopyFrom(node.layer.layer_param)
        param.layer[-1].ClearField("blobs")
    return param


def share(graph: Graph, other: Graph) -> None:
    """Use the other net's parameters in same-named layers: both nets have one memory from then on."""
    layers = graph.first_of_each_name()
    for node in other.nodes:
        if node.name not in layers:
            log.info("net.cpp:678", f"Ignoring source layer {node.name}")
            continue
        mine, theirs = layers[node.name].blobs, node.layer.blobs
        where = f"{graph.source}: layer '{node.name}'"
        if len(mine) != len(theirs):
            raise CaffeError(f"{where}: {len(mine)} blob(s) here, {len(theirs)} there")
        for index, (target, source) in enumerate(zip(mine, theirs)):
            if target.shape != source.shape:
                raise CaffeError(f"{where}: blob {index}: cannot share {source.shape} with {target.shape}")
            target.share_data(source)
