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
from torch import Tensor

from torchcaffe.base.errors import CaffeError
from torchcaffe.core import private_torch
from torchcaffe.core.blob import Parameter, Tensors
from torchcaffe.core.tensors import scalar
from torchcaffe.nets.graph import Learnable
from torchcaffe.proto.caffe_pb2 import SolverParameter

registry: dict[str, type[Rule]] = {}


class Rule(ABC):
    """An update rule and its history. Subclasses give `change`, the equation for one parameter."""

    slots = 1  # history arrays a parameter

    def __init_subclass__(cls, type: str | None = None) -> None:
        if type:
            registry[type] = cls

    def __init__(self, p: SolverParameter, records: Sequence[Learnable]):
        """Allocate gradients and history of the parameters that learn (those of the others only when used).

        They stay for life, so they come before the first activations: among these they would fragment the heap."""
        self.p = p
        self.blobs = [record.blob for record in records]
        self.rates = [1.0 if record.lr_mult is None else record.lr_mult for record in records]
        decays = [1.0 if record.decay_mult is None else record.decay_mult for record in records]
        self._decay_mults = decays
        self._decays = [float(float32(p.weight_decay) * float32(decay)) for decay in decays]
        self.history: list[Tensors] = [[] for _ in records]  # `slots` arrays each; none for zeros
        self._prepared = False
        for index, blob in enumerate(self.blobs):
            if self.rates[index]:
                blob.grad_buffer()
                self.allocate(index)

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        """Raise CaffeError for fields that the rule cannot work with."""
        return

    def constants(self, rate: float, clip: float, iteration: int) -> tuple[float, ...]:
        """The numbers of an update that change from one to the next."""
        return rate, clip

    def update(self, rate: float, clip: float, iteration: int) -> None:
        """Update every parameter. rate: of this iteration; clip: what clip_gradients multiplies gradients by."""
        factor = clip / self.p.iter_size
        for index in self._to_update():
            blob, decay = self.blobs[index], self._decays[index]
            gradient = blob.g
            if not factor:  # an infinite norm clips to 0, and BVLC's BLAS makes 0 of infinity times 0, too
                gradient.zero_()
            elif factor != 1:
                gradient.mul_(scalar(factor))
            if decay:
                gradient.add_(blob.t if self.p.regularization_type == "L2" else blob.t.sign(), alpha=decay)
            change = self.change(gradient, self.history[index], float(float32(rate) * float32(self.rates[index])))
            blob.g = change
            blob.t.sub_(change)
            blob.data_memory.written()

    def _to_update(self) -> list[int]:
        """The parameters to update, by number; the diffs of the others are cleared. With lr_mult 0 the update is zero,
        and so is its history (a sum of updates)."""
        if not self._prepared:
            self.prepare()
        for blob in self._idle:
            blob.clear_diff()
        return self._learning

    def prepare(self) -> None:
        """Find out which parameters are to be updated, and allocate their history."""
        idle = [self.slots == 1 and not rate and not slots for rate, slots in zip(self.rates, self.history)]
        self._learning = [i for i, still in enumerate(idle) if not still]
        self._idle = [blob for blob, still in zip(self.blobs, idle) if still]
        for index in self._learning:
            self.allocate(index)
        self._prepared = True

    @abstractmethod
    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        """Return what is subtracted from the weights, and update `history` in place. May overwrite `gradient`."""

    # -- the history, in BVLC's order: every parameter's first array, then every second one --------------------------

    def allocate(self, index: int) -> None:
        """Allocate the history of parameter `index`, zero at first."""
        if not self.history[index]:
            blob = self.blobs[index]
            self.history[index] = [torch.zeros(blob.shape, device=blob.device) for _ in range(self.slots)]

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
        for index, blob in enumerate(self.blobs):
            own = arrays[index :: len(self.blobs)]
            if self.rates[index] == 0 and not any(values.any() for values in own):
                self.history[index] = []
                continue
            self.allocate(index)
            for target, values in zip(self.history[index], own):
                target.copy_(torch.tensor(values).view(blob.shape))
        self._prepared = False


@dataclass
class _Group:
    """Parameters with the same lr_mult and decay_mult."""

    multipliers: tuple[float, float]
    blobs: list[Parameter] = field(default_factory=list)
    buffers: Tensors = field(default_factory=list)
    _divisor: float | None = None

    def scale(self, divisor: float) -> Tensor:
        """The divisor on the parameters' device, the same tensor while it does not change."""
        if divisor != self._divisor:
            # (torch.tensor would wait for a GPU.)
            self._scale = torch.full((), divisor, dtype=torch.float32, device=self.blobs[0].device)
            self._divisor = divisor
        return self._scale


