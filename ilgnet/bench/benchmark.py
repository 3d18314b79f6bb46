"""Times nets: ours beside everything else a user could take, in one run, interleaved, outputs compared first."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.figures import summary
from ilgnet.nets import emit
from ilgnet.photos import decode, preprocess
from ilgnet.run import bvlc
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, format_text

WORKER = Path(__file__).with_name("worker.py")
PEERS = {  # by task: what else a user could take for it
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
    "load": "reading a caffemodel into a net that is there",
}
# Times an iteration reads or writes every weight that learns: forward and backward read it, backward writes its
# gradient, the update reads weight, gradient and history and writes weight and history.
PASSES = 8


@dataclass
class Timing:
    """Seconds of each round of one contender at one task, its peak memory and how its answer differs from ours."""

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

    def as_dict(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "median_s": self.median(),
            "spread": self.spread(),
            "rounds_s": self.seconds,
            "peak_memory_bytes": self.memory,
            "difference": self.difference,
        }


def fastest_kernel() -> str:
    """The kernel of BVLC's OpenBLAS that is fastest here. Left to itself, it takes its slowest on CPUs that came out
    after it."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split("flags", 1)[-1].split("\n", 1)[0].split()) if info.exists() else set()
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if "avx2" in flags else "Nehalem"


class Worker:
    """A contender's process (see benchmark_worker.py)."""

    def __init__(self, kind: str, spec: Path, threads: int):
        self.kind = kind
        if kind == "bvlc":
            command = [*bvlc.python_command(), str(WORKER)]
            env = bvlc.bvlc_env(coretype=fastest_kernel(), threads=threads)
        else:
            command = [sys.executable, str(WORKER)]
            env = {**os.environ, "GLOG_minloglevel": "3", "OMP_NUM_THREADS": str(threads)}
            env["PYTHONPATH"] = os.pathsep.join([str(WORKER.parents[1]), env.get("PYTHONPATH", "")])
        self.log = open(f"{spec}.{kind}.log", "w+")
        self.process = subprocess.Popen(
            [*command, kind, str(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=env,
        )
        self._read("ready")

    def _read(self, what: str) -> str:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise CaffeError(f"benchmark: {self.kind} stopped at {what}: {bvlc.fatal_line(self.log.read())}")
        return line

    def ask(self, word: str) -> Any:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self._read(word))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def training_net(choice: emit.Choice) -> caffe_pb2.NetParameter:
    """The training net with its LMDBs replaced by blobs in memory, so that reading is not in the time."""
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
    """A caffemodel of the fillers' weights, BatchNorm's statistics at mean 0 and variance 1.

    soft: the last layers are so small that the softmax is not sure of itself. If it is, most gradients are below what
    floats hold in full, and every engine takes up to three times as long."""
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


def prepare(
    variant: str,
    task: str,
    batch: int,
    crop: int,
    folder: Path,
    threads: int,
    gpu: int | None = None,
    onnx: bool = False,
    weights: Path | None = None,
) -> Path:
    """Write the files of one task; returns the spec that the workers read. weights: default, the fillers'."""
    trunk = "frozen" if task == "frozen" else "finetune"
    choice = emit.Choice(variant=variant, batch_size=batch, crop=crop, trunk=trunk)
    stem = str(folder / f"{variant}_{trunk}_{batch}")
    deploy, training, solver = (Path(stem + end) for end in ("_deploy.prototxt", "_train.prototxt", "_solver.prototxt"))
    deploy.write_text(format_text(emit.deploy(choice)))
    training.write_text(format_text(training_net(choice)))
    if weights is None:
        soft = task in ("train", "frozen")
        weights = folder / f"{variant}{'_soft' * soft}.caffemodel"
        if not weights.exists():
            initial_weights(training, weights, soft)
    solver.write_text(
        f'net: "{training}"\nbase_lr: 1e-9\nlr_policy: "fixed"\nmomentum: 0.9\nweight_decay: 0.0002\n'
        "max_iter: 1000000\n"
        f'snapshot_prefix: "{folder}/unused"\nrandom_seed: 1\nsolver_mode: {"CPU" if gpu is None else "GPU"}\n'
    )
    spec = {
        "net": str(deploy),
        "weights": str(weights),
        "solver": str(solver),
        "task": task,
        "batch": batch,
        "size": crop,
        "threads": threads,
        "gpu": gpu,
    }
    if onnx:
        from ilgnet.export import onnx_export

        spec["onnx"] = str(folder / f"{variant}.onnx")
        if not Path(spec["onnx"]).exists():
            onnx_export.write(onnx_export.export(onnx_export.load(deploy, weights)), Path(spec["onnx"]))
    path = Path(f"{stem}_{task}.json")
    path.write_text(json.dumps(spec))
    return path


def compete(spec: Path, engines: Sequence[str], rounds: int, threads: int) -> list[Timing]:
    """Time the engines at one task, a round each in turn, so that a slow spell of the machine meets them all."""
    workers, timings = [], []
    task = json.loads(spec.read_text())["task"]
    try:
        for kind in engines:
            workers.append(Worker(kind, spec, threads))
            timings.append(Timing(kind))
        if task in ("test", "test1"):
            answers = [np.load(w.ask("output")).reshape(-1) for w in workers]
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
    return timings


def machine_limits(threads: int, gpu: int | None) -> dict[str, float]:
    """What this machine can do: FLOP/s of an sgemm, bytes/s of a copy (read plus written)."""
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


def work(variant: str, crop: int) -> tuple[int, int]:
    """(multiply-adds of one photo's forward pass, parameters) of a variant's deploy net."""
    import torchcaffe as caffe

    found = summary.summarize(caffe, emit.deploy(emit.Choice(variant=variant, crop=crop)), caffe.TEST)
    return found.multiply_adds, found.parameters


def achieved(row: dict[str, Any], multiply_adds: int, parameters: int) -> dict[str, float]:
    """FLOP/s and bytes/s of a train, test or test1 row: multiply-adds count two, a backward pass twice a forward one;
    of the bytes only the weights' are counted (PASSES), which everything has to move."""
    training = row["task"] == "train"
    return {
        "flops": 2 * multiply_adds * row["batch"] * (3 if training else 1) / row["median_s"],
        "weight_bytes_per_s": 4 * parameters * (PASSES if training else 1) / row["median_s"],
    }


def layer_times(spec_path: Path, rounds: int) -> list[dict[str, Any]]:
    """Every layer of the training net on its own, as `caffe time` has it: median seconds forward and backward."""
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
    names = [node.name for node in net.nodes]
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
    # The first round also makes what is made once.
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
    """Median seconds a photo of reading and decoding its file, and of warping it, the mean off, to the net's input."""
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
    """Made-up photos of AVA's usual size (640 x 480, JPEG): soft noise, which compresses about as scenes do."""
    import cv2

    random = np.random.RandomState(0)
    paths = [folder / f"photo{i}.jpg" for i in range(count)]
    for path in paths:
        noise = random.randint(0, 256, (60, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))
    return paths


def precision_effect(spec: Path, paths: Sequence[Path], precision: str) -> dict[str, float]:
    """How far rounded weights move P(high) of photos: the greatest and the mean change."""
    from ilgnet.scoring.scorers import Scorer

    files = json.loads(spec.read_text())
    exact, rounded = (Scorer(files["weights"], files["net"], precision=kind) for kind in (None, precision))
    photos = [exact.preprocess.photo(decode.read(path).bgr) for path in paths]
    moved = np.abs(np.array(list(rounded.stream(photos))) - np.array(list(exact.stream(photos))))
    return {"photos": len(paths), "greatest": float(moved.max()), "mean": float(moved.mean())}
