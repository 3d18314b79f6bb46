"""Every layer configuration of tests/bvlc/layers.py against what real Caffe computed (tests/bvlc/make_goldens.py)."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests import BVLC
from tests.bvlc import compare, layers
from tests.bvlc.run_caffe import run_layer

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


def golden(row: layers.Row) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(GOLDENS / f"{row.type}.npz") as f:
        names = [name for name in f.files if name.startswith(row.name + "/")]
        arrays = {name.split("/", 1)[1]: f[name] for name in names}
    return json.loads(str(arrays.pop("job"))), arrays


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
    errors = compare.errors(got, wanted)
    assert all(errors[kind] <= limit for kind, limit in LIMITS.items()), compare.explain(got, wanted)


MUST_FAIL = [row for row in layers.ROWS if row.fails and not row.may_work]


@pytest.mark.parametrize("row", MUST_FAIL, ids=lambda row: row.id)
def test_refused(row, caffe):
    assert row.id in ERRORS
    with pytest.raises(Exception) as error:  # noqa: PT011 - Python layers raise what they like
        run_layer(caffe, layers.case(row))
    assert str(error.value).strip()
    assert not isinstance(error.value, (AttributeError, NotImplementedError, AssertionError))
