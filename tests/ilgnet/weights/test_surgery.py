"""Surgery on arrays: what is copied, what is made, and that BatchNorm appears and disappears without a trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilgnet.cli import export_onnx
from ilgnet.cli import surgery as cli_surgery
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel
from torchcaffe.formats.blobproto import same_shape
from torchcaffe.formats.caffemodel import LayerBlobs
from torchcaffe.proto import caffe_pb2, parse_text

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 3 kernel_size: 1 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "c/bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "c/scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 2 } }
"""


def net(text=NET):
    return parse_text(text, caffe_pb2.NetParameter(), "test")


def target():
    return {
        "c": [np.full((3, 2, 1, 1), 9.0, np.float32)],
        "c/bn": [np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(1, np.float32)],
        "c/scale": [np.ones(3, np.float32), np.zeros(3, np.float32)],
        "ip": [np.zeros((2, 75), np.float32), np.zeros(2, np.float32)],
    }


def source(rng):
    return [
        LayerBlobs("data", "Input", []),
        LayerBlobs("c", "Convolution", [rng.randn(3, 2, 1, 1).astype("f"), rng.randn(1, 1, 1, 3).astype("f")]),
        LayerBlobs("ip", "InnerProduct", [rng.randn(1, 1, 2, 75).astype("f"), rng.randn(1, 1, 1, 2).astype("f")]),
        LayerBlobs("old", "InnerProduct", [rng.randn(4, 4).astype("f")]),
    ]


def convolve(x, weight):
    return np.einsum("nchw,oc->nohw", x, weight[:, :, 0, 0])


def normalise(x, bn, scale, eps=1e-5):
    mean, var = bn[0] / bn[2], bn[1] / bn[2]
    return ((x.transpose(0, 2, 3, 1) - mean) / np.sqrt(var + eps) * scale[0] + scale[1]).transpose(0, 3, 1, 2)


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_bias_goes_into_the_mean(seed):
    rng = np.random.RandomState(seed)
    src, params = source(rng), target()
    report = surgery.transplant(net(), params, src)
    assert [(r.layer, r.what) for r in report.rows] == [
        ("c", "copied"),
        ("c/bn", "made"),
        ("c/scale", "made"),
        ("ip", "copied"),
        ("old", "unused"),
    ]
    x = rng.randn(2, 2, 5, 5).astype("f")
    before = convolve(x, src[1].blobs[0]) + src[1].blobs[1].reshape(1, 3, 1, 1)
    after = normalise(convolve(x, params["c"][0]), params["c/bn"], params["c/scale"])
    np.testing.assert_allclose(after, before, atol=2e-6)
    np.testing.assert_array_equal(params["ip"][0], src[2].blobs[0][0, 0])
    # with the statistics of the photos: the same, and now x is normalised in between
    surgery.set_statistics(params["c/bn"], params["c/scale"], 1e-5, convolve(x, params["c"][0]), report.made["c/bn"])
    after = normalise(convolve(x, params["c"][0]), params["c/bn"], params["c/scale"])
    np.testing.assert_allclose(after, before, atol=5e-6)
    plain = normalise(convolve(x, params["c"][0]), params["c/bn"], [1, 0])
    np.testing.assert_allclose(plain.mean(axis=(0, 2, 3)), 0, atol=1e-5)


def test_fresh_layer_is_normalised():
    x = np.random.RandomState(0).randn(4, 3, 6, 6).astype("f") * 7 + 3
    bn, scale = [np.zeros(3, "f"), np.zeros(3, "f"), np.zeros(1, "f")], [np.zeros(3, "f"), np.ones(3, "f")]
    surgery.set_statistics(bn, scale, 1e-5, x, None)
    y = normalise(x, bn, scale)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3), ddof=1), 1, atol=1e-5)


def test_source_with_its_own_batch_norm():
    rng = np.random.RandomState(1)
    bn = [rng.randn(3).astype("f"), rng.rand(3).astype("f"), np.array([2.0], "f")]
    src = [
        LayerBlobs("c", "Convolution", [rng.randn(3, 2, 1, 1).astype("f")]),
        LayerBlobs("c/bn", "BatchNorm", bn),
        LayerBlobs("c/scale", "Scale", [rng.randn(3).astype("f"), rng.randn(3).astype("f")]),
    ]
    params = target()
    report = surgery.transplant(net(), params, src)
    assert report.count("copied") == 3 and not report.made
    for got, want in zip(params["c/bn"], bn):
        np.testing.assert_array_equal(got, want)
    # a convolution with bias before a BatchNorm that is copied as well: the bias moves into that mean
    src[0].blobs.append(np.array([1, 2, 3], "f"))
    params = target()
    surgery.transplant(net(), params, src)
    np.testing.assert_allclose(params["c/bn"][0], bn[0] - 2 * np.array([1, 2, 3]), rtol=1e-6)


