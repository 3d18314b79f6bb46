"""A net's answers compared with labels and, where they are known, with people's votes: two classes by P(high), or by a
cut of the scores; correlations with the mean votes; the earth mover's distance."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ilgnet.ava import targets
from ilgnet.ava.labels import CUT, Label, safe_cell
from ilgnet.evaluate import metrics, protocol
from ilgnet.nets import paper
from ilgnet.nets.targets import SCORES, Target
from ilgnet.run import results
from ilgnet.scoring.answers import mean_votes, spreads
from ilgnet.scoring.scorers import NetScorer


class Votes(NamedTuple):
    """What people said of n photos: their mean votes (n,) and shares (n, 10), NaN where unknown."""

    means: np.ndarray
    shares: np.ndarray


def votes_beside(lmdb: Path | str, count: int) -> Votes:
    """The votes from the label LMDBs beside a photos' LMDB of `count` records."""
    shares, means = (targets.read_labels(lmdb, kind) for kind in ("distribution", "mean"))
    found = unknown(count) if shares is None else of_shares(shares)
    return found if means is None else found._replace(means=means[:, 0].astype(np.float64))


def votes_in(rows: list[Label]) -> Votes:
    """The votes or means in a CSV of labels."""
    known = unknown(len(rows))
    for i, row in enumerate(rows):
        if row.mean is not None:
            known.means[i] = row.mean
        if len(row.votes) == SCORES:
            known.shares[i] = targets.distribution(row)
    return known


def unknown(count: int) -> Votes:
    """No votes."""
    return Votes(np.full(count, np.nan), np.full((count, SCORES), np.nan))


def of_shares(shares: np.ndarray) -> Votes:
    """Votes of which the shares are known."""
    return Votes(shares.astype(np.float64) @ np.arange(1, SCORES + 1), shares)


def scores(target: Target, answers: protocol.Answers) -> np.ndarray:
    """(n,): each answer of a net that learns from votes as one number (see NetScorer.number)."""
    return mean_votes(target, answers.rows)


def find_cut(scorer: NetScorer, lmdb: Path | str, progress: bool, augment: str | None) -> float:
    """The cut with the best balanced accuracy on (training) photos, for a ranking net. augment: as in the test."""
    answers = protocol.ask(scorer, lmdb, progress, augment)
    return metrics.best_cut(answers.labels, scores(scorer.target, answers))


def figures(
    target: Target, answers: protocol.Answers, votes: Votes, cut: float | None = None, batch: int | None = None
) -> results.Figures:
    """All figures of a test. `cut`: for a ranking net; `batch`: for the two-class accuracy of the first 50 batches.
    Correlations are of the photos whose votes are known."""
    voted = np.isfinite(votes.means)
    if not target.label:
        predictions = answers.predictions(target)
        order, value = predictions.margins(), predictions.p_high
        found = metrics.summary(answers.labels, value, order)
        if batch is not None:
            found.first_batches = metrics.first_batches(answers.labels, value, batch, paper.DEFAULT_TEST_BATCHES)
    else:
        order = value = scores(target, answers)
        found = metrics.cut_summary(answers.labels, value, cut if target.name == "ranking" else CUT)
        if target.name != "ranking":
            found.calibration = metrics.calibration(answers.labels, answers.predictions(target).p_high)
    if voted.sum() > 1:
        found.voted = int(voted.sum())
        found.spearman = metrics.spearman(order[voted], votes.means[voted])
        found.pearson = metrics.pearson(value[voted], votes.means[voted])
        if np.isfinite(found.spearman):
            spread = metrics.spearman_interval(found.spearman, found.voted)
            found.intervals = {**(found.intervals or {}), "spearman": spread}
        if target.name == "mean":
            found.loss = float(((value[voted] - votes.means[voted]) ** 2).mean() / 2)
    shared = np.isfinite(votes.shares).all(axis=1)
    if target.outputs == SCORES and shared.any():
        found.emd = float(metrics.emd(answers.rows[shared], votes.shares[shared]).mean())
        found.loss = float((metrics.emd(answers.rows[shared], votes.shares[shared], 2) ** 2).mean())
    return found


def write_csv(path: Path, target: Target, answers: protocol.Answers, votes: Votes) -> bool:
    """Write the answers to every photo: protocol.COLUMNS, and mean_vote, spread and voted (people's mean vote) where
    they are known. Of a ranking net: key, label, score, voted. Returns whether reports can read it."""
    more = {"voted": votes.means} if np.isfinite(votes.means).any() else {}
    if target.name == "ranking":
        columns = {"score": scores(target, answers), **more}
        found = zip(answers.keys, answers.labels, *columns.values())
        rows = [[safe_cell(key), label, *map(protocol.cell, numbers)] for key, label, *numbers in found]
        results.write_csv(path, [["key", "label", *columns], *rows])
        return False
    if target.outputs == SCORES:
        more = {"spread": spreads(answers.rows), **more}
    if target.label:
        more = {"mean_vote": scores(target, answers), **more}
    protocol.write_csv(path, answers.predictions(target), more)
    return True
