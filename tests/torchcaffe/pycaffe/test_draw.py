"""Pictures of nets."""

from __future__ import annotations

import shutil

import pytest

from tests import ROOT
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, parse_text
from torchcaffe.pycaffe import draw

NET = """
name: "a \\"net\\""
layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 7 } include { phase: TRAIN } }
layer { name: "test" type: "Data" top: "data" data_param { batch_size: 2 } exclude { phase: TRAIN } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 3 }
  convolution_param { num_output: 11 kernel_size: 5 stride: 2 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 4 } }
"""


def net():
    return parse_text(NET, caffe_pb2.NetParameter(), "here")


def test_graph():
    graph = draw.get_graph(net(), "LR", display_lrm=True)
    labels = {name: node["label"] for name, node in graph.nodes.items()}
    assert labels["conv_Convolution"] == "conv\n(Convolution)\nkernel size: 5\nstride: 2\npad: 1\nlr mult: 3.0, 1.0"
    assert labels["pool_Pooling"] == "pool\n(Pooling AVE)\nkernel size: 3\nstride: 1\npad: 0"
    assert draw.get_graph(net(), "TB").nodes["relu_ReLU"]["label"] == "relu (ReLU)"
    assert ("data_Data", "label_blob", "Batch 7") in graph.edges
    assert ("conv_Convolution", "conv_blob", "11") in graph.edges and ("fc_InnerProduct", "fc_blob", "4") in graph.edges
    assert ("conv_blob", "relu_ReLU", "") in graph.edges
    assert graph.nodes["relu_ReLU"]["fillcolor"] == "#90EE90" and graph.nodes["conv_blob"]["shape"] == "octagon"
    assert graph.nodes["conv_Convolution"]["fillcolor"] == draw.choose_color_by_layertype("Deconvolution")


def test_phases():
    def layers(phase):
        return [name for name in draw.get_graph(net(), "LR", phase=phase).nodes if not name.endswith("_blob")]

    rest = ["conv_Convolution", "relu_ReLU", "pool_Pooling", "fc_InnerProduct"]
    assert layers(caffe_pb2.TRAIN) == ["data_Data"] + rest
    assert layers(caffe_pb2.TEST) == ["test_Data"] + rest
    assert layers(None) == ["data_Data", "test_Data"] + rest


def test_rules_as_pycaffe_reads_them():
    # What BVLC's get_pydot_graph draws of this net: a rule without a phase is one of TRAIN, whatever else it names.
    rules = {
        "is": 'include { stage: "x" }', "xs": 'exclude { stage: "x" }', "il": "include { min_level: 1 }",
        "it": 'include { phase: TEST stage: "x" }', "xt": "exclude { phase: TEST }",
        "both": "include { phase: TEST } include { phase: TRAIN }",
        "i2": 'include { stage: "x" } include { phase: TEST }', "x2": 'exclude { stage: "x" } exclude { phase: TEST }',
    }  # fmt: skip
    text = " ".join(f'layer {{ name: "{name}" type: "A" {rule} }}' for name, rule in rules.items())
    ruled = parse_text(text, caffe_pb2.NetParameter(), "here")

    def layers(phase):
        return [name.partition("_")[0] for name in draw.get_graph(ruled, "LR", phase=phase).nodes]

    assert layers(None) == list(rules)
    assert layers(caffe_pb2.TRAIN) == ["is", "il", "xt", "both", "i2"]
    assert layers(caffe_pb2.TEST) == ["xs", "it", "both", "i2"]


def test_styles_can_be_changed(monkeypatch):
    monkeypatch.setitem(draw.LAYER_STYLE_DEFAULT, "shape", "ellipse")
    monkeypatch.setitem(draw.NEURON_LAYER_STYLE, "fillcolor", "#000001")
    monkeypatch.setitem(draw.BLOB_STYLE, "shape", "star")
    nodes = draw.get_graph(net(), "LR").nodes
    assert (nodes["conv_Convolution"]["shape"], nodes["conv_Convolution"]["fillcolor"]) == ("ellipse", "#FF5050")
    assert (nodes["relu_ReLU"]["fillcolor"], nodes["fc_blob"]["shape"]) == ("#000001", "star")


def test_files(tmp_path):
    draw.draw_net_to_file(net(), tmp_path / "net.dot", rankdir="TB")
    text = (tmp_path / "net.dot").read_text()
    assert text.startswith('digraph "a \\"net\\"" {\nrankdir=TB;') and '"data_blob" -> "conv_Convolution"' in text
    assert draw.draw_net(net(), "TB", "raw").decode() == text
    if shutil.which("dot"):
        assert draw.draw_net(net(), "LR")[:4] == b"\x89PNG"
        with pytest.raises(CaffeError, match="dot cannot draw"):
            draw.draw_net(net(), "LR", "nonsense")


def test_missing_programs_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CaffeError, match="needs Graphviz"):
        draw.draw_net(net(), "LR")
    monkeypatch.setitem(__import__("sys").modules, "pydot", None)
    with pytest.raises(CaffeError, match="pydot"):
        draw.get_pydot_graph(net(), "LR")


def test_pydot():
    import pydot

    (parsed,) = pydot.graph_from_dot_data(draw.draw_net(net(), "LR", "dot").decode())
    assert len(parsed.get_edges()) == len(draw.get_graph(net(), "LR").edges)
    made = draw.get_pydot_graph(net(), "LR")
    assert len(made.get_nodes()) == len(draw.get_graph(net(), "LR").nodes)
    assert 'label="Batch 7"' in made.to_string()


def test_lr_mult():
    layer = caffe_pb2.LayerParameter(type="InnerProduct")
    assert draw.get_layer_lr_mult(layer) == (1, 1)
    layer.param.add(lr_mult=2)
    layer.param.add(lr_mult=5)
    assert draw.get_layer_lr_mult(layer) == (2, 5)
    layer.param.add()
    with pytest.raises(ValueError):
        draw.get_layer_lr_mult(layer)
    with pytest.raises(ValueError):
        draw.get_layer_lr_mult(caffe_pb2.LayerParameter(type="ReLU"))


def test_our_nets_can_be_drawn():
    for path in sorted(ROOT.glob("prototxt/v1*/deploy.prototxt")):
        drawn = draw.draw_net(parse_text(path.read_text(), caffe_pb2.NetParameter(), str(path)), "LR", "dot")
        assert b"->" in drawn
