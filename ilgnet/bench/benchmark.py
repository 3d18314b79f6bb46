"""Benchmarks of the nets on torchcaffe and other engines, interleaved, after a check that the answers are the same."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ilgnet.bench.worker import ROUND, photos
from ilgnet.evaluate.results import Timed
from ilgnet.figures import summary
from ilgnet.nets import emit
from ilgnet.photos import decode, preprocess
from ilgnet.run import bvlc, remote
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, format_text

WORKER = Path(__file__).with_name("worker.py")
PEERS = {  # the other engines for each task
    "train": ("bvlc", "pytorch"),
    "frozen": ("bvlc",),
    "test": ("bvlc", "opencv", "onnxruntime", "pytorch"),
    "test1": ("bvlc", "opencv", "onnxruntime", "pytorch"),
    "load": ("bvlc",),
}
TASKS = {
    "train": "an iteration",
    "frozen": "an iteration with a frozen trunk",
    "test": "a batch",
    "test1": "one photo at a time",
    "load": "reading a caffemodel into an existing net",
}
# How often an iteration reads or writes each weight or its gradient or history: forward and backward read the weight,
# backward writes the gradient, the update reads all three and writes weight and history.
PASSES = 8


@dataclass
class Timing:
    """Seconds of each round of an engine at a task, its peak memory, and the difference of its answer from ours."""

    engine: str
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    difference: float | None = None

    def median(self) -> float:
        return statistics.median(self.seconds)

    def spread(self) -> float:
        """Half the interquartile range over the median."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / 2 / self.median()
        q1, _, q3 = statistics.quantiles(self.seconds, n=4)
        return (q3 - q1) / 2 / self.median()


def fastest_kernel() -> str:
    """The fastest kernel of BVLC's OpenBLAS here: on CPUs newer than itself, it selects its slowest."""
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split())
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if "avx2" in flags else "Nehalem"


class Worker:
    """An engine's process (see worker.py)."""

    def __init__(self, kind: str, spec: Path, threads: int):
        self.kind = kind
        self.log = open(f"{spec}.{kind}.log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), kind, str(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "GLOG_minloglevel": "3", "OMP_NUM_THREADS": str(threads)},
        )
        self._read("ready")

    def _read(self, what: str) -> str:
        line = _pipe(self.process.stdout).readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise CaffeError(f"benchmark: {self.kind} stopped at {what}: {bvlc.fatal_line(self.log.read())}")
        return line

    def ask(self, word: str) -> Any:
        print(word, file=self.process.stdin, flush=True)
        answer = json.loads(self._read(word))
        return np.load(answer) if word == "output" else answer

    def close(self) -> None:
        _pipe(self.process.stdin).close()
        self.process.wait()
        self.log.close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class BvlcWorker:
    """Real Caffe, timed inside its own process as the other engines are."""

    def __init__(self, spec_path: Path, threads: int):
        spec = json.loads(spec_path.read_text())
        self.caffe = caffe = remote.Caffe(threads=threads, coretype=fastest_kernel())
        caffe.set_mode_cpu()
        self.work: tuple[Any, ...]
        if spec["task"] in ("train", "frozen"):
            solver = caffe.get_solver(spec["solver"])
            self.net, self.work = solver.net, (solver, "step", 1)
        else:
            self.net = caffe.Net(spec["net"], caffe.TEST)
            self.work = (self.net, "copy_from", spec["weights"]) if spec["task"] == "load" else (self.net, "forward")
        self.net.copy_from(spec["weights"])
        data = self.net.blobs["data"]
        data.reshape(spec["batch"], 3, spec["crop"], spec["crop"])
        data.data[...] = photos(spec["batch"], spec["crop"])
        self.caffe.timed(*self.work, seconds=0)  # the first run also allocates

    def ask(self, word: str) -> Any:
        if word == "run":
            return self.caffe.timed(*self.work, seconds=ROUND)
        if word == "memory":
            return self.caffe.peak_memory()
        return np.asarray(self.net.blobs[self.net.outputs[0]].data)

    def close(self) -> None:
        self.caffe.close()


def training_net(choice: emit.Choice) -> caffe_pb2.NetParameter:
    """The training net with blobs in memory instead of LMDBs, so that reading is not timed."""
    net = emit.train_val(choice)
    made = caffe_pb2.NetParameter(name=net.name)
    data = made.layer.add(name="data", type="DummyData", top=["data", "label"])
    data.dummy_data_param.shape.add(dim=[choice.batch_size, 3, choice.crop, choice.crop])
    data.dummy_data_param.shape.add(dim=[choice.batch_size])
    for value in (0.0, 1.0):
        data.dummy_data_param.data_filler.add(type="constant", value=value)
    made.layer.extend([layer for layer in net.layer if layer.type != "Data"])
    return made


