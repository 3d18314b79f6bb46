"""The random streams against real BVLC Caffe's (tests/bvlc/goldens/rng.json), published numbers, and in pieces."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import GOLDENS as _GOLDENS
from tests.torchcaffe.random.goldens import assert_same
from torchcaffe.base.errors import CaffeError
from torchcaffe.random import rng as rng_module
from torchcaffe.random.rng import Rng

GOLDENS = json.loads((_GOLDENS / "rng.json").read_text())
SEEDS = st.integers(0, 2**32 - 1)
DRAWS = {
    "raw": lambda rng, n: rng.raw(n),
    "uniform": lambda rng, n: rng.uniform(n, -0.3, 1.7),
    "uniform, half drawn again": lambda rng, n: rng.uniform(n, 1, 1),
    "gaussian": lambda rng, n: rng.gaussian(n, 0.5, 2),
    "bernoulli": lambda rng, n: rng.bernoulli(n, 0.3),
    "bernoulli, single": lambda rng, n: rng.bernoulli(n, 0.3, single=True),
}


def test_mt19937_published() -> None:
    # ISO C++ 2011, 26.5.5: the 10,000th number of a mt19937 with the default seed.
    assert Rng(5489).raw(10000)[-1] == 4123659995


@pytest.mark.parametrize("case", GOLDENS["seeds"], ids=lambda case: case["name"])
def test_seeds(case: dict) -> None:
    rng = Rng(case["seed"])
    uniform, gaussian, probe = case["blobs"]
    assert_same(rng.uniform(2000, 0, 1), uniform)
    assert_same(rng.gaussian(2000, 0, 1), gaussian)
    assert_same(rng.uniform(5, 0, 1), probe)


@pytest.mark.parametrize("seed,accepted", GOLDENS["accepted_seeds"].items())
def test_accepted_seeds(seed: str, accepted: bool) -> None:
    if accepted:
        Rng(int(seed))
    else:
        with pytest.raises(CaffeError, match="unsigned 32-bit"):
            Rng(int(seed))


@pytest.mark.parametrize("case", GOLDENS["dropout"], ids=lambda case: f"{case['ratio']} {case['seed']}")
def test_dropout_masks(case: dict) -> None:
    """Caffe's Dropout in training: keeps with 1 - float32(ratio) in double precision, scales by 1 / (1 - ratio)."""
    rng = Rng(case["seed"])
    ratio = np.float32(case["ratio"])
    scale = np.float32(1.0 / (1.0 - float(ratio)))
    for golden in case["passes"]:
        (count,) = golden["top"]["shape"]
        assert_same(rng.bernoulli(count, 1.0 - float(ratio)).astype(np.float32) * scale, golden["top"])
        assert_same(rng.uniform(5, 0, 1), golden["probe"])


def test_dropout_golden_tells_precisions_apart() -> None:
    case = GOLDENS["dropout"][-1]
    count = case["passes"][0]["top"]["shape"][0]
    double = Rng(case["seed"]).bernoulli(count, 0.5)
    single = Rng(case["seed"]).bernoulli(count, 0.5, single=True)
    assert np.count_nonzero(double != single) == 1


@pytest.mark.parametrize("case", GOLDENS["shuffle"], ids=lambda case: f"{case['count']} {case['seed']}")
def test_shuffle(case: dict) -> None:
    """ImageData: a stream of its own, seeded by one raw, shuffles at set-up and again after each pass."""
    rng = Rng(case["seed"])
    own = Rng(rng.rand())
    rng.rand()  # seeds the prefetch thread's stream
    order = list(range(case["count"]))
    for golden in case["orders"]:
        own.shuffle(order)
        assert_same(np.array(order, np.int32), golden)
    for _ in case["orders"]:  # the probe is drawn at every pass
        probe = rng.uniform(5, 0, 1)
    assert_same(probe, case["probe"])


