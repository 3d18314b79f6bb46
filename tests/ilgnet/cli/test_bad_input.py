"""Bad input, a table a kind of file: every tool that reads it ends with one line that names the file, and status 2.

`python -m tests.ilgnet.cli.test_bad_input` prints what each says, with --bvlc how real Caffe's programs end on the
same files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

from ilgnet.ava.check_ava import look_at
from ilgnet.cli import (
    benchmark,
    check_ava,
    check_ranking,
    evaluate,
    export_onnx,
    fetch_weights,
    gen_net,
    log_to_tensorboard,
    make_lmdb,
    mean,
    merge_bn,
    plot_log,
    prepare,
    rank,
    ratings,
    splits,
    summarize,
    surgery,
    train,
)
from ilgnet.evaluate import protocol
from ilgnet.photos import decode
from ilgnet.rank import check as ranking_check
from ilgnet.rank import ranking
from ilgnet.run import bvlc, results
from tests.bvlc import real
from torchcaffe.base.errors import CaffeError, named
from torchcaffe.cli import main as cli
from torchcaffe.data import imageset
from torchcaffe.formats import blobproto, caffemodel, solverstate, wire
from torchcaffe.ops.hdf5 import read_datasets
from torchcaffe.proto import caffe_pb2
from torchcaffe.pycaffe import io as caffe_io

GOOD_NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
TRAIN_NET = """layer { name: "data" type: "Data" top: "data" top: "label" transform_param { %s }
  data_param { source: "%s" batch_size: 2 backend: LMDB } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def run(main: Callable, *words: object) -> str:
    """What a program says that ends by an error of its own, in this process: one line, status 2."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = main([str(word) for word in words])
    except Exception as error:
        found = named(error)
        if found is None:
            raise
        assert found.status == 2, found
        assert str(found).count("\n") == 0 and str(found).isprintable(), repr(str(found))
        return str(found)
    raise AssertionError(f"ended with {code!r} and said {output.getvalue()[-300:]!r}")


def good(folder: Path) -> None:
    """Good files for what is not the bad one: a net and its weights, LMDBs, a mean, ratings and photos."""
    (folder / "net.prototxt").write_text(GOOD_NET)
    net = caffe_pb2.NetParameter()
    net.layer.add(name="ip", type="InnerProduct")
    blobs = [np.arange(2 * 192, dtype=np.float32).reshape(2, 192) / 1000, np.zeros(2, np.float32)]
    caffemodel.write_caffemodel(folder / "net.caffemodel", net, {"ip": blobs})
    state = solverstate.SolverState(3, str(folder / "net.caffemodel"), 0, [np.zeros_like(b) for b in blobs])
    solverstate.write_solverstate(folder / "net.solverstate", state)
    write_lmdb(folder / "lmdb", [datum() for _ in range(3)])
    (folder / "train.prototxt").write_text(TRAIN_NET % ("", folder / "lmdb"))
    solver(folder, folder / "train.prototxt")
    blobproto.write_blobproto(folder / "m.binaryproto", np.zeros((3, 8, 8), np.float32))
    (folder / "photos").mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"photos/{i}.jpg"), np.full((20, 30, 3), 50 * i, np.uint8))


def solver(folder: Path, net: Path, more: str = "") -> Path:
    path = folder / "solver.prototxt"
    path.write_text(
        f'net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 snapshot_prefix: "{folder}/s" '
        f"solver_mode: CPU {more}"
    )
    return path


def datum(**more) -> bytes:
    fields = {"channels": 3, "height": 8, "width": 8, "label": 1, "data": bytes(192), **more}
    return caffe_pb2.Datum(**fields).SerializeToString()


def write_lmdb(path: Path, values: list[bytes]) -> None:
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for i, value in enumerate(values):
            transaction.put(b"%08d" % i, value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(tmp_path)
    return tmp_path


# -- nets: what is in the file, and what is said of it -----------------------------------------------------------------

TAIL = 'layer { name: "prob" type: "Softmax" bottom: "%s" top: "prob" }'
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { %s } } }\n'
SMALL = INPUT % "dim: 1 dim: 3 dim: 8 dim: 8"
BAD_NETS = {
    "syntax": (GOOD_NET + "layer { name: ", r":4:\d+"),
    "unknown field": ('layer { name: "a" colour: 1 }', r":1:19: .*colour"),
    "value of another type": (GOOD_NET.replace("num_output: 2", 'num_output: "two"'), r":2:\d+: "),
    "negative size": (GOOD_NET.replace("num_output: 2", "num_output: -2"), r":2:\d+: "),
    "not UTF-8": (b"name: '\xff\xfe\xfa'", "UTF-8|utf-8"),
    "binary": (bytes(range(256)), ""),
    "unknown layer": (SMALL + TAIL.replace("Softmax", "Hardmax") % "data", "layer 'prob'.*Hardmax"),
    "no type": (SMALL + 'layer { name: "x" bottom: "data" top: "x" }', "layer 'x'.*type"),
    "cycle": (
        SMALL + 'layer { name: "a" type: "Eltwise" bottom: "data" bottom: "b" top: "a" }\n'
        'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }',
        "layer 'a'.*'b'",
    ),
    "missing bottom": (SMALL + TAIL % "nothing", "layer 'prob'.*'nothing'"),
    "no bottom": (SMALL + 'layer { name: "x" type: "ReLU" top: "x" }', "layer 'x'.*"),
    "two of one name": (SMALL + TAIL % "data" + TAIL % "data", "prob"),
    "shapes that do not fit": (
        SMALL + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { '
        'kernel_size: 2 stride: 2 } }\nlayer { name: "sum" type: "Eltwise" bottom: "data" '
        'bottom: "p" top: "sum" }',
        "layer 'sum'.*shape",
    ),
    "negative dim": (INPUT % "dim: 1 dim: -3 dim: 8" + TAIL % "data", "layer 'data'.*negative"),
    "huge dim": (INPUT % "dim: 100000 dim: 3 dim: 100000" + TAIL % "data", "layer 'data'.*more than"),
    "overflow": (INPUT % "dim: 4294967296 dim: 4294967296" + TAIL % "data", "layer 'data'.*more than"),
    "33 axes": (INPUT % ("dim: 1 " * 33) + TAIL % "data", "layer 'data'.*axes"),
    "kernel of 0": (
        SMALL + 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { '
        "num_output: 1 kernel_size: 0 } }",
        "layer 'c'.*kernel",
    ),
    "kernel too large": (
        SMALL + 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { '
        "num_output: 1 kernel_size: 9 } }",
        "layer 'c'.*",
    ),
    "stride of 0": (
        SMALL + 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { '
        "num_output: 1 kernel_size: 3 stride: 0 } }",
        "layer 'c'.*stride",
    ),
    "huge weights": (
        SMALL + 'layer { name: "c" type: "InnerProduct" bottom: "data" top: "c" inner_product_param { '
        "num_output: 4000000000 } }",
        "layer 'c'.*(num_output|4000000000|more than)",
    ),
    "axis out of range": (
        SMALL + TAIL.replace("top:", "softmax_param { axis: 7 } top:") % "data",
        "layer 'prob'.*axis",
    ),
    "code without permission": (
        SMALL + 'layer { name: "py" type: "Python" bottom: "data" top: "py" python_param { '
        'module: "os" layer: "system" param_str: "touch owned" } }',
        "layer 'py'.*permission",
    ),
    "a Python layer that is the engine's": (
        SMALL + 'layer { name: "py" type: "Python" bottom: "data" top: "py" python_param { '
        'module: "torchcaffe.ops.python" layer: "Python" } }',
        "layer 'py'.*the engine's own",
    ),
}
NET_READERS = {
    "torchcaffe time": lambda f, bad: run(cli._main, "time", "-model", bad, "-phase", "TEST", "-iterations", 1),
    "torchcaffe test": lambda f, bad: run(cli._main, "test", "-model", bad, "-weights", f / "net.caffemodel"),
    "torchcaffe train": lambda f, bad: run(cli._main, "train", "-solver", solver(f, bad)),
    "train.py": lambda f, bad: run(train.main, "--solver", solver(f, bad)),
    "summarize.py": lambda f, bad: run(summarize.main, bad),
    "surgery.py": lambda f, bad: run(surgery.main, "--weights", f / "net.caffemodel", "--net", bad, "--out", f / "o"),
    "evaluate.py": lambda f, bad: run(
        evaluate.main, "--weights", f / "net.caffemodel", "--net", bad, "--lmdb", f / "lmdb"
    ),
}


def write(name: str) -> Callable:
    """A maker of a bad file of that name: its content, as text, bytes or a function of the folder."""

    def make(folder: Path, content: object) -> Path:
        bad = folder / name
        content = content(folder) if callable(content) else content
        if content is not None:
            bad.write_bytes(content if isinstance(content, bytes) else content.encode())
        return bad

    return make


# -- solvers -----------------------------------------------------------------------------------------------------------

SOLVER = 'net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 snapshot_prefix: "s" '
BAD_SOLVERS = {
    "syntax": ("net: {", r":1:\d+"),
    "unknown field": (SOLVER + "colour: 1", "colour"),
    "no net": (SOLVER.replace('net: "train.prototxt"', ""), "net"),
    "net that is not there": (SOLVER.replace("train.p", "other.p"), "other.prototxt"),
    "unknown type": (SOLVER + 'type: "Magic"', "type.*Magic"),
    "unknown policy": (SOLVER.replace("fixed", "wild"), "lr_policy.*wild"),
    "iter_size of 0": (SOLVER + "iter_size: 0", "iter_size"),
    "Adam, momentum of 1": (SOLVER + 'type: "Adam" momentum: 1', "momentum: 1 must be"),
    "Adam, momentum2 of 2": (SOLVER + 'type: "Adam" momentum2: 2', "momentum2: 2 must be"),
    "NUL in a prefix": (SOLVER.replace('"s"', '"a\\000b"'), "snapshot_prefix.*NUL"),
    "test_iter without interval": (SOLVER + "test_iter: 3", "test_interval"),
    "two nets": (SOLVER + 'train_net: "train.prototxt"', "net.*train_net"),
}
SOLVER_READERS = {
    "torchcaffe train": lambda f, bad: run(cli._main, "train", "-solver", bad),
    "train.py": lambda f, bad: run(train.main, "--solver", bad),
}

# -- weights and solver states -----------------------------------------------------------------------------------------


def weights(blobs: dict[str, list[np.ndarray]]) -> Callable:
    def make(folder: Path) -> bytes:
        net = caffe_pb2.NetParameter()
        for name in blobs:
            net.layer.add(name=name, type="InnerProduct")
        caffemodel.write_caffemodel(folder / "made", net, blobs)
        return (folder / "made").read_bytes()

    return make


def claims(shape: list[int]) -> bytes:
    """A caffemodel whose blob has another shape than its two values."""
    blob = caffe_pb2.BlobProto(data=[1, 2])
    blob.shape.dim.extend(shape)
    net = caffe_pb2.NetParameter()
    net.layer.add(name="ip", type="InnerProduct").blobs.add().CopyFrom(blob)
    return net.SerializeToString()


def sparse(folder: Path) -> None:
    """Three gigabytes that take no disk: a layer longer than protobuf's limit."""
    with open(folder / "bad.caffemodel", "wb") as file:
        file.write(wire.head(100, (3 << 30) - 20))
        file.truncate(3 << 30)


BAD_WEIGHTS = {
    "empty": (b"", "empty"),
    "truncated": (lambda f: (f / "net.caffemodel").read_bytes()[:-100], ""),
    "text": ("layer { name: 'ip' }", "not a caffemodel|not a binary NetParameter"),
    "not protobuf": (bytes(range(1, 200)), ""),
    "a picture": (lambda f: (f / "photos/1.jpg").read_bytes(), ""),
    "another net": (weights({"other": [np.zeros((2, 192), np.float32)]}), ""),
    "other shapes": (weights({"ip": [np.zeros((5, 7), np.float32), np.zeros(2, np.float32)]}), ""),
    "one blob too few": (weights({"ip": [np.zeros((2, 192), np.float32)]}), ""),
    "negative size": (claims([-2, 192]), "negative size"),
    "huge size": (claims([1 << 40, 1 << 20]), "more values than"),
    "fewer values than its shape": (claims([2, 192]), "holds 2 values"),
    "3 GB": (sparse, ""),
    "HDF5 cut short": (b"\x89HDF\r\n\x1a\n" + bytes(100), ""),
    "not there": (None, "No such file|no such file"),
}
WEIGHT_READERS = {
    "torchcaffe test": lambda f, bad: run(
        cli._main, "test", "-model", f / "train.prototxt", "-weights", bad, "-iterations", 1
    ),
    "train.py": lambda f, bad: run(train.main, "--solver", f / "solver.prototxt", "--weights", bad),
    "surgery.py": lambda f, bad: run(surgery.main, "--weights", bad, "--net", f / "net.prototxt", "--out", f / "o"),
    "evaluate.py": lambda f, bad: run(
        evaluate.main, "--weights", bad, "--net", f / "net.prototxt", "--lmdb", f / "lmdb"
    ),
    "rank_photos.py": lambda f, bad: run(
        rank.main,
        f / "photos",
        "--weights",
        bad,
        "--net",
        f / "net.prototxt",
        "--cache",
        f / "cache",
        "--out",
        f / "g.html",
    ),
    "export_onnx.py": lambda f, bad: run(
        export_onnx.main, "--weights", bad, "--net", f / "net.prototxt", "--out", f / "o.onnx"
    ),
    "merge_bn.py": lambda f, bad: run(
        merge_bn.main,
        "--weights",
        bad,
        "--net",
        f / "net.prototxt",
        "--out-net",
        f / "o.prototxt",
        "--out",
        f / "o.caffemodel",
    ),
    "upgrade_net_proto_binary": lambda f, bad: run(cli._main, "upgrade_net_proto_binary", bad, f / "out"),
}
# Layers of other names are passed over, as BVLC does; upgrading reads no shapes; merging finds no BatchNorm in the net;
# rank_photos.py takes the file's digest first, which of 3 GB takes its time.
WEIGHT_PASSES = {
    *((name, "merge_bn.py") for name in ("another net", "other shapes", "one blob too few")),
    ("another net", "torchcaffe test"),
    *(
        (name, "upgrade_net_proto_binary")
        for name in (
            "another net",
            "other shapes",
            "one blob too few",
            "negative size",
            "huge size",
            "fewer values than its shape",
        )
    ),
    ("3 GB", "rank_photos.py"),
}


def state(iteration: int = 3, learned: str = "net.caffemodel", history: list | None = None) -> Callable:
    def make(folder: Path) -> bytes:
        arrays = [np.zeros((2, 192), np.float32), np.zeros(2, np.float32)] if history is None else history
        solverstate.write_solverstate(
            folder / "made", solverstate.SolverState(iteration, str(folder / learned), 0, arrays)
        )
        return (folder / "made").read_bytes()

    return make


BAD_STATES = {
    "empty": (b"", "empty"),
    "truncated": (lambda f: (f / "net.solverstate").read_bytes()[:-100], ""),
    "text": ("iter: 3", "not a solverstate"),
    "a caffemodel": (lambda f: (f / "net.caffemodel").read_bytes(), "not a solverstate"),
    "of another net": (state(history=[np.zeros(4, np.float32)]), "history: 1 blobs, 2 expected"),
    "other shapes": (state(history=[np.zeros(4, np.float32), np.zeros(2, np.float32)]), "history 0"),
    "its weights are not there": (state(learned="gone.caffemodel"), "gone.caffemodel"),
    "not there": (None, "no such file"),
}
STATE_READERS = {
    "torchcaffe train": lambda f, bad: run(cli._main, "train", "-solver", f / "solver.prototxt", "-snapshot", bad),
    "train.py": lambda f, bad: run(train.main, "--solver", f / "solver.prototxt", "--snapshot", bad),
}

# -- LMDBs -------------------------------------------------------------------------------------------------------------


def database(values: list[bytes], spoil: Callable[[Path], None] = lambda path: None) -> Callable:
    def make(folder: Path) -> None:
        write_lmdb(folder / "bad_lmdb", values)
        spoil(folder / "bad_lmdb" / "data.mdb")

    return make


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


JPEG = cv2.imencode(".jpg", np.full((8, 8, 3), 99, np.uint8))[1].tobytes()
BIG_PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60000, 60000, 8, 2, 0, 0, 0) + bytes(40)
BAD_LMDBS = {
    "not there": (None, "no such folder|no LMDB at"),
    "a file": (b"data", "not a file|no LMDB at"),
    "an empty folder": (lambda f: (f / "bad_lmdb").mkdir(), "no data.mdb|no LMDB at"),
    "a LevelDB": (lambda f: [(f / "bad_lmdb").mkdir(), (f / "bad_lmdb/CURRENT").write_text("x")] and None, "LevelDB"),
    "no records": (database([]), "no records"),
    "data.mdb empty": (database([datum()], lambda p: p.write_bytes(b"")), "empty"),
    "data.mdb truncated": (database([datum()] * 100, cut), "truncated"),
    "data.mdb of something else": (database([datum()], lambda p: p.write_bytes(bytes(range(256)) * 64)), ""),
    "record empty": (database([datum(), b""]), "0000000[01]|0 values|0 bytes"),
    "record not a Datum": (database([datum(), b"\xff" * 50]), "00000001"),
    "record truncated": (database([datum(), datum()[:100]]), "00000001"),
    "too few bytes": (database([datum(), datum(data=bytes(100))]), "00000001"),
    "other shape": (database([datum(), datum(height=4, width=4, data=bytes(48))]), "00000001"),
    "negative shape": (database([datum(), datum(height=-8, width=-8)]), "00000001"),
    "huge shape": (database([datum(), datum(height=1 << 30, width=1 << 30)]), "00000001"),
    "JPEG broken": (database([datum(), datum(encoded=True, data=JPEG[:100])]), "00000001"),
    "JPEG empty": (database([datum(), datum(encoded=True, data=b"")]), "00000001"),
    "decompression bomb": (database([datum(), datum(encoded=True, data=BIG_PNG)]), "00000001"),
    "label out of range": (database([datum(), datum(label=7)]), "label 7"),
    "label negative": (database([datum(), datum(label=-1)]), "label -1"),
}


