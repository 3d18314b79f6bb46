"""Whether anything else refers to an object: the one place that depends on CPython's counts of references.

Tested on CPython 3.10 to 3.13 with the global lock. Elsewhere (PyPy, free-threaded or newer versions) nothing is known:
then no tensor is overwritten in place and nothing computed from weights is kept, which is slower and gives the same
numbers."""

from __future__ import annotations

import sys
import sysconfig
from types import SimpleNamespace

import torch
from torch import Tensor

from torchcaffe.core import private_torch


def _count(value: object) -> int:
    return sys.getrefcount(value)


_sample = SimpleNamespace(tensor=torch.empty(1))
_COUNTED = (
    sys.implementation.name == "cpython"
    and (3, 10) <= sys.version_info < (3, 14)
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
_ALONE = _count(_sample.tensor) if _COUNTED else None  # what _count returns for the value of one attribute alone
_UNSHARED = private_torch.storage_users(_sample.tensor)  # None where PyTorch doesn't tell


def alone(value: object) -> bool:
    """Whether an attribute is all that refers to this value: call it as alone(self.attribute). False if unknown."""
    return _ALONE is not None and sys.getrefcount(value) == _ALONE


def unshared(tensor: Tensor) -> bool:
    """Whether no other tensor or array lies in the tensor's storage. False if unknown."""
    return _UNSHARED is not None and private_torch.storage_users(tensor) == _UNSHARED
