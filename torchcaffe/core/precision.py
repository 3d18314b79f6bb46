"""The arithmetic of convolutions and inner products: strict float32, or faster and less exact.

Weights, blobs and all other operations are float32 at every precision."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from torchcaffe.base import context

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.convolution.default, _aten.convolution_backward.default, _aten.mm.default, _aten.addmm.default,
    _aten.bmm.default,
}  # fmt: skip


def _cast(values: Any, source: torch.dtype, target: torch.dtype) -> Any:
    return tree_map_only(torch.Tensor, lambda t: t.to(target) if t.dtype == source else t, values)


class _Bf16(TorchDispatchMode):
    """Run products on bfloat16 values, with bfloat16 results; their sums are float32."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is _aten.mm.out:
            return kwargs["out"].copy_(self._product(_aten.mm.default, args))
        if function is _aten.addmm_.default and not kwargs:
            return args[0].add_(self._product(_aten.mm.default, args[1:]))
        if function in _PRODUCTS:
            return self._product(function, args, **kwargs)
        return function(*args, **kwargs)

    def _product(self, function: Any, args: Any, **kwargs: Any) -> Any:
        result = function(*_cast(args, torch.float32, torch.bfloat16), **kwargs)
        return _cast(result, torch.bfloat16, torch.float32)


_PLAIN = contextlib.nullcontext()


def applied() -> contextlib.AbstractContextManager:
    """Compute in context.precision."""
    return _Bf16() if context.precision == "bf16" else _PLAIN
