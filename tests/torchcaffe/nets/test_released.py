"""The released training set-up against real Caffe's: V1 format, LMDB, mean, random crops, mirrors, dropout 0.7, and a
test net, which draws from the same stream."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests import GOLDENS
from tests.bvlc import compare, released, run_caffe
from torchcaffe.formats import solverstate, upgrade
from torchcaffe.proto import caffe_pb2, format_text, parse_text

GOLDEN = GOLDENS / "released.npz"


@pytest.fixture(scope="module")
def caffe():
    import torchcaffe as caffe

    return caffe


@pytest.fixture(scope="module")
def golden() -> tuple[list[dict], dict[str, np.ndarray]]:
    with np.load(GOLDEN) as f:
        arrays = dict(f)
    return json.loads(str(arrays.pop("seen"))), arrays


def test_data_masks_and_first_loss_are_real_caffes(caffe, golden):
    wanted, arrays = golden
    seen, got = released.run_tiny(caffe, {"iterations": len(wanted)})
    assert [{**s, "loss": 0} for s in seen] == [{**s, "loss": 0} for s in wanted], "data and masks, bit for bit"
    assert len({s["data"] for s in seen}) == len({s["mask temp1_drop"] for s in seen}) == len(seen)
    starts = [key for key in arrays if key.endswith("@-1")]
    assert starts and all(np.array_equal(got[key], arrays[key]) for key in starts)
    assert seen[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-5)
    np.testing.assert_allclose([s["loss"] for s in seen], [s["loss"] for s in wanted], rtol=1e-4)


def test_every_iteration_from_real_caffes_state(caffe, golden, tmp_path):
    wanted, arrays = golden
    with run_caffe.inside(run_caffe.write_files(released.TINY_FILES)):
        solver = caffe.get_solver("solver.prototxt")
        blobs = released.parameters(solver.net)
        at = [0]

        def gradients():
            for name, blob in blobs:
                theirs = arrays[f"gradient {name}@{at[0]}"]
                assert compare.error(blob.diff, theirs) <= compare.PARAM, f"{name} in iteration {at[0]}"
                blob.diff[...] = theirs

        solver.add_callback(lambda: None, gradients)
        for at[0], given in enumerate(wanted):
            for name, blob in blobs:
                blob.data[...] = arrays[f"weights {name}@{at[0] - 1}"]
            if at[0]:
                history = [arrays[f"update {name}@{at[0] - 1}"] for name, _ in blobs]
                state = solverstate.SolverState(iter=at[0], learned_net="", current_step=0, history=history)
                solverstate.write_solverstate(tmp_path / "now.solverstate", state)
                solver.restore(str(tmp_path / "now.solverstate"))
            solver.step(1)
            assert released.observe(solver.net)["loss"] == pytest.approx(given["loss"], rel=1e-5)
            for name, blob in blobs:
                assert compare.error(blob.diff, arrays[f"update {name}@{at[0]}"]) <= 1e-6
                assert compare.error(blob.data, arrays[f"weights {name}@{at[0]}"]) <= 1e-6


def test_a_weight_smaller_than_its_update_keeps_the_updates_rounding():
    """The classifier's bias after two iterations of the released set-up: one unit in the last place of its update."""
    theirs, update = np.float32([-1.7289358e-07, 1.7289358e-07]), np.float32([2.7134997e-06, -2.7134997e-06])
    ours = np.float32([-1.728938e-07, 1.728938e-07])
    assert compare.error(ours, theirs) > 1e-6 > released.update_error(ours, theirs, update) > 5e-8
    assert released.update_error(1.01 * theirs, theirs, theirs / 9) == pytest.approx(0.01, rel=1e-4)
    assert released.update_error(update / 2, 0 * update, update) == pytest.approx(0.5)


def test_the_v1_text_is_the_net_of_the_released_log(shared):
    log = (shared / "ava" / "results" / "AVA1_result.txt").read_text()
    found = re.search(r"Initializing net from parameters: \n(name: .*?\n)I\d", log, re.S)
    wanted = parse_text(found.group(1), caffe_pb2.NetParameter(), "log")
    wanted.ClearField("state")
    text = released.net_texts(Path("../../data/AVA1"), 48)["val.prototxt"]
    assert "layers {" in text and "layer {" not in text and "blobs_lr: 10" in text and "transform_param" not in text
    assert format_text(upgrade.parse_net(text, "val.prototxt")) == format_text(wanted)


def test_the_training_net_differs_as_a_training_net_does():
    texts = released.net_texts(Path("data"), 48)
    train, val = (upgrade.parse_net(texts[name], name) for name in ("train.prototxt", "val.prototxt"))
    assert [x.name for x in train.layer] == [x.name for x in val.layer if x.type != "Accuracy"]
    assert train.layer[0].transform_param.mirror and not val.layer[0].transform_param.mirror
    assert train.layer[0].transform_param.crop_size == 227 and train.layer[0].data_param.batch_size == 48
