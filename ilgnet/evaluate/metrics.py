"""Metrics of a two-class test: accuracy with its interval, AUC, calibration and correlations (NumPy only).

All arrays are (n,): `labels` are 0 (low) or 1 (high), `p_high` is the net's probability of "high" (index 1 of the
Softmax), and `scores` orders the photos. A two-class net's score is its margin, log P(high) / P(low), since P(high)
rounds to 1 in float32 from a margin of about 17.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ilgnet.evaluate.results import Bin, Calibration, Comparison, Figures, Mean, Proportion, Spread
from torchcaffe.base.errors import CaffeError

Z95 = 1.959963984540054  # the standard normal's 97.5% quantile


def wilson(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson 1927), as (low, high); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, float(centre - half))
    high = 1.0 if correct == n else min(1.0, float(centre + half))
    return low, high


def predictions(labels: np.ndarray, p_high: np.ndarray) -> np.ndarray:
    """The answered class, (n,). A tie (exactly 0.5) counts as the wrong class, as in Caffe's Accuracy layer."""
    return np.where(p_high == 0.5, 1 - labels, (p_high > 0.5).astype(int))


def confusion(labels: np.ndarray, p_high: np.ndarray) -> np.ndarray:
    """(2, 2) counts: a row for each true class, a column for each answer."""
    matrix = np.zeros((2, 2), dtype=np.int64)
    np.add.at(matrix, (labels, predictions(labels, p_high)), 1)
    return matrix


def balanced_accuracy(matrix: np.ndarray) -> float:
    """The mean of both classes' recalls; NaN when a class is absent."""
    totals = matrix.sum(axis=1)
    return float(np.mean(np.diag(matrix) / totals)) if totals.all() else float("nan")


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[inverse.reshape(-1)]


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve = P(a high photo scores above a low one), ties counting half (Mann-Whitney's U)."""
    positives, negatives = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    if not positives or not negatives:
        return float("nan")
    u = ranks(scores)[labels == 1].sum() - positives * (positives + 1) / 2.0
    return float(u / (positives * negatives))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """sum of (R_k - R_{k-1}) P_k over the distinct thresholds, highest first; NaN without a positive."""
    positives = int(np.sum(labels == 1))
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(labels[order] == 1)
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits, answered = hits[last_of_tie], (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(np.concatenate(([0], hits))) * hits / answered) / positives)


def reliability(labels: np.ndarray, p_high: np.ndarray, bins: int = 10) -> list[Bin]:
    """The bins of p_high that hold photos."""
    index = np.minimum((p_high * bins).astype(int), bins - 1)
    table = []
    for b in range(bins):
        chosen = index == b
        if chosen.any():
            table.append(
                Bin(
                    low=b / bins,
                    high=(b + 1) / bins,
                    n=int(chosen.sum()),
                    p_high=float(np.mean(p_high[chosen])),
                    observed=float(np.mean(labels[chosen] == 1)),
                )
            )
    return table


def expected_calibration_error(labels: np.ndarray, p_high: np.ndarray, bins: int = 10) -> float:
    """Mean |observed share - mean probability| over the bins, weighted by their counts (Naeini et al., AAAI 2015)."""
    table = reliability(labels, p_high, bins)
    return float(sum(b.n * abs(b.observed - b.p_high) for b in table) / len(labels))


def margins(p_high: np.ndarray, p_low: np.ndarray | None = None) -> np.ndarray:
    """log P(high) / P(low), both clamped at FLT_MIN as SoftmaxWithLoss does. Without p_low the rounding of p_high
    limits the margin."""
    p_high = np.asarray(p_high, dtype=np.float64)
    p_low = 1.0 - p_high if p_low is None else np.asarray(p_low, dtype=np.float64)
    high, low = (np.log(np.maximum(p, np.finfo(np.float32).tiny)) for p in (p_high, p_low))
    return high - low


