"""Layers apart from real Caffe's numbers (tests/test_layers_bvlc.py): the same answers however a blob lies in memory,
gradients against the definition (`compute`), the rows of the one table in tests/bvlc/layers.py."""

from __future__ import annotations

import functools
import json
import sys

import numpy as np
import pytest
import torch

import torchcaffe as caffe
from tests import BVLC
from tests.bvlc import compare, layers
from tests.bvlc.run_caffe import draw, draw_params, inside, run_layer, write_files
from tests.torchcaffe.ops.plain_rows import PLAIN, net_of
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.layer import TorchLayer, registry
from torchcaffe.ops.hdf5 import LibcRand
from torchcaffe.proto import caffe_pb2, parse_text

pytestmark = pytest.mark.usefixtures("quiet")

HERE = BVLC
# Where BVLC's gradient is not that of what it computes: ties, zeros and the edges of what is clamped.
NOT_SMOOTH = (
    "ties",
    "zeros",
    "scale_zero",
    "unforced",
    "second_alone",
    "constant",
    "at_the_limits",
    "of_negative",
    "unstable",
    "in_place",
    "not_numbers",
)


def untouched(row: layers.Row, channels_last: bool) -> tuple[dict, caffe.Net]:
    """What a row gives when nobody looks at a blob before the end, the bottoms' tensors lying as asked."""

    def lay(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(memory_format=torch.channels_last) if channels_last and tensor.dim() == 4 else tensor

    with inside(write_files(layers.case(row)["writes"])):
        net, job = net_of(row)
        for blobs in net.params.values():
            draw_params(blobs, job["params"], job["seed"])
        for i, (name, kind, shape) in enumerate(job["bottoms"]):
            net.blobs[name].t = lay(draw(kind, shape, job["seed"] + 10 * i))
        net.run_forward(0, len(net.layers) - 1)
        out = {name: net.blobs[name].t.clone() for name in job["tops"]}
        if row.backward:
            for i, name in enumerate(job["tops"]):
                if not net.blob_loss_weights[name]:
                    net.blobs[name].g = lay(draw("normal", net.blobs[name].shape, job["seed"] + 500 + 10 * i))
            net.run_backward(len(net.layers) - 1, 0)
            out.update({name + ".diff": net.blobs[name].g for name, _, _ in job["bottoms"]})
            for layer, blobs in net.params.items():
                out.update({f"{layer}.param{i}.diff": blob.g for i, blob in enumerate(blobs)})
        return {key: value.detach().contiguous().numpy() for key, value in out.items()}, net


@functools.cache
def opened(type_: str) -> np.lib.npyio.NpzFile:
    return np.load(HERE / "goldens" / "layers" / f"{type_}.npz")


def golden(row: layers.Row, keys: set[str]) -> dict[str, np.ndarray]:
    file = opened(row.type)
    assert json.loads(str(file[f"{row.name}/job"])) == layers.case(row)
    return {key: file[f"{row.name}/{key}"] for key in keys if f"{row.name}/{key}" in file}


def test_the_table_and_the_engine_have_the_same_types():
    assert {row.type for row in layers.ROWS} | {"BN"} == set(caffe.layer_type_list())


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("type_", sorted({row.type for row in PLAIN}))
def test_blobs_that_nobody_touched(type_, channels_last):
    rows = [row for row in PLAIN if row.type == type_]
    if channels_last:  # which only bottoms with four axes can be
        rows = [row for row in rows if any(len(shape) == 4 for _, _, shape in layers.case(row)["bottoms"])]
    for row in rows:
        got, _ = untouched(row, channels_last)
        wanted = golden(row, set(got))
        errors = compare.errors({key: got[key] for key in wanted}, wanted)
        assert errors["forward"] <= compare.FORWARD, row.id + "\n" + compare.explain(got, wanted)
        assert errors["bottom"] <= compare.BOTTOM, row.id + "\n" + compare.explain(got, wanted)
        assert errors["param"] <= compare.PARAM, row.id + "\n" + compare.explain(got, wanted)


OVERRIDDEN = [
    row
    for row in PLAIN
    if row.backward
    and not row.in_place
    and not any(word in row.name for word in NOT_SMOOTH)
    and row.type in registry
    and issubclass(registry[row.type], TorchLayer)
    and row.type not in ("Dropout", "Embed")
    and "compute" in {name for cls in registry[row.type].__mro__ if cls is not TorchLayer for name in vars(cls)}
]


@pytest.mark.parametrize("type_", sorted({row.type for row in OVERRIDDEN}))
def test_gradients_are_those_of_compute(type_):
    for row in (row for row in OVERRIDDEN if row.type == type_):
        if row.name in ("of_zero", "square_of_zero", "large"):
            continue  # 0 * inf, and sums that a float32 cannot hold
        got, net = untouched(row, False)
        node = net.nodes[-1]
        layer, bottoms = node.layer, node.bottoms
        inputs = [blob.t.detach().clone().double() for blob in (*bottoms, *layer.blobs)]
        diffs = [blob.g.double() for blob in node.tops]
        gradients = layer.vjp(inputs, diffs, [True] * len(inputs))
        for i, (name, gradient) in enumerate(zip(net.bottom_names["x"], gradients)):
            if f"{name}.diff" in got and node.bottom_needs[i]:
                assert compare.error(got[f"{name}.diff"], gradient.numpy()) <= 1e-5, row.id
        for i, gradient in enumerate(gradients[len(bottoms) :]):
            if layer.param_propagate_down[i]:
                assert compare.error(got[f"x.param{i}.diff"], gradient.numpy()) <= 1e-4, row.id


def test_rand_is_the_c_librarys():
    rand = LibcRand()
    assert [rand.rand() for _ in range(3)] == [1804289383, 846930886, 1681692777]  # of every glibc, seed 1


def net_from(text: str) -> caffe.Net:
    param = parse_text(text, caffe_pb2.NetParameter(), "test")
    param.state.phase = caffe.TRAIN
    return caffe.Net.from_param(param)


BELOW = 'layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 3 dim: 2 } } }'
LOSS = 'layer { name: "l" type: "Reduction" bottom: "y" top: "l" loss_weight: 1 }'


def test_batch_norm_without_three_zeros_forces_the_backward_pass():
    text = BELOW + 'layer { name: "x" type: "BatchNorm" bottom: "b" top: "y" %s }' + LOSS
    assert [node.needs_backward for node in net_from(text % "").nodes] == [False, True, True]
    frozen = net_from(text % ("param { lr_mult: 0 } " * 3))
    assert not any(node.needs_backward for node in frozen.nodes)


def test_propagate_down_alone_starts_no_backward_pass():
    text = BELOW + 'layer { name: "x" type: "TanH" bottom: "b" top: "y" propagate_down: true }' + LOSS
    assert [node.needs_backward for node in net_from(text).nodes] == [False, False, False]


def test_debug_info_tells_no_gradient_of_a_blob_that_a_program_has_appended(monkeypatch):
    said = []
    monkeypatch.setattr("torchcaffe.log.info", lambda where, line: said.append(line))
    net = net_from(BELOW + 'layer { name: "x" type: "Scale" bottom: "b" top: "y" }' + LOSS)
    net.params["x"].add_blob(2)
    net.graph.debug_info = True
    net.forward()
    net.backward()
    told = [line.rsplit(":", 1)[0].strip() for line in said if "param blob" in line and "diff" in line]
    assert told == ["[Backward] Layer x, param blob 0 diff"]


def test_a_loss_top_that_grows_is_warned_of(monkeypatch):
    said = []
    monkeypatch.setattr("torchcaffe.base.log.warning", lambda where, line: said.append(line))
    net = net_from(
        BELOW + 'layer { name: "l" type: "Reduction" bottom: "b" top: "l" loss_weight: 2 reduction_param { axis: 1 } }'
    )
    for size in (2, 3, 5, 4, 5):
        net.blobs["b"].reshape(size, 2)
        net.reshape()
    assert said == [
        "l has grown: its loss_weight is lost and it no longer counts, as in BVLC; make the net with its largest shape"
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ('type: "Embed" bottom: "b" top: "y" embed_param { num_output: 2 input_dim: 3 }', "index 7 is out of range"),
        ('type: "ArgMax" bottom: "b" top: "y" argmax_param { top_k: 9 }', "top_k"),
    ],
)
def test_bad_input_names_the_layer(text, words):
    with pytest.raises(caffe.CaffeError, match=words) as error:
        net = net_from(BELOW + f'layer {{ name: "faulty" {text} }}')
        net.blobs["b"].data[...] = 7
        net.forward()
    assert "'faulty'" in str(error.value)


