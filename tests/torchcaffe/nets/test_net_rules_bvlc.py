"""Caffe's rules of nets (tests/bvlc/net_rules.py): structure, contents and gradients as in real Caffe."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import GOLDENS as _GOLDENS
from tests.bvlc import compare, net_rules, run_caffe

GOLDENS = _GOLDENS / "net_rules"
STRUCTURE = json.loads((GOLDENS / "nets.json").read_text())
ERRORS = json.loads((GOLDENS / "errors.json").read_text())


@pytest.fixture(scope="module")
def caffe():
    import torchcaffe as caffe

    return caffe


@pytest.mark.parametrize("name", net_rules.NETS)
def test_net(name, caffe):
    value, got = run_caffe.run_net(caffe, net_rules.NETS[name])
    assert value == STRUCTURE[name]
    with np.load(GOLDENS / "nets.npz") as f:
        wanted = {key.split("/", 1)[1]: f[key] for key in f.files if key.startswith(name + "/")}
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in wanted.items()}
    limits = {"data": compare.FORWARD, "diff": compare.BOTTOM, "gradient": compare.PARAM, "weight": 1e-7}
    bad = [key for key in wanted if compare.error(got[key], wanted[key]) > limits[key.split()[0]]]
    assert not bad, compare.explain({k: got[k] for k in bad}, {k: wanted[k] for k in bad})


@pytest.mark.parametrize("name", net_rules.REFUSED)
def test_refused(name, caffe):
    assert name in ERRORS
    with pytest.raises(caffe.CaffeError) as error:
        run_caffe.run_net(caffe, net_rules.REFUSED[name])
    assert str(error.value).strip()
