"""Softmax, losses and Accuracy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, Blobs, canonical_axis
from torchcaffe.core.layer import Layer, layer
from torchcaffe.core.tensors import scalar, shaped
from torchcaffe.formats.blobproto import read_blobproto
from torchcaffe.ops.common import FirstLearns, in_range
from torchcaffe.ops.neuron import Neuron
from torchcaffe.proto import caffe_pb2

FLT_MIN = torch.finfo(torch.float32).tiny
LOG_THRESHOLD = 1e-20  # where MultinomialLogisticLoss and InfogainLoss clamp probabilities


@layer(bottoms=1, tops=1)
class Softmax(Neuron):
    """exp(x - max) divided by its sum, along `axis`."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        self.axis = canonical_axis(self.p.axis, len(bottom[0].shape))

    def compute(self, x: Tensor) -> Tensor:
        return torch.softmax(x, self.axis)

    def gradient(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        return (g - (g * y).sum(self.axis, keepdim=True)) * y


class LossLayer(FirstLearns):
    """A layer with a scalar top (made if missing), whose loss_weight is 1 unless given; bottom 1 is a label."""

    auto_top = True
    is_loss = True
    no_force_backward: Sequence[int] = (1,)
    refused = (1, 2)
    allows_in_place = False

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        if not bottom[0].shape:
            raise CaffeError("bottom 0: shape (): a loss needs an axis of items")
        if len(bottom) > 1 and bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise CaffeError(
                f"bottoms 0 and 1 have different numbers of items: {bottom[0].shape} and {bottom[1].shape}"
            )
        top[0].reshape()


def check_label_count(label: Blob, predictions: int) -> None:
    """Raise CaffeError unless there is one label for each prediction."""
    if label.count != predictions:
        raise CaffeError(
            f"bottom 1: {label.count} labels for {predictions} predictions (one each: of shape (N, H, W) where "
            "predictions are (N, C, H, W))"
        )


def integers(label: Tensor) -> Tensor:
    """Labels as BVLC casts them to int: NaN and what does not fit become the least int."""
    return torch.where(label.abs() < 2**31, label, -(2.0**31)).to(torch.int64)  # (CPUs and GPUs cast NaN differently)


class Labels:
    """The integer labels of a prediction (outer, classes, inner), each (outer, inner).

    `valid`: which of them count; `safe`: the labels, 0 where they don't count; `fault`: what a loss adds, NaN where a
    label is out of range on a GPU (on the CPU that raises CaffeError)."""

    def __init__(self, label: Tensor, outer: int, inner: int, classes: int, ignore: int | None):
        values = integers(label.reshape(outer, inner))
        self.valid = torch.ones_like(values, dtype=torch.bool) if ignore is None else values != ignore
        safe = values.where(self.valid, torch.zeros_like(values))
        self.fault: Tensor | float = 0.0
        if safe.device.type != "cpu":
            wrong = ((safe < 0) | (safe >= classes)).any()
            self.fault = torch.zeros((), device=safe.device).masked_fill(wrong, math.nan)
        self.safe = in_range(safe, classes, "bottom 1: label", f"{classes} classes")


def clear_ignored(gradient: Tensor, valid: Tensor) -> None:
    """Write 0 where `valid` is false, whatever is there (NaN times 0 is NaN).

    By the bits of the float32: masked_fill_ takes ten times as long with a mask that broadcasts over the classes."""
    gradient.view(torch.int32).bitwise_and_(-valid.to(torch.int32))


class _OverClasses(Layer):
    """Bottom 0 seen as (outer, classes, inner) around `axis`; bottom 1 holds a label for each of outer x inner."""

    ignore: int | None

    def lay_out(self, bottom: Blobs, axis: int) -> None:
        """Set the sizes."""
        shape = bottom[0].shape
        self.axis = canonical_axis(axis, len(shape))
        self.outer, self.classes = math.prod(shape[: self.axis]), shape[self.axis]
        self.inner = math.prod(shape[self.axis + 1 :])
        check_label_count(bottom[1], self.outer * self.inner)

    def scores(self, bottom: Blobs) -> Tensor:
        return bottom[0].t.reshape(self.outer, self.classes, self.inner)

    def labels(self, bottom: Blobs) -> Labels:
        return Labels(bottom[1].t, self.outer, self.inner, self.classes, self.ignore)


class _NormalizedLoss(LossLayer):
    """A loss with loss_param's ignore_label and normalization."""

    outer: int
    inner: int
    default_mode = caffe_pb2.LossParameter.VALID

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        # BVLC makes another layer (Softmax, Sigmoid) inside, and logs it.
        log.info("layer_factory.hpp:77", f"Creating layer {self.layer_param.name}")
        p, kinds = self.layer_param.loss_param, caffe_pb2.LossParameter
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        self.mode = p.normalization if p.HasField("normalization") else self.default_mode
        if p.HasField("normalize") and not p.HasField("normalization"):  # the old field
            self.mode = kinds.VALID if p.normalize else kinds.BATCH_SIZE

    def divisor(self, valid: Tensor) -> Tensor | float:
        """What the summed loss is divided by: at least 1."""
        kinds = caffe_pb2.LossParameter
        if self.mode == kinds.FULL:
            return float(max(1, self.outer * self.inner))
        if self.mode == kinds.VALID:
            return valid.sum().clamp(min=1).to(torch.float32)
        return float(max(1, self.outer)) if self.mode == kinds.BATCH_SIZE else 1.0


class _SoftmaxLoss(_NormalizedLoss, _OverClasses, ABC):
    """A normalized loss of softmax probabilities, summed over the items that count. Top 1, if any, is the softmax."""

    @abstractmethod
    def losses(self, labels: Labels, bottom: Blobs) -> Tensor:
        """The loss of each item, (outer, inner)."""

    @abstractmethod
    def sum_gradient(self, labels: Labels, bottom: Blobs) -> Tensor:
        """The gradient of the sum, (outer, classes, inner)."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        self.lay_out(bottom, self.p.axis)
        if len(top) > 1:
            top[1].reshape(*bottom[0].shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        labels = self.labels(bottom)
        self._prob = torch.softmax(self.scores(bottom), 1)
        loss = self.losses(labels, bottom)
        loss = loss.where(labels.valid, torch.zeros_like(loss)).sum() + labels.fault
        top[0].t = loss / self.divisor(labels.valid)
        if len(top) > 1:
            top[1].t = self._prob.view(top[1].shape)

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        labels = self.labels(bottom)
        g = self.sum_gradient(labels, bottom)
        if self.ignore is not None:
            clear_ignored(g, labels.valid.unsqueeze(1))
        g *= top[0].g / self.divisor(labels.valid)
        return g


@layer(bottoms=2, tops=(1, 2))
class SoftmaxWithLoss(_SoftmaxLoss):
    """-log of the softmax's probability of the label, clamped at FLT_MIN."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        super().setup(bottom, top)
        self.p = self.layer_param.softmax_param

    def losses(self, labels: Labels, bottom: Blobs) -> Tensor:
        picked = self._prob.gather(1, labels.safe.unsqueeze(1)).squeeze(1)
        return -picked.clamp(min=FLT_MIN).log()

    def sum_gradient(self, labels: Labels, bottom: Blobs) -> Tensor:
        index = labels.safe.unsqueeze(1)
        return self._prob.clone().scatter_add_(1, index, torch.full_like(index, -1, dtype=self._prob.dtype))


class _PairLoss(LossLayer, ABC):
    """A loss of the difference of bottoms 0 and 1, which both have a gradient."""

    _difference: Tensor

    @abstractmethod
    def pull(self, scale: Tensor, bottom: Blobs) -> Tensor:
        """The gradient of the difference, times `scale`."""

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        for sign, blob, down in zip((1, -1), bottom, propagate_down):
            if down:
                blob.g = shaped(self.pull(top[0].g * scalar(sign / blob.num), bottom), blob.shape)


@layer(bottoms=2, tops=1)
class EuclideanLoss(_PairLoss):
    """Half the sum of squared differences, divided by the number of items. Both bottoms have a gradient."""

    no_force_backward = ()

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        self.check_same_count(bottom)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        self._difference = bottom[0].t - shaped(bottom[1].t, bottom[0].shape)
        top[0].t = self._difference.square().sum() / scalar(2 * bottom[0].num)

    def pull(self, scale: Tensor, bottom: Blobs) -> Tensor:
        return self._difference * scale


@layer(bottoms=3, tops=1)
class ContrastiveLoss(_PairLoss):
    """A loss of pairs of points (N, C each) and whether they are similar (N), divided by the number of pairs.

    Half the squared distance of similar pairs; of others half of max(margin - distance, 0)^2 (with legacy_version of
    max(margin - distance^2, 0))."""

    no_force_backward = (2,)

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        if bottom[0].channels != bottom[1].channels:
            raise CaffeError(f"bottoms 0 and 1 differ in channels: {bottom[0].shape} and {bottom[1].shape}")
        for index, (blob, axes) in enumerate(zip(bottom, (2, 2, 1))):
            if math.prod(blob.shape[axes:]) != 1:
                raise CaffeError(f"bottom {index}: shape {blob.shape}, {axes} axes expected")

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        if bottom[2].count < bottom[0].num:
            raise CaffeError(f"bottom 2: shape {bottom[2].shape} has fewer than {bottom[0].num} labels")

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        count = bottom[0].num
        self._difference = (bottom[0].t - bottom[1].t.reshape(bottom[0].shape)).reshape(count, -1)
        self._squared = self._difference.square().sum(1)
        similar, margin = self._similar(bottom), self.p.margin
        if self.p.legacy_version:
            apart = (margin - self._squared).clamp(min=0)
        else:
            apart = (margin - self._squared.sqrt()).clamp(min=0).square()
        top[0].t = torch.where(similar, self._squared, apart).sum() / (2 * count)

    def _similar(self, bottom: Blobs) -> Tensor:
        return bottom[2].t.reshape(-1)[: bottom[0].num].to(torch.int64) != 0

    def pull(self, scale: Tensor, bottom: Blobs) -> Tensor:
        if self.p.legacy_version:
            gap = self.p.margin - self._squared
            factor = -torch.ones_like(gap)
        else:
            distance = self._squared.sqrt()
            gap = self.p.margin - distance
            factor = -gap / (distance + 1e-4)  # 1e-4: BVLC's guard against distance 0
        similar = self._similar(bottom)
        factor = torch.where(similar, torch.ones_like(gap), factor)
        apart = ~(similar | (gap > 0)).unsqueeze(1)  # far enough apart (even infinitely): no gradient
        return (self._difference * (factor * scale).unsqueeze(1)).masked_fill_(apart, 0.0)


@layer(bottoms=2, tops=1)
class HingeLoss(LossLayer):
    """max(0, 1 - x) of the label's score and max(0, 1 + x) of the others, divided by the number of items.

    The sum of these (norm L1) or of their squares (L2). A NaN score counts as 0."""

    def _direction(self, bottom: Blobs) -> Tensor:
        """(N, classes): -1 for the label's score, 1 for the others."""
        count, classes = bottom[0].num, math.prod(bottom[0].shape[1:])
        label = bottom[1].t.reshape(-1)[:count]
        self._labels = Labels(label, count, 1, classes, None)
        return torch.ones(count, classes, device=label.device).scatter_(1, self._labels.safe, -1.0)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        margins = 1 + bottom[0].t.reshape(bottom[0].num, -1) * self._direction(bottom)
        margins = margins.clamp_(min=0).nan_to_num_(0.0, math.inf)
        bottom[0].g = margins.view(bottom[0].shape)  # BVLC's buffer for them, which backward reads
        if self.p.norm == caffe_pb2.HingeLossParameter.L2:
            margins = margins.square()
        top[0].t = margins.sum() / len(margins) + self._labels.fault

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        margins = bottom[0].g.reshape(bottom[0].num, -1)
        g = 2 * margins if self.p.norm == caffe_pb2.HingeLossParameter.L2 else margins.sign()
        return g * self._direction(bottom) * (top[0].g / len(margins))


@layer(bottoms=2, tops=1)
class MultinomialLogisticLoss(LossLayer):
    """-log of the label's probability (bottom 0, clamped at 1e-20), divided by the number of items."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        if math.prod(bottom[1].shape[1:]) != 1:
            raise CaffeError(f"bottom 1: shape {bottom[1].shape}, one label an item expected")

    def _picked(self, bottom: Blobs) -> Tensor:
        """(N, 1): the clamped probabilities of the labels."""
        x = bottom[0].t.reshape(bottom[0].num, -1)
        self._labels = Labels(bottom[1].t, len(x), 1, x.shape[1], None)
        return x.gather(1, self._labels.safe).clamp(min=LOG_THRESHOLD)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        picked = self._picked(bottom)
        top[0].t = -picked.log().sum() / len(picked) + self._labels.fault

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        picked = self._picked(bottom)
        # Clamped probabilities have this gradient, too.
        gradient = -(top[0].g / len(picked)) / picked
        zeros = torch.zeros(len(picked), bottom[0].count // len(picked), device=picked.device)
        return zeros.scatter_(1, self._labels.safe, gradient)


@layer(bottoms=(2, 3), tops=(1, 2))
class InfogainLoss(_SoftmaxLoss):
    """-sum over k of H[label, k] log(softmax(x)[k]), with probabilities clamped at 1e-20.

    H (classes x classes) is bottom 2, or the BlobProto in the file `source`."""

    _matrix: Tensor

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        super().setup(bottom, top)
        if self.layer_param.loss_param.HasField("normalize"):
            raise CaffeError("loss_param.normalize: deprecated, use normalization")
        if len(bottom) < 3:
            if not self.p.HasField("source"):
                raise CaffeError("infogain_loss_param.source: missing (or give the matrix as bottom 2)")
            values = np.array(read_blobproto(self.p.source), np.float32)
            self._matrix = torch.from_numpy(values).to(self.device)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        count = bottom[2].count if len(bottom) > 2 else self._matrix.numel()
        if count != self.classes**2:
            raise CaffeError(f"infogain matrix: {count} values, {self.classes} x {self.classes} expected")

    def _rows(self, labels: Labels, bottom: Blobs) -> Tensor:
        """(outer, classes, inner): the label's row of H."""
        matrix = bottom[2].t if len(bottom) > 2 else self._matrix
        return matrix.reshape(self.classes, self.classes)[labels.safe].transpose(1, 2)

    def losses(self, labels: Labels, bottom: Blobs) -> Tensor:
        return -(self._rows(labels, bottom) * self._prob.clamp(min=LOG_THRESHOLD).log()).sum(1)

    def sum_gradient(self, labels: Labels, bottom: Blobs) -> Tensor:
        rows = self._rows(labels, bottom)
        return self._prob * rows.sum(1, keepdim=True) - rows


@layer(bottoms=2, tops=1)
class SigmoidCrossEntropyLoss(_NormalizedLoss):
    """-t log(p) - (1 - t) log(1 - p) of p = sigmoid(x) and targets t in [0, 1], summed and normalized.

    Targets that equal ignore_label when cast to int don't count. The default normalization is BATCH_SIZE."""

    default_mode = caffe_pb2.LossParameter.BATCH_SIZE

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        super().reshape(bottom, top)
        self.check_same_count(bottom)
        self.outer, self.inner = bottom[0].shape[0], math.prod(bottom[0].shape[1:])

    def _valid(self, target: Tensor) -> Tensor:
        if self.ignore is None:
            return torch.ones_like(target, dtype=torch.bool)
        return integers(target) != self.ignore

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x, target = bottom[0].t, bottom[1].t.reshape(bottom[0].shape)
        valid = self._valid(target)
        loss = x.clamp(min=0) - x * target + torch.log1p(torch.exp(-x.abs()))
        self._prob = torch.sigmoid(x)
        self._divisor = self.divisor(valid)
        top[0].t = loss.where(valid, torch.zeros_like(loss)).sum() / self._divisor

    def gradient(self, top: Blobs, bottom: Blobs) -> Tensor:
        target = bottom[1].t.reshape(bottom[0].shape)
        g = (self._prob - target).mul_(top[0].g / self._divisor)
        if self.ignore is not None:
            clear_ignored(g, self._valid(target))
        return g


@layer(bottoms=2, tops=(1, 2))
class Accuracy(_OverClasses):
    """The share of items whose label is among the top_k scores; ties count as wrong, NaN scores as right.

    Top 1, if any, holds the share for each class."""

    allows_in_place = False

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.ignore = self.p.ignore_label if self.p.HasField("ignore_label") else None

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        self.lay_out(bottom, self.p.axis)
        if self.p.top_k > bottom[0].count // max(1, bottom[1].count):
            raise CaffeError(f"top_k: {self.p.top_k} is more than the number of classes")
        top[0].reshape()
        if len(top) > 1:
            top[1].reshape(self.classes)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        x, labels = self.scores(bottom), self.labels(bottom)
        true = x.gather(1, labels.safe.unsqueeze(1))
        # The label's own score counts among those that are as good, hence <=; comparisons with NaN are false.
        hit = ((x >= true).sum(1) <= self.p.top_k) & labels.valid
        top[0].t = (hit.sum() / labels.valid.sum().clamp(min=1)).to(torch.float32) + labels.fault
        if len(top) > 1:
            zeros = torch.zeros(self.classes, device=x.device)
            index = labels.safe.reshape(-1)
            hits, totals = (
                zeros.scatter_add(0, index, which.reshape(-1).to(torch.float32)) for which in (hit, labels.valid)
            )
            top[1].t = hits / totals.clamp(min=1)
