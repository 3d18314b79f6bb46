"""Metrics of a two-class test: accuracy with its interval, AUC, calibration and correlations.

All arrays are (n,): `labels` are 0 (low) or 1 (high), `p_high` is the net's probability of "high" (index 1 of the
Softmax), and `scores` orders the photos. A two-class net's score is its margin, log P(high) / P(low), since P(high)
rounds to 1 in float32 from a margin of about 17. Functions import SciPy's statistics themselves: it takes a second.
"""

from typing import Any

import numpy as np

from ilgnet.run.results import Bin, Calibration, Comparison, Figures, Mean, Proportion, Spread
from torchcaffe.base.errors import CaffeError

BINS = 10  # of the calibration
Z95 = 1.959963984540054  # of the normal distribution


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion (E. B. Wilson 1927), as (low, high); (0, 1) when n is 0."""
    from scipy import stats

    if n == 0:
        return 0.0, 1.0
    found = stats.binomtest(correct, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def predictions(labels: np.ndarray, p_high: np.ndarray) -> np.ndarray:
    """The answered class, (n,). A tie (exactly 0.5) counts as the wrong class, as in Caffe's Accuracy layer."""
    return np.where(p_high == 0.5, 1 - labels, (p_high > 0.5).astype(int))


def confusion(labels: np.ndarray, p_high: np.ndarray) -> np.ndarray:
    """(2, 2) counts: a row for each true class, a column for each answer."""
    return np.bincount(2 * labels + predictions(labels, p_high), minlength=4).reshape(2, 2)


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
    high = labels == 1
    positives, negatives = high.sum(), (~high).sum()
    if not positives or not negatives:
        return float("nan")
    u = ranks(scores)[high].sum() - positives * (positives + 1) / 2
    return float(u / (positives * negatives))


def auc_interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the AUC by DeLong, DeLong and Clarke-Pearson (1988), on the logit, so that it stays in
    [0, 1]; (0, 1) where a class has fewer than two photos or all pairs are in order."""
    high = labels == 1
    positives, negatives = int(high.sum()), int((~high).sum())
    area = auc(labels, scores)
    if positives < 2 or negatives < 2 or area in (0, 1):
        return 0.0, 1.0
    everywhere = ranks(scores)
    above = (everywhere[high] - ranks(scores[high])) / negatives  # the share of low photos below each high one
    below = 1 - (everywhere[~high] - ranks(scores[~high])) / positives
    error = np.sqrt(above.var(ddof=1) / positives + below.var(ddof=1) / negatives)
    return tuple(_sigmoid(np.log(area / (1 - area)) + z * error / (area * (1 - area))) for z in (-Z95, Z95))  # type: ignore[return-value]


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def balanced_interval(matrix: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the balanced accuracy, from Wilson's of both recalls (Newcombe's way of joining two)."""
    totals, right = matrix.sum(axis=1), np.diag(matrix)
    recalls = right / totals
    bounds = np.array([wilson(int(r), int(n)) for r, n in zip(right, totals)])
    down, up = (np.sqrt(((bounds[:, side] - recalls) ** 2).sum()) / 2 for side in (0, 1))
    return float(recalls.mean() - down), float(recalls.mean() + up)


def spearman_interval(correlation: float, n: int) -> tuple[float, float]:
    """The 95% interval of Spearman's correlation of n pairs (Bonett and Wright 2000); (-1, 1) for fewer than 4."""
    if n < 4 or abs(correlation) >= 1:
        return -1.0, 1.0
    error = np.sqrt((1 + correlation**2 / 2) / (n - 3))
    low, high = (np.tanh(np.arctanh(correlation) + z * error) for z in (-Z95, Z95))
    return float(low), float(high)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """sum of (R_k - R_{k-1}) P_k over the distinct thresholds, highest first; NaN without a positive."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="mergesort")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[last_of_tie]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last_of_tie + 1)) / hits[-1])


def reliability(labels: np.ndarray, p_high: np.ndarray) -> list[Bin]:
    """The bins of p_high that hold photos."""
    index = np.minimum((p_high * BINS).astype(int), BINS - 1)
    return [
        Bin(
            low=b / BINS,
            high=(b + 1) / BINS,
            n=np.sum(index == b),
            p_high=p_high[index == b].mean(),
            observed=labels[index == b].mean(),
        )
        for b in np.unique(index)
    ]


def expected_calibration_error(labels: np.ndarray, p_high: np.ndarray) -> float:
    """Mean |observed share - mean probability| over the bins, weighted by their counts (Naeini et al., AAAI 2015)."""
    return sum(b.n * abs(b.observed - b.p_high) for b in reliability(labels, p_high)) / len(labels)


def calibration(labels: np.ndarray, p_high: np.ndarray) -> Calibration:
    """How P(high) compares with the shares of high photos."""
    return Calibration(ece=expected_calibration_error(labels, p_high), bins=reliability(labels, p_high))


def margins(p_high: np.ndarray, p_low: np.ndarray | None = None) -> np.ndarray:
    """log P(high) / P(low), both clamped at FLT_MIN as SoftmaxWithLoss does. Without p_low the rounding of p_high
    limits the margin."""
    p_high = np.asarray(p_high, dtype=np.float64)
    both = p_high, 1 - p_high if p_low is None else p_low
    high, low = (np.log(np.maximum(p, np.finfo(np.float32).tiny, dtype=np.float64)) for p in both)
    return high - low


def log_loss(labels: np.ndarray, margin: np.ndarray) -> float:
    """SoftmaxWithLoss's loss: mean -log P(true class), which is log(1 + exp(-margin)) for a high photo."""
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -margin, margin))))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two (n,) arrays; NaN when one of them is constant."""
    from scipy import stats

    constant = np.ptp(x) == 0 or np.ptp(y) == 0  # SciPy would warn
    return float("nan") if constant else float(stats.pearsonr(x, y).statistic)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation (Pearson's of the ranks, ties averaged)."""
    return pearson(ranks(x), ranks(y))


