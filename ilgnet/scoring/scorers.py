"""P(high), or what another target's net says, of photos and of an LMDB's records, with either engine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.nets.targets import SCORES, TARGETS, Target, target_of
from ilgnet.photos import preprocess
from ilgnet.run import engine as engines
from ilgnet.weights import surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, upgrade

LOW, HIGH = 0, 1  # what the Softmax's indices mean
VERSION = 1  # of what becomes of a net's answer; raise it when that changes, so that caches forget


class Answer(NamedTuple):
    """A net's answer to one photo. margin: log(P(high) / P(low)), which goes on telling photos apart where P(high)
    rounds to 0 or 1. heat: (h, w) float32 in -1 to 1, or None: where the last module saw what raised (> 0) or lowered
    (< 0) the margin."""

    p_high: float
    margin: float
    heat: np.ndarray | None


class Scorer:
    """A deploy net with its weights and preprocessing.

    `net`: a deploy.prototxt, or the name of a variant; None: the variant that the weights are of. CaffeError unless
    every layer of the net that has parameters gets them from `weights`. heat: prepare for `answers(..., heat=True)`.
    precision: "bf16" or "int8" to round large inner products' weights to, on a CPU; what that does to the first photos'
    scores is printed.
    """

    def __init__(
        self,
        weights: Path | str,
        net: Path | str | None = None,
        preset: str | None = None,
        mean: Path | str | None = None,
        batch: int = 16,
        engine: str = "torch",
        gpu: int | None = None,
        heat: bool = False,
        precision: str | None = None,
    ):
        source = caffemodel.read_caffemodel(weights)
        self.net_path = str(net_for(source, weights) if net is None else deploy_path(net))
        self.weights = str(weights)
        caffe = engines.load_engine(engine, gpu)
        if heat:
            # Without a loss, Caffe's backward pass does nothing unless it is forced to.
            param = upgrade.read_net(self.net_path)
            param.force_backward = True
            self._net = engines.make_net(caffe, param, caffe.TEST, self.net_path)
        else:
            self._net = caffe.Net(self.net_path, caffe.TEST)
        missing = surgery.unloaded(engines.arrays(self._net), source)
        if missing:
            raise CaffeError(
                f"{weights}: nothing in it fits {len(missing)} layer(s) of {self.net_path} "
                f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): refusing to score"
            )
        self._net.copy_from(str(weights))
        if len(self._net.inputs) != 1 or len(self._net.outputs) != 1:
            raise CaffeError(
                f"{self.net_path}: {len(self._net.inputs)} inputs and {len(self._net.outputs)} outputs; "
                "a deploy net has one of each"
            )
        self._input, self._output = self._net.inputs[0], self._net.outputs[0]
        shape = tuple(self._net.blobs[self._input].data.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise CaffeError(f"{self.net_path}: input '{self._input}' has shape {shape}; expected N x 3 x H x W")
        self.preprocess = preprocess.make(preset, mean, shape[2:])
        self.batch, self._shape, self._precision = batch, shape[1:], precision
        self._names = list(self._net.layer_dict)
        self._logits, self.target = self._learned()
        self.module = self._last_module()

    @property
    def meaning(self) -> str:
        """Which number of the net's answer means what."""
        if self.target.label:
            return f"'{self._output}': {self.target.answer}"
        return f"'{self._output}': index {LOW} means low, index {HIGH} means high aesthetic quality"

    def _producer(self, blob: str) -> int:
        """The number of the last layer that writes a blob (behind its in-place layers)."""
        return max(i for i, name in enumerate(self._names) if blob in self._net.top_names[name])

    def _learned(self) -> tuple[str, Target]:
        """(the blob of the last layer with weights, what the net has learned, by that layer's name)."""
        last = self._producer(self._output)
        kind, target = self._net.layers[last].type, target_of(self._names[last])
        if kind == "InnerProduct" and target is not None and target.outputs == 1:
            return self._output, target
        if kind != "Softmax":
            raise CaffeError(f"{self.net_path}: output '{self._output}' comes from a {kind} layer; expected Softmax")
        logits = self._net.bottom_names[self._names[last]][0]
        return logits, target_of(self._names[self._producer(logits)]) or TARGETS["classes"]

    def _last_module(self) -> str | None:
        """The blob that the last pooling reads: the last module's output, the last that knows of places."""
        pools = [name for i, name in enumerate(self._names) if self._net.layers[i].type == "Pooling"]
        return self._net.bottom_names[pools[-1]][0] if pools else None

    def rows(self, arrays: np.ndarray) -> np.ndarray:
        """The net's answers, (n, target.outputs) float32, to preprocessed photos (n, 3, H, W)."""
        blob = self._net.blobs[self._input]
        if blob.data.shape[0] != len(arrays):
            blob.reshape(len(arrays), *self._shape)
            self._net.reshape()
        self._net.blobs[self._input].data[...] = arrays
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
        return np.array(self._net.blobs[self._output].data, dtype=np.float32).reshape(count, -1)

    def _round(self, exact: np.ndarray) -> np.ndarray:
        """The answers, and all later ones, with rounded weights instead of exact ones."""
        precision, self._precision = self._precision, None
        layers = self._net.reduce_weights(precision)
        rows = self._forward(len(exact))
        moved = max(abs(self.number(a) - self.number(b)) for a, b in zip(rows, exact))
        effect = f"{', '.join(layers)}: the scores of the first {len(rows)} photo(s) move by at most {moved:.2g}"
        print(f"{precision} weights in {effect if layers else 'no layer (none is large)'}", file=sys.stderr)
        return rows

    def number(self, row: np.ndarray) -> float:
        """One answer as one number, higher for better photos: P(high), the (expected) mean vote, or a rank."""
        if self.target.outputs == SCORES:
            return float(np.dot(np.arange(1, SCORES + 1), row.astype(np.float64)))
        return float(row[0 if self.target.outputs == 1 else HIGH])

    def inputs(self, arrays: np.ndarray) -> np.ndarray:
        """P(high), (n,) float32, of preprocessed photos (n, 3, H, W). CaffeError for a net of another target."""
        if self.target.label:
            raise CaffeError(f"{self.net_path}: answers {self.target.answer}; P(high) is what a two-class net says")
        return self.rows(arrays)[:, HIGH]

    def features(self, blobs: Iterable[str]) -> dict[str, np.ndarray]:
        """A copy of each blob, (n, ...) float32, of the photos that the net has just seen. CaffeError for no blob."""
        for name in blobs:
            if name not in self._net.blobs:
                raise CaffeError(f"{self.net_path}: no blob '{name}' in it")
        return {name: np.array(self._net.blobs[name].data, dtype=np.float32) for name in blobs}

    def has_blob(self, name: str) -> bool:
        return name in self._net.blobs

    def answers(self, arrays: np.ndarray, heat: bool = False) -> list[Answer]:
        """All that the net says of preprocessed photos (n, 3, H, W)."""
        p_high = self.inputs(arrays)
        logits = self._net.blobs[self._logits].data.reshape(len(arrays), 2).astype(np.float64)
        maps = self._heat() if heat and self.module else [None] * len(arrays)
        return [Answer(float(p), float(z[HIGH] - z[LOW]), m) for p, z, m in zip(p_high, logits, maps)]

    def _heat(self) -> np.ndarray:
        """(n, h, w): Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2) of the margin on the last module, of the
        photos that the net has just seen. Without the paper's ReLU: what lowered the margin is worth seeing, too."""
        blob, top = self._net.blobs[self.module], self._net.blobs[self._logits]
        diff = np.zeros(top.data.shape, np.float32)
        diff.reshape(-1, 2)[:, LOW], diff.reshape(-1, 2)[:, HIGH] = -1, 1
        top.diff[...] = diff
        behind = self._names[self._producer(self.module) + 1]
        self._net.backward(start=self._names[self._producer(self._logits)], end=behind)
        weights = blob.diff.mean(axis=(2, 3), keepdims=True)
        maps = (weights * blob.data).sum(axis=1)
        peak = np.abs(maps).max(axis=(1, 2), keepdims=True)
        return (maps / np.where(peak > 0, peak, 1)).astype(np.float32)

    def stream_rows(self, photos: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The net's answer to each preprocessed photo, whatever their number: the last batch is just smaller."""
        batch: list[np.ndarray] = []
        for photo in photos:
            batch.append(photo)
            if len(batch) == self.batch:
                yield from self.rows(np.stack(batch))
                batch = []
        if batch:
            yield from self.rows(np.stack(batch))

    def stream(self, photos: Iterable[np.ndarray]) -> Iterator[float]:
        """The answer to each preprocessed photo as one number (see `number`): P(high) of a two-class net."""
        return map(self.number, self.stream_rows(photos))


def score(
    paths: Iterable[Path | str] | Path | str,
    weights: Path | str,
    net: Path | str | None = None,
    preset: str | None = None,
    mean: Path | str | None = None,
    batch: int = 16,
    engine: str = "torch",
    gpu: int | None = None,
) -> list[float]:
    """P(high aesthetic quality) of each photo, in [0, 1]; of a net for the distribution or the mean of votes the mean,
    1 to 10; of a ranking net a number that only orders.

    net: a deploy.prototxt or a variant's name (default: the one the weights are of). preset: "lmdb" (needs mean) or
    "direct"; by default lmdb where a mean file is given. CaffeError for a photo that cannot be read.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    scorer = Scorer(weights, net, preset, mean, batch, engine, gpu)
    return list(scorer.stream(scorer.preprocess.photo(preprocess.read_photo(path)) for path in paths))


def deploy_path(net: Path | str) -> Path:
    """A variant's committed deploy.prototxt for its name; any other text is a path already."""
    from ilgnet.nets import emit
    from ilgnet.nets.variants import VARIANTS

    return emit.ROOT / str(net) / "deploy.prototxt" if str(net) in VARIANTS else Path(net)


def net_for(source: list[caffemodel.LayerBlobs], weights: Any) -> Path:
    """The committed deploy.prototxt of the variant whose layers with parameters are exactly those of the weights."""
    from ilgnet.nets.variants import VARIANTS

    kinds = ("Convolution", "InnerProduct", "BatchNorm", "Scale")
    have = {layer.name for layer in source if layer.blobs}
    for name in VARIANTS:
        path = deploy_path(name)
        if path.is_file() and {lp.name for lp in upgrade.read_net(path).layer if lp.type in kinds} == have:
            return path
    raise CaffeError(f"{weights}: the weights of none of {', '.join(VARIANTS)}; give the deploy net (--net)")
