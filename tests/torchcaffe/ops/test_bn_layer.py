"""The BN layer of public forks of Caffe, which BVLC has not, against PyTorch's own batch_norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchcaffe as caffe
from tests.bvlc import compare
from torchcaffe.ops import norm
from torchcaffe.proto import caffe_pb2, parse_text

SHAPE = (4, 3, 5, 7)


def make(text: str, phase: int, in_place: bool = False):
    """A net of one BN layer with drawn blobs, and its data."""
    dims = " ".join(f"dim: {n}" for n in SHAPE)
    param = parse_text(
        f'force_backward: true layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}'
        f'layer {{ name: "bn" type: "BN" bottom: "x" top: "{"x" if in_place else "y"}" {text} }}'
        'layer { name: "power" type: "Power" bottom: "%s" top: "z" }' % ("x" if in_place else "y"),
        caffe_pb2.NetParameter(),
        "test",
    )
    param.state.phase = phase
    net = caffe.Net.from_param(param)
    rng = np.random.RandomState(1)
    blobs = net.params["bn"]
    assert [blob.data.shape for blob in blobs] == [(1, 3)] * 4
    for blob, (low, high) in zip(blobs, ((-2, 2), (-1, 1), (-1, 1), (0.5, 2))):
        blob.data[...] = rng.uniform(low, high, blob.shape)
    return net, rng.standard_normal(SHAPE).astype(np.float32) * 2 + 1, rng.standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    "text, phase",
    [
        ("", caffe.TRAIN),
        ("", caffe.TEST),
        ("bn_param { eps: 0.01 momentum: 0.7 }", caffe.TRAIN),
        ("bn_param { frozen: true engine: CAFFE }", caffe.TRAIN),
    ],
    ids=["train", "test", "eps", "frozen"],
)
def test_as_pytorchs(text, phase, in_place):
    net, data, g = make(text, phase, in_place)
    p = net.layer_dict["bn"].layer_param.bn_param
    slope, bias, mean, variance = (torch.tensor(blob.data.reshape(-1)) for blob in net.params["bn"])
    leaves = [torch.tensor(data).requires_grad_(), slope.requires_grad_(), bias.requires_grad_()]
    training = phase == caffe.TRAIN and not p.frozen
    # Theirs keeps 1 - momentum of the running statistics, and corrects the variance for the batch's size.
    kept = [mean.clone(), variance.clone()]
    y = torch.nn.functional.batch_norm(leaves[0], *kept, *leaves[1:], training, 1 - p.momentum, p.eps)
    y.backward(torch.tensor(g))
    net.params["bn"].add_blob(3)  # of a program's own, which takes no part
    net.blobs["x"].data[...] = data
    net.forward()
    net.blobs["z"].diff[...] = g
    net.backward()
    assert compare.error(net.blobs["z"].data, y.detach().numpy()) < 1e-5
    assert compare.error(net.blobs["x"].diff, leaves[0].grad.numpy()) < 1e-5
    if not p.frozen:
        for blob, leaf in zip(net.params["bn"], leaves[1:]):
            assert compare.error(blob.diff.reshape(-1), leaf.grad.numpy()) < 1e-5
    m = data.size // SHAPE[1]
    moved = kept[1] if not training else variance * p.momentum + (kept[1] - variance * p.momentum) * (m - 1) / m
    for blob, wanted in zip(net.params["bn"][2:], (kept[0], moved)):
        assert compare.error(blob.data.reshape(-1), wanted.numpy()) < 1e-6


def test_fillers_and_what_learns():
    text = "bn_param { slope_filler { type: 'constant' value: 0.5 } bias_filler { type: 'uniform' min: 1 max: 2 } }"
    dims = " ".join(f"dim: {n}" for n in SHAPE)
    param = parse_text(
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}'
        f'layer {{ name: "bn" type: "BN" bottom: "x" top: "y" {text} }}',
        caffe_pb2.NetParameter(),
        "test",
    )
    net = caffe.Net.from_param(param)
    slope, bias, mean, variance = (blob.data for blob in net.params["bn"])
    assert (slope == 0.5).all() and (bias >= 1).all() and (bias <= 2).all() and not mean.any() and not variance.any()
    assert [m is None or m > 0 for m in [r.lr_mult for r in net.graph.parameters]] == [True, True, False, False]


@pytest.mark.parametrize("size", [(6, 3, 97, 101), (3, 5, 7), (7, 4), (1, 2, 1, 1), (2049, 3)])
def test_statistics_of_many_pixels_are_exact(size):
    """A channel's plain float32 sum over a batch of photos is off by 1e-5 and more; memory order must not matter."""
    rng = np.random.RandomState(1)
    x, g = (rng.standard_normal(size).astype(np.float32) * 3 + 5 for _ in range(2))
    axes = tuple(a for a in range(len(size)) if a != 1)
    exact, gradient = x.astype(np.float64), g.astype(np.float64)
    for order in (torch.contiguous_format, torch.channels_last if len(size) == 4 else torch.contiguous_format):
        ours, theirs = (torch.from_numpy(v).contiguous(memory_format=order) for v in (x, g))
        mean, variance = norm._moments(ours)
        sums, products = norm._sums(theirs, ours)
        for got, wanted in (
            (mean, exact.mean(axes)),
            (variance, exact.var(axes)),
            (sums, gradient.sum(axes)),
            (products, (gradient * exact).sum(axes)),
        ):
            np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6, atol=1e-7)
