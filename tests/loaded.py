"""Processes that are forked from one that has loaded PyTorch and the toolkit, which takes longer than most tests' work.

Nothing was run in such a process yet, as in one that a user starts. Where the start itself is tested, a test starts a
program."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

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
        "torchcaffe.solvers.solver",
    ]
)


def elsewhere() -> ProcessPoolExecutor:
    """As processes.elsewhere."""
    return ProcessPoolExecutor(1, LOADED, signal.signal, (signal.SIGINT, signal.SIG_DFL))
