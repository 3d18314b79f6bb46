"""The nets: in step with the committed files, the released ILGNet's structure, and what the paper says of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import cv2
import pytest

from ilgnet.cli import gen_net
from ilgnet.nets import emit
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.variants import PAPER, VARIANTS
from tests import ROOT
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, parse_text


def layers(net) -> dict:
    """Layers by name; the TEST data layer, which has the TRAIN one's name, replaces it."""
    return {layer.name: layer for layer in net.layer}


def released(shared, dataset: str):
    """The net that a released test log prints, as a NetParameter."""
    text = (shared / "ava" / "results" / f"{dataset}_result.txt").read_text()
    found = re.search(r"Initializing net from parameters: *\n(.*?)\n[IWE]\d{4} ", text, re.DOTALL)
    return parse_text(found.group(1), caffe_pb2.NetParameter(), dataset)


# --- The committed files ---------------------------------------------------------------------------------------------


def test_generators_reproduce_every_committed_file():
    files = emit.committed()
    there = {path for path in (ROOT / "prototxt").rglob("*.prototxt")}
    assert there == set(files)
    for path, text in files.items():
        assert path.read_text() == text, f"{path} is not what tools/gen_net.py --all writes"


# --- The released net ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log, dataset", [("AVA1", "ava1"), ("AVA2", "ava2")])
def test_v1_is_the_released_net(shared, log, dataset):
    theirs = released(shared, log)
    ours = emit.train_val(emit.Choice("v1", dataset, crop=227, source=f"../../data/{log}"))
    for layer in ours.layer:
        del layer.include[:]  # they kept training and testing in two files
    assert layers(ours)["loss1/loss"].top.pop() == "loss1/loss"  # theirs leaves the name of the top to Caffe
    assert list(theirs.layer) == list(ours.layer)[1:]  # [0] is our Data layer for training


@pytest.fixture(scope="module")
def bvlc_says() -> dict:
    """What real Caffe said of every net (tests/bvlc/check_nets.py)."""
    return json.loads((ROOT / "tests" / "bvlc" / "goldens" / "nets.json").read_text())


def test_shapes_of_the_released_log(shared, bvlc_says):
    """At 224 pixels, every blob from inception_3a on has the shape that the released log prints for 227."""
    log = (shared / "ava" / "results" / "AVA1_result.txt").read_text()
    printed, layer = {}, ""
    for line in log.splitlines():
        if "Setting up " in line:
            layer = line.split("Setting up ")[1]
        elif "Top shape: " in line:
            printed[layer] = [int(n) for n in re.search(r"Top shape: ([\d ]*)\(", line).group(1).split()]
    blobs = bvlc_says["v1"]["finetune"]["blobs"]
    after = [name for name in blobs if re.match(r"inception|loss1/(ave|conv|class)|temp", name)]
    assert len(after) == 32 and list(blobs)[-1] == "loss1/loss"
    for name in after:
        assert blobs[name][1:] == printed[name][1:], name


# Weights and biases (and, with batch normalisation, its statistics and scales); in millions in docs/reproduction.md
PARAMETERS = {
    "v1": 150938082,
    "v1bn": 150943959,
    "v3": 100421372,
    "v4": 129740290,
    "noinc": 153775560,
    "third": 3224791,
    "two_thirds": 4797545,
    "full": 5997499,
}


def test_parameter_counts(bvlc_says):
    assert {v: bvlc_says[v]["finetune"]["parameters"] for v in PAPER} == PARAMETERS
    # merged, a net loses each BatchNorm's 2 statistics and its factor, and its scale and bias become the bias
    assert bvlc_says["v1bn"]["merge_bn"]["parameters"] == PARAMETERS["v1"]
    for variant, ways in bvlc_says.items():
        assert ways["frozen"]["train"]["parameters"] == ways["finetune"]["train"]["parameters"]
        assert ways["finetune"]["train"]["blobs_without_gradient"] == 2, variant  # data and label


def test_no_name_has_two_shapes(bvlc_says):
    """Caffe loads weights by layer name and stops at a shape that differs: across the variants that share a source, and
    under --spp, layers of one name have blobs of one shape."""
    seen: dict = {}
    for variant, ways in bvlc_says.items():
        if variant in ("v3", "v4"):
            continue
        for name, shapes in {**ways["finetune"]["params"], **ways["spp"]["params"]}.items():
            if shapes is not None:  # of a convolution the weights: the bias is there or not
                key = (name, len(shapes) if "/bn" in name else 1)
                assert seen.setdefault(key, shapes[0]) == shapes[0], (variant, name)


