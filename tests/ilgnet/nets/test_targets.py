"""What prototxt/targets.py's nets learn: against real Caffe, NIMA's formula, OpenCV's EMD and finite differences."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import scipy.stats

import torchcaffe as caffe
from ilgnet.ava import targets as labels
from ilgnet.ava.ratings import Rating
from ilgnet.cli import evaluate, surgery
from ilgnet.evaluate import metrics, protocol, votes
from ilgnet.nets import emit
from ilgnet.nets.modules import Net
from ilgnet.nets.targets import TARGETS, target_of
from ilgnet.nets.variants import PAPER
from ilgnet.run import engine, results
from ilgnet.scoring.scorers import NetScorer, Settings, net_for
from ilgnet.weights.surgery import Layer, read_weights
from tests import ROOT
from tests.bvlc import compare, target_nets
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.formats import upgrade
from torchcaffe.nets import plan
from torchcaffe.proto import caffe_pb2, format_text
from torchcaffe.pycaffe.net_spec import layers as L

GOLDENS = ROOT / "tests" / "bvlc" / "goldens" / "targets"
LEARNED = [name for name, target in TARGETS.items() if target.label]
N = 8  # photos of the small nets below
RNG = np.random.RandomState(3)
SHARES = RNG.dirichlet(np.ones(10), N)
MEANS = SHARES @ np.arange(1, 11)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")


# --- against real Caffe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", target_nets.NAMES)
def test_trains_as_in_real_caffe(name, tmp_path):
    """The emitted net on its two LMDBs, four iterations: real Caffe's losses, weights and test."""
    assert set(target_nets.NAMES) == set(LEARNED)
    _, found = target_nets.train(caffe, target_nets.write(tmp_path, name))
    with np.load(GOLDENS / f"{name}.npz") as file:
        golden = dict(file)
    own = json.loads((GOLDENS / "spread.json").read_text())[name]
    assert set(found) == set(golden) == set(own)
    errors = {key: compare.error(found[key], golden[key]) for key in golden}
    print(errors)
    for key, error in errors.items():
        assert error <= max(1e-4, 3 * own[key]), (key, error)
    assert np.array_equal(found["votes"], golden["votes"])  # read in step with the photos: records 4 to 7
    rows = target_nets.ratings("train")[:4]  # the fourth batch of four begins the 12 photos anew
    kind = TARGETS[name].label
    assert np.allclose(found["votes"].reshape(4, -1), [labels.KINDS[kind](row) for row in rows], atol=1e-6)


# --- the losses and tests, on numbers --------------------------------------------------------------------------------


def small_net(name: str, phase: int = caffe_pb2.TEST):
    """A target's layers on Inputs: votes, label (N,) and given (N, outputs), which a layer copies to x, so that x has a
    gradient (force_backward would want one of the labels, too)."""
    n = Net(emit.Choice(target=name, batch_size=N), PAPER["v1bn"])
    target = TARGETS[name]
    width = 10 if target.label == "distribution" else 1
    for blob, dim in (("given", [N, target.outputs]), ("votes", [N, 1, 1, width]), ("label", [N])):
        n[blob] = L.Input(shape=dict(dim=dim))
    n["x"] = L.InnerProduct(n["given"], num_output=target.outputs)
    target.loss(n, "loss1/loss", n["x"], 1)
    target.test(n, "loss1/top-1", n["x"])
    made = engine.make_net(caffe, n.to_proto(), phase)
    made.params["x"][0].data[...] = np.eye(target.outputs)
    made.blobs["votes"].data[...] = (SHARES if width == 10 else MEANS[:, None]).reshape(N, 1, 1, width)
    made.blobs["label"].data[...] = MEANS > 5
    return made


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def nima(x: np.ndarray) -> float:
    """Talebi and Milanfar's squared EMD, r = 2, written down anew."""
    total = 0.0
    for p, q in zip(softmax(x), SHARES):
        total += sum((p[: k + 1].sum() - q[: k + 1].sum()) ** 2 for k in range(10)) / 10
    return total / len(x)


