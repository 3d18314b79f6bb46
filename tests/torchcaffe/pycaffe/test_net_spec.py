"""torchcaffe.pycaffe.net_spec against what pycaffe's net_spec makes (tests/bvlc/goldens/net_spec)."""

from __future__ import annotations

import copy
import sys

import pytest

from tests import BVLC
from tests import GOLDENS as _GOLDENS

sys.path.insert(0, str(BVLC))
from net_spec_examples import EXAMPLES

from torchcaffe.proto import format_text
from torchcaffe.pycaffe import net_spec
from torchcaffe.pycaffe.net_spec import NetSpec, to_proto
from torchcaffe.pycaffe.net_spec import layers as L
from torchcaffe.pycaffe.net_spec import params as P

GOLDENS = _GOLDENS / "net_spec"


@pytest.mark.parametrize("example", EXAMPLES)
def test_same_bytes_as_pycaffe(example):
    assert format_text(example(net_spec)) == (GOLDENS / f"{example.__name__}.prototxt").read_text()


def test_params_are_enum_values():
    assert (P.Pooling.AVE, P.Data.LMDB, P.LRN.WITHIN_CHANNEL) == (1, 1, 1)
    for bad in (lambda: P.Nothing.MAX, lambda: P.Pooling.NOTHING):
        with pytest.raises(AttributeError):
            bad()


def test_results_by_number_of_tops():
    assert isinstance(L.Data(), net_spec.Top)
    assert len(L.Data(ntop=3)) == 3
    assert isinstance(L.Silence(ntop=0), net_spec.Function)
    assert str(L.ReLU(L.Data()).to_proto()) == str(to_proto(L.ReLU(L.Data())))


def test_inputs_must_be_tops():
    with pytest.raises(TypeError, match="ReLU input 0 is not a Top"):
        L.ReLU("data")
    with pytest.raises(TypeError, match="ReLU input 1 is not a Top"):
        L.ReLU(L.Data(), L.Silence(ntop=0))
    n = NetSpec()
    n.x = 3
    with pytest.raises(TypeError, match="x is not a Top"):
        n.to_proto()


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        (AttributeError, dict(kernel=3), "Convolution layer 'conv': kernel: LayerParameter has no field 'kernel'"),
        (AttributeError, dict(weight_filler=dict(tipe="x")), "convolution_param.weight_filler: FillerParameter has no"),
        (AttributeError, dict(some_param=dict()), "some_param"),
        (TypeError, dict(weight_filler=[dict()]), "convolution_param.weight_filler: FillerParameter takes a dict"),
        (TypeError, dict(weight_filler="xavier"), "convolution_param.weight_filler: FillerParameter takes a dict"),
        (TypeError, dict(num_output=None), "convolution_param.num_output"),
        (TypeError, dict(kernel_size="3"), "convolution_param.kernel_size"),
        (ValueError, dict(num_output=-1), "convolution_param.num_output"),
        (ValueError, dict(engine=77), "convolution_param.engine"),
    ],
)
def test_bad_settings_name_the_layer_and_the_field(kind, settings, words):
    n = NetSpec()
    n.conv = L.Convolution(**settings)
    with pytest.raises(kind) as caught:
        n.to_proto()
    assert "Convolution layer 'conv': " in str(caught.value) and words in str(caught.value)


def test_lists_tuples_and_nothing():
    pooled = to_proto(L.Convolution(kernel_size=(3, 5), pad=[], dilation=2)).layer[0].convolution_param
    assert (list(pooled.kernel_size), list(pooled.pad), list(pooled.dilation)) == ([3, 5], [], [2])


def test_missing_tops():
    n = NetSpec()
    assert not hasattr(n, "conv")
    with pytest.raises(KeyError):
        n["conv"]
    with pytest.raises(AttributeError):
        L.ReLU(n.conv)
    n.tops = L.Data()
    assert isinstance(n["tops"], net_spec.Top) and list(n.tops) == ["tops"]
    assert list(copy.copy(n).tops) == ["tops"]


def test_to_proto_may_be_called_again():
    n = NetSpec()
    n.data = L.Data(ntop=1)
    n.relu = L.ReLU(n.data, in_place=True)
    assert n.to_proto() == n.to_proto()
    n.loss = L.EuclideanLoss(n.relu, n.data)
    assert [layer.name for layer in n.to_proto().layer] == ["data", "relu", "loss"]
