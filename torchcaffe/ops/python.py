"""Python: layers that users write."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError
from torchcaffe.core import python_layer
from torchcaffe.core.layer import Layer, layer
from torchcaffe.proto import caffe_pb2


def _of_user(name: str) -> Callable[..., None]:
    """The method that calls the user's of this name, who may compute with torch."""

    def method(self: Python, *arguments: list) -> None:
        with torch.enable_grad():
            getattr(self.user, name)(*arguments)

    return method


@layer()
class Python(Layer):
    """A subclass of caffe.Layer, named by python_param's module and layer. Its exceptions are not caught.

    `user` is its instance (what Net.layers shows), with param_str, phase and blobs. It is a separate object so that its
    attributes cannot collide with the engine's."""

    reshape_always = True
    recordable = False
    errors = ()

    def __init__(self, layer_param: caffe_pb2.LayerParameter, device: str | None = None):
        super().__init__(layer_param, device)
        self.user: Any = _find(self.p)(layer_param)  # with methods of its own
        self.user.param_str = self.p.param_str
        self.user.phase = int(self.phase)
        self._caffe_blobs = self.user._caffe_blobs

    setup, reshape, forward, backward = map(_of_user, ("setup", "reshape", "forward", "backward"))

    def close(self) -> None:
        close = getattr(self.user, "close", None)
        if callable(close):
            close()


def _find(p: caffe_pb2.PythonParameter) -> type[python_layer.Layer]:
    """The class that a prototxt names.

    A prototxt alone must not run code: without permission, the module must be one that the program has imported."""
    named = f"python_param: layer '{p.layer}' of module '{p.module}'"
    module: ModuleType | None
    if context.python_layers_allowed:
        if not p.module or p.module.startswith("."):
            raise CaffeError(f"{named}: give the module's whole name")
        try:
            module = importlib.import_module(p.module)
        except ModuleNotFoundError as error:
            if error.name is None or p.module != error.name and not p.module.startswith(error.name + "."):
                raise  # the module exists, one that it imports does not
            raise CaffeError(f"{named}: there is no such module on Python's path") from None
    else:
        module = sys.modules.get(p.module)
    cls = getattr(module, p.layer, None)
    if isinstance(cls, type) and issubclass(cls, python_layer.Layer):
        # The engine's own layers cannot be made so; Python would make itself without end.
        if issubclass(cls, Layer) or cls is python_layer.Layer:
            raise CaffeError(f"{named}: the engine's own; a Python layer is a user's class")
        return cls
    if context.python_layers_allowed:
        raise CaffeError(f"{named}: no such subclass of caffe.Layer")
    raise CaffeError(
        f"{named}: not imported without permission: torchcaffe.allow_python_layers(True) or --allow-python-layers"
    )