def net_on(folder: Path, bad: Path, more: str = "") -> Path:
    path = folder / "on.prototxt"
    path.write_text(TRAIN_NET % (more, bad))
    return path


LMDB_READERS = {
    "torchcaffe test": lambda f, bad: run(
        cli._main, "test", "-model", net_on(f, bad), "-weights", f / "net.caffemodel", "-iterations", 3
    ),
    "train.py": lambda f, bad: run(train.main, "--solver", solver(f, net_on(f, bad))),
    "compute_image_mean": lambda f, bad: run(cli._main, "compute_image_mean", bad, f / "o.binaryproto"),
    "mean.py": lambda f, bad: run(mean.main, bad, f / "o.binaryproto"),
    "evaluate.py": lambda f, bad: run(
        evaluate.main, "--weights", f / "net.caffemodel", "--net", f / "net.prototxt", "--lmdb", bad
    ),
}
LMDB_PASSES = {("other shape", "evaluate.py")} | {
    (name, reader) for name in ("label out of range", "label negative") for reader in ("compute_image_mean", "mean.py")
}

# -- means -------------------------------------------------------------------------------------------------------------

BAD_MEANS = {
    "empty": (b"", "empty"),
    "truncated": (lambda f: (f / "m.binaryproto").read_bytes()[:-50], ""),
    "text": ("mean", ""),
    "other size": (lambda f: blobproto.write_blobproto(f / "bad.binaryproto", np.zeros((3, 4, 4), np.float32)), "4"),
    "one channel": (lambda f: blobproto.write_blobproto(f / "bad.binaryproto", np.zeros((1, 8, 8), np.float32)), "1"),
    "huge claim": (caffe_pb2.BlobProto(num=1, channels=3, height=1 << 20, width=1 << 20).SerializeToString(), ""),
    "not there": (None, "No such file|no file"),
}
MEAN_READERS = {
    "torchcaffe test": lambda f, bad: run(
        cli._main, "test", "-model", net_on(f, f / "lmdb", f'mean_file: "{bad}"'), "-weights", f / "net.caffemodel"
    ),
    "train.py": lambda f, bad: run(train.main, "--solver", solver(f, net_on(f, f / "lmdb", f'mean_file: "{bad}"'))),
    "evaluate.py": lambda f, bad: run(
        evaluate.main,
        "--weights",
        f / "net.caffemodel",
        "--net",
        f / "net.prototxt",
        "--lmdb",
        f / "lmdb",
        "--mean",
        bad,
    ),
    "rank_photos.py": lambda f, bad: run(
        rank.main,
        f / "photos",
        "--weights",
        f / "net.caffemodel",
        "--net",
        f / "net.prototxt",
        "--mean",
        bad,
        "--cache",
        f / "cache",
        "--out",
        f / "g.html",
    ),
}

