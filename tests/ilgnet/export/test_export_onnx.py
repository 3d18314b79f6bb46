"""ONNX files in ONNX Runtime against real Caffe's goldens, against the engine, and against OpenCV's preprocessing."""

from __future__ import annotations

import functools
import json

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import torchcaffe as caffe
from ilgnet.cli.export_onnx import main as tool
from ilgnet.export import onnx_export
from ilgnet.export.onnx_layers import converters
from ilgnet.nets import emit
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import preprocess
from tests.bvlc import compare, layers, run_caffe
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import blobproto
from torchcaffe.proto import caffe_pb2, parse_text

# ONNX Runtime convolves over one to three axes, refuses a kernel beyond the image and dilation 0; its Max keeps NaN,
# its MaxPool does or does not, depending on where in the window it lies.
NO_EQUAL = {
    "nd_four",
    "nd_four_group",
    "nd_zero",
    "kernel_beyond_image",
    "kernel_beyond_image_nd",
    "dilation_zero",
    "max_nan_first",
    "max_nan_third",
    "max_not_numbers",
}
MASKS = [r for r in layers.ROWS if r.type == "Pooling" and r.tops > 1 and not r.fails]
ROWS = [
    r
    for r in layers.ROWS
    if r.type in converters and not r.fails and not r.in_place and r not in MASKS and r.id.split("/")[1] not in NO_EQUAL
]
# Random, or by the batch's statistics: only what Caffe computed in its TEST phase is what an export computes.
PHASED = ("Dropout", "BatchNorm")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")


def make_net(text: str):
    param = parse_text(text, caffe_pb2.NetParameter(), "test")
    param.state.phase = caffe.TEST
    return caffe.Net.from_param(param, "test.prototxt")


def run(made, feed):
    """The model's outputs by name; the checker looks at the model first."""
    onnx.checker.check_model(made.model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed)))


def forward(net, feed):
    for name, value in feed.items():
        net.blobs[name].reshape(*value.shape)
    net.reshape()
    for name, value in feed.items():
        net.blobs[name].data[...] = value
    return {name: np.array(value) for name, value in net.forward().items()}


def assert_close(got, wanted, limit=compare.FORWARD):
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert compare.error(got[name], value) <= limit, (name, got[name].shape, value.shape)


# -- one layer at a time -----------------------------------------------------------------------------------------------


@functools.cache
def opened(type_: str) -> np.lib.npyio.NpzFile:
    return np.load(layers.FIXTURES.parent / "layers" / f"{type_}.npz")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_layer(row):
    """Against what real Caffe computed, where its phase does not matter; against the engine elsewhere."""
    job = layers.case(row)
    caffe.set_random_seed(job["seed"])
    net = make_net(job["proto"])
    for blobs in net.params.values():
        run_caffe.draw_params(blobs, job["params"], job["seed"])
    feed = {
        name: run_caffe.draw(kind, shape, job["seed"] + 10 * i).reshape(shape)
        for i, (name, kind, shape) in enumerate(job["bottoms"])
    }
    if row.type == "BatchNorm" and not net.layer_dict["x"].use_global:
        with pytest.raises(CaffeError, match="use_global_stats"):
            onnx_export.export(net, free_batch=False)
        return
    net.layers[-1].blobs.add_blob(2)  # of a program's own, which takes no part
    got = run(onnx_export.export(net, free_batch=False), feed)
    assert_close(got, forward(net, feed))
    if row.type not in PHASED or row.phase == "TEST":
        golden = opened(row.type)
        assert_close(got, {top: golden[f"{row.name}/{top}"] for top in job["tops"]})


@pytest.mark.parametrize("row", MASKS, ids=lambda row: row.id)
def test_masks_of_pooling_are_refused(row):
    with pytest.raises(CaffeError, match="top 1: the mask of MAX pooling cannot be exported"):
        onnx_export.export(make_net(layers.case(row)["proto"]), free_batch=False)


