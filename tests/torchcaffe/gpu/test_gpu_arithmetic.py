"""caffe.set_precision: products on bfloat16 values, everything else as ever (tf32 needs a GPU to differ)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import torchcaffe as caffe
from ilgnet.cli import evaluate, rank, train
from tests.torchcaffe.gpu.recorded import assert_same, made, make, tape
from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _precision():
    yield
    caffe.set_precision("fp32")


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.usefixtures("folder")
def test_bf16_rounds_products_and_nothing_else():
    solver = make('lr_policy: "fixed"')
    found, place = {}, solver.net.layers[0].state()
    for name in ("fp32", "bf16"):
        caffe.set_precision(name)
        solver.net.layers[0].set_state(place)  # the same batch
        caffe.set_random_seed(7)
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        blobs = {name: solver.net.blobs[name].data.copy() for name in ("data", "conv", "ip2", "loss")}
        found[name] = blobs, {n: solver.net.params[n][0].diff.copy() for n in ("conv", "ip", "ip2")}
    exact, rounded = (found[name] for name in ("fp32", "bf16"))
    np.testing.assert_array_equal(exact[0]["data"], rounded[0]["data"])
    for ours, theirs, most in zip(exact, rounded, (0.01, 0.1)):  # in gradients an activation on the other side counts
        for name in ours.keys() - {"data"}:
            assert theirs[name].dtype == np.float32
            assert 0 < relative(theirs[name], ours[name]) < most, name


@pytest.mark.usefixtures("folder")
def test_bf16_trains_recorded_as_eagerly_and_weights_stay_float32():
    caffe.set_precision("bf16")
    eager, recorded = make(), make(recorder=tape)
    for solver in (eager, recorded):
        caffe.set_random_seed(4)
        solver.step(8)
    assert made(recorded.net) == (True, 1)
    assert_same(eager, recorded)
    caffe.set_precision("fp32")  # ends a recording
    recorded.net.forward()
    assert made(recorded.net) == (False, 0)
    step = eager.net.params["ip"][0].data.copy()
    eager.p.base_lr = 1e-7  # far below what bfloat16 could add to a weight
    eager.rule.set_arrays([np.zeros_like(array) for array in eager.rule.arrays()])
    eager.step(1)
    assert 0 < np.abs(eager.net.params["ip"][0].data - step).max() < 1e-5


def test_strict_is_the_default_and_others_are_refused():
    assert context.precision == "fp32"
    with pytest.raises(CaffeError, match="precision 'fp16': one of fp32, tf32, bf16 expected"):
        caffe.set_precision("fp16")


@pytest.mark.parametrize(
    "tool, words, precision",
    [
        (train, ["--solver", "s"], "bf16"),
        (train, ["--solver", "s"], "int8"),
        (evaluate, ["--weights", "w", "--lmdb", "l"], "tf32"),
        (rank, [".", "--weights", "w"], "tf32"),
        (rank, [".", "--weights", "w", "--gpu", "0"], "int8"),
    ],
)
def test_tools_refuse_it_where_it_means_nothing(tmp_path, monkeypatch, tool, words, precision):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").write_text('base_lr: 1 lr_policy: "fixed"')
    with pytest.raises(CaffeError, match=f"--precision {precision}: torchcaffe takes tf32 and bf16 on a GPU"):
        tool.main([*words, "--precision", precision])


def test_denormals_are_flushed_while_a_program_trains_and_no_longer():
    tiny = torch.tensor([1e-39])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with context.denormals_flushed():
            assert (tiny * 1).item() == 0 and np.finfo(np.float32).tiny > 0
    assert (tiny * 1).item() > 0