def test_sources_names_and_shapes(shared, bvlc_says):
    """GoogLeNet's real weights fit every variant that names them as its source, by layer name and weight shape."""
    from torchcaffe.formats.caffemodel import read_caffemodel

    source = {
        layer.name: layer.blobs[0].shape
        for layer in read_caffemodel(shared / "bvlc_googlenet.caffemodel")
        if layer.blobs
    }
    for variant in PAPER.values():
        ours = {name: tuple(shapes[0]) for name, shapes in bvlc_says[variant.name]["finetune"]["params"].items()}
        common = [name for name in ours if name in source]
        for name in common:
            assert ours[name] == source[name], name
        expected = {"v1": 21, "v1bn": 21, "noinc": 3, "third": 21, "two_thirds": 39, "full": 57, "v3": 0, "v4": 0}
        assert len(common) == expected[variant.name]


@pytest.mark.parametrize("variant", list(PAPER))
def test_opencv_reads_deploy(variant):
    net = cv2.dnn.readNetFromCaffe(str(ROOT / "prototxt" / variant / "deploy.prototxt"))
    deploy = emit.deploy(emit.Choice(variant))
    # OpenCV names a layer by its blob where the two differ
    names = {x.name if x.top[0] in x.bottom else x.top[0] for x in deploy.layer[1:]}
    assert names == set(net.getLayerNames())
    assert net.getUnconnectedOutLayersNames()[-1] == PAPER[variant].answer


# --- What the variants are -------------------------------------------------------------------------------------------


def modules(variant: str) -> dict:
    """The layers of deploy.prototxt by name, less the inception modules' own."""
    return {k: v for k, v in layers(emit.deploy(emit.Choice(variant))).items() if not k.startswith("inception_")}


def test_noinc_differs_from_v1bn_by_the_modules_alone():
    assert modules("noinc") == modules("v1bn")
    noinc = layers(emit.deploy(emit.Choice("noinc")))
    own = {k: v for k, v in noinc.items() if k.startswith("inception_") and v.type == "Convolution"}
    assert sorted(own) == [f"inception_{x}/conv3x3" for x in ("3a", "3b", "4a")]
    assert [layer.convolution_param.num_output for layer in own.values()] == [256, 480, 512]


def test_third_differs_from_v1bn_by_the_head_alone():
    head = re.compile(r"temp|loss1/")
    third, v1bn = (layers(emit.deploy(emit.Choice(v))) for v in ("third", "v1bn"))
    assert {k: v for k, v in third.items() if not head.match(k)} == {k: v for k, v in v1bn.items() if not head.match(k)}
    only = {k for k in third if k not in v1bn or third[k] != v1bn[k]}
    assert only == {"loss1/fc", "loss1/relu_fc", "loss1/drop_fc", "loss1/classifier_cjy"}


def test_full_keeps_the_auxiliary_losses_in_training_only():
    train, deploy = emit.train_val(emit.Choice("full")), emit.deploy(emit.Choice("full"))
    weights = {x.name: list(x.loss_weight) for x in train.layer if x.type == "SoftmaxWithLoss"}
    assert set(weights) == {"loss1/loss", "loss2/loss", "loss3/loss3"} and weights["loss3/loss3"] == []
    assert weights["loss1/loss"] == weights["loss2/loss"] == [pytest.approx(0.3)]
    assert not [x.name for x in deploy.layer if x.name.startswith(("loss1", "loss2"))]


def test_pooling_branches():
    """AVE in the released ILGNet and all that is compared with it, MAX in BVLC GoogLeNet."""
    kinds = {}
    for variant in PAPER:
        pools = [x for x in emit.deploy(emit.Choice(variant)).layer if re.fullmatch(r"inception_\w\w/pool", x.name)]
        kinds[variant] = {x.pooling_param.pool for x in pools}
    ave, largest = {caffe_pb2.PoolingParameter.AVE}, {caffe_pb2.PoolingParameter.MAX}
    assert kinds == {
        "v1": ave,
        "v1bn": ave,
        "third": ave,
        "two_thirds": largest,
        "full": largest,
        "noinc": set(),
        "v3": set(),
        "v4": set(),
    }
    assert emit.deploy(emit.Choice("third", pool="max")) != emit.deploy(emit.Choice("third"))


