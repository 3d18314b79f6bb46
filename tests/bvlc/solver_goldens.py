"""Comparison of a training run with real Caffe's (goldens/solvers)."""

from __future__ import annotations

import json

import numpy as np

from tests import GOLDENS as _GOLDENS
from tests.bvlc import compare

GOLDENS = _GOLDENS / "solvers"
SPREAD = json.loads((GOLDENS / "spread.json").read_text())  # BVLC's own, under another BLAS kernel


def check(group: str, name: str, value: object, got: dict[str, np.ndarray], limit: float) -> None:
    with np.load(GOLDENS / f"{group}.npz") as f:
        wanted = {key.split("/", 1)[1]: f[key] for key in f.files if key.startswith(name + "/")}
    assert (-1 if value is None else value) == wanted.pop("value")
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in wanted.items()}
    worst = compare.errors(got, wanted)["forward"]
    assert worst <= max(limit, 3 * SPREAD[f"{group}/{name}"]), compare.explain(got, wanted)