def test_shuffle_golden_has_a_pick_drawn_again() -> None:
    case = GOLDENS["shuffle"][-1]
    rng = Rng(Rng(case["seed"]).rand())
    rng.shuffle(list(range(case["count"])))
    plain = Rng(Rng(case["seed"]).rand())
    plain.raw(case["count"] - 1)
    assert rng.rand() != plain.rand()
    plain.raw(1)
    assert rng.rand() == plain.rand()


@given(SEEDS, st.sampled_from(sorted(DRAWS)), st.lists(st.integers(0, 700), max_size=6), st.integers(2, 300))
def test_pieces_and_chunks_do_not_matter(seed: int, kind: str, sizes: list, chunk: int) -> None:
    draw = DRAWS[kind]
    whole, pieces = Rng(seed), Rng(seed)
    expected = draw(whole, sum(sizes))
    normal_chunk = rng_module.CHUNK
    rng_module.CHUNK = chunk
    try:
        parts = [draw(pieces, n) for n in sizes]
    finally:
        rng_module.CHUNK = normal_chunk
    assert np.array_equal(np.concatenate([expected[:0], *parts]), expected)
    assert whole.rand() == pieces.rand()


@given(SEEDS, st.integers(0, 400), st.integers(2, 50))
def test_shuffle_in_chunks(seed: int, count: int, chunk: int) -> None:
    whole, chunked = list(range(count)), list(range(count))
    Rng(seed).shuffle(whole)
    normal_chunk = rng_module.CHUNK
    rng_module.CHUNK = chunk
    try:
        Rng(seed).shuffle(chunked)
    finally:
        rng_module.CHUNK = normal_chunk
    assert chunked == whole and sorted(whole) == list(range(count))


@given(SEEDS, st.integers(0, 2000))
def test_state_resumes(seed: int, drawn: int) -> None:
    rng, other = Rng(seed), Rng(0)
    rng.gaussian(drawn, 0, 1)
    state = rng.state()
    assert state.shape == (625,) and state.dtype == np.uint32
    expected = rng.raw(1000)
    other.set_state(state)
    assert np.array_equal(other.raw(1000), expected)


@pytest.mark.parametrize("state", [np.zeros(624, np.uint32), np.zeros(625), np.full(625, 625, np.uint32)])
def test_bad_state(state: np.ndarray) -> None:
    with pytest.raises(CaffeError, match="random state"):
        Rng(1).set_state(state)


def test_probability_0_draws_nothing() -> None:
    rng = Rng(3)
    assert not rng.bernoulli(10, 0).any()
    assert rng.rand() == Rng(3).rand()
    assert Rng(3).bernoulli(1000, 1).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.uniform(3, 1, 0.5),
        lambda rng: rng.uniform(3, float("nan"), 1),
        lambda rng: rng.uniform(3, 0, float("inf")),
        lambda rng: rng.gaussian(3, 0, 0),
        lambda rng: rng.gaussian(3, 0, -1),
        lambda rng: rng.bernoulli(3, -0.1),
        lambda rng: rng.bernoulli(3, 1.5),
    ],
)
def test_bad_arguments(draw) -> None:
    with pytest.raises(CaffeError):
        draw(Rng(1))


def test_layers_without_test_end_where_boosts_comparison_does() -> None:
    layers, end = rng_module._normal_layers(), Decimal("3.4426198558966521214")
    with localcontext() as context:
        context.prec = 40
        height = (-end * end / 2).exp()
        area = Decimal("3.7130862467403632609") * height
        for layer in range(127):
            inside = layers.inside[2 * layer]
            assert float(np.nextafter(inside, np.float32(0))) < float(end) <= float(inside)
            height += area / end
            end = (-2 * height.ln()).sqrt() if layer < 126 else Decimal(0)
    assert (layers.inside[-2:] == 0).all()


def test_moments() -> None:
    values = Rng(1).gaussian(1_000_000, 0, 1).astype(np.float64)
    assert abs(values.mean()) < 4e-3 and abs(values.var() - 1) < 6e-3
    assert abs((values**3).mean()) < 0.01 and abs((values**4).mean() - 3) < 0.03
