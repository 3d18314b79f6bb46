"""A few made-up inputs a reader; `make fuzz` tries millions."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import TARGETS, attempt, mutated


@functools.cache
def seeds(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name, tmp_path):
    results = [attempt(TARGETS[name], data, tmp_path) for data in seeds(name)]
    assert "read" in results  # among prototxts to be upgraded some are refused, as by BVLC


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_faulty_files_are_read_or_refused_in_a_line(name, seed, tmp_path):
    attempt(TARGETS[name], mutated(seeds(name), random.Random(seed)), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=15)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_a_line(name, data, tmp_path):
    attempt(TARGETS[name], data, tmp_path)
