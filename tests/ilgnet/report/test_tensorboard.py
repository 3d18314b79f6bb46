"""Event files from logs: following a log that grows, refusals, histograms."""

from __future__ import annotations

import os

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator as reader

from ilgnet.cli import log_to_tensorboard
from ilgnet.report import tensorboard
from torchcaffe.base.errors import CaffeError


def line(i, loss):
    return f"I1123 10:00:{i:02d}.0 1 solver.cpp:239] Iteration {i} (1 iter/s, 1s/1 iters), loss = {loss}\n"


def test_following_a_log(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("".join(line(i, 1 / (i + 1)) for i in range(5)))
    os.utime(log, (1e9, 1e9))
    events = tensorboard.EventLog(log, tmp_path / "tb")
    events.update()
    assert events.scalars == 5
    with log.open("a") as file:
        file.write(line(5, "nan") + line(6, 0.1))
    os.utime(log, (1e9, 1e9))
    events.update()
    events.update()
    events.close()
    assert events.scalars == 7
    found = reader.EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("train/loss")
    assert [e.step for e in found] == list(range(7)) and np.isnan(found[5].value)
    assert found[6].wall_time - found[2].wall_time == 2  # to the file's clock


def test_released_log_has_no_iterations_but_a_test(shared, tmp_path):
    log = shared / "ava" / "results" / "AVA1_result.txt"
    assert tensorboard.write(log, tmp_path).scalars == 0  # `caffe test` logs batches of one test, no run over time


def test_refusals(tmp_path):
    (tmp_path / "x.log").write_text("hello")
    with pytest.raises(CaffeError, match="is it a Caffe log"):
        log_to_tensorboard.main([str(tmp_path / "x.log")])
    with pytest.raises(CaffeError, match="--follow 0.0: must be from 0.001 to 1000000"):
        log_to_tensorboard.main([str(tmp_path / "x.log"), "--follow", "0"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.log"]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(CaffeError, match=r"TensorBoard is not installed: pip install"):
        tensorboard.EventLog(tmp_path / "x.log", tmp_path)


def test_histogram_of_nothing_and_of_one_value():
    assert tensorboard.histogram(np.array([np.nan]))["num"] == 0
    one = tensorboard.histogram(np.full(7, 2.0))
    assert one["num"] == sum(one["bucket_counts"]) == 7 and one["sum_squares"] == 28


def test_histogram_is_numpys():
    values = np.random.RandomState(0).randn(25, 41).astype(np.float32)
    found = tensorboard.histogram(values)
    counts, edges = np.histogram(values.astype(np.float64), tensorboard.BINS)
    assert found["bucket_counts"] == counts.tolist() and found["bucket_limits"] == edges[1:].tolist()
    assert (found["num"], found["min"], found["max"]) == (values.size, values.min(), values.max())
    assert found["sum_squares"] == pytest.approx(np.sum(values.astype(np.float64) ** 2))
