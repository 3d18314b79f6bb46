"""What a net's answer to a photo means: P(high), and for a net that predicts people's votes also their mean, spread and
shares."""

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtr

from ilgnet.ava.labels import CUT
from ilgnet.nets.targets import SCORES, Target
from torchcaffe.base.errors import CaffeError

LOW, HIGH = 0, 1  # indices of a two-class Softmax
# The standard error of a predicted mean vote, by which it becomes P(mean > 5). The published linear correlation of
# idealo's NIMA with AVA's mean votes is 0.626, and their standard deviation is 0.73: 0.73 * sqrt(1 - 0.626^2).
ERROR = 0.57
_SCORES = np.arange(1, SCORES + 1)


class Answer(NamedTuple):
    """A net's answer to one photo.

    p_high: P(high), or for a net that predicts votes P(mean vote > 5). margin: log(p_high / (1 - p_high)), which orders
    photos even where p_high rounds to 0 or 1. heat: (h, w) float32 from -1 to 1: where the last module saw something
    that raised (> 0) or lowered (< 0) the margin. mean_vote: from 1 to 10; shares: (10,) of the votes 1 to 10, summing
    to 1. What a net does not say is None."""

    p_high: float
    margin: float
    heat: np.ndarray | None = None
    mean_vote: float | None = None
    shares: np.ndarray | None = None

    @property
    def spread(self) -> float | None:
        """The standard deviation of the votes: how much people disagree."""
        return None if self.shares is None else float(spreads(self.shares[None])[0])


def mean_votes(target: Target, rows: np.ndarray) -> np.ndarray:
    """(n,) float64: the mean votes that answers (n, target.outputs) predict."""
    rows = rows.astype(np.float64)
    return rows @ _SCORES if target.outputs == SCORES else rows[:, 0]


def spreads(shares: np.ndarray) -> np.ndarray:
    """(n,) float64: the standard deviations of votes with these shares (n, 10)."""
    shares = shares.astype(np.float64)
    means = shares @ _SCORES
    return np.sqrt(np.maximum(shares @ _SCORES**2 - means**2, 0))


def above_cut(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P(mean > 5), its log odds) of predicted mean votes, with normal errors of ERROR."""
    z = (means - CUT) / ERROR
    return ndtr(z), log_ndtr(z) - log_ndtr(-z)


def predicts_votes(target: Target) -> bool:
    """Whether it answers mean votes. CaffeError for a ranking, whose scores have neither a unit nor a cut."""
    if target.name == "ranking":
        raise CaffeError(f"answers {target.answer}: neither two classes nor votes")
    return target.label is not None


def read(target: Target, rows: np.ndarray, logits: np.ndarray) -> list[Answer]:
    """The Answers, without heat maps, of a net's output (n, target.outputs); logits: what its Softmax reads."""
    if not predicts_votes(target):
        z = logits.astype(np.float64)
        return [Answer(float(row[HIGH]), float(m)) for row, m in zip(rows, z[:, HIGH] - z[:, LOW])]
    means = mean_votes(target, rows)
    columns = zip(*(column.tolist() for column in (*above_cut(means), means)), rows)
    distribution = target.outputs == SCORES
    return [Answer(p, margin, None, mean, row if distribution else None) for p, margin, mean, row in columns]
