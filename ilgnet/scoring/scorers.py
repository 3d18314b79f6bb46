"""A net that scores preprocessed photos, with either engine."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ilgnet.nets import emit
from ilgnet.nets.targets import SCORES, TARGETS, Target, target_of
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import preprocess
from ilgnet.run import engine as engines
from ilgnet.scoring import answers
from ilgnet.scoring.answers import HIGH, LOW, Answer
from ilgnet.weights import models, surgery
from torchcaffe.base.errors import CaffeError, located
from torchcaffe.formats import upgrade

T = TypeVar("T")
VERSION = 1  # raise it when scores or heat maps change, so that caches forget the old ones


@dataclass
class Settings:
    """What to score with. weights: see models.find. net: see deploy_net; by default the net that the weights are of.
    preset, mean: see preprocess.make. precision: on a CPU, "bf16" or "int8" rounds the weights of large inner
    products."""

    weights: Path | str | None = None
    net: Path | str | None = None
    preset: str | None = None
    mean: Path | str | None = None
    batch: int = 16
    engine: str = "torch"
    gpu: int | None = None
    precision: str | None = None


class NetScorer:
    """A deploy net with its weights and preprocessing. heat: prepare for `answers`.

    With a precision, the change of the first photos' scores is printed. CaffeError unless the weights hold the
    parameters of every layer."""

    def __init__(self, settings: Settings, heat: bool = False):
        weights = self.weights = str(models.find(settings.weights))
        source = surgery.read_weights(weights)
        # a prototxt, or a variant's name
        self.net_path = net_for(source, weights) if settings.net is None else str(settings.net)
        param = deploy_net(self.net_path)
        self.title = param.name
        caffe = engines.load_engine(settings.engine, settings.gpu)
        param.force_backward = heat  # without a loss, Caffe's backward pass does nothing unless it is forced
        self._net = engines.make_net(caffe, param, caffe.TEST, self.net_path)
        surgery.refuse_unloaded(engines.arrays(self._net), source, weights, self.net_path)
        self._net.copy_from(weights)
        if len(self._net.inputs) != 1 or len(self._net.outputs) != 1:
            raise CaffeError(
                f"{self.net_path}: {len(self._net.inputs)} inputs and {len(self._net.outputs)} outputs; "
                "a deploy net has one of each"
            )
        (self._input,), (self._output,) = self._net.inputs, self._net.outputs
        self.blobs = self._net.blobs
        shape = tuple(self.blobs[self._input].data.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise CaffeError(f"{self.net_path}: input '{self._input}' has shape {shape}; expected N x 3 x H x W")
        self.preprocess = self._preprocess(settings, shape[2:])
        self.batch, self._shape, self._precision = settings.batch, shape[1:], settings.precision
        self._names = list(self._net.top_names)
        self._logits, self.target = self._learned()
        self._with_heat = heat
        self.module = self._last_module()

    def _preprocess(self, settings: Settings, size: tuple[int, int]) -> preprocess.Preprocess:
        """As the settings say, else as the variant wants it, else with the mean that the model's card names."""
        known = VARIANTS.get(self.net_path)
        preset, mean = settings.preset, settings.mean
        if preset is None and known and known.preset:
            return preprocess.make(known.preset, None, size)
        if preset in (None, "lmdb") and mean is None:
            mean = models.mean_of(self.weights)
        return preprocess.make(preset, mean, size)

    @property
    def meaning(self) -> str:
        """What the numbers of the net's answer mean."""
        if self.target.label:
            return f"'{self._output}': {self.target.answer}"
        return f"'{self._output}': index {LOW} means low, index {HIGH} means high aesthetic quality"

    def _producer(self, blob: str) -> int:
        """The number of the last layer that writes a blob, after its in-place layers."""
        return max(i for i, name in enumerate(self._names) if blob in self._net.top_names[name])

    def _learned(self) -> tuple[str, Target]:
        """(blob of the last layer with weights, the net's target, by that layer's name)."""
        last = self._producer(self._output)
        kind, target = self._net.layers[last].type, target_of(self._names[last])
        if kind == "InnerProduct" and target is not None and target.outputs == 1:
            return self._output, target
        if kind != "Softmax":
            raise CaffeError(f"{self.net_path}: output '{self._output}' comes from a {kind} layer; expected Softmax")
        logits = self._net.bottom_names[self._names[last]][0]
        return logits, target_of(self._names[self._producer(logits)]) or TARGETS["classes"]

    def _last_module(self) -> str | None:
        """The blob that the last pooling reads: the last module's output, and the last with positions."""
        pools = [name for i, name in enumerate(self._names) if self._net.layers[i].type == "Pooling"]
        return self._net.bottom_names[pools[-1]][0] if pools else None

    def rows(self, arrays: np.ndarray) -> np.ndarray:
        """The net's answers, (n, target.outputs) float32, for preprocessed photos (n, 3, H, W)."""
        blob = self.blobs[self._input]
        if blob.data.shape[0] != len(arrays):
            blob.reshape(len(arrays), *self._shape)
            self._net.reshape()
        blob.data[...] = arrays
        rows = self._forward(len(arrays))
        if self._precision is not None:
            rows = self._round(rows)
        if rows.shape[1] != self.target.outputs:
            raise CaffeError(
                f"{self.net_path}: output '{self._output}' has {rows.shape[1]} values a photo, not "
                f"{self.target.outputs}"
            )
        return rows

    def _forward(self, count: int) -> np.ndarray:
        self._net.forward()
        return np.array(self.blobs[self._output].data, dtype=np.float32).reshape(count, -1)

    def _round(self, exact: np.ndarray) -> np.ndarray:
        """Round the weights, and answer again."""
        precision, self._precision = self._precision, None
        layers = self.reduce_weights(precision)
        rows = self._forward(len(exact))
        moved = max(abs(self.number(a) - self.number(b)) for a, b in zip(rows, exact))
        effect = f"{', '.join(layers)}: the scores of the first {len(rows)} photo(s) move by at most {moved:.2g}"
        print(f"{precision} weights in {effect if layers else 'no layer (none is large)'}", file=sys.stderr)
        return rows

    def reduce_weights(self, precision: str | None) -> list[str]:
        """Round the weights of large inner products; returns their layers' names."""
        return self._net.reduce_weights(precision)

    def number(self, row: np.ndarray) -> float:
        """An answer as one number, higher for better photos: P(high), the (expected) mean vote, or a rank."""
        return float(answers.mean_votes(self.target, row[None])[0] if self.target.label else row[HIGH])

    def features(self, blobs: Iterable[str]) -> dict[str, np.ndarray]:
        """A copy of each blob, (n, ...) float32, for the last photos. CaffeError for an unknown blob."""
        for name in blobs:
            if name not in self.blobs:
                raise CaffeError(f"{self.net_path}: no blob '{name}' in it")
        return {name: np.array(self.blobs[name].data, dtype=np.float32) for name in blobs}

    def answers(self, arrays: np.ndarray) -> list[Answer]:
        """The Answers to preprocessed photos (n, 3, H, W); with heat maps where it was made for them. CaffeError for a
        ranking net."""
        with located(self.net_path):
            answers.predicts_votes(self.target)
        rows = self.rows(arrays)
        found = answers.read(self.target, rows, self.blobs[self._logits].data.reshape(rows.shape))
        if self._with_heat and self.module:
            found = [answer._replace(heat=heat) for answer, heat in zip(found, self._heat(self.module, rows))]
        return found

    def _heat(self, module: str, rows: np.ndarray) -> np.ndarray:
        """(n, h, w): Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2) of the margin or the mean vote on a module,
        for the last photos. Without the paper's ReLU, so that it also shows what lowered it."""
        blob, top = self.blobs[module], self.blobs[self._logits]
        if self.target.outputs == SCORES:  # d mean / d logit k = share k * (k - mean)
            means = answers.mean_votes(self.target, rows)[:, None]
            gradient = rows * (np.arange(1, SCORES + 1) - means)
        else:
            gradient = np.broadcast_to([1.0] if self.target.label else [-1.0, 1.0], rows.shape)  # [low, high]
        top.diff[...] = gradient.reshape(top.data.shape)
        behind = self._names[self._producer(module) + 1]
        self._net.backward(start=self._names[self._producer(self._logits)], end=behind)
        weights = blob.diff.mean(axis=(2, 3), keepdims=True)
        maps = (weights * blob.data).sum(axis=1)
        peak = np.abs(maps).max(axis=(1, 2), keepdims=True)
        return (maps / np.where(peak > 0, peak, 1)).astype(np.float32)

    def stream_rows(self, photos: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The net's answer to each preprocessed photo."""
        for batch in batched(photos, self.batch):
            yield from self.rows(np.stack(batch))

    def stream(self, photos: Iterable[np.ndarray]) -> Iterator[float]:
        """The answer to each preprocessed photo as one number (see `number`): P(high) of a two-class net."""
        return map(self.number, self.stream_rows(photos))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may be shorter."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def deploy_net(net: Path | str) -> Any:
    """The NetParameter of a deploy net: of a variant's name, of VARIANT:TARGET for one that learns another target, else
    of a prototxt."""
    variant, _, target = str(net).partition(":")
    if variant in VARIANTS and (not target or target in TARGETS):
        return emit.deploy(emit.Choice(variant, target=target))
    return upgrade.read_net(net)


KINDS = ("Convolution", "InnerProduct", "BatchNorm", "Scale")  # layers with weights


def net_for(source: list[surgery.Layer], weights: Path | str) -> str:
    """The net, as `deploy_net` takes it, whose layers with parameters are exactly those of the weights. The caffemodel
    of a net that learns from votes also holds fixed layers of its loss, by which votes are summed up."""
    have = {layer.name for layer in source if layer.blobs}
    fixed = {name for name in have if name.endswith("running_sums")}
    for name, variant in VARIANTS.items():
        for target in TARGETS.values() if variant.paper else [TARGETS[variant.target]]:
            net = name if target.name == variant.target else f"{name}:{target.name}"
            layers = {layer.name for layer in deploy_net(net).layer if layer.type in KINDS}
            if layers in (have, have - fixed):
                return net
    raise CaffeError(f"{weights}: the weights of none of {', '.join(VARIANTS)}; give the deploy net (--net)")
