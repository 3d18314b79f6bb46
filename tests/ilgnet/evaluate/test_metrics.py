"""Metrics against published examples and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ilgnet.evaluate import metrics as m
from ilgnet.run import results
from torchcaffe.base.errors import CaffeError


@pytest.mark.parametrize(
    "correct, n, low, high",
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_published(correct, n, low, high):
    assert m.wilson(correct, n) == pytest.approx((low, high), abs=5e-5)
    assert m.wilson(n - correct, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_auc_published():
    # Hanley & McNeil, Radiology 143 (1982): CT ratings 1..5 of 58 normal and 51 abnormal patients, area 0.893
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.concatenate([np.repeat(np.arange(5), normal), np.repeat(np.arange(5), abnormal)])
    labels = np.repeat([0, 1], [58, 51])
    assert m.auc(labels, ratings / 4.0) == pytest.approx(0.893, abs=5e-4)


def test_intervals():
    """The AUC's against DeLong's variance pair by pair; all of them against their coverage in simulations."""
    rng = np.random.RandomState(0)
    labels = np.repeat([0, 1], [40, 60])
    scores = np.round(rng.standard_normal(100) + labels, 1)  # with ties
    pairs = (scores[40:, None] > scores[None, :40]) + 0.5 * (scores[40:, None] == scores[None, :40])
    error = np.sqrt(pairs.mean(1).var(ddof=1) / 60 + pairs.mean(0).var(ddof=1) / 40)
    area = m.auc(labels, scores)
    logit = np.log(area / (1 - area)) + np.array([-1.96, 1.96]) * error / (area * (1 - area))
    assert m.auc_interval(labels, scores) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
    assert m.auc_interval(labels, labels.astype(float)) == m.auc_interval(labels[:41], scores[:41]) == (0, 1)
    assert m.spearman_interval(0.5, 3) == (-1, 1)

    held = {"auc": 0, "balanced": 0, "spearman": 0}
    cover = stats.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]])
    for _ in range(400):
        scores = rng.standard_normal(100) + labels
        low, high = m.auc_interval(labels, scores)
        held["auc"] += low <= stats.norm.cdf(1 / np.sqrt(2)) <= high
        low, high = m.balanced_interval(m.confusion(labels, (scores > 0.5).astype(float)))
        held["balanced"] += low <= stats.norm.cdf(0.5) <= high
        x, y = cover.rvs(60, random_state=rng).T
        low, high = m.spearman_interval(m.spearman(x, y), 60)
        held["spearman"] += low <= 6 / np.pi * np.arcsin(0.3) <= high
    assert all(0.92 <= count / 400 <= 0.98 for count in held.values()), held


def test_average_precision_published():
    # the example in scikit-learn's documentation of average_precision_score and roc_auc_score
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert m.average_precision(labels, scores) == pytest.approx(5 / 6)
    assert m.auc(labels, scores) == pytest.approx(0.75)


def test_correlations_published():
    # Anscombe (1973), set I: r = 0.816; IQ and hours of TV (a textbook example of Spearman's rho): -29/165
    x = np.array([10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5])
    y = np.array([8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68])
    assert m.pearson(x, y) == pytest.approx(0.81642, abs=1e-5)
    iq = np.array([106, 100, 86, 101, 99, 103, 97, 113, 112, 110])
    tv = np.array([7, 27, 2, 50, 28, 29, 20, 12, 6, 17])
    assert m.spearman(iq, tv) == pytest.approx(-29 / 165)
    assert np.isnan(m.pearson(x, np.ones(11)))


two_classes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=1, max_size=60)


@given(two_classes)
def test_against_brute_force(rows):
    labels, p = np.array([r[0] for r in rows]), np.array([r[1] for r in rows]) / 10.0
    right = sum((a > 0.5 and b == 1) or (a < 0.5 and b == 0) for b, a in zip(labels, p))
    s = m.summary(labels, p)
    assert s.accuracy.correct == right and s.n == len(rows)
    assert np.sum(s.confusion) == len(rows) and np.trace(s.confusion) == right
    low, high = s.accuracy.low, s.accuracy.high
    assert 0 <= low <= right / len(rows) <= high <= 1
    assert s.majority_baseline.value == pytest.approx(max(labels.mean(), 1 - labels.mean()))
    pos, neg = p[labels == 1], p[labels == 0]
    if len(pos) and len(neg):
        wins = (pos[:, None] > neg).sum() + 0.5 * (pos[:, None] == neg).sum()
        assert s.auc == pytest.approx(wins / (len(pos) * len(neg)))
        assert s.balanced_accuracy == pytest.approx(((pos > 0.5).mean() + (neg < 0.5).mean()) / 2)
    else:
        assert np.isnan(s.auc) and np.isnan(s.balanced_accuracy)
    if len(pos):
        recall, expected = 0.0, 0.0
        for threshold in sorted(set(p), reverse=True):
            chosen = p >= threshold
            now = (chosen & (labels == 1)).sum() / len(pos)
            expected += (now - recall) * labels[chosen].mean()
            recall = now
        assert s.average_precision == pytest.approx(expected)
    assert sum(b.n for b in s.calibration.bins) == len(rows)
    assert 0 <= s.calibration.ece <= 1


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_ranks(values):
    v = np.array(values)
    expected = [(v < x).sum() + ((v == x).sum() + 1) / 2 for x in v]
    assert m.ranks(v) == pytest.approx(expected)


def test_calibration_by_hand():
    labels = np.array([0, 1, 1, 1])
    p = np.array([0.2, 0.2, 0.9, 1.0])
    # bin [0.2, 0.3): mean 0.2, half are high; bin [0.9, 1]: mean 0.95, all are high
    assert m.expected_calibration_error(labels, p) == pytest.approx(0.5 * 0.3 + 0.5 * 0.05)


def test_first_batches_wraps_and_counts_photos_once():
    labels, p = np.array([1, 1, 0]), np.array([0.9, 0.1, 0.1])  # right, wrong, right
    r = m.first_batches(labels, p, batch=2, batches=2)  # photos 0 1 2 0
    assert r.value == 0.75 and r.n == 3 and r.correct == 2
    released = m.proportion(2042, 2500)  # the released AVA1 log: 0.8168 of 50 x 50 photos
    assert released.value == pytest.approx(0.8168)
    assert released.high - released.low == pytest.approx(0.0303, abs=2e-4)  # about +-1.5 points


def test_ties_are_wrong_and_log_loss_is_finite():
    s = m.summary([0, 1], [0.5, 0.5])
    assert s.accuracy.value == 0 and s.loss == pytest.approx(np.log(2))
    assert m.log_loss(np.array([1]), m.margins(np.array([0.0]))) == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_a_confident_net_is_told_by_its_margin():
    """P(high) is 1 in float32 for all four; SoftmaxWithLoss charges the two low ones their margins, 20 and 18."""
    z = np.array([[0, 20], [0, 18], [0, 30], [0, 25]], np.float32)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    labels = np.array([0, 0, 1, 1])
    assert p.dtype == np.float32 and (p[:, 1] == 1).all()
    found = m.summary(labels, p[:, 1], m.margins(p[:, 1], p[:, 0]))
    assert found.loss == pytest.approx(9.5) and found.auc == found.average_precision == 1
    np.testing.assert_allclose(m.margins(p[:, 1], p[:, 0]), z[:, 1], rtol=1e-6)
    assert m.summary(labels, p[:, 1]).auc == 0.5  # all that P(high) alone says


@pytest.mark.parametrize(
    "labels, p, message",
    [
        ([0, 2], [0.1, 0.2], "record 1: label is not 0 or 1"),
        ([0, 1], [0.1, float("nan")], r"record 1: p_high is not in"),
        ([0], [0.1, 0.2], "must be two equal"),
        ([], [], "non-empty"),
    ],
)
def test_bad_input(labels, p, message):
    with pytest.raises(CaffeError, match=message):
        m.summary(labels, p)


# Mice that lived days after surgery, treated and not (B. Efron and R. Tibshirani, An Introduction to the Bootstrap,
# 1993, table 2.1); the book's one-sided permutation test gives 0.132 of 1,000 shuffles
TREATED, CONTROL = [94, 197, 16, 38, 99, 141, 23], [52, 104, 146, 10, 51, 30, 40, 27, 46]


def test_permutation_test_published():
    together, n = np.array(TREATED + CONTROL, dtype=float), len(TREATED)
    sums = np.array([together[list(chosen)].sum() for chosen in itertools.combinations(range(len(together)), n)])
    expected = together.mean() * n
    exact = np.mean(np.abs(sums - expected) >= sum(TREATED) - expected)  # all 11,440 ways
    assert np.mean(sums >= sum(TREATED)) == pytest.approx(0.132, abs=0.02)
    assert m.permutation_test(np.array(TREATED), np.array(CONTROL)) == pytest.approx(exact, abs=0.01)
    assert m.permutation_test(np.array(CONTROL), np.array(TREATED)) == pytest.approx(exact, abs=0.01)
    assert m.permutation_test(np.arange(50.0), np.arange(50.0) + 100, rounds=99) == 0.01
    assert m.permutation_test(np.ones(5), np.ones(4)) == 1


def test_groups_compared_as_scipy_does():
    from scipy import stats

    high, low = np.array(TREATED, dtype=float), np.array(CONTROL, dtype=float)
    found = m.compare_groups(high, low)
    u = stats.mannwhitneyu(high, low).statistic
    assert found.p_superior == pytest.approx(u / (len(high) * len(low)))
    t = stats.ttest_ind(high, low).statistic  # = d / sqrt(1/n + 1/m)
    assert found.cohens_d == pytest.approx(t * np.sqrt(1 / len(high) + 1 / len(low)))


def test_group_figures_by_hand():
    found = m.compare_groups(np.array([3.0, 5]), np.array([1.0, 2, 3]), rounds=9)
    assert (found.difference, found.high, found.low.n) == (2, results.Mean(mean=4, n=2), 3)
    assert found.cohens_d == pytest.approx(2 / np.sqrt((2 + 2) / 3)) and found.p_superior == 5.5 / 6
    assert np.isnan(m.cohens_d(np.ones(3), np.ones(3)))
    with pytest.raises(CaffeError, match="0 high and 2 low photos"):
        m.compare_groups(np.zeros(0), np.ones(2))


def test_spread():
    assert vars(m.spread([1, 2, 3, 4])) == {"mean": 2.5, "sd": pytest.approx(1.2909944), "min": 1, "max": 4, "runs": 4}
    assert np.isnan(m.spread([0.5]).sd)
