"""The private functions of PyTorch that the engine uses. Where one is missing, plain operations take its place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_storage_use_count = getattr(torch._C, "_storage_Use_Count", None)
_fused_sgd = getattr(torch, "_fused_sgd_", None)
_int8_kernel = getattr(torch, "_weight_int8pack_mm", None)


def each(operation: str) -> Callable[..., list[Tensor]]:
    """An operation of tensors, for lists of them: each("add_")(tensors, others) adds to each tensor its other one.

    What is not a list (or a list of numbers) is the same for all."""
    kernel: Callable[..., list[Tensor]] | None = getattr(torch, "_foreach_" + operation, None)
    return functools.partial(_one_by_one, getattr(Tensor, operation)) if kernel is None else kernel


def _one_by_one(method: Callable[..., Tensor], tensors: list[Tensor], *others: Any, **same: Any) -> list[Tensor]:
    rows = [other if isinstance(other, list) else [other] * len(tensors) for other in others]
    return [method(*row, **same) for row in zip(tensors, *rows)]


def storage_users(tensor: Tensor) -> int | None:
    """The number of references to the tensor's storage; None where PyTorch doesn't tell."""
    return None if _storage_use_count is None else _storage_use_count(tensor.untyped_storage()._cdata)


@functools.lru_cache(maxsize=64)
def _divisor(value: float, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=torch.float32, device=device)  # (torch.tensor would wait for a GPU)


def sgd(
    weights: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    decay: float,
    momentum: float,
    divisor: float,
) -> None:
    """buffer = momentum buffer + (gradient / divisor + decay weight), weight -= buffer, all in place.

    On a CPU the plain operations give the fused kernel's bits, except in a tensor's last elements, which do not fill a
    vector register: there, and on a GPU, the kernel multiplies and adds with one rounding, which may change an ulp."""
    if _fused_sgd is not None:
        _fused_sgd(
            weights,
            gradients,
            buffers,
            weight_decay=decay,
            momentum=momentum,
            lr=1.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
            grad_scale=_divisor(divisor, weights[0].device),
        )
        return
    for weight, gradient, buffer in zip(weights, gradients, buffers):
        gradient.div_(divisor)
        buffer.mul_(momentum).add_(gradient.add(weight, alpha=decay))
        weight.sub_(buffer)


def int8_product(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, inputs) in bfloat16 times the transpose of weight (outputs, inputs) in int8, rounded to bfloat16.

    The plain operations convert the weight to float32 in each call, and add in another order than the kernel: a result
    may be rounded to the other neighbour."""
    if _int8_kernel is not None:
        return _int8_kernel(x, weight, torch.ones(len(weight), dtype=torch.bfloat16))
    return F.linear(x.float(), weight.float()).bfloat16()
