"""Data-parallel training on torch.distributed: a process per device, as real Caffe trains on several GPUs.

Each process has its own batches (the processes take the records in turn), random stream (random_seed + rank) and
BatchNorm statistics. Gradients are averaged over all processes before each update, so that all have the same weights.
The root (rank 0) logs, tests and snapshots. torchrun (python -m torch.distributed.run) starts the processes and
numbers them by environment variables."""

from __future__ import annotations

import atexit
import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError

if TYPE_CHECKING:
    from torchcaffe.solvers.solver import Solver

SMALL = 1 << 16  # the gradients of parameters with fewer values are averaged together
PATIENCE = datetime.timedelta(days=1)  # the others wait while the root tests


def launch(script: Sequence[str], processes: int) -> int:
    """Run a program (torchrun's words for it) in several processes on this machine; returns its exit status.

    SIGINT, SIGTERM and SIGHUP are passed on, and the program's end waited for. If one has cut it short, the status is
    128 + the signal's number."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arrived: list[int] = []
    started: list[subprocess.Popen] = []

    def pass_on() -> None:
        # Only the first: a second one would end torchrun, not its processes (which it ends itself after 30 s).
        if len(arrived) == 1:
            started[0].send_signal(arrived[0])

    def handle(number: int, frame: object) -> None:
        arrived.append(number)
        if started:
            pass_on()

    before = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # nohup's
    }
    try:
        # In a session of its own: the terminal's Ctrl-C would reach torchrun a second time.
        started.append(subprocess.Popen([*torchrun, *script], start_new_session=True))
        pass_on()
        code = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + arrived[0] if code and arrived else code


def start(gpus: Sequence[int] = ()) -> None:
    """Join the group: by NCCL with gpus[local rank] as the device of GPU mode, or without GPUs by gloo. Call it before
    any solver is made."""
    if gpus:
        local = int(os.environ["LOCAL_RANK"])
        if local >= len(gpus):
            raise CaffeError(f"GPUs {', '.join(map(str, gpus))}: process {local} of this machine has none left")
        context.set_device(gpus[local])
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise CaffeError(f"the {os.environ['WORLD_SIZE']} processes do not find each other: {error}") from error
    atexit.register(stop)  # gloo's threads must end before the process
    context.solver_rank, context.solver_count, context.multiprocess = dist.get_rank(), dist.get_world_size(), True
    if not root():
        log.set_level(1)


def root() -> bool:
    """Whether this process logs, tests and snapshots."""
    return context.solver_rank == 0


def join(solver: Solver) -> None:
    """Start `solver` from the root's weights, and average its gradients with the others' before each update."""
    with torch.no_grad():
        for blob in solver.net.learnable:
            values = blob.t.contiguous()
            dist.broadcast(values, 0)
            blob.t = values
    solver.add_callback(lambda: None, lambda: average(solver))
    solver.agreed = any_of_us


def average(solver: Solver) -> None:
    """Replace the gradients by their mean over all processes, but for parameters that don't learn. Collective."""
    learning = [blob for blob, rate in zip(solver.net.learnable, solver.rule.lr_mults) if rate]
    small = [blob for blob in learning if blob.count < SMALL]
    with torch.no_grad():
        for blobs in [small, *([blob] for blob in learning if blob.count >= SMALL)]:
            if not blobs:
                continue
            together = torch.cat([blob.g.reshape(-1) for blob in blobs]) if len(blobs) > 1 else blobs[0].g.contiguous()
            dist.all_reduce(together)
            together /= context.solver_count
            for blob, part in zip(blobs, together.view(-1).split([blob.count for blob in blobs])):
                blob.g = part.view(blob.shape)


def any_of_us(flag: int) -> int:
    """The greatest flag of all processes, so that all stop after the same iteration. Collective."""
    if not context.multiprocess:
        return flag
    value = torch.tensor(float(flag))  # on the CPU, by gloo, which waits for no GPU
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return type(flag)(value)


def gather(value: Any) -> list[Any]:
    """Every process's value, by rank. Collective."""
    values: list[Any] = [None] * context.solver_count
    dist.all_gather_object(values, value)
    return values


def stop() -> None:
    """Leave the group, if this process is in it."""
    if dist.is_initialized():
        dist.destroy_process_group()
    context.solver_rank, context.solver_count, context.multiprocess = 0, 1, False