def euclid(x: np.ndarray) -> float:
    return float(np.mean((x[:, 0] - MEANS) ** 2) / 2)


def hinge(x: np.ndarray) -> float:
    s, half = x[:, 0], N // 2
    return float(
        np.mean(
            [
                max(0.0, 1 - (s[i] - s[j]) * (1 if MEANS[i] > MEANS[j] else -1))
                for i in range(half)
                for j in range(half, N)
            ]
        )
    )


@pytest.mark.parametrize("name, formula", [("distribution", nima), ("mean", euclid), ("ranking", hinge)])
def test_loss_and_gradient(name, formula):
    net = small_net(name, caffe.TRAIN)
    x = RNG.standard_normal(net.blobs["x"].data.shape) * 2
    net.blobs["given"].data[...] = x
    net.forward()
    weight = net.blob_loss_weights["loss1/loss"]
    assert weight * net.blobs["loss1/loss"].data == pytest.approx(formula(x), rel=1e-5)
    net.backward()
    numeric = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-5
        numeric[at] = (formula(x + step) - formula(x - step)) / 2e-5
    assert np.abs(net.blobs["x"].diff - numeric).max() <= 1e-5 * max(1, np.abs(numeric).max())


@pytest.mark.parametrize("name", ["distribution", "mean"])
def test_two_class_accuracy_in_the_net(name):
    """Caffe's Accuracy layer says what "the (expected) mean is above 5" says."""
    net = small_net(name)
    net.blobs["given"].data[...] = RNG.standard_normal(net.blobs["x"].data.shape) * 2 + (5 if name == "mean" else 0)
    net.forward()
    x = net.blobs["x"].data.astype(np.float64)
    mean = x[:, 0] if name == "mean" else softmax(x) @ np.arange(1, 11)
    if name == "distribution":
        assert np.allclose(net.blobs["loss1/mean"].data[:, 0], mean, rtol=1e-6)
    assert net.blobs["loss1/top-1"].data == pytest.approx(np.mean((mean > 5) == (MEANS > 5)))
    assert "loss1/up_to" not in net.outputs  # ten numbers a photo, which Caffe would print


def test_accuracy_of_a_ranking_is_pairs_in_order():
    net = small_net("ranking")
    net.blobs["given"].data[:, 0] = s = RNG.standard_normal(N)
    net.forward()
    half = N // 2
    right = [(s[i] > s[j]) == (MEANS[i] > MEANS[j]) for i in range(half) for j in range(half, N)]
    assert net.blobs["loss1/top-1"].data == pytest.approx(np.mean(right))


def test_emd_against_opencv():
    """OpenCV's EMD moves earth one bin for 1; NIMA's is that over ten bins."""
    other = RNG.dirichlet(np.ones(10), N)
    ours = metrics.emd(other, SHARES)
    places = np.arange(10)
    for value, p, q in zip(ours, other, SHARES):
        signature = [np.stack([weights, places], axis=1).astype(np.float32) for weights in (p, q)]
        assert value == pytest.approx(cv2.EMD(*signature, cv2.DIST_L1)[0] / 10, rel=1e-4)
    assert np.allclose(metrics.emd(softmax(np.log(other)), SHARES, 2) ** 2 @ np.ones(N) / N, nima(np.log(other)))


def test_best_cut_against_every_cut():
    for seed in range(20):
        rng = np.random.RandomState(seed)
        truth, scores = np.append(rng.randint(0, 2, 30), [0, 1]), rng.randint(0, 12, 32).astype(float)
        cut = metrics.best_cut(truth, scores)
        every = [(scores[truth == 1] > c).mean() + (scores[truth == 0] <= c).mean() for c in np.unique(scores)[:-1]]
        assert (scores[truth == 1] > cut).mean() + (scores[truth == 0] <= cut).mean() == pytest.approx(max(every))
    with pytest.raises(CaffeError, match="both classes"):
        metrics.best_cut(np.ones(3), np.arange(3))


# --- labels ----------------------------------------------------------------------------------------------------------