@pytest.mark.parametrize("type_", ["LSTM", "RNN"])
def test_a_stream_left_out_goes_on_where_it_was(type_):
    """BVLC keeps the states of the streams that a smaller batch lacks (they lie behind those it has)."""
    text = f"""
    layer {{ name: "x" type: "Input" top: "x" top: "c" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 }}
      shape {{ dim: 2 dim: 3 }} }} }}
    layer {{ name: "y" type: "{type_}" bottom: "x" bottom: "c" top: "y" recurrent_param {{ num_output: 5
      weight_filler {{ type: "uniform" min: -1 max: 1 }} }} }}"""

    def outputs(streams):
        """The last stream's output after each pass, with so many of three streams in it."""
        caffe.set_random_seed(4)
        net = net_from(text)
        for count in streams:
            net.blobs["x"].reshape(2, count, 4)
            net.blobs["c"].reshape(2, count)
            net.blobs["x"].data[...] = np.arange(8 * count).reshape(2, count, 4) % 3
            net.blobs["c"].data[...] = 1
            yield net.forward()["y"][:, -1].copy()

    *_, apart = outputs((3, 2, 1, 3))
    *_, together = outputs((3, 3))
    np.testing.assert_allclose(apart, together, rtol=1e-6)
    *_, anew = outputs((3, 4, 3))  # larger memory starts at zero
    *_, twice = outputs((4, 3))
    np.testing.assert_allclose(anew, twice, rtol=1e-6)