# -- ratings and lists -------------------------------------------------------------------------------------------------

ROW = "1 10 1 2 3 4 5 6 7 8 9 10 0 0 1"
BAD_RATINGS = {
    "empty": ("", "no ratings"),
    "column missing": (f"{ROW}\n2 11 1 2 3\n", ":2: 5 columns, no votes for 4"),
    "column too many": (f"{ROW} 7\n", ":1: 16 columns"),
    "not a number": (f"{ROW}\n{ROW.replace(' 10 1 ', ' 11 x ')}\n", ":2: votes for 1: 'x'"),
    "negative": (ROW.replace(" 3 ", " -3 "), ":1: votes for 3: '-3'"),
    "huge number": (ROW.replace(" 3 ", f" {'9' * 5000} "), ":1: votes for 3"),
    "zero votes": ("1 10 0 0 0 0 0 0 0 0 0 0 0 0 1", ":1: votes: photo 10 has none"),
    "twice": (f"{ROW}\n{ROW}\n", ":2: image id: 10 was already on line 1"),
    "not text": (b"\xff\xfe\x00\x01", "not a text file"),
    "CRLF and BOM, then a bad row": (b"\xef\xbb\xbf" + f"{ROW}\r\n\r\n2 11\r\n".encode(), ":3: 2 columns"),
}


