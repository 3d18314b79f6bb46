"""Inner products with rounded weights."""

from __future__ import annotations

import numpy as np
import pytest

import torchcaffe as caffe

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: %d dim: 500 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 20 bias_term: %s transpose: %s
    weight_filler { type: "gaussian" std: 1 } bias_filler { type: "uniform" min: -9 max: 9 } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def make(folder, batch: int = 2, bias: str = "true", transpose: str = "false", phase: int = caffe.TEST):
    caffe.set_random_seed(1)
    (folder / "net.prototxt").write_text(NET % (batch, bias, transpose))
    net = caffe.Net(str(folder / "net.prototxt"), phase)
    net.blobs["x"].data[...] = np.random.RandomState(0).randn(batch, 500)
    return net


def error(net, wanted: np.ndarray) -> float:
    net.forward()
    return float(np.linalg.norm(net.blobs["a"].data - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("precision, least, most", [("bf16", 5e-4, 6e-3), ("int8", 3e-3, 2e-2)])
@pytest.mark.parametrize("batch, bias, transpose", [(1, "true", "false"), (5, "false", "false"), (2, "true", "true")])
def test_rounded_weights(precision, least, most, batch, bias, transpose, tmp_path):
    net = make(tmp_path, batch, bias, transpose)
    net.forward()
    wanted = net.blobs["a"].data.copy()
    assert net.reduce_weights(precision, 20 * 500) == ["a"]
    assert least < error(net, wanted) < most
    weight = net.params["a"][0].data
    for _ in range(2):  # the user's array stays live
        weight *= 2
        bias = net.params["a"][1].data if len(net.params["a"]) > 1 else 0
        wanted = net.blobs["x"].data @ (weight if transpose == "true" else weight.T) + bias
        assert least < error(net, wanted) < most
    del weight
    assert least < error(net, wanted) < most
    assert net.params["a"][0].data.dtype == np.float32


def test_not_a_number_stays_one(tmp_path):
    net = make(tmp_path)
    net.reduce_weights("int8", 1)
    net.params["a"][0].data[3, 4] = np.nan
    net.params["a"][0].data[5] = 0
    net.forward()
    assert np.isnan(net.blobs["a"].data[:, 3]).all() and np.isnan(net.blobs["a"].data).sum() == 2
    np.testing.assert_array_equal(net.blobs["a"].data[:, 5], np.repeat(net.params["a"][1].data[5], 2))


def test_what_it_is_for(tmp_path):
    with pytest.raises(caffe.CaffeError, match="TEST phase"):
        make(tmp_path, phase=caffe.TRAIN).reduce_weights("int8")
    with pytest.raises(caffe.CaffeError, match="bf16, int8"):
        make(tmp_path).reduce_weights("int4")
    assert make(tmp_path).reduce_weights("int8") == []  # none is large
