"""The card beside a run's snapshots: what the net has seen, and how its photos were prepared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ilgnet.cli import evaluate, prepare, rank, train
from ilgnet.run import results
from ilgnet.scoring.scorers import NetScorer, Settings
from ilgnet.weights import models
from tests.ilgnet.small_nets import write_solver
from torchcaffe.base.errors import CaffeError


@pytest.fixture(scope="module")
def snapshot(folder):
    """A snapshot of a net that was trained on made-up labels."""
    assert train.main(["--solver", write_solver(folder, max_iter=2)]) == 0
    return folder / "run" / "x_iter_2.caffemodel"


def rank_photos(folder: Path, out: Path, *words: object) -> str:
    assert rank.main([str(folder), "--out", str(out), "--cache", str(out) + ".sqlite", *map(str, words)]) == 0
    return out.read_text()


def test_a_snapshot_scores_as_it_was_trained(folder, snapshot):
    card = models.card(snapshot)
    assert (card.title, card.dataset, card.synthetic) == ("plain", "ava1", "made up")
    alone = NetScorer(Settings(snapshot, folder / "plain_deploy.prototxt"))
    told = NetScorer(Settings(snapshot, folder / "plain_deploy.prototxt", mean=folder / "mean.binaryproto"))
    assert alone.preprocess == told.preprocess and alone.preprocess.preset == "lmdb"
    np.testing.assert_array_equal(alone.preprocess.mean, told.preprocess.mean)


def test_made_up_labels_are_said_wherever_scores_are(folder, snapshot, tmp_path, capsys):
    net = ["--weights", snapshot, "--net", folder / "plain_deploy.prototxt"]
    warning = "Synthetic labels: this net was trained on photos that no person rated."
    page = rank_photos(folder / "photos", tmp_path / "g.html", *net)
    assert warning in page and warning in capsys.readouterr().out
    written = json.loads((tmp_path / "g.json").read_text())["scored_by"]
    assert written["weights"] == "x_iter_2.caffemodel" and len(written["sha256"]) == 64
    assert written["card"]["synthetic"] == "made up"
    assert rank.main([str(folder / "photos" / "1.png"), *map(str, net)]) == 0
    said = capsys.readouterr().out
    assert warning in said and "P(high)" in said and "1.png: 256 x 256" in said
    words = [*map(str, net), "--lmdb", str(folder / "val_lmdb"), "--out", str(tmp_path / "e.json")]
    assert evaluate.main(words) == 0
    assert warning in capsys.readouterr().out
    assert results.read(tmp_path / "e.json", results.Evaluation).cautions[0].startswith(warning)
    with pytest.raises(CaffeError, match="--top is for a folder; .*1.png is a photo"):
        rank.main([str(folder / "photos" / "1.png"), "--top", "3", *map(str, net)])


def test_a_json_of_somebody_elses_stays(folder, capfd):
    (folder / "run2").mkdir()
    (folder / "run2" / "x.json").write_text("{}")
    assert train.main(["--solver", write_solver(folder, max_iter=1, run="run2")]) == 0
    assert (folder / "run2" / "x.json").read_text() == "{}"
    assert "no card of a model: the snapshots will have none" in capfd.readouterr().err


def test_a_models_answers_become_labels(folder, snapshot, tmp_path):
    """As `make teach`: photos that a model ranked become labels with its name, unless a person changed them."""
    net = ["--weights", snapshot, "--net", folder / "plain_deploy.prototxt"]
    rank_photos(folder / "photos", tmp_path / "judge.html", *net)
    rows = list(csv.DictReader(open(tmp_path / "judge.csv", encoding="utf-8")))
    assert all(row["votes"] == row["mean_vote"] == "" for row in rows)  # of two classes
    for i, row in enumerate(rows):  # as a model of votes has them
        row["votes"] = " ".join(map(str, np.roll([5000, 5000, 0, 0, 0, 0, 0, 0, 0, 0], i % 9)))
    with open(tmp_path / "judge.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    words = ["--labels", str(tmp_path / "judge.csv"), "--images", str(folder / "photos"), "--targets", "distribution"]
    assert prepare.main([*words, "--out", str(tmp_path / "changed")]) == 0
    assert json.loads((tmp_path / "changed" / "manifest.json").read_text())["teacher"] is None
    found = json.loads((tmp_path / "judge.json").read_text())
    found["sha256"]["judge.csv"] = results.files.sha256(tmp_path / "judge.csv")
    (tmp_path / "judge.json").write_text(json.dumps(found))
    assert prepare.main([*words, "--out", str(tmp_path / "data")]) == 0
    manifest = results.read(tmp_path / "data" / "manifest.json", results.Manifest)
    assert manifest.teacher == "plain (x_iter_2.caffemodel)"
