"""Caffe's process-wide state: mode, device, precision, solver count and rank, permission for Python layers."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torchcaffe.base.alias import install_as_caffe
from torchcaffe.base.errors import CaffeError

gpu = False
device_id = 0
solver_count = 1
solver_rank = 0
multiprocess = False
python_layers_allowed = False
PRECISIONS = ("fp32", "tf32", "bf16")  # that convolutions and inner products compute in
ROUNDED = ("bf16", "int8")  # what a net that scores may keep the weights of large inner products in
precision = "fp32"
on_made: list[Callable[[Any], None]] = []  # called with each net and solver that is made


def set_mode_cpu() -> None:
    """Compute on the CPU (the default)."""
    global gpu
    gpu = False


def use_gpu() -> None:
    """What torchcaffe.gpu.mode.set_mode_gpu sets here."""
    global gpu
    check_gpu(device_id)
    _make_current(device_id)
    gpu = True
    set_precision(precision)


def set_precision(name: str) -> None:
    """Set the precision of convolutions and inner products: "fp32" (the default) is float32 throughout; "tf32" rounds
    inputs to 10 bits of mantissa, on a GPU; "bf16" rounds inputs and outputs to 7. CaffeError for other names."""
    global precision
    if name not in PRECISIONS:
        raise CaffeError(f"precision '{name}': one of {', '.join(PRECISIONS)} expected")
    precision = name
    if gpu:
        import torch

        # PyTorch's default is tf32 for convolutions.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        # Shapes stay the same, so a search for the fastest algorithm pays. But its result differs between processes,
        # and at full precision a resumed run must compute the same bits.
        torch.backends.cudnn.benchmark = name != "fp32"


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Treat denormal numbers (below 1.2e-38) as 0 on this thread and on threads started meanwhile, for training.

    A confident softmax produces gradients that small, and CPUs compute with them many times slower: iterations of
    ILGNet from random weights took 2.6 times as long."""
    try:
        import torch
    except ImportError:  # then real Caffe trains
        yield
        return
    import numpy as np

    for kind in (np.float32, np.float64):
        np.finfo(kind)  # NumPy examines denormals once, and would warn if they are flushed
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def set_device(index: int) -> None:
    """Choose the CUDA device for nets made from now on."""
    global device_id
    check_gpu(index)
    _make_current(index)
    device_id = index


def _make_current(index: int) -> None:
    """Make this PyTorch's default device, which synchronisation and communicators use."""
    import torch

    torch.cuda.set_device(index)


def check_gpu(index: int) -> None:
    """Raise CaffeError unless CUDA device `index` exists."""
    import torch

    if not torch.cuda.is_available():
        raise CaffeError("GPU mode: this PyTorch sees no CUDA device (use CPU mode, or install a CUDA build of torch)")
    if not 0 <= index < torch.cuda.device_count():
        raise CaffeError(f"GPU {index}: this machine has {torch.cuda.device_count()} CUDA device(s)")


def device() -> str:
    """The torch device that new nets compute on: "cpu" or "cuda:N"."""
    return f"cuda:{device_id}" if gpu else "cpu"


def allow_python_layers(allowed: bool = True) -> None:
    """Let a prototxt's Python layers import their module. Off by default: a prototxt alone must not run code.

    Such modules `import caffe`, which then means this engine, unless a real pycaffe is imported already."""
    global python_layers_allowed
    python_layers_allowed = bool(allowed)
    if allowed and "caffe" not in sys.modules:
        install_as_caffe()


def world_size() -> int:
    """The number of processes that torchrun started. Raises CaffeError for an environment that is not torchrun's."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise CaffeError(f"WORLD_SIZE={text} in the environment: expected the number of processes that torchrun sets")
    return int(text)
