"""The engines of a benchmark. `start` makes one of them in a process of its own, and `ask` measures it there."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.run import engine as engines
from ilgnet.run import remote

Run = Callable[[], Any]

# Repeated, since photos are scored one after another: no other program has used the cache in between.
ROUND = 0.25


@dataclass
class Job:
    """A task of benchmark.TASKS for a variant's net, and its files: a deploy net, a solver, a caffemodel (weights) and,
    for ONNX Runtime, a model."""

    variant: str
    task: str
    batch: int
    crop: int
    threads: int
    gpu: int | None = None
    weights: Path | None = None
    net: Path | None = None
    solver: Path | None = None
    onnx: Path | None = None

    @property
    def trunk(self) -> str:
        return "frozen" if self.task == "frozen" else "finetune"

    def trains(self) -> bool:
        return self.task in ("train", "frozen")

    def photos(self) -> np.ndarray:
        """The same made-up input for every engine: (batch, 3, crop, crop) float32, without the mean."""
        shape = (self.batch, 3, self.crop, self.crop)
        return (np.random.RandomState(0).randint(0, 256, shape) - 117).astype(np.float32)


def pycaffe(caffe: Any, job: Job) -> tuple[Any, ...]:
    """By pycaffe's API: the net, with weights and input, and what is timed: an object, its method, and arguments."""
    work: tuple[Any, ...]
    if job.trains():
        solver = caffe.get_solver(job.solver)  # whose net makes its own data
        net, work = solver.net, (solver, "step", 1)
    else:
        net = caffe.Net(job.net, caffe.TEST)
        work = (net, "copy_from", str(job.weights)) if job.task == "load" else (net, "forward")
    net.copy_from(job.weights)
    data, x = net.blobs["data"], job.photos()
    data.reshape(*x.shape)
    data.data[...] = x
    return net, *work


def torchcaffe(job: Job, precision: str | None = None) -> Run:
    import torch

    torch.set_num_threads(job.threads)
    net, made, method, *args = pycaffe(engines.load_engine("torch", job.gpu), job)
    if precision:
        net.reduce_weights(precision)
    x = job.photos()

    def run() -> np.ndarray | None:
        if method == "forward":
            net.blobs["data"].data[...] = x
        answers = getattr(made, method)(*args)
        if job.trains() and job.gpu is not None:
            torch.cuda.synchronize()
        return next(iter(answers.values())) if answers else None

    return run


def opencv(job: Job) -> Run:
    import cv2

    cv2.setNumThreads(job.threads)
    net = cv2.dnn.readNetFromCaffe(str(job.net), str(job.weights))
    x = job.photos()

    def run() -> np.ndarray:
        net.setInput(x)
        return net.forward()

    return run


def onnxruntime(job: Job) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(str(job.onnx), options, providers=["CPUExecutionProvider"])
    name, x = session.get_inputs()[0].name, job.photos()
    return lambda: session.run(None, {name: x})[0]


def pytorch(job: Job) -> Run:
    """Plain PyTorch: eager, NCHW, torch's own layers, autograd and SGD."""
    import torch
    import torch.nn.functional as F

    from ilgnet.bench.plain_pytorch import PlainNet

    torch.set_num_threads(job.threads)
    device = "cpu" if job.gpu is None else f"cuda:{job.gpu}"
    model = PlainNet(str(job.net), str(job.weights)).to(device)
    x = torch.from_numpy(job.photos()).to(device)
    if not job.trains():
        model.eval()

        def forward() -> np.ndarray:
            with torch.inference_mode():
                return model(x).cpu().numpy()

        return forward
    model.train()
    label = torch.ones(job.batch, dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, weight_decay=2e-4)

    def iterate() -> None:
        optimizer.zero_grad()
        F.nll_loss(model(x).clamp_min(1e-30).log(), label).backward()
        optimizer.step()
        if job.gpu is not None:
            torch.cuda.synchronize()

    return iterate


KINDS: dict[str, Callable[..., Run]] = {f.__name__: f for f in (torchcaffe, opencv, onnxruntime, pytorch)}


class Engine:
    """An engine that works in this process."""

    def __init__(self, run: Run):
        self.run = run
        self.answer = run()  # the first run also allocates

    def seconds(self) -> float:
        """The median time of the work, repeated for ROUND seconds, at least once."""
        times: list[float] = []
        while sum(times) < ROUND:
            start = time.perf_counter()
            self.answer = self.run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def output(self) -> np.ndarray:
        """The net's answer."""
        return np.asarray(self.answer)

    def peak_memory(self) -> int:
        """VmHWM, the process's largest resident size, in bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


class Bvlc:
    """Real Caffe, timed inside its own process."""

    def __init__(self, job: Job):
        self.caffe = caffe = remote.Caffe(threads=job.threads, coretype=fastest_kernel())
        caffe.set_mode_cpu()
        self.net, *self.work = pycaffe(caffe, job)
        caffe.timed(*self.work, seconds=0)  # the first run also allocates

    def seconds(self) -> float:
        return self.caffe.timed(*self.work, seconds=ROUND)

    def output(self) -> np.ndarray:
        return np.asarray(self.net.blobs[self.net.outputs[0]].data)

    def peak_memory(self) -> int:
        return self.caffe.peak_memory()


def fastest_kernel() -> str:
    """The fastest kernel of BVLC's OpenBLAS here: on CPUs newer than itself, it selects its slowest."""
    words = set(Path("/proc/cpuinfo").read_text().split())  # the CPU's flags are among them
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= words:
        return "SkylakeX"
    return "Haswell" if "avx2" in words else "Nehalem"


engine: Engine | Bvlc


def start(kind: str, job: Job) -> None:
    """Make this process's engine."""
    global engine
    os.environ.update(GLOG_minloglevel="3", OMP_NUM_THREADS=str(job.threads))
    name, *precision = kind.split("-")
    engine = Bvlc(job) if name == "bvlc" else Engine(KINDS[name](job, *precision))


def ask(method: str) -> Any:
    return getattr(engine, method)()