def test_registry_has_the_paper_s_figures(shared):
    """Tables 2, 3 and 4, read from the paper's text."""
    text = (shared.parent / "paper" / "ilgnet.txt").read_text()
    table2, table3, table4 = (text[text.index(f"Table {n} The") :] for n in (2, 3, 4))
    table4 = table4[: table4.index("4.3 The Efficiency")]
    table2, table3 = table2[: table2.index("Table 3 The")], table3[: table3.index("Table 4 The")]
    for v in PAPER.values():
        title = re.escape(v.title)
        row = re.search(rf"^{title} ([\d.]+)% ([\d.]+)%$", table2, re.MULTILINE)
        assert v.table2 == (tuple(map(float, row.groups())) if row else (None, None))
        row = re.search(rf"^{title} ([\d.]+)%$", table3, re.MULTILINE)
        assert v.table3 == (float(row.group(1)) if row else None)
        row = re.search(rf"^{title} ([\d.]+)% (\d+) days ([\d.]+)s$", table4, re.MULTILINE)
        assert v.table4 == (tuple(map(float, row.groups())) if row else (None, None, None))
    assert sum(v.table2[0] is not None for v in PAPER.values()) == 5
    assert sum(v.table4[0] is not None for v in PAPER.values()) == 4


# --- The options -----------------------------------------------------------------------------------------------------


def test_source_crop_and_batch_size_reach_the_data_layers():
    train, test = emit.train_val(emit.Choice("v1", crop=200, batch_size=7, source="demo/lmdb/")).layer[:2]
    assert train.include[0].phase == caffe_pb2.TRAIN and test.include[0].phase == caffe_pb2.TEST
    assert (train.data_param.source, test.data_param.source) == ("demo/lmdb/train_lmdb", "demo/lmdb/val_lmdb")
    assert (train.data_param.batch_size, test.data_param.batch_size) == (7, 50)
    for layer in (train, test):
        assert layer.transform_param.crop_size == 200
        assert layer.transform_param.mean_file == "demo/lmdb/mean.binaryproto"
        assert layer.data_param.backend == caffe_pb2.DataParameter.LMDB
    assert train.transform_param.mirror and not test.transform_param.mirror


@pytest.mark.parametrize("variant", [v.name for v in PAPER.values() if v.batch_norm])
def test_batch_normalisation(variant):
    """Convolution without bias -> BatchNorm that the solver leaves alone -> Scale with bias -> ReLU, in place."""
    net = list(emit.train_val(emit.Choice(variant)).layer)
    found = 0
    for i, layer in enumerate(net):
        if layer.type != "BatchNorm":
            continue
        found += 1
        convolution, scale, relu = net[i - 1], net[i + 1], net[i + 2]
        assert [x.type for x in (convolution, scale, relu)] == ["Convolution", "Scale", "ReLU"]
        assert not convolution.convolution_param.bias_term and len(convolution.param) == 1
        assert [p.lr_mult for p in layer.param] == [0, 0, 0] and [p.decay_mult for p in layer.param] == [0, 0, 0]
        assert scale.scale_param.bias_term and len(scale.param) == 2
        for x in (layer, scale, relu):
            assert list(x.bottom) == list(x.top) == list(convolution.top)
    biased = [x.name for x in net if x.type == "Convolution" and x.convolution_param.bias_term]
    assert found == {"v1bn": 21, "v3": 26, "v4": 32, "noinc": 6, "third": 21, "two_thirds": 39, "full": 57}[variant]
    assert all(re.fullmatch(r"loss\d/conv", name) for name in biased), biased


@pytest.mark.parametrize("variant", list(PAPER))
def test_frozen_trunk_learns_nothing_and_the_head_does(variant):
    finetune = emit.train_val(emit.Choice(variant))
    frozen = emit.train_val(emit.Choice(variant, trunk="frozen"))
    head = re.compile(r"temp|loss")
    new = re.compile(r".*/(relu_)?conv3x3")  # of noinc: no source has weights for these
    for before, after in zip(finetune.layer, frozen.layer):
        trunk = not head.match(before.name) and not new.match(before.name)
        if trunk:
            assert all(p.lr_mult == 0 and p.decay_mult == 0 for p in after.param)
            assert (after.type == "BatchNorm") == after.batch_norm_param.use_global_stats
        else:
            assert before == after


