"""Comparison of arrays with goldens/rng.json, which keeps shapes, first values and checksums."""

from __future__ import annotations

import hashlib

import numpy as np


def assert_same(array: np.ndarray, golden: dict) -> None:
    assert list(array.shape) == golden["shape"]
    assert [float(v) for v in array.reshape(-1)[:4]] == golden["first"]
    assert hashlib.sha256(array.tobytes()).hexdigest() == golden["sha256"]
