"""The learning rate of each iteration, as BVLC computes it: what is float32 here is float there, the rest double.

As in C++, a power may be infinity or NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import float32

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto.caffe_pb2 import SolverParameter

# From a solver's message, the iteration, and the step reached so far: what base_lr is multiplied by, and the new step.
Policy = Callable[[SolverParameter, int, int], tuple[Any, int]]


def powf(base: float32, exponent: float) -> float32:
    """C's powf: correctly rounded but for rare ties. NumPy's power of float32 is off by an ulp or two."""
    return float32(np.power(np.float64(base), np.float64(exponent)))


def _fixed(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    return 1.0, step


def _step(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    step = iteration // p.stepsize
    return np.power(np.float64(p.gamma), step), step


def _exp(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    return np.power(np.float64(p.gamma), iteration), step


def _inv(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    return powf(float32(1) + float32(p.gamma) * float32(iteration), -p.power), step


def _multistep(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    # One step per call, even where two are due.
    step += step < len(p.stepvalue) and iteration >= p.stepvalue[step]
    return np.power(np.float64(p.gamma), step), step


def _poly(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    return powf(float32(1) - float32(iteration) / float32(p.max_iter), p.power), step


def _sigmoid(p: SolverParameter, iteration: int, step: int) -> tuple[Any, int]:
    exponential = np.exp(np.float64(float32(-p.gamma) * (float32(iteration) - float32(p.stepsize))))
    return float32(1) / (float32(1) + float32(exponential)), step  # expf rounds so


POLICIES: dict[str, Policy] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
}


def check(p: SolverParameter) -> None:
    """Raise CaffeError for an unknown lr_policy, or one that lacks what it needs."""
    policy = p.lr_policy
    if policy in ("step", "sigmoid") and p.stepsize <= 0:
        raise CaffeError(f"stepsize: {p.stepsize} must be 1 or more for lr_policy {policy}")
    if policy in ("step", "exp", "inv", "multistep", "sigmoid") and p.gamma < 0:
        raise CaffeError(f"gamma: {p.gamma:g} must not be below 0 for lr_policy {policy}")
    if policy not in POLICIES:
        raise CaffeError(f"lr_policy: unknown policy '{policy}'")


def learning_rate(p: SolverParameter, iteration: int, step: int = 0) -> tuple[float, int]:
    """The rate at an iteration, and the step that is reached (of multistep, from the one reached before)."""
    policy = POLICIES[p.lr_policy]
    if policy is _fixed:
        return float(float32(p.base_lr)), step
    with np.errstate(all="ignore"):
        factor, step = policy(p, iteration, step)
        return float(float32(p.base_lr * factor)), step


def log_step(p: SolverParameter, iteration: int, step: int) -> None:
    """Log that an update has reached another step, if the policy says so."""
    if p.lr_policy == "multistep":
        log.info("sgd_solver.cpp:50", f"MultiStep Status: Iteration {iteration}, step = {step}")
