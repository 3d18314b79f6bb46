"""Writes that fail: what was there stays whole, nothing half made is left, the error names the file, status 3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.run import results
from ilgnet.train import runs
from tests import ROOT
from tests.faults import EIO, ENOSPC, EROFS
from torchcaffe.base import malloc
from torchcaffe.base.errors import CaffeError, OutOfMemory, WriteError, named
from torchcaffe.base.signals import Signals
from torchcaffe.core.blob import Blob
from torchcaffe.data.imageset import write_mean
from torchcaffe.formats import blobproto, caffemodel, files, solverstate
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers import snapshots

NET = """layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 6 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def make_solver(more: str = ""):
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" '
        f'random_seed: 1 max_iter: 100 snapshot_prefix: "x" {more}'
    )
    return caffe.get_solver("solver.prototxt")


def weights(value: float) -> Callable[[], None]:
    net = caffe_pb2.NetParameter()
    net.layer.add(name="ip", type="InnerProduct")
    return lambda: caffemodel.write_caffemodel("x.caffemodel", net, {"ip": [np.full((300, 40), value, np.float32)]})


# What writes a file: its name, and a first and a second content.
WRITERS = {
    "caffemodel": ("x.caffemodel", weights(1), weights(2)),
    "solverstate": (
        "x.solverstate",
        *(
            lambda i=i: solverstate.write_solverstate(
                "x.solverstate", solverstate.SolverState(i, "x", 0, [np.full(9000, i, np.float32)])
            )
            for i in (1, 2)
        ),
    ),
    "binaryproto": (
        "x.binaryproto",
        *(lambda i=i: blobproto.write_blobproto("x.binaryproto", np.full((3, 99, 99), i)) for i in (1, 2)),
    ),
    "npy": (
        "x.npy",
        *(lambda i=i: write_mean(np.full((3, 9, 9), i, np.float32), "x.binaryproto", "x.npy") for i in (1, 2)),
    ),
    "bytes": ("x.txt", *(lambda i=i: files.write_bytes("x.txt", bytes([i]) * 99999) for i in (1, 2))),
    "json": ("x.json", *(lambda i=i: results.write_json("x.json", {"i": i}) for i in (1, 2))),
}


