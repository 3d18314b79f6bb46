"""--trunk frozen, in training: the trunk stays as it is, and its backward pass is skipped."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.nets import emit, table1
from torchcaffe.formats.blobproto import write_blobproto
from torchcaffe.proto import caffe_pb2, format_text


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """LMDBs of four photos of noise, and their mean."""
    folder = tmp_path_factory.mktemp("lmdb")
    photos = np.random.RandomState(0).randint(0, 256, (4, 3, 256, 256)).astype(np.uint8)
    for name in ("train_lmdb", "val_lmdb"):
        with lmdb.open(str(folder / name), map_size=1 << 24) as env, env.begin(write=True) as txn:
            for i, photo in enumerate(photos):
                datum = caffe_pb2.Datum(channels=3, height=256, width=256, data=photo.tobytes(), label=i % 2)
                txn.put(b"%08d" % i, datum.SerializeToString())
    write_blobproto(folder / "mean.binaryproto", np.full((1, 3, 256, 256), 127, np.float32))
    return folder


def make_solver(folder: Path, data: Path, **words):
    """A solver for 1/3 GoogLeNetV1-BN at 96 pixels, whose BatchNorms let everything pass."""
    choice = emit.Choice("third", crop=96, batch_size=2, source=str(data), **words)
    net = emit.train_val(choice)
    net.layer[1].data_param.batch_size = 2
    (folder / "net.prototxt").write_text(format_text(net))
    solver = table1.solver(
        "ava1",
        "third",
        net=str(folder / "net.prototxt"),
        solver_mode=0,
        test_iter=1,
        random_seed=1,
        test_initialization=False,
        display=0,
        snapshot_prefix=str(folder / "snapshot"),
    )
    (folder / "solver.prototxt").write_text(format_text(solver))
    made = caffe.SGDSolver(str(folder / "solver.prototxt"))
    for layer in made.net.layers:
        if layer.type == "BatchNorm":
            layer.blobs[0].data[...] = 0
            layer.blobs[1].data[...] = layer.blobs[2].data[...] = 1
    return made


def changed(solver, before: dict) -> set:
    now = solver.net.params
    return {k for k, blobs in before.items() if any((x != y.data).any() for x, y in zip(blobs, now[k]))}


@pytest.mark.parametrize("trunk", ["frozen", "finetune"])
def test_what_20_iterations_change(trunk, data, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")
    solver = make_solver(tmp_path, data, trunk=trunk)
    before = {name: [blob.data.copy() for blob in blobs] for name, blobs in solver.net.params.items()}
    solver.step(20)
    head = {name for name in before if name.startswith("loss1/")}
    if trunk == "frozen":
        assert changed(solver, before) == head
    else:
        assert changed(solver, before) == set(before)


def test_no_gradient_is_computed_below_the_tap(data, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")
    net = make_solver(tmp_path, data, trunk="frozen").net
    net.forward()
    for blob in net.blobs.values():
        blob.diff[...] = 123
    net.blobs["loss1/loss"].diff[...] = 1
    net.backward()
    computed = {name for name, blob in net.blobs.items() if not (blob.diff == 123).all()} - {"loss1/loss"}
    assert computed == {"loss1/conv", "loss1/fc", "loss1/classifier_cjy"}
