"""Ranking a folder of photos: scores and heat maps, cache, groups, picks, sidecars; the gallery is in test_gallery."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import sqlite3
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

import ilgnet
import torchcaffe
from ilgnet.ava import labels
from ilgnet.cli import check_ranking, evaluate, prepare, report
from ilgnet.cli import rank as rank_photos
from ilgnet.photos import checks as photo_checks
from ilgnet.photos import preprocess
from ilgnet.rank import cache as photo_cache
from ilgnet.rank import check, picks, ranking, xmp
from ilgnet.run import results
from ilgnet.scoring import scorers
from ilgnet.scoring.answers import Answer
from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.transform import datum_image, parse_datum

NET = """name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 5 stride: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small net whose score is known: the darker a photo, the lower."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "deploy.prototxt").write_text(NET)
    torchcaffe.set_random_seed(3)
    net = torchcaffe.Net(str(folder / "deploy.prototxt"), torchcaffe.TEST)
    net.params["conv"][0].data[...] = np.random.RandomState(0).rand(6, 3, 5, 5) * 0.001
    net.params["ip"][0].data[...] = np.random.RandomState(1).rand(2, 96) * [[-1], [1]] * 0.1
    net.save(str(folder / "tiny.caffemodel"))
    return folder


@pytest.fixture
def spec(model):
    return ranking.Spec(model / "tiny.caffemodel", model / "deploy.prototxt", batch=4)


