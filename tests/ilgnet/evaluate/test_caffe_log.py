"""Logs of several Caffe versions; the lines are the forms that each of them prints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilgnet.evaluate import caffe_log
from ilgnet.figures import plots
from ilgnet.report import page
from torchcaffe.base.errors import CaffeError

OLD = """\
I0501 23:59:58.500000  77 solver.cpp:280] Solving GoogleNet
I0501 23:59:58.600000  77 solver.cpp:341] Iteration 0, Testing net (#0)
I0501 23:59:59.000000  77 solver.cpp:409]     Test net output #0: loss1/loss = 0.9 (* 1 = 0.9 loss)
I0501 23:59:59.000000  77 solver.cpp:409]     Test net output #1: loss1/top-1 = 0.45
I0501 23:59:59.500000  77 solver.cpp:237] Iteration 0, loss = 1.25
I0501 23:59:59.500000  77 solver.cpp:253]     Train net output #0: loss1/loss = 1.5 (* 1 = 1.5 loss)
I0501 23:59:59.500000  77 sgd_solver.cpp:106] Iteration 0, lr = 0.0001
I0502 00:00:01.500000  77 solver.cpp:237] Iteration 20, loss = 0.75
I0502 00:00:01.500000  77 solver.cpp:253]     Train net output #0: loss1/loss = 0.5 (* 1 = 0.5 loss)
I0502 00:00:01.500000  77 sgd_solver.cpp:106] Iteration 20, lr = 9.6e-05
"""
NEW = """\
I1123 10:00:00.000000  9 solver.cpp:239] Iteration 20 (-nan iter/s, 0s/20 iters), loss = 0.6
I1123 10:00:00.000000  9 solver.cpp:258]     Train net output #0: loss1/loss = 0.61 (* 1 = 0.61 loss)
I1123 10:00:00.100000  9 sgd_solver.cpp:112] Iteration 20, lr = 1e-05
I1123 10:00:06.400000  9 solver.cpp:239] Iteration 40 (3.125 iter/s, 6.4s/20 iters), loss = nan
I1123 10:00:06.400000  9 solver.cpp:464] Snapshotting to binary proto file run/x_iter_41.caffemodel
I1123 10:00:07.000000  9 solver.cpp:347] Iteration 41, Testing net (#1)
I1123 10:00:07.000000  9 solver.cpp:414]     Test net output #0: accuracy = -nan
"""


def write(tmp_path, text):
    path = tmp_path / "caffe.log"
    path.write_text(text)
    return path


# GoogLeNet's three heads at the loss of chance: the total is 1.109.
HEADS = """\
I1123 10:00:00.000000  9 solver.cpp:239] Iteration 0 (1 iter/s, 0s/20 iters), loss = 1.109
I1123 10:00:00.000000  9 solver.cpp:258]     Train net output #0: loss1/loss = 0.7 (* 0.3 = 0.21 loss)
I1123 10:00:00.000000  9 solver.cpp:258]     Train net output #1: loss2/loss = 0.69 (* 0.3 = 0.207 loss)
I1123 10:00:00.000000  9 solver.cpp:258]     Train net output #2: loss3/loss = 0.693 (* 1 = 0.693 loss)
"""


def test_the_last_head_s_loss_compares_nets(tmp_path):
    log = caffe_log.read_log(write(tmp_path, HEADS))
    assert log.loss.values.tolist() == [1.109] and log.train_loss().values.tolist() == [0.693]
    (name, _, plot) = page.run_plots([page.Run("full", log)], [])[0]
    assert name == "train_loss" and isinstance(plot, plots.Plot)
    assert page.run_facts(page.Run("full", log))["first_loss"] == 0.693
    log = caffe_log.read_log(write(tmp_path, OLD))  # one head: what the solver logs, smoothed by average_loss
    assert log.train_loss() is log.loss


def test_old_form(tmp_path):
    log = caffe_log.read_log(write(tmp_path, OLD))
    assert log.loss.iterations.tolist() == [0, 20] and log.loss.values.tolist() == [1.25, 0.75]
    assert log.train["loss1/loss"].values.tolist() == [1.5, 0.5]
    assert log.lr.values.tolist() == [1e-4, 9.6e-5]
    assert log.test_series("accuracy").values.tolist() == [0.45]
    assert log.test_series("loss").values.tolist() == [0.9]
    assert log.seconds.values.tolist() == [0, 2]  # past midnight
    assert log.test_run is None


def test_new_form_and_nan(tmp_path):
    log = caffe_log.read_log(write(tmp_path, NEW))
    assert log.loss.iterations.tolist() == [20, 40] and np.isnan(log.loss.values[1])
    assert log.tests[1]["accuracy"].iterations.tolist() == [41] and np.isnan(log.tests[1]["accuracy"].values[0])
    assert log.snapshots == ["run/x_iter_41.caffemodel"]


def test_windows_lines_without_prefix_and_bars(tmp_path):
    text = " 10%|#   | 1/10\r" + OLD.replace("\n", "\r\n")
    text += "Iteration 40, loss = 1.#QNAN\r\nIteration 60, loss = -1.#INF\n"
    log = caffe_log.read_log(write(tmp_path, text))
    assert log.loss.iterations.tolist() == [0, 20, 40, 60]
    assert np.isnan(log.loss.values[2]) and log.loss.values[3] == -np.inf


def test_resumed_replaces_what_was_lost(tmp_path):
    lines = [
        f"I1123 10:00:00.0 1 solver.cpp:239] Iteration {i}, loss = {v}"
        for i, v in [(0, 5), (20, 4), (40, 3), (60, 2), (40, 30), (60, 20), (80, 10)]
    ]
    log = caffe_log.read_log(write(tmp_path, "\n".join(lines)))
    assert log.loss.iterations.tolist() == [0, 20, 40, 60, 80]
    assert log.loss.values.tolist() == [5, 4, 30, 20, 10]


@pytest.mark.parametrize(
    "again, resumed, speed",
    [
        ("", 40, (80, 4.0)),  # from the snapshot at its end
        ("", 20, (100, 5.0)),  # with what was done twice, which took its time
        ("I0105 11:00:00.0 1 solver.cpp:45] Initializing solver from parameters: \nbase_lr: 1\n", 60, (60, 3.0)),
    ],
)
def test_speed_without_the_time_between_a_run_and_its_going_on(tmp_path, again, resumed, speed):
    def lines(day, first, last):
        return "".join(
            f"I01{day} 10:00:{i // 20:02d}.0 1 solver.cpp:239] Iteration {i}, loss = 1\n"
            for i in range(first, last + 1, 20)
        )

    log = caffe_log.read_log(write(tmp_path, lines("05", 0, 40) + again + lines("06", resumed, 80)))
    assert log.speed == speed


def test_caffe_test_log(tmp_path):
    net = 'name: "n"\nlayer {\n  data_param {\n    source: "val_lmdb"\n    batch_size: 4\n  }\n}\n'
    text = (
        "I0105 11:14:20.9  1 net.cpp:58] Initializing net from parameters: \n"
        + net
        + "I0105 11:14:21.0  1 layer_factory.hpp:77] Creating layer data\n"
        "I0105 11:14:28.0  1 caffe.cpp:286] Running for 2 iterations.\n"
        "I0105 11:14:28.1  1 caffe.cpp:309] Batch 0, loss1/loss = 0.5\n"
        "I0105 11:14:28.1  1 caffe.cpp:309] Batch 0, loss1/top-1 = 0.75\n"
        "I0105 11:14:28.2  1 caffe.cpp:309] Batch 1, loss1/loss = 0.25\n"
        "I0105 11:14:28.2  1 caffe.cpp:309] Batch 1, loss1/top-1 = 1\n"
        "I0105 11:14:28.2  1 caffe.cpp:314] Loss: 0.375\n"
        "I0105 11:14:28.2  1 caffe.cpp:326] loss1/loss = 0.375 (* 1 = 0.375 loss)\n"
        "I0105 11:14:28.2  1 caffe.cpp:326] loss1/top-1 = 0.875\n"
    )
    log = caffe_log.read_log(write(tmp_path, text))
    result = caffe_log.last_test(log)
    assert result.accuracy.value == 0.875
    assert (result.accuracy.correct, result.accuracy.n, result.accuracy.batch) == (7, 8, 4)
    assert result.loss == 0.375 and result.source == "val_lmdb"
    log.nets.clear()
    with pytest.raises(CaffeError, match="batch_size is unknown"):
        caffe_log.last_test(log)


def test_last_test_of_a_training_log(tmp_path):
    text = (
        "I0501 23:59:58.1  77 solver.cpp:48] Initializing solver from parameters: \ntest_iter: 10\nbase_lr: 0.1\n"
        "I0501 23:59:58.2  77 net.cpp:58] Initializing net from parameters: \n"
        'layer {\n  data_param {\n    source: "/data/ava2/val_lmdb"\n    batch_size: 8\n  }\n}\n' + OLD
    )
    log = caffe_log.read_log(write(tmp_path, text))
    assert log.solver == "test_iter: 10\nbase_lr: 0.1\n"
    result = caffe_log.last_test(log)
    assert (result.accuracy.value, result.accuracy.correct, result.accuracy.n) == (0.45, 36, 80)
    assert result.loss == 0.9 and result.source == "/data/ava2/val_lmdb"
    with pytest.raises(CaffeError, match="batch_size is unknown"):
        caffe_log.last_test(caffe_log.read_log(write(tmp_path, OLD)))


@pytest.mark.parametrize(
    "name, accuracy, n, batch", [("AVA1_result.txt", 0.8168, 2500, 50), ("AVA2_result.txt", 0.855, 2400, 48)]
)
def test_released_logs(shared, name, accuracy, n, batch):
    result = caffe_log.last_test(caffe_log.read_log(shared / "ava" / "results" / name))
    assert result.accuracy.value == accuracy
    assert (result.accuracy.n, result.accuracy.batch) == (n, batch)
    assert result.accuracy.low < accuracy < result.accuracy.high
    assert result.accuracy.high - result.accuracy.low == pytest.approx(0.03, abs=0.003)


def test_main_output_prefers_the_last_head():
    names = ["loss1/loss1", "loss1/top-1", "loss1/top-5", "loss3/loss3", "loss3/top-1", "loss3/top-5"]
    assert caffe_log.main_output(names, "accuracy") == "loss3/top-1"
    assert caffe_log.main_output(names, "loss") == "loss3/loss3"
    assert caffe_log.main_output(["prob"], "accuracy") is None


def test_not_a_log(tmp_path):
    with pytest.raises(CaffeError, match="is it a Caffe log"):
        caffe_log.read_log(write(tmp_path, "hello\n"))


@given(st.text())
def test_anything_parses_or_is_refused(text):
    log = caffe_log.CaffeLog("x")
    caffe_log._parse(log, text.splitlines(keepends=True))


@given(st.lists(st.integers(0, 50)))
def test_series_is_strictly_increasing(iterations):
    series = caffe_log.Series()
    for i in iterations:
        series.add(i, i)
    assert np.all(np.diff(series.iterations) > 0)
    assert not iterations or series.iterations[-1] == iterations[-1]
