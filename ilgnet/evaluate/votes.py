"""A net's answers compared with people's votes: for nets that learn distributions, means or rankings, correlations with
the mean votes, the earth mover's distance and two classes by a cut; for two-class nets, correlations only."""

from pathlib import Path

import numpy as np

from ilgnet.ava import targets
from ilgnet.ava.labels import safe_cell
from ilgnet.evaluate import metrics, protocol
from ilgnet.nets import paper
from ilgnet.run import results
from ilgnet.scoring.scorers import Scorer
from torchcaffe.base.errors import CaffeError

MEAN_CUT = 5.0  # a mean above it is high (paper, section 4.1)


def votes_beside(lmdb: Path | str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """((N,) mean votes, (N, 10) shares) from the label LMDBs beside a photos' LMDB, or None."""
    shares, means = (targets.read_labels(lmdb, kind) for kind in ("distribution", "mean"))
    if means is None and shares is not None:
        means = shares.astype(np.float64) @ np.arange(1, shares.shape[1] + 1)[:, None]
    return None if means is None else means[:, 0].astype(np.float64), shares


def numbers(scorer: Scorer, answers: protocol.Answers) -> np.ndarray:
    """(n,): each answer as one number (see Scorer.number)."""
    return np.array([scorer.number(row) for row in answers.rows])


def find_cut(scorer: Scorer, lmdb: Path | str, progress: bool, augment: str | None) -> float:
    """The cut with the best balanced accuracy on (training) photos, for a ranking net. augment: as in the test."""
    answers = protocol.ask(scorer, lmdb, progress, augment)
    return metrics.best_cut(answers.labels, numbers(scorer, answers))


def figures(
    scorer: Scorer, answers: protocol.Answers, lmdb: Path | str, cut: float | None, batch: int
) -> results.Figures:
    """All figures of a test. `cut`: for a ranking net; `batch`: for the two-class accuracy of the first 50 batches.

    CaffeError for a net that learns from votes without any beside the LMDB."""
    means, shares = votes_beside(lmdb)
    if not scorer.target.label:
        _, labels, p_high, _ = predictions = answers.predictions()
        found = metrics.summary(labels, p_high, predictions.margin)
        found.first_batches = metrics.first_batches(labels, p_high, batch, paper.DEFAULT_TEST_BATCHES)
        if means is not None:
            found.spearman = metrics.spearman(predictions.margins(), means)
            found.pearson = metrics.pearson(p_high, means)
        return found
    if means is None:
        raise CaffeError(
            f"{targets.path_for(lmdb, 'mean')}: no such LMDB: the votes to measure {scorer.net_path} by; "
            "ilgnet prepare --targets mean distribution writes it"
        )
    scores, target = numbers(scorer, answers), scorer.target.name
    found = metrics.cut_summary(answers.labels, scores, cut if target == "ranking" else MEAN_CUT)
    found.spearman, found.pearson = metrics.spearman(scores, means), metrics.pearson(scores, means)
    if target == "distribution" and shares is not None:
        found.emd = float(metrics.emd(answers.rows, shares).mean())
        found.loss = float((metrics.emd(answers.rows, shares, 2) ** 2).mean())
    elif target == "mean":
        found.loss = float(((scores - means) ** 2).mean() / 2)
    return found


def write_csv(path: Path | str, scorer: Scorer, answers: protocol.Answers, lmdb: Path | str) -> None:
    """key, label, score, mean vote of every photo."""
    means, _ = votes_beside(lmdb)
    assert means is not None  # figures() has read them
    found = zip(answers.keys, answers.labels, numbers(scorer, answers), means)
    rows = [[safe_cell(key), label, f"{score:.9g}", f"{mean:.9g}"] for key, label, score, mean in found]
    results.write_csv(path, [["key", "label", "score", "mean_vote"], *rows])