def test_every_converter_is_held_against_caffe():
    assert set(converters) == {row.type for row in ROWS}


def one(text, *shapes):
    tops = [f"b{i}" for i in range(len(shapes))]
    inputs = "".join(
        f'layer {{ name: "{t}" type: "Input" top: "{t}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }"
        for t, shape in zip(tops, shapes)
    )
    return make_net(inputs + text)


def agree(net, *shapes, seed=0, **options):
    """Export at the net's own sizes, compare with the engine at these."""
    rng = np.random.RandomState(seed)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = rng.standard_normal(blob.shape)
    feed = {f"b{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    made = onnx_export.export(net, **options)
    assert_close(run(made, feed), forward(net, feed))


sizes = st.integers(1, 9)


@settings(max_examples=120)
@given(
    st.sampled_from(["MAX", "AVE"]),
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.booleans(),
    st.data(),
)
def test_pooling_sizes(pool, size, kernel, stride, pad, floor, data):
    """Every rounding, dropped window, divisor and empty window of Caffe's; and photos of another size."""
    pad = tuple(min(p, k - 1) for p, k in zip(pad, kernel))
    text = (
        f'layer {{ name: "p" type: "Pooling" bottom: "b0" top: "p" pooling_param {{ pool: {pool} '
        f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
        f"pad_h: {pad[0]} pad_w: {pad[1]} {'round_mode: FLOOR' if floor else ''} }} }}"
    )
    try:
        net = one(text, (1, 2, *size))
    except CaffeError:
        return  # smaller than the kernel
    agree(net, (3, 2, *size))
    if any(pad) or floor or all(s <= k for s, k in zip(stride, kernel)):
        other = tuple(data.draw(st.integers(n, 3 * n)) for n in size)
        agree(net, (2, 2, *other), free_size=True)
    else:
        with pytest.raises(CaffeError, match="fixed sizes"):
            onnx_export.export(net, free_size=True)


@settings(max_examples=40)
@given(
    st.sampled_from(["Convolution", "Deconvolution"]),
    st.lists(st.integers(5, 9), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.booleans(),
)
def test_convolution_sizes(type_, size, kernel, stride, pad, dilation, group, bias):
    text = (
        f'layer {{ name: "c" type: "{type_}" bottom: "b0" top: "c" convolution_param {{ num_output: {2 * group} '
        f"kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation} group: {group} "
        f"bias_term: {str(bias).lower()} }} }}"
    )
    shape = (group, *size)
    try:
        net = one(text, (1, *shape))
    except CaffeError:
        return  # a deconvolution whose padding leaves nothing
    agree(net, (2, *shape))


@settings(max_examples=20)
@given(st.integers(1, 3), st.sampled_from(["MAX", "AVE"]), st.integers(9, 20), st.integers(9, 20))
def test_spp_takes_any_size(height, pool, h, w):
    text = (
        'layer { name: "s" type: "SPP" bottom: "b0" top: "s" spp_param { pyramid_height: %d pool: %s } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" inner_product_param { num_output: 2 } }'
    )
    net = one(text % (height, pool), (1, 3, 12, 13))
    agree(net, (2, 3, 12, 13))
    agree(net, (2, 3, h, w), free_size=True)


@settings(max_examples=30)
@given(st.integers(2, 4), st.lists(st.integers(1, 5), min_size=3, max_size=4), st.data())
def test_batch_stays_free(batch, shape, data):
    """Axes that come from the batch follow it through Reshape, Flatten and InnerProduct at any axis."""
    axis = data.draw(st.integers(1, len(shape)))
    text = (
        f'layer {{ name: "f" type: "Flatten" bottom: "b0" top: "f" flatten_param {{ axis: {min(axis, 2)} }} }}'
        'layer { name: "r" type: "Reshape" bottom: "f" top: "r" reshape_param { shape { dim: -1 dim: %d } } }'
        'layer { name: "s" type: "Softmax" bottom: "r" top: "s" }'
        'layer { name: "ip" type: "InnerProduct" bottom: "b0" top: "ip" inner_product_param '
        "{ num_output: 2 axis: %d } }" % (shape[-1], axis)
    )
    agree(one(text, (1, *shape)), (batch, *shape))


def test_in_place_chains_and_names():
    """Blobs keep their names, whatever works in place on them; outputs that are one tensor come out twice."""
    text = """
    layer { name: "c" type: "Convolution" bottom: "b0" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
    layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
    layer { name: "re" type: "ReLU" bottom: "c" top: "c" }
    layer { name: "dr" type: "Dropout" bottom: "c" top: "c" }
    layer { name: "sl" type: "Slice" bottom: "c" top: "left" top: "right" slice_param { slice_point: 1 } }
    layer { name: "e" type: "Eltwise" bottom: "c" bottom: "c" top: "e" eltwise_param { coeff: 2 coeff: -0.5 } }
    layer { name: "d2" type: "Dropout" bottom: "e" top: "same" }
    layer { name: "s2" type: "Split" bottom: "left" top: "one" top: "two" }
    """
    net = one(text, (1, 3, 8, 7))
    for blob in net.params["bn"]:
        blob.data[...] = np.random.RandomState(1).uniform(0.5, 2, blob.shape)
    made = onnx_export.export(net)
    feed = {"b0": np.random.RandomState(0).standard_normal((2, 3, 8, 7)).astype(np.float32)}
    assert_close(run(made, feed), forward(net, feed))
    names = {name for node in made.model.graph.node for name in node.output}
    assert {"c", "right", "one", "two", "same"} <= names
    inputs = made.model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in inputs] == ["N", 3, 8, 7]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('layer { name: "x" type: "Silence" bottom: "b0" }', r"layer 'x' \(Silence\): this type cannot be exported"),
        (
            'layer { name: "x" type: "Pooling" bottom: "b0" top: "x" top: "m" pooling_param { kernel_size: 2 } }',
            r"layer 'x' \(Pooling\): top 1",
        ),
        (
            'layer { name: "x" type: "Pooling" bottom: "b0" top: "x" '
            "pooling_param { pool: STOCHASTIC kernel_size: 2 } }",
            "STOCHASTIC",
        ),
        (
            'layer { name: "x" type: "BatchNorm" bottom: "b0" top: "x" batch_norm_param { use_global_stats: false } }',
            "use_global_stats",
        ),
        ('layer { name: "x" type: "Dropout" bottom: "b0" top: "x" phase: TRAIN }', "phase"),
        ('layer { name: "x" type: "ReLU" bottom: "b0" top: "b0" }', "both input and output"),
        (
            'layer { name: "x" type: "Reshape" bottom: "b0" top: "x" '
            "reshape_param { shape { dim: 18 dim: -1 dim: 1 } } }"
            'layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }',
            "the batch cannot be free in this net",
        ),
    ],
)
def test_refused(text, reason):
    with pytest.raises(CaffeError, match=reason) as error:
        onnx_export.export(one(text, (2, 3, 6, 6)))
    assert "\n" not in str(error.value) and "test.prototxt" in str(error.value)