def initial_weights(net: Path, out: Path, soft: bool) -> None:
    """Write a caffemodel of the fillers' weights, with BatchNorm's mean 0 and variance 1.

    soft: make the last layers so small that the softmax stays undecided. A certain softmax makes most gradients
    denormal, which slows every engine down by up to three times."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    import torchcaffe as caffe

    caffe.set_random_seed(1)
    made = caffe.Net(net, caffe.TRAIN)
    producers = {top: name for name, tops in made.top_names.items() for top in tops}
    for layer in made.layers:
        if layer.type == "BatchNorm":
            layer.blobs[1].data[...] = layer.blobs[2].data[...] = 1
        if soft and layer.type == "SoftmaxWithLoss":
            made.params[producers[layer.layer_param.bottom[0]]][0].data[...] *= 0.01
    made.save(out)


@dataclass
class Job:
    """A task of TASKS for a net. weights: a caffemodel, by default the fillers' weights."""

    variant: str
    task: str
    batch: int
    crop: int
    threads: int
    gpu: int | None = None
    weights: Path | None = None

    @property
    def trunk(self) -> str:
        return "frozen" if self.task == "frozen" else "finetune"


def prepare(job: Job, folder: Path, onnx: bool = False) -> Path:
    """Write a job's files; returns the spec that the workers read."""
    choice = emit.Choice(variant=job.variant, batch_size=job.batch, crop=job.crop, trunk=job.trunk)
    stem = str(folder / f"{job.variant}_{job.trunk}_{job.batch}")
    deploy, training, solver = (Path(stem + end) for end in ("_deploy.prototxt", "_train.prototxt", "_solver.prototxt"))
    deploy.write_text(format_text(emit.deploy(choice)))
    training.write_text(format_text(training_net(choice)))
    weights = job.weights
    if weights is None:
        soft = job.task in ("train", "frozen")
        weights = folder / f"{job.variant}{'_soft' * soft}.caffemodel"
        if not weights.exists():
            initial_weights(training, weights, soft)
    solver.write_text(
        f'net: "{training}"\nbase_lr: 1e-9\nlr_policy: "fixed"\nmomentum: 0.9\nweight_decay: 0.0002\n'
        "max_iter: 1000000\n"
        f'snapshot_prefix: "{folder}/unused"\nrandom_seed: 1\nsolver_mode: {"CPU" if job.gpu is None else "GPU"}\n'
    )
    spec = {**asdict(job), "net": str(deploy), "weights": str(weights), "solver": str(solver)}
    if onnx:
        from ilgnet.export import onnx_export

        model = folder / f"{job.variant}.onnx"
        spec["onnx"] = str(model)
        if not model.exists():
            onnx_export.write(onnx_export.export(onnx_export.load(emit.deploy(choice), deploy, weights)), model)
    path = Path(f"{stem}_{job.task}.json")
    path.write_text(json.dumps(spec))
    return path


def compete(job: Job, spec: Path, engines: Sequence[str], rounds: int) -> list[Timed]:
    """Time the engines at a job, a round each in turn, so that a slow spell of the machine affects them all."""
    workers: list[Worker | BvlcWorker] = []
    timings = []
    try:
        for kind in engines:
            workers.append(BvlcWorker(spec, job.threads) if kind == "bvlc" else Worker(kind, spec, job.threads))
            timings.append(Timing(kind))
        if job.task in ("test", "test1"):
            answers = [w.ask("output").reshape(-1) for w in workers]
            for timing, answer in zip(timings, answers):
                if answer.shape != answers[0].shape:
                    raise CaffeError(
                        f"benchmark: {timing.engine} answers {answer.size} values, {answers[0].size} expected"
                    )
                timing.difference = float(np.linalg.norm(answer - answers[0]) / np.linalg.norm(answers[0]))
                if timing.difference > (1e-3 if "-" not in timing.engine else 1e-1):  # torchcaffe-int8
                    raise CaffeError(
                        f"benchmark: {timing.engine} answers differently ({timing.difference:.2g}); not timed"
                    )
        for _ in range(rounds):
            for worker, timing in zip(workers, timings):
                timing.seconds.append(worker.ask("run"))
        for worker, timing in zip(workers, timings):
            timing.memory = worker.ask("memory")
    finally:
        for worker in workers:
            worker.close()
    return [timed(job, timing) for timing in timings]


