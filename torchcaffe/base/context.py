"""What Caffe keeps per process: mode, device, random stream, solver count and rank, permission to run Python layers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

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


def set_mode_cpu() -> None:
    """Compute on the CPU (the default)."""
    global gpu
    gpu = False


def set_mode_gpu() -> None:
    """Compute on the current CUDA device. Raises CaffeError when there is none: nothing falls back to the CPU."""
    global gpu
    check_gpu(device_id)
    _make_current(device_id)
    gpu = True
    set_precision(precision)


def set_precision(name: str) -> None:
    """How convolutions and inner products compute: "fp32" (the default) strictly in float32; "tf32", on a GPU, on
    values rounded to 10 bits behind the point; "bf16" on values rounded to 7, and so is what comes out. CaffeError for
    other names."""
    global precision
    if name not in PRECISIONS:
        raise CaffeError(f"precision '{name}': one of {', '.join(PRECISIONS)} expected")
    precision = name
    if gpu:
        import torch

        # (PyTorch's own default is tf32 for convolutions.)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        # Shapes stay the same: the fastest algorithm is worth a search. But one found by the clock is not the same in
        # every process, and at full precision a run goes on to the same bits.
        torch.backends.cudnn.benchmark = name != "fp32"


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Let numbers below 1.2e-38 count as 0 on this thread, and on those that start meanwhile. For programs that train.

    A softmax that is sure of itself gives gradients that small, which CPUs are many times slower with: they made an
    iteration of ILGNet from random weights 2.6 times as long."""
    try:
        import torch
    except ImportError:  # then it is real Caffe that trains
        yield
        return
    import numpy as np

    for kind in (np.float32, np.float64):
        np.finfo(kind)  # NumPy looks at these numbers once, and warns where there are none
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def set_device(index: int) -> None:
    """Choose the CUDA device (for nets made from now on)."""
    global device_id
    check_gpu(index)
    _make_current(index)
    device_id = index


def _make_current(index: int) -> None:
    """Let whatever names no device (a synchronisation, a communicator) mean this one."""
    import torch

    torch.cuda.set_device(index)


def check_gpu(index: int) -> None:
    """Raise CaffeError unless CUDA device `index` is there."""
    import torch

    if not torch.cuda.is_available():
        raise CaffeError("GPU mode: this PyTorch sees no CUDA device (use CPU mode, or install a CUDA build of torch)")
    if not 0 <= index < torch.cuda.device_count():
        raise CaffeError(f"GPU {index}: this machine has {torch.cuda.device_count()} CUDA device(s)")


def device() -> str:
    """The torch device that new nets compute on: "cpu" or "cuda:N"."""
    return f"cuda:{device_id}" if gpu else "cpu"


def allow_python_layers(allowed: bool = True) -> None:
    """Let a prototxt's Python layers import their module. Off by default: a prototxt alone must not start code.

    Such modules say `import caffe`, so from then on that means this engine (unless a real pycaffe is imported)."""
    global python_layers_allowed
    python_layers_allowed = bool(allowed)
    if allowed and "caffe" not in sys.modules:
        install_as_caffe()


def world_size() -> int:
    """How many processes torchrun started. CaffeError where the environment says something else."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise CaffeError(f"WORLD_SIZE={text} in the environment: must be a number of processes, as torchrun sets it")
    return int(text)
