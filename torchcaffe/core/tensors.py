"""Small help with tensors."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def shaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """tensor.reshape(shape), or the tensor itself if it has the shape: a view would share its storage (see
    Memory.owned)."""
    return tensor if tensor.shape == tuple(shape) else tensor.reshape(shape)


@functools.lru_cache(maxsize=256)
def scalar(value: float) -> Tensor:
    """A number as a tensor of no axes, to multiply or divide by, on any device: PyTorch takes three times as long with
    Python's numbers. Must not be written to."""
    return torch.full((), value, dtype=torch.float32)
