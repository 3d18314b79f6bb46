"""Preprocessing against OpenCV and plain arithmetic; photos from folders and LMDB records."""

from __future__ import annotations

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from ilgnet.photos import preprocess, records
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import blobproto
from torchcaffe.proto import caffe_pb2


@pytest.fixture
def mean_file(tmp_path):
    mean = np.random.RandomState(0).rand(3, 256, 256).astype("f") * 255
    blobproto.write_blobproto(tmp_path / "mean.binaryproto", mean)
    np.save(tmp_path / "mean.npy", mean)
    return tmp_path / "mean.binaryproto", mean


def test_lmdb_preset(mean_file):
    path, mean = mean_file
    image = np.random.RandomState(1).randint(0, 256, (321, 481, 3)).astype("u1")
    spec = preprocess.make(None, path, (224, 224))
    assert spec.preset == "lmdb"
    warped = cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR)
    want = warped[16:240, 16:240].transpose(2, 0, 1).astype("f") - mean[:, 16:240, 16:240]
    np.testing.assert_array_equal(spec.photo(image), want)
    np.testing.assert_array_equal(spec.warped(warped.transpose(2, 0, 1)), want)  # the same from a record
    np.testing.assert_array_equal(preprocess.make("lmdb", path.with_name("mean.npy"), (224, 224)).photo(image), want)
    # an odd crop rounds down, as Caffe's (256 - 227) / 2 = 14
    assert np.array_equal(
        preprocess.make("lmdb", path, (227, 227)).warped(np.zeros((3, 256, 256), "u1")), -mean[:, 14:241, 14:241]
    )


def test_direct_preset(mean_file):
    path, mean = mean_file
    image = np.random.RandomState(1).randint(0, 256, (100, 300, 3)).astype("u1")
    warped = cv2.resize(image, (227, 224), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1).astype("f")
    got = preprocess.make("direct", path, (224, 227)).photo(image)
    np.testing.assert_allclose(got, warped - mean.mean(axis=(1, 2)).reshape(3, 1, 1), rtol=1e-6, atol=1e-4)
    got = preprocess.make(None, None, (224, 227)).photo(image)
    np.testing.assert_array_equal(got, warped - np.array([104, 117, 123], "f").reshape(3, 1, 1))
    # a record of another size is warped too
    assert preprocess.make("direct", None, (32, 32)).warped(np.zeros((3, 256, 256), "u1")).shape == (3, 32, 32)


def test_refusals(tmp_path, mean_file):
    with pytest.raises(CaffeError, match="give its mean.binaryproto"):
        preprocess.make("lmdb", None, (224, 224))
    with pytest.raises(CaffeError, match="larger than preset lmdb"):
        preprocess.make("lmdb", mean_file[0], (299, 299))
    with pytest.raises(CaffeError, match="choose one of lmdb, direct"):
        preprocess.make("other", None, (224, 224))
    blobproto.write_blobproto(tmp_path / "small.binaryproto", np.zeros((3, 10, 10), "f"))
    with pytest.raises(CaffeError, match="10 x 10; preset lmdb takes 256 x 256"):
        preprocess.make("lmdb", tmp_path / "small.binaryproto", (224, 224))
    np.save(tmp_path / "grey.npy", np.zeros((1, 256, 256)))
    with pytest.raises(CaffeError, match="expected 3 x H x W"):
        preprocess.read_mean(tmp_path / "grey.npy")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no jpeg")
    for name in ("broken.jpg", "missing.jpg"):
        with pytest.raises(CaffeError, match=name):
            preprocess.read_photo(tmp_path / name)


def test_exif_orientation_is_honoured(tmp_path):
    from PIL import Image

    picture = Image.new("RGB", (40, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by a quarter
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert preprocess.read_photo(tmp_path / "turned.jpg").shape == (40, 20, 3)


def test_folder_and_datums(tmp_path):
    (tmp_path / "b").mkdir()
    image = np.random.RandomState(1).randint(0, 256, (8, 9, 3)).astype("u1")
    for name in ("z.PNG", "b/a.png", "note.txt"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    found = list(records.stream(tmp_path, preprocess.make("direct", None, (8, 9))))
    assert [key for key, _, _ in found] == [str(tmp_path / "b/a.png"), str(tmp_path / "z.PNG")]
    raw = caffe_pb2.Datum(channels=3, height=8, width=9, label=1, data=image.transpose(2, 0, 1).tobytes())
    encoded = caffe_pb2.Datum(label=1, encoded=True, data=cv2.imencode(".png", image)[1].tobytes())
    for datum in (raw, encoded):
        label, array = records.decode("k", datum.SerializeToString(), "db")
        assert label == 1 and np.array_equal(array.transpose(1, 2, 0), image)
    raw.height = 7
    for datum in (raw.SerializeToString(), caffe_pb2.Datum(encoded=True, data=b"x").SerializeToString(), b"\xff\xff"):
        with pytest.raises(CaffeError, match="db: record 'k'"):
            records.decode("k", datum, "db")


@hypothesis.given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 9))
def test_nima_takes_the_pixels_that_pillow_takes(height, width, seed):
    """As Keras's load_img(target_size=(224, 224)) does."""
    photo = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    wanted = np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.NEAREST))
    got = preprocess.make("nima", None, (224, 224)).photo(photo)
    np.testing.assert_array_equal(got, wanted.transpose(2, 0, 1) - np.float32(127.5))
