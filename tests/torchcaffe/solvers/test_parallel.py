"""Several processes on the CPU (gloo): training against one with twice the iter_size; tests and rankings in turns."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
import torch.distributed.run

import torchcaffe as caffe
from ilgnet.cli import evaluate, rank, train
from ilgnet.run import processes
from tests import ROOT
from tests.loaded import LOADED, become
from torchcaffe.formats import caffemodel, solverstate
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers import parallel

NET = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.01 } data_param { source: "lmdb" batch_size: %d backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.01 } data_param { source: "lmdb" batch_size: 3 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "%(name)s_net.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001
max_iter: %(max_iter)d iter_size: %(iter_size)d random_seed: 3 snapshot_prefix: "%(name)s" test_iter: 2 test_interval: 5
display: 5 snapshot: 10
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """13 photos: no multiple of any batch."""
    tmp_path = tmp_path_factory.mktemp("parallel")
    rng = np.random.RandomState(1)
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 22) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(13):
                datum = caffe_pb2.Datum(channels=3, height=8, width=8, label=i % 3)
                datum.data = rng.randint(0, 256, 192, np.uint8).tobytes()
                transaction.put(f"{i:08d}".encode(), datum.SerializeToString())
    return tmp_path


def write_solver(folder: Path, name: str, iter_size: int) -> list[str]:
    """The words that train it."""
    (folder / f"{name}_net.prototxt").write_text(NET % 4)
    (folder / f"{name}.prototxt").write_text(SOLVER % {"name": name, "iter_size": iter_size, "max_iter": 20})
    return ["--solver", f"{name}.prototxt"]


def run_tool(tool: str, *words: str) -> None:
    path = str(ROOT / "tools" / tool)
    sys.argv = [path, *words]
    runpy.run_path(path, run_name="__main__")


def run_launcher(script: list[str]) -> None:
    sys.exit(parallel.launch(script, 2))


def start_two(folder: Path, tool: str, words: list[str]) -> list:
    """Start a program in two processes that find each other as those of torchrun do, without its start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        LOADED.Process(
            target=become, args=(folder, rank, {**group, "RANK": rank, "LOCAL_RANK": rank}, run_tool, tool, *words)
        )
        for rank in "01"
    ]
    for process in started:
        process.start()
    return started


def in_two(folder: Path, tool: str, words: list[str]) -> str:
    """The output of a program in two processes."""
    started = start_two(folder, tool, words)
    for process in started:
        process.join(300)
    outputs = [[(folder / f"{rank}.{stream}").read_text() for stream in ("out", "err")] for rank in "01"]
    assert [process.exitcode for process in started] == [0, 0], outputs
    return outputs[0][0] + outputs[1][0]


@pytest.fixture(scope="module")
def trained_by_two(folder):
    """The log of 20 iterations of two processes that torchrun starts."""
    command = ["--standalone", "--nproc-per-node=2", str(ROOT / "tools" / "train.py"), *write_solver(folder, "two", 1)]
    torchrun = LOADED.Process(target=become, args=(folder, "torchrun", {}, torch.distributed.run.main, command))
    torchrun.start()
    torchrun.join(300)
    said = (folder / "torchrun.err").read_text()
    assert torchrun.exitcode == 0, said
    return said


def weights(path: Path) -> list[np.ndarray]:
    return [np.array(blob) for layer in caffemodel.read_caffemodel(path) for blob in layer.blobs]


def test_two_processes_are_one_of_twice_the_iter_size(folder, trained_by_two, monkeypatch):
    monkeypatch.chdir(folder)
    assert train.main(write_solver(folder, "one", 2)) == 0
    for two, one in zip(weights(folder / "two_iter_20.caffemodel"), weights(folder / "one_iter_20.caffemodel")):
        assert np.linalg.norm(two - one) <= 1e-6 * np.linalg.norm(one)
    states = [solverstate.read_solverstate(folder / f"{name}_iter_20.solverstate") for name in ("two", "one")]
    for two, one in zip(*(state.history for state in states)):
        assert np.linalg.norm(two - one) <= 1e-5 * np.linalg.norm(one)
    log = trained_by_two
    assert log.count("Iteration 10, Testing net") == 1 and log.count("Optimization Done.") == 1  # the root's alone