def test_label_lmdbs(tmp_path):
    target_nets.write_data(tmp_path)
    rows = target_nets.ratings("val")
    with LmdbReader(tmp_path / "val_lmdb") as photos:
        keys = [key for key, _ in photos]
    for kind in labels.KINDS:
        with LmdbReader(tmp_path / f"val_{kind}_lmdb") as reader:
            records = list(reader)
        assert [key for key, _ in records] == keys
        datum = caffe_pb2.Datum.FromString(records[3][1])
        assert (datum.channels, datum.height, datum.label) == (1, 1, int(rows[3].mean > 5)) and not datum.data
        expected = np.array(rows[3].votes) / sum(rows[3].votes) if kind == "distribution" else [rows[3].mean]
        assert np.allclose(caffe.io.datum_to_array(datum).ravel(), expected, atol=1e-6)
    means, shares = votes.votes_beside(tmp_path / "val_lmdb", 8)
    assert shares.shape == (8, 10) and np.allclose(means, shares @ np.arange(1, 11), atol=1e-5)
    assert np.allclose(means, [row.mean for row in rows], atol=1e-6)


@pytest.mark.parametrize("folder", ["val_mean_lmdb", "val_mean_lmdb.partial"])
def test_what_is_not_ours_is_not_deleted(folder, tmp_path):
    target_nets.write_data(tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "precious.txt").touch()
    with pytest.raises(CaffeError, match=f"{folder}: holds precious.txt"):
        labels.write_labels(tmp_path / "val_lmdb", "mean", {}, {})
    assert (tmp_path / folder / "precious.txt").exists()


def test_labels_of_other_photos_are_refused(tmp_path):
    target_nets.write_data(tmp_path)
    (tmp_path / "val_mean_lmdb").rename(tmp_path / "old")
    (tmp_path / "train_mean_lmdb").rename(tmp_path / "val_mean_lmdb")
    with pytest.raises(CaffeError, match="val_mean_lmdb: 12 records; the photos' LMDB has 8"):
        votes.votes_beside(tmp_path / "val_lmdb", 8)


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "val_mean_lmdb: 7 records; the photos' LMDB has 8"),
        (b"\xff", "val_mean_lmdb: record {}: not a Datum"),
        (caffe_pb2.Datum(float_data=[1, 2]).SerializeToString(), "val_mean_lmdb: record {}: 2 numbers; expected 1"),
    ],
)
def test_broken_label_lmdbs_are_named(value, reason, tmp_path):
    """A value of None: the last record is not there."""
    target_nets.write_data(tmp_path)
    with lmdb.open(str(tmp_path / "val_mean_lmdb")) as env, env.begin(write=True) as txn:
        last = list(txn.cursor().iternext(values=False))[-1]
        txn.delete(last) if value is None else txn.put(last, value)
    with pytest.raises(CaffeError, match=reason.format(last.decode())):
        votes.votes_beside(tmp_path / "val_lmdb", 8)


@pytest.mark.parametrize(
    "kind, row, reason",
    [
        ("mean", None, "1.jpg: it is not rated"),
        ("distribution", Rating(1, (1, 2, 3), (0, 0), 0), "1.jpg: 3 vote counts are known for it, not 10"),
    ],
)
def test_photos_without_votes(kind, row, reason):
    with pytest.raises(CaffeError, match=reason):
        labels.check([kind], [("1.jpg", 0)], {} if row is None else {"1.jpg": row})


