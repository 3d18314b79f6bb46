"""kill -9 at random points of training and of data preparation, and a disk that fills: does a run lose anything?

    python -m tests.crash --work FOLDER [--training 100] [--data 50] [--seed 1]      (make crash)

Of each kind one run is left alone. Every other one is killed once, by the clock or at one of its writes (before an
fsync, or before a file gets its name), then started again; its files must be the first one's, byte for byte. Prints a
line a kind and writes FOLDER/crash.json. As root it also trains on a disk of a few megabytes, which fills."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np

from ilgnet.cli import prepare, train
from tests.full_size import make_ava
from torchcaffe.base.errors import named, run_main
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers import solver  # noqa: F401  (loaded before the processes part)

DATA = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: %s }
  transform_param { crop_size: 9 mirror: true } data_param { source: "%s" batch_size: 4 backend: LMDB } }
"""
NET = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
ITERATIONS = 30
Job = Callable[[Path], int]


# -- what is killed ----------------------------------------------------------------------------------------------------


def make_training(work: Path, snapshot: int = 3) -> None:
    """An LMDB of 11 photos, no multiple of a batch, a net with dropout and statistics, and its solver."""
    rng = np.random.RandomState(1)
    with lmdb.open(str(work / "lmdb"), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for i in range(11):
            datum = caffe_pb2.Datum(channels=3, height=12, width=12, label=i % 3)
            datum.data = rng.bytes(3 * 12 * 12)
            transaction.put(f"{i:08d}".encode(), datum.SerializeToString())
    source = work / "lmdb"
    (work / "net.prototxt").write_text(DATA % ("TRAIN", source) + DATA % ("TEST", source) + NET)
    (work / "solver.prototxt").write_text(
        f'net: "{work}/net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 7 average_loss: 3 '
        f'max_iter: {ITERATIONS} test_iter: 2 test_interval: 5 snapshot: {snapshot} snapshot_prefix: "run/x"'
    )


def training(folder: Path) -> int:
    """The program, in `folder`, going on with its newest snapshot."""
    os.chdir(folder)
    (folder / "run").mkdir(exist_ok=True)
    return train.main(["--solver", str(folder.parent / "solver.prototxt"), "--snapshot", "auto", "--keep", "3"])


def make_photos(work: Path) -> None:
    make_ava(work / "ava", 4000, 20, 1)


def preparation(folder: Path) -> int:
    """The program on 4,000 photos: several transactions a database."""
    ava = folder.parent / "ava"
    return prepare.main([str(ava), "--out", str(folder / "data"), "--size", "16", "--targets", "distribution"])


# -- killing -----------------------------------------------------------------------------------------------------------


def started(job: Job, folder: Path, write: int = 0) -> int:
    """Run a job in a process of its own, which kills itself before its `write`th fsync or renaming. Returns its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        with open(folder.with_suffix(".log"), "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        count = 0

        def counted(function: Callable) -> Callable:
            def call(*args: object, **options: object) -> object:
                nonlocal count
                count += 1
                if count == write:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return call

        if write:
            os.fsync, os.replace, os.unlink = map(counted, (os.fsync, os.replace, os.unlink))
        code = job(folder)
    except BaseException as error:
        found = named(error)
        sys.stderr.write(f"error: {found}\n" if found else f"{error!r}\n")
        code = found.status if found else 71
    finally:
        sys.stderr.flush()
        os._exit(code)


def finished(job: Job, folder: Path, kill_after: float | None = None, write: int = 0) -> tuple[int, float]:
    """Run a job to its end, or kill it. Returns the exit status (negative: the signal) and the seconds."""
    start = time.monotonic()
    pid = started(job, folder, write)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - start
        if done:
            return os.waitstatus_to_exitcode(status), seconds
        if kill_after is not None and seconds > kill_after:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a run leaves, without what says when or by how many processes it was made."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".log",) and path.name != "lock.mdb":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def kill(job: Job, work: Path, name: str, kills: int, seed: int, until: float) -> dict:
    """Let one run end, kill `kills` others once each, or until that time, and start them again. Returns the figures."""
    first = work / f"{name}-whole"
    first.mkdir()
    status, seconds = finished(job, first)
    if status:
        raise RuntimeError(f"the run that nobody killed ended with status {status}: see {first}.log")
    wanted = contents(first)
    draw = random.Random(seed)
    figures = {"kills": 0, "by_clock": 0, "at_a_write": 0, "same_bytes": 0, "lost": [], "seconds": round(seconds, 2)}
    attempt = 0
    while figures["kills"] < kills and time.monotonic() < until:
        folder = work / f"{name}-{attempt}"
        folder.mkdir()
        at_write = attempt % 2 == 1
        chosen = {"write": draw.randrange(1, 120)} if at_write else {"kill_after": draw.uniform(0, seconds)}
        attempt += 1
        status, _ = finished(job, folder, **chosen)
        if status == -signal.SIGKILL:
            figures["kills"] += 1
            figures["at_a_write" if at_write else "by_clock"] += 1
            status, _ = finished(job, folder)
            if status == 0 and contents(folder) == wanted:
                figures["same_bytes"] += 1
            else:
                different = [n for n in wanted if contents(folder).get(n) != wanted[n]]
                figures["lost"].append({"run": folder.name, "status": status, "different": different, **chosen})
                continue  # its files stay
        shutil.rmtree(folder)
    return figures


# -- a disk that fills -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own in `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(work: Path) -> dict:
    """Train where something else fills the disk; then again, with room. And once more with a folder that vanishes."""
    whole = work / "room"
    whole.mkdir()
    finished(training, whole)
    wanted, figures = contents(whole), {}
    folder = work / "small"
    folder.mkdir()
    with small_disk(folder, 2):
        (folder / "run").mkdir()
        (folder / "run" / "filler").write_bytes(bytes((2 << 20) - 60_000))
        status, _ = finished(training, folder)
        said = folder.with_suffix(".log").read_text().splitlines()
        left = sorted(p.name for p in (folder / "run").glob("*.solverstate"))
        (folder / "run" / "filler").unlink()
        again, _ = finished(training, folder)
        figures["full_disk"] = {
            "status": status,
            "said": next((s for s in reversed(said) if "error:" in s), ""),
            "snapshots_left": left,
            "then_status": again,
            "same_bytes": contents(folder) == wanted,
        }
    folder = work / "vanishes"
    folder.mkdir()
    pid = started(training, folder)
    while not list((folder / "run").glob("*.solverstate")):
        time.sleep(0.01)
    (folder / "run").rename(folder / "moved")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = folder.with_suffix(".log").read_text().splitlines()
    (folder / "moved").rename(folder / "run")
    again, _ = finished(training, folder)
    figures["folder_gone"] = {
        "status": status,
        "said": next((s for s in reversed(said) if "error:" in s), ""),
        "then_status": again,
        "same_bytes": contents(folder) == wanted,
    }
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; it is emptied first")
    parser.add_argument("--training", type=int, default=100, metavar="KILLS")
    parser.add_argument("--data", type=int, default=50, metavar="KILLS")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after so many, whatever the kills")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # a process that forks must have no threads
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    work, figures, until = args.work.resolve(), {}, time.monotonic() + 60 * args.minutes
    if args.training:
        make_training(work)
        figures["training"] = kill(training, work, "training", args.training, args.seed, until)
        print("training", json.dumps(figures["training"]), flush=True)
        if os.geteuid() == 0 and sys.platform == "linux":
            figures.update(full_disk(work))
            print(json.dumps({k: figures[k] for k in ("full_disk", "folder_gone")}), flush=True)
    if args.data:
        make_photos(work)
        figures["data"] = kill(preparation, work, "data", args.data, args.seed, until)
        print("data", json.dumps(figures["data"]), flush=True)
    (work / "crash.json").write_text(json.dumps(figures, indent=1) + "\n")
    lost = any(figures[name]["lost"] for name in ("training", "data") if name in figures)
    lost |= any(not figures[name]["same_bytes"] for name in ("full_disk", "folder_gone") if name in figures)
    return int(lost)


if __name__ == "__main__":
    run_main(main)