def test_python_layers_need_permission():
    row = next(row for row in layers.ROWS if row.id == "Python/plain")
    sys.modules.pop("py_layers", None)
    caffe.allow_python_layers(False)
    with pytest.raises(caffe.CaffeError, match="allow_python_layers"):
        run_layer(caffe, layers.case(row))


IMAGE = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }\n'


@pytest.mark.parametrize(
    "text",
    [
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 }',
        'type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 pad: 1 }',
        'type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 2 }',
        'type: "Pooling" pooling_param { kernel_size: 2 }',
        'type: "InnerProduct" inner_product_param { num_output: 5 }',
        'type: "Tile" tile_param { tiles: 2 }',
    ],
)
def test_in_place_with_another_shape(text, tmp_path):
    # BVLC goes on, on memory of another shape, and with a smaller blob at every pass.
    (tmp_path / "net.prototxt").write_text(IMAGE + f'layer {{ name: "a" bottom: "x" top: "x" {text} }}')
    with pytest.raises(caffe.CaffeError, match="layer 'a'.*in place the top's shape"):
        caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('type: "InnerProduct" blobs { shape { dim: 4 dim: 90 } } inner_product_param { num_output: 4 }', "0 values"),
        ('type: "PReLU" blobs { shape { dim: 3 } data: 1 data: 2 }', "blob 0 has 2 values"),
        ('type: "Embed" blobs { shape { dim: 1 } data: 1 } embed_param { num_output: 4 input_dim: 9 }', "1 given"),
        ('type: "BatchNorm" blobs { shape { dim: 1 } data: 1 }', "1 given, the layer has 3"),
        (
            'type: "Convolution" blobs { shape { dim: 1 dim: 9 } '
            + "data: 1 " * 9
            + "} convolution_param { num_output: 1 kernel_size: 1 kernel_size: 3 bias_term: false }",
            "blob 0 has shape \\(1, 9\\), \\(1, 3, 1, 3\\) expected",
        ),
    ],
)
def test_blobs_of_a_prototxt_that_do_not_fit(text, reason, tmp_path):
    (tmp_path / "net.prototxt").write_text(IMAGE + f'layer {{ name: "a" bottom: "x" top: "y" {text} }}')
    with pytest.raises(caffe.CaffeError, match="layer 'a'.*blobs: .*" + reason):
        caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)


