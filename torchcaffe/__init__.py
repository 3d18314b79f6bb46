"""torchcaffe: pycaffe's API and Caffe's arithmetic on PyTorch. `import torchcaffe as caffe`.

Nothing here loads torch until the first use of a name that computes, so that the schema, NetSpec and the file formats
also work where no torch is."""

from __future__ import annotations

import importlib
from typing import Any

from torchcaffe.base.alias import ALIASES
from torchcaffe.base.alias import install_as_caffe as install_as_caffe

__version__ = "1.0.0"

# name -> the module that has it
_EXPORTS = {
    "Net": "nets.net",
    "layer_type_list": "nets.net",
    "Layer": "core.python_layer",
    "Solver": "solvers.solver",
    "SGDSolver": "solvers.solver",
    "NesterovSolver": "solvers.solver",
    "AdaGradSolver": "solvers.solver",
    "RMSPropSolver": "solvers.solver",
    "AdaDeltaSolver": "solvers.solver",
    "AdamSolver": "solvers.solver",
    "get_solver": "solvers.solver",
    "Classifier": "pycaffe.classifier",
    "Detector": "pycaffe.detector",
    "CaffeError": "base.errors",
    "set_mode_cpu": "base.context",
    "set_mode_gpu": "gpu.mode",
    "set_device": "base.context",
    "set_precision": "base.context",
    "allow_python_layers": "base.context",
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
    "NetSpec": "pycaffe.net_spec",
    "layers": "pycaffe.net_spec",
    "params": "pycaffe.net_spec",
    "to_proto": "pycaffe.net_spec",
}

_MODULES = {"proto": "torchcaffe.proto", "pycaffe": "torchcaffe.pycaffe"}
_MODULES.update((alias.partition(".")[2], module) for alias, module in ALIASES.items())

# What `from caffe import *` brings.
__all__ = sorted({*_EXPORTS, *_MODULES, "TRAIN", "TEST"} - {"_caffe", "layer"})


def __getattr__(name: str) -> Any:
    if name in ("TRAIN", "TEST"):
        from torchcaffe.proto import caffe_pb2

        return getattr(caffe_pb2, name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _EXPORTS:
        raise AttributeError(f"module 'torchcaffe' has no attribute '{name}'")
    return getattr(importlib.import_module(f"torchcaffe.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_MODULES, "TRAIN", "TEST"})
