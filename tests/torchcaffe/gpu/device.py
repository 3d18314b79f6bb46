"""The simulated GPU of device.cpp: building it, its counts, and what stands in for CUDA's streams and graphs."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.torchcaffe.gpu.recorded import Recorder, tape
from torchcaffe.base import context
from torchcaffe.gpu import mode

NAME = "sim:0"
SOURCE = Path(__file__).with_name("device.cpp")


class Counts(ctypes.Structure):
    """What device.cpp counts: copies to the device, and copies and looks to the host; allocations; and bytes."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("to_device", "to_host", "allocations", "bytes", "peak", "limit", "recording")
    ]


library: ctypes.CDLL
counts: Counts | None = None  # once the device is loaded


def missing() -> str:
    """Why the device cannot be built here; empty if it can."""
    return "" if shutil.which("g++") else "no g++ here, to build the simulated device (apt install g++)"


def load(folder: Path) -> None:
    """Build the device in `folder`, and register it with PyTorch for good. PyTorch's autograd must not have run yet: it
    starts its threads, one a device, in its first backward pass."""
    global counts, library
    if counts is not None:
        return
    root, built = Path(torch.__file__).parent, folder / "device.so"
    command = [
        "g++",
        "-O1",
        "-std=c++17",
        "-shared",
        "-fPIC",
        "-w",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{root}/include",
        f"-I{root}/include/torch/csrc/api/include",
        str(SOURCE),
        "-o",
        str(built),
        f"-L{root}/lib",
        "-lc10",
        "-ltorch_cpu",
    ]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(built))
    library.device_counts.restype = ctypes.POINTER(Counts)
    counts = library.device_counts().contents
    torch.utils.rename_privateuse1_backend("sim")
    module = types.ModuleType("torch.sim")
    vars(module).update(is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0)
    torch._register_device_module("sim", module)


def recording(recorder: Recorder) -> Callable[..., tuple[Any, Callable[[], None]]]:
    """What takes the place of torchcaffe.gpu.recording.cuda_graph: while it records, nothing may go from or to the
    host."""

    def graph(device: str, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        assert device == NAME and counts is not None
        counts.recording = 1
        try:
            return recorder(work)
        finally:
            counts.recording = 0

    return graph


@contextlib.contextmanager
def simulated(recorder: Recorder | None = tape) -> Iterator[Counts]:
    """Nets and solvers that are made now lie on the simulated device, in GPU mode; without a recorder they run eagerly.
    Gives the device's counts."""
    assert counts is not None
    Stream.main = Stream()
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (context, "device", lambda: NAME),
            (context, "on_made", [mode.wrap] if recorder else []),
            (mode, "cuda_graph", recorder and recording(recorder)),
            (torch.cuda, "Stream", Stream),
            (torch.cuda, "stream", on_stream),
            (torch.cuda, "current_stream", lambda _: Stream.main),
            (torch.Tensor, "pin_memory", lambda tensor: tensor),
            (torch.Tensor, "record_stream", lambda tensor, stream: None),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield counts
        counts.limit = 0


class Stream:
    """Stands in for torch.cuda.Stream: work on it is done at once. Counts for whom it has waited, and who for it."""

    main: Stream

    def __init__(self, device: str = NAME):
        assert device == NAME
        self.waits = self.synchronizations = 0

    def record_event(self) -> object:
        return object()

    def wait_event(self, event: object) -> None:
        self.waits += 1

    def synchronize(self) -> None:
        self.synchronizations += 1


@contextlib.contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    """In the place of torch.cuda.stream: this thread's work is not on the stream that may be recording."""
    library.device_beside(True)
    yield
    library.device_beside(False)
