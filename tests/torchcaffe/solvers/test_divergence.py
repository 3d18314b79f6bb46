"""A loss or gradient that is no number stops a training before its update; a snapshot, and the blob that went bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import torchcaffe as caffe
from torchcaffe.base.errors import Diverged
from torchcaffe.formats import caffemodel
from torchcaffe.solvers import snapshots

# Dropout and statistics, so that the snapshot has a random stream and running means to bring back.
NET = """layer { name: "data" type: "DummyData" top: "data" top: "target" dummy_data_param {
  shape { dim: 4 dim: 3 dim: 2 dim: 2 } shape { dim: 4 dim: 2 }
  data_filler { type: "gaussian" } data_filler { type: "gaussian" } } }
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "data" }
layer { name: "drop" type: "Dropout" bottom: "data" top: "data" }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
%s
layer { name: "loss" type: "EuclideanLoss" bottom: "%s" bottom: "target" top: "loss" }
"""
PLAIN = NET % ("", "ip")
# exp(88.8) is infinite in float32: soon, since its gradients make the weights below it grow
GROWING = NET % ('layer { name: "exp" type: "Exp" bottom: "ip" top: "ip" exp_param { scale: 4 } }', "ip")
# The root's slope at 0, where its value is 0: so all weights begin at 0.
STEEP = NET.replace("xavier", "constant") % (
    'layer { name: "root" type: "Power" bottom: "ip" top: "root" power_param { power: 0.5 } }',
    "root",
)


def solver(net: str, prefix: str = "x", **more):
    Path("net.prototxt").write_text(net)
    text = {
        "base_lr": 0.01,
        "momentum": 0.9,
        "lr_policy": '"fixed"',
        "random_seed": 7,
        "max_iter": 50,
        "snapshot_prefix": f'"{prefix}"',
        **more,
    }
    Path("solver.prototxt").write_text('net: "net.prototxt"\n' + "".join(f"{k}: {v}\n" for k, v in text.items()))
    return caffe.get_solver("solver.prototxt")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_loss_that_is_no_number(capfd):
    made = solver(GROWING, base_lr=0.05)
    with pytest.raises(Diverged) as raised:
        made.step(50)
    stopped = made.iter
    assert 0 < stopped < 50
    assert f"iteration {stopped}: the loss is" in str(raised.value)
    assert f"x_iter_{stopped}.solverstate" in str(raised.value)
    # The exponential works in place: only a repetition, layer by layer, tells it from the product below.
    assert "first in layer 'exp' (Exp): top blob 'ip'" in str(raised.value)
    # The snapshot is the state before that iteration: what a run that was stopped just in time would have.
    before = solver(GROWING, "y", base_lr=0.05)
    before.step(stopped)
    before.snapshot()
    for ours, wanted in zip(*(caffemodel.read_caffemodel(f"{p}_iter_{stopped}.caffemodel") for p in ("x", "y"))):
        for a, b in zip(ours.blobs, wanted.blobs):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)
    ours, wanted = (snapshots.read(f"{p}_iter_{stopped}.resume.npz")[1] for p in ("x", "y"))
    for name in wanted:
        np.testing.assert_array_equal(ours[name], wanted[name], err_msg=name)
    again = solver(GROWING, base_lr=0.05)
    again.restore(f"x_iter_{stopped}.solverstate")
    with pytest.raises(Diverged, match=f"iteration {stopped}: the loss is"):
        again.step(1)


def test_a_gradient_that_is_no_number():
    made = solver(STEEP)
    made.debug_nan = True
    with pytest.raises(Diverged, match="iteration 0: a gradient is not finite.*layer 'root' .*bottom blob 'ip'"):
        made.step(5)
    assert Path("x_iter_0.solverstate").exists()
    made = solver(STEEP, "y")  # without: the update breaks the weights, and no snapshot of such is taken
    with pytest.raises(Diverged, match=r"the update before has broken ip\[0\].*debug_nan"):
        made.step(5)
    assert not list(Path().glob("y_iter_*"))


@pytest.mark.parametrize("type_, lr, broken", [("SGD", 1e30, r"ip\[0\]"), ("AdaGrad", 0.01, r"the history of ip\[0\]")])
def test_no_snapshot_of_what_an_update_has_broken(type_, lr, broken):
    """The loss before that update is finite; the snapshot due right after it would be the newest."""
    more = {} if type_ == "SGD" else {"momentum": 0}
    made = solver(PLAIN, type=f'"{type_}"', snapshot=1, **more)
    made.step(2)
    made.p.base_lr = lr
    # AdaGrad's squares are infinite then, and its weights stay finite.
    made.add_callback(lambda: None, lambda: made.net.params["ip"][0].diff.fill(1e30))
    kept = sorted(Path().glob("x_iter_*"))
    with pytest.raises(Diverged, match=f"iteration 3: .*has diverged.*; the update before has broken {broken}, so"):
        made.step(1)
    assert sorted(Path().glob("x_iter_*")) == kept and snapshots.whole("x_iter_2.solverstate") == ""


def test_without_a_prefix_no_snapshot():
    made = solver(GROWING, base_lr=0.05)
    made.p.ClearField("snapshot_prefix")
    with pytest.raises(Diverged):
        made.step(50)
    assert not list(Path().glob("*.solverstate"))


def test_finite_training_is_left_alone():
    weights = []
    for debug_nan in (False, True):
        made = solver(PLAIN)
        made.debug_nan = debug_nan
        made.step(5)
        weights.append(made.net.params["ip"][0].data.copy())
    assert np.isfinite(weights).all()
    np.testing.assert_array_equal(*weights)