def ava(main: Callable, *more: object) -> Callable:
    def ends(folder: Path, bad: Path) -> str:
        (folder / "images").symlink_to(folder / "photos")
        return run(main, folder, *more)

    return ends


RATING_READERS = {
    "ratings.py": lambda f, bad: run(ratings.main, bad),
    "splits.py": lambda f, bad: run(splits.main, bad, "--out", f / "o"),
    "prepare.py": ava(prepare.main, "--out", "o"),
    "check_ava.py": ava(check_ava.main),
}
BAD_LISTS = {
    "no label": ("0.jpg 1\n1.jpg\n", ":2: label"),
    "label not a number": ("0.jpg high\n", ":1: label"),
    "no name": (" 1\n", ":1: label"),
    "not text": (b"\xff\xfe\x00\x01 1", "UTF-8|text"),
    "not there": (None, "No such file"),
    "only photos outside": ("../net.prototxt 1\n", "leads out of"),
    "a huge label": (f"0.jpg {'9' * 40}\n", "label"),
}
LIST_READERS = {
    "make_lmdb.py": lambda f, bad: run(make_lmdb.main, f / "photos", bad, f / "o_lmdb"),
    "convert_imageset": lambda f, bad: run(cli._main, "convert_imageset", f"{f}/photos/", bad, f / "o_lmdb"),
}
BAD_LOGS = {
    "empty": ("", "Caffe log"),
    "something else": (bytes(range(256)), "Caffe log"),
    "not there": (None, "No such"),
}
LOG_READERS = {
    "plot_log.py": lambda f, bad: run(plot_log.main, bad, "--out", f / "o"),
    "evaluate.py": lambda f, bad: run(evaluate.main, "--log", bad),
}