def test_a_window_without_a_number_gets_no_gradient(tmp_path):
    # BVLC adds it at index -1: to another plane, or outside of its memory.
    pool = 'force_backward: true layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { %s } }'
    for sizes in ("kernel_size: 2", "kernel_size: 5 stride: 2 pad: 4"):  # torch's own kernel, and by windows
        (tmp_path / "net.prototxt").write_text(IMAGE + pool % sizes)
        net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
        net.blobs["x"].data[...] = np.nan
        net.blobs["x"].data[1, 2] = -np.inf
        net.blobs["x"].data[0, 1, 0, 0] = 7
        net.forward()
        y = net.blobs["p"].data
        assert y[0, 1, 0, 0] == 7 and (np.delete(y.reshape(6, -1), 1, 0) == -np.finfo(np.float32).max).all()
        net.blobs["p"].diff[...] = 1
        net.backward()
        wins = float((y == 7).sum())
        assert net.blobs["x"].diff[0, 1, 0, 0] == wins and net.blobs["x"].diff.sum() == wins


def test_mvn_in_place_below_four_axes(tmp_path):
    # It gives the blob four axes; the layer below must get its gradient back in its own.
    text = 'force_backward: true layer { name: "x" type: "Input" top: "x" '
    text += "input_param { shape { dim: 3 dim: 4 dim: 6 } } }"
    text += 'layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { scale: 2 } }'
    text += 'layer { name: "m" type: "MVN" bottom: "p" top: "%s" mvn_param { normalize_variance: false } }'
    gradients = []
    for top in ("p", "m"):
        (tmp_path / "net.prototxt").write_text(text % top)
        net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
        for _ in range(2):
            net.forward()
            assert net.blobs[top].data.shape == (3, 4, 6, 1)
            net.blobs[top].diff.flat[:] = draw("normal", (3, 4, 6), 1)
            net.backward()
        gradients.append(net.blobs["x"].diff)
    np.testing.assert_array_equal(*gradients)
    assert np.abs(gradients[0]).max() > 1


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "BatchNorm", "Pooling", "LRN", "MVN", "Dropout", "Swish"])
def test_backward_before_the_first_forward(kind):
    """BVLC works on what memory holds, mostly zeros; here it is an error that names the layer."""
    more = {"SoftmaxWithLoss": 'bottom: "label"', "Pooling": "pooling_param { kernel_size: 2 }"}.get(kind, "")
    net = net_from(f"""force_backward: true
        layer {{ name: "x" type: "Input" top: "x" top: "label"
                input_param {{ shape {{ dim: 2 dim: 3 dim: 4 dim: 4 }} shape {{ dim: 2 dim: 1 dim: 4 dim: 4 }} }} }}
        layer {{ name: "it" type: "{kind}" bottom: "x" {more} top: "y" loss_weight: 1 }}""")
    with pytest.raises(CaffeError, match=r"layer 'it' .*backward before the first forward"):
        net.backward()
    net.forward()
    net.backward()


def test_slice_into_two_cannot_work_in_place():
    with pytest.raises(CaffeError, match="in place the top's shape"):
        net_from(BELOW + 'layer { name: "s" type: "Slice" bottom: "b" top: "b" top: "c" }')


