"""A run that goes on from a snapshot is bit for bit the run that was never interrupted (solvers/snapshots.py)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

import torchcaffe as caffe
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import solverstate
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers import snapshots

LMDB = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: %s }
  transform_param { crop_size: 9 mirror: true }
  data_param { source: "lmdb" batch_size: 4 backend: LMDB } }
"""
IMAGES = """layer { name: "data" type: "ImageData" top: "data" top: "label"
  transform_param { crop_size: 9 mirror: true }
  image_data_param { source: "list.txt" batch_size: 4 shuffle: true rand_skip: 3 } }
"""
HDF5 = """layer { name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "h5.txt" batch_size: 4 shuffle: true } }
"""
WINDOWS = """layer { name: "data" type: "WindowData" top: "data" top: "label"
  transform_param { crop_size: 9 mirror: true }
  window_data_param { source: "windows.txt" batch_size: 4 fg_threshold: 0.5 bg_threshold: 0.5 fg_fraction: 0.5 } }
"""
DUMMY = """layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 3 dim: 9 dim: 9 } shape { dim: 4 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
"""
NET = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
RECURRENT = """layer { name: "data" type: "DummyData" top: "x" top: "cont" top: "wanted" dummy_data_param {
  shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } shape { dim: 3 dim: 2 dim: 5 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } data_filler { type: "gaussian" } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "y"
  recurrent_param { num_output: 5 weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "wanted" top: "loss" }
"""
NETS = {
    "lmdb": LMDB % "TRAIN" + LMDB % "TEST" + NET,
    "images": IMAGES + NET,
    "hdf5": HDF5 + NET,
    "windows": WINDOWS + NET,
    "dummy": DUMMY + NET,
    "recurrent": RECURRENT,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """11 photos as an LMDB, a list, HDF5 and windows: no multiple of a batch."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.RandomState(1)
    photos = rng.randint(0, 256, (11, 12, 12, 3), np.uint8)
    with lmdb.open("lmdb", map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for i, photo in enumerate(photos):
            datum = caffe_pb2.Datum(channels=3, height=12, width=12, label=i % 3)
            datum.data = photo.transpose(2, 0, 1).tobytes()
            transaction.put(f"{i:08d}".encode(), datum.SerializeToString())
    for i, photo in enumerate(photos):
        cv2.imwrite(f"{i}.png", photo)
    Path("list.txt").write_text("".join(f"{i}.png {i % 3}\n" for i in range(11)))
    Path("windows.txt").write_text(
        "".join(f"# {i}\n{i}.png\n3\n12\n12\n2\n1 0.9 1 1 8 9\n0 0.1 0 2 7 11\n" for i in range(11))
    )
    for part in range(2):
        with h5py.File(f"{part}.h5", "w") as file:
            file["data"] = rng.standard_normal((7, 3, 9, 9)).astype(np.float32)
            file["label"] = rng.randint(0, 3, 7).astype(np.float32)
    Path("h5.txt").write_text("0.h5\n1.h5\n")
    return tmp_path


def solver(net: str, prefix: str, **more):
    """A solver of NETS[net] with dropout, momentum and a smoothed loss."""
    text = {
        "base_lr": 0.01,
        "momentum": 0.9,
        "lr_policy": '"step"',
        "stepsize": 5,
        "gamma": 0.5,
        "random_seed": 7,
        "average_loss": 3,
        "snapshot_prefix": f'"{prefix}"',
        "max_iter": 100,
        **more,
    }
    if net == "lmdb":
        text |= {"test_iter": 2, "test_interval": 4, "test_initialization": "false"}
    Path("net.prototxt").write_text(NETS[net])
    Path("solver.prototxt").write_text('net: "net.prototxt"\n' + "".join(f"{k}: {v}\n" for k, v in text.items()))
    return caffe.get_solver("solver.prototxt")


def weights(made) -> list[np.ndarray]:
    return [blob.data.copy() for blobs in made.net.params.values() for blob in blobs]


@pytest.mark.parametrize("net", sorted(NETS))
@pytest.mark.parametrize("type_, form", [("SGD", "BINARYPROTO"), ("Adam", "HDF5")])
def test_a_resumed_run_is_the_uninterrupted_one(net, type_, form, folder):
    more = {"type": f'"{type_}"', "snapshot_format": form, **({"momentum2": 0.99} if type_ == "Adam" else {})}
    whole = solver(net, "whole", **more)
    whole.step(6)
    whole.snapshot()
    losses = []
    for _ in range(7):
        whole.step(1)
        losses.append(float(whole.net.blobs["loss"].data))
    caffe.set_random_seed(99)  # a new process has another past
    state = "whole_iter_6.solverstate" + (".h5" if form == "HDF5" else "")
    again = solver(net, "again", random_seed=8, **{k: v for k, v in more.items()})
    again.restore(state)
    for loss in losses:
        again.step(1)
        assert float(again.net.blobs["loss"].data) == loss
    for ours, wanted in zip(weights(again), weights(whole)):
        np.testing.assert_array_equal(ours, wanted)
    again.snapshot(), whole.snapshot()
    for (name, ours), wanted in zip(
        *(snapshots.read(f"{p}_iter_13.resume.npz")[1].items() for p in ("again", "whole"))
    ):
        np.testing.assert_array_equal(ours, wanted[1], err_msg=name)


def test_the_smoothed_loss_goes_on(folder, capfd):
    """Run on its own, a window starts anew with every call of step; resumed, it goes on in the run that was cut."""
    one = solver("lmdb", "one", max_iter=9, snapshot=5, display=1)
    one.solve()

    def shown() -> list[str]:
        return re.findall(r"iter/s.*loss = (\S+)", capfd.readouterr().err)

    wanted = shown()
    two = solver("lmdb", "one", max_iter=9, display=1)
    two.solve("one_iter_5.solverstate")
    assert len(wanted) == 9 and shown() == wanted[5:]


def test_without_the_extra_state_as_bvlc_does(folder, capfd):
    made = solver("lmdb", "x")
    first = []
    for _ in range(2):
        made.step(1)
        first.append(made.net.blobs["label"].data.tolist())
    made.snapshot()
    Path("x_iter_2.resume.npz").unlink()
    again = solver("lmdb", "x")
    again.restore("x_iter_2.solverstate")
    assert "there is no x_iter_2.resume.npz: going on as BVLC does, from the first record" in capfd.readouterr().err
    again.step(1)
    assert again.net.blobs["label"].data.tolist() == first[0]


def test_extra_state_of_another_snapshot_is_left_alone(folder, capfd):
    made = solver("lmdb", "x")
    made.step(2)
    made.snapshot()
    made.step(1)
    made.snapshot()
    shutil.copy("x_iter_2.resume.npz", "x_iter_3.resume.npz")
    again = solver("lmdb", "y")
    again.restore("x_iter_3.solverstate")
    assert "is of another snapshot" in capfd.readouterr().err
    again.step(1)
    assert again.net.blobs["label"].data.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    "harm, says",
    [
        (lambda d: (d / "x_iter_2.resume.npz").write_bytes(b"PK no zip"), "x_iter_2.resume.npz: not NumPy arrays"),
        (lambda d: (d / "x_iter_2.resume.npz").write_bytes((d / "x_iter_2.resume.npz").read_bytes()[:-300]), "damaged"),
        (lambda d: np.savez(d / "x_iter_2.resume.npz", about=np.array([{}], object)), "it holds Python objects"),
        (lambda d: np.savez(d / "x_iter_2.resume.npz", about=np.array('{"format": 9}')), "format 9"),
        *(
            (
                lambda d, put=put: ((d / "x_iter_2.resume.npz").unlink(), put(d / "x_iter_2.resume.npz")),
                "not a regular file",
            )
            for put in (os.mkdir, os.mkfifo, lambda path: os.symlink("gone", path))
        ),
    ],
)
def test_bad_extra_state(harm, says, folder):
    made = solver("lmdb", "x")
    made.step(2)
    made.snapshot()
    assert snapshots.whole("x_iter_2.solverstate") == ""
    harm(folder)
    assert says in snapshots.whole("x_iter_2.solverstate")
    with pytest.raises(CaffeError, match=says):
        solver("lmdb", "y").restore("x_iter_2.solverstate")


@pytest.mark.parametrize("more", [{"display": 1, "snapshot": 4}, {"snapshot_after_train": "false"}])
def test_a_snapshot_asked_for_in_the_last_test(more, folder):
    """By then a forward pass has been made for the display, and the test has read records: the run that goes on from
    that snapshot begins before both."""
    whole = solver("lmdb", "whole", max_iter=12)
    whole.solve()
    made = solver("lmdb", "x", max_iter=8, **more)
    asked = iter([None, "snapshot"])
    test = made.test

    def last_test(index: int = 0):
        if made.iter == 8:
            made.requested_action = lambda: next(asked, None)
        return test(index)

    made.test = last_test
    made.solve()
    assert next(asked, "all asked") == "all asked"
    again = solver("lmdb", "y", max_iter=12)
    again.solve("x_iter_8.solverstate")
    for ours, wanted in zip(weights(again), weights(whole)):
        np.testing.assert_array_equal(ours, wanted)
    ours, wanted = (snapshots.read(f"{prefix}_iter_12.resume.npz")[1] for prefix in ("y", "whole"))
    for name in wanted:
        np.testing.assert_array_equal(ours[name], wanted[name], err_msg=name)


def test_a_damaged_snapshot_is_found(folder):
    made = solver("lmdb", "x")
    made.step(2)
    made.snapshot()
    model = folder / "x_iter_2.caffemodel"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert "x_iter_2.caffemodel: not what x_iter_2.resume.npz says" in snapshots.whole("x_iter_2.solverstate")
    with pytest.raises(CaffeError, match="^x_iter_2.caffemodel: not what x_iter_2.resume.npz says it was$"):
        solver("lmdb", "y").restore("x_iter_2.solverstate")
    model.unlink()
    assert "x_iter_2.caffemodel" in snapshots.whole("x_iter_2.solverstate")
    Path("x_iter_2.resume.npz").unlink()
    assert "x_iter_2.caffemodel" in snapshots.whole("x_iter_2.solverstate")


def test_a_copied_snapshot_brings_its_own_weights(folder):
    """The solverstate names the weights by where they were written: there another run's may lie by now."""
    Path("run").mkdir()
    made = solver("lmdb", "run/x")
    made.step(2)
    made.snapshot()
    wanted = weights(made)
    shutil.copytree("run", "backup")
    other = solver("lmdb", "run/x", random_seed=8)
    other.step(2)
    other.snapshot()
    assert snapshots.whole("backup/x_iter_2.solverstate") == ""
    again = solver("lmdb", "y")
    again.restore("backup/x_iter_2.solverstate")
    for ours, theirs in zip(weights(again), wanted):
        np.testing.assert_array_equal(ours, theirs)
    Path("backup/x_iter_2.resume.npz").unlink()  # BVLC's two alone: as BVLC
    again.restore("backup/x_iter_2.solverstate")
    for ours, theirs in zip(weights(again), weights(other)):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_were_moved_alone_are_found_where_they_were(folder):
    """Of two copies the one whose checksum is right."""
    made = solver("lmdb", "x")
    made.step(2)
    made.snapshot()
    Path("state").mkdir()
    for name in ("x_iter_2.solverstate", "x_iter_2.resume.npz"):
        shutil.move(name, "state")
    Path("state/x_iter_2.caffemodel").write_bytes(b"cut short")
    assert snapshots.whole("state/x_iter_2.solverstate") == ""
    again = solver("lmdb", "y")
    again.restore("state/x_iter_2.solverstate")
    for ours, theirs in zip(weights(again), weights(made)):
        np.testing.assert_array_equal(ours, theirs)


def test_the_record_that_was_next_is_gone(folder):
    made = solver("lmdb", "x")
    made.step(1)
    made.snapshot()
    del made
    with lmdb.open("lmdb", map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"00000004")
    with pytest.raises(CaffeError, match="x_iter_1.resume.npz: LMDB lmdb: no record '00000004'"):
        solver("lmdb", "y").restore("x_iter_1.solverstate")


def test_bvlc_reads_the_two_files_as_ever(folder):
    made = solver("lmdb", "x")
    made.step(1)
    made.snapshot()
    state = solverstate.read_solverstate("x_iter_1.solverstate")
    assert state.iter == 1 and state.learned_net == "x_iter_1.caffemodel"


class Stateful(caffe.Layer):
    """A user's layer whose own attribute has the name of one of the engine's methods."""

    def setup(self, bottom, top):
        self.state = np.zeros(3)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff


def test_a_users_layer_may_have_a_state_of_its_own(tmp_path):
    (tmp_path / "s.prototxt").write_text(
        'net_param { layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 2 } }\n'
        f'layer {{ name: "p" type: "Python" bottom: "ip" top: "p" python_param {{ module: "{__name__}"\n'
        '  layer: "Stateful" } }\n'
        'layer { name: "l" type: "EuclideanLoss" bottom: "p" bottom: "p" top: "l" } }\n'
        f'base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "{tmp_path}/s" solver_mode: CPU\n'
    )
    solver = caffe.get_solver(str(tmp_path / "s.prototxt"))
    solver.step(1)
    solver.snapshot()
    solver.restore(str(tmp_path / "s_iter_1.solverstate"))
    solver.step(1)
    assert solver.iter == 2
