"""Softmax, losses and Accuracy."""

from __future__ import annotations

import math

import numpy as np
import torch

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob, canonical_axis
from torchcaffe.core.layer import Layer, TorchLayer, layer
from torchcaffe.formats.blobproto import read_blobproto
from torchcaffe.proto import caffe_pb2

FLT_MIN = torch.finfo(torch.float32).tiny
LOG_THRESHOLD = 1e-20  # what MultinomialLogisticLoss and InfogainLoss clamp probabilities at


@layer(bottoms=1, tops=1)
class Softmax(TorchLayer):
    """exp(x - max) over its sum, along `axis`."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.axis = canonical_axis(self.p.axis, len(bottom[0].shape))
        top[0].reshape(*bottom[0].shape)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, self.axis)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].t = self.compute(bottom[0].t)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            y, g = top[0].t, top[0].g
            bottom[0].g = (g - (g * y).sum(self.axis, keepdim=True)) * y


class LossLayer(Layer):
    """A scalar top, made if missing, with loss_weight 1 where none is given; bottom 1 is a label."""

    auto_top = True
    is_loss = True
    no_force_backward = (1,)
    allows_in_place = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if not bottom[0].shape:
            raise CaffeError("bottom 0: shape (): a loss needs an axis of items")
        if len(bottom) > 1 and bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise CaffeError(
                f"bottoms 0 and 1 have different numbers of items: {bottom[0].shape} and {bottom[1].shape}"
            )
        top[0].reshape(())

    def refuse_label_gradient(self, propagate_down: list[bool], index: int = 1) -> None:
        """BVLC aborts here; so the error is the user's."""
        if len(propagate_down) > index and propagate_down[index]:
            raise CaffeError(f"propagate_down: bottom {index} holds labels, which have no gradient")


def check_label_count(label: Blob, predictions: int) -> None:
    """Raise CaffeError unless there is a label a prediction."""
    if label.count != predictions:
        raise CaffeError(
            f"bottom 1: {label.count} labels for {predictions} predictions (a label each, of shape (N, H, W) where "
            "predictions are (N, C, H, W))"
        )


def integers(label: torch.Tensor) -> torch.Tensor:
    """Labels as BVLC casts them: by an int, whose least value what does not fit into it (and NaN) becomes."""
    if label.device.type == "cpu":  # a GPU's int of NaN would be 0, a label
        label = label.to(torch.int32)
    return label.to(torch.int64)


class Labels:
    """Integer labels of a blob laid over a prediction (outer, classes, inner), and which of them count."""

    def __init__(self, label: torch.Tensor, outer: int, inner: int, classes: int, ignore: int | None):
        self.values = integers(label.reshape(outer, inner))
        self.valid = torch.ones_like(self.values, dtype=torch.bool) if ignore is None else self.values != ignore
        self.safe = self.values.where(self.valid, torch.zeros_like(self.values))
        self.fault: torch.Tensor | float = 0.0  # what a loss adds
        # BVLC reads past its memory for a label out of range.
        if self.safe.device.type != "cpu":
            # A look would cost a synchronisation, and the wrong index end the process: the loss becomes NaN instead.
            wrong = ((self.safe < 0) | (self.safe >= classes)).any()
            self.fault = torch.zeros((), device=self.safe.device).masked_fill(wrong, math.nan)
            self.safe = self.safe.clamp(0, classes - 1)
        elif self.safe.numel():
            least, most = torch.aminmax(self.safe)
            if least < 0 or most >= classes:
                bad = int(least) if least < 0 else int(most)
                raise CaffeError(f"bottom 1: label {bad} is out of range for {classes} classes")


def clear_ignored(gradient: torch.Tensor, valid: torch.Tensor) -> None:
    """Write 0 where `valid` is false, whatever is there (NaN times 0 is NaN). By the bits of the float32: masked_fill_
    takes ten times as long with a mask that is stretched over the classes."""
    gradient.view(torch.int32).bitwise_and_(-valid.to(torch.int32))


