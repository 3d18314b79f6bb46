"""The fillers, bit for bit against what real BVLC Caffe filled (tests/bvlc/goldens/rng.json)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import GOLDENS as _GOLDENS
from tests.torchcaffe.random.goldens import assert_same
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2
from torchcaffe.random.filler import fill
from torchcaffe.random.rng import Rng

GOLDENS = json.loads((_GOLDENS / "rng.json").read_text())


def parameter(spec: dict) -> object:
    spec = dict(spec)
    norm = caffe_pb2.FillerParameter.VarianceNorm.Value(spec.pop("variance_norm", "FAN_IN"))
    return caffe_pb2.FillerParameter(variance_norm=norm, **spec)


def filled(golden: dict, rng: Rng) -> np.ndarray:
    array = np.full(golden["shape"], np.nan, np.float32)
    fill(array, parameter(golden["filler"]), rng)
    return array


@pytest.mark.parametrize("case", GOLDENS["fillers"] + GOLDENS["large"], ids=lambda case: case["name"])
def test_fillers(case: dict) -> None:
    rng = Rng(case["seed"])
    for golden in case["blobs"]:
        assert_same(filled(golden, rng), golden)


@pytest.mark.parametrize("case", GOLDENS["mixed"], ids=lambda case: str(case["seed"]))
def test_whole_net(case: dict) -> None:
    """Six layers' weights, then at forward data, a dropout mask, and the stream's place after it."""
    rng = Rng(case["seed"])
    for golden in case["params"]:
        assert_same(filled(golden, rng), golden)
    assert_same(filled(case["data"], rng), case["data"])
    keep = 1.0 - float(np.float32(case["dropout_ratio"]))
    shape = case["mask"]["shape"]
    assert_same(rng.bernoulli(int(np.prod(shape)), keep).astype(np.uint8).reshape(shape), case["mask"])
    assert_same(filled(case["probe"], rng), case["probe"])


@pytest.mark.parametrize("name", GOLDENS["refused"])
def test_refused_where_caffe_refuses(name: str) -> None:
    case = GOLDENS["refused"][name]
    array = np.full(case["shape"], 7, np.float32)
    rng = Rng(1)
    if not case["refused"]:
        fill(array, parameter(case["filler"]), rng)
        return
    with pytest.raises(CaffeError, match="filler") as caught:
        fill(array, parameter(case["filler"]), rng)
    assert case["filler"]["type"] in str(caught.value) and "\n" not in str(caught.value)
    assert (array == 7).all() and rng.rand() == Rng(1).rand(), "nothing written, nothing drawn"


def test_wrong_arrays() -> None:
    for array in (np.zeros((3, 4)), np.zeros((3, 4), np.float32).T):
        with pytest.raises(ValueError, match="C-contiguous"):
            fill(array, caffe_pb2.FillerParameter(), Rng(1))
