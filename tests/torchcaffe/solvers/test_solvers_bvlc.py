"""Training runs, updates, rates, snapshots and log lines against real Caffe's (tests/bvlc/solvers.py)."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from tests.bvlc import run_caffe, solvers
from tests.bvlc.solver_goldens import GOLDENS, check
from torchcaffe.cli import main
from torchcaffe.proto import caffe_pb2, parse_text
from torchcaffe.solvers.schedule import learning_rate

ERRORS = json.loads((GOLDENS / "errors.json").read_text())


@pytest.fixture(scope="module")
def caffe():
    import torchcaffe as caffe

    return caffe


@pytest.mark.parametrize("name", solvers.TRAINING)
def test_training(name, caffe):
    value, got = run_caffe.run_train(caffe, solvers.TRAINING[name])
    check("training", name, value, got, 1e-5)


@pytest.mark.parametrize("name", solvers.UPDATES)
def test_hundred_updates_on_given_gradients(name, caffe):
    value, got = run_caffe.run_updates(caffe, solvers.update_job(name))
    check("updates", name, value, got, 1e-6)


@pytest.mark.parametrize("name", solvers.RATES)
def test_rates(name, caffe):
    """All of them by the function that the solver asks, and that a solver has those, past steps and a double one."""
    job, step, got = solvers.rate_job(name), 0, []
    settings = parse_text(job["solver"], caffe_pb2.SolverParameter(), "test")
    for iteration in range(1, job["points"] + 1):  # as run_rates asks, after an update
        rate, step = learning_rate(settings, iteration, step)
        got.append(rate)
    with np.load(GOLDENS / "rates.npz") as f:
        got, wanted = np.float32(got), np.float32(f[name + "/rates"])
    np.testing.assert_array_max_ulp(got, wanted, 1)
    assert (got != wanted).sum() <= 1  # glibc's powf rounds a tie of poly's the other way
    _, stepped = run_caffe.run_rates(caffe, {**job, "points": 110})
    np.testing.assert_array_equal(np.float32(stepped["rates"]), got[:110])


@pytest.mark.parametrize("name", solvers.RESUMED)
def test_goes_on_from_a_snapshot_of_real_caffe(name, caffe):
    value, got = run_caffe.run_train(caffe, solvers.resume_job(name, str(GOLDENS / name)))
    check("resumed", name, value, got, 1e-5)


@pytest.mark.parametrize("name", [name for name in solvers.RESUMED if name != "random"])
def test_goes_on_from_its_own_snapshot_as_from_real_caffes(name, caffe, tmp_path):
    run_caffe.run_train(caffe, solvers.snapshot_job(name, str(tmp_path)))
    for extra in tmp_path.glob("*.resume.npz"):  # real Caffe has none, and starts at the first record
        extra.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (GOLDENS / name).iterdir())
    value, got = run_caffe.run_train(caffe, solvers.resume_job(name, str(tmp_path)))
    check("resumed", name, value, got, 2e-5)


@pytest.mark.parametrize("name", solvers.REFUSED)
def test_refused(name, caffe):
    with pytest.raises((caffe.CaffeError, OSError)) as error:
        run_caffe.run_train(caffe, solvers.refused_job(name))
    assert name in ERRORS and str(error.value).strip()


def numbers(line: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", line.partition("] ")[2])]


def words(line: str) -> str:
    return re.sub(r"-?\d+\.?\d*(?:e[+-]\d+)?", "#", line.partition("] ")[2] or line)


@pytest.mark.parametrize("name", solvers.LOGS)
def test_log_lines(name, capfd):
    with run_caffe.inside(run_caffe.write_files(solvers.log_files(name))) as folder:
        for path in (GOLDENS / "sgd_momentum").iterdir():
            shutil.copy(path, folder)
        assert main._main(solvers.LOGS[name][0]) == 0
    got = solvers.normalise(capfd.readouterr().err)
    wanted = (GOLDENS / f"{name}.log").read_text().splitlines()
    got = [line for line in got if ".resume.npz" not in line]  # our warning that it is missing
    assert [words(line) for line in got] == [words(line) for line in wanted]
    for a, b in zip(got, wanted):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=2e-5, atol=1e-6, err_msg=f"{a}\n{b}")
