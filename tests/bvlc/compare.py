"""How two engines' arrays are compared: shapes first, then one relative error per array.

The error is ||a - b|| / ||b|| over the finite values (||a|| where b is all zero); NaN and infinities must stand in the
same places. Element-wise tolerances would let np broadcast a wrong shape, and punish single tiny values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tests.bvlc.run_caffe import error

FORWARD, BOTTOM, PARAM = 1e-5, 1e-5, 1e-4  # what outputs, bottom diffs and parameter gradients may differ by
OTHER_CORETYPE = "Prescott"  # beside Haswell: another OpenBLAS kernel, to see how far BVLC is from itself
OTHER_CORETYPES = (OTHER_CORETYPE, "Nehalem", "Sandybridge")  # the more, the surer that a ReLU flips somewhere


def kind(key: str) -> str:
    """What an array of a job is: forward, bottom or param (see run_caffe.run_layer's names)."""
    key = key.split("@")[0]
    if not key.endswith(".diff"):
        return "forward"
    return "param" if ".param" in key else "bottom"


def errors(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The greatest error of each kind; inf for an array that only one of the two has."""
    worst = {"forward": 0.0, "bottom": 0.0, "param": 0.0}
    for key in set(a) | set(b):
        value = error(a[key], b[key]) if key in a and key in b else float("inf")
        worst[kind(key)] = max(worst[kind(key)], value)
    return worst


def explain(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> str:
    """One line an array: error and shapes, for a failing test's message."""
    lines = []
    for key in sorted(set(a) | set(b)):
        if key in a and key in b:
            lines.append(f"{key}: {error(a[key], b[key]):.2g} shape {a[key].shape} wanted {b[key].shape}")
        else:
            lines.append(f"{key}: " + ("missing" if key in b else "not expected"))
    return "\n".join(lines)


def markdown(header: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A Markdown table; floats in short scientific form."""
    header = list(header)
    cells = [[f"{c:.1e}" if isinstance(c, float) else str(c).replace("|", "\\|") for c in row] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells]) + "\n"