@pytest.mark.parametrize(
    "words, name",
    [
        (dict(spp=True), "ILGNet-Inc.V1-BN (spatial pyramids)"),
        (dict(drop_lrn=True), "ILGNet-Inc.V1-BN (no LRN)"),
        (dict(pool="max"), "ILGNet-Inc.V1-BN (max pooling)"),
        (dict(crop=192), "ILGNet-Inc.V1-BN (crop 192)"),
        (dict(target="mean", spp=True, crop=96), "ILGNet-Inc.V1-BN (mean, spatial pyramids, crop 96)"),
        *(
            (words, "ILGNet-Inc.V1-BN")
            for words in (dict(pool="ave"), dict(crop=227), dict(trunk="frozen"), dict(merge_bn=True))
        ),
    ],
)
def test_a_net_that_is_not_the_papers_has_a_name_of_its_own(words, name):
    """By their names, reports take nets for the paper's."""
    choice = emit.Choice("v1bn", **words)
    assert emit.train_val(choice).name == emit.deploy(choice).name == name


@pytest.mark.parametrize("variant", [v.name for v in PAPER.values() if v.lrn])
def test_drop_lrn(variant):
    full, without = (emit.deploy(emit.Choice(variant, drop_lrn=drop)) for drop in (False, True))
    assert sorted(set(layers(full)) - set(layers(without))) == ["conv2/norm2", "pool1/norm1"]
    assert not any(x.type == "LRN" for x in without.layer)
    assert list(layers(without)["pool2/3x3_s2"].bottom) == ["conv2/3x3"]


def test_merged_v1bn_is_v1():
    """With its batch normalisation folded, ILGNet-Inc.V1-BN has ILGNet-Inc.V1's layers."""
    merged, v1 = emit.deploy(emit.Choice("v1bn", merge_bn=True)), emit.deploy(emit.Choice("v1"))
    for a, b in zip(merged.layer, v1.layer):
        b.convolution_param.ClearField("bias_filler")  # a merged bias is computed, not filled
        a.convolution_param.ClearField("bias_filler")
    assert list(merged.layer) == list(v1.layer)


@pytest.mark.parametrize(
    "words, reason",
    [
        (dict(crop=40), "crop 40: v1bn needs at least 96 pixels"),
        (dict(variant="full", crop=222), "crop 222: full needs at least 223 pixels"),
        (dict(crop=300), "crop 300"),
        (dict(batch_size=0), "batch size 0"),
        (dict(variant="v1", merge_bn=True), "v1 has no batch normalisation to merge"),
        (dict(variant="v5"), "unknown variant 'v5': choose from v1, v1bn"),
        (dict(dataset="ava3"), "unknown dataset 'ava3': choose from ava1, ava1_delta1, ava2"),
        (dict(merge_bn=True, trunk="frozen"), "for deployment"),
    ],
)
def test_bad_choices_say_why(words, reason):
    with pytest.raises(CaffeError, match=re.escape(reason)):
        emit.Choice(**words)


# --- The tool --------------------------------------------------------------------------------------------------------


def test_gen_net_writes_both_files_and_their_command_makes_them_again(tmp_path, capsys):
    argv = ["--variant", "v1bn", "--dataset", "ava2", "--batch-size", "16", "--drop-lrn", "--out", str(tmp_path)]
    assert gen_net.main(argv) == 0
    paths = [tmp_path / "train_val.prototxt", tmp_path / "deploy.prototxt"]
    assert capsys.readouterr().out.splitlines()[:2] == [str(p) for p in paths]
    before = [p.read_text() for p in paths]
    command = re.search(r"# Made by: python tools/gen_net.py (.*)", before[0]).group(1).split()
    assert command == ["--variant", "v1bn", "--dataset", "ava2", "--batch-size", "16", "--drop-lrn"]
    for p in paths:
        p.unlink()
    gen_net.main([*command, "--out", str(tmp_path)])
    assert [p.read_text() for p in paths] == before


def test_gen_net_reports_bad_input_on_one_line():
    command = [sys.executable, "tools/gen_net.py", "--variant", "v1", "--crop", "12"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: crop 12") and done.stderr.count("\n") == 1


def test_registry_gives_the_paper_names_and_a_source():
    assert {d.name: (d.source, d.test_iter) for d in DATASETS.values()} == {
        "ava1": ("data/ava1", 400),
        "ava1_delta1": ("data/ava1_delta1", 400),
        "ava2": ("data/ava2", 533),
    }
    for name, variant in VARIANTS.items():
        assert name == variant.name and variant.title and variant.source.endswith(".caffemodel")
        deploy = emit.deploy(emit.Choice(name))
        tops = {top for layer in deploy.layer for top in layer.top}
        bottoms = {bottom for layer in deploy.layer for bottom in layer.bottom}
        assert tops - bottoms == {variant.answer}
        assert {variant.trunk, *variant.local} <= tops