def log_loss(labels: np.ndarray, margin: np.ndarray) -> float:
    """SoftmaxWithLoss's loss: mean -log P(true class), which is log(1 + exp(-margin)) for a high photo."""
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -margin, margin))))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two (n,) arrays; NaN when one of them is constant."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if np.all(x == x[0]) or np.all(y == y[0]):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # Scale first: squares of tiny differences would underflow.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation (Pearson's of the ranks, ties averaged)."""
    return pearson(ranks(np.asarray(x)), ranks(np.asarray(y)))


def emd(p: np.ndarray, q: np.ndarray, r: float = 1) -> np.ndarray:
    """(n,) earth mover's distances between two (n, bins) arrays of shares, (mean over bins of |CDF_p - CDF_q|^r)^(1/r),
    as in NIMA (Talebi and Milanfar 2018), which reports r = 1 and trains with r = 2."""
    difference = np.cumsum(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64), axis=1)
    return np.mean(np.abs(difference) ** r, axis=1) ** (1 / r)


def best_cut(labels: np.ndarray, scores: np.ndarray) -> float:
    """The cut between two neighbouring scores that gives the best balanced accuracy when photos above it count as high;
    the lowest of equally good ones. CaffeError when a class is absent."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not (labels == 1).any() or not (labels == 0).any():
        raise CaffeError("a cut needs photos of both classes")
    order = np.argsort(scores, kind="mergesort")
    scores, high = scores[order], labels[order] == 1
    gain = np.cumsum(~high) / (~high).sum() - np.cumsum(high) / high.sum()
    between = np.flatnonzero(np.diff(scores) > 0)
    if not len(between):
        return float(scores[0])
    best = between[np.argmax(gain[between])]
    return float((scores[best] + scores[best + 1]) / 2)


def cut_summary(labels: np.ndarray, scores: np.ndarray, cut: float | None) -> Figures:
    """Two-class figures of scores on any scale; above `cut` is high. Without a cut, only the figures that need none."""
    labels, scores = np.asarray(labels).astype(int), np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        first = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise CaffeError(f"metrics: record {first}: its score is {scores[first]}")
    figures = Figures(
        n=len(labels),
        classes=["low", "high"],
        cut=cut,
        accuracy=None,
        majority_baseline=majority(labels),
        auc=auc(labels, scores),
        average_precision=average_precision(labels, scores),
    )
    if cut is not None:
        matrix = confusion(labels, (scores > cut).astype(float))
        figures.accuracy = proportion(int(np.trace(matrix)), len(labels))
        figures.balanced_accuracy = balanced_accuracy(matrix)
        figures.confusion = matrix.tolist()
    return figures


def spread(values: Any) -> Spread:
    """The Spread of a figure's values."""
    values = np.asarray(values, dtype=np.float64)
    return Spread(
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        min=float(values.min()),
        max=float(values.max()),
        runs=len(values),
    )


def cohens_d(a: np.ndarray, b: np.ndarray) -> float:
    """(mean a - mean b) over the pooled standard deviation (J. Cohen 1988); NaN when neither varies."""
    n, m = len(a), len(b)
    if n + m < 3:
        return float("nan")
    pooled = np.sqrt(
        ((n - 1) * np.var(a, ddof=1 if n > 1 else 0) + (m - 1) * np.var(b, ddof=1 if m > 1 else 0)) / (n + m - 2)
    )
    return float((np.mean(a) - np.mean(b)) / pooled) if pooled > 0 else float("nan")


