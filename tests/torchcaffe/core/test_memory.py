"""Memory against a model: an array of values, whatever state they are in; and what the counts of references decide."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchcaffe as caffe
from tests.torchcaffe.core.small import NET, SOLVER
from torchcaffe.core import ownership
from torchcaffe.core.memory import Memory

SHAPE = (2, 3)
CALLS = (
    "get",
    "set",
    "set_strided",
    "written",
    "buffer",
    "clear",
    "stand_in",
    "drop",
    "hold",
    "let_go",
    "write",
    "stamp",
)


def values(number: int) -> torch.Tensor:
    return torch.arange(6.0).reshape(SHAPE) + 10 * number


@given(st.lists(st.sampled_from(CALLS), max_size=30), st.booleans())
def test_the_values_are_those_of_the_last_write(calls, fixed):
    memory, model = Memory(), np.zeros(SHAPE, np.float32)
    if fixed:
        memory.set(torch.zeros(SHAPE))
        memory.fix()
    view: np.ndarray | None = None  # what a user holds
    stamps: dict[tuple, np.ndarray] = {}
    for number, call in enumerate(calls, 1):
        new = values(number)
        if call == "set":
            memory.set(new)
            model = new.numpy().copy()
        elif call == "set_strided":
            memory.set(new.t().contiguous().t())
            model = new.numpy().copy()
        elif call == "written":
            memory.get(SHAPE, "cpu").copy_(new)
            memory.written()
            model = new.numpy().copy()
        elif call == "buffer":
            memory.buffer(SHAPE, "cpu").copy_(new)
            memory.written()
            model = new.numpy().copy()
        elif call == "clear":
            memory.clear()
            model = np.zeros(SHAPE, np.float32)
        elif call == "stand_in":
            memory.stand_in(new)
            model = new.numpy().copy()
        elif call == "drop" and memory.array is None:
            memory.drop()
            model = np.zeros(SHAPE, np.float32)
        elif call == "hold":
            view = memory.touch(SHAPE, "cpu")
        elif call == "release":
            view = None
        elif call == "write" and view is not None:
            view[:] = model = new.numpy().copy()
        elif call == "stamp" and (stamp := memory.stamp()) is not None:
            np.testing.assert_array_equal(stamps.setdefault(stamp, model.copy()), model)
        if view is not None:  # stays live
            assert memory.stamp() is None
            np.testing.assert_array_equal(view, model)
    np.testing.assert_array_equal(memory.get(SHAPE, "cpu").numpy(), model)


@pytest.mark.parametrize("part", [lambda t: t, lambda t: t[1:], lambda t: t.reshape(3, 2)])
def test_what_comes_from_a_users_array_is_not_written_with_it(part):
    """A gradient that a layer passes on as it is (Bias, Tile by 1) stays when the user writes the top's diff again."""
    one, other = Memory(values(1)), Memory()
    view = one.touch(SHAPE, "cpu")
    passed = part(one.get(SHAPE, "cpu"))
    other.set(passed)
    wanted = passed.numpy().copy()
    view[:] = 7
    np.testing.assert_array_equal(other.get(tuple(wanted.shape), "cpu").numpy(), wanted)


def trained(tmp_path) -> caffe.SGDSolver:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER + "max_iter: 6")
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    solver.step(5)
    return solver


def test_the_plain_path_computes_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counted = trained(tmp_path)
    monkeypatch.setattr(ownership, "_ALONE", None)
    monkeypatch.setattr(ownership, "_UNSHARED", None)
    memory = Memory(torch.zeros(3))
    assert not memory.owned()
    memory.touch((3,), "cpu")
    assert memory.stamp() is None
    plain = trained(tmp_path)
    for name, blob in counted.net.blobs.items():
        np.testing.assert_array_equal(blob.data, plain.net.blobs[name].data, name)
        np.testing.assert_array_equal(blob.diff, plain.net.blobs[name].diff, name)
    for name, blobs in counted.net.params.items():
        for one, other in zip(blobs, plain.net.params[name]):
            np.testing.assert_array_equal(one.data, other.data, name)
            np.testing.assert_array_equal(one.diff, other.diff, name)


@pytest.mark.parametrize("after", ["made", "trained", "looked at"])
def test_a_solver_that_is_dropped_is_gone_at_once(after, tmp_path, monkeypatch):
    """Its gigabytes and its LMDB's lock do not wait for the garbage collector."""
    monkeypatch.chdir(tmp_path)
    gc.disable()
    try:
        solver = trained(tmp_path)
        if after == "trained":
            solver.solve()
        elif after == "looked at":
            assert solver.net.blobs["ip"].data.any() and solver.net.params["ip"][0].diff.any()
        gone = [weakref.ref(solver), weakref.ref(solver.net), weakref.ref(solver.net.params["ip"][0])]
        del solver
        assert [one() for one in gone] == [None, None, None]
    finally:
        gc.enable()
