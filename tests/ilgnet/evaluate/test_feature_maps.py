"""Fig. 5's parts: the paper's labels are in the nets, pictures show what is active, the verdict says what was found."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from ilgnet.evaluate import feature_maps, metrics
from ilgnet.figures import drawing, summary
from ilgnet.nets import emit, paper
from ilgnet.nets.variants import PAPER


@pytest.mark.parametrize("variant", [v for v in PAPER if PAPER[v].local])
def test_the_papers_labels_are_in_the_net(variant):
    """Seven labels, in the net's order, each on a blob; the last is what the classifier reads."""
    net = emit.deploy(emit.Choice(variant))
    first = {}
    for i, layer in enumerate(net.layer):
        for top in layer.top:
            first.setdefault(top, i)
    labels = paper.labels(variant)
    assert [label.mark for label in labels] == [f"({i})" for i in range(1, 8)]
    trunk = [first[blob] for label in labels[:4] for blob in label.blobs]
    assert trunk == sorted(trunk) and all(blob in first for label in labels for blob in label.blobs)
    classifier = next(layer for layer in net.layer if layer.name == "loss1/classifier_cjy")
    assert list(classifier.bottom) == list(labels[-1].blobs)
    connected = next(layer for layer in net.layer if layer.name == "temp")
    assert list(connected.bottom) == [*labels[4].blobs, *labels[5].blobs]
    modules = [i for i, layer in enumerate(net.layer) if labels[0].blobs[0] in layer.bottom]
    assert min(modules) == first[labels[0].blobs[0]] + 1  # the stem ends where the first module begins


def test_googlenets_parts_have_no_labels():
    assert [v for v in PAPER if not paper.labels(v)] == ["third", "two_thirds", "full"]


def test_a_net_with_spatial_pyramids_has_the_labels_though_not_the_papers_name():
    net = emit.deploy(emit.Choice("v1bn", spp=True))
    made = {top for layer in net.layer for top in layer.top}
    scorer = SimpleNamespace(title=net.name, blobs=made)
    found = feature_maps.stages(scorer)
    assert [label.mark for label in found] == [f"({i})" for i in range(1, 8)]
    assert found[4].blobs == ("temp1_spp", "temp2_spp")


def test_pictures():
    tiles = np.zeros((5, 2, 3), np.float32)
    tiles[3] = 7
    grid = feature_maps.montage(tiles)
    assert grid.shape == (2 * 2 + 1, 3 * 3 + 2) and (grid[3:, :3] == 7).all() and grid.sum() == 7 * 6
    image = feature_maps.picture([tiles])  # the most active channel comes first
    side = 192 // grid.shape[1]
    assert image.shape == (grid.shape[0] * side, grid.shape[1] * side, 3)
    assert image[0, 0].sum() > image[-1, -1].sum()
    vector = feature_maps.picture([np.array([-1.0, 0, 0, 5], np.float32)])
    assert vector.shape == (192, 192, 3)
    assert (vector[:96] == vector[0, 0]).all() and (vector[96:, 96:] == vector[-1, -1]).all()  # below 0 is inactive
    assert feature_maps.picture([np.zeros(9, np.float32)]).max() < 10


def test_verdict():
    high, low = np.linspace(0.5, 0.6, 40), np.linspace(0.4, 0.5, 30)
    assert feature_maps.verdict(metrics.compare_groups(high, low, 999)).startswith("It holds on these 70 photos: 55.0")
    assert feature_maps.verdict(metrics.compare_groups(low, high, 999)).startswith("The opposite holds")
    assert feature_maps.verdict(metrics.compare_groups(high, high, 99), "demo").startswith(
        "Not shown on these 80 photos (with synthetic labels)"
    )
    assert feature_maps.verdict(None).startswith("Not tested")


def test_no_heading_is_a_formula(tmp_path):
    """Blobs' names are whatever a prototxt says."""
    stages = [paper.Label("", "x", ("=cmd()",))]
    found = feature_maps.Features(stages, [[(3,)]], ["a"], np.array([1]), np.array([0.5]), np.array([[0.5]]), [])
    feature_maps.write(tmp_path / "f.json", found, {})
    assert (tmp_path / "f.csv").read_text().splitlines()[0] == "key,label,p_high,'=cmd()"


@pytest.mark.parametrize("variant", ["v1bn", "noinc", "v4"])
def test_figure_2_has_every_layer_in_one_block(variant):
    import torchcaffe as caffe

    found = summary.summarize(caffe, emit.deploy(emit.Choice(variant)), caffe.TEST)
    nodes = drawing.blocks(found, paper.labels(variant))
    titles = [node.lines[0] for node in nodes]
    assert [t.split()[0] for t in titles] == ["photo", "(1)", "(2)", "(3)", "(4)", "(5)", "(5)", "(6)", "(7)", "answer"]
    parents = {
        t.split()[0] + str(i): [titles[p].split()[0] for p in n.parents] for i, (t, n) in enumerate(zip(titles, nodes))
    }
    assert parents["(4)4"] == ["(3)"] and parents["(5)5"] == ["(2)"] and parents["(5)6"] == ["(3)"]
    assert parents["(7)8"] == ["(5)", "(5)", "(6)"] and parents["answer9"] == ["(7)"]  # as in the paper's text
    shapes = {t.split()[0]: n.lines[-1].split(",")[0] for t, n in zip(titles, nodes)}
    assert (shapes["(5)"], shapes["(6)"], shapes["(7)"], shapes["answer"]) == ("256", "512", "1024", "2")
    millions = [float(m) for n in nodes for m in re.findall(r"([\d.]+) M parameters", n.lines[-1])]
    assert sum(millions) == pytest.approx(found.parameters / 1e6, abs=0.05)
    plot = drawing.figure2(found, paper.labels(variant))
    for mark in ("(1)", "(7)"):
        assert mark.encode() in plot.light
