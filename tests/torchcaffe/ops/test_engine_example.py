"""The worked example of docs/engine.md: a layer type in one class (docs/examples/softplus.py)."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

import torchcaffe as caffe
from tests import ROOT
from tests.bvlc import compare

FOLDER = ROOT / "docs" / "examples"


@pytest.fixture(autouse=True)
def softplus():
    """The example's class, known to the engine for one test."""
    from torchcaffe.core.layer import registry

    spec = importlib.util.spec_from_file_location("softplus", FOLDER / "softplus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.Softplus
    del registry["Softplus"]


@pytest.fixture
def net(softplus):
    made = caffe.Net(str(FOLDER / "softplus.prototxt"), caffe.TRAIN)
    made.blobs["data"].data[...] = np.random.RandomState(0).standard_normal((4, 3, 6, 5))
    return made


def test_the_page_prints_the_files():
    page = (ROOT / "docs" / "engine.md").read_text()
    for name in ("softplus.py", "softplus.prototxt"):
        text = (FOLDER / name).read_text()
        assert "\n".join("    " + line if line else "" for line in text.splitlines()) in page, name


def test_at_1_it_is_caffes_bnll(net):
    """BVLC's BNLL layer is log(1 + e^x), and the engine's agrees with it (tests/test_layers_bvlc.py)."""
    bnll = (FOLDER / "softplus.prototxt").read_text().replace("Softplus", "BNLL").replace("param { lr_mult: 0.1 }", "")
    other = caffe.Net.from_param(parse(bnll + "force_backward: true"))
    other.blobs["data"].data[...] = net.blobs["data"].data
    for each in (net, other):
        each.forward()
        each.blobs["data"].diff[...] = 0
        each.backward(end="act")
    for name in ("act", "loss"):
        assert compare.error(net.blobs[name].data, other.blobs[name].data) < 1e-6
    assert compare.error(net.blobs["act"].diff, other.blobs["act"].diff) < 1e-6


def parse(text):
    from torchcaffe.proto import caffe_pb2, parse_text

    param = parse_text(text, caffe_pb2.NetParameter(), "test")
    param.state.phase = caffe.TRAIN
    return param


def test_gradients(softplus):
    """Against finite differences, in double precision."""
    layer = softplus.__new__(softplus)
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    b = torch.rand(3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer.compute, (x, b + 0.5))


def test_it_learns(net, tmp_path):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'net: "{FOLDER / "softplus.prototxt"}" base_lr: 0.001 lr_policy: "fixed"\n')
    solver = caffe.SGDSolver(str(solver))
    solver.net.blobs["data"].data[...] = net.blobs["data"].data
    losses = []
    for _ in range(5):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert solver.net.params["act"][0].data.shape == (3,) and (solver.net.params["act"][0].data > 1).all()
