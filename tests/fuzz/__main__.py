"""Feed made-up input to every reader for hours: `python -m tests.fuzz [--hours 1] [--inputs N] [READER ...]`.

Each reader runs in a process of its own, whose memory and time an input are limited; what ends it, and any exception
that is no CaffeError, is kept in FOLDER/READER-*, and the reader goes on in a new process. Prints a line a reader.
A reader that lets another process read first (HDF5) goes without that, ten times as fast, until an input ends it, or
takes more than SECONDS_UNTRIED; that input the whole reader gets, and has to refuse.
Where atheris is installed, --atheris READER hands that reader to it (libFuzzer's own options follow)."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import LIMIT_BYTES, LIMIT_SECONDS, TARGETS, attempt, mutated
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.formats import hdf5

SECONDS_UNTRIED = 2
INPUTS_A_PROCESS = 20_000  # so that what an input leaves behind in a library does not last


def limit() -> None:
    """No more memory than now and LIMIT_BYTES on top; no more seconds an input than LIMIT_SECONDS."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(name: str, seed: int, inputs: int, until: float, folder: Path, out: Path) -> None:
    """Try inputs; writes how many were read and refused, and how many seconds the slowest took, every so often."""
    target = TARGETS[name]
    seeds = target.seeds()
    rng = random.Random(seed)
    if not any(attempt(target, data, folder) == "read" for data in seeds):
        raise RuntimeError(f"{name}: every seed is refused")
    limit()
    log.set_level(3)
    seconds = LIMIT_SECONDS
    if target.tried:
        hdf5._try, seconds = lambda *_: None, SECONDS_UNTRIED
    counts, slowest, kept = {"read": 0, "refused": 0, "raised": 0}, 0.0, set()
    inputs = min(inputs, INPUTS_A_PROCESS)
    for number in range(inputs):
        data = mutated(seeds, rng)
        signal.alarm(seconds)
        start = time.monotonic()
        try:
            result = attempt(target, data, folder)
        except Exception as error:
            result = "raised"
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__}-{Path(where.filename).name}-{where.lineno}"
            if kind not in kept:
                kept.add(kind)
                (out / f"{name}-{kind}").write_bytes(data)
                (out / f"{name}-{kind}.txt").write_text("".join(traceback.format_exception(error)))
        signal.alarm(0)
        slowest = max(slowest, time.monotonic() - start)
        counts[result] += 1
        if number % 200 == 199 or number == inputs - 1 or time.monotonic() > until:
            (folder / "counts").write_text(
                f"{number + 1} {counts['read']} {counts['refused']} {counts['raised']} {slowest}"
            )
            if time.monotonic() > until:
                break


def whole(name: str, folder: Path) -> None:
    """Give the whole reader the input on which a process without its trial has ended."""
    limit()
    signal.alarm(LIMIT_SECONDS)
    attempt(TARGETS[name], (folder / TARGETS[name].name).read_bytes(), folder)


def end_of(trace: Path, run: Callable[..., None], *args: object) -> int:
    """The exit status of another process that runs it, or minus the signal that ended it; exceptions go to trace."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries' own warnings
            run(*args)
            status = 0
        except BaseException:
            trace.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fuzz(name: str, inputs: int, seconds: float, seed: int, out: Path) -> bool:
    """Fuzz one reader; True when nothing was found."""
    until, total, ended, by_trial, slowest = time.monotonic() + seconds, [0, 0, 0, 0], 0, 0, 0.0
    while total[0] < inputs and time.monotonic() < until:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
            folder = Path(place)
            trace = out / f"{name}-harness.txt"
            status = end_of(trace, work, name, seed, inputs - total[0], until, folder, out)
            counts = folder / "counts"
            words = counts.read_text().split() if counts.exists() else []
            total = [a + int(b) for a, b in zip(total, words[:4])] if words else total
            slowest = max(slowest, float(words[4]) if words else 0)
            if status < 0 and TARGETS[name].tried:
                start = time.monotonic()
                status = end_of(trace, whole, name, folder)
                slowest = max(slowest, time.monotonic() - start)
                by_trial += not status
                total[0] += not status
            if status > 0:
                raise CaffeError(f"{name}: not a line, or the harness itself failed: {trace}")
            if status < 0:
                ended += 1
                data = (folder / TARGETS[name].name).read_bytes()
                digest = hashlib.sha1(data).hexdigest()[:8]
                (out / f"{name}-{signal.Signals(-status).name}-{digest}").write_bytes(data)
                total[0] += 1
        seed += 1
    trial = f", {by_trial} after they ended, or held up, a process without the trial" if TARGETS[name].tried else ""
    print(
        f"{name}: {total[0]} inputs, {total[1]} read, {total[2]} refused in a line{trial}; findings: "
        f"{total[3]} exceptions, {ended} processes ended; slowest {slowest:.2f} s",
        flush=True,
    )
    return not total[3] and not ended


def by_coverage(name: str, rest: list[str]) -> None:
    """libFuzzer on one reader; it does not return."""
    import atheris

    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, data in enumerate(target.seeds()):
        (corpus / str(i)).write_bytes(data)
    log.set_level(3)
    atheris.instrument_all()
    atheris.Setup([name, str(corpus), *rest], lambda data: attempt(target, data, folder) and None)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"default: all ({', '.join(TARGETS)})")
    parser.add_argument("--hours", type=float, default=1, help="for all readers together (1)")
    parser.add_argument("--inputs", type=int, default=sys.maxsize, help="at most so many a reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for findings (out/fuzz)")
    parser.add_argument("--atheris", metavar="READER", choices=list(TARGETS))
    args, rest = parser.parse_known_args(argv)
    if args.atheris:
        by_coverage(args.atheris, rest)
    names = args.readers or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown or rest:
        raise CaffeError(f"unknown: {', '.join(unknown + rest)} (readers: {', '.join(TARGETS)})")
    args.out.mkdir(parents=True, exist_ok=True)
    good = [fuzz(name, args.inputs, 3600 * args.hours / len(names), args.seed, args.out.resolve()) for name in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    run_main(main)