def scene(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Sharp shapes of many sizes, uint8 BGR."""
    rng = np.random.RandomState(seed)
    picture = np.full(size + (3,), rng.randint(40, 200, 3), np.uint8)
    for _ in range(60):
        centre = tuple(int(v) for v in rng.randint(0, size[1], 2))
        cv2.circle(picture, centre, int(rng.randint(2, 30)), tuple(int(v) for v in rng.randint(0, 256, 3)), -1)
    return picture


def jpeg(path: Path, picture: np.ndarray, taken: str | None = None, rating: int | None = None) -> None:
    from PIL import Image

    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    if rating is not None:
        exif[0x4746] = rating
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture[..., ::-1]).save(path, quality=95, exif=exif)
    os.utime(path, (1.6e9, 1.6e9))  # old enough to be remembered


@pytest.fixture
def folder(tmp_path):
    """Eight photos, two of them near-duplicates, and what may lie about besides."""
    photos = tmp_path / "photos"
    for i in range(6):
        jpeg(photos / ("" if i % 2 else "deep/er") / f"{i}.jpg", scene(i))
    jpeg(photos / "same.jpg", scene(1)[3:, 2:])
    jpeg(photos / "=1+1.jpg", scene(7))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (photos / "note.txt").write_text("no photo")
    (photos / ".hidden.jpg").write_bytes(b"")
    jpeg(tmp_path / "outside" / "o.jpg", scene(8))
    (photos / "link.jpg").symlink_to(tmp_path / "outside" / "o.jpg")
    (photos / "links").symlink_to(tmp_path / "outside")
    return photos


@pytest.fixture
def cache(tmp_path):
    made = photo_cache.Cache(tmp_path / "cache" / "c.sqlite")
    yield made
    made.close()


# --- the net's answers ------------------------------------------------------------------------------------------------


def distances(hashes, others):
    """(n, m) numbers of differing bits of two lists of perceptual hashes."""
    return (64 - photo_checks.signs_of(hashes) @ photo_checks.signs_of(others).T) / 2


def test_margin_and_heat_map(model):
    scorer = scorers.NetScorer(scorers.Settings(model / "tiny.caffemodel", model / "deploy.prototxt"), heat=True)
    arrays = np.random.RandomState(0).randn(3, 3, 32, 32).astype(np.float32) * 50
    found = scorer.answers(arrays)
    assert scorer.module == "conv" and "index 1 means high" in scorer.meaning
    for answer in found:
        assert answer.margin == pytest.approx(np.log(answer.p_high / (1 - answer.p_high)), rel=1e-3)
    # Grad-CAM by hand: the margin is linear in the pooled maps; of 7 places, the last window of two holds one.
    weights, maps = scorer._net.params["ip"][0].data, scorer._net.blobs["conv"].data
    counts = np.array([2, 2, 2, 1])
    gradient = (weights[1] - weights[0]).reshape(6, 4, 4) / np.outer(counts, counts)
    want = np.einsum("k,nkhw->nhw", gradient.repeat(2, 1).repeat(2, 2)[:, :7, :7].mean((1, 2)), maps)
    want /= np.abs(want).max((1, 2), keepdims=True)
    np.testing.assert_allclose([answer.heat for answer in found], want, atol=1e-5)


def test_a_net_with_a_layer_not_loaded_is_refused(model, folder, cache, tmp_path):
    (tmp_path / "other.prototxt").write_text(NET.replace('"ip"', '"other"'))
    spec = ranking.Spec(model / "tiny.caffemodel", tmp_path / "other.prototxt")
    with pytest.raises(CaffeError, match="nothing in it fits"):
        ranking.rank(folder, spec, cache)


# --- checks -----------------------------------------------------------------------------------------------------------


def test_blur_is_judged_in_the_sharpest_region():
    for seed in range(5):
        photo = scene(seed, (480, 640))
        blurred = cv2.GaussianBlur(photo, (0, 0), 4)
        soft = blurred.copy()
        soft[140:340, 220:420] = photo[140:340, 220:420]
        noise = np.random.RandomState(seed).randn(*photo.shape) * 6
        noisy = np.clip(blurred + noise, 0, 255).astype(np.uint8)
        found = [photo_checks.measure(picture) for picture in (photo, soft, blurred, noisy)]
        assert ["blurred" in checks.faults for checks in found] == [False, False, True, True]


def test_exposure():
    photo = np.tile(np.linspace(60, 190, 160).astype(np.uint8)[None, :, None], (120, 1, 3))
    assert [
        photo_checks.measure(p).faults[1:]
        for p in (photo, np.clip(photo.astype(int) + 120, 0, 255).astype("u1"), photo // 12)
    ] == [[], ["over-exposed"], ["under-exposed"]]
    red = np.zeros((60, 60, 3), np.uint8)
    red[..., 2] = 255  # a saturated colour is not burnt out
    assert photo_checks.measure(red).burnt == 0


def test_perceptual_hash_and_distances():
    photos = [scene(seed) for seed in range(30)]
    hashes = [photo_checks.measure(photo).phash for photo in photos]
    found = distances(hashes, hashes)
    want = [[bin(int(a, 16) ^ int(b, 16)).count("1") for b in hashes] for a in hashes]
    assert np.array_equal(found, want)
    assert found[np.triu_indices(30, 1)].min() > photo_checks.SAME_BITS
    for change in (
        lambda p: cv2.resize(p, None, fx=0.5, fy=0.5),
        lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
        lambda p: (p * 0.8).astype(np.uint8),
    ):
        other = [photo_checks.measure(change(photo)).phash for photo in photos]
        assert np.diag(distances(hashes, other)).max() <= photo_checks.SAME_BITS


def test_groups_against_brute_force():
    rng = np.random.RandomState(0)
    roots = rng.randint(0, 2, (60, 64))
    bits = np.array([np.where(rng.rand(64) < 0.08, 1 - roots[i % 60], roots[i % 60]) for i in range(1400)])
    hashes = [np.packbits(row).tobytes().hex() for row in bits]
    taken = [None if i % 3 else 1000.0 + 2 * (i // 3 % 40) + 500 * (i % 60) for i in range(1400)]
    order = list(rng.permutation(1400))
    runs, last, number = {}, None, 0
    for i in sorted((i for i in range(1400) if taken[i] is not None), key=lambda i: taken[i]):
        number += last is not None and taken[i] - last > photo_checks.BURST_SECONDS
        runs[i], last = number, taken[i]
    want = list(range(1400))
    for at, i in enumerate(order):
        for j in order[:at]:
            near = int((bits[i] != bits[j]).sum())
            burst = i in runs and runs[i] == runs.get(j)
            if want[j] == j and (near <= photo_checks.SAME_BITS or burst and near <= photo_checks.BURST_BITS):
                want[i] = j
                break
    assert photo_checks.group(hashes, taken, order) == want
    assert 50 < len(set(want)) < 1000


# --- ranking and cache ------------------------------------------------------------------------------------------------


def test_ranking(folder, spec, cache):
    made = ranking.rank(folder, spec, cache)
    assert len(made.photos) == 8 and made.from_cache == 0
    unread = dict(made.unread)
    assert set(unread) == {"broken.jpg", "link.jpg", "links"}
    assert unread["link.jpg"] == "a link out of the folder: not followed"
    assert unread["broken.jpg"] == "cut short: the end is missing"
    margins = [p.answer.margin for p in made.photos]
    assert margins == sorted(margins, reverse=True)
    paths = [photo.path for photo in made.photos]
    direct = ilgnet.score(paths, spec.weights, net=spec.net)
    np.testing.assert_allclose([photo.answer.p_high for photo in made.photos], direct, rtol=1e-5)
    assert [p.percentile for p in made.photos] == [100 * (i + 0.5) / 8 for i in range(7, -1, -1)]
    assert made.photos[0].stars == 5 and made.photos[-1].stars == 1
    by_name = {photo.name: photo for photo in made.photos}
    assert by_name["same.jpg"].group == by_name["1.jpg"].group and sum(not p.is_best for p in made.photos) == 1
    top = made.top(20)
    assert len(top) == 7 and len({photo.group for photo in top}) == 7
    assert made.about.preprocess.preset == "direct" and made.about.heat_of == "conv"


def test_second_run_loads_no_net(folder, spec, cache, model, monkeypatch):
    first = ranking.rank(folder, spec, cache)
    again = ranking.Spec(spec.weights, spec.net, batch=4)
    monkeypatch.setattr(scorers, "NetScorer", None)
    (folder / "1.jpg").rename(folder / "moved.jpg")
    jpeg(folder / "1.jpg", scene(1))  # the same bytes, a new time: read again, but known
    os.utime(folder / "1.jpg", (1.7e9, 1.7e9))
    second = ranking.rank(folder, again, cache)
    assert second.from_cache == 9 and second.about == first.about and second.unread == first.unread
    assert {p.name: p.answer.margin for p in first.photos}.items() <= {
        p.name: p.answer.margin for p in second.photos
    }.items()
    jpeg(folder / "new.jpg", scene(70))
    with pytest.raises(TypeError):  # this one does need the net
        ranking.rank(folder, again, cache)


def test_other_weights_or_a_changed_photo_are_scored_anew(folder, spec, cache, model, tmp_path):
    before = {photo.name: photo.answer.p_high for photo in ranking.rank(folder, spec, cache).photos}
    jpeg(folder / "3.jpg", scene(99))
    os.utime(folder / "3.jpg", (1.65e9, 1.65e9))
    after = ranking.rank(folder, spec, cache)
    assert after.from_cache == 7 and {p.name: p.answer.p_high for p in after.photos}["3.jpg"] != before["3.jpg"]
    net = torchcaffe.Net(str(spec.net), str(spec.weights), torchcaffe.TEST)
    net.params["ip"][0].data[...] *= 2
    net.save(str(tmp_path / "other.caffemodel"))
    assert ranking.rank(folder, ranking.Spec(tmp_path / "other.caffemodel", spec.net), cache).from_cache == 0


def test_a_change_that_keeps_size_and_time_is_seen(spec, tmp_path, monkeypatch):
    """As exiftool -P makes; the cache may be of a version that did not know the inode's time."""
    path = tmp_path / "photos" / "a.bmp"
    path.parent.mkdir()

    def put(seed: int) -> None:
        path.write_bytes(cv2.imencode(".bmp", scene(seed))[1].tobytes())
        os.utime(path, (1.6e9, 1.6e9))

    def scored() -> str:
        return (tmp_path / "out" / "g.csv").read_text()

    put(1)
    with contextlib.closing(sqlite3.connect(tmp_path / "c.sqlite")) as old:
        old.execute("CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest BLOB)")
        old.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?)",
            (os.fsencode(path), path.stat().st_size, path.stat().st_mtime_ns, b"another photo's"),
        )
        old.commit()
    assert rank_photos.main(arguments(path.parent, spec, tmp_path)) == 0
    found = [scored()]
    put(2)
    assert rank_photos.main(arguments(path.parent, spec, tmp_path)) == 0
    found.append(scored())

    def sleep(_):
        if len(found) > 2:
            raise KeyboardInterrupt
        found.append(scored())
        put(3)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        rank_photos.main(arguments(path.parent, spec, tmp_path, "--watch"))
    found.append(scored())
    assert found[2] == found[1] and len({found[0], found[1], found[3]}) == 3


