"""LMDBs' records and means against checksums of BVLC's own; resuming after kill -9; faulty photos."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import lmdb
import numpy as np
import pytest

from ilgnet.cli import make_lmdb, mean
from tests import ROOT
from tests.bvlc import make_imageset_goldens as goldens
from tests.records import datums
from torchcaffe.base.errors import CaffeError
from torchcaffe.data import imageset, lmdb_writer
from torchcaffe.data.imageset import Options, Photo, compute_image_mean, convert_imageset, write_mean
from torchcaffe.data.transform import datum_image
from torchcaffe.formats import files
from torchcaffe.formats.blobproto import read_blobproto
from torchcaffe.proto import caffe_pb2

GOLDENS = json.loads(goldens.GOLDENS.read_text())
FILES = goldens.GOLDENS.parent / "inputs"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The goldens' pictures: their folder and list."""
    folder = tmp_path_factory.mktemp("pictures") / "png"
    return folder, goldens.make_pictures(folder)


@pytest.fixture
def few(tmp_path):
    """Twelve photographs' worth of noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.RandomState(0)
    for number in range(12):
        picture = cv2.resize(rng.randint(0, 256, (6, 8, 3)).astype(np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), picture)
    return folder, [Photo(f"{number}.jpg", number % 2) for number in range(12)]


@pytest.fixture(scope="module")
def converted(pictures, tmp_path_factory):
    """What convert_imageset makes of a case of the goldens, and the LMDB."""

    @functools.cache
    def convert(case):
        out = tmp_path_factory.mktemp(case) / "lmdb"
        return convert_imageset(*pictures, out, goldens.CASES[case], workers=3), out

    return convert


@pytest.mark.parametrize("case", goldens.CASES)
def test_records_and_means_are_bvlcs(case, pictures, converted, tmp_path):
    result, out = converted(case)
    assert goldens.records_sha256(out) == GOLDENS[case]["records"]
    assert result.sha256 == files.sha256(out / "data.mdb")
    assert result.records == goldens.COUNT - len(goldens.ABSENT) == sum(result.labels.values())
    absent = [pictures[1][number][0] for number in goldens.ABSENT]
    assert [tuple(item) for item in result.skipped] == [(name, "no such file or directory") for name in absent]
    assert sorted(path.name for path in out.iterdir()) == ["data.mdb", "imageset.json", "lock.mdb"]
    if "mean" in GOLDENS[case]:
        write_mean(compute_image_mean(out), tmp_path / "mean.binaryproto", tmp_path / "mean.npy")
        assert files.sha256(tmp_path / "mean.binaryproto") == GOLDENS[case]["mean"]
        values = np.load(tmp_path / "mean.npy")
        assert values.dtype == np.float32 and np.array_equal(values, read_blobproto(tmp_path / "mean.binaryproto")[0])


@pytest.mark.parametrize("name, options", [("lmdb", Options((14, 17))), ("lmdb_gray", Options((14, 17), gray=True))])
def test_records_of_committed_lmdbs(name, options, tmp_path):
    photos = [Photo(f"image_{number}.png", number % 3) for number in range(7)]
    convert_imageset(FILES / "images", photos, tmp_path / "lmdb", options)
    assert goldens.records_sha256(tmp_path / "lmdb") == goldens.records_sha256(FILES / name)


def test_encoded_is_read_as_bvlcs_encoded_is(tmp_path):
    photos = [Photo(f"image_{number}.png", number % 3) for number in range(7)]
    convert_imageset(FILES / "images", photos, tmp_path / "lmdb", Options((14, 17), encode="png"))
    ours, theirs = datums(tmp_path / "lmdb"), datums(FILES / "lmdb_encoded")
    assert list(ours) == list(theirs)
    for key, datum in ours.items():
        assert np.array_equal(datum_image(datum), datum_image(theirs[key]))
        datum.data = theirs[key].data  # another libpng may compress otherwise; all else is the same
        assert datum == theirs[key] and datum.encoded and not datum.HasField("channels")
    # Losslessly encoded or not, the mean is the same, and it is BVLC's.
    assert np.array_equal(compute_image_mean(tmp_path / "lmdb")[None], read_blobproto(FILES / "mean.binaryproto"))


def test_encoded_without_resizing_keeps_the_file(few, tmp_path):
    folder, photos = few
    (folder / "1.jpg").rename(folder / "1.JPEG")
    cv2.imwrite(str(folder / "2.png"), cv2.imread(str(folder / "2.jpg")))
    photos[1], photos[2] = Photo("1.JPEG", 1), Photo("2.png", 0)
    convert_imageset(folder, photos, tmp_path / "lmdb", Options(encode="jpg"))
    stored = datums(tmp_path / "lmdb")
    assert stored["00000001_1.JPEG"].data == (folder / "1.JPEG").read_bytes()
    assert stored["00000002_2.png"].data[:2] == b"\xff\xd8"


def test_the_number_of_workers_changes_nothing(pictures, tmp_path):
    folder, photos = pictures
    made = {
        convert_imageset(folder, photos[:1200], tmp_path / str(workers), Options((16, 16)), workers).sha256
        for workers in (1, 2, 9)
    }
    assert len(made) == 1


CHILD = """
import sys, time
import torchcaffe.data.imageset as imageset
from tests.bvlc import make_imageset_goldens as goldens
read = imageset.read_photo
def slowly(*arguments):
    time.sleep(0.001)
    return read(*arguments)