def timed(job: Job, timing: Timing) -> Timed:
    """A Timing as a row of the result. For training and testing, with the FLOP/s and the bytes/s of the weights alone:
    a multiply-add counts as two operations, a backward pass as two forward ones."""
    row = Timed(
        variant=job.variant,
        task=job.task,
        batch=job.batch,
        trunk=job.trunk,
        engine=timing.engine,
        median_s=timing.median(),
        spread=timing.spread(),
        rounds_s=timing.seconds,
        peak_memory_bytes=timing.memory,
        difference=timing.difference,
    )
    if job.task in ("train", "test", "test1"):
        multiply_adds, parameters = work(job.variant, job.crop)
        training = job.task == "train"
        row.flops = 2 * multiply_adds * job.batch * (3 if training else 1) / row.median_s
        row.weight_bytes_per_s = 4 * parameters * (PASSES if training else 1) / row.median_s
    return row


def machine_limits(threads: int, gpu: int | None) -> dict[str, float]:
    """This machine's FLOP/s of an sgemm, and bytes/s of a copy (read plus written)."""
    import torch

    torch.set_num_threads(threads)
    device = "cpu" if gpu is None else f"cuda:{gpu}"
    wait = (lambda: None) if gpu is None else torch.cuda.synchronize
    size = 2048 if gpu is None else 8192
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)

    def best(work: Any) -> float:
        times = []
        for _ in range(5):
            wait()
            start = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - start)
        return min(times)

    gemm = best(lambda: torch.mm(a, b))
    copy = best(lambda: target.copy_(source))
    return {"sgemm_flops": 2 * size**3 / gemm, "copy_bytes_per_s": 2 * source.numel() * 4 / copy}


@functools.cache
def work(variant: str, crop: int) -> tuple[int, int]:
    """(multiply-adds of one photo's forward pass, parameters) of a variant's deploy net."""
    import torchcaffe as caffe

    found = summary.summarize(caffe, emit.deploy(emit.Choice(variant=variant, crop=crop)), caffe.TEST)
    return found.multiply_adds, found.parameters


def layer_times(spec_path: Path, rounds: int) -> list[dict[str, Any]]:
    """Median seconds forward and backward of every layer of the training net, as in `caffe time`."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    import torch

    import torchcaffe as caffe

    spec = json.loads(spec_path.read_text())
    torch.set_num_threads(spec["threads"])
    if spec["gpu"] is not None:
        caffe.set_device(spec["gpu"])
        caffe.set_mode_gpu()
    net = caffe.get_solver(spec["solver"]).net
    wait = (lambda: None) if spec["gpu"] is None else torch.cuda.synchronize
    names = list(net.top_names)
    seconds: dict[tuple[int, str], list[float]] = {}

    def timed(i: int, way: str, run: Any) -> None:
        wait()
        start = time.perf_counter()
        run(i, i)
        wait()
        seconds.setdefault((i, way), []).append(time.perf_counter() - start)

    for _ in range(rounds + 1):
        net.clear_param_diffs()
        for i in range(len(names)):
            timed(i, "forward", net.run_forward)
        for i in reversed(range(len(names))):
            timed(i, "backward", net.run_backward)
    # The first round also allocates.
    median = {key: statistics.median(values[1:]) for key, values in seconds.items()}
    return [
        {
            "layer": name,
            "type": net.layers[i].type,
            "forward_s": median[i, "forward"],
            "backward_s": median[i, "backward"],
        }
        for i, name in enumerate(names)
    ]


def photo_times(paths: Sequence[Path], crop: int) -> dict[str, float]:
    """Median seconds for reading and decoding a photo, and for warping it and subtracting the mean."""
    prepared = preprocess.make("direct", None, (crop, crop))
    decoding, preparing = [], []
    for path in paths:
        start = time.perf_counter()
        photo = decode.read(path).bgr
        middle = time.perf_counter()
        prepared.photo(photo)
        decoding.append(middle - start)
        preparing.append(time.perf_counter() - middle)
    return {"photos": len(paths), "decode_s": statistics.median(decoding), "prepare_s": statistics.median(preparing)}


def sample_photos(folder: Path, count: int = 16) -> list[Path]:
    """Write made-up photos of AVA's usual size (640 x 480, JPEG): soft noise, which compresses like a scene."""
    import cv2

    random = np.random.RandomState(0)
    paths = [folder / f"photo{i}.jpg" for i in range(count)]
    for path in paths:
        noise = random.randint(0, 256, (60, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))
    return paths


def precision_effect(spec: Path, paths: Sequence[Path], precision: str) -> dict[str, float]:
    """The greatest and the mean change of P(high) when weights are rounded."""
    from ilgnet.scoring.scorers import Scorer, Settings

    files = json.loads(spec.read_text())
    scorer = Scorer(Settings(files["weights"], files["net"]))
    photos = [scorer.preprocess.photo(decode.read(path).bgr) for path in paths]
    exact = np.array(list(scorer.stream(photos)))
    scorer.reduce_weights(precision)
    moved = np.abs(np.array(list(scorer.stream(photos))) - exact)
    return {"photos": len(paths), "greatest": float(moved.max()), "mean": float(moved.mean())}
