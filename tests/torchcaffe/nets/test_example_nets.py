"""Nets that Caffe's users know, one training iteration each, against real Caffe's (tests/bvlc/example_nets.py)."""

from __future__ import annotations

import json

import pytest

from tests import GOLDENS as _GOLDENS
from tests.bvlc import example_nets, whole_nets

GOLDENS = _GOLDENS / "examples"
FILLED = json.loads((GOLDENS / "filled.json").read_text())


@pytest.fixture(scope="module")
def caffe():
    import torchcaffe as caffe

    return caffe


@pytest.mark.parametrize("name", example_nets.EXAMPLES)
def test_one_iteration(name, caffe):
    filled, arrays = example_nets.train_once(caffe, example_nets.job(name))
    assert filled == FILLED[name], "weights before are not BVLC's bit for bit"
    wanted, got = whole_nets.load(GOLDENS / f"{name}.npz"), example_nets.summary(arrays)
    assert got.keys() == wanted.keys()
    errors = whole_nets.distances(got, wanted)
    assert max(errors["output"].values()) <= 1e-5, errors["output"]
    far = {key: error for key, error in errors["update"].items() if error > 1e-4}
    assert not far, far


def test_the_goldens_tell_nets_apart(caffe):
    wanted = whole_nets.load(GOLDENS / "lenet.npz")
    filled, arrays = example_nets.train_once(caffe, example_nets.job("lenet", seed=4))
    errors = whole_nets.distances(example_nets.summary(arrays), wanted)
    assert filled["conv1/0"] != FILLED["lenet"]["conv1/0"]
    assert errors["output"]["out loss"] > 1e-3 and min(errors["update"].values()) > 1e-2