def test_both_go_on_where_they_were(folder, trained_by_two):
    for path in folder.glob("two_iter_10.*"):
        if path.suffix != ".caffemodel":  # which the solverstate names
            shutil.copy(path, folder / path.name.replace("two", "again"))
    wanted = weights(folder / "two_iter_20.caffemodel")
    in_two(folder, "train.py", [*write_solver(folder, "again", 1), "--snapshot", "again_iter_10.solverstate"])
    for ours, theirs in zip(weights(folder / "again_iter_20.caffemodel"), wanted):
        np.testing.assert_array_equal(ours, theirs)


DEPLOY = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.0001 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def test_testing_and_ranking_in_turns_are_the_same(tmp_path, monkeypatch, capsys):
    """evaluate.py and rank_photos.py in two processes, beside one: 7 photos, so that shares differ."""
    caffe.set_random_seed(1)
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST).save(str(tmp_path / "w.caffemodel"))
    rng = np.random.RandomState(2)
    (tmp_path / "photos").mkdir()
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 22) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(7):
                photo = rng.randint(0, 256, (256, 256, 3)).astype(np.uint8)
                cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), photo)
                datum = caffe_pb2.Datum(channels=3, height=256, width=256, label=i % 2)
                datum.data = photo.transpose(2, 0, 1).tobytes()
                transaction.put(f"{i:08d}".encode(), datum.SerializeToString())
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    found = {}
    monkeypatch.chdir(tmp_path)
    for count in (1, 2):
        net = ["--weights", "w.caffemodel", "--net", "deploy.prototxt", "--batch", "1"]  # batches round differently
        for tool, words, out in (
            ("evaluate.py", ["--lmdb", "lmdb", "--preset", "direct"], f"test{count}.json"),
            ("rank_photos.py", ["photos", "--cache", f"{count}.sqlite"], f"rank{count}.html"),
        ):
            words = [*net, *words, "--out", out]
            if count == 1:
                assert {"evaluate.py": evaluate, "rank_photos.py": rank}[tool].main(words) == 0
                said = capsys.readouterr().out
            else:
                said = in_two(tmp_path, tool, words)
            texts = [said, *((tmp_path / out).with_suffix(suffix).read_text() for suffix in (".csv", ".json"))]
            # The page keeps its own place's choices apart, so the pages' digests differ.
            found[count, tool] = [
                re.sub(r'(".html": )"\w+"', r"\1", text.replace(out.split(".")[0], "")) for text in texts
            ]
    for tool in ("evaluate.py", "rank_photos.py"):
        assert found[1, tool] == found[2, tool]
    assert "7 photos (0 known already), 1 not read" in found[2, "rank_photos.py"][0]


def test_a_signal_in_the_middle_of_a_test_stops_both(folder):
    words = write_solver(folder, "long", 1)
    text = (folder / "long.prototxt").read_text().replace("test_iter: 2 ", "test_iter: 100000000 ")
    (folder / "long.prototxt").write_text(text + "test_initialization: false")
    started = start_two(folder, "train.py", words)
    deadline = time.monotonic() + 100
    log = folder / "long.log"
    while not log.exists() or "Testing net" not in log.read_text():
        assert time.monotonic() < deadline and all(process.is_alive() for process in started)
        time.sleep(0.1)
    for process in started:
        os.kill(process.pid, signal.SIGTERM)
    for process in started:
        process.join(20)
    assert [process.exitcode for process in started] == [143, 143]
    assert (folder / "long_iter_5.solverstate").is_file()


CHILD = """import os, signal, sys, time
def stop(*_):
    open("stopped." + os.environ["RANK"], "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open("started." + os.environ["RANK"], "w").close()
time.sleep(60)
"""


def test_a_signal_to_the_launcher_stops_all(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    launcher = LOADED.Process(target=become, args=(tmp_path, "launcher", {}, run_launcher, ["child.py"]))
    launcher.start()
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("started.*"))) < 2:
        assert time.monotonic() < deadline and launcher.is_alive()
        time.sleep(0.1)
    os.kill(launcher.pid, signal.SIGTERM)
    launcher.join(60)
    assert launcher.exitcode == 128 + signal.SIGTERM
    assert sorted(path.name for path in tmp_path.glob("stopped.*")) == ["stopped.0", "stopped.1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there_launch_nothing(monkeypatch):
    class Args:
        gpu = [0, 1]

    monkeypatch.setattr("torchcaffe.solvers.parallel.launch", lambda *_: pytest.fail("launched"))
    with pytest.raises(caffe.CaffeError, match="no CUDA device"):
        processes.launch(Args, "evaluate", [])
