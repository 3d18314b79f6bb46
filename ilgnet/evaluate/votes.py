"""A net's answers against what people voted: correlations with the mean votes, the earth mover's distance, and two
classes by a cut, for nets that learn distributions, means or rankings, and correlations alone for two-class ones."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.ava import targets
from ilgnet.ava.labels import safe_cell
from ilgnet.evaluate import metrics, protocol
from ilgnet.nets import paper
from ilgnet.scoring.scorers import Scorer
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files

MEAN_CUT = 5.0  # a mean above is high (paper, section 4.1)


def votes_beside(lmdb: Path | str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """((N,) mean votes, (N, 10) shares) of the label LMDBs beside a photos' LMDB; None for what is not there."""
    shares, means = (targets.read_labels(lmdb, kind) for kind in ("distribution", "mean"))
    if means is None and shares is not None:
        means = shares.astype(np.float64) @ np.arange(1, shares.shape[1] + 1)[:, None]
    return None if means is None else means[:, 0].astype(np.float64), shares


def correlations(order: np.ndarray, scores: np.ndarray, means: np.ndarray) -> dict[str, float]:
    """Spearman's correlation of what a net orders photos by, and Pearson's of its numbers, with the mean votes."""
    return {"spearman": metrics.spearman(order, means), "pearson": metrics.pearson(scores, means)}


def numbers(scorer: Scorer, answers: protocol.Answers) -> np.ndarray:
    """(n,): each answer as one number (see Scorer.number)."""
    return np.array([scorer.number(row) for row in answers.rows])


def find_cut(scorer: Scorer, lmdb: Path | str, progress: bool = False, augment: str | None = None) -> float:
    """The cut with the best balanced accuracy on (training) photos, for a ranking, which brings none. `augment`: as the
    photos are tested that it is to cut."""
    answers = protocol.ask(scorer, lmdb, progress, augment)
    return metrics.best_cut(answers.labels, numbers(scorer, answers))


def figures(
    scorer: Scorer,
    answers: protocol.Answers,
    lmdb: Path | str,
    cut: float | None,
    batch: int,
) -> dict[str, Any]:
    """Everything for one test. `cut`: a ranking's; `batch`: of the two-class accuracy of the first 50 batches.

    CaffeError for a net that learns from votes where none are beside the LMDB."""
    means, shares = votes_beside(lmdb)
    if not scorer.target.label:
        _, labels, p_high, margin = answers.predictions()
        found = metrics.summary(labels, p_high, margin)
        found["first_batches"] = metrics.first_batches(labels, p_high, batch, paper.DEFAULT_TEST_BATCHES)
        return {**found, **(correlations(margin, p_high, means) if means is not None else {})}
    if means is None:
        raise CaffeError(
            f"{targets.path_for(lmdb, 'mean')}: no such LMDB: the votes to measure {scorer.net_path} by; "
            "data_prep/prepare.py --targets mean distribution writes it"
        )
    scores = numbers(scorer, answers)
    found = metrics.cut_summary(answers.labels, scores, cut if scorer.target.name == "ranking" else MEAN_CUT)
    found.update(correlations(scores, scores, means))
    if scorer.target.name == "distribution" and shares is not None:
        found.update(
            emd=float(metrics.emd(answers.rows, shares).mean()),
            loss=float((metrics.emd(answers.rows, shares, 2) ** 2).mean()),
        )
    elif scorer.target.name == "mean":
        found["loss"] = float(((scores - means) ** 2).mean() / 2)
    return found


def write_csv(path: Path | str, scorer: Scorer, answers: protocol.Answers, lmdb: Path | str) -> None:
    """key, label, score, mean vote a photo."""
    means, _ = votes_beside(lmdb)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "label", "score", "mean_vote"])
    for key, label, score, mean in zip(answers.keys, answers.labels, numbers(scorer, answers), means):
        writer.writerow([safe_cell(key), label, f"{score:.9g}", f"{mean:.9g}"])
    files.write_bytes(path, text.getvalue().encode())
