"""Caffe's update rules: a class each, from the parameters' diffs to their new values.

Before a rule's own equation, all clip the gradients together, divide by iter_size, and add the weight decay."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy import float32

from torchcaffe.base.errors import CaffeError
from torchcaffe.core import private_torch
from torchcaffe.core.blob import Parameter, Tensors
from torchcaffe.core.tensors import scalar
from torchcaffe.nets.graph import Learnable
from torchcaffe.proto.caffe_pb2 import SolverParameter

registry: dict[str, type[Rule]] = {}

# Operations for lists of tensors, with a last _ in place.
each_add = private_torch.each("add")
each_add_ = private_torch.each("add_")
each_addcmul_ = private_torch.each("addcmul_")
each_copy_ = private_torch.each("copy_")
each_div_ = private_torch.each("div_")
each_mul_ = private_torch.each("mul_")
each_sign = private_torch.each("sign")
each_sqrt = private_torch.each("sqrt")
each_sqrt_ = private_torch.each("sqrt_")
each_sub_ = private_torch.each("sub_")
each_zero_ = private_torch.each("zero_")

LARGE = 1 << 16  # parameters with as many values are updated one by one, so that temporaries stay small


@dataclass
class Group:
    """Parameters with the same multipliers, which are updated together."""

    lr_mult: float
    decay_mult: float
    blobs: list[Parameter] = field(default_factory=list)
    history: list[Tensors] = field(default_factory=list)  # for each slot, an array a parameter


class Rule(ABC):
    """An update rule and its history. Subclasses give `change`, the equation."""

    slots = 1  # history arrays a parameter

    def __init_subclass__(cls, type: str | None = None) -> None:
        if type:
            registry[type] = cls

    def __init__(self, p: SolverParameter, records: Sequence[Learnable]):
        """Allocate gradients and history of the parameters that learn (those of the others only when used).

        They stay for life, so they come before the first activations: among these they would fragment the heap."""
        self.p = p
        self.blobs = [record.blob for record in records]
        self.lr_mults = [1.0 if record.lr_mult is None else record.lr_mult for record in records]
        self.decay_mults = [1.0 if record.decay_mult is None else record.decay_mult for record in records]
        self.history: list[Tensors] = [[] for _ in records]  # `slots` arrays each; none for zeros
        self._groups: list[Group] | None = None
        self._idle: list[Parameter] = []
        for index, blob in enumerate(self.blobs):
            if self.lr_mults[index]:
                blob.grad_buffer()
                self._allocate(index)

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        """Raise CaffeError for fields that the rule cannot work with."""
        return

    def constants(self, rate: float, clip: float, iteration: int) -> tuple[float, ...]:
        """The numbers of an update that change from one to the next."""
        return rate, clip

    def update(self, rate: float, clip: float, iteration: int) -> None:
        """Update every parameter. rate: of this iteration; clip: what clip_gradients multiplies gradients by."""
        p = self.p
        factor = clip / p.iter_size
        for group in self.groups():
            decay = _product(p.weight_decay, group.decay_mult)
            weights, gradients = [blob.t for blob in group.blobs], [blob.g for blob in group.blobs]
            if not factor:  # an infinite norm clips to 0, and BVLC's BLAS makes 0 of infinity times 0, too
                each_zero_(gradients)
            elif factor != 1:
                each_mul_(gradients, scalar(factor))
            if decay:
                pull = weights if p.regularization_type == "L2" else each_sign(weights)
                each_add_(gradients, pull, alpha=decay)
            changes = self.change(gradients, group.history, _product(rate, group.lr_mult))
            each_sub_(weights, changes)
            for blob, change in zip(group.blobs, changes):
                blob.g = change
                blob.data_memory.written()

    @abstractmethod
    def change(self, gradients: Tensors, history: list[Tensors], rate: float) -> Tensors:
        """Return what is subtracted from the weights, and update `history` in place. May overwrite `gradients`."""

    def groups(self) -> list[Group]:
        """The parameters to update. The diffs of the others are cleared: with lr_mult 0 the update is zero, and so is
        its history (a sum of updates)."""
        if self._groups is None:
            self._groups = self._grouped()
        for blob in self._idle:
            blob.clear_diff()
        return self._groups

    def _grouped(self) -> list[Group]:
        found: dict[tuple, Group] = {}
        self._idle = []
        for index, (blob, lr, decay) in enumerate(zip(self.blobs, self.lr_mults, self.decay_mults)):
            if self.slots == 1 and not lr and not self.history[index]:
                self._idle.append(blob)
                continue
            alone = index if blob.count >= LARGE else None
            group = found.setdefault((lr, decay, alone), Group(lr, decay, history=[[] for _ in range(self.slots)]))
            group.blobs.append(blob)
            for arrays, array in zip(group.history, self._allocate(index)):
                arrays.append(array)
        return list(found.values())

    # -- the history, in BVLC's order: every parameter's first array, then every second one --------------------------

    def _allocate(self, index: int) -> Tensors:
        """The history of parameter `index`, zero at first."""
        if not self.history[index]:
            blob = self.blobs[index]
            self.history[index] = [torch.zeros(blob.shape, device=blob.device) for _ in range(self.slots)]
        return self.history[index]

    def arrays(self) -> list[np.ndarray]:
        """The history, for a snapshot."""
        return [
            history[slot].cpu().numpy() if history else np.zeros(blob.shape, float32)
            for slot in range(self.slots)
            for blob, history in zip(self.blobs, self.history)
        ]

    def check_arrays(self, arrays: Sequence[np.ndarray]) -> None:
        """Raise CaffeError unless a snapshot's history is of this rule and net."""
        expected = self.slots * len(self.blobs)
        if len(arrays) != expected:
            raise CaffeError(f"history: {len(arrays)} blobs, {expected} expected ({self.p.type} on this net)")
        for number, values in enumerate(arrays):
            blob = self.blobs[number % len(self.blobs)]
            if values.size != blob.count:
                raise CaffeError(f"history {number}: {values.shape}, {blob.shape} expected")

    def set_arrays(self, arrays: Sequence[np.ndarray]) -> None:
        """Take a snapshot's history."""
        self._groups = None
        for index, blob in enumerate(self.blobs):
            own = arrays[index :: len(self.blobs)]
            if self.lr_mults[index] == 0 and not any(values.any() for values in own):
                self.history[index] = []
                continue
            for target, values in zip(self._allocate(index), own):
                target.copy_(torch.tensor(values).view(blob.shape))


