"""Coordinate maps against pycaffe's (tests/bvlc/make_coord_map_goldens.py), and crops against arithmetic."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import BVLC
from torchcaffe.pycaffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)
from torchcaffe.pycaffe.net_spec import layers as L

_spec = importlib.util.spec_from_file_location("make_coord_map_goldens", BVLC / "make_coord_map_goldens.py")
_recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_recipe)
EXAMPLES = _recipe.examples(L)
GOLDEN = json.loads((BVLC / "goldens" / "coord_map" / "maps.json").read_text())


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_as_pycaffe(name):
    axis, scale, shift = coord_map_from_to(*EXAMPLES[name])
    assert [axis, np.asarray(scale).tolist(), np.asarray(shift).tolist()] == GOLDEN[name]


def data():
    return L.Input(input_param=dict(shape=dict(dim=[1, 1, 50, 50])))


windows = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))


@given(st.lists(windows, min_size=1, max_size=3))
def test_maps_point_at_the_windows_centre(sizes):
    """Output i's coordinate, mapped back, is the middle of the input pixels that it sees."""
    image = top = data()
    first = last = np.arange(5.0)
    for kernel, stride, pad, dilation in sizes:
        top = L.Convolution(top, kernel_size=kernel, stride=stride, pad=pad, dilation=dilation)
    for kernel, stride, pad, dilation in reversed(sizes):
        first = first * stride - pad
        last = last * stride - pad + (kernel - 1) * dilation
    _, scale, shift = coord_map_from_to(top, image)
    np.testing.assert_allclose(np.arange(5.0) * scale + shift, (first + last) / 2, atol=1e-9)


def test_crop():
    image = data()
    score = L.Deconvolution(
        L.Convolution(image, kernel_size=4, stride=4, pad=40), convolution_param=dict(kernel_size=4, stride=4)
    )
    cropped = crop(score, image)
    assert cropped.fn.type_name == "Crop" and cropped.fn.inputs == (score, image)
    layer = cropped.to_proto().layer[-1]
    assert layer.crop_param.axis == 2 and list(layer.crop_param.offset) == [40]
    deep = L.Convolution(image, kernel_size=[3, 3, 3], pad=[1, 2, 3], num_output=1)
    assert list(crop(deep, image).to_proto().layer[-1].crop_param.offset) == [0, 1, 2]
    same = crop(L.ReLU(image), L.Sigmoid(image)).to_proto().layer[-1].crop_param  # pycaffe fails on this one
    assert same.axis == 2 and list(same.offset) == [0]


def test_what_cannot_be():
    image = data()
    with pytest.raises(AssertionError, match="scale mismatch"):
        crop(L.Pooling(image, kernel_size=2, stride=2), image)
    with pytest.raises(AssertionError, match="negative"):
        crop(L.Convolution(image, kernel_size=3), image)
    with pytest.raises(AssertionError, match="noninteger"):
        crop(L.Convolution(image, kernel_size=2, pad=2), image)
    with pytest.raises(AssertionError, match="_h/_w"):
        coord_map(L.Convolution(image, kernel_h=3, kernel_w=3).fn)
    with pytest.raises(RuntimeError):
        coord_map_from_to(L.InnerProduct(image, num_output=3), image)
    with pytest.raises(RuntimeError):
        coord_map_from_to(data(), image)
    with pytest.raises(UndefinedMapException):
        coord_map(L.Pooling(image, global_pooling=True).fn)
    with pytest.raises(AxisMismatchException):
        coord_map_from_to(L.Convolution(L.Crop(image, image, axis=3), kernel_size=3), image)
    # The second bottom of a crop lends its size only.
    with pytest.raises(RuntimeError):
        other = data()
        coord_map_from_to(L.Crop(image, other), other)


@given(*[st.tuples(st.just(1), st.floats(0.25, 4), st.floats(-9, 9))] * 2)
def test_algebra(one, two):
    axis, scale, shift = compose(one, inverse(one))
    assert axis == 1 and scale == pytest.approx(1) and shift == pytest.approx(0, abs=1e-9)
    there_and_back = inverse(inverse(two))
    assert there_and_back == pytest.approx(two)
    assert compose((None, 1, 0), two) == two == compose(two, (None, 1, 0))


def test_deep_nets_take_linear_time():
    top = image = data()
    for _ in range(60):  # two paths a block: 2^60 in all
        top = L.Eltwise(L.Convolution(top, kernel_size=3, pad=1), top)
    axis, scale, shift = coord_map_from_to(top, image)
    assert np.all(scale == 1) and np.all(shift == 0)