def emd(p: np.ndarray, q: np.ndarray, r: float = 1) -> np.ndarray:
    """(n,) earth mover's distances between two (n, bins) arrays of shares, (mean over bins of |CDF_p - CDF_q|^r)^(1/r),
    as in NIMA (Talebi and Milanfar 2018), which reports r = 1 and trains with r = 2."""
    difference = np.cumsum(np.subtract(p, q, dtype=np.float64), axis=1)
    return np.mean(np.abs(difference) ** r, axis=1) ** (1 / r)


def best_cut(labels: np.ndarray, scores: np.ndarray) -> float:
    """The cut between two neighbouring scores that gives the best balanced accuracy when photos above it count as high;
    the lowest of equally good ones. CaffeError when a class is absent."""
    if not labels.any() or labels.all():
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
    bad = ~np.isfinite(scores)
    if bad.any():
        first = bad.argmax()
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
    matrix = None
    if cut is not None:
        matrix = confusion(labels, (scores > cut).astype(float))
        figures.accuracy = proportion(np.trace(matrix), len(labels))
        figures.balanced_accuracy = balanced_accuracy(matrix)
        figures.confusion = matrix.tolist()
    figures.intervals = intervals(labels, scores, matrix)
    return figures


def intervals(labels: np.ndarray, scores: np.ndarray, matrix: np.ndarray | None) -> dict[str, tuple[float, float]]:
    """95% intervals by figure, where both classes are there. matrix: the confusion, if there is one."""
    if not labels.any() or labels.all():
        return {}
    found = {"auc": auc_interval(labels, scores)}
    return found if matrix is None else {**found, "balanced_accuracy": balanced_interval(matrix)}


def spread(values: Any) -> Spread:
    """The Spread of a figure's values."""
    runs = len(values)
    sd = np.std(values, ddof=1) if runs > 1 else float("nan")
    return Spread(mean=np.mean(values), sd=sd, min=min(values), max=max(values), runs=runs)


def cohens_d(a: np.ndarray, b: np.ndarray) -> float:
    """(mean a - mean b) over the pooled standard deviation (J. Cohen 1988); NaN when neither varies."""
    n, m = len(a), len(b)
    pooled = np.sqrt((n * np.var(a) + m * np.var(b)) / max(1, n + m - 2))
    return float((np.mean(a) - np.mean(b)) / pooled) if pooled > 0 else float("nan")


def permutation_test(a: np.ndarray, b: np.ndarray, rounds: int = 9999) -> float:
    """Two-sided p-value of a permutation test of the difference of two means (Fisher, Pitman).

    The observed order counts as one more than the `rounds` random ones, so it is never 0 (Phipson and Smyth 2010)."""
    together = np.concatenate([a, b]).astype(np.float64)
    together -= together.mean()  # the sum of one group alone now orders the differences
    observed = abs(together[: len(a)].sum())
    rng = np.random.default_rng(0)
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
        high=Mean(mean=np.mean(high), n=len(high)),
        low=Mean(mean=np.mean(low), n=len(low)),
        difference=np.mean(high) - np.mean(low),
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
    """The accuracy of always answering the majority class."""
    high = int(np.sum(labels == 1))
    found = proportion(max(high, len(labels) - high), len(labels))
    found.answer = "high" if 2 * high >= len(labels) else "low"
    return found


def first_batches(labels: np.ndarray, p_high: np.ndarray, batch: int, batches: int) -> Proportion:
    """What `caffe test` with its default 50 iterations reports: the accuracy on the first photos in key order, starting
    again at the end. The interval counts each photo once, since a photo met again adds no evidence."""
    index = np.arange(batch * batches) % len(labels)
    right = predictions(labels, p_high) == labels
    found = proportion(int(right[: len(index)].sum()), min(len(index), len(labels)))
    found.value, found.batch, found.batches = right[index].mean(), batch, batches
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
            first = bad.argmax()
            raise CaffeError(f"metrics: record {first}: {name} (label {labels[first]}, p_high {p_high[first]})")
    labels = labels.astype(int)
    margin = margins(p_high) if margin is None else margin
    matrix = confusion(labels, p_high)
    return Figures(
        n=len(labels),
        classes=["low", "high"],
        accuracy=proportion(np.trace(matrix), len(labels)),
        majority_baseline=majority(labels),
        balanced_accuracy=balanced_accuracy(matrix),
        auc=auc(labels, margin),
        average_precision=average_precision(labels, margin),
        loss=log_loss(labels, margin),
        confusion=matrix.tolist(),
        calibration=calibration(labels, p_high),
        intervals=intervals(labels, margin, matrix),
    )