imageset.read_photo = slowly
photos = imageset.read_list(sys.argv[2])
imageset.convert_imageset(sys.argv[1], photos, sys.argv[3], goldens.CASES[sys.argv[4]])
"""


def committed(folder):
    """How many records another process has committed so far."""
    try:
        env = lmdb.open(str(folder), readonly=True, lock=False, create=False)
    except lmdb.Error:
        return 0
    entries = env.stat()["entries"]
    env.close()
    return entries


@pytest.mark.parametrize("case", ["small", "large"])
def test_resumed_after_kill_9_it_is_the_same_file(case, pictures, converted, tmp_path):
    folder, photos = pictures
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in photos))
    root = ROOT
    arguments = [str(folder), str(tmp_path / "list.txt"), str(tmp_path / "lmdb"), case]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=root, stderr=subprocess.DEVNULL)
    while child.poll() is None and committed(tmp_path / "lmdb.partial") == 0:
        time.sleep(0.005)
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "lmdb").exists()

    assert committed(tmp_path / "lmdb.partial") in (1000, 2000)
    result = convert_imageset(folder, photos, tmp_path / "lmdb", goldens.CASES[case])
    assert goldens.records_sha256(tmp_path / "lmdb") == GOLDENS[case]["records"]
    assert [name for name, _ in result.skipped] == [photos[number][0] for number in goldens.ABSENT]
    assert converted(case)[0] == result and sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "lmdb"]


DYING = """
import os, sys
import torchcaffe.data.imageset as imageset
read = imageset.read_photo
imageset.read_photo = lambda path, *rest: os._exit(9) if path.name == sys.argv[4] else read(path, *rest)
imageset.BATCH = 2
photos = imageset.read_list(sys.argv[2])
imageset.convert_imageset(sys.argv[1], photos, sys.argv[3], imageset.Options((8, 8)), 1)
"""


def test_killed_twice_it_still_knows_what_it_skipped(few, tmp_path):
    folder, photos = few
    photos = [photos[0], Photo("absent.jpg", 1), *photos[1:]]
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in photos))
    for dies_at in ("9.jpg", "8.jpg"):
        arguments = [str(folder), str(tmp_path / "list.txt"), str(tmp_path / "lmdb"), dies_at]
        command, root = [sys.executable, "-c", DYING, *arguments], ROOT
        assert subprocess.run(command, cwd=root, stderr=subprocess.DEVNULL).returncode == 9
    result = convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8)))
    convert_imageset(folder, photos, tmp_path / "whole", Options((8, 8)))
    assert datums(tmp_path / "lmdb") == datums(tmp_path / "whole")
    assert [name for name, _ in result.skipped] == ["absent.jpg"]


def test_resumes_between_the_last_record_and_the_name(few, tmp_path):
    whole = convert_imageset(*few, tmp_path / "lmdb", Options((8, 8)))
    os.rename(tmp_path / "lmdb", tmp_path / "lmdb.partial")
    assert convert_imageset(*few, tmp_path / "lmdb", Options((8, 8))) == whole
    # The same, but the report was not written yet.
    os.rename(tmp_path / "lmdb", tmp_path / "lmdb.partial")
    job = json.loads((tmp_path / "lmdb.partial/imageset.json").read_text())
    (tmp_path / "lmdb.partial/imageset.json").write_text(json.dumps({"job": job["job"]}))
    assert convert_imageset(*few, tmp_path / "lmdb", Options((8, 8))) == whole


def test_another_jobs_remains_are_not_taken_over(few, tmp_path):
    folder, photos = few
    convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8)))
    os.rename(tmp_path / "lmdb", tmp_path / "lmdb.partial")
    result = convert_imageset(folder, photos[:5], tmp_path / "lmdb", Options((8, 8)))
    assert result.records == 5 and len(datums(tmp_path / "lmdb")) == 5


def test_a_finished_folder(few, tmp_path):
    folder, photos = few
    first = convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8)))
    assert convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8))) == first
    for others, options in [(photos[1:], Options((8, 8))), (photos, Options((8, 9)))]:
        with pytest.raises(CaffeError, match="lmdb: exists, but was not made from this list"):
            convert_imageset(folder, others, tmp_path / "lmdb", options)


def test_a_finished_folder_says_which_photos_are_there_by_now(few, tmp_path):
    folder, photos = few
    (folder / photos[3][0]).rename(tmp_path / "away")
    first = convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8)))
    assert [name for name, _ in first.skipped] == [photos[3][0]]
    assert convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8))) == first
    (tmp_path / "away").rename(folder / photos[3][0])
    with pytest.raises(
        CaffeError, match=f"lmdb: was made without 1 photos .*; 1 can be read now, for example {photos[3][0]}"
    ):
        convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8)))


def test_a_partial_folder_that_something_else_wrote_to(few, tmp_path):
    folder, photos = few
    for key in (b"strange", b"00000099_x", b"00000003_3.jpg"):
        writer = lmdb_writer.LmdbWriter(tmp_path / "lmdb.partial")
        writer.put(key, b"x")
        writer.commit()
        writer.close()
        job = {"photos": 12, "list_sha256": imageset._digest(photos), "resize": None, "gray": False, "encode": ""}
        (tmp_path / "lmdb.partial/imageset.json").write_text(json.dumps({"job": {**job, "quality": 95}}))
        with pytest.raises(CaffeError, match="lmdb.partial: holds 1 records, not"):
            convert_imageset(folder, photos, tmp_path / "lmdb")
        shutil.rmtree(tmp_path / "lmdb.partial")


def test_two_at_once_are_refused(few, tmp_path):
    (tmp_path / "lmdb.partial").mkdir()
    with imageset._only_one(tmp_path / "lmdb.partial"):
        with pytest.raises(CaffeError, match="another process is writing it"):
            convert_imageset(*few, tmp_path / "lmdb")


def test_faulty_photos_are_named(few, tmp_path):
    folder, photos = few
    (folder / "0.jpg").unlink()
    (folder / "1.jpg").write_bytes(b"")
    (folder / "2.jpg").write_bytes(b"<html>not found</html>")
    (folder / "3.jpg").unlink()
    (folder / "3.jpg").mkdir()
    data = (folder / "4.jpg").read_bytes()
    (folder / "4.jpg").write_bytes(data[:-60])
    (folder / "5.jpg").write_bytes(data[:60])
    result = convert_imageset(folder, photos, tmp_path / "lmdb", Options((8, 8)))
    assert [tuple(item) for item in result.skipped] == [
        ("0.jpg", "no such file or directory"),
        ("1.jpg", "empty file"),
        ("2.jpg", "not a picture, or broken"),
        ("3.jpg", "is a directory"),
        ("5.jpg", "not a picture, or broken"),
    ]
    assert [tuple(item) for item in result.damaged] == [("4.jpg", "cut short: the end is missing")]
    # Keys keep the photos' positions in the list.
    assert list(datums(tmp_path / "lmdb"))[:2] == ["00000004_4.jpg", "00000006_6.jpg"]
    assert json.loads((tmp_path / "lmdb/imageset.json").read_text())["result"]["records"] == 7
    with pytest.raises(CaffeError, match="none of 1 photos could be read; no.jpg: no such file"):
        convert_imageset(folder, [Photo("no.jpg", 0)], tmp_path / "other")
    assert not list(tmp_path.glob("other*"))
    with pytest.raises(CaffeError, match="no such folder of photos"):
        convert_imageset(tmp_path / "none", photos, tmp_path / "other")


def test_a_whole_jpeg_is_not_called_cut_short(few):
    data = (few[0] / "0.jpg").read_bytes()
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data  # a segment that holds another JPEG
    whole = data[:2] + thumbnail + data[2:]
    assert not imageset.is_cut_short(data) and not imageset.is_cut_short(data + b"trailing bytes")
    assert not imageset.is_cut_short(whole) and imageset.is_cut_short(whole[:-40])
    assert not imageset.is_cut_short(b"\x89PNG")


def test_a_photo_that_lies_on_its_side_is_turned(few, tmp_path):
    folder, photos = few
    data = (folder / "0.jpg").read_bytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    (folder / "0.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    convert_imageset(folder, photos[:1], tmp_path / "lmdb")
    datum = datums(tmp_path / "lmdb")["00000000_0.jpg"]
    assert (datum.height, datum.width) == (60, 40)


def test_mean_of_floats_and_its_faults(tmp_path):
    def write(name, *values):
        writer = lmdb_writer.LmdbWriter(tmp_path / name)
        for number, datum in enumerate(values):
            writer.put(b"%d" % number, datum.SerializeToString())
        writer.commit()
        writer.close()
        return tmp_path / name

    one = caffe_pb2.Datum(channels=1, height=1, width=2, float_data=[0.5, 3])
    two = caffe_pb2.Datum(channels=1, height=1, width=2, data=b"\x01\xff")
    assert compute_image_mean(write("a", one, two)).tolist() == [[[0.75, 129]]]
    with pytest.raises(CaffeError, match="b: record 1: datum: 2 values"):
        compute_image_mean(write("b", two, caffe_pb2.Datum(channels=1, height=1, width=3, data=b"\x01\xff")))
    with pytest.raises(CaffeError, match=r"c: record 1: data: \(1, 2, 1\), but the first record is \(1, 1, 2\)"):
        compute_image_mean(write("c", two, caffe_pb2.Datum(channels=1, height=2, width=1, data=b"\x01\xff")))
    with pytest.raises(CaffeError, match="d: record 0: datum: the encoded image cannot be decoded"):
        compute_image_mean(write("d", caffe_pb2.Datum(encoded=True, data=b"\x01\xff")))
    with pytest.raises(CaffeError, match="no such folder"):
        compute_image_mean(tmp_path / "none")


def test_programs(few, tmp_path, capsys):
    folder, photos = few
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in photos) + "absent.jpg 1\n")
    arguments = [str(folder), str(tmp_path / "list.txt")]
    options = ["--size", "16", "--encoded", "jpeg", "--shuffle", "1"]
    assert make_lmdb.main([*arguments, str(tmp_path / "lmdb"), *options]) == 0
    assert "left out: absent.jpg: no such file" in capsys.readouterr().out
    assert mean.main([str(tmp_path / "lmdb")]) == 0
    assert read_blobproto(tmp_path / "mean.binaryproto").shape == (1, 3, 16, 16)
    keys = [key[9:] for key in datums(tmp_path / "lmdb")]
    assert sorted(keys) == sorted(name for name, _ in photos) and keys != [name for name, _ in photos]
    (tmp_path / "list.txt").write_text("one.jpg\n")
    with pytest.raises(CaffeError, match=r"list.txt:1: label"):
        make_lmdb.main([*arguments, str(tmp_path / "other")])


def test_a_partial_lmdb_that_was_cut(few, tmp_path):
    convert_imageset(*few, tmp_path / "lmdb")
    os.rename(tmp_path / "lmdb", tmp_path / "lmdb.partial")
    job = json.loads((tmp_path / "lmdb.partial/imageset.json").read_text())
    (tmp_path / "lmdb.partial/imageset.json").write_text(json.dumps({"job": job["job"]}))
    os.truncate(tmp_path / "lmdb.partial/data.mdb", 8192)
    with pytest.raises(CaffeError, match="lmdb.partial: cannot be opened as an LMDB: .*truncated; delete the folder"):
        convert_imageset(*few, tmp_path / "lmdb")


@pytest.mark.parametrize("linked", [True, False])
def test_what_is_not_ours_is_not_deleted(few, tmp_path, linked):
    other = tmp_path / ("other" if linked else "lmdb.partial")
    other.mkdir()
    for name in ("data.mdb", "lock.mdb", *([] if linked else ["precious.txt"])):
        (other / name).write_text("precious")
    if linked:
        (tmp_path / "lmdb.partial").symlink_to(other)
    with pytest.raises(CaffeError, match="lmdb.partial: is a link" if linked else "lmdb.partial: holds precious.txt"):
        convert_imageset(*few, tmp_path / "lmdb")
    assert (other / "data.mdb").read_text() == "precious"


def test_a_photo_that_cannot_be_compressed_is_left_out(few, tmp_path):
    folder, photos = few
    cv2.imwrite(str(folder / "wide.png"), np.zeros((1, 70000, 3), np.uint8))
    result = convert_imageset(folder, [*photos, Photo("wide.png", 0)], tmp_path / "lmdb", Options(encode="jpg"))
    assert result.records == 12
    assert result.skipped == [("wide.png", "70000 x 1 pixels: OpenCV cannot store them as jpg")]


@pytest.mark.parametrize(
    "options, says",
    [
        *((Options(encode=kind), f"cannot store them as {kind}") for kind in ("foo", "heic", "../x")),
        *((Options(resize=(size, size)), f"warped to {size} x {size} pixels; at most") for size in (10**5, 10**11)),
    ],
)
def test_options_that_no_photo_can_be_stored_with(few, tmp_path, options, says):
    with pytest.raises(CaffeError, match=says):
        convert_imageset(*few, tmp_path / "lmdb", options)
    assert not (tmp_path / "lmdb.partial").exists()
