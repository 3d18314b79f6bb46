"""torchcaffe: pycaffe's API and Caffe's arithmetic on PyTorch. `import torchcaffe as caffe`.

Nothing here loads torch until the first use of a name that computes, so that the schema, NetSpec and the file formats
also work where no torch is."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from typing import Any

__version__ = "1.0.0"

# name -> module that has it (None: the module of that name itself)
_EXPORTS = {
    "Net": "net",
    "layer_type_list": "net",
    "Layer": "python_layer",
    "Solver": "solver",
    "SGDSolver": "solver",
    "NesterovSolver": "solver",
    "AdaGradSolver": "solver",
    "RMSPropSolver": "solver",
    "AdaDeltaSolver": "solver",
    "AdamSolver": "solver",
    "get_solver": "solver",
    "Classifier": "classifier",
    "Detector": "detector",
    "CaffeError": "errors",
    "set_mode_cpu": "context",
    "set_mode_gpu": "context",
    "set_device": "context",
    "set_precision": "context",
    "allow_python_layers": "context",
    "set_random_seed": "pycaffe",
    "solver_count": "pycaffe",
    "solver_rank": "pycaffe",
    "set_solver_count": "pycaffe",
    "set_solver_rank": "pycaffe",
    "set_multiprocess": "pycaffe",
    "init_log": "pycaffe",
    "has_nccl": "pycaffe",
    "NCCL": "pycaffe",
    "Timer": "pycaffe",
    "NetSpec": "net_spec",
    "layers": "net_spec",
    "params": "net_spec",
    "to_proto": "net_spec",
    "_caffe": None,
    "classifier": None,
    "coord_map": None,
    "detector": None,
    "draw": None,
    "io": None,
    "log": None,
    "net_spec": None,
    "proto": None,
    "pycaffe": None,
}

__all__ = sorted([*(_EXPORTS.keys() - {"_caffe"}), "TRAIN", "TEST"])  # what `from caffe import *` brings


def __getattr__(name: str) -> Any:
    if name in ("TRAIN", "TEST"):
        from torchcaffe.proto import caffe_pb2

        return getattr(caffe_pb2, name)
    if name not in _EXPORTS:
        raise AttributeError(f"module 'torchcaffe' has no attribute '{name}'")
    module = importlib.import_module(f"torchcaffe.{_EXPORTS[name] or name}")
    return getattr(module, name) if _EXPORTS[name] else module


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS, "TRAIN", "TEST"])


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `caffe` and `caffe.X` as torchcaffe's modules."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "caffe" and not name.startswith("caffe."):
            return None
        try:
            importlib.import_module("torchcaffe" + name[5:])
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("torchcaffe"):
                return None
            raise
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec: Any) -> Any:
        return sys.modules["torchcaffe" + spec.name[5:]]

    def exec_module(self, module: Any) -> None:
        """The module is loaded already."""


def install_as_caffe() -> None:
    """Make `import caffe`, `from caffe.proto import caffe_pb2` and so on mean this engine, in this process."""
    if not any(isinstance(finder, _Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Alias())
