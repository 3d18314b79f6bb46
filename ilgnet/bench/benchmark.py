"""Benchmarks of the nets on torchcaffe and other engines, interleaved, after a check that the answers are the same."""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.bench import worker
from ilgnet.bench.worker import Job
from ilgnet.figures import summary
from ilgnet.nets import emit
from ilgnet.photos import decode, preprocess
from ilgnet.run import engine, processes
from ilgnet.run.results import Timed
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, format_text

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


def prepare(job: Job, folder: Path, onnx: bool = False) -> Job:
    """Write a job's files, and return the job with their paths. weights: by default the fillers'."""
    choice = emit.Choice(variant=job.variant, batch_size=job.batch, crop=job.crop, trunk=job.trunk)
    stem = f"{job.variant}_{job.trunk}_{job.batch}"
    deploy, training, solver = (folder / f"{stem}_{what}.prototxt" for what in ("deploy", "train", "solver"))
    deploy.write_text(format_text(emit.deploy(choice)))
    training.write_text(format_text(training_net(choice)))
    weights = job.weights or folder / f"{job.variant}{'_soft' * job.trains()}.caffemodel"
    if not weights.exists():
        initial_weights(training, weights, job.trains())
    solver.write_text(
        f'net: "{training}"\nbase_lr: 1e-9\nlr_policy: "fixed"\nmomentum: 0.9\nweight_decay: 0.0002\n'
        "max_iter: 1000000\n"
        f'snapshot_prefix: "{folder}/unused"\nrandom_seed: 1\nsolver_mode: {"CPU" if job.gpu is None else "GPU"}\n'
    )
    model = folder / f"{job.variant}.onnx"
    if onnx and not model.exists():
        from ilgnet.export import onnx_export

        onnx_export.write(onnx_export.export(onnx_export.load(emit.deploy(choice), deploy, weights)), model)
    return replace(job, net=deploy, solver=solver, weights=weights, onnx=model)


@contextlib.contextmanager
def process(kind: str, job: Job) -> Iterator[Callable[[str], Any]]:
    """An engine in a process of its own (see worker.py), as a function that calls its methods."""
    with processes.elsewhere() as pool:

        def call(function: Callable, *args: Any) -> Any:
            try:
                return pool.submit(function, *args).result()
            except Exception as error:
                raise CaffeError(f"benchmark: {kind} stopped: {error}") from None

        call(worker.start, kind, job)
        yield lambda method: call(worker.ask, method)


def compete(job: Job, engines: Sequence[str], rounds: int) -> list[Timed]:
    """Time the engines at a prepared job, a round each in turn, so that a slow spell of the machine affects them all.

    engines: torchcaffe first, whose answer the others must give."""
    with contextlib.ExitStack() as stack:
        asks = [stack.enter_context(process(kind, job)) for kind in engines]
        differences: list[float | None] = [None] * len(engines)
        if job.task in ("test", "test1"):
            ours, *_ = answers = [ask("output").ravel() for ask in asks]
            differences = [difference(kind, answer, ours) for kind, answer in zip(engines, answers)]
        seconds = [[ask("seconds") for ask in asks] for _ in range(rounds)]
        memory = [ask("peak_memory") for ask in asks]
    return [timed(job, *measured) for measured in zip(engines, zip(*seconds), memory, differences)]


def difference(kind: str, answer: np.ndarray, ours: np.ndarray) -> float:
    """An engine's relative difference from our answer. CaffeError where it computes something else."""
    if answer.shape != ours.shape:
        raise CaffeError(f"benchmark: {kind} answers {answer.size} values, {ours.size} expected")
    found = float(np.linalg.norm(answer - ours) / np.linalg.norm(ours))
    if found > (1e-3 if "-" not in kind else 1e-1):  # torchcaffe-int8
        raise CaffeError(f"benchmark: {kind} answers differently ({found:.2g}); not timed")
    return found


