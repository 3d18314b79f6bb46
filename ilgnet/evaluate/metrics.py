"""What a two-class test says: accuracy with its interval, AUC, calibration and correlations (NumPy only).

`labels` are 0 (low) or 1 (high), `p_high` the net's probability of "high" (index 1 of the Softmax), `scores` what
photos are ordered by, all (n,). Of a two-class net that is the margin, log P(high) / P(low): in float32, P(high) is
exactly 1 from a margin of about 17.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
    """The class answered, (n,). A tie (exactly 0.5) counts as the wrong class, as in Caffe's Accuracy layer."""
    return np.where(p_high == 0.5, 1 - labels, (p_high > 0.5).astype(int))


def confusion(labels: np.ndarray, p_high: np.ndarray) -> np.ndarray:
    """(2, 2) counts: row the true class, column the answered one."""
    matrix = np.zeros((2, 2), dtype=np.int64)
    np.add.at(matrix, (labels, predictions(labels, p_high)), 1)
    return matrix


def balanced_accuracy(matrix: np.ndarray) -> float:
    """The mean of both classes' recalls; nan when a class is absent."""
    totals = matrix.sum(axis=1)
    return float(np.mean(np.diag(matrix) / totals)) if totals.all() else float("nan")


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs."""
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
    """sum of (R_k - R_{k-1}) P_k over the distinct thresholds, highest first; nan without a positive."""
    positives = int(np.sum(labels == 1))
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(labels[order] == 1)
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits, answered = hits[last_of_tie], (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(np.concatenate(([0], hits))) * hits / answered) / positives)


def reliability(labels: np.ndarray, p_high: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Per occupied bin of p_high: its edges, count, mean probability and the observed share of "high"."""
    index = np.minimum((p_high * bins).astype(int), bins - 1)
    table = []
    for b in range(bins):
        chosen = index == b
        if chosen.any():
            table.append(
                {
                    "low": b / bins,
                    "high": (b + 1) / bins,
                    "n": int(chosen.sum()),
                    "p_high": float(np.mean(p_high[chosen])),
                    "observed": float(np.mean(labels[chosen] == 1)),
                }
            )
    return table


def expected_calibration_error(labels: np.ndarray, p_high: np.ndarray, bins: int = 10) -> float:
    """Mean |observed share - mean probability| over the bins, weighted by their counts (Naeini et al., AAAI 2015)."""
    table = reliability(labels, p_high, bins)
    return float(sum(b["n"] * abs(b["observed"] - b["p_high"]) for b in table) / len(labels))


def margins(p_high: np.ndarray, p_low: np.ndarray | None = None) -> np.ndarray:
    """log P(high) / P(low), both clamped at FLT_MIN as SoftmaxWithLoss does. p_low: None where only P(high) is known,
    whose rounding then bounds the margin."""
    p_high = np.asarray(p_high, dtype=np.float64)
    p_low = 1.0 - p_high if p_low is None else np.asarray(p_low, dtype=np.float64)
    high, low = (np.log(np.maximum(p, np.finfo(np.float32).tiny)) for p in (p_high, p_low))
    return high - low


def log_loss(labels: np.ndarray, margin: np.ndarray) -> float:
    """Mean -log P(true class) = log(1 + exp(-margin)) of a high photo, SoftmaxWithLoss's."""
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -margin, margin))))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two (n,) arrays; nan when one of them is constant."""
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
    """(n,) earth mover's distances of two (n, bins) arrays of shares, (mean over bins of |CDF_p - CDF_q|^r)^(1/r): as
    Talebi and Milanfar's NIMA (2018) defines it, which reports r = 1 and trains with r = 2."""
    difference = np.cumsum(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64), axis=1)
    return np.mean(np.abs(difference) ** r, axis=1) ** (1 / r)


def best_cut(labels: np.ndarray, scores: np.ndarray) -> float:
    """The cut between two neighbouring scores with the best balanced accuracy of "above it is high"; the lowest of
    equals. CaffeError where a class is absent."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not (labels == 1).any() or not (labels == 0).any():
        raise CaffeError("a cut needs photos of both classes")
    order = np.argsort(scores, kind="mergesort")
    scores, high = scores[order], labels[order] == 1
    gain = np.cumsum(~high) / (~high).sum() - np.cumsum(high) / high.sum()  # low photos below, less high ones
    between = np.flatnonzero(np.diff(scores) > 0)
    if not len(between):
        return float(scores[0])
    best = between[np.argmax(gain[between])]
    return float((scores[best] + scores[best + 1]) / 2)


def cut_summary(labels: np.ndarray, scores: np.ndarray, cut: float | None) -> dict[str, Any]:
    """What scores on any scale say of two classes: above `cut` is high. Without a cut only what needs none."""
    labels, scores = np.asarray(labels).astype(int), np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        first = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise CaffeError(f"metrics: record {first}: its score is {scores[first]}")
    figures: dict[str, Any] = {
        "n": int(len(labels)),
        "classes": ["low", "high"],
        "cut": cut,
        "accuracy": None,
        "majority_baseline": majority(labels),
        "auc": auc(labels, scores),
        "average_precision": average_precision(labels, scores),
    }
    if cut is not None:
        matrix = confusion(labels, (scores > cut).astype(float))
        figures.update(
            accuracy=proportion(int(np.trace(matrix)), len(labels)),
            balanced_accuracy=balanced_accuracy(matrix),
            confusion=matrix.tolist(),
        )
    return figures


def spread(values: Any) -> dict[str, float]:
    """Mean, standard deviation (n - 1; nan of a single value), smallest and largest of several runs' figures."""
    values = np.asarray(values, dtype=np.float64)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return {
        "mean": float(values.mean()),
        "sd": deviation,
        "min": float(values.min()),
        "max": float(values.max()),
        "runs": int(len(values)),
    }