# --- the generator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", PAPER)
@pytest.mark.parametrize("name", LEARNED)
def test_every_variant_learns_every_target(variant, name):
    """The same net up to the last layer, and in both phases a graph without loose ends."""
    ours, plain = (emit.train_val(emit.Choice(variant, target=target, batch_size=16)) for target in (name, "classes"))
    trunk = {layer.name: layer for layer in ours.layer if layer.type != "Data"}
    for layer in plain.layer:
        if layer.type not in ("Data", "SoftmaxWithLoss", "Accuracy") and "classifier_cjy" not in layer.name:
            assert trunk[layer.name] == layer
    for phase in (caffe_pb2.TRAIN, caffe_pb2.TEST):
        param = caffe_pb2.NetParameter()
        param.CopyFrom(ours)
        param.state.phase = phase
        net = plan.filter_net(param)
        made, used = set(), set()
        for layer in net.layer:
            assert set(layer.bottom) <= made, layer.name
            made |= set(layer.top)
            used |= set(layer.bottom)
        left = {"loss1/loss", "loss2/loss", "loss3/loss3"} | (
            {"loss1/top-1", "loss2/top-1", "loss3/top-1"} if phase == caffe_pb2.TEST else set()
        )
        assert made - used <= left
    answer = emit.deploy(emit.Choice(variant, target=name)).layer[-1]
    assert answer.type == ("Softmax" if name == "distribution" else "InnerProduct")
    assert protocol.variant_of(ours.name) is None  # not a row of the paper's tables


def test_bad_choices():
    with pytest.raises(CaffeError, match="batch size 15: must be even for ranking"):
        emit.Choice("v1", batch_size=15, target="ranking")
    with pytest.raises(CaffeError, match="unknown target 'beauty'"):
        emit.Choice("v1", target="beauty")
    assert "--target mean" in emit.Choice("v1", target="mean").command()
    assert target_of("loss3/mean_cjy_spp").name == "mean" and target_of("temp_cjy") is None


# --- surgery, scoring and evaluation ---------------------------------------------------------------------------------


