"""Real Caffe behind a pipe (remote.py, bvlc_worker.py): the protocol on torchcaffe, and on the real one."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time

import numpy as np
import pytest

import torchcaffe
from ilgnet.run import bvlc, remote
from torchcaffe.base.errors import CaffeError, WorkerLost

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }"""
TRAINING = """
layer { name: "data" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }"""
SOLVER = """net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 6 display: 2 snapshot_prefix: "x"
random_seed: 3 test_iter: 1 test_interval: 100 snapshot_format: HDF5"""
STAND_IN = """import runpy, sys, torchcaffe
torchcaffe.install_as_caffe()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")"""


@pytest.fixture(scope="module")
def workers():
    """The running worker of each kind: most tests ask the same one."""
    found: dict[str, remote.Caffe] = {}
    yield found
    for made in found.values():
        made.close()


@pytest.fixture(params=["torchcaffe", "real"])
def caffe(request, tmp_path_factory, monkeypatch, workers):
    """A worker on this project's engine, or on real Caffe where there is one, in whose folder the test works, too."""
    if request.param == "torchcaffe":
        monkeypatch.setattr(bvlc, "python_command", lambda: [sys.executable, "-c", STAND_IN])
        environment = bvlc.bvlc_env
        monkeypatch.setattr(
            bvlc, "bvlc_env", lambda **how: {**os.environ, "GLOG_minloglevel": environment(**how)["GLOG_minloglevel"]}
        )
    elif not bvlc.available():
        pytest.skip(f"no real Caffe here: {bvlc.HOW}")
    made = workers.get(request.param)
    if made is None or made._process.poll() is not None:
        folder = tmp_path_factory.mktemp("remote")
        for name, text in (("net", NET), ("train", TRAINING), ("solver", SOLVER)):
            (folder / f"{name}.prototxt").write_text(text)
        monkeypatch.chdir(folder)
        lines: list[bytes] = []

        def slowly(line: bytes) -> None:
            time.sleep(0.0003)
            lines.append(line)

        made = workers[request.param] = remote.Caffe(slowly)
        made.lines, made.folder = lines, folder
    monkeypatch.chdir(made.folder)
    made.set_mode_cpu()
    return made


def test_the_worker_needs_no_new_python():
    ast.parse(remote.WORKER.read_text(), feature_version=(3, 6))


def test_a_net_is_what_it_is_in_this_process(caffe):
    caffe.set_random_seed(1)
    there = caffe.Net("net.prototxt", caffe.TEST)
    torchcaffe.set_random_seed(1)
    here = torchcaffe.Net("net.prototxt", torchcaffe.TEST)
    assert (there.inputs, there.outputs) == (["data"], ["prob"])
    assert there.top_names == dict(here.top_names) and there.bottom_names == dict(here.bottom_names)
    assert [layer.type for layer in there.layers] == [layer.type for layer in here.layers]
    for name, blobs in here.params.items():
        for ours, theirs in zip(blobs, there.params[name], strict=True):
            np.testing.assert_array_equal(ours.data, np.asarray(theirs.data))
    x = np.random.RandomState(0).rand(5, 3, 8, 8).astype(np.float32)
    for net in (there, here):
        net.blobs["data"].reshape(*x.shape)
        net.reshape()
        net.blobs["data"].data[...] = x
        net.forward()
        net.blobs["ip"].diff[...] = 1
        net.blobs["ip"].diff[0, 1] = -1
        net.params["ip"][1].data[...] = [1, 2]
        net.run_forward(2, 3)
    assert there.blobs["prob"].shape == there.blobs["prob"].data.shape == (5, 2)
    np.testing.assert_allclose(np.array(there.blobs["prob"].data), here.blobs["prob"].data, rtol=1e-5)
    np.testing.assert_array_equal(there.blobs["ip"].diff[...], here.blobs["ip"].diff)
    np.testing.assert_allclose((2 * there.blobs["prob"].data).sum(axis=1), np.full(5, 2), rtol=1e-6)
    assert caffe.timed(there, "forward", seconds=0) > 0 and caffe.peak_memory() > 1 << 20


def test_weights_go_both_ways(caffe):
    torchcaffe.set_random_seed(2)
    torchcaffe.Net("net.prototxt", torchcaffe.TEST).save("ours.caffemodel")
    net = caffe.Net("net.prototxt", caffe.TEST)
    net.copy_from("ours.caffemodel")
    net.save("theirs.caffemodel")
    again = torchcaffe.Net("net.prototxt", "theirs.caffemodel", torchcaffe.TEST)
    np.testing.assert_array_equal(again.params["ip"][0].data, np.asarray(net.params["ip"][0].data))


def test_a_solver_calls_back_and_logs(caffe):
    solver = caffe.get_solver("solver.prototxt")
    seen = []
    solver.add_callback(lambda: seen.append((solver.iter, solver.net.blobs["loss"].data.shape)), lambda: seen.append(0))
    solver.solve()
    assert seen[::2] == [(i, ()) for i in range(6)] and seen[1::2] == [0] * 6
    assert solver.iter == 6 and len(solver.test_nets) == 1
    assert any(b"Optimization Done." in line for line in caffe.lines) and b"\0\n" not in caffe.lines


def test_a_callback_ends_the_training(caffe):
    solver = caffe.get_solver("solver.prototxt")

    def stop():
        if solver.iter == 3:
            raise KeyError("enough")

    solver.add_callback(stop, lambda: None)
    with pytest.raises(KeyError, match="enough"):
        solver.solve()
    assert solver.iter == 3
    solver.snapshot()
    assert os.path.exists("x_iter_3.solverstate.h5")


def test_what_goes_wrong_is_a_line(caffe):
    with pytest.raises(CaffeError, match="real Caffe: .*missing.prototxt"):
        caffe.Net("missing.prototxt", caffe.TEST)
    caffe.set_mode_cpu()  # it is still there
    os.kill(caffe._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        caffe.Net("net.prototxt", caffe.TEST)