class SGD(Rule, type="SGD"):
    """V = momentum V + rate (gradient + decay W); W -= V. The rate is inside V, so changing it rescales nothing."""

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        return history[0].mul_(scalar(self.p.momentum)).add_(gradient, alpha=rate)

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
        self._to_update()
        for group in self._groups:
            lr, decay = group.multipliers
            local = rate * lr
            scale = group.scale(p.iter_size / (local * clip) if local else math.inf)
            weights, gradients = [b.t for b in group.blobs], [b.g for b in group.blobs]
            private_torch.sgd(weights, gradients, group.buffers, p.weight_decay * decay * local, p.momentum, scale)
            for blob, buffer in zip(group.blobs, group.buffers):
                blob.data_memory.written()
                # BVLC leaves the update, which is V, in the diff.
                blob.diff_memory.stand_in(buffer)

    def prepare(self) -> None:
        super().prepare()
        groups: dict[tuple[float, float], _Group] = {}
        for index in self._learning:
            key = self.rates[index], self._decay_mults[index]
            group = groups.setdefault(key, _Group(key))
            group.blobs.append(self.blobs[index])
            group.buffers.append(self.history[index][0])
        self._groups = list(groups.values())


class Nesterov(Rule, type="Nesterov"):
    """V = momentum V + rate gradient; W -= (1 + momentum) V - momentum (V before)."""

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (v,), mu = history, self.p.momentum
        before = v.clone()
        v.mul_(scalar(mu)).add_(gradient, alpha=rate)
        return before.mul_(scalar(-mu)).add_(v, alpha=1 + mu)


class AdaGrad(Rule, type="AdaGrad"):
    """S += gradient^2; W -= rate gradient / (sqrt(S) + delta)."""

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        if p.momentum:
            raise CaffeError(f"momentum: {p.momentum:g} cannot be used with {p.type}")

    def accumulate(self, squares: Tensor, gradient: Tensor) -> None:
        """Add the gradient's squares to S."""
        squares.addcmul_(gradient, gradient)

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (squares,) = history
        self.accumulate(squares, gradient)
        return gradient.div_(squares.sqrt().add_(scalar(self.p.delta))).mul_(scalar(rate))


class RMSProp(AdaGrad, type="RMSProp"):
    """AdaGrad with S = rms_decay S + (1 - rms_decay) gradient^2."""

    @classmethod
    def check(cls, p: SolverParameter) -> None:
        super().check(p)
        if not 0 <= p.rms_decay < 1:
            raise CaffeError(f"rms_decay: {p.rms_decay:g} must be at least 0 and below 1")

    def accumulate(self, squares: Tensor, gradient: Tensor) -> None:
        decay = self.p.rms_decay
        squares.mul_(scalar(decay)).addcmul_(gradient, gradient, value=_one_minus(decay))


class AdaDelta(Rule, type="AdaDelta"):
    """S = m S + (1-m) gradient^2; D = gradient sqrt((T + delta) / (S + delta)); T = m T + (1-m) D^2; W -= rate D."""

    slots = 2

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (squares, updates), m, delta = history, self.p.momentum, scalar(self.p.delta)
        squares.mul_(scalar(m)).addcmul_(gradient, gradient, value=_one_minus(m))
        gradient.mul_((updates + delta).div_(squares + delta).sqrt_())
        updates.mul_(scalar(m)).addcmul_(gradient, gradient, value=_one_minus(m))
        return gradient.mul_(scalar(rate))


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
        self._correction = float32(math.sqrt(1 - b2**t) / (1 - b1**t))
        super().update(rate, clip, iteration)

    def change(self, gradient: Tensor, history: Tensors, rate: float) -> Tensor:
        (mean, squares), b1, b2 = history, self.p.momentum, self.p.momentum2
        mean.mul_(scalar(b1)).add_(gradient, alpha=_one_minus(b1))
        squares.mul_(scalar(b2)).addcmul_(gradient, gradient, value=_one_minus(b2))
        corrected = float(float32(rate) * self._correction)
        return torch.div(mean, squares.sqrt().add_(scalar(self.p.delta)), out=gradient).mul_(scalar(corrected))


@functools.lru_cache
def _one_minus(value: float) -> float:
    return float(float32(1) - float32(value))