@pytest.mark.parametrize("error", [ENOSPC, EIO, EROFS])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_step_may_fail(kind, error, faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, first, second = WRITERS[kind]
    first()
    old = Path(name).read_bytes()
    faults.fail(0, 0)
    second()
    new, steps = Path(name).read_bytes(), faults.steps
    assert old != new and {"write", "fsync", "replace"} <= {step.split()[0] for step in steps}
    for at in range(1, len(steps) + 1):
        first()
        faults.fail(at, error)
        with pytest.raises(WriteError) as raised:
            second()
        assert os.strerror(error) in str(raised.value) and "x." in str(raised.value)
        faults.fail(0, 0)
        assert Path(name).read_bytes() in (old, new), steps[at - 1]
        assert not list(tmp_path.glob(".*"))  # no temporary file


@pytest.mark.parametrize("kind", WRITERS)
def test_short_writes(kind, faults, tmp_path, monkeypatch):
    """write(2) may take a part of what it is given."""
    monkeypatch.chdir(tmp_path)
    name, first, _ = WRITERS[kind]
    first()
    whole = Path(name).read_bytes()
    Path(name).unlink()
    faults.short = 7
    first()
    assert Path(name).read_bytes() == whole


def test_a_snapshot_that_fails_anywhere(faults, tmp_path, monkeypatch):
    """The snapshot before it is the newest that is whole, and a run goes on from it."""
    monkeypatch.chdir(tmp_path)
    solver = make_solver()
    solver.step(2)
    solver.snapshot()
    solver.step(1)
    faults.fail(0, 0)
    solver.snapshot()
    steps = len(faults.steps)
    for path in tmp_path.glob("x_iter_3.*"):
        path.unlink()
    for at in range(1, steps + 1):
        faults.fail(at, ENOSPC)
        with pytest.raises(WriteError):
            solver.snapshot()
        faults.fail(0, 0)
        # Its very last step, the folder's fsync, comes when the snapshot already has its name.
        wanted = "x_iter_3.solverstate" if at == steps else "x_iter_2.solverstate"
        assert runs.newest_snapshot("x", sys.stderr) == wanted, at
        if at < steps:
            assert not Path("x_iter_3.solverstate").exists()
    assert not snapshots.whole("x_iter_2.solverstate")


def test_keep_counts_what_the_run_has_written(tmp_path, monkeypatch):
    """A run that fell back behind a damaged snapshot keeps its own, and leaves that one alone."""
    monkeypatch.chdir(tmp_path)
    solver = make_solver()
    for _ in range(4):
        solver.step(1)
        solver.snapshot()
    runs.remove_old_snapshots("x", 1, 2)
    assert not Path("x_iter_1.solverstate").exists() and not Path("x_iter_1.caffemodel").exists()
    assert all(Path(f"x_iter_{i}.solverstate").exists() for i in (2, 3, 4))
    # What a kill has left of a snapshot goes with the next; a model without extra state is the user's.
    Path("x_iter_2.solverstate").unlink()
    Path("x_iter_1.caffemodel").write_bytes(b"kept by hand")
    Path("x_iter_\u00b2.resume.npz").touch()  # a digit to str.isdigit, but none to int
    runs.remove_old_snapshots("x", 2, 4)
    assert sorted(p.name for p in tmp_path.glob("x_iter_*.caffemodel")) == [f"x_iter_{i}.caffemodel" for i in (1, 3, 4)]
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == [f"x_iter_{i}.resume.npz" for i in ("3", "4", "\u00b2")]


def test_leftovers_of_killed_writers_go(tmp_path):
    target = tmp_path / "x.caffemodel"
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    dead = tmp_path / f".x.caffemodel.{process.pid}.0123abcd.tmp"
    ours, other = tmp_path / f".x.caffemodel.{os.getpid()}.0123abcd.tmp", tmp_path / ".y.caffemodel.1.0123abcd.tmp"
    running = tmp_path / f".x.caffemodel.{os.getppid()}.0123abcd.tmp"
    for path in (dead, ours, other, running):
        path.write_bytes(b"half")
    files.write_bytes(target, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, other, running])


def test_tests_of_a_stopped_run_are_not_counted_twice(tmp_path, monkeypatch):
    """A snapshot that is taken after an iteration's test, and before its update, holds the places before that test."""
    monkeypatch.chdir(tmp_path)
    data = NET + NET.split("layer {")[1].join(["layer {", ""]).replace('"data" type', '"again" type').replace(
        'top: "data" top: "label"', 'top: "a" top: "b"'
    )
    Path("net.prototxt").write_text(data)

    def run(stop_at: int | None, snapshot: str | None = None):
        Path("solver.prototxt").write_text(
            'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" random_seed: 1 max_iter: 6 snapshot_prefix: "x" '
            "test_iter: 3 test_interval: 2 snapshot_after_train: false"
        )
        solver = caffe.get_solver("solver.prototxt")
        if snapshot:
            solver.restore(snapshot)

        def stop() -> None:
            if solver.iter == stop_at:
                raise runs.Stopped

        solver.add_callback(stop, lambda: None)
        try:
            solver.solve()
        except runs.Stopped:
            solver.snapshot()
        return solver.net.params["ip"][0].data.copy()

    wanted = run(None)
    run(4)
    np.testing.assert_array_equal(run(None, "x_iter_4.solverstate"), wanted)


