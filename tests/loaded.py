"""Processes that are forked from one that has loaded PyTorch and the toolkit, which takes longer than most tests' work.

Nothing was run in such a process yet, as in one that a user starts. Where the start itself is tested, a test starts a
program."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

LOADED = multiprocessing.get_context("forkserver")
LOADED.set_forkserver_preload(
    [
        "torch",
        "torch.distributed.run",
        "onnxruntime",
        "ilgnet.bench.plain_pytorch",
        "ilgnet.bench.worker",
        "ilgnet.cli.evaluate",
        "ilgnet.cli.rank",
        "ilgnet.cli.train",
        "torchcaffe.cli.main",
        "torchcaffe.solvers.solver",
    ]
)


def elsewhere() -> ProcessPoolExecutor:
    """As processes.elsewhere."""
    return ProcessPoolExecutor(1, LOADED, signal.signal, (signal.SIGINT, signal.SIG_DFL))


def become(folder: Path, name: str, environment: dict[str, str], run: Callable[..., None], *words: object) -> None:
    """A process's work: run(*words) as a program's, in the folder, where its output goes to NAME.out and NAME.err."""
    multiprocessing.current_process().name = "MainProcess"  # a child of another name is no program of the user's
    os.chdir(folder)
    os.environ.update(environment)
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{stream}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666), number)
    run(*words)


def finished(folder: Path, environment: dict[str, str], run: Callable[..., None], *words: object):
    """What become's process has said, and its exit status."""
    process = LOADED.Process(target=become, args=(folder, "said", environment, run, *words))
    process.start()
    process.join()
    out, err = (folder / f"said.{stream}" for stream in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def run_module(name: str, *words: str) -> None:
    """For `become`: as `python -m`."""
    sys.path.insert(0, os.getcwd())
    sys.argv = [name, *words]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