def test_too_large(monkeypatch):
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 100)
    net = one(
        'layer { name: "x" type: "InnerProduct" bottom: "b0" top: "x" inner_product_param { num_output: 9 } }', (1, 3)
    )
    with pytest.raises(CaffeError, match="layer 'x' .*2 GB"):
        onnx_export.export(net)


# -- the paper's nets --------------------------------------------------------------------------------------------------


def small(choice: emit.Choice):
    """A deploy net with at most 16 outputs a fully connected layer (150 million weights are then 2), drawn quickly."""
    param = emit.deploy(choice)
    for layer in param.layer:
        if layer.type == "InnerProduct" and layer.inner_product_param.num_output > 16:
            layer.inner_product_param.num_output = 16
        for message in (layer.convolution_param, layer.inner_product_param):
            if message.HasField("weight_filler"):
                message.weight_filler.CopyFrom(caffe_pb2.FillerParameter(type="constant"))
    param.state.phase = caffe.TEST
    net = caffe.Net.from_param(param, "test.prototxt")
    rng = np.random.default_rng(0)
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            deviation = np.sqrt(2 / max(blob.count // blob.shape[0], 1)) if len(blob.shape) > 1 else 0.1
            blob.data[...] = rng.standard_normal(blob.shape, np.float32) * deviation
            if net.layer_dict[name].type in ("BatchNorm", "Scale") and i < 2:
                blob.data[...] = np.abs(blob.data) + (0.5 if i == 0 or net.layer_dict[name].type != "Scale" else 0)
        if net.layer_dict[name].type == "BatchNorm":
            blobs[2].data[...] = 0.7
    blobs[0].data[...] *= 0.01  # the classifier's, so that the probabilities are not 0 and 1
    return net


CHOICES = [emit.Choice(name, crop=160 if name in ("v3", "v4", "noinc", "third") else 224) for name in VARIANTS] + [
    emit.Choice("v1bn", merge_bn=True),
    emit.Choice("v1bn", drop_lrn=True),
    emit.Choice("v1", pool="max", crop=227),
    emit.Choice("v1", spp=True),
    emit.Choice("v4", crop=160, spp=True),
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: c.command().split("--variant ")[1].replace(" --", "-"))
def test_variants(choice):
    made = onnx_export.export(small(choice))
    onnx.checker.check_model(made.model, full_check=True)
    answer = VARIANTS[choice.variant].answer
    errors = onnx_export.check(made)
    assert set(errors) > {answer} and max(errors.values()) <= compare.FORWARD, errors
    assert [o.name for o in made.model.graph.output] == [answer]
    if choice.spp:
        net = made.net
        made = onnx_export.export(net, free_size=True)
        rng = np.random.RandomState(1)
        feed = {"data": rng.uniform(-100, 100, (1, 3, 200, 320)).astype(np.float32)}
        assert_close(run(made, feed), forward(net, feed))


# -- preprocessing -----------------------------------------------------------------------------------------------------

TINY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 31 dim: 45 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 4 kernel_size: 3 stride: 2 } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def tiny():
    net, rng = make_net(TINY), np.random.RandomState(3)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = rng.standard_normal(blob.shape) * 0.02
    return net


@pytest.fixture
def mean(tmp_path):
    path = tmp_path / "mean.binaryproto"
    rng = np.random.RandomState(0)
    blobproto.write_blobproto(path, rng.uniform(90, 130, (3, 256, 256)).astype(np.float32))
    return path


def test_nimas_preprocessing_is_refused():
    with pytest.raises(CaffeError, match="preset nima takes the nearest pixel"):
        onnx_export.export(tiny(), preprocess.make("nima", None, (31, 45)))


@pytest.mark.parametrize("preset", ["lmdb", "direct"])
@pytest.mark.parametrize("size", [(256, 256), (31, 45), (100, 333), (512, 512), (17, 9)])
def test_preprocessing_is_opencvs(preset, size, mean):
    spec = preprocess.make(preset, mean, (31, 45))
    net = tiny()
    made = onnx_export.export(net, spec)
    rng = np.random.RandomState(1)
    smooth = cv2.resize(rng.randint(0, 256, (8, 8, 3)).astype(np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    photos = np.stack([smooth, rng.randint(0, 256, (*size, 3)).astype(np.uint8)])  # RGB
    made.model.graph.output.extend(v for v in made.model.graph.value_info if v.name == "data")
    got = run(made, {"photos": photos})
    wanted = np.stack([spec.photo(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)) for photo in photos])
    difference = np.abs(got.pop("data") - wanted)
    assert difference.max() <= 1.001  # a grey level: OpenCV's weights are whole 2048ths
    assert difference.mean() < 0.2
    if size in (spec.warp, tuple(2 * n for n in spec.warp)):
        assert difference.max() < 1e-4
    answer = forward(net, {"data": wanted})
    assert np.abs(got["prob"] - answer["prob"]).max() < 1e-3
    assert onnx_export.check(made)["preprocessing"] <= 1.001


def test_photos_of_any_size(mean):
    net = tiny()
    made = onnx_export.export(net, preprocess.make("direct", None, (31, 45)), free_size=True)
    assert onnx_export.check(made)["preprocessing"] < 1e-4
    photos = np.random.RandomState(0).randint(0, 256, (2, 50, 61, 3)).astype(np.uint8)
    feed = {"data": photos[..., ::-1].transpose(0, 3, 1, 2) - np.array(preprocess.GOOGLENET_MEAN, "f")[:, None, None]}
    assert_close(run(made, {"photos": photos}), forward(net, feed))
    with pytest.raises(CaffeError, match="direct"):
        onnx_export.export(net, preprocess.make("lmdb", mean, (31, 45)), free_size=True)


# -- the tool ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    net = tiny()
    (tmp_path / "deploy.prototxt").write_text(TINY)
    net.save(str(tmp_path / "tiny.caffemodel"))
    return ["--net", str(tmp_path / "deploy.prototxt"), "--weights", str(tmp_path / "tiny.caffemodel")]


def test_tool(model, mean, tmp_path, capsys):
    out = tmp_path / "net.onnx"
    assert tool([*model, "--out", str(out), "--preprocess", "lmdb", "--mean", str(mean)]) == 0
    said = capsys.readouterr().out
    assert "check against the engine" in said and "prob" in said and "preprocessing" in said and str(out) in said
    loaded = onnx.load(str(out))
    props = {p.key: p.value for p in loaded.metadata_props}
    assert json.loads(props["classes"]) == {"0": "low", "1": "high"}
    assert props["source_net"] == "deploy.prototxt" and props["source_weights"] == "tiny.caffemodel"
    assert str(tmp_path) not in str(loaded.metadata_props)
    assert loaded.ir_version == 8 and loaded.opset_import[0].version == 17
    session = ort.InferenceSession(str(out))
    assert session.run(None, {"photos": np.zeros((3, 40, 50, 3), np.uint8)})[0].shape == (3, 2)
    assert tool([*model, "--out", str(out), "--no-check", "--fixed-batch"]) == 0
    assert "not checked" in capsys.readouterr().out
    dims = onnx.load(str(out)).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 3, 31, 45]


def test_tool_without_runtime(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx_export, "runtime", lambda: None)
    assert tool([*model, "--out", str(tmp_path / "net.onnx")]) == 0
    assert "not checked: ONNX Runtime is not installed" in capsys.readouterr().out
    with pytest.raises(CaffeError, match="pip install onnxruntime"):
        tool([*model, "--out", str(tmp_path / "net.onnx"), "--check"])


def test_tool_refuses(model, tmp_path):
    out = tmp_path / "net.onnx"
    with pytest.raises(CaffeError, match="for --preprocess"):
        tool([*model, "--out", str(out), "--mean", "m.binaryproto"])
    with pytest.raises(CaffeError, match="the photos' size cannot be free|nothing in it fits"):
        tool(["--net", "third", *model[2:], "--out", str(out), "--any-size"])
    assert not out.exists()


def test_check_finds_a_difference(monkeypatch):
    made = onnx_export.export(tiny())
    weight = next(c for c in made.model.graph.initializer if c.name == "ip:weight")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.01).astype(np.float32).tobytes()
    with pytest.raises(CaffeError, match="check: 'prob' differs|check: 'ip' differs"):
        onnx_export.check(made)
