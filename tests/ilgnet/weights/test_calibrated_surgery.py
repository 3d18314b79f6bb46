"""v1's weights in v1bn, calibrated on photos: real GoogLeNet weights, real photos, at 96 pixels (which keeps the
connected layers small)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.cli import surgery
from ilgnet.nets import emit
from ilgnet.run import engine
from tests.bvlc.compare import error
from torchcaffe.formats import upgrade
from torchcaffe.formats.blobproto import write_blobproto
from torchcaffe.proto import format_text

CROP, BATCH, COUNT = 96, 16, 32  # photos of each set: calibration and held out


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")


def train_phase(net, weights: Path):
    """The training net without dropout, which would hide how close two nets are."""
    param = engine.without_data(net, caffe.TRAIN, BATCH)
    for layer in param.layer:
        if layer.type == "Dropout":
            layer.dropout_param.dropout_ratio = 0
    made = engine.make_net(caffe, param, caffe.TRAIN)
    made.copy_from(str(weights))
    return made


def deployed(net, weights: Path):
    made = engine.make_net(caffe, engine.without_data(net, caffe.TEST, BATCH), caffe.TEST)
    made.copy_from(str(weights))
    return made


def forward(made, images: np.ndarray) -> tuple[np.ndarray, float]:
    """(the 1024 concatenated features, the loss with every second photo high)."""
    made.blobs["data"].data[...] = images
    made.blobs["label"].data[...] = np.arange(len(images)) % 2
    made.forward()
    return np.array(made.blobs["temp"].data), float(made.blobs["loss1/loss"].data)


@pytest.fixture(scope="module")
def nets(shared, tmp_path_factory) -> dict:
    """{variant or way: (net, weights)}, and the photos' folders, disjoint."""
    folder = tmp_path_factory.mktemp("surgery")
    photos = sorted((shared / "photos").iterdir())
    for name, some in (("calibration", photos[:COUNT]), ("held_out", photos[COUNT : 2 * COUNT])):
        (folder / name).mkdir()
        for photo in some:
            shutil.copy(photo, folder / name)
    write_blobproto(folder / "mean.binaryproto", np.tile(np.float32([104, 117, 123]).reshape(1, 3, 1, 1), (256, 256)))
    found = {}
    ways = {
        "v1": ("googlenet", []),
        "v1bn": ("v1", ["--calibrate", folder / "calibration", "--images", COUNT]),
        "uncalibrated": ("v1", []),
    }
    sources = {"googlenet": shared / "bvlc_googlenet.caffemodel"}
    for name, (source, more) in ways.items():
        path = folder / f"{name}.prototxt"
        choice = emit.Choice("v1" if name == "v1" else "v1bn", crop=CROP, batch_size=BATCH, source=str(folder))
        path.write_text(format_text(emit.train_val(choice)))
        sources[name] = folder / f"{name}.caffemodel"
        words = ["--weights", sources[source], "--net", path, "--out", sources[name], "--seed", 1, *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GLOG_minloglevel", "2")
            assert surgery.main([str(word) for word in words]) == 0
        found[name] = (upgrade.read_net(path), sources[name])
    images = surgery.images_for(found["v1"][0], folder / "held_out", COUNT, None)
    return {**found, "batches": np.split(images, COUNT // BATCH)}


def test_the_answers_stay_on_photos_that_calibration_never_saw(nets):
    before, after = (deployed(*nets[name]) for name in ("v1", "v1bn"))
    for images in nets["batches"]:
        (wanted, _), (got, _) = forward(before, images), forward(after, images)
        assert wanted.shape == (BATCH, 1024)
        assert error(got, wanted) <= 1e-4


def test_training_starts_where_the_source_stands(nets):
    """In the TRAIN phase a batch's own statistics take the place of the calibrated ones: the features stay near the
    source's, and the loss is the source's but for what 16 photos' statistics differ. Uncalibrated, nothing is left of
    the features."""
    features, losses = {}, {}
    for name in ("v1", "v1bn", "uncalibrated"):
        made = train_phase(*nets[name])
        outputs = [forward(made, images) for images in nets["batches"]]
        features[name] = np.concatenate([x for x, _ in outputs])
        losses[name] = float(np.mean([loss for _, loss in outputs]))
        del made
    distances = {name: error(features[name], features["v1"]) for name in ("v1bn", "uncalibrated")}
    print(distances, losses)
    assert distances["v1bn"] <= 0.3 and distances["uncalibrated"] >= 0.9
    assert losses["v1bn"] <= 1.1 * losses["v1"]
