"""The process of one engine of a benchmark: `python worker.py KIND SPEC.json`.

It makes its net, prints a line `ready`, then answers each word on stdin with one JSON line: `run` repeats the work for
ROUND seconds, at least once, and gives the median time; `output` gives the file of the net's answer; `memory` gives the
peak memory in bytes."""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]

# Repeated, since photos are scored one after another: no other program has used the cache in between.
ROUND = 0.25


def photos(batch: int, size: int) -> np.ndarray:
    """The same made-up input for every engine: (batch, 3, size, size) float32, without the mean."""
    return (np.random.RandomState(0).randint(0, 256, (batch, 3, size, size)) - 117).astype(np.float32)


def caffe_forward(caffe: Any, spec: dict[str, Any], precision: str | None = None) -> Run:
    """pycaffe's API: a deploy net's forward pass."""
    net = caffe.Net(spec["net"], caffe.TEST)
    net.copy_from(spec["weights"])
    if precision:
        net.reduce_weights(precision)
    x = photos(spec["batch"], spec["crop"])
    name = net.inputs[0]
    net.blobs[name].reshape(*x.shape)
    net.reshape()

    def run() -> np.ndarray:
        net.blobs[name].data[...] = x
        return next(iter(net.forward().values()))

    return run


def caffe_train(caffe: Any, spec: dict[str, Any]) -> Run:
    """pycaffe's API: one iteration of a solver whose net makes its own data."""
    solver = caffe.get_solver(spec["solver"])
    solver.net.copy_from(spec["weights"])
    solver.net.blobs["data"].data[...] = photos(spec["batch"], spec["crop"])

    def run() -> np.ndarray:
        solver.step(1)
        if spec.get("gpu") is not None:
            import torch

            torch.cuda.synchronize()
        return np.zeros(1)

    return run


def caffe_load(caffe: Any, spec: dict[str, Any]) -> Run:
    """pycaffe's API: a caffemodel's weights into a deploy net."""
    net = caffe.Net(spec["net"], caffe.TEST)
    return lambda: net.copy_from(spec["weights"])


CAFFE_TASKS = {"train": caffe_train, "frozen": caffe_train, "load": caffe_load}


def torchcaffe(spec: dict[str, Any], precision: str | None = None) -> Run:
    import torch

    import torchcaffe as caffe

    torch.set_num_threads(spec["threads"])
    if spec["gpu"] is not None:
        caffe.set_device(spec["gpu"])
        caffe.set_mode_gpu()
    if spec["task"] in CAFFE_TASKS:
        return CAFFE_TASKS[spec["task"]](caffe, spec)
    return caffe_forward(caffe, spec, precision)


def opencv(spec: dict[str, Any]) -> Run:
    import cv2

    cv2.setNumThreads(spec["threads"])
    net = cv2.dnn.readNetFromCaffe(spec["net"], spec["weights"])
    x = photos(spec["batch"], spec["crop"])

    def run() -> np.ndarray:
        net.setInput(x)
        return net.forward()

    return run


def onnxruntime(spec: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = onnxruntime.InferenceSession(spec["onnx"], options, providers=["CPUExecutionProvider"])
    name, x = session.get_inputs()[0].name, photos(spec["batch"], spec["crop"])
    return lambda: session.run(None, {name: x})[0]


def pytorch(spec: dict[str, Any]) -> Run:
    """Plain PyTorch: eager, NCHW, torch's own layers, autograd and SGD."""
    import torch
    import torch.nn.functional as F

    from ilgnet.bench.plain_pytorch import PlainNet

    torch.set_num_threads(spec["threads"])
    device = "cpu" if spec["gpu"] is None else f"cuda:{spec['gpu']}"
    model = PlainNet(spec["net"], spec["weights"]).to(device)
    x = torch.from_numpy(photos(spec["batch"], spec["crop"])).to(device)
    if spec["task"] != "train":
        model.eval()

        def forward() -> np.ndarray:
            with torch.inference_mode():
                return model(x).cpu().numpy()

        return forward
    model.train()
    label = torch.ones(spec["batch"], dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, weight_decay=2e-4)

    def iterate() -> np.ndarray:
        optimizer.zero_grad()
        F.nll_loss(model(x).clamp_min(1e-30).log(), label).backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return np.zeros(1)

    return iterate


KINDS: dict[str, Callable[[dict[str, Any]], Run]] = {f.__name__: f for f in (torchcaffe, opencv, onnxruntime, pytorch)}
for _precision in ("bf16", "int8"):
    KINDS[f"torchcaffe-{_precision}"] = functools.partial(torchcaffe, precision=_precision)


def peak_memory() -> int:
    """VmHWM, the process's largest resident size, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def main(kind: str, spec_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text())
    run = KINDS[kind](spec)
    output = run()  # the first run also allocates
    print("ready", flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "run":
            times: list[float] = []
            while sum(times) < ROUND:
                start = time.perf_counter()
                output = run()
                times.append(time.perf_counter() - start)
            answer: Any = statistics.median(times)
        elif word == "output":
            np.save(spec_path + f".{kind}.npy", np.asarray(output))
            answer = spec_path + f".{kind}.npy"
        elif word == "memory":
            answer = peak_memory()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
