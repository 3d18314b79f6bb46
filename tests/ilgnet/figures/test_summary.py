"""tools/summarize.py: numbers against real Caffe, OpenCV, GoogLeNet's paper and the engine's own gradients."""

from __future__ import annotations

import functools
import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.cli import summarize
from ilgnet.figures import drawing, summary
from ilgnet.nets import emit
from ilgnet.nets.variants import PAPER
from ilgnet.run import engine
from tests import ROOT
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import upgrade
from torchcaffe.proto import caffe_pb2


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOG_minloglevel", "2")
        yield


def of(text: str, phase: int | None = None) -> summary.Summary:
    return summary.summarize(caffe, upgrade.parse_net(text, "net"), caffe.TEST if phase is None else phase)


@functools.cache
def of_variant(name: str, **words) -> summary.Summary:
    return summary.summarize(caffe, emit.deploy(emit.Choice(name, **words)), caffe.TEST)


@pytest.mark.parametrize("words", [{}, {"spp": True}], ids=["", "spp"])
@pytest.mark.parametrize("variant", list(PAPER))
def test_shapes_and_parameters_are_real_caffe_s(variant, words):
    golden = json.loads((ROOT / "tests" / "bvlc" / "goldens" / "nets.json").read_text())[variant]
    says = golden["spp" if words else "finetune"]
    found = of_variant(variant, **words)
    assert found.parameters == says["parameters"]
    shapes = {**golden["finetune"]["blobs"], **says["blobs"]}
    ours = {row.tops[0]: list(row.shape) for row in found.rows}
    assert ours == {name: shape[1:] for name, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize("variant", list(PAPER))
def test_docs_have_these_numbers(variant):
    found = of_variant(variant)
    text = (ROOT / "docs" / "reproduction.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{variant}` |") and "billion" in line]
    numbers = f"{found.parameters:,} | {found.multiply_adds / 1e9:.3f} billion | {found.depth} + {found.poolings}"
    assert numbers in line


@pytest.mark.parametrize("variant", ["v1", "v1bn"])
def test_ilgnet_has_13_layers_and_4_poolings(variant):
    """Paper, section 3.2: "13 layers with parameters and without counting pooling layers (4 layers)"."""
    found = of_variant(variant)
    assert (found.depth, found.poolings) == (13, 4)
    assert found.path[:4] == ["conv1/7x7_s2", "pool1/3x3_s2", "conv2/3x3_reduce", "conv2/3x3"]
    assert found.path[-4:] == ["loss1/conv", "temp3", "temp_cjy", "loss1/classifier_cjy"]


def test_googlenet_has_22_layers_and_5_poolings():
    """GoogLeNet's own paper: 22 layers with parameters, 27 with the poolings; 1.5 billion multiply-adds."""
    found = of_variant("full")
    assert (found.depth, found.poolings) == (22, 5)
    assert found.multiply_adds == pytest.approx(1.5e9, rel=0.06)


def test_multiply_adds_are_opencv_s(tmp_path):
    """OpenCV counts two operations a multiply-add and one for the bias, layer by layer."""
    net = emit.deploy(emit.Choice("third"))
    found = {row.name: row for row in summary.summarize(caffe, net, caffe.TEST).rows}
    made = engine.make_net(caffe, net, caffe.TEST)
    made.save(str(tmp_path / "third.caffemodel"))
    (tmp_path / "third.prototxt").write_text(emit.format_text(net))
    theirs = cv2.dnn.readNetFromCaffe(str(tmp_path / "third.prototxt"), str(tmp_path / "third.caffemodel"))
    compared = 0
    for name in theirs.getLayerNames():
        if found[name].type == "Convolution":
            flops = theirs.getFLOPS(theirs.getLayerId(name), [1, 3, 224, 224])
            outputs = int(np.prod(found[name].shape))
            assert flops == 2 * found[name].multiply_adds + outputs, name
            compared += 1
    assert compared == 22


WINDOWS = """name: "Windows" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 63 dim: 75 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 3 kernel_h: 5 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 2 pad_w: 1
    weight_filler { type: "constant" value: 0.1 } } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "p" type: "Pooling" bottom: "a" top: "p" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "b" type: "Convolution" bottom: "p" top: "b"
  convolution_param { num_output: 2 kernel_size: 3 dilation: 2 pad: 2
    weight_filler { type: "constant" value: 0.1 } } }
layer { name: "c" type: "Convolution" bottom: "p" top: "c"
  convolution_param { num_output: 2 kernel_size: 1 group: 1 weight_filler { type: "constant" value: 0.1 } } }
layer { name: "both" type: "Concat" bottom: "b" bottom: "c" top: "both" }
"""