def test_a_file_changed_just_now_is_not_remembered(tmp_path, cache):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    cache.remember_file(path, path.stat(), b"name")
    assert cache.file_digest(path, path.stat()) is None
    os.utime(path, (1.6e9, 1.6e9))
    cache.remember_file(path, path.stat(), b"name")
    assert cache.file_digest(path, path.stat()) == b"name"


def test_a_cache_that_is_none(tmp_path):
    (tmp_path / "c").write_text("this is not a database, it is a text of some length" * 50)
    with pytest.raises(CaffeError, match="cannot be used as the cache"):
        photo_cache.Cache(tmp_path / "c")
    assert "photos" not in str(photo_cache.default_path().parent.name)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:  # another program's tables
        other.execute("CREATE TABLE stats (name TEXT)")
    with pytest.raises(CaffeError, match=r"other.sqlite: cannot be used as the cache \(no such column: digest\)"):
        photo_cache.Cache(tmp_path / "other.sqlite").file_digest(tmp_path, os.stat(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        "photos SET facts = '{'",
        "photos SET facts = '{}'",
        "photos SET facts = '[]'",
        "photos SET thumbnail = NULL",
        "scores SET margin = NULL",
        "scores SET p_high = 'x'",
        "scores SET heat = x'0001', rows = -3",
    ],
)
def test_a_cache_with_rows_of_another_kind(change, folder, spec, cache):
    ranking.rank(folder, spec, cache)
    cache._run(f"UPDATE {change}")
    with pytest.raises(CaffeError, match="c.sqlite: cannot be used as the cache .*row of another kind"):
        ranking.rank(folder, spec, cache)


@pytest.mark.parametrize("about", ["[", "{}", "[]", "5"])
def test_a_cache_that_does_not_say_what_scored(about, folder, spec, cache):
    made = ranking.rank(folder, spec, cache).about
    cache._run("UPDATE specs SET about = ?", (about,))
    assert ranking.rank(folder, spec, cache).about == made


