"""For products: a Scorer that is loaded once and scores photos from files, bytes and arrays."""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.photos import decode
from ilgnet.scoring.scorers import NetScorer, Settings, batched
from ilgnet.weights import models
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError

ORDERS = ("rgb", "bgr")


@dataclass(frozen=True)
class Score:
    """What a model says of one item, or why it could not be scored.

    p_high: P(high aesthetic quality); of a model that predicts votes, P(mean vote > 5). mean_vote: 1 to 10; spread: the
    standard deviation of the votes; shares: of the votes 1 to 10. They are None where the model does not say, and all
    are None where there is an error."""

    p_high: float | None = None
    mean_vote: float | None = None
    spread: float | None = None
    shares: tuple[float, ...] | None = None
    error: str | None = None


class Scorer:
    """A model, loaded once. Threads may share it.

    weights: a caffemodel, or the name of an installed model (`ilgnet fetch-weights --list`); by default the first
    installed of the authors' ILGNet for AVA1, NIMA and a taught ILGNet. net: a deploy.prototxt or a variant's name
    (default: the variant that the weights are of). preset, mean: how photos are prepared (default: as the model's card
    says). batch: photos at a time. gpu: a CUDA device's number. CaffeError for a model that cannot be loaded."""

    def __init__(
        self,
        weights: Path | str | None = None,
        net: Path | str | None = None,
        preset: str | None = None,
        mean: Path | str | None = None,
        batch: int = 16,
        engine: str = "torch",
        gpu: int | None = None,
    ):
        self.weights = models.find(weights)
        self.card = models.card(self.weights)
        with log.quiet():
            self._net = NetScorer(Settings(self.weights, net, preset, mean, batch, engine, gpu))
        self._lock = threading.Lock()

    def score(self, items: Any, order: str = "rgb") -> list[Score]:
        """One Score for each item, in order: a path, an encoded picture's bytes, a PIL image, or a uint8 array
        (H, W, 3) or (H, W) whose channels are in `order`, "rgb" or "bgr". One item may be given alone.

        An item that cannot be read has its error in its Score. TypeError or ValueError for an unknown order."""
        if order not in ORDERS:
            raise ValueError(f"order {order!r}: one of {', '.join(ORDERS)}")
        found: list[Score] = []
        for batch in batched(_items(items), self._net.batch):
            scores: list[Score | None] = [None] * len(batch)
            arrays = []
            for i, item in enumerate(batch):
                try:
                    arrays.append(self._net.preprocess.photo(_pixels(item, order)))
                except (CaffeError, OSError, MemoryError) as error:
                    scores[i] = Score(error=str(error) or type(error).__name__)
            if arrays:
                with self._lock:
                    answers = iter(self._net.answers(np.stack(arrays)))
                for i in (i for i, score in enumerate(scores) if score is None):
                    answer = next(answers)
                    shares = None if answer.shares is None else tuple(answer.shares.tolist())
                    scores[i] = Score(answer.p_high, answer.mean_vote, answer.spread, shares)
            found += filter(None, scores)
        return found


def _items(items: Any) -> Iterable[Any]:
    """An iterable of items; a single item becomes a list."""
    if isinstance(items, np.ndarray):
        return items if items.ndim == 4 else [items]
    single = isinstance(items, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(items, "convert")
    return [items] if single else items


def _pixels(item: Any, order: str) -> np.ndarray:
    """An item as (H, W, 3) uint8, BGR. CaffeError for anything that is not a picture."""
    if isinstance(item, (str, os.PathLike)):
        return decode.read(Path(item)).bgr
    if isinstance(item, (bytes, bytearray, memoryview)):
        return decode.decode(bytes(item), "photo").bgr
    if hasattr(item, "convert"):  # a PIL image
        try:
            item, order = np.asarray(item.convert("RGB")), "rgb"
        except Exception as error:  # Pillow reads pixels only now, and its readers raise many types for broken files
            raise CaffeError(f"not a picture, or a broken one ({error})") from None
    if not isinstance(item, np.ndarray):
        raise CaffeError(f"{type(item).__name__}: expected a path, bytes, a PIL image or an array")
    if item.ndim == 2:
        item = np.repeat(item[:, :, None], 3, axis=2)
    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
        raise CaffeError(f"array of {item.dtype}, shape {item.shape}: expected uint8, (H, W, 3) or (H, W)")
    return np.ascontiguousarray(item[:, :, ::-1] if order == "rgb" else item)


def score(items: Any, weights: Path | str | None = None, net: Path | str | None = None, **settings: Any) -> list[float]:
    """One number for each item, higher for better photos: P(high), or the mean vote where the model predicts votes.
    weights, net, settings: as Scorer takes them. CaffeError for an item that cannot be read."""
    found = Scorer(weights, net, **settings).score(items)
    for number, one in enumerate(found, 1):
        if one.error is not None:
            raise CaffeError(f"item {number}: {one.error}")
    return [one.p_high if one.mean_vote is None else one.mean_vote for one in found]  # type: ignore[misc]
