"""GPU mode: nets and solvers made in it compute on the current CUDA device, in recorded passes and updates."""

from __future__ import annotations

from functools import partial
from typing import Any

from torchcaffe.base import context
from torchcaffe.gpu.passes import RecordedPasses
from torchcaffe.gpu.recording import cuda_graph
from torchcaffe.gpu.update import RecordedUpdate
from torchcaffe.nets.net import Net


def set_mode_gpu() -> None:
    """Compute on the current CUDA device. Raises CaffeError if there is none; nothing falls back to the CPU."""
    context.use_gpu()
    if wrap not in context.on_made:
        context.on_made.append(wrap)


def wrap(made: Any) -> None:
    """Record the passes of a new net, or the updates of a new solver, that is on a GPU."""
    if isinstance(made, Net):
        if made.device != "cpu":
            made.passes = RecordedPasses(made.graph, partial(cuda_graph, made.device))
    elif made.net.device != "cpu":
        made.update = RecordedUpdate(made.rule, partial(cuda_graph, made.net.device))