@pytest.mark.parametrize("kind", ["caffemodel", "h5", "lmdb", "npz"])
def test_the_system_refuses_to_write_more(kind, tmp_path):
    """What C writes: a limit on files' size stops a write in its middle, as a full disk does."""
    code = f"""
import resource, sys, signal
import numpy as np
from torchcaffe.formats import caffemodel, files
from torchcaffe.base.errors import run_main
from torchcaffe.data.lmdb_writer import LmdbWriter
from torchcaffe.proto import caffe_pb2

def main():
    net = caffe_pb2.NetParameter()
    net.layer.add(name="ip")
    if "{kind}" == "lmdb":
        writer = LmdbWriter("db")
        for i in range(20):
            writer.put(b"%08d" % i, bytes(50_000))
        writer.commit()
    else:
        name = "x.caffemodel.h5" if "{kind}" == "h5" else "x.caffemodel"
        if "{kind}" == "npz":
            with files.atomic("x.npz") as temporary, open(temporary, "wb") as file:
                np.savez(file, a=np.zeros(200_000))
        caffemodel.write_caffemodel(name, net, {{"ip": [np.ones((500, 500), np.float32)]}})
    return 0

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run_main(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 3 and len(lines) == 1, (done.returncode, done.stderr[-2000:])
    assert "x.npz" in lines[0] or "x.caffemodel" in lines[0] or "db" in lines[0]
    assert not list(tmp_path.glob("x.*")) and not list(tmp_path.glob(".x*"))


def test_what_ends_a_program():
    assert named(MemoryError()).status == OutOfMemory.status == 4
    assert named(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")).status == 4
    assert named(RuntimeError("CUDA error: unspecified launch failure")).status == 5
    assert named(OSError(ENOSPC, "No space left on device", "x")).status == 3
    assert named(FileNotFoundError(2, "No such file", "x")).status == CaffeError("x").status == 2
    assert named(RuntimeError("a bug")) is named(ZeroDivisionError()) is None


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(malloc, "total", lambda: 1_000_000)
    with pytest.raises(CaffeError, match=r"blob shape \(1000, 1000\): 0.0 GB; there are"):
        Blob(1000, 1000)


def test_signals():
    asked = Signals("stop", "snapshot")
    with asked:
        os.kill(os.getpid(), signal.SIGHUP)
        assert asked() == "snapshot" and asked() is None and not asked.stopped_by
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == "stop" and asked.status == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    "where, status, said",
    [
        (">/dev/full", 2, "error: bad"),
        ("| true", 2, "error: bad"),
        ("2>/dev/full", 2, ""),
        ("2>&1 | true", 2, ""),
    ],
)
def test_an_error_is_told_where_the_output_is_gone(where, status, said, tmp_path):
    assert ends(tmp_path, "print('x'); time.sleep(0.3); raise errors.CaffeError('bad')", where) == (status, said)


@pytest.mark.parametrize(
    "where, status, said",
    [
        (">/dev/full", 3, "error: [Errno 28] No space left on device"),
        ("| true", 3, "error: [Errno 32] Broken pipe"),
    ],
)
def test_output_that_is_lost_is_told(where, status, said, tmp_path):
    assert ends(tmp_path, "print('x'); time.sleep(0.3); return 0", where) == (status, said)


def ends(folder: Path, body: str, where: str) -> tuple[int, str]:
    """The status and the error output of a program with its output sent to `where` in a shell."""
    code = f"import time\nfrom torchcaffe.base import errors\ndef main():\n    {body}\nerrors.run_main(main)"
    (folder / "program.py").write_text(code)
    into, _, reader = where.partition("|")
    line = f'("$0" program.py {into}; echo $? > status) {"|" if reader else ""} {reader}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )
    return int((folder / "status").read_text()), done.stderr.strip()


def test_ctrl_c_that_ends_a_tee_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_solver()
    Path("solver.prototxt").write_text(Path("solver.prototxt").read_text().replace("100", "100000000 display: 100"))
    reading, writing = os.pipe()
    trainer = subprocess.Popen(
        [sys.executable, ROOT / "tools/train.py", "--solver", "solver.prototxt"], stdout=writing, stderr=writing
    )
    os.close(writing)
    while b"Iteration 100" not in os.read(reading, 1 << 16):
        pass
    os.close(reading)
    trainer.send_signal(signal.SIGINT)
    assert trainer.wait(60) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_test_stops_before_its_end(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_solver("test_iter: 100000000 test_interval: 4 test_initialization: false")
    with Path("log").open("w") as log:
        trainer = subprocess.Popen(
            [sys.executable, ROOT / "tools/train.py", "--solver", "solver.prototxt"], stdout=log, stderr=log
        )
        while "Testing net" not in Path("log").read_text():
            assert trainer.poll() is None
            time.sleep(0.1)
        trainer.send_signal(number)
        assert trainer.wait(10) == 128 + number
    state = next(iter(tmp_path.rglob("*_iter_4.solverstate")))
    assert f"stopped at iteration 4; go on with --snapshot {state.relative_to(tmp_path)}" in Path("log").read_text()