# Kind of file: the bad ones with what must be said, their readers, how one is made, and where a reader has no reason
# to complain.
TABLES = {
    "net": (BAD_NETS, NET_READERS, write("bad.prototxt"), set()),
    "solver": (BAD_SOLVERS, SOLVER_READERS, write("bad.prototxt"), set()),
    "caffemodel": (BAD_WEIGHTS, WEIGHT_READERS, write("bad.caffemodel"), WEIGHT_PASSES),
    "solverstate": (BAD_STATES, STATE_READERS, write("bad.solverstate"), set()),
    "LMDB": (BAD_LMDBS, LMDB_READERS, write("bad_lmdb"), LMDB_PASSES),
    "mean": (BAD_MEANS, MEAN_READERS, write("bad.binaryproto"), set()),
    "AVA.txt": (BAD_RATINGS, RATING_READERS, write("AVA.txt"), set()),
    "list": (BAD_LISTS, LIST_READERS, write("bad.txt"), set()),
    "log": (BAD_LOGS, LOG_READERS, write("bad.log"), set()),
}
# What tells where to look is the net of an LMDB with odd labels, the solver's net, the photo of a list.
NAMED_BY_ANOTHER = {"label out of range", "label negative", "net that is not there", "only photos outside"}
CASES = [
    (table, name, reader)
    for table, (bad, readers, _, passes) in TABLES.items()
    for name in bad
    for reader in readers
    if (name, reader) not in passes
]


@pytest.mark.parametrize("table, name, reader", CASES, ids=["-".join(case).replace(" ", "_") for case in CASES])
def test_bad_input(table, name, reader, folder):
    bad, readers, make, _ = TABLES[table]
    content, says = bad[name]
    path = make(folder, content)
    said = readers[reader](folder, path)
    assert path.name in said or name in NAMED_BY_ANOTHER, said
    assert re.search(says, said), said
    assert not (folder / "owned").exists()


@contextlib.contextmanager
def alarm():
    """A failure where the block has not ended after 60 s. (By an exception: opening a pipe is tried again else.)"""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited"))
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_an_hdf5_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with alarm(), pytest.raises(CaffeError, match="pipe.h5: not a regular file"):
        read_datasets(tmp_path / "pipe.h5", ["data"])


def test_extract_features_deletes_nobody_s_files(folder):
    (folder / "db.partial").mkdir()
    (folder / "db.partial" / "precious.txt").touch()
    said = run(cli._main, "extract_features", "net.caffemodel", "net.prototxt", "ip", "db", 1, "lmdb")
    assert "db.partial: holds precious.txt" in said and (folder / "db.partial" / "precious.txt").exists()


PIPES = {
    "net": NET_READERS,
    "solver": SOLVER_READERS,
    "caffemodel": WEIGHT_READERS,
    "solverstate": STATE_READERS,
    "mean": MEAN_READERS,
    "AVA.txt": RATING_READERS,
    "list": LIST_READERS,
    "log": LOG_READERS,
}


@pytest.mark.parametrize("table, reader", [(table, reader) for table, readers in PIPES.items() for reader in readers])
def test_a_pipe_is_not_waited_for(table, reader, folder):
    path = TABLES[table][2](folder, "")
    path.unlink()
    os.mkfifo(path)
    with alarm():
        said = PIPES[table][reader](folder, path)
    assert path.name in said, said


# -- photos: what is wrong with one, or None: it is read ---------------------------------------------------------------

PICTURE = np.random.RandomState(1).randint(0, 256, (60, 80, 3), np.uint8)


def encoded(picture: np.ndarray, kind: str = ".png", *options: int) -> bytes:
    return cv2.imencode(kind, picture, options)[1].tobytes()