def test_a_cache_that_is_held_or_full(cache):
    known = photo_cache.Known({}, bytes(10**6), Answer(0.5, 0.0))
    cache._run("PRAGMA busy_timeout = 1")
    with contextlib.closing(sqlite3.connect(cache.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CaffeError, match="database is locked"):
            cache.put(b"1", "v", b"s", known)
    cache._run("PRAGMA max_page_count = 20")
    with pytest.raises(WriteError, match="disk is full"):
        cache.put(b"1", "v", b"s", known)


def test_every_precision_is_a_key_of_its_own(spec, cache, monkeypatch):
    """bf16 weights on a CPU and bf16 sums on a GPU are not the same scores."""
    keys = []
    for gpu, rounded, context_precision in (
        (None, None, "fp32"),
        (None, "bf16", "fp32"),
        (0, None, "bf16"),
        (0, None, "fp32"),
    ):
        monkeypatch.setattr(ranking.context, "precision", context_precision)
        keys.append(ranking.Spec(spec.weights, spec.net, gpu=gpu, precision=rounded).key(cache))
    assert len(set(keys)) == 4


# --- the tool ---------------------------------------------------------------------------------------------------------


def arguments(folder, spec, tmp_path, *more):
    return [
        str(v)
        for v in (
            folder,
            "--weights",
            spec.weights,
            "--net",
            spec.net,
            "--out",
            tmp_path / "out" / "g.html",
            "--cache",
            tmp_path / "c.sqlite",
            *more,
        )
    ]


def test_tool_writes_csv_json_and_page(folder, spec, tmp_path, capsys):
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    assert rank_photos.main(arguments(folder, spec, tmp_path, "--top", 3)) == 0
    said = capsys.readouterr()
    assert "index 1 means high" in said.out and "not read: broken.jpg" in said.err
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before  # nothing is written among photos
    rows = list(csv.DictReader((tmp_path / "out" / "g.csv").open()))
    assert tuple(rows[0]) == ranking.COLUMNS and len(rows) == 8
    text = json.loads((tmp_path / "out" / "g.json").read_text())
    assert [row["file"] for row in text["photos"]] == [labels.plain_cell(row["file"]) for row in rows]
    assert "'=1+1.jpg" in {row["file"] for row in rows} and "=1+1.jpg" in {row["file"] for row in text["photos"]}
    page = (tmp_path / "out" / "g.html").read_text()
    assert "default-src 'none'" in page and "://" not in page.split("<body>")[0]
    assert rank_photos.main(arguments(folder, spec, tmp_path)) == 0  # its own files it writes anew
    made = {name: (tmp_path / "out" / name).read_bytes() for name in ("g.html", "g.csv", "g.json")}
    for name, content in (
        ("g.csv", made["g.csv"].replace(b"\n", b",my_notes\n", 1)),
        ("g.csv", b"mine\n"),
        ("g.html", made["g.html"] + b" "),
        ("g.json", b'{"kind": "ranking"}'),
        ("g.json", None),
    ):
        changed = tmp_path / "out" / name
        changed.unlink() if content is None else changed.write_bytes(content)
        with pytest.raises(
            CaffeError, match=f"{name if content else 'g.html'}: exists, and was not written by this program"
        ):
            rank_photos.main(arguments(folder, spec, tmp_path))
        assert content is None or changed.read_bytes() == content
        changed.write_bytes(made[name])


def test_what_is_edited_while_photos_are_scored_stays(folder, spec, tmp_path, monkeypatch):
    assert rank_photos.main(arguments(folder, spec, tmp_path)) == 0
    rank, table = ranking.rank, tmp_path / "out" / "g.csv"

    def edited_meanwhile(*given):
        table.write_text("mine\n")
        return rank(*given)

    monkeypatch.setattr(ranking, "rank", edited_meanwhile)
    with pytest.raises(CaffeError, match="g.csv: exists, and was not written by this program"):
        rank_photos.main(arguments(folder, spec, tmp_path))
    assert table.read_text() == "mine\n"


def test_all_is_checked_before_a_photo_is_scored(folder, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "rank", lambda *_: pytest.fail("the photos are being scored"))
    (tmp_path / "broken.csv").write_text("file\n")
    for more, message in (
        (["--workers", -1], "--workers -1: must be at least 1"),
        (["--batch", 0], "--batch 0"),
        (["--batch", -3], "--batch -3"),
        (["--top", -3], "--top -3"),
        (["--gallery-limit", -1], "--gallery-limit -1"),
        (["--watch", -1], "--watch -1.0"),
        (["--reject-below", 10], "--reject-below is for --xmp"),
        (["--xmp", "--reject-below", 100.5], "--reject-below 100.5: must be from 0 to 100"),
        (["--xmp", "--reject-below", -1], "--reject-below -1.0: must be"),
        (["--xmp", "--reject-below", "nan"], "--reject-below nan: must be"),
        (["--picks", tmp_path / "broken.csv"], "--picks is for --xmp, --copy-picks or --link-picks"),
        (["--dry-run"], "--dry-run is for --xmp, --copy-picks or --link-picks"),
        (["--xmp", "--picks", tmp_path / "none.csv"], "none.csv"),
        (["--xmp", "--picks", tmp_path / "broken.csv"], "broken.csv: line 1: expected the column"),
        (["--copy-picks", folder / "best"], "choose a folder elsewhere"),
        (["--link-picks", tmp_path / "broken.csv"], "broken.csv: is not a folder"),
    ):
        with pytest.raises((CaffeError, FileNotFoundError), match=message):
            rank_photos.main(arguments(folder, spec, tmp_path, *more))
    with pytest.raises(CaffeError, match="must end in .html"):
        rank_photos.main([*arguments(folder, spec, tmp_path), "--out", str(tmp_path / "g.csv")])
    assert not (tmp_path / "out").exists()


def test_watch_scores_what_arrives(folder, spec, tmp_path, capsys, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            jpeg(folder / "new.jpg", scene(50))
        elif len(waits) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        rank_photos.main(arguments(folder, spec, tmp_path, "--watch", 0.5))
    assert waits == [0.5] * 4 and capsys.readouterr().out.count("wrote") == 2
    assert "new.jpg" in (tmp_path / "out" / "g.csv").read_text()


def test_rounded_weights(folder, model, spec, cache, tmp_path, monkeypatch, capsys):
    """Rounded weights are cached apart, what they do is printed, and a net without large layers says so."""
    exact = {photo.name: photo.answer.p_high for photo in ranking.rank(folder, spec, cache).photos}
    rounded = [
        str(folder),
        "--weights",
        str(spec.weights),
        "--net",
        str(spec.net),
        "--cache",
        str(cache.path),
        "--out",
        str(tmp_path / "g.html"),
        "--precision",
        "int8",
    ]
    assert rank_photos.main(rounded) == 0
    assert "int8 weights in no layer (none is large)" in capsys.readouterr().err
    monkeypatch.setattr(torchcaffe.Net.reduce_weights, "__defaults__", (100,))
    (tmp_path / "g.csv").unlink()
    assert rank_photos.main([*rounded, "--cache", str(tmp_path / "other.sqlite")]) == 0
    said = re.search(
        r"int8 weights in ip: the scores of the first \d+ photo\(s\) move by at most (\S+)", capsys.readouterr().err
    )
    with open(tmp_path / "g.csv", encoding="utf-8", newline="") as file:
        moved = [abs(float(row["p_high"]) - exact[row["file"].lstrip("'")]) for row in csv.DictReader(file)]
    assert 0 < float(said[1]) < 0.01 and 0 < max(moved) < 0.01


# --- picks ------------------------------------------------------------------------------------------------------------


def test_copies_and_links_overwrite_nothing(folder, spec, cache, tmp_path):
    made = ranking.rank(folder, spec, cache)
    best = made.top(3)
    assert len(picks.transfer(best, folder, tmp_path / "p", dry_run=True)) == 3 and not (tmp_path / "p").exists()
    taken = tmp_path / "p" / best[0].path.relative_to(folder)
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    said = picks.transfer(best, folder, tmp_path / "p")
    assert taken.read_text() == "mine" and said[0].startswith("left alone") and len(said) == 3
    for photo in best[1:]:
        copy = tmp_path / "p" / photo.path.relative_to(folder)
        assert copy.read_bytes() == photo.path.read_bytes() and copy.stat().st_mtime == photo.path.stat().st_mtime
    picks.transfer(best, folder, tmp_path / "l", link=True)
    assert all((tmp_path / "l" / photo.path.relative_to(folder)).resolve() == photo.path.resolve() for photo in best)
    for inside in (folder, folder / "deep" / "picks"):
        with pytest.raises(CaffeError, match="choose a folder elsewhere"):
            picks.transfer(best, folder, inside)


def test_picks_of_the_gallery(folder, spec, cache, tmp_path):
    made = ranking.rank(folder, spec, cache)
    (tmp_path / "picks.csv").write_text("file,pick,stars\n'=1+1.jpg,keep,2\n3.jpg,reject,\n5.jpg,,4\n")
    choices = picks.read_choices(tmp_path / "picks.csv")
    assert [photo.name for photo in picks.chosen(made, choices, None)] == ["=1+1.jpg"]
    given = picks.ratings(made, choices, reject_below=100)
    assert (given["=1+1.jpg"], given["3.jpg"], given["1.jpg"]) == ((2, True), (-1, True), (-1, False))
    assert picks.ratings(made, choices)["5.jpg"] == (4, True)
    (tmp_path / "picks.csv").write_text("file,pick\n../outside/o.jpg,keep\n")
    assert picks.chosen(made, picks.read_choices(tmp_path / "picks.csv"), None) == []
    with pytest.raises(CaffeError, match="picks.csv:2: file: ../outside/o.jpg is not below"):
        picks.measure(None, tmp_path / "picks.csv", folder)
    for link in ("link.jpg", "links/o.jpg"):
        (tmp_path / "picks.csv").write_text(f"file,pick\n1.jpg,keep\n{link},reject\n")
        with pytest.raises(CaffeError, match=f"picks: {link}: leads out of "):
            picks.measure(spec.scorer(), tmp_path / "picks.csv", folder)


@pytest.mark.parametrize("action", [["--xmp"], ["--copy-picks", "to"]])
def test_picks_of_photos_that_are_not_there(folder, spec, tmp_path, monkeypatch, capsys, action):
    monkeypatch.chdir(tmp_path)
    command = arguments(folder, spec, tmp_path, "--picks", "picks.csv", *action)
    Path("picks.csv").write_text("file,pick\n3.jpg,keep\ngone.jpg,keep\nbroken.jpg,reject\n")
    assert rank_photos.main(command) == 0  # a photo deleted since stops nothing
    said = capsys.readouterr()
    assert "picks: 2 of 3 files are not among the photos that can be read: 'broken.jpg', 'gone.jpg'\n" in said.err
    assert "3.jpg" in said.out and Path("to/3.jpg").exists() == ("to" in action)
    Path("picks.csv").write_text("file,pick\nbroken.jpg,keep\n")
    with pytest.raises(CaffeError, match="picks: none of the 1 files, such as 'broken.jpg', is among the photos"):
        rank_photos.main(command)
    Path("picks.csv").write_text("file,pick\nphotos/3.jpg,keep\nphotos/5.jpg,keep\n")  # seen from the folder above
    monkeypatch.setattr(ranking, "rank", lambda *_: pytest.fail("the photos are being scored"))
    with pytest.raises(CaffeError, match="picks: none of the 2 files, such as 'photos/3.jpg', is among the photos"):
        rank_photos.main(command)


def test_picks_of_photos_with_odd_names(folder, spec, cache, tmp_path):
    """A name that is no text is shown with an escape; the CSV holds what is shown."""
    odd = [b"\xe9.jpg", b"back\\slash.jpg", b" space.jpg", b"two\nlines.jpg"]
    for i, name in enumerate(odd):
        jpeg(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)), scene(30 + i))
    made = ranking.rank(folder, spec, cache)
    names = ["\\xe9.jpg", "back\\slash.jpg", " space.jpg", "two\nlines.jpg"]
    with open(tmp_path / "picks.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "pick"), *((name, "keep") for name in names)])
    picked = picks.chosen(made, picks.read_choices(tmp_path / "picks.csv"), None)
    assert {photo.name for photo in picked} == set(names)
    picks.transfer(picked, folder, tmp_path / "to")
    assert sorted(os.listdir(os.fsencode(tmp_path / "to"))) == sorted(odd)


def test_no_two_photos_have_one_name(tmp_path, spec, cache):
    """Results are filed under the name that is shown."""
    photos = tmp_path / "photos"
    named = {
        b"\xff.jpg": "\\xff.jpg",
        b"\\xff.jpg": "\\\\xff.jpg",
        b"\\\\xff.jpg": "\\\\\\\\xff.jpg",
        b"a\\b.jpg": "a\\b.jpg",
        b"a\\b\xfe.jpg": "a\\\\b\\xfe.jpg",
    }
    for i, name in enumerate(named):
        jpeg(Path(os.fsdecode(os.fsencode(photos) + b"/" + name)), scene(i))
    made = ranking.rank(photos, spec, cache)
    assert {os.fsencode(photo.path.name): photo.name for photo in made.photos} == named
    for photo in made.photos:
        alone = ilgnet.score([photo.path], spec.weights, net=spec.net)[0]
        assert photo.answer.p_high == pytest.approx(alone, abs=1e-6)


def test_names_that_are_no_text_or_steer_a_terminal(folder, spec, cache, tmp_path, capfd):
    """They are named in what is printed, spelt out, and in files that are read again."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    jpeg(Path(os.fsdecode(os.fsencode(odd) + b"/\xe9.jpg")), scene(1))
    jpeg(odd / "red\x1b[31m.jpg", scene(2))
    (odd / "bad\x1b[2Jx.jpg").write_bytes(b"")
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xff.html"))
    words = [
        odd,
        "--weights",
        spec.weights,
        "--net",
        spec.net,
        "--cache",
        tmp_path / "c",
        "--out",
        out,
        "--top",
        2,
        "--copy-picks",
        tmp_path / "to",
    ]
    for more in (["--xmp", "--dry-run"], ["--xmp"]):
        assert rank_photos.main([str(word) for word in [*words, *more]]) == 0
        said = capfd.readouterr()
        assert "\x1b" not in said.out + said.err and "not read: bad\\x1b[2Jx.jpg: empty file\n" in said.err
        assert f"rate 4: {tmp_path}/odd\\udcff/" in said.out and "red\\x1b[31m.jpg\n" in said.out
    assert len(os.listdir(tmp_path / "to")) == 2
    (tmp_path / "p.csv").write_text("file,pick\n1.jpg,keep\n3.jpg,reject\n")
    result, photos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/e\xff.json")), folder.rename(tmp_path / "p\udcff")
    assert (
        evaluate.main(
            [
                str(word)
                for word in (
                    "--weights",
                    spec.weights,
                    "--net",
                    spec.net,
                    "--picks",
                    tmp_path / "p.csv",
                    "--photos",
                    photos,
                    "--out",
                    result,
                )
            ]
        )
        == 0
    )
    assert "e\\udcff.json" in capfd.readouterr().out and results.read_json(result)["photos"] == str(photos)
    assert report.main(["--eval", str(result), "--out", str(result.with_suffix(".html"))]) == 0


def test_evaluate_against_picks(folder, spec, tmp_path, capsys):
    rows = [
        f"{name},{pick}"
        for name, pick in (
            ("1.jpg", "keep"),
            ("3.jpg", "reject"),
            ("5.jpg", "keep"),
            ("deep/er/2.jpg", "reject"),
            ("same.jpg", ""),
        )
    ]
    (tmp_path / "picks.csv").write_text("\n".join(["file,pick", *rows]) + "\n")
    command = [
        str(v)
        for v in (
            "--weights",
            spec.weights,
            "--net",
            spec.net,
            "--picks",
            tmp_path / "picks.csv",
            "--photos",
            folder,
            "--out",
            tmp_path / "e.json",
        )
    ]
    assert evaluate.main(command) == 0
    found = json.loads((tmp_path / "e.json").read_text())["result"]
    paths = [folder / row.partition(",")[0] for row in rows[:4]]
    p_high, kept = np.array(ilgnet.score(paths, spec.weights, net=spec.net)), np.array([1, 0, 1, 0])
    assert found["n"] == 4 and found["accuracy"]["value"] == np.mean((p_high > 0.5) == kept)
    assert found["auc"] == np.mean([a > b for a in p_high[kept == 1] for b in p_high[kept == 0]])
    with pytest.raises(SystemExit):
        evaluate.main(command[:4])
    assert "--lmdb, or --picks" in capsys.readouterr().err


def test_weights_that_are_not_there(folder, cache, tmp_path):
    with pytest.raises(CaffeError, match="none.caffemodel: No such file"):
        ranking.rank(folder, ranking.Spec(tmp_path / "none.caffemodel"), cache)


def rating_in(path: Path) -> int:
    """As a photo manager reads it: by an XML parser."""
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    found = root.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return int(found.get("{http://ns.adobe.com/xap/1.0/}Rating"))


def test_sidecars_never_overwrite_a_person(folder, spec, cache):
    jpeg(folder / "exif.jpg", scene(20), rating=3)
    jpeg(folder / "xmp.jpg", scene(21))
    data = (folder / "xmp.jpg").read_bytes()
    (folder / "xmp.jpg").write_bytes(data[:-2] + b'<x xmp:Rating="4"/>' + data[-2:])
    jpeg(folder / "camera.jpg", scene(22))
    data = (folder / "camera.jpg").read_bytes()
    (folder / "camera.jpg").write_bytes(data[:-2] + b"<xmp:Rating>0</xmp:Rating>" + data[-2:])
    (folder / "5.xmp").write_text("somebody's")
    made = ranking.rank(folder, spec, cache)
    given = picks.ratings(made, None, reject_below=20)
    assert picks.write_sidecars(made, given, "full", dry_run=True) and not list(folder.rglob("*.jpg.xmp"))
    said = picks.write_sidecars(made, given, "full")
    alone = {line.rpartition(": ")[2] for line in said if line.startswith("left alone")}
    assert alone == {"exif.jpg", "xmp.jpg", "5.jpg"} and (folder / "5.xmp").read_text() == "somebody's"
    for photo in made.photos:
        place = xmp.sidecar(photo.path, "full")
        assert place.exists() == (photo.name not in alone)
        if photo.name not in alone:
            assert rating_in(place) == given[photo.name].value
    assert (-1, False) in given.values() and picks.write_sidecars(made, given, "full")[3:] == []  # nothing new to say
    # our own gives way; one that a person's program has touched does not
    place = folder / "3.jpg.xmp"
    person = folder / "1.jpg.xmp"
    person.write_text(person.read_text().replace('xmp:Rating="', 'xmp:Rating="1" old="'))
    picks.write_sidecars(made, dict.fromkeys(given, picks.Rating(2, False)), "full")
    assert rating_in(place) == 2 and rating_in(person) == 1


@pytest.mark.parametrize("style", xmp.STYLES)
def test_a_choice_written_as_a_sidecar_stays_a_persons(folder, spec, cache, style):
    made = ranking.rank(folder, spec, cache)

    def write(*chosen: labels.Label) -> list[str]:
        given = picks.ratings(made, {row.photo: row for row in chosen}, reject_below=100)
        return picks.write_sidecars(made, given, style)

    def found() -> tuple[int, ...]:
        return tuple(rating_in(xmp.sidecar(folder / name, style)) for name in ("1.jpg", "3.jpg", "5.jpg"))

    choices = labels.Label("1.jpg", 0), labels.Label("3.jpg", 1, stars=4), labels.Label("5.jpg", None, stars=2)
    write(*choices)
    assert found() == (-1, 4, 2)
    ours = xmp.sidecar(folder / "1.jpg", style)
    left = [line.rpartition(": ")[2] for line in write() if line.startswith("left alone")]
    assert found() == (-1, 4, 2) and sorted(left) == ["1.jpg", "3.jpg", "5.jpg"]
    write(labels.Label("1.jpg", None), labels.Label("3.jpg", 0))  # the one that is chosen anew
    assert found() == (-1, -1, 2)
    assert write(labels.Label("3.jpg", 0), *choices[::2]) == []
    # what was written before choices were marked gives way, as it did
    ours.write_bytes(ours.read_bytes().replace(b'\n    ilgnet:By="person"', b"").replace(b'Rating="-1"', b'Rating="5"'))
    write()
    assert found() == (-1, -1, 2)


def behind_the_picture(png: bytes) -> bytes:
    """The PNG with its EXIF and its text after the pixels, where exiftool writes them, too."""
    first, last, at = [], [], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        (last if png[at + 4 : at + 8] in (b"eXIf", b"iTXt", b"IEND") else first).append(png[at:end])
        at = end
    return png[:8] + b"".join(first + last)


def test_ratings_in_photos_of_all_kinds(tmp_path):
    from PIL import Image, PngImagePlugin

    exif = Image.Exif()
    exif[0x4746] = 3
    picture = Image.fromarray(scene(0))
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        picture.save(tmp_path / name, exif=exif)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x xmp:Rating="3"/>', zip=True)
    picture.save(tmp_path / "b.png", pnginfo=text)
    for name in ("a.png", "b.png"):
        (tmp_path / f"late_{name}").write_bytes(behind_the_picture((tmp_path / name).read_bytes()))
    names = {path.name for path in tmp_path.iterdir()}
    found = {name: xmp.rated_by_hand(tmp_path / name, by_person=False) for name in names}
    assert len(names) == 7 and found == dict.fromkeys(names, "rated 3 in the photo itself")
    for name in ("c.jpg", "c.png", "c.webp", "c.tif", "c.bmp"):
        picture.save(tmp_path / name)
        assert xmp.rated_by_hand(tmp_path / name, by_person=False) is None
    with open(tmp_path / "c.jpg", "ab") as file:  # a number that Python would not read
        file.write(b'xmp:Rating="' + b"7" * 5000 + b'"')
    assert xmp.rated_by_hand(tmp_path / "c.jpg", by_person=False) == "rated 777777777 in the photo itself"


def test_a_rating_in_a_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    exif = Image.Exif()
    exif[0x4746] = 3
    for name, given in (("a.heic", exif.tobytes()), ("b.hif", None)):
        heif.from_pillow(Image.fromarray(scene(0))).save(tmp_path / name, exif=given)
    assert xmp.rated_by_hand(tmp_path / "a.heic", by_person=False) == "rated 3 in the photo itself"
    assert xmp.rated_by_hand(tmp_path / "b.hif", by_person=False) is None


@pytest.mark.parametrize("name", ["1.jpg.XMP", "1.XMP"])
def test_a_sidecar_in_capitals_is_a_persons(folder, name):
    (folder / name).write_text("somebody's")
    assert xmp.rated_by_hand(folder / "1.jpg", by_person=False) == f"{name} is there already"


def test_raw_and_jpeg_share_a_sidecar(folder, spec, cache):
    """It is the RAW's, which cannot be read here: it gets no rating of the JPEG's."""
    (folder / "3.NEF").write_bytes(b"no photo")
    made = ranking.rank(folder, spec, cache)
    said = picks.write_sidecars(made, picks.ratings(made, None), "base")
    assert "left alone, the sidecar is 3.NEF's: 3.jpg" in said and not (folder / "3.xmp").exists()
    assert (folder / "5.xmp").exists() and len(said) == 8
    picks.write_sidecars(made, picks.ratings(made, None), "full")
    assert (folder / "3.jpg.xmp").exists()


# --- one's own labels -------------------------------------------------------------------------------------------------


def test_labels(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("\ufefffile,label\nb a.jpg,high\n'=x.jpg,0\nc/d.jpg,\n", encoding="utf-8")
    assert [(r.photo, r.label) for r in labels.read_labels(path)] == [("b a.jpg", 1), ("=x.jpg", 0)]
    assert labels.read_labels(path, only_names=True)[2] == labels.Label("c/d.jpg", None)
    path.write_text("votes,file\n0 0 0 0 9 1 0 0 0 0,a.jpg\n0 0 0 0 9 0 0 0 0 0,b.jpg\n")
    assert [(r.label, r.mean) for r in labels.read_labels(path)] == [(1, 5.1), (0, 5.0)]
    path.write_text("file,mean\na.jpg,3.4\nb.jpg,3.6\n")
    assert [r.label for r in labels.read_labels(path, cut=3.5)] == [0, 1]
    for text, message in (
        ("file\na\n", "line 1: expected"),
        ("file,label\na,2\n", "l.csv:2: label: '2'"),
        ("file,label\na,1\na,0\n", "l.csv:3: file: a was already on line 2"),
        ("file,label\na/b,1\n./a//b,0\n", "l.csv:3: file: a/b was already on line 2"),
        ("file,label\n/etc/a.jpg,1\n", "not below"),
        ("file,votes\na,1 x\n", "not vote counts"),
        ("file,votes\na,0 0\n", "not vote counts"),
        ("file,mean\na,nan\n", "not a number"),
        ("file,label\n", "no labelled photos"),
        ('file,label\n"a\nb",1\n', "cannot be printed"),
    ):
        path.write_text(text)
        with pytest.raises(CaffeError, match=message):
            labels.read_labels(path)
    for cell in ("=1", "+1", "-1", "@a", "'=", "''", "plain", "a=1", ""):
        assert labels.plain_cell(labels.safe_cell(cell)) == cell


def test_own_labels_to_lmdbs(folder, tmp_path, capsys):
    rows = [f"{'' if i % 2 else 'deep/er/'}{i}.jpg,{('reject', 'keep')[i % 3 == 0]}" for i in range(6)]
    (tmp_path / "mine.csv").write_text("\n".join(["file,pick", *rows, "same.jpg,"]) + "\n")
    out = tmp_path / "own"
    assert (
        prepare.main(
            ["--labels", str(tmp_path / "mine.csv"), "--images", str(folder), "--out", str(out), "--held-out", "0.4"]
        )
        == 0
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["dataset"] == "own"
    assert (manifest["train"]["low"], manifest["train"]["high"]) == (2, 1)
    assert (manifest["val"]["low"], manifest["val"]["high"]) == (2, 1)
    lines = [line for half in ("train", "val") for line in (out / f"{half}.txt").read_text().splitlines()]
    assert sorted(lines) == sorted(row.replace(",keep", " 1").replace(",reject", " 0") for row in rows)


def test_own_photos_are_prepared_as_they_are_scored(tmp_path):
    """OpenCV alone reads no HEIC, and large photos are shrunk while they are decoded."""
    noise = np.random.RandomState(0)
    for i in range(4):
        picture = cv2.resize(noise.randint(0, 256, (700, 1050, 3), np.uint8), (2100, 1400))
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), picture)
    (tmp_path / "mine.csv").write_text("file,pick\n0.jpg,keep\n1.jpg,keep\n2.jpg,reject\n3.jpg,reject\n")
    assert prepare.main(["--labels", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out")]) == 0
    with LmdbReader(tmp_path / "out" / "train_lmdb") as reader:
        for key, value in reader:
            scored = cv2.resize(preprocess.read_photo(tmp_path / key.decode().partition("_")[2]), (256, 256))
            assert (datum_image(parse_datum(value)) == scored.transpose(2, 0, 1)).all()


# --- spoilt copies ----------------------------------------------------------------------------------------------------


def test_pairs(model, tmp_path, capsys):
    for i in range(4):
        jpeg(tmp_path / "good" / f"{i}.jpg", scene(i) // 2)
    command = [
        str(v)
        for v in (
            tmp_path / "good",
            "--weights",
            model / "tiny.caffemodel",
            "--net",
            model / "deploy.prototxt",
            "--burnt",
            0.3,
            "--least",
            0,
        )
    ]
    assert check_ranking.main(command) == 0
    said = capsys.readouterr().out
    # this net likes light: every over-exposed copy ranks above its original
    assert "over-exposed-0.3     0.00% of 4 copies" in said and "blurred-0.006" in said
    assert check_ranking.main(command[:-1] + ["0.95"]) == 1
    with pytest.raises(CaffeError, match="cannot write .*00000_original.png"):
        check.make_set([tmp_path / "good" / "0.jpg"], tmp_path / "none", {})
    photo = np.random.RandomState(0).randint(10, 240, (60, 80, 1)).astype(np.uint8).repeat(3, 2)
    for share in (0.1, 0.3):  # whatever the photo's own light was
        for own in (photo // 3 * 2, photo // 2):
            burnt = photo_checks.measure(check.over_exposed(own, share)).burnt
            assert burnt == pytest.approx(share, abs=0.02)
    white = np.where(np.arange(60)[:, None, None] < 15, 252, photo // 2).astype(np.uint8)  # burnt out as it is
    copy = check.over_exposed(white, 0.2)  # yet no copy is the original: that would rank as it does
    assert (copy[:15] == 255).all() and copy[15:].mean() > white[15:].mean() * 1.3  # a stop, on sRGB's curve


@pytest.mark.parametrize(
    "net, key",
    [
        (None, "a6e55c431b3d5cf6ef80998baaeb7652f551bbaa"),
        ("v1", "ec91c3cd3ba2e23ff6dd745bc82574b90c74f1e5"),
        ("n.prototxt", "ed50cc0bd8343678942cde766b79cd2a78eb4365"),
    ],
)
def test_scores_that_an_earlier_version_kept_are_found(net, key, cache, tmp_path, monkeypatch):
    """The keys are those of commit 8cd8d0c: if one changes, every photo of every user is scored once more."""
    monkeypatch.chdir(tmp_path)
    Path("w.caffemodel").write_bytes(b"weights")
    Path("n.prototxt").write_bytes(b"net")
    assert ranking.Spec("w.caffemodel", net, "direct").key(cache).hex() == key


def test_sidecars_hold_votes_and_both_forms_give_way(tmp_path):
    """A mean vote and its spread, where the model predicts votes; changed by a person, neither is the program's."""
    shares = np.full(10, 0.1, np.float32)
    for i, answer in enumerate((Answer(0.25, -1.1), Answer(0.25, -1.1, None, 5.5, shares))):
        path = tmp_path / f"{i}.xmp"
        path.write_bytes(xmp.render(3, False, answer, 61.5))
        assert rating_in(path) == 3 and xmp.gives_way(path, by_person=False)
        found = ElementTree.fromstring(path.read_text()).find(".//{*}Description").attrib
        votes = {name.partition("}")[2]: value for name, value in found.items()}
        if i:
            assert votes["MeanVote"] == "5.5000" and float(votes["Spread"]) == pytest.approx(np.sqrt(8.25), abs=1e-4)
        else:
            assert "MeanVote" not in votes and "Spread" not in votes
        path.write_bytes(path.read_bytes().replace(b"0.250000", b"0.260000 "))
        assert not xmp.gives_way(path, by_person=True)
