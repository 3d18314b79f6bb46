"""caffe.Layer: the base class of users' Python layers, and the type of every layer of a net in pycaffe.

It has `type` and `blobs` only, since users may give their own attributes any other name."""

from __future__ import annotations

import numpy as np

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blobs, BlobVec, Parameter
from torchcaffe.proto.caffe_pb2 import LayerParameter


class Layer:
    """A layer of a net. A Python layer defines setup, reshape and forward, each of (bottom, top), and
    backward(top, propagate_down, bottom). `param_str` and `phase` are set before setup."""

    phase: int
    param_str: str

    def __init__(self, layer_param: LayerParameter):
        if not isinstance(layer_param, LayerParameter):
            raise TypeError(f"a layer is made from a LayerParameter, not from {layer_param!r}")
        self._caffe_blobs = given_blobs(layer_param, context.device())

    @property
    def type(self) -> str:
        """The layer's type name."""
        return "Python"

    @property
    def blobs(self) -> BlobVec:
        """The layer's parameters."""
        return self._caffe_blobs

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        """Read the parameters, add the blobs and fill them. Called once, before the first reshape."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        """Set the tops' shapes. Called before a forward whenever a bottom's shape has changed."""
        raise CaffeError(f"layer type {self.type} has no reshape")


def given_blobs(layer_param: LayerParameter, device: str) -> BlobVec:
    """The blobs that a prototxt itself holds; fillers draw nothing for these."""
    found = BlobVec()
    for index, stored in enumerate(layer_param.blobs):
        legacy = ("num", "channels", "height", "width")
        old = any(map(stored.HasField, legacy))
        shape = tuple(getattr(stored, field) for field in legacy) if old else tuple(stored.shape.dim)
        found.append(Parameter(*shape, device=device))
        values = stored.double_data or stored.data
        if len(values) != found[-1].count:
            raise CaffeError(f"blobs: blob {index} has {len(values)} values, its shape {shape} {found[-1].count}")
        found[-1].load(np.array(values))
    return found
