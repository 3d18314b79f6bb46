"""Processes that are forked from one that has loaded PyTorch and the toolkit, which takes longer than most tests' work.

What is the same as in a process that a user starts: nothing was run yet. Where the start itself is what is tested, a test
starts a program."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

LOADED = multiprocessing.get_context("forkserver")
LOADED.set_forkserver_preload(
    [
        "torch._dynamo",  # by the first shape that PyTorch finds without values
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