def permutation_test(a: np.ndarray, b: np.ndarray, rounds: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of a permutation test of the difference of two means (Fisher, Pitman).

    The observed order counts as one more than the `rounds` random ones, so it is never 0 (Phipson and Smyth 2010)."""
    together = np.concatenate([a, b]).astype(np.float64)
    together = together - together.mean()  # the sum of one group alone now orders the differences
    observed = abs(together[: len(a)].sum())
    rng = np.random.default_rng(seed)
    take = min(len(a), len(b))  # the sum of the smaller group; the other's is its negative
    extreme = 0
    for _ in range(rounds):
        shuffled = together[rng.choice(len(together), take, replace=False, shuffle=False)]
        # Sums of the same values in another order may differ in the last bits.
        extreme += abs(shuffled.sum()) >= observed * (1 - 1e-12)
    return (extreme + 1) / (rounds + 1)


def compare_groups(high: np.ndarray, low: np.ndarray, rounds: int = 9999) -> Comparison:
    """Whether a measure differs between high and low photos: both means, the p-value of their difference, effect sizes.

    p_superior: P(a high photo's value is above a low one's), ties counting half. CaffeError for an empty group."""
    if not len(high) or not len(low):
        raise CaffeError(f"{len(high)} high and {len(low)} low photos: a comparison needs both")
    labels = np.repeat([1, 0], [len(high), len(low)])
    return Comparison(
        high=Mean(mean=float(np.mean(high)), n=len(high)),
        low=Mean(mean=float(np.mean(low)), n=len(low)),
        difference=float(np.mean(high) - np.mean(low)),
        cohens_d=cohens_d(high, low),
        p_superior=auc(labels, np.concatenate([high, low])),
        p_value=permutation_test(high, low, rounds),
        rounds=rounds,
    )


def proportion(correct: int, n: int) -> Proportion:
    """A proportion with its 95% Wilson interval."""
    low, high = wilson(correct, n)
    return Proportion(value=correct / n if n else float("nan"), low=low, high=high, correct=correct, n=n)


def majority(labels: np.ndarray) -> Proportion:
    """The accuracy of always answering the commoner class."""
    high = int(np.sum(labels == 1))
    found = proportion(max(high, len(labels) - high), len(labels))
    found.answer = "high" if 2 * high >= len(labels) else "low"
    return found


def first_batches(labels: np.ndarray, p_high: np.ndarray, batch: int, batches: int = 50) -> Proportion:
    """What `caffe test` with its default 50 iterations reports: the accuracy on the first photos in key order, starting
    again at the end. The interval counts each photo once, since a photo met again adds no evidence."""
    index = np.arange(batch * batches) % len(labels)
    right = predictions(labels, p_high) == labels
    found = proportion(int(right[: len(index)].sum()), min(len(index), len(labels)))
    found.value, found.batch, found.batches = float(np.mean(right[index])), batch, batches
    return found


def summary(labels: np.ndarray, p_high: np.ndarray, margin: np.ndarray | None = None) -> Figures:
    """All figures of one test. Without margin, it is computed from p_high.

    CaffeError for labels that are not 0 or 1 and probabilities outside [0, 1]."""
    labels, p_high = np.asarray(labels), np.asarray(p_high, dtype=np.float64)
    if labels.shape != p_high.shape or labels.ndim != 1 or not len(labels):
        raise CaffeError(f"metrics: labels {labels.shape}, p_high {p_high.shape}: must be two equal, non-empty lists")
    for name, bad in (
        ("label is not 0 or 1", ~np.isin(labels, (0, 1))),
        ("p_high is not in [0, 1]", ~((p_high >= 0) & (p_high <= 1))),
    ):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise CaffeError(f"metrics: record {first}: {name} (label {labels[first]}, p_high {p_high[first]})")
    labels = labels.astype(int)
    margin = margins(p_high) if margin is None else margin
    matrix = confusion(labels, p_high)
    return Figures(
        n=len(labels),
        classes=["low", "high"],
        accuracy=proportion(int(np.trace(matrix)), len(labels)),
        majority_baseline=majority(labels),
        balanced_accuracy=balanced_accuracy(matrix),
        auc=auc(labels, margin),
        average_precision=average_precision(labels, margin),
        loss=log_loss(labels, margin),
        confusion=matrix.tolist(),
        calibration=Calibration(ece=expected_calibration_error(labels, p_high), bins=reliability(labels, p_high)),
    )
