"""The demo set: AVA's format, graded votes, no source on both sides, the same for a seed on any number of workers."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from ilgnet.ava import splits
from ilgnet.ava.ratings import read_ratings
from ilgnet.cli import demo, prepare
from ilgnet.demo import demo_set, scenes
from ilgnet.evaluate import protocol
from tests.records import datums
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.blobproto import read_blobproto


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    demo.main(["--out", str(folder / "a"), "--count", "18", "--seed", "5", "--workers", "1"])
    return folder / "a"


def test_the_folder_is_avas(made):
    ratings = {rating.photo: rating for rating in read_ratings(made / "AVA.txt")}
    about = json.loads((made / "DEMO.json").read_text())
    assert len(ratings) == 18 == len(about["photos"]) and "Synthetic" in about["synthetic"]
    assert {path.name for path in (made / "images").iterdir()} == set(ratings)
    for number, photo in about["photos"].items():
        rating = ratings[f"{number}.jpg"]
        assert splits.label(rating) == (not photo["faults"])
        assert abs(rating.mean - photo["score"]) < 0.6 and len(rating.votes) == 10 and rating.voters >= 80
        assert min(cv2.imread(str(made / "images" / rating.photo)).shape[:2]) >= 256
    assert sum(not photo["faults"] for photo in about["photos"].values()) == 9


def test_no_source_trains_and_tests(made):
    split = splits.make_split(read_ratings(made / "AVA.txt"), splits.Choice(lists=made / "lists"))
    assert split.notes == [] and len(split.train) + len(split.val) == 18
    about = json.loads((made / "DEMO.json").read_text())["photos"]
    source = {f"{number}.jpg": photo["source"] for number, photo in about.items()}
    assert not {source[entry.photo] for entry in split.train} & {source[entry.photo] for entry in split.val}


def test_a_seed_is_a_set_whatever_the_workers(made, tmp_path):
    demo_set.make_demo(tmp_path / "b", count=18, seed=5, workers=2)
    demo_set.make_demo(tmp_path / "c", count=18, seed=6, workers=1)
    for path in [made / "AVA.txt", made / "DEMO.json", *(made / "lists").iterdir(), *(made / "images").iterdir()]:
        assert (tmp_path / "b" / path.relative_to(made)).read_bytes() == path.read_bytes()
    assert (tmp_path / "c/AVA.txt").read_bytes() != (made / "AVA.txt").read_bytes()


def test_a_finished_set_stays(made, tmp_path):
    before = (made / "AVA.txt").stat().st_mtime_ns
    assert len(demo_set.make_demo(made, count=18, seed=5)) == 18
    assert (made / "AVA.txt").stat().st_mtime_ns == before
    with pytest.raises(CaffeError, match="holds another AVA.txt"):
        demo_set.make_demo(made, count=18, seed=6)


def test_photographs(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        picture = (scenes.paint(np.random.RandomState(number), 200, 300)[1][..., ::-1] * 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"photos/{number}.png"), picture)
    versions = demo_set.make_demo(tmp_path / "a", tmp_path / "photos", count=15, workers=1)
    assert {version.source for version in versions} <= {f"{number}.png" for number in range(6)}
    (tmp_path / "photos/3.png").write_bytes(b"no picture")
    with pytest.raises(CaffeError, match="3.png: not a picture"):
        demo_set.make_demo(tmp_path / "b", tmp_path / "photos", count=30, workers=1)


def test_the_subject_comes_to_a_third(tmp_path):
    picture = np.full((300, 450, 3), 90, np.uint8)
    cv2.circle(picture, (225, 150), 20, (0, 0, 255), -1)
    cv2.circle(picture, (225, 150), 9, (255, 255, 0), -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    _, cropped = demo_set.photographed(tmp_path / "a.png")
    row, column = demo_set.eye_catcher(cropped)
    assert min(abs(column / cropped.shape[1] - t) for t in (1 / 3, 2 / 3)) < 0.1
    assert min(abs(row / cropped.shape[0] - t) for t in (1 / 3, 2 / 3)) < 0.1


@pytest.mark.parametrize("name", scenes.KINDS)
def test_every_scene_is_a_picture(name):
    for seed, (height, width) in enumerate([(200, 300), (300, 220)]):
        picture = scenes.KINDS[name](np.random.RandomState(seed), height, width)
        assert picture.shape == (height, width, 3) and np.isfinite(picture).all()
        assert np.clip(picture, 0, 1).std() > 0.05


@pytest.mark.parametrize("name", demo_set.FAULTS)
def test_every_fault_shows_and_grows(name):
    picture = scenes.mountains(np.random.RandomState(2), 180, 360).clip(0, 1).astype(np.float32)
    change = [
        np.abs(demo_set.FAULTS[name](np.random.RandomState(1), picture, s).clip(0, 1) - picture).mean() for s in (0, 1)
    ]
    assert 0.005 < change[0] < change[1]


def test_faults_do_not_undo_each_other():
    """A photo may be burnt and blurred, but not burnt and dark; a colour cast never stands alone."""
    picture = scenes.mountains(np.random.RandomState(2), 90, 120).clip(0, 1).astype(np.float32)
    found = [set(demo_set.spoil(np.random.RandomState(seed), picture)[1]) for seed in range(300)]
    assert all(len(names & set(demo_set.RANGE)) <= 1 and names - set(demo_set.COMPOSING) - {"cast"} for names in found)
    assert {name for names in found for name in names} == set(demo_set.FAULTS)
    assert {"cast", "over_exposure"} in [names - set(demo_set.COMPOSING) for names in found]


def test_over_exposure_burns_whatever_the_light_was():
    rng = np.random.RandomState(0)
    picture = np.repeat(rng.rand(60, 80, 1), 3, axis=2).astype(np.float32)
    for own in (picture, picture / 2):
        for severity in (0.3, 0.6):  # (four stops are the most)
            burnt = (demo_set.to_bytes(demo_set.over_exposure(rng, own, severity)).min(axis=2) >= 250).mean()
            assert burnt >= 0.1 + 0.4 * severity - 0.02


def test_more_light_is_more_light():
    """A stop doubles the light of what is not clipped: middle grey, 18 % of it, becomes 36 %, in sRGB 0.637."""
    assert demo_set.expose(np.array([0.0, 118 / 255, 0.9]), 1) == pytest.approx([0, 0.637, 1], abs=2e-3)
    assert demo_set.expose(demo_set.expose(np.linspace(0, 1, 50), -3), 3) == pytest.approx(
        np.linspace(0, 1, 50), abs=1e-5
    )


def test_the_votes_of_good_photos_follow_what_is_in_them():
    picture = scenes.mountains(np.random.RandomState(2), 90, 120).clip(0, 1).astype(np.float32)
    grey = picture.mean(2, keepdims=True).repeat(3, 2)
    more = [picture * (1 - share) + grey * share for share in (1, 0.5, 0)] + [(1.5 * picture - 0.25).clip(0, 1)]
    scores = [demo_set.praise(p) for p in more]
    assert 5.4 <= scores[0] < scores[1] < scores[2] < scores[3] <= 7.8


@pytest.mark.parametrize("score", [1.8, 4.5, 5.6, 7.6])
def test_votes(score):
    rng = np.random.RandomState(0)
    votes = np.array([demo_set.draw_votes(rng, score) for _ in range(100)])
    means = votes @ np.arange(1, 11) / votes.sum(1)
    assert abs(means.mean() - score) < 0.03 and ((means > 5) == (score > 5)).all()
    assert 190 < votes.sum(1).mean() < 230


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"count": 9}, "--count 9"),
        ({"seed": -1}, "--seed -1: must be from 0"),
        ({"photos": "none"}, "no such folder"),
        ({"photos": "."}, "photographs in"),
    ],
)
def test_bad_options_are_named(arguments, said, tmp_path):
    if "photos" in arguments:
        arguments = {"photos": tmp_path / arguments["photos"]}
    with pytest.raises(CaffeError, match=said):
        demo_set.make_demo(tmp_path / "a", **arguments)


def run_prepare(ava, out, *options):
    prepare.main([str(ava), "--out", str(out), "--size", "32", *options])
    return json.loads((out / "manifest.json").read_text())


def test_the_manifest_says_which_set_it_is(made, tmp_path):
    shutil.copy(made / "AVA.txt", tmp_path / "AVA.txt")
    images = ["--images", str(made / "images")]
    for name, options in {
        "ava2, thresholds 4.0 and 6.5": ["--dataset", "ava2", "--thresholds", "4", "6.5"],
        "ava1_delta1": ["--dataset", "ava1_delta1"],
    }.items():
        out = tmp_path / options[-1]
        assert run_prepare(tmp_path, out, *images, *options)["dataset"] == name
        assert protocol.about(out / "val_lmdb")[0] == name


def test_prepare_the_demo_set(made, tmp_path, capsys):
    manifest = run_prepare(made, tmp_path / "out")
    assert manifest["synthetic"] == demo_set.SYNTHETIC and manifest["split"] == "lists in lists"
    listed = {
        entry.photo: entry.label for name in ("train", "val") for entry in splits.read_list(made / f"lists/{name}.txt")
    }
    for name in ("train", "val"):
        stored = datums(tmp_path / f"out/{name}_lmdb")
        lines = splits.read_list(tmp_path / f"out/{name}.txt")
        assert list(stored) == [f"{i:08d}_{entry.photo}" for i, entry in enumerate(lines)]
        assert [datum.label for datum in stored.values()] == [listed[entry.photo] for entry in lines]
        assert manifest[name]["records"] == len(stored) == manifest[name]["low"] + manifest[name]["high"]
        assert [entry.photo for entry in lines] != sorted(entry.photo for entry in lines)
    pictures = [np.frombuffer(datum.data, np.uint8) for datum in datums(tmp_path / "out/train_lmdb").values()]
    mean = read_blobproto(tmp_path / "out/mean.binaryproto")
    assert np.allclose(mean.ravel(), np.mean(pictures, 0), atol=1e-4) and mean.shape == (1, 3, 32, 32)
    assert np.array_equal(np.load(tmp_path / "out/mean.npy"), mean[0])
    # Again: nothing is made anew, and the manifest is the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*_lmdb/data.mdb")}
    assert run_prepare(made, tmp_path / "out") == manifest
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(CaffeError, match="exists, but was not made from this list"):
        run_prepare(made, tmp_path / "out", "--seed", "2")
    assert run_prepare(made, tmp_path / "jpeg", "--encoded", "jpeg")["options"]["encode"] == "jpg"


def test_prepare_names_what_it_lost(made, tmp_path, capsys):
    ava = tmp_path / "ava"
    (ava / "images").mkdir(parents=True)
    (ava / "AVA.txt").write_bytes((made / "AVA.txt").read_bytes())
    photos = sorted((made / "images").iterdir())
    for path in photos[2:]:
        (ava / "images" / path.name).write_bytes(path.read_bytes())
    (ava / "images" / photos[1].name).write_bytes(b"x")
    manifest = run_prepare(ava, tmp_path / "out")
    lost = {item["photo"]: item["reason"] for name in ("train", "val") for item in manifest[name]["skipped"]}
    assert lost == {photos[0].name: "no such file or directory", photos[1].name: "not a picture, or broken"}
    assert manifest["synthetic"] is None and "2 photos left out" in capsys.readouterr().out
    assert sum(manifest[name]["listed"]["photos"] - manifest[name]["records"] for name in ("train", "val")) == 2


def test_prepare_starts_nothing_without_its_input(made, tmp_path, monkeypatch):
    for folder, said in [(tmp_path / "none", "none/AVA.txt: no such ratings"), (made / "images", "AVA.txt: no such")]:
        with pytest.raises(CaffeError, match=said):
            run_prepare(folder, tmp_path / "out")
    with pytest.raises(CaffeError, match="no such photos"):
        run_prepare(made, tmp_path / "out", "--images", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaffeError, match="none of the first"):
        run_prepare(made, tmp_path / "out", "--images", str(tmp_path / "empty"))
    with pytest.raises(CaffeError, match="--size 0: a mean image"):
        run_prepare(made, tmp_path / "out", "--size", "0")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(CaffeError, match="out: 18 photos need about 0 GB, 0 GB are free; --encoded jpeg"):
        run_prepare(made, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "options, said",
    [
        (["--labels", "x.csv", "--dataset", "ava2"], "--dataset is for AVA, not for --labels"),
        (["--labels", "x.csv", "--lists", "x"], "--lists is for AVA, not for --labels"),
        (["--labels", "x.csv", "--dataset", "ava2"], "--dataset is for AVA, not for --labels"),
        (["--labels", "x.csv", "--thresholds", "4", "6"], "--thresholds is for AVA, not for --labels"),
        (["ava", "--cut", "4"], "--cut is for --labels"),
        (["ava", "--held-out", "0.5"], "--held-out is for --labels"),
    ],
)
def test_prepare_passes_over_no_option(options, said, capsys):
    with pytest.raises(SystemExit):
        prepare.main([*options, "--out", "o"])
    assert said in capsys.readouterr().err
