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

from ilgnet import bvlc
from prototxt import emit
from prototxt.variants import VARIANTS
from torchcaffe.errors import CaffeError
from torchcaffe.proto import caffe_pb2, format_text

WORKER = Path(__file__).with_name("benchmark_worker.py")
PEERS = ("bvlc", "opencv", "onnxruntime", "pytorch")


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


class Worker:
    """A contender's process (see benchmark_worker.py)."""

    def __init__(self, kind: str, spec: Path, threads: int):
        self.kind = kind
        if kind == "bvlc":
            command = [*bvlc.python_command(), str(WORKER)]
            # Its fastest: OpenBLAS chooses its kernel by the machine, with the same number of threads as ours.
            env = bvlc.bvlc_env(threads=threads)
            del env["OPENBLAS_CORETYPE"]
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


def initial_weights(net: Path, out: Path) -> None:
    """A caffemodel of the fillers' weights, BatchNorm's statistics at mean 0 and variance 1."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    import torchcaffe as caffe

    caffe.set_random_seed(1)
    made = caffe.Net(net, caffe.TRAIN)
    for layer in made.layers:
        if layer.type == "BatchNorm":
            layer.blobs[1].data[...] = layer.blobs[2].data[...] = 1
    made.save(out)


def prepare(
    variant: str,
    batch: int,
    crop: int,
    train: bool,
    folder: Path,
    threads: int,
    gpu: int | None,
    trunk: str,
    onnx: bool,
) -> Path:
    """Write the files of one task; returns the spec that the workers read."""
    choice = emit.Choice(variant=variant, batch_size=batch, crop=crop, trunk=trunk)
    stem = folder / f"{variant}_{trunk}"
    deploy, training, weights = (
        stem.with_name(stem.name + s) for s in ("_deploy.prototxt", "_train.prototxt", ".caffemodel")
    )
    deploy.write_text(format_text(emit.deploy(choice)))
    training.write_text(format_text(training_net(choice)))
    if not weights.exists():
        initial_weights(training, weights)
    solver = stem.with_name(stem.name + "_solver.prototxt")
    solver.write_text(
        f'net: "{training}"\nbase_lr: 1e-9\nlr_policy: "fixed"\nmomentum: 0.9\nweight_decay: 0.0002\n'
        "max_iter: 1000000\n"
        f'snapshot_prefix: "{folder}/unused"\nrandom_seed: 1\nsolver_mode: {"CPU" if gpu is None else "GPU"}\n'
    )
    spec = {
        "net": str(deploy),
        "weights": str(weights),
        "solver": str(solver),
        "train": train,
        "batch": batch,
        "size": crop,
        "threads": threads,
        "gpu": gpu,
    }
    if onnx:
        from ilgnet import onnx_export

        spec["onnx"] = str(stem.with_suffix(".onnx"))
        if not Path(spec["onnx"]).exists():
            onnx_export.export(deploy, weights, spec["onnx"])
    path = folder / f"{variant}_{trunk}_{'train' if train else 'test'}_{batch}.json"
    path.write_text(json.dumps(spec))
    return path


def compete(spec: Path, engines: Sequence[str], rounds: int, threads: int) -> list[Timing]:
    """Time the engines at one task, a round each in turn, so that a slow spell of the machine meets them all."""
    workers, timings = [], []
    train = json.loads(spec.read_text())["train"]
    try:
        for kind in engines:
            workers.append(Worker(kind, spec, threads))
            timings.append(Timing(kind))
        if not train:
            answers = [np.load(w.ask("output")).reshape(-1) for w in workers]
            for timing, answer in zip(timings, answers):
                if answer.shape != answers[0].shape:
                    raise CaffeError(
                        f"benchmark: {timing.engine} answers {answer.size} values, {answers[0].size} expected"
                    )
                timing.difference = float(np.linalg.norm(answer - answers[0]) / np.linalg.norm(answers[0]))
                if timing.difference > 1e-3:
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


def paper_row(variant: str) -> dict[str, float | None]:
    """Table 4's figures of a variant: AVA1 accuracy, days of training, seconds of testing a photo."""
    return dict(zip(("accuracy", "days", "test_s"), VARIANTS[variant].table4))
