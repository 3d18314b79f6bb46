"""Python: layers that users write."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.core import python_layer
from torchcaffe.core.blob import Blob
from torchcaffe.core.layer import Layer, layer
from torchcaffe.proto import caffe_pb2


@layer()
class Python(Layer):
    """A class that subclasses caffe.Layer, named by python_param's module and layer; exceptions of its own surface.

    `user` is the instance (what Net.layers shows); it has param_str, phase and blobs. It is kept apart from this
    layer, so that no attribute it sets meets one of the engine's."""

    reshape_always = True
    recordable = False

    def __init__(self, layer_param: caffe_pb2.LayerParameter, device: str | None = None):
        super().__init__(layer_param, device)
        self.user: Any = _find(self.p)(layer_param)  # with methods of its own
        self.user.param_str = self.p.param_str
        self.user.phase = int(self.phase)
        self._caffe_blobs = self.user._caffe_blobs

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        with torch.enable_grad():  # for users who compute with torch
            self.user.setup(bottom, top)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        with torch.enable_grad():
            self.user.reshape(bottom, top)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        with torch.enable_grad():
            self.user.forward(bottom, top)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        with torch.enable_grad():
            self.user.backward(top, propagate_down, bottom)

    def close(self) -> None:
        close = getattr(self.user, "close", None)
        if callable(close):
            close()


def _find(p: caffe_pb2.PythonParameter) -> type[python_layer.Layer]:
    """The class that a prototxt names. A file alone must not start code: without permission only a Layer of a module
    that the program has imported itself."""
    named = f"python_param: layer '{p.layer}' of module '{p.module}'"
    if context.python_layers_allowed:
        if not p.module or p.module.startswith("."):
            raise CaffeError(f"{named}: give the module's whole name")
        try:
            module = importlib.import_module(p.module)
        except ModuleNotFoundError as error:
            if error.name is None or p.module != error.name and not p.module.startswith(error.name + "."):
                raise  # the module is there, one that it imports is not
            raise CaffeError(f"{named}: there is no such module on Python's path") from None
    else:
        module = sys.modules.get(p.module)
    cls = getattr(module, p.layer, None)
    if isinstance(cls, type) and issubclass(cls, python_layer.Layer):
        # The engine's own are made otherwise; this one would make itself, and that one again.
        if issubclass(cls, Layer) or cls is python_layer.Layer:
            raise CaffeError(f"{named}: the engine's own; a Python layer is a user's class")
        return cls
    if not context.python_layers_allowed:
        raise CaffeError(
            f"{named}: not imported without permission: torchcaffe.allow_python_layers(True) or --allow-python-layers"
        )
    raise CaffeError(f"{named}: " + ("no such class" if cls is None else "not a subclass of caffe.Layer"))