def pillow(mode: str, kind: str, **options) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(PICTURE[..., ::-1]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose head says so; of its pixels there are few."""
    head = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + checksum + struct.pack(">I4s", 60, b"IDAT") + bytes(60)


def tiff_bomb() -> bytes:
    entries = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


PHOTOS = {
    "0_bytes.jpg": (b"", "empty"),
    "text.jpg": (b"no picture", "not a picture"),
    "html.jpg": (b"<html>404</html>", "not a picture"),
    "head_only.jpg": (encoded(PICTURE, ".jpg")[:60], "cut short|broken"),
    "bomb.png": (bomb(60_000, 60_000), "too many pixels"),
    "bomb.tif": (tiff_bomb(), "too many pixels|not a picture"),
    "bomb.webp": (
        b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(60),
        "too many pixels|not a picture",
    ),
    "0x0.png": (bomb(0, 0), "0 x 0|broken"),
    "1x1.png": (encoded(PICTURE[:1, :1]), None),
    "30000_wide.png": (encoded(np.zeros((2, 30_000, 3), np.uint8)), None),
    "cmyk.jpg": (pillow("CMYK", "JPEG"), None),
    "16_bit.png": (encoded(PICTURE.astype(np.uint16) * 257), None),
    "palette.png": (pillow("P", "PNG"), None),
    "palette.bmp": (pillow("P", "BMP"), None),
    "alpha.png": (pillow("RGBA", "PNG"), None),
    "grey_alpha.png": (pillow("LA", "PNG"), None),
    "one_bit.png": (pillow("1", "PNG"), None),
    "grey.jpg": (pillow("L", "JPEG"), None),
    "progressive.jpg": (pillow("RGB", "JPEG", progressive=True), None),
    "=cmd|calc!A1.jpg": (encoded(PICTURE, ".jpg"), None),
    "<script>alert(1)</script>.png".replace("/", "\u2215"): (encoded(PICTURE), None),
    " spaces and \u00fcml\u00e4uts \U0001f4f7.jpg": (encoded(PICTURE, ".jpg"), None),
    "new\nline.jpg": (encoded(PICTURE, ".jpg"), None),
    "-rf.jpg": (encoded(PICTURE, ".jpg"), None),
}
PHOTO_READERS = {
    "convert_imageset": lambda path: imageset_says(path),
    "rank_photos.py": lambda path: decode.read(path) and "",
    "check_ava.py": lambda path: look_at(path.parent, path.name).fault,
}


def imageset_says(path: Path) -> str:
    data, fault = imageset.read_photo(path, 1, imageset.Options((8, 8)))
    return "" if data else fault


@pytest.mark.parametrize("reader", PHOTO_READERS)
@pytest.mark.parametrize("name", PHOTOS, ids=[f"photo{i}" for i in range(len(PHOTOS))])
def test_photos(name, reader, tmp_path):
    data, says = PHOTOS[name]
    (tmp_path / name).write_bytes(data)
    try:
        said = PHOTO_READERS[reader](tmp_path / name)
    except CaffeError as error:
        said = str(error)
    if says is None:
        assert said == ""
    else:
        assert re.search(says, said) and "\n" not in said, said


@pytest.mark.parametrize("link", ["link.jpg", "folder/link.jpg"])
def test_links_out_of_the_folder(link, tmp_path):
    """Neither a photo nor a folder that lies elsewhere is read through a link, nor by a name with .. in it."""
    images, outside = tmp_path / "images", tmp_path / "outside"
    images.mkdir(), outside.mkdir()
    (outside / "secret.jpg").write_bytes(encoded(PICTURE, ".jpg"))
    (images / "1.jpg").write_bytes(encoded(PICTURE, ".jpg"))
    (images / "inner.jpg").symlink_to(images / "1.jpg")
    if "/" in link:
        (images / "folder").symlink_to(outside)
        link = "folder/secret.jpg"
    else:
        (images / link).symlink_to(outside / "secret.jpg")
    names = ["1.jpg", "inner.jpg", link, "../outside/secret.jpg"]
    made = imageset.convert_imageset(images, [(name, 1) for name in names], tmp_path / "lmdb", imageset.Options((8, 8)))
    assert made.records == 2
    assert [tuple(item) for item in made.skipped] == [(n, f"leads out of {images}") for n in names[2:]]
    found, passed = ranking.find(images)
    assert [item.name for item in found] == ["1.jpg", "inner.jpg"] and len(passed) == 1 and "a link" in passed[0][1]
    assert look_at(images, link).fault == f"leads out of {images}"


def test_an_image_layer_and_load_image_check_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bomb.png").write_bytes(bomb(60_000, 60_000))
    Path("list.txt").write_text("bomb.png 0\n")
    Path("net.prototxt").write_text(
        'layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param { source: "list.txt" batch_size: 1 } }'
    )
    said = run(cli._main, "time", "-model", "net.prototxt")
    assert "net.prototxt: layer 'd' (ImageData): list.txt: line 1:" in said and "too many pixels" in said
    with pytest.raises(CaffeError, match="bomb.png: too many pixels"):
        caffe_io.load_image("bomb.png")


def test_what_a_stranger_s_net_may_not_write(tmp_path, monkeypatch):
    """HDF5Output's file name comes from the net: no file of another kind gives way to it."""
    monkeypatch.chdir(tmp_path)
    Path("precious").write_text("mine")
    Path("net.prototxt").write_text(
        SMALL + 'layer { name: "out" type: "HDF5Output" bottom: "data" bottom: "data" '
        'hdf5_output_param { file_name: "precious" } }'
    )
    assert "precious exists and is not an HDF5 file" in run(cli._main, "time", "-model", "net.prototxt")
    assert Path("precious").read_text() == "mine"


@pytest.mark.parametrize("spoil", ["external link", "external storage", "virtual"])
def test_hdf5_that_names_other_files(spoil, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones(4, np.float32)
    path = tmp_path / "x.caffemodel.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data/ip")
        if spoil == "external link":
            group["0"] = h5py.ExternalLink("other.h5", "secret")
        elif spoil == "external storage":
            group.create_dataset("0", (4,), "f4", external=[(str(tmp_path / "other.h5"), 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (4,))
            group.create_virtual_dataset("0", layout)
    with pytest.raises(CaffeError, match="x.caffemodel.h5: .*other"):
        caffemodel.read_caffemodel(path)


BAD_JSON = ["", "[]", "{}", "null", "5", '{"synthetic": 3, "train": 3, "photos": 3}', "[" * 100_000]


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_of_data_sets(text, folder):
    """What data_prep wrote, and somebody changed."""
    for i in range(8):
        cv2.imwrite(str(folder / f"photos/{i}.jpg"), np.full((20, 30, 3), 20 * i, np.uint8))
    (folder / "l.csv").write_text("file,label\n" + "".join(f"{i}.jpg,{i % 2}\n" for i in range(8)))
    (folder / "lists").mkdir()
    (folder / "DEMO.json").write_text(text)
    assert "DEMO.json: not of ilgnet demo: 'synthetic'" in run(prepare.main, folder, "--out", "o")
    with pytest.raises(CaffeError, match="not a demo set"):
        ranking_check.held_out(folder)
    words = ["--labels", "l.csv", "--images", "photos", "--out", "out", "--size", "8"]
    for _ in range(2):  # a manifest that is none is made anew
        assert prepare.main(words) == 0
        made, _ = results.read_json("out/manifest.json"), Path("out/manifest.json").write_text(text)
    if not text.startswith("{"):
        with pytest.raises(CaffeError, match="manifest.json: not "):
            protocol.about("out/val_lmdb")
    assert prepare.main(words) == 0 and results.read_json("out/manifest.json") == made


@pytest.mark.parametrize(
    "net, said",
    [
        ("", "it has no input to export"),
        (GOOD_NET.replace("prob", "ip2").replace('name: "ip2"', 'name: "ip"'), "two of its layers have one name"),
    ],
)
def test_nets_that_cannot_be_exported(net, said, folder):
    (folder / "bad.prototxt").write_text(net)
    said_by = run(export_onnx.main, "--weights", "net.caffemodel", "--net", "bad.prototxt", "--out", "x.onnx")
    assert "bad.prototxt: " in said_by and said in said_by


def test_features_of_a_batch_of_0(folder):
    (folder / "net.prototxt").write_text(GOOD_NET.replace("dim: 2", "dim: 0"))
    assert cli._main(["extract_features", "net.caffemodel", "net.prototxt", "ip", "features", "1", "lmdb"]) == 0


@pytest.mark.parametrize(
    "main, words, said",
    [
        (log_to_tensorboard.main, ["x.log", "--follow", "nan"], "--follow nan: must be"),
        (log_to_tensorboard.main, ["x.log", "--follow", "1e300"], r"--follow 1e\+300: must be"),
        (check_ranking.main, ["photos", "--weights", "w", "--blur", "nan"], "--blur nan: must be"),
        (check_ranking.main, ["photos", "--weights", "w", "--burnt", "0.2", "2"], "--burnt 2.0: must be"),
        (evaluate.main, ["--weights", "", "--lmdb", "lmdb"], "--weights: a file's name is empty"),
        (evaluate.main, ["--weights", "w", "--lmdb", "lmdb", "--test-batch", "9" * 20], "--test-batch 9+: must be"),
        (gen_net.main, ["--variant", "v1", "--batch-size", "9" * 20], "--batch-size 9+: must be"),
        (gen_net.main, ["--variant", "v1", "--source", "\udcff"], "--source: its name is not UTF-8"),
        (benchmark.main, ["--crop", "-5"], "--crop -5: must be at least 1"),
    ],
)
def test_numbers_and_names_that_mean_nothing(main, words, said, folder, capsys):
    with pytest.raises((CaffeError, SystemExit)) as ended:
        main(words)
    assert re.search(said, f"{capsys.readouterr().err} {ended.value}")
    assert getattr(ended.value, "code", 2) == 2  # argparse's


@pytest.mark.parametrize("size", ["abc", "", "0", "\u00b2"])
def test_a_world_size_that_is_none(size, folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    said = run(rank.main, "photos", "--weights", "w", "--out", "g.html")
    assert f"WORLD_SIZE={size} in the environment" in said


def test_a_user_without_a_home(folder, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    words = ["photos", "--weights", "net.caffemodel", "--net", "net.prototxt", "--out", "g.html"]
    assert "no home folder" in run(rank.main, *words)
    assert rank.main([*words, "--cache", "c"]) == 0


@pytest.mark.parametrize("brought", ["nowhere", "photos"])
def test_a_file_to_install_that_is_none(brought, folder):
    said = run(fetch_weights.main, "--file", brought)
    assert said in (f"cannot read {brought}: No such file or directory", f"cannot read {brought}: Is a directory")


def test_names_that_are_not_utf8_where_no_others_will_do(folder):
    for words in (("-weights", "\udcff.caffemodel"), ("-stage", "a\udcff")):
        (folder / words[1]).touch()
        assert run(cli._main, "train", "-solver", "solver.prototxt", *words) == (
            f"{words[0]} {words[1]}: not UTF-8".replace("\udcff", "\\udcff")
        )
    assert run(cli._main, "time", "-model", "net.prototxt", "-stage", "\udcff") == "-stage \\udcff: not UTF-8"
    (folder / "lmdb").rename(folder / "l\udcff")
    assert "l\\udcff: the name is not UTF-8" in run(
        evaluate.main, "--weights", "net.caffemodel", "--net", "net.prototxt", "--lmdb", "l\udcff"
    )


def test_a_drawing_s_name_is_spelt_out(folder, capfd):
    assert summarize.main(["net.prototxt", "--svg", "\udcff.svg"]) == 0
    assert "wrote \\udcff.svg\n" in capfd.readouterr().out


def test_csv_of_keys_that_would_be_formulas(tmp_path):
    keys = ["=cmd|calc", "+1", "-1", "@x", "'=y", "plain"]
    protocol.write_csv(tmp_path / "x.csv", protocol.Predictions(keys, np.ones(6, int), np.ones(6)))
    cells = [line.split(",")[0] for line in (tmp_path / "x.csv").read_text().splitlines()[1:]]
    assert not [cell for cell in cells if cell[0] in "=+-@"]
    assert protocol.read_csv(tmp_path / "x.csv").keys == keys


def test_names_out_of_files_neither_end_the_line_nor_steer_a_terminal(tmp_path):
    """Found by fuzzing: a layer's name with a line feed made two lines of the message."""
    layer = caffe_pb2.LayerParameter(name="a\nb\x1b[2Jc", type="InnerProduct")
    layer.blobs.add(data=[1, 2])
    data = caffe_pb2.NetParameter(layer=[layer]).SerializeToString()
    path = tmp_path / "x.caffemodel"
    path.write_bytes(data.replace(b"\x2a\x08", b"\x2a\x18"))  # the blob's data: 24 bytes, it says
    with pytest.raises(CaffeError) as raised:
        caffemodel.read_caffemodel(path)
    assert str(raised.value).startswith(f"{path}: layer 'a b\\x1b[2Jc', blob 0: ")
    assert str(CaffeError("photo \udcff \u2028 x\t1\r\n")) == "photo \\udcff x\\t1"


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows forks no process, and SECURITY.md says so")


@forks
def test_an_hdf5_file_that_libhdf5_cannot_bear_ends_another_process(tmp_path, monkeypatch):
    """Fuzzing found 25 solverstates in half a million on which libhdf5 2.0 loops for ever or crashes."""
    path = tmp_path / "x.solverstate.h5"
    with h5py.File(path, "w") as file:
        file["iter"] = np.int32(1)
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
        with pytest.raises(CaffeError, match="damaged: libhdf5 crashes with SIGSEGV"):
            solverstate.read_solverstate(path)
    with pytest.raises(CaffeError, match="not a solverstate: it has no learned_net"):
        solverstate.read_solverstate(path)


def endless_solverstate(path):
    """Reading learned_net never ends; that of another dataset, which nobody asks for, fails at once."""
    with h5py.File(path, "w") as file:
        space, kind = h5py.h5s.create(h5py.h5s.SCALAR), h5py.h5t.UNIX_D32LE  # a type that h5py does not know
        h5py.h5d.create(file.id, b"a", kind, space)
        for key in ("iter", "current_step"):
            file[key] = np.int32(1)
        file["learned_net"] = "name"
        file["history/0"] = np.ones(3, np.float32)
    assert solverstate.read_solverstate(path).learned_net == "name"
    data = bytearray(path.read_bytes())
    first = data.index(b"GCOL") + 16  # the heap that names lie in: an object without a number or a size has no end
    data[first : first + 16] = bytes(16)
    path.write_bytes(data)


@forks
def test_an_hdf5_file_is_tried_just_as_it_is_read(tmp_path, monkeypatch):
    """Fuzzing found a file whose trial, which read all of it in another order, had ended at what nobody reads."""
    import resource

    path = tmp_path / "x.solverstate.h5"
    endless_solverstate(path)
    limit = resource.setrlimit
    monkeypatch.setattr(resource, "setrlimit", lambda what, most: limit(what, (min(1, most[0]), most[1])))
    with pytest.raises(CaffeError, match="cannot read .*x.solverstate.h5: "):  # libhdf5 2.0: it does not come to an end
        solverstate.read_solverstate(path)


@forks
def test_an_hdf5_file_is_tried_where_seconds_are_limited(tmp_path):
    """Where a process may not have as many seconds as the trial, that has those there are."""
    path = tmp_path / "x.solverstate.h5"
    endless_solverstate(path)
    code = (
        "import resource, sys; from torchcaffe.base import errors; from torchcaffe.formats import solverstate\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (4, 4))\n"
        "errors.run_main(lambda: solverstate.read_solverstate(sys.argv[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: cannot read {path}: ") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "key, values, said",
    [
        ("iter", [1, 2], "/iter holds 2 values, not 1"),
        ("learned_net", ["a", "b"], "/learned_net holds 2 values, not 1"),
    ],
)
def test_solverstate_hdf5_of_the_wrong_size(tmp_path, key, values, said):
    path = tmp_path / "x.solverstate.h5"
    content = {"iter": 1, "current_step": 0, "learned_net": "x", "history/0": np.ones(2, np.float32), key: values}
    with h5py.File(path, "w") as file:
        file.update(content)
    with pytest.raises(CaffeError, match=said):
        solverstate.read_solverstate(path)


def test_hdf5_data_that_is_none(tmp_path):
    """Fuzzing found exceptions of h5py's that named no file."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.dtype("f4")  # a type, no dataset
        file.create_dataset("label", shape=(1 << 15, 1 << 16), dtype="f4")  # 8 GB on paper, nothing on disk
        file["text"] = "words"
    for top, said in (
        ("data", "has no dataset 'data'"),
        ("none", "has no dataset 'none'"),
        ("text", "rows of numbers"),
        ("label", "more than the file can hold"),
    ):
        with pytest.raises(CaffeError, match=f"x.h5: .*{said}"):
            read_datasets(path, [top])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CaffeError, match="cannot read .*x.h5: "):
        read_datasets(path, ["data"])


@pytest.mark.parametrize("key", ["iter", "learned_net", "current_step"])
def test_solverstate_hdf5_that_names_other_files(tmp_path, key):
    (tmp_path / "secret").write_text("word")
    path = tmp_path / "x.solverstate.h5"
    with h5py.File(path, "w") as file:
        for name in {"iter", "current_step", "learned_net"} - {key}:
            file[name] = 1
        file.create_dataset(key, (1,), "S4", external=[(str(tmp_path / "secret"), 0, 4)])
        file.create_group("history")
    with pytest.raises(CaffeError, match=f"/{key} keeps its values in other files"):
        solverstate.read_solverstate(path)


# -- real Caffe on the same files --------------------------------------------------------------------------------------

BVLC = {
    ("net", "torchcaffe time"): lambda f, bad: ("caffe", "time", "-model", bad, "-phase", "TEST", "-iterations", "1"),
    ("solver", "torchcaffe train"): lambda f, bad: ("caffe", "train", "-solver", bad),
    ("caffemodel", "torchcaffe test"): lambda f, bad: (
        "caffe",
        "test",
        "-model",
        f / "train.prototxt",
        "-weights",
        bad,
        "-iterations",
        "1",
    ),
    ("caffemodel", "upgrade_net_proto_binary"): lambda f, bad: ("upgrade_net_proto_binary", bad, f / "out"),
    ("solverstate", "torchcaffe train"): lambda f, bad: (
        "caffe",
        "train",
        "-solver",
        f / "solver.prototxt",
        "-snapshot",
        bad,
    ),
    ("LMDB", "torchcaffe test"): lambda f, bad: (
        "caffe",
        "test",
        "-model",
        net_on(f, bad),
        "-weights",
        f / "net.caffemodel",
        "-iterations",
        "3",
    ),
    ("LMDB", "compute_image_mean"): lambda f, bad: ("compute_image_mean", bad, f / "o.binaryproto"),
    ("mean", "torchcaffe test"): lambda f, bad: (
        "caffe",
        "test",
        "-model",
        net_on(f, f / "lmdb", f'mean_file: "{bad}"'),
        "-weights",
        f / "net.caffemodel",
    ),
    ("list", "convert_imageset"): lambda f, bad: ("convert_imageset", "-backend", "lmdb", f"{f}/photos/", bad, f / "o"),
}


def bvlc_ends(folder: Path, program: str, *words: object) -> str:
    """How real Caffe ends on a file: with a signal, an exit status, or as if nothing were wrong."""
    try:
        done = real.binary(program, *map(str, words), check=False, cwd=folder, timeout=60, errors="replace")
    except subprocess.TimeoutExpired:
        return "hangs (60 s)"
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}: {bvlc.fatal_line(done.stderr)[:160]}"
    return f"exit status {done.returncode}" if done.returncode else "goes on"


def main() -> None:
    """Print the tables: what each reader says; with --bvlc how real Caffe's programs end on the same files."""
    counts: dict[str, int] = {}
    for table, name, reader in CASES:
        if sys.argv[1:] == ["--bvlc"] and (table, reader) not in BVLC:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place).resolve()
            os.chdir(folder)
            good(folder)
            bad, readers, make, _ = TABLES[table]
            path = make(folder, bad[name][0])
            if sys.argv[1:] == ["--bvlc"]:
                said = bvlc_ends(folder, *BVLC[table, reader](folder, path))
                kind = said.partition(":")[0]
                counts[kind] = counts.get(kind, 0) + 1
            else:
                said = readers[reader](folder, path)
            os.chdir("/")
        print(f"{table} | {name} | {reader} | {said.replace(f'{folder}/', '')}", flush=True)
    if counts:
        print(counts)


if __name__ == "__main__":
    main()