def loss_normalization(p: caffe_pb2.LossParameter) -> int:
    """The normalization in force: the field, or what the old `normalize` means."""
    if not p.HasField("normalization") and p.HasField("normalize"):
        return caffe_pb2.LossParameter.VALID if p.normalize else caffe_pb2.LossParameter.BATCH_SIZE
    return p.normalization


def normalizer(mode: int, outer: int, inner: int, valid: torch.Tensor) -> torch.Tensor | float:
    """What the summed loss is divided by: at least 1."""
    kinds = caffe_pb2.LossParameter
    if mode == kinds.FULL:
        return float(max(1, outer * inner))
    if mode == kinds.VALID:
        return valid.sum().clamp(min=1).to(torch.float32)
    return float(max(1, outer)) if mode == kinds.BATCH_SIZE else 1.0


@layer(bottoms=2, tops=(1, 2))
class SoftmaxWithLoss(LossLayer):
    """-log of the softmax's probability of the label, summed over the items that count and normalised.

    Probabilities are clamped at FLT_MIN. Top 1, if asked for, is the softmax."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        # BVLC makes a Softmax layer inside, and logs it.
        log.info("layer_factory.hpp:77", f"Creating layer {self.layer_param.name}")
        p = self.layer_param.loss_param
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        self.mode = loss_normalization(p)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        shape = bottom[0].shape
        self.axis = canonical_axis(self.layer_param.softmax_param.axis, len(shape))
        self.outer, self.classes = math.prod(shape[: self.axis]), shape[self.axis]
        self.inner = math.prod(shape[self.axis + 1 :])
        check_label_count(bottom[1], self.outer * self.inner)
        if len(top) > 1:
            top[1].reshape(*shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t.reshape(self.outer, self.classes, self.inner)
        self._labels = Labels(bottom[1].t, self.outer, self.inner, self.classes, self.ignore)
        self._prob = torch.softmax(x, 1)
        picked = self._prob.gather(1, self._labels.safe.unsqueeze(1)).squeeze(1)
        loss = -picked.clamp(min=FLT_MIN).log()
        loss = loss.where(self._labels.valid, torch.zeros_like(loss)).sum() + self._labels.fault
        top[0].t = loss / normalizer(self.mode, self.outer, self.inner, self._labels.valid)
        if len(top) > 1:
            top[1].t = self._prob.view(top[1].shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if not propagate_down[0]:
            return
        labels = Labels(bottom[1].t, self.outer, self.inner, self.classes, self.ignore)
        g = self._prob.clone()
        index = labels.safe.unsqueeze(1)
        g.scatter_add_(1, index, torch.full_like(index, -1, dtype=g.dtype))
        if self.ignore is not None:
            clear_ignored(g, labels.valid.unsqueeze(1))
        g *= top[0].g / normalizer(self.mode, self.outer, self.inner, labels.valid)
        bottom[0].g = g.view(bottom[0].shape)


@layer(bottoms=2, tops=1)
class EuclideanLoss(LossLayer):
    """Half the sum of squared differences, an item. Either bottom may be the label: both have a gradient."""

    no_force_backward = ()

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        sizes = [math.prod(blob.shape[1:]) for blob in bottom]
        if sizes[0] != sizes[1]:
            raise CaffeError(f"bottoms 0 and 1 differ in size: {bottom[0].shape} and {bottom[1].shape}")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._difference = bottom[0].t - bottom[1].t.reshape(bottom[0].shape)
        top[0].t = self._difference.square().sum() / (2 * bottom[0].num)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        for sign, blob, down in zip((1, -1), bottom, propagate_down):
            if down:
                blob.g = (self._difference * (top[0].g * (sign / blob.num))).reshape(blob.shape)


@layer(bottoms=3, tops=1)
class ContrastiveLoss(LossLayer):
    """Of pairs of points (N, C) and whether they are similar (N): half the squared distance of similar ones, and of
    the others half of max(margin - distance, 0)^2 (legacy_version: max(margin - distance^2, 0)), an item."""

    no_force_backward = (2,)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        if bottom[0].channels != bottom[1].channels:
            raise CaffeError(f"bottoms 0 and 1 differ in channels: {bottom[0].shape} and {bottom[1].shape}")
        for index, blob in enumerate(bottom):
            sizes = (blob.height, blob.width) if index < 2 else (blob.channels, blob.height, blob.width)
            if any(size != 1 for size in sizes):
                wanted = "(N, C)" if index < 2 else "(N)"
                raise CaffeError(f"bottom {index}: shape {blob.shape}, {wanted} expected")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        if bottom[2].count < bottom[0].num:
            raise CaffeError(f"bottom 2: shape {bottom[2].shape} has fewer than {bottom[0].num} labels")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        count = bottom[0].num
        self._difference = (bottom[0].t - bottom[1].t.reshape(bottom[0].shape)).reshape(count, -1)
        self._squared = self._difference.square().sum(1)
        similar, margin = self._similar(bottom), self.p.margin
        if self.p.legacy_version:
            apart = (margin - self._squared).clamp(min=0)
        else:
            apart = (margin - self._squared.sqrt()).clamp(min=0).square()
        top[0].t = torch.where(similar, self._squared, apart).sum() / (2 * count)

    def _similar(self, bottom: list[Blob]) -> torch.Tensor:
        return bottom[2].t.reshape(-1)[: bottom[0].num].to(torch.int64) != 0

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if self.p.legacy_version:
            gap = self.p.margin - self._squared
            factor = -torch.ones_like(gap)
        else:
            distance = self._squared.sqrt()
            gap = self.p.margin - distance
            factor = -gap / (distance + 1e-4)  # BVLC's way past distance 0
        similar = self._similar(bottom)
        factor = torch.where(similar, torch.ones_like(gap), factor)
        apart = ~(similar | (gap > 0)).unsqueeze(1)  # these have no gradient, infinitely far apart or not
        for sign, blob, down in zip((1, -1), bottom, propagate_down):  # bottom 2 is left alone, whatever is asked
            if down:
                g = self._difference * (factor * (top[0].g * (sign / blob.num))).unsqueeze(1)
                blob.g = g.masked_fill_(apart, 0.0).reshape(blob.shape)


@layer(bottoms=2, tops=1)
class HingeLoss(LossLayer):
    """max(0, 1 - x) of the label's score and max(0, 1 + x) of the others: their sum (L1) or that of their squares (L2),
    an item. A NaN score counts 0."""

    def _direction(self, bottom: list[Blob]) -> torch.Tensor:
        """(N, classes): in which direction each score becomes worse."""
        count, classes = bottom[0].num, math.prod(bottom[0].shape[1:])
        label = bottom[1].t.reshape(-1)[:count]
        if label.numel() != count:
            raise CaffeError(f"bottom 1: shape {bottom[1].shape} has fewer than {count} labels")
        self._labels = Labels(label, count, 1, classes, None)
        return torch.ones(count, classes, device=label.device).scatter_(1, self._labels.safe, -1.0)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        margins = 1 + bottom[0].t.reshape(bottom[0].num, -1) * self._direction(bottom)
        margins = margins.clamp_(min=0).nan_to_num_(0.0, math.inf)
        bottom[0].g = margins.view(bottom[0].shape)  # where BVLC works them out, and its backward pass finds them
        if self.p.norm == caffe_pb2.HingeLossParameter.L2:
            margins = margins.square()
        top[0].t = margins.sum() / len(margins) + self._labels.fault

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            margins = bottom[0].g.reshape(bottom[0].num, -1)
            g = 2 * margins if self.p.norm == caffe_pb2.HingeLossParameter.L2 else margins.sign()
            bottom[0].g = (g * self._direction(bottom) * (top[0].g / len(margins))).view(bottom[0].shape)


@layer(bottoms=2, tops=1)
class MultinomialLogisticLoss(LossLayer):
    """-log of the probability (of bottom 0) of the label, an item; probabilities are clamped at 1e-20."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        if (bottom[1].channels, bottom[1].height, bottom[1].width) != (1, 1, 1):
            raise CaffeError(f"bottom 1: shape {bottom[1].shape}, one label an item expected")

    def _picked(self, bottom: list[Blob]) -> torch.Tensor:
        """(N, 1): the clamped probabilities of the labels."""
        x = bottom[0].t.reshape(bottom[0].num, -1)
        self._labels = Labels(bottom[1].t, len(x), 1, x.shape[1], None)
        return x.gather(1, self._labels.safe).clamp(min=LOG_THRESHOLD)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        picked = self._picked(bottom)
        top[0].t = -picked.log().sum() / len(picked) + self._labels.fault

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            picked = self._picked(bottom)
            # A clamped probability has this gradient, too.
            gradient = -(top[0].g / len(picked)) / picked
            zeros = torch.zeros(len(picked), bottom[0].count // len(picked), device=picked.device)
            bottom[0].g = zeros.scatter_(1, self._labels.safe, gradient).view(bottom[0].shape)


@layer(bottoms=(2, 3), tops=(1, 2))
class InfogainLoss(LossLayer):
    """-sum over k of H[label, k] log(softmax(x)[k]), summed and normalised as SoftmaxWithLoss's.

    H (classes x classes) is bottom 2, or the BlobProto in the file `source`. Probabilities are clamped at 1e-20."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        log.info("layer_factory.hpp:77", f"Creating layer {self.layer_param.name}")
        p = self.layer_param.loss_param
        if p.HasField("normalize"):
            raise CaffeError("loss_param.normalize: deprecated, use normalization")
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        self.mode = p.normalization
        self._matrix: torch.Tensor | None = None
        if len(bottom) < 3:
            if not self.p.HasField("source"):
                raise CaffeError("infogain_loss_param.source: missing (or give the matrix as bottom 2)")
            values = np.ascontiguousarray(read_blobproto(self.p.source), np.float32)
            self._matrix = torch.from_numpy(values.copy()).to(self.device)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        shape = bottom[0].shape
        self.axis = canonical_axis(self.p.axis, len(shape))
        self.outer, self.classes = math.prod(shape[: self.axis]), shape[self.axis]
        self.inner = math.prod(shape[self.axis + 1 :])
        check_label_count(bottom[1], self.outer * self.inner)
        count = bottom[2].count if len(bottom) > 2 else self._matrix.numel()
        if count != self.classes**2:
            raise CaffeError(f"infogain matrix: {count} values, {self.classes} x {self.classes} expected")
        if len(top) > 1:
            top[1].reshape(*shape)

    def _gains(self, bottom: list[Blob]) -> torch.Tensor:
        """(outer, classes, inner): the label's row of H."""
        matrix = bottom[2].t if len(bottom) > 2 else self._matrix
        self._labels = Labels(bottom[1].t, self.outer, self.inner, self.classes, self.ignore)
        return matrix.reshape(self.classes, self.classes)[self._labels.safe].transpose(1, 2)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t.reshape(self.outer, self.classes, self.inner)
        self._prob = torch.softmax(x, 1)
        loss = -(self._gains(bottom) * self._prob.clamp(min=LOG_THRESHOLD).log()).sum(1)
        loss = loss.where(self._labels.valid, torch.zeros_like(loss)).sum()
        divisor = normalizer(self.mode, self.outer, self.inner, self._labels.valid)
        top[0].t = loss / divisor + self._labels.fault
        if len(top) > 1:
            top[1].t = self._prob.view(top[1].shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if len(propagate_down) > 2 and propagate_down[2]:
            raise CaffeError("propagate_down: bottom 2 is the infogain matrix, which has no gradient")
        if propagate_down[0]:
            gains = self._gains(bottom)
            g = self._prob * gains.sum(1, keepdim=True) - gains
            clear_ignored(g, self._labels.valid.unsqueeze(1))
            g *= top[0].g / normalizer(self.mode, self.outer, self.inner, self._labels.valid)
            bottom[0].g = g.view(bottom[0].shape)


@layer(bottoms=2, tops=1)
class SigmoidCrossEntropyLoss(LossLayer):
    """-t log(p) - (1 - t) log(1 - p) of p = sigmoid(x) and targets t in [0, 1], summed over the values that count
    (whose target, cut to an integer, is not ignore_label) and normalised, if not told otherwise by the batch size."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        log.info("layer_factory.hpp:77", f"Creating layer {self.layer_param.name}")
        p = self.layer_param.loss_param
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        given = p.HasField("normalization") or p.HasField("normalize")
        self.mode = loss_normalization(p) if given else caffe_pb2.LossParameter.BATCH_SIZE

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        self.check_same_count(bottom)
        self.outer, self.inner = bottom[0].shape[0], math.prod(bottom[0].shape[1:])

    def _valid(self, target: torch.Tensor) -> torch.Tensor:
        if self.ignore is None:
            return torch.ones_like(target, dtype=torch.bool)
        return integers(target) != self.ignore

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, target = bottom[0].t, bottom[1].t.reshape(bottom[0].shape)
        valid = self._valid(target)
        loss = x.clamp(min=0) - x * target + torch.log1p(torch.exp(-x.abs()))
        self._prob = torch.sigmoid(x)
        self._divisor = normalizer(self.mode, self.outer, self.inner, valid)
        top[0].t = loss.where(valid, torch.zeros_like(loss)).sum() / self._divisor

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            target = bottom[1].t.reshape(bottom[0].shape)
            g = (self._prob - target).mul_(top[0].g / self._divisor)
            if self.ignore is not None:
                clear_ignored(g, self._valid(target))
            bottom[0].g = g


@layer(bottoms=2, tops=(1, 2))
class Accuracy(Layer):
    """The share of items whose label is among the top_k scores; ties count as wrong, NaN scores as right.

    Top 1, if asked for, is the share a class."""

    allows_in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.ignore = self.p.ignore_label if self.p.HasField("ignore_label") else None

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.axis = canonical_axis(self.p.axis, len(shape))
        self.outer, self.classes = math.prod(shape[: self.axis]), shape[self.axis]
        self.inner = math.prod(shape[self.axis + 1 :])
        if self.p.top_k > bottom[0].count // max(1, bottom[1].count):
            raise CaffeError(f"top_k: {self.p.top_k} is more than the number of classes")
        check_label_count(bottom[1], self.outer * self.inner)
        top[0].reshape(())
        if len(top) > 1:
            top[1].reshape(self.classes)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].t.reshape(self.outer, self.classes, self.inner)
        labels = Labels(bottom[1].t, self.outer, self.inner, self.classes, self.ignore)
        true = x.gather(1, labels.safe.unsqueeze(1))
        # The label's own score counts as one that is as good, hence <=; a NaN compares with nothing.
        hit = ((x >= true).sum(1) <= self.p.top_k) & labels.valid
        count = labels.valid.sum()
        top[0].t = (hit.sum() / count.clamp(min=1)).to(torch.float32) + labels.fault
        if len(top) > 1:
            zeros = torch.zeros(self.classes, device=x.device)
            index = labels.safe.reshape(-1)
            hits = zeros.scatter_add(0, index, hit.reshape(-1).to(torch.float32))
            totals = zeros.scatter_add(0, index, labels.valid.reshape(-1).to(torch.float32))
            top[1].t = hits / totals.clamp(min=1)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if any(propagate_down):
            raise CaffeError("propagate_down: Accuracy has no gradient")
