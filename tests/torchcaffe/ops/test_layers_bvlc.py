"""Every layer configuration of tests/bvlc/layers.py against what real Caffe computed (tests/bvlc/make_goldens.py)."""

from __future__ import annotations

import functools
import json
import sys

import numpy as np
import pytest

from ilgnet.run import bvlc
from tests import BVLC
from tests.bvlc import compare, layers
from tests.bvlc.engines import Engine
from tests.bvlc.run_caffe import run_layer

pytestmark = pytest.mark.usefixtures("quiet")

HERE = BVLC
GOLDENS = HERE / "goldens" / "layers"
ERRORS = json.loads((GOLDENS / "errors.json").read_text())
LIMITS = {"forward": compare.FORWARD, "bottom": compare.BOTTOM, "param": compare.PARAM}
ALL = (
    "AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop Data "
    "Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss "
    "Im2col ImageData InfogainLoss Input InnerProduct LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss "
    "PReLU Parameter Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss "
    "Silence Slice Softmax SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData".split()
)


@pytest.fixture(scope="module")
def caffe():
    import torchcaffe as engine

    engine.install_as_caffe()
    sys.path.insert(0, str(HERE))  # for py_layers
    engine.allow_python_layers(True)
    yield engine
    engine.allow_python_layers(False)
    sys.path.remove(str(HERE))


@functools.cache
def opened(type_: str) -> tuple[np.lib.npyio.NpzFile, list[str]]:
    """A type's goldens and their names, which takes longer than a row's arrays."""
    file = np.load(GOLDENS / f"{type_}.npz")
    return file, file.files


def golden(row: layers.Row) -> tuple[dict, dict[str, np.ndarray]]:
    file, names = opened(row.type)
    arrays = {name.split("/", 1)[1]: file[name] for name in names if name.startswith(row.name + "/")}
    return json.loads(str(arrays.pop("job"))), arrays


def assert_golden(row, got, wanted) -> None:
    got = {key: got[key] for key in wanted}
    errors = compare.errors(got, wanted)
    assert all(errors[kind] <= limit for kind, limit in LIMITS.items()), row.id + "\n" + compare.explain(got, wanted)


def test_the_table_has_every_layer_type():
    assert sorted({row.type for row in layers.ROWS}) == sorted(ALL)
    for type_ in ALL:
        assert sum(row.type == type_ and not row.fails for row in layers.ROWS) >= 3, type_


@pytest.mark.parametrize("row", [row for row in layers.ROWS if not row.fails], ids=lambda row: row.id)
def test_layer(row, caffe):
    job, wanted = golden(row)
    assert job == layers.case(row), "the golden is not of this row: python -m tests.bvlc.make_goldens " + row.type
    _, got = run_layer(caffe, job)
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in wanted.items()}
    assert_golden(row, got, wanted)


MUST_FAIL = [row for row in layers.ROWS if row.fails and not row.may_work]


@pytest.mark.parametrize("row", MUST_FAIL, ids=lambda row: row.id)
def test_refused(row, caffe):
    assert row.id in ERRORS
    with pytest.raises(Exception) as error:  # noqa: PT011 - Python layers raise what they like
        run_layer(caffe, layers.case(row))
    assert str(error.value).strip()
    assert not isinstance(error.value, (AttributeError, NotImplementedError, AssertionError))


@pytest.mark.parametrize("type_", ALL)
def test_a_blob_that_a_program_appends_changes_nothing_and_is_saved(type_, caffe):
    rows = [row for row in layers.ROWS if row.type == type_ and not row.fails]
    counting = [row for row in rows if any(".param" in key for key in golden(row)[1])]
    for row in counting or rows[:1]:
        job, wanted = golden(row)
        _, got = run_layer(caffe, {**job, "extra": True})
        saved = got.pop("saved")
        assert saved.size and (saved == 5).all(), row.id
        assert_golden(row, got, wanted)


@pytest.mark.skipif(not bvlc.available(), reason="no real Caffe here: " + bvlc.HOW)
def test_in_real_caffe_such_a_blob_changes_nothing_and_is_saved():
    with Engine("bvlc") as engine:
        for row in (row for row in layers.ROWS if not row.fails and row.type != "Python"):
            job, wanted = golden(row)
            if any(".param" in key for key in wanted):
                _, got = engine.call("layer", {**job, "extra": True})
                assert_golden(row, got, wanted)
                assert got["saved"].size and (got["saved"] == 5).all(), row.id


GIVEN = """force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "y" type: "%s" bottom: "x" top: "y"
  blobs { shape { dim: 3 } data: 1 data: 2 data: 3 } blobs { shape { dim: 3 } data: 4 data: 5 data: 6 } %s }"""


@pytest.mark.parametrize(
    ("type_", "y", "dx", "gradient"),
    [
        ("Bias", [-1, 1, 3, 2, 4, 6], [1, 1, 1, 1, 1, 1], [2, 2, 2]),
        ("PReLU", [-2, -2, 0, 1, 2, 3], [1, 2, 3, 1, 1, 1], [-2, -1, 0]),
        ("Scale", [-2, -2, 0, 1, 4, 9], [1, 2, 3, 1, 2, 3], [-1, 1, 3]),
    ],
)
def test_a_blob_too_many_in_a_prototxt_changes_nothing(type_, y, dx, gradient, caffe, tmp_path):
    """The numbers are BVLC's."""
    (tmp_path / "net.prototxt").write_text(GIVEN % (type_, ""))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    net.blobs["x"].data[...] = np.arange(-2, 4).reshape(2, 3)
    net.forward()
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert net.blobs["y"].data.ravel().tolist() == y and net.blobs["x"].diff.ravel().tolist() == dx
    assert [blob.diff.tolist() for blob in net.params["y"]] == [gradient, [0, 0, 0]]


def test_scale_with_a_bias_has_two_blobs(caffe, tmp_path):
    more = "blobs { shape { dim: 3 } data: 7 data: 8 data: 9 } scale_param { bias_term: true }"
    (tmp_path / "net.prototxt").write_text(GIVEN % ("Scale", more))
    with pytest.raises(caffe.CaffeError, match="blobs: 3 given, the layer has 2"):
        caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
