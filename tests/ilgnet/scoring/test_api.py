"""ilgnet.Scorer on items of every kind, the models on a machine, and Grad-CAM of a mean vote."""

from __future__ import annotations

import io
import json
import resource
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import ilgnet
import torchcaffe
from ilgnet.scoring import answers
from ilgnet.scoring.scorers import NetScorer, Settings
from ilgnet.weights import models
from torchcaffe.base.errors import CaffeError

NET = """name: "ten"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "loss1/distribution_cjy" type: "InnerProduct" bottom: "pool" top: "votes"
  inner_product_param { num_output: 10 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "shares" type: "Softmax" bottom: "votes" top: "shares" }
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "deploy.prototxt").write_text(NET)
    torchcaffe.set_random_seed(5)
    torchcaffe.Net(str(folder / "deploy.prototxt"), torchcaffe.TEST).save(str(folder / "ten.caffemodel"))
    return folder


@pytest.fixture(scope="module")
def scorer(model):
    return ilgnet.Scorer(model / "ten.caffemodel", net=model / "deploy.prototxt", batch=4)


@pytest.fixture
def photo():
    return cv2.resize(np.random.RandomState(1).randint(0, 256, (6, 8, 3)).astype(np.uint8), (80, 60))  # RGB


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without models, in an empty folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


# --- items -----------------------------------------------------------------------------------------------------------


def test_one_photo_in_every_form(scorer, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    items = [tmp_path / "p.png", str(tmp_path / "p.png"), data, bytearray(data), Image.open(io.BytesIO(data)), photo]
    found = [scorer.score(item)[0] for item in items]
    assert len(set(found)) == 1 and found[0].error is None
    assert scorer.score(photo[:, :, ::-1], order="bgr") == found[:1]
    assert [score.mean_vote for score in scorer.score(items)] == pytest.approx([found[0].mean_vote] * 6)
    grey = photo[:, :, 0]
    assert scorer.score(grey) == scorer.score(Image.fromarray(grey)) == scorer.score(np.stack([grey] * 3, axis=2))
    assert len(scorer.score(np.stack([photo, photo]))) == 2 and scorer.score(iter([])) == []


def test_the_numbers_belong_together(scorer, photo):
    (score,) = scorer.score(photo)
    votes = np.random.RandomState(0).choice(np.arange(1, 11), 200_000, p=np.array(score.shares) / sum(score.shares))
    assert votes.mean() == pytest.approx(score.mean_vote, abs=0.03)
    assert votes.std() == pytest.approx(score.spread, abs=0.03)
    assert (score.p_high > 0.5) == (score.mean_vote > 5)
    assert ilgnet.score([photo], scorer.weights, net=scorer.weights.with_name("deploy.prototxt")) == [score.mean_vote]


def test_an_item_that_cannot_be_read_is_that_items_error(scorer, photo, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(cv2.imencode(".jpg", photo)[1].tobytes()[:-50])
    broken = Image.open(tmp_path / "cut.jpg")
    odd = [tmp_path / "cut.jpg", "gone.jpg", b"", 7, None, broken, photo.astype(float), photo[:, :, :2], photo[:0]]
    items = [photo] * 25 + odd + [photo] * 25
    found = scorer.score(items)
    bad = [i for i, score in enumerate(found) if score.error is not None]
    assert bad == list(range(25, 25 + len(odd)))
    assert len({round(score.mean_vote, 5) for score in found if score.error is None}) == 1  # batches round differently
    assert all(score.mean_vote is None and score.p_high is None and "\n" not in score.error for score in found[25:34])
    assert "cut.jpg: cut short" in found[25].error and "gone.jpg" in found[26].error
    with pytest.raises(CaffeError, match=r"item 2: .*gone\.jpg"):
        ilgnet.score([photo, "gone.jpg"], scorer.weights, net=scorer.weights.with_name("deploy.prototxt"))
    with pytest.raises(ValueError, match="order 'grb'"):
        scorer.score(photo, order="grb")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_any_array_is_scored(scorer, array):
    (score,) = scorer.score(array)
    assert score.error is None and 1 <= score.mean_vote <= 10 and 0 <= score.p_high <= 1


def test_threads_share_a_scorer(scorer):
    photos = np.random.RandomState(2).randint(0, 256, (12, 40, 50, 3)).astype(np.uint8)
    wanted, found = scorer.score(photos), {}

    def score(i):
        found[i] = scorer.score(photos[i : i + 3])

    threads = [threading.Thread(target=score, args=(i,)) for i in range(0, 12, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, scores in found.items():
        for ours, theirs in zip(scores, wanted[i : i + 3], strict=True):
            assert ours.shares == pytest.approx(theirs.shares, abs=1e-6)


def test_a_thousand_calls_hold_memory_steady(scorer, photo):
    def memory():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    for _ in range(100):
        scorer.score(photo)
    before = memory()
    for _ in range(1000):
        scorer.score(photo)
    assert memory() - before < 4 << 20


def test_nothing_is_printed(model, photo, capfd):
    scorer = ilgnet.Scorer(model / "ten.caffemodel", net=model / "deploy.prototxt")
    scorer.score([photo, b"no photo"])
    assert capfd.readouterr() == ("", "")


# --- models ----------------------------------------------------------------------------------------------------------


def test_which_model_judges(home, model):
    with pytest.raises(CaffeError, match=r"install one by ilgnet fetch-weights nima \(13 MB\), or name weights"):
        ilgnet.Scorer()
    with pytest.raises(CaffeError, match="nima: not in .*; ilgnet fetch-weights nima installs it"):
        ilgnet.Scorer("nima")
    folder = home / "data" / "ilgnet" / "weights"
    assert models.folder() == folder
    folder.mkdir(parents=True)
    for name in reversed(models.JUDGES):
        (folder / models.INSTALLED[name]).write_bytes(b"")
        assert models.find() == models.find(name) == folder / models.INSTALLED[name]
    (home / "here" / "weights").mkdir()
    assert models.folder().resolve() == home / "here" / "weights"
    with pytest.raises(CaffeError, match="no model that judges photos is in weights"):
        models.find()
    (home / "here" / "nima").write_bytes(b"")  # a file of that name is what the user names
    assert str(models.find("nima")) == "nima"


def test_a_taught_net_takes_its_card_and_mean_along(home, model):
    run = home / "run"
    run.mkdir()
    snapshot = run / "teach_iter_5.caffemodel"
    snapshot.write_bytes((model / "ten.caffemodel").read_bytes())
    with pytest.raises(CaffeError, match="no card beside it says who taught it"):
        models.install_taught(snapshot, home / "x.caffemodel")
    card = {"kind": "model", "title": "ten", "answer": "shares", "teacher": "NIMA", "photos": 7, "mean": "teach.mean"}
    (run / "teach.json").write_text(json.dumps(card))
    (run / "teach.mean").write_bytes(b"mean")
    folder = models.folder()
    folder.mkdir(parents=True)
    models.install_taught(snapshot, folder / models.INSTALLED["taught"])
    assert models.mean_of(models.find()).read_bytes() == b"mean"
    assert models.cautions(models.card(models.find())) == [
        "Taught by NIMA on 7 photos: it repeats its teacher, no person's votes."
    ]
    assert len(models.remove(folder, "taught")) == 3 and not list(folder.iterdir())
    with pytest.raises(CaffeError, match="taught: not in .*: nothing to remove"):
        models.remove(folder, "taught")
    # A card names no file elsewhere, and a JSON of another kind is none.
    (run / "teach.json").write_text(json.dumps({**card, "mean": "../secret"}))
    with pytest.raises(CaffeError, match=r"mean: '\.\./secret' is not a file's name"):
        models.mean_of(snapshot)
    (run / "teach.json").write_text("[1]")
    assert models.card(snapshot) is None and models.cautions(None) == []


# --- heat maps and probabilities -------------------------------------------------------------------------------------


def test_heat_is_the_gradient_of_the_mean_vote(model):
    """Against PyTorch's own gradient of the mean vote."""
    scorer = NetScorer(Settings(model / "ten.caffemodel", model / "deploy.prototxt"), heat=True)
    photos = np.random.RandomState(3).uniform(-100, 100, (2, 3, 32, 32)).astype(np.float32)
    found = scorer.answers(photos)
    maps = torch.tensor(scorer.features(["conv"])["conv"], requires_grad=True)
    net = torchcaffe.Net(str(model / "deploy.prototxt"), str(model / "ten.caffemodel"), torchcaffe.TEST)
    weight, bias = (torch.tensor(np.array(blob.data)) for blob in net.params["loss1/distribution_cjy"])
    shares = torch.softmax(maps.mean(dim=(2, 3)) @ weight.T + bias, dim=1)
    means = shares @ torch.arange(1.0, 11)
    means.sum().backward()
    heat = (maps.grad.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).detach().numpy()
    heat /= np.abs(heat).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose([answer.heat for answer in found], heat, atol=1e-4)
    np.testing.assert_allclose([answer.mean_vote for answer in found], means.detach().numpy(), rtol=1e-5)


@given(st.floats(1, 10), st.floats(1, 10))
def test_p_high_orders_as_the_mean_does(one, other):
    p, margin = answers.above_cut(np.array([one, other]))
    assert ((0 <= p) & (p <= 1)).all() and np.isfinite(margin).all()
    if one - other > 1e-9:
        assert margin[0] > margin[1] and p[0] >= p[1]