def test_an_lrn_window_wider_than_the_channels_costs_no_more():
    """local_size is a stranger's number: 2147483647 once added zeros for hours. The sums are over all channels."""
    x = np.random.RandomState(0).randn(2, 3, 4, 5).astype(np.float32)
    size = 2**31 - 1
    net = net_from(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }'
        f'layer {{ name: "y" type: "LRN" bottom: "x" top: "y" lrn_param {{ local_size: {size} '
        "alpha: 1e9 } } force_backward: true"
    )
    net.blobs["x"].data[...] = x
    net.forward()
    scale = 1 + 1e9 / size * (x * x).sum(1, keepdims=True)
    np.testing.assert_allclose(net.blobs["y"].data, x * scale**-0.75, rtol=1e-5)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_lrn_is_its_definition(within, beta):
    """y = x (k + alpha / n * sum of x^2)^-beta over n channels, or within a channel with k = 1 over n x n pixels."""
    region, n, k, alpha = ("WITHIN_CHANNEL", 9, 1, 3) if within else ("ACROSS_CHANNELS", 3, 2, 3)
    net = net_from(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 dim: 4 dim: 6 } } }'
        'layer { name: "y" type: "LRN" bottom: "x" top: "y" lrn_param { local_size: 3 k: 2 '
        f"alpha: {alpha} beta: {beta} norm_region: {region} }} }} force_backward: true"
    )
    net.blobs["x"].data[...] = draw("normal", (2, 5, 4, 6), 1)
    net.forward()
    net.blobs["y"].diff[...] = draw("normal", (2, 5, 4, 6), 2)
    net.backward()
    x = torch.tensor(net.blobs["x"].data, dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(x * x, (1, 1, 1, 1, 1, 1))
    places = [(1, i, j) for i in range(3) for j in range(3)] if within else [(c, 1, 1) for c in range(3)]
    total = sum(padded[:, c : c + 5, i : i + 4, j : j + 6] for c, i, j in places)
    y = x * (k + alpha / n * total) ** -beta
    y.backward(torch.tensor(net.blobs["y"].diff, dtype=torch.float64))
    assert compare.error(net.blobs["y"].data, y.detach().numpy()) < 1e-6
    assert compare.error(net.blobs["x"].diff, x.grad.numpy()) < 1e-6


@pytest.mark.parametrize("kind", ["HingeLoss", "SigmoidCrossEntropyLoss"])
def test_a_loss_goes_back_from_the_scores_that_forward_saw(kind):
    """BVLC keeps the margins (in the bottom's diff) and the probabilities; scores edited since change nothing."""
    label = "shape { dim: 4 }" if kind == "HingeLoss" else "shape { dim: 4 dim: 3 }"
    net = net_from(f"""force_backward: true
        layer {{ name: "x" type: "Input" top: "x" top: "label" input_param {{ shape {{ dim: 4 dim: 3 }} {label} }} }}
        layer {{ name: "it" type: "{kind}" bottom: "x" bottom: "label" top: "y" }}""")
    gradients = []
    for edit in (0, 3):
        net.blobs["x"].data[...] = draw("normal", (4, 3), 1)
        net.forward()
        net.blobs["x"].data[...] += edit
        net.backward()
        gradients.append(net.blobs["x"].diff.copy())
    assert np.abs(gradients[0]).max() > 0.1
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize(
    ("kind", "rest", "match"),
    [
        ("ContrastiveLoss", 'bottom: "x" bottom: "x" bottom: "one" top: "y"', "bottom 2: shape"),
        ("Embed", 'bottom: "x" top: "x" embed_param { input_dim: 2 num_output: 1 }', "in place"),
        ("Crop", 'bottom: "x" bottom: "one" top: "x" crop_param { axis: 0 }', "in place"),
        ("ArgMax", 'bottom: "x" top: "x"', "in place"),
        ("Dropout", 'bottom: "x" top: "y" dropout_param { dropout_ratio: 1 }', "dropout_ratio: 1"),
    ],
)
def test_what_bvlc_computes_from_memory_that_is_not_its_own(kind, rest, match):
    """Labels that are not there, blobs that change their shape in place; and Dropout of everything, which gives NaN."""
    with pytest.raises(CaffeError, match=f"layer 'it' .*{match}"):
        net_from(
            'layer { name: "x" type: "Input" top: "x" top: "one" '
            "input_param { shape { dim: 4 dim: 3 } shape { dim: 1 dim: 1 } } }"
            f'layer {{ name: "it" type: "{kind}" {rest} }}'
        )
