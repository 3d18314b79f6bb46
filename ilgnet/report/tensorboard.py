"""A run as TensorBoard's event files, made from the log and snapshots of any Caffe."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.evaluate import caffe_log
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError

BINS = 30  # of a histogram of weights
SUFFIX = ".ilgnet"  # of our event files' names; no others are replaced
HOW = "TensorBoard is not installed: pip install 'ilgnet-toolkit[tensorboard]' (in a checkout: '.[tensorboard]')"


def scalars(log: caffe_log.CaffeLog) -> Iterator[tuple[str, int, float]]:
    """(tag, iteration, value) of the loss, the rate, and every output of the training and the test nets."""
    series = [("train/loss", log.loss), ("lr", log.lr)]
    series += [(f"train/{name}" if name != "loss" else "train/loss (output)", s) for name, s in log.train.items()]
    for number, outputs in log.tests.items():
        series += [(f"test{number or ''}/{name}", s) for name, s in outputs.items()]
    for tag, points in series:
        for iteration, value in zip(points.iterations, points.values):
            yield tag, int(iteration), float(value)


def snapshots(log: caffe_log.CaffeLog, log_path: Path) -> list[tuple[int, Path]]:
    """(iteration, caffemodel) of the log's snapshots that still exist, where the log names them or beside it. As in
    caffe_log.Series, a run resumed at an earlier iteration replaces the later ones."""
    found: list[tuple[int, Path]] = []
    for name in log.snapshots:
        if not name.endswith((".caffemodel", ".caffemodel.h5")):
            continue
        number = name.split("_iter_")[-1].split(".")[0]
        path = next((p for p in (Path(name), log_path.parent / Path(name).name) if p.is_file()), None)
        if number.isdigit() and path is not None:
            found = [(i, p) for i, p in found if i < int(number)] + [(int(number), path)]
    return found


def histogram(values: np.ndarray) -> dict[str, Any]:
    """All finite values for SummaryWriter.add_histogram_raw: BINS equal bins from the smallest to the largest value."""
    flat = np.asarray(values)[np.isfinite(values)].astype(np.float64)
    if not flat.size:
        return dict(min=0, max=0, num=0, sum=0, sum_squares=0, bucket_limits=[0.0], bucket_counts=[0.0])
    counts, edges = np.histogram(flat, BINS)
    return dict(
        min=flat.min(),
        max=flat.max(),
        num=flat.size,
        sum=flat.sum(),
        sum_squares=flat @ flat,
        bucket_limits=edges[1:].tolist(),
        bucket_counts=counts.tolist(),
    )


def require() -> None:
    """CaffeError unless TensorBoard can be imported."""
    try:
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError as error:
        raise CaffeError(f"{HOW} ({error})") from None


class EventLog:
    """An event file in the folder `out`, which replaces that of an earlier EventLog. Each update() adds what is new in
    the log: scalars and, with `weights`, a histogram of each parameter of each snapshot.

    Times are those of the log, which has no year: its last line is taken to be as old as the file. CaffeError without
    TensorBoard."""

    def __init__(self, log_path: Path | str, out: Path | str, weights: bool = True):
        require()
        from torch.utils.tensorboard import SummaryWriter

        self.log_path, folder, self.weights = Path(log_path), Path(out), weights
        caffe_log.read_log(self.log_path)  # raises before a file is made
        folder.mkdir(parents=True, exist_ok=True)
        old = list(folder.glob("events.out.tfevents.*" + SUFFIX))
        self._writer = SummaryWriter(folder, filename_suffix=SUFFIX)
        for path in old:
            path.unlink()
        self._last: dict[str, int] = {}  # the last iteration written, by tag
        self.scalars = self.histograms = 0

    def update(self) -> None:
        """Write what is new since the last update. CaffeError for a broken snapshot."""
        log = caffe_log.read_log(self.log_path)
        seconds, ended = log.seconds, self.log_path.stat().st_mtime
        times, values = seconds.iterations, seconds.values

        def when(iteration: int) -> float:
            return ended - float(values[-1] - np.interp(iteration, times, values)) if len(values) else ended

        # In order of iterations: to TensorBoard, a step back hides what came before it.
        new = sorted(
            (iteration, tag, value) for tag, iteration, value in scalars(log) if iteration > self._last.get(tag, -1)
        )
        for iteration, tag, value in new:
            self._writer.add_scalar(tag, value, iteration, when(iteration))
            self._last[tag] = iteration
            self.scalars += 1
        for iteration, path in snapshots(log, self.log_path) if self.weights else []:
            if iteration > self._last.get("weights", -1):
                for layer in surgery.read_weights(path):
                    for i, blob in enumerate(layer.blobs):
                        self._writer.add_histogram_raw(
                            f"weights/{layer.name}/{i}",
                            **histogram(blob),
                            global_step=iteration,
                            walltime=when(iteration),
                        )
                        self.histograms += 1
                self._last["weights"] = iteration
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def write(log_path: Path | str, out: Path | str) -> EventLog:
    """Write a log, and its snapshots' weights, to an event file in the folder `out`; returns the closed EventLog."""
    with contextlib.closing(EventLog(log_path, out)) as made:
        made.update()
    return made