def weights_for(folder: Path, name: str) -> Path:
    """Weights of a small net of a target whose last layer is not zero, through tools/surgery.py."""
    deploy = emit.deploy(emit.Choice("third", crop=96, target=name))
    (folder / "deploy.prototxt").write_text(format_text(deploy))
    caffe.set_random_seed(1)
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST)
    for layer, blobs in net.params.items():
        if layer.endswith("/bn"):
            blobs[1].data[...], blobs[2].data[...] = 1, 1
        elif target_of(layer):
            blobs[0].data[...] = np.random.RandomState(2).standard_normal(blobs[0].data.shape) * 0.01
    net.save(str(folder / "net.caffemodel"))
    out = folder / "moved.caffemodel"
    train_val = emit.train_val(emit.Choice("third", crop=96, batch_size=4, target=name, source=str(folder)))
    (folder / "train_val.prototxt").write_text(format_text(train_val))
    assert (
        surgery.main(
            [
                "--weights",
                str(folder / "net.caffemodel"),
                "--net",
                str(folder / "train_val.prototxt"),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


@pytest.mark.parametrize("name", LEARNED)
def test_score_and_evaluate(name, tmp_path, capsys):
    target_nets.write_data(tmp_path, 256)
    weights = weights_for(tmp_path, name)
    lmdb = tmp_path / "val_lmdb"
    command = ["--weights", str(weights), "--net", str(tmp_path / "deploy.prototxt"), "--lmdb", str(lmdb)]
    if name == "ranking":
        command += ["--cut-on", str(tmp_path / "train_lmdb")]
    assert evaluate.main([*command, "--out", str(tmp_path / "result.json")]) == 0
    printed = capsys.readouterr().out
    result = results.read_json(tmp_path / "result.json")
    figures = result["result"]
    assert result["target"] == name and result["variant"] is None
    assert result.get("predictions") == (None if name == "ranking" else "result.csv")

    scorer = NetScorer(Settings(weights, tmp_path / "deploy.prototxt", mean=tmp_path / "mean.binaryproto", batch=3))
    rows = protocol.ask(scorer, lmdb).rows
    scores = rows @ np.arange(1, 11) if name == "distribution" else rows[:, 0]
    means = np.array([row.mean for row in target_nets.ratings("val")])
    order = np.argsort(np.argsort(scores)), np.argsort(np.argsort(means))  # no ties
    assert figures["spearman"] == pytest.approx(np.corrcoef(*order)[0, 1])
    assert figures["pearson"] == pytest.approx(np.corrcoef(scores, means)[0, 1], abs=1e-5)  # votes are float32
    cut = figures["cut"] if name == "ranking" else 5
    assert figures["accuracy"]["value"] == pytest.approx(np.mean((scores > cut) == (means > 5)))
    assert f"Spearman, votes    {figures['spearman']:.4f}" in printed
    assert ("EMD, votes" in printed) == (name == "distribution")
    photos = np.random.RandomState(0).uniform(-100, 100, (3, 3, 96, 96)).astype(np.float32)
    if name == "ranking":
        with pytest.raises(CaffeError, match="answers a score to rank by: neither two classes nor votes"):
            scorer.answers(photos)
        return
    # P(mean > 5) of normal errors, and the spread by the definition of a standard deviation.
    p_high = scipy.stats.norm.cdf((scores - 5) / 0.57)
    np.testing.assert_allclose(protocol.read_csv(tmp_path / "result.csv").p_high, p_high, rtol=1e-5)
    assert figures["calibration"]["ece"] == pytest.approx(
        sum(p["n"] * abs(p["observed"] - p["p_high"]) for p in figures["calibration"]["bins"]) / len(means)
    )
    for answer, row in zip(scorer.answers(photos), scorer.rows(photos)):
        assert answer.mean_vote == pytest.approx(scorer.number(row))
        assert np.log(answer.p_high / (1 - answer.p_high)) == pytest.approx(answer.margin)
        if name == "distribution":
            deviations = np.arange(1, 11) - answer.mean_vote
            assert answer.spread == pytest.approx(np.sqrt((row.astype(np.float64) * deviations**2).sum()))
        else:
            assert answer.shares is None and answer.spread is None
    # The weights alone tell which net and target they are of, also beside the layers of a loss.
    source = read_weights(weights)
    fixed = [Layer(layer, "Convolution", [np.ones(10)]) for layer in ("loss1/running_sums", "votes_running_sums")]
    assert net_for(source, weights) == net_for([*source, *fixed], weights) == f"third:{name}"


def test_ranking_without_a_cut_and_photos_without_votes(tmp_path, capsys, monkeypatch):
    target_nets.write_data(tmp_path, 256)
    command = [
        "--weights",
        str(weights_for(tmp_path, "ranking")),
        "--net",
        str(tmp_path / "deploy.prototxt"),
        "--lmdb",
        str(tmp_path / "val_lmdb"),
    ]
    assert evaluate.main(command) == 0
    assert "no accuracy: a ranking has no threshold; --cut-on" in capsys.readouterr().out
    asked, ask = [], protocol.ask
    monkeypatch.setattr(protocol, "ask", lambda *args: asked.append(args[3]) or ask(*args))
    assert evaluate.main([*command, "--cut-on", str(tmp_path / "train_lmdb"), "--tta", "mirror"]) == 0
    assert asked == ["mirror", "mirror"]  # the cut is of the views that it is to cut
    with pytest.raises(CaffeError, match="--test-batch: is of two-class nets"):
        evaluate.main([*command, "--test-batch", "9"])
    with pytest.raises(CaffeError, match="a score to rank by, which has no cut of low and high"):
        evaluate.main([*command[:4], "--picks", str(tmp_path / "picks.csv")])
    for kind in labels.KINDS:
        (tmp_path / f"val_{kind}_lmdb").rename(tmp_path / f"hidden_{kind}")
    capsys.readouterr()
    assert evaluate.main(command) == 0
    assert "Spearman" not in capsys.readouterr().out


def test_nets_without_data_end_in_their_answers():
    """As surgery and calibration build them, whatever the number of photos; two-class nets stay whole."""
    for name, last in (
        ("ranking", "loss1/rank_cjy"),
        ("distribution", "loss1/distribution_cjy"),
        ("classes", "loss1/top-1"),
    ):
        net = engine.without_data(emit.train_val(emit.Choice("third", crop=96, target=name)), caffe.TEST, 3)
        assert net.layer[-1].name == last
        assert {layer.name for layer in net.layer if layer.type == "Input"} <= {"data", "label"}
    assert upgrade.read_net(ROOT / "prototxt" / "v1" / "deploy.prototxt").name == PAPER["v1"].title
