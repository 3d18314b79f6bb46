"""Every net of the paper, trained and deployed one pass, against real Caffe (tests/bvlc/make_variant_goldens.py)."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.nets import emit
from ilgnet.nets.variants import VARIANTS
from ilgnet.run import bvlc
from tests import ROOT
from tests.bvlc import compare, generated, real, whole_nets

GOLDENS = ROOT / "tests" / "bvlc" / "goldens" / "variants"
SPREAD = json.loads((GOLDENS / "spread.json").read_text())


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")


def test_every_variant_and_way_has_a_golden():
    assert set(VARIANTS) < set(generated.NETS) == set(SPREAD) == {path.stem for path in GOLDENS.glob("*.npz")}
    ways = {(c.trunk, c.merge_bn, c.spp) for c in generated.NETS.values()}
    assert ways == {
        ("finetune", False, False),
        ("frozen", False, False),
        ("finetune", True, False),
        ("finetune", False, True),
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_deployed_a_frozen_net_is_the_finetuned_one(variant):
    """So what is shown of the one in OpenCV and ONNX Runtime holds for the other."""
    nets = [emit.deploy(emit.Choice(variant, trunk=trunk)) for trunk in ("finetune", "frozen")]
    for layer in [layer for net in nets for layer in net.layer]:
        layer.ClearField("param")  # the rates
        assert (
            layer.type != "BatchNorm"
            or layer.batch_norm_param.use_global_stats
            or not layer.batch_norm_param.HasField("use_global_stats")
        )
        layer.batch_norm_param.ClearField("use_global_stats")  # the default for deployment
        if not layer.batch_norm_param.ListFields():
            layer.ClearField("batch_norm_param")
    assert nets[0] == nets[1]


@pytest.mark.parametrize("name", generated.NETS)
def test_pass(name, tmp_path):
    """Forward, statistics and gradients, as they come and with real Caffe's ties; OpenCV reads the weights we save, and
    its blobs are ours.

    Every limit is a rule for all nets: the project's own limit, or three times real Caffe's distance from itself under
    other kernels of OpenBLAS. With real Caffe's values where a rounding decides (tests/bvlc/flips.py) every gradient is
    within 1e-4, from one end of the net to the other. Without, a decision that falls otherwise than in real Caffe may
    turn a gradient by as much as one forced in real Caffe does."""
    choice, own = generated.NETS[name], SPREAD[name]
    message = generated.write(choice, tmp_path)
    train, deploy = whole_nets.open_nets(caffe, tmp_path)
    golden = whole_nets.load(GOLDENS / f"{name}.npz")
    errors = whole_nets.distances(whole_nets.passes(caffe, train, deploy), golden)
    assert set(errors) >= {"deploy", "train", "gradient"}
    assert ("statistics" in errors) == any(layer.type == "BatchNorm" for layer in train.layers)
    if not choice.spp:  # OpenCV has no such layer
        opencv_agrees(choice, train, deploy, tmp_path)
    got, turned = whole_nets.settled(caffe, message, train, whole_nets.load_ties(GOLDENS / f"{name}.npz"))
    wanted = {key: found for key, found in golden.items() if key.startswith("gradient:")}
    errors["settled"] = whole_nets.distances(got, wanted)["gradient"]

    limits = {kind: max(compare.FORWARD, 3 * own[kind]["greatest"]) for kind in ("deploy", "train")}
    limits["statistics"], limits["settled"] = limits["train"], compare.PARAM
    flips = {layer: count for layer, (count, _) in turned.items() if count}
    limits["gradient"] = max(compare.PARAM, 3 * own["gradient"]["greatest"], own["flip"] if flips else 0)
    worst = {kind: max(found.items(), key=lambda item: item[1]) for kind, found in errors.items()}
    print(name, worst, "decisions that real Caffe's ties turned:", flips or "none")
    for kind, (where, error) in worst.items():
        assert error <= limits[kind], (kind, where, error, limits[kind], flips)
    assert np.median(list(errors["gradient"].values())) <= max(1e-5, 3 * own["gradient"]["median"])


def opencv_agrees(choice, train, deploy, folder) -> None:
    """Every blob of the deployed net, as the last layer leaves it that works on it."""
    train.save(str(folder / "net.caffemodel"))
    theirs = cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "net.caffemodel"))
    data = whole_nets.photos(choice.crop)
    deploy.blobs["data"].data[...] = data
    deploy.forward()  # with the weights of now: training moved the statistics
    # OpenCV names a layer by its blob, and one that works in place by its own name.
    layers = {
        top: layer.name if top in layer.bottom else top for layer in emit.deploy(choice).layer[1:] for top in layer.top
    }
    theirs.setInput(data)
    blobs = dict(zip(layers, theirs.forward(list(layers.values()))))
    assert VARIANTS[choice.variant].answer in blobs and len(blobs) == len(set(computed_blobs(deploy)))
    errors = {name: compare.error(blob, deploy.blobs[name].data) for name, blob in blobs.items()}
    assert max(errors.values()) <= 2e-5, errors


def computed_blobs(net) -> list[str]:
    """The blobs that layers compute, less the copies that Split makes."""
    return [name for name in net.blobs if "_split_" not in name and name != "data"]


@pytest.mark.skipif(not bvlc.available(), reason="no real Caffe here: " + bvlc.HOW)
def test_real_caffes_old_python_imports_what_runs_in_it():
    names = "check_nets example_nets flips layers net_rules py_layers released run_caffe solvers target_nets whole_nets"
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module('tests.bvlc.' + name)"
    real.python(["-c", code, *names.split()], {"PYTHONPATH": str(ROOT)})