class SGD(Rule, type="SGD"):
    """V = momentum V + rate (gradient + decay W); W -= V. The rate is inside V, so changing it rescales nothing."""

    def change(self, gradients: Tensors, history: list[Tensors], rate: float) -> Tensors:
        (v,) = history
        each_mul_(v, scalar(self.p.momentum))
        each_add_(v, gradients, alpha=rate)
        return v

    def update(self, rate: float, clip: float, iteration: int) -> None:
        """One pass over the weights by torch's fused kernel.

        It computes buf = momentum buf + (grad / grad_scale + weight_decay W), W -= lr buf. With lr = 1,
        weight_decay = decay rate and grad_scale = iter_size / (rate clip), buf is Caffe's V itself."""
        p = self.p
        # Without momentum torch's kernel keeps no buffer, while Caffe keeps V. An infinite norm clips to 0, by which
        # the kernel would divide.
        if p.regularization_type != "L2" or clip == 0 or p.momentum == 0:
            super().update(rate, clip, iteration)
            return
        for group in self.groups():
            local, (buffers,) = rate * group.lr_mult, group.history
            divisor = p.iter_size / (local * clip) if local else math.inf
            weights, gradients = [blob.t for blob in group.blobs], [blob.g for blob in group.blobs]
            decay = p.weight_decay * group.decay_mult * local
            private_torch.sgd(weights, gradients, buffers, decay, p.momentum, divisor)
            for blob, buffer in zip(group.blobs, buffers):
                blob.data_memory.written()
                # BVLC leaves the update, which is V, in the diff.
                blob.diff_memory.stand_in(buffer)


class Nesterov(Rule, type="Nesterov"):
    """V = momentum V + rate gradient; W -= (1 + momentum) V - momentum (V before)."""

    def change(self, gradients: Tensors, history: list[Tensors], rate: float) -> Tensors:
        (v,), mu = history, self.p.momentum
        changes = [array.clone() for array in v]
        each_mul_(v, scalar(mu))
        each_add_(v, gradients, alpha=rate)
        each_mul_(changes, scalar(-mu))
        each_add_(changes, v, alpha=1 + mu)
        return changes


