"""The estimate of a schedule's time, which must change nothing of the training it is made for."""

from __future__ import annotations

import re

import pytest

from ilgnet.cli import train
from ilgnet.run import processes
from ilgnet.train import estimate, runs
from tests.ilgnet.small_nets import write_solver
from tests.loaded import elsewhere
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2


def test_it_is_printed_first_and_changes_nothing(folder, capfd, monkeypatch):
    monkeypatch.setattr(processes, "elsewhere", elsewhere)
    solver, weights = write_solver(folder, max_iter=12), folder / "run" / "x_iter_12.caffemodel"
    assert train.main(["--solver", solver]) == 0
    plain = weights.read_bytes()
    weights.with_suffix(".solverstate").unlink()  # a fresh start is refused beside another run's
    capfd.readouterr()
    assert train.main(["--solver", solver, "--estimate"]) == 0
    assert weights.read_bytes() == plain
    out = capfd.readouterr().out
    said = re.match(r"estimated on this machine: \d+ s \(12 iterations of (\S+) s, 2 tests of 3 batches of (\S+) ", out)
    assert said and all(0 < float(seconds) < 60 for seconds in said.groups()), out


def test_the_sum():
    settings = caffe_pb2.SolverParameter(max_iter=533000, test_iter=[533], test_interval=533)
    measured = {"iteration_s": 3.5, "test_batch_s": [0.5]}
    # 533000 * 3.5 s + 1001 tests * 533 * 0.5 s = 2,132,266.5 s
    line = estimate.text(settings, measured)
    assert line == (
        "estimated on this machine: 24 d 16 h "
        "(533000 iterations of 3.5 s, 1001 tests of 533 batches of 0.5 s; snapshots not counted)"
    )
    assert "24 d 16 h (532999 iterations" in estimate.text(settings, measured, 1)
    assert "1 h 7 min (1000 iterations of 3.5 s, 2 tests" in estimate.text(settings, measured, 532000)
    settings.ClearField("test_interval")
    line = estimate.text(settings, {"iteration_s": 0.003, "test_batch_s": []}, 532000)
    assert line == "estimated on this machine: 3 s (1000 iterations of 0.003 s; snapshots not counted)"


def test_where_a_run_goes_on(tmp_path):
    for name in ("x_iter_9.solverstate", "x_iter_10.solverstate.h5", "xy_iter_70.solverstate"):
        (tmp_path / name).touch()
    prefix = str(tmp_path / "x")
    assert runs.iteration_of(runs.AUTO, prefix) == 10
    assert runs.iteration_of(prefix + "_iter_9.solverstate", prefix) == 9
    assert runs.iteration_of(runs.AUTO, str(tmp_path / "z")) == runs.iteration_of("renamed", prefix) == 0


def test_a_solver_that_does_not_run_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "elsewhere", elsewhere)
    solver = tmp_path / "solver.prototxt"
    solver.write_text('net: "gone.prototxt" lr_policy: "fixed"')
    with pytest.raises(CaffeError, match=r"gone.prototxt"):
        estimate.measure(solver, "torch", None)
