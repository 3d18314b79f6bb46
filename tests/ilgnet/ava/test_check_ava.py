"""check_ava finds what was put there."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ilgnet.ava.splits import Entry, write_list
from ilgnet.cli import check_ava
from ilgnet.demo import scenes
from torchcaffe.base.errors import CaffeError


@pytest.fixture(scope="module")
def ava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ava")
    (folder / "images").mkdir()
    for number in range(1, 13):
        picture = (scenes.paint(np.random.RandomState(number), 150, 220)[1][..., ::-1] * 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{number}.jpg"), picture)
    for number in (13, 14):  # plain pictures look alike without being the same
        cv2.imwrite(str(folder / f"images/{number}.jpg"), np.full((60, 80, 3), number, np.uint8))
    rows = (f"{i} {i} 0 0 0 {2 + i % 2} 3 {3 - i % 2 * 2} 0 0 0 0 0 0 0\n" for i in range(1, 15))
    (folder / "AVA.txt").write_text("".join(rows))
    (folder / "lists").mkdir()
    write_list(folder / "lists/train.txt", [Entry(f"{i}.jpg", (i + 1) % 2) for i in range(1, 11)])
    write_list(folder / "lists/val.txt", [Entry(f"{i}.jpg", (i + 1) % 2) for i in range(11, 15)])
    return folder


def run(ava, *options):
    code = check_ava.main([str(ava), "--lists", str(ava / "lists"), "--out", str(ava / "check.json"), *options])
    return code, json.loads((ava / "check.json").read_text())


def test_a_clean_folder(ava, capsys):
    code, report = run(ava)
    assert code == 0, report
    assert "14 photos" in capsys.readouterr().out


def test_every_fault_is_found(ava, capsys):
    images = ava / "images"
    (images / "1.jpg").unlink()
    (images / "2.jpg").write_bytes(b"no picture")
    data = (images / "3.jpg").read_bytes()
    (images / "3.jpg").write_bytes(data[: len(data) // 2])
    (images / "notes.txt").write_text("x")
    (images / "11.jpg").write_bytes((images / "5.jpg").read_bytes())  # the same file in train and test
    large = cv2.resize(cv2.imread(str(images / "6.jpg")), None, fx=1.5, fy=1.5)
    cv2.imwrite(str(images / "12.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, 70])  # the same picture, labelled alike
    (images / "8.jpg").write_bytes((images / "7.jpg").read_bytes())  # twice in train, labelled differently
    code, report = run(ava, "--workers", "3")
    assert code == 1
    assert report["missing"] == ["1.jpg"] and report["unlisted"] == ["notes.txt"]
    assert report["broken"] == [{"photo": "2.jpg", "reason": "not a picture, or broken"}]
    assert report["damaged"] == [{"photo": "3.jpg", "reason": "cut short: the end is missing"}]
    assert report["same_file"] == [["11.jpg", "5.jpg"], ["7.jpg", "8.jpg"]]
    assert report["same_picture"] == [["11.jpg", "5.jpg"], ["12.jpg", "6.jpg"], ["7.jpg", "8.jpg"]]
    assert report["leaks"] == [{"train": ["5.jpg"], "val": ["11.jpg"]}, {"train": ["6.jpg"], "val": ["12.jpg"]}]
    assert report["contradicting_labels"] == [["7.jpg", "8.jpg"]]


def test_where_the_report_goes_is_looked_at_first(ava, tmp_path, monkeypatch):
    out = tmp_path / "none" / "check.json"
    check_ava.main([str(ava), "--lists", str(ava / "lists"), "--out", str(out)])
    assert json.loads(out.read_text())["photos"] == 14
    monkeypatch.setattr(check_ava, "check", lambda *_: pytest.fail("read the photos first"))
    with pytest.raises(CaffeError, match="is a folder"):
        check_ava.main([str(ava), "--lists", str(ava / "lists"), "--out", str(tmp_path)])


def test_missing_input(tmp_path):
    with pytest.raises(CaffeError, match="AVA.txt: not there"):
        check_ava.main([str(tmp_path)])