def timed(job: Job, kind: str, seconds: Sequence[float], memory: int, difference: float | None) -> Timed:
    """What was measured of an engine as a row of the result. spread: half the interquartile range over the median.

    For training and testing, with the FLOP/s and the bytes/s of the weights alone: a multiply-add counts as two
    operations, a backward pass as two forward ones."""
    # By this method the quartiles of fewer than 4 rounds are the extremes.
    low, median, high = np.percentile(seconds, (25, 50, 75), method="weibull")
    row = Timed(
        variant=job.variant,
        task=job.task,
        batch=job.batch,
        trunk=job.trunk,
        engine=kind,
        median_s=median,
        spread=(high - low) / 2 / median,
        rounds_s=seconds,
        peak_memory_bytes=memory,
        difference=difference,
    )
    if job.task in ("train", "test", "test1"):
        multiply_adds, parameters = work(job.variant, job.crop)
        training = job.task == "train"
        row.flops = 2 * multiply_adds * job.batch * (3 if training else 1) / median
        row.weight_bytes_per_s = 4 * parameters * (PASSES if training else 1) / median
    return row


def stopwatch(gpu: int | None) -> Callable[..., float]:
    """A function that calls another one with arguments, and returns the seconds until the GPU, too, is done."""
    import torch

    wait = (lambda: None) if gpu is None else torch.cuda.synchronize

    def seconds(run: Callable, *args: Any) -> float:
        wait()
        start = time.perf_counter()
        run(*args)
        wait()
        return time.perf_counter() - start

    return seconds


def machine_limits(threads: int, gpu: int | None) -> dict[str, float]:
    """This machine's FLOP/s of an sgemm, and bytes/s of a copy (read plus written)."""
    import torch

    torch.set_num_threads(threads)
    device = "cpu" if gpu is None else f"cuda:{gpu}"
    size = 2048 if gpu is None else 8192
    a, b = torch.randn(2, size, size, device=device)
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)
    seconds = stopwatch(gpu)
    gemm = min(seconds(torch.mm, a, b) for _ in range(5))
    copy = min(seconds(target.copy_, source) for _ in range(5))
    return {"sgemm_flops": 2 * size**3 / gemm, "copy_bytes_per_s": 2 * source.numel() * 4 / copy}


@functools.cache
def work(variant: str, crop: int) -> tuple[int, int]:
    """(multiply-adds of one photo's forward pass, parameters) of a variant's deploy net."""
    import torchcaffe as caffe

    found = summary.summarize(caffe, emit.deploy(emit.Choice(variant=variant, crop=crop)), caffe.TEST)
    return found.multiply_adds, found.parameters


def layer_times(job: Job, rounds: int) -> list[dict[str, Any]]:
    """Median seconds forward and backward of every layer of a prepared job's training net, as in `caffe time`."""
    import torch

    torch.set_num_threads(job.threads)
    net = engine.load_engine("torch", job.gpu).get_solver(job.solver).net
    seconds = stopwatch(job.gpu)
    order = range(len(net.layers))
    forward, backward = [], []
    for _ in range(rounds + 1):
        net.clear_param_diffs()
        forward.append([seconds(net.run_forward, i, i) for i in order])
        backward.append([seconds(net.run_backward, i, i) for i in reversed(order)][::-1])
    # The first round also allocates.
    medians = (np.median(times[1:], axis=0).tolist() for times in (forward, backward))
    return [
        {"layer": name, "type": layer.type, "forward_s": forward_s, "backward_s": backward_s}
        for name, layer, forward_s, backward_s in zip(net.top_names, net.layers, *medians)
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


def sample_photos(folder: Path) -> list[Path]:
    """Write made-up photos of AVA's usual size (640 x 480, JPEG): soft noise, which compresses like a scene."""
    import cv2

    random = np.random.RandomState(0)
    paths = [folder / f"photo{i}.jpg" for i in range(16)]
    for path in paths:
        noise = random.randint(0, 256, (60, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))
    return paths


def precision_effect(job: Job, paths: Sequence[Path], precision: str) -> dict[str, float]:
    """The greatest and the mean change of P(high) when the weights of a prepared job are rounded."""
    from ilgnet.scoring.scorers import NetScorer, Settings

    scorer = NetScorer(Settings(str(job.weights), job.net))
    photos = [scorer.preprocess.photo(decode.read(path).bgr) for path in paths]
    exact = np.array(list(scorer.stream(photos)))
    scorer.reduce_weights(precision)
    moved = np.abs(np.array(list(scorer.stream(photos))) - exact)
    return {"photos": len(paths), "greatest": float(moved.max()), "mean": float(moved.mean())}