class AdaGrad(Rule, type="AdaGrad"):
    """S += gradient^2; W -= rate gradient / (sqrt(S) + delta)."""

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        if p.momentum:
            raise CaffeError(f"momentum: {p.momentum:g} cannot be used with {p.type}")

    def accumulate(self, squares: Tensors, gradients: Tensors) -> None:
        """Add the gradients' squares to S."""
        each_addcmul_(squares, gradients, gradients)

    def change(self, gradients: Tensors, history: list[Tensors], rate: float) -> Tensors:
        (squares,) = history
        self.accumulate(squares, gradients)
        each_div_(gradients, self.roots(squares))
        each_mul_(gradients, scalar(rate))
        return gradients

    def roots(self, squares: Tensors) -> Tensors:
        """sqrt(S) + delta."""
        roots = each_sqrt(squares)
        each_add_(roots, [scalar(self.p.delta)] * len(roots))
        return roots


class RMSProp(AdaGrad, type="RMSProp"):
    """AdaGrad with S = rms_decay S + (1 - rms_decay) gradient^2."""

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        super().check(p)
        if not 0 <= p.rms_decay < 1:
            raise CaffeError(f"rms_decay: {p.rms_decay:g} must be at least 0 and below 1")

    def accumulate(self, squares: Tensors, gradients: Tensors) -> None:
        _average(squares, gradients, self.p.rms_decay)


class AdaDelta(Rule, type="AdaDelta"):
    """S = m S + (1-m) gradient^2; D = gradient sqrt((T + delta) / (S + delta)); T = m T + (1-m) D^2; W -= rate D."""

    slots = 2

    def change(self, gradients: Tensors, history: list[Tensors], rate: float) -> Tensors:
        (squares, updates), m = history, self.p.momentum
        delta = [scalar(self.p.delta)] * len(squares)
        _average(squares, gradients, m)
        ratio = each_add(updates, delta)
        each_div_(ratio, each_add(squares, delta))
        each_sqrt_(ratio)
        each_mul_(gradients, ratio)
        _average(updates, gradients, m)
        each_mul_(gradients, scalar(rate))
        return gradients


class Adam(Rule, type="Adam"):
    """M = b1 M + (1 - b1) gradient; S = b2 S + (1 - b2) gradient^2; W -= rate c M / (sqrt(S) + delta), with
    c = sqrt(1 - b2^t) / (1 - b1^t) and t the number of this update, from 1."""

    slots = 2

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        # Otherwise 1 - b^t is 0 or below, and BVLC would compute infinity and NaN.
        for name in ("momentum", "momentum2"):
            value = getattr(p, name)
            if not -1 < value < 1:
                raise CaffeError(f"{name}: {value:g} must be above -1 and below 1 for {p.type}")

    def constants(self, rate: float, clip: float, iteration: int) -> tuple[float, ...]:
        return rate, clip, iteration

    def update(self, rate: float, clip: float, iteration: int) -> None:
        # In BVLC the powers of the two floats are doubles, and so is this factor.
        b1, b2, t = self.p.momentum, self.p.momentum2, iteration + 1
        self._correction = math.sqrt(1 - b2**t) / (1 - b1**t)
        super().update(rate, clip, iteration)

    def change(self, gradients: Tensors, history: list[Tensors], rate: float) -> Tensors:
        (means, squares), b1 = history, self.p.momentum
        each_mul_(means, scalar(b1))
        each_add_(means, gradients, alpha=_one_minus(b1))
        _average(squares, gradients, self.p.momentum2)
        roots = each_sqrt(squares)
        each_add_(roots, [scalar(self.p.delta)] * len(roots))
        each_copy_(gradients, means)
        each_div_(gradients, roots)
        each_mul_(gradients, scalar(_product(rate, self._correction)))
        return gradients


def _average(squares: Tensors, gradients: Tensors, decay: float) -> None:
    """S = decay S + (1 - decay) gradient^2."""
    each_mul_(squares, scalar(decay))
    each_addcmul_(squares, gradients, gradients, value=_one_minus(decay))


@functools.lru_cache
def _product(a: float, b: float) -> float:
    return float(float32(a) * float32(b))


@functools.lru_cache
def _one_minus(value: float) -> float:
    return float(float32(1) - float32(value))