def cohens_d(a: np.ndarray, b: np.ndarray) -> float:
    """(mean a - mean b) over the pooled standard deviation (J. Cohen 1988); nan when neither varies."""
    n, m = len(a), len(b)
    if n + m < 3:
        return float("nan")
    pooled = np.sqrt(
        ((n - 1) * np.var(a, ddof=1 if n > 1 else 0) + (m - 1) * np.var(b, ddof=1 if m > 1 else 0)) / (n + m - 2)
    )
    return float((np.mean(a) - np.mean(b)) / pooled) if pooled > 0 else float("nan")


def permutation_test(a: np.ndarray, b: np.ndarray, rounds: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of the difference of two means, were the groups' names given out at random (Fisher, Pitman).

    Of `rounds` random shuffles, with the observed order as one more, so it is never 0 (Phipson and Smyth 2010)."""
    together = np.concatenate([a, b]).astype(np.float64)
    together = together - together.mean()  # then the sum of one group alone orders the differences
    observed = abs(together[: len(a)].sum())
    rng = np.random.default_rng(seed)
    take = min(len(a), len(b))  # the smaller group's sum: the larger's is its negative
    extreme = 0
    for _ in range(rounds):
        shuffled = together[rng.choice(len(together), take, replace=False, shuffle=False)]
        # sums of the same values in another order may differ in the last bits
        extreme += abs(shuffled.sum()) >= observed * (1 - 1e-12)
    return (extreme + 1) / (rounds + 1)


def compare_groups(high: np.ndarray, low: np.ndarray, rounds: int = 9999) -> dict[str, Any]:
    """Does a measure differ between high and low photos? Both means, their difference's p-value and effect sizes.

    "p_superior": P(a high photo's value is above a low one's), ties counting half. CaffeError for an empty group."""
    if not len(high) or not len(low):
        raise CaffeError(f"{len(high)} high and {len(low)} low photos: a comparison needs both")
    labels = np.repeat([1, 0], [len(high), len(low)])
    return {
        "high": {"mean": float(np.mean(high)), "n": int(len(high))},
        "low": {"mean": float(np.mean(low)), "n": int(len(low))},
        "difference": float(np.mean(high) - np.mean(low)),
        "cohens_d": cohens_d(high, low),
        "p_superior": auc(labels, np.concatenate([high, low])),
        "p_value": permutation_test(high, low, rounds),
        "rounds": rounds,
    }


def proportion(correct: int, n: int) -> dict[str, Any]:
    """{"value", "low", "high", "correct", "n"}: a proportion with its 95% Wilson interval."""
    low, high = wilson(correct, n)
    return {"value": correct / n if n else float("nan"), "low": low, "high": high, "correct": int(correct), "n": int(n)}


def majority(labels: np.ndarray) -> dict[str, Any]:
    """The baseline that always answers the commoner class: its name and accuracy."""
    high = int(np.sum(labels == 1))
    commoner = "high" if 2 * high >= len(labels) else "low"
    result = proportion(max(high, len(labels) - high), len(labels))
    result["answer"] = commoner
    return result


def first_batches(labels: np.ndarray, p_high: np.ndarray, batch: int, batches: int = 50) -> dict[str, Any]:
    """What `caffe test` with its default 50 iterations reports: the first photos in key order, wrapping round.

    The interval counts each photo once: photos met again by the wrap add no evidence.
    """
    index = np.arange(batch * batches) % len(labels)
    right = predictions(labels, p_high) == labels
    result = proportion(int(right[: len(index)].sum()), min(len(index), len(labels)))
    result.update(value=float(np.mean(right[index])), batch=batch, batches=batches)
    return result


def summary(labels: np.ndarray, p_high: np.ndarray, margin: np.ndarray | None = None) -> dict[str, Any]:
    """Everything above for one test, ready for JSON. margin: None where only P(high) is known.

    CaffeError for labels not 0 or 1, probabilities not in [0, 1]."""
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
    return {
        "n": int(len(labels)),
        "classes": ["low", "high"],
        "accuracy": proportion(int(np.trace(matrix)), len(labels)),
        "majority_baseline": majority(labels),
        "balanced_accuracy": balanced_accuracy(matrix),
        "auc": auc(labels, margin),
        "average_precision": average_precision(labels, margin),
        "loss": log_loss(labels, margin),
        "confusion": matrix.tolist(),
        "calibration": {"ece": expected_calibration_error(labels, p_high), "bins": reliability(labels, p_high)},
    }