def test_what_does_not_fit():
    rng = np.random.RandomState(2)
    src = [
        LayerBlobs("c", "Convolution", [rng.randn(3, 4, 1, 1).astype("f"), np.zeros(3, "f")]),
        LayerBlobs("elsewhere", "Convolution", [np.zeros((1, 1, 1, 1), "f")]),
    ]
    params = target()
    report = surgery.transplant(net(), params, src)
    what = {r.layer: (r.what, r.note) for r in report.rows}
    assert what["c"] == ("shape differs", "source has 3x4x1x1 3; filled")
    assert what["ip"] == ("filled", "no filler in the prototxt: all zero")
    assert what["elsewhere"][0] == "unused" and report.count("copied") == 0
    assert np.all(params["c"][0] == 9)
    np.testing.assert_allclose(params["c/bn"][1], 1 - 1e-5)


def test_lost_normalisation_is_refused():
    text = NET.replace(" bias_term: false", "")
    text = text.replace('layer { name: "c/bn" type: "BatchNorm" bottom: "c" top: "c" }', "")
    src = [
        LayerBlobs("c", "Convolution", [np.zeros((3, 2, 1, 1), "f"), np.zeros(3, "f")]),
        LayerBlobs("c/bn", "BatchNorm", [np.zeros(3, "f")] * 3),
    ]
    params = target()
    params["c"].append(np.zeros(3, np.float32))
    del params["c/bn"]
    with pytest.raises(CaffeError, match="normalises 'c' and the target does not"):
        surgery.transplant(net(text), params, src)


@pytest.mark.parametrize(
    "source_shape, target_shape, same",
    [
        ((1, 1, 2, 75), (2, 75), True),
        ((1, 1, 1, 3), (3,), True),
        ((3,), (3,), True),
        ((2, 75), (75, 2), False),
        ((1, 2, 3, 3), (2, 3, 3), True),
        ((3, 1, 1, 1), (3,), False),
        ((2, 3, 1, 1), (2, 3), False),
        ((1, 3), (3,), False),
    ],
)
def test_legacy_shapes(source_shape, target_shape, same):
    assert same_shape(source_shape, target_shape) is same


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1), st.booleans(), st.sampled_from([0.0, 1.0, 3.5]))
def test_merge(seed, biased, factor):
    rng = np.random.RandomState(seed)
    text = NET.replace("bias_term: false", "bias_term: true") if biased else NET
    weight, bias = rng.randn(3, 2, 1, 1).astype("f"), rng.randn(3).astype("f")
    bn = [(rng.randn(3) * factor).astype("f"), (rng.rand(3) * factor + 0.1).astype("f"), np.array([factor], "f")]
    scale = [rng.randn(3).astype("f"), rng.randn(3).astype("f")]
    src = [
        LayerBlobs("c", "Convolution", [weight, bias] if biased else [weight]),
        LayerBlobs("c/bn", "BatchNorm", bn),
        LayerBlobs("c/scale", "Scale", scale),
        LayerBlobs("ip", "InnerProduct", [np.ones((2, 75), "f"), np.zeros(2, "f")]),
    ]
    merged, arrays, folded = surgery.merge(net(text), src)
    assert folded == ["c"] and [layer.name for layer in merged.layer] == ["data", "c", "r", "ip"]
    assert merged.layer[1].convolution_param.bias_term and set(arrays) == {"c", "ip"}
    x = rng.randn(2, 2, 5, 5).astype("f")
    # Caffe: statistics are zero when the factor is
    stored = bn if factor else [np.zeros(3), np.zeros(3), np.ones(1)]
    want = normalise(convolve(x, weight) + (bias.reshape(1, 3, 1, 1) if biased else 0), stored, scale)
    got = convolve(x, arrays["c"][0]) + arrays["c"][1].reshape(1, 3, 1, 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_merge_refuses():
    with pytest.raises(CaffeError, match="layer 'c': the weights hold nothing"):
        surgery.merge(net(), [])
    batch = NET.replace(
        'bottom: "c" top: "c" }\nlayer { name: "c/scale"',
        'bottom: "c" top: "c" batch_norm_param { use_global_stats: false } }\nlayer { name: "c/scale"',
    )
    src = [LayerBlobs(name, "", [np.ones(3, "f")] * 3) for name in ("c", "c/bn", "c/scale")]
    with pytest.raises(CaffeError, match="use_global_stats"):
        surgery.merge(net(batch), src)


def test_hdf5_weights_without_a_shared_blob_are_refused(tmp_path):
    """HDF5 weights store a shared blob with its owner alone."""
    deploy, weights = tmp_path / "deploy.prototxt", tmp_path / "shared.caffemodel.h5"
    deploy.write_text(NET)
    arrays = {"c": [np.ones((3, 2, 1, 1), np.float32)], "ip": [None, np.zeros(2, np.float32)]}
    caffemodel.write_caffemodel(weights, net(), arrays)
    reason = r"shared.caffemodel.h5: layer 'ip': blob 0 is not in the file"
    with pytest.raises(CaffeError, match=reason):
        cli_surgery.main(["--weights", str(weights), "--net", str(deploy), "--out", str(tmp_path / "o.caffemodel")])
    with pytest.raises(CaffeError, match=reason):
        export_onnx.main(["--weights", str(weights), "--net", str(deploy), "--out", str(tmp_path / "o.onnx")])