def touched(made, blob: str, channel: int) -> tuple:
    """The height and width of the part of the photo that the middle value of `blob` depends on, by its gradient."""
    for b in made.blobs.values():
        b.diff[...] = 0
    made.blobs["data"].data[...] = 1
    made.forward(end=None)
    shape = made.blobs[blob].shape
    made.blobs[blob].diff[...] = 0
    made.blobs[blob].diff[0, channel, shape[2] // 2, shape[3] // 2] = 1
    made.backward()
    rows, columns = np.nonzero(made.blobs["data"].diff[0].any(axis=0))
    return rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


def test_receptive_fields_are_what_gradients_reach(tmp_path):
    path = tmp_path / "windows.prototxt"
    path.write_text(WINDOWS)
    made = caffe.Net(str(path), caffe.TEST)
    rows = {row.name: row for row in of(WINDOWS).rows}
    assert rows["b"].field.size == touched(made, "both", 0) == (25, 13)
    assert rows["c"].field.size == touched(made, "both", 2) == (9, 5)
    assert rows["both"].field.size == (25, 13) and str(rows["both"].field) == "25x13"
    assert rows["a"].window == "5x3/2" and rows["b"].window == "5x5"


def test_receptive_fields_of_ilgnet():
    rows = {row.name: row for row in of_variant("v1").rows}
    sees = [str(rows[n].field) for n in ("pool2/3x3_s2", *PAPER["v1"].local, "inception_4a/output", "temp3")]
    assert sees == ["27", "59", "91", "171", "all"]


def test_training_net_needs_no_data_and_counts_shared_parameters_once():
    found = summary.summarize(caffe, emit.train_val(emit.Choice("third")), caffe.TRAIN)
    assert found.parameters == of_variant("third").parameters and found.rows[0].shape == (3, 224, 224)
    shared = 'bottom: "data" inner_product_param { num_output: 5 } param { name: "w" } param { name: "b" }'
    text = f"""layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 4 }} }} }}
    layer {{ name: "x" type: "InnerProduct" top: "x" {shared} }}
    layer {{ name: "y" type: "InnerProduct" top: "y" {shared} }}"""
    rows = {row.name: row for row in of(text).rows}
    assert rows["x"].parameters == 25 and rows["y"].parameters == 0
    assert rows["x"].multiply_adds == rows["y"].multiply_adds == 20  # of one of the two photos


def test_deconvolution():
    text = """layer { name: "v" type: "Input" top: "v" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 6 } } }
    layer { name: "u" type: "Deconvolution" bottom: "v" top: "u"
      convolution_param { num_output: 3 kernel_size: 4 stride: 2 bias_term: false } }"""
    assert of(text).rows[1].multiply_adds == 2 * 3 * 16 * 5 * 6


@pytest.mark.parametrize("variant", ["v1bn", "full"])
def test_drawing_has_every_box_once_and_none_over_another(variant):
    found = of_variant(variant)
    root = ET.fromstring(drawing.svg(found))
    rects = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("rx")]
    in_place = sum(row.tops == row.bottoms for row in found.rows)
    assert len(rects) == len(found.rows) - in_place
    spots = [(float(r.get("x")), float(r.get("y")), float(r.get("width")), float(r.get("height"))) for r in rects]
    for i, (x, y, w, h) in enumerate(spots):
        assert x >= 0 and x + w <= float(root.get("width")) and y + h <= float(root.get("height"))
        for x2, y2, _, _ in spots[:i]:
            assert abs(x - x2) >= w or abs(y - y2) >= h
    names = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {row.name for row in found.rows if row.tops != row.bottoms} <= names


def test_tool(tmp_path, capsys):
    svg = tmp_path / "net.svg"
    assert summarize.main([str(ROOT / "prototxt" / "third" / "deploy.prototxt"), "--svg", str(svg)]) == 0
    out = capsys.readouterr().out
    assert "3,224,791" in out and "1/3 GoogLeNetV1-BN has 12 layers with parameters on its longest path, and 4" in out
    assert svg.read_text().startswith("<svg")
    nameless = tmp_path / "nameless.prototxt"
    nameless.write_text('layer { type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }')
    assert summarize.main([str(nameless), "--svg", str(svg)]) == 0
    empty = tmp_path / "empty.prototxt"
    empty.write_text("")
    with pytest.raises(CaffeError, match="empty.prototxt"):
        summarize.main([str(empty)])
    with pytest.raises((CaffeError, OSError), match="absent.prototxt"):
        summarize.main([str(tmp_path / "absent.prototxt")])


def test_whole_photo_layers_and_global_pooling():
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }
    layer { name: "g" type: "Pooling" bottom: "data" top: "g" pooling_param { pool: AVE global_pooling: true } }
    layer { name: "c" type: "Convolution" bottom: "g" top: "c" convolution_param { num_output: 4 kernel_size: 1 } }"""
    rows = {row.name: row for row in of(text).rows}
    assert str(rows["g"].field) == str(rows["c"].field) == "all" and rows["g"].window == "8x8"
    assert caffe_pb2.TEST == caffe.TEST
