"""torchcaffe.pycaffe.io against pycaffe's caffe.io (tests/bvlc/make_io_goldens.py)."""

from __future__ import annotations

import importlib.util
from unittest import mock

import numpy as np
import pytest

from tests import BVLC
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2
from torchcaffe.pycaffe import io

GOLDENS = BVLC / "goldens" / "io"


def _recipe():
    """The golden script's own table and images; what it imports is not needed for these."""
    spec = importlib.util.spec_from_file_location("make_io_goldens", BVLC / "make_io_goldens.py")
    module = importlib.util.module_from_spec(spec)
    names = ("caffe", "cv2", "skimage", "skimage.color", "skimage.io")
    with mock.patch.dict("sys.modules", {name: mock.Mock() for name in names}):
        with mock.patch.dict("os.environ"):
            spec.loader.exec_module(module)
    return module


RECIPE = _recipe()
ARRAYS = np.load(GOLDENS / "arrays.npz")


@pytest.mark.parametrize("key", [key for key in ARRAYS.files if key.startswith("resize")])
def test_resize_image(key):
    index, order = map(int, key.split("_")[1:])
    shape, size = RECIPE.RESIZES[index]
    resized = io.resize_image(RECIPE.image(*shape), size, order)
    assert resized.shape == ARRAYS[key].shape and resized.dtype == np.float32
    np.testing.assert_allclose(resized, ARRAYS[key], rtol=0, atol=1e-6 * max(1, ARRAYS[key].max()))


def test_resize_image_of_one_value_and_bad_order():
    resized = io.resize_image(np.full((5, 4, 3), 2.5), (7, 9))
    assert resized.dtype == np.float32 and resized.shape == (7, 9, 3) and (resized == 2.5).all()
    with pytest.raises(ValueError, match="interp_order is 3"):
        io.resize_image(np.zeros((5, 4, 3)), (7, 9), 3)


def transformer(shape):
    made = io.Transformer({"data": shape})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255)
    made.set_input_scale("data", 0.017)
    return made


@pytest.mark.parametrize("name, shape", [("same", (1, 3, 20, 26)), ("other", (2, 3, 13, 17))])
def test_transformer(name, shape):
    picture = RECIPE.image(20, 26, 3, "float32", 1)
    before = picture.copy()
    made = transformer(list(shape))
    for kind, mean in (
        ("channels", np.array([103.9, 116.8, 123.7])),
        ("full", np.random.RandomState(3).rand(*shape[1:]) * 255),
        ("resized", np.random.RandomState(4).rand(3, 25, 24) * 255),
    ):
        made.set_mean("data", mean)
        got = made.preprocess("data", picture)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, ARRAYS[f"preprocess_{name}_{kind}"], rtol=1e-6, atol=2e-5)
        back = made.deprocess("data", ARRAYS[f"preprocess_{name}_{kind}"])
        np.testing.assert_allclose(back, ARRAYS[f"deprocess_{name}_{kind}"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(picture, before)
    np.testing.assert_allclose(made.deprocess("data", made.preprocess("data", picture)).shape, (*shape[2:], 3))


def test_transformer_refuses_what_does_not_fit():
    made = transformer((1, 3, 5, 4))
    for call in (
        lambda: made.preprocess("label", np.zeros((5, 4, 3))),
        lambda: made.deprocess("label", np.zeros((5, 4, 3))),
        lambda: made.set_raw_scale("label", 1),
        lambda: made.set_transpose("data", (1, 0)),
        lambda: made.set_channel_swap("data", (1, 0)),
        lambda: made.set_mean("data", np.zeros(2)),
        lambda: made.set_mean("data", np.zeros((1, 3, 5, 4))),
    ):
        with pytest.raises(Exception, match="input|invalid"):
            call()
    made.set_mean("data", np.full((3, 2, 2), 7.0))  # of one value: pycaffe would divide by zero
    np.testing.assert_array_equal(made.mean["data"], np.full((3, 5, 4), 7))
    gray = io.Transformer({"data": (1, 1, 5, 4)})
    gray.set_mean("data", np.ones((5, 4)))
    gray.set_transpose("data", (2, 0, 1))
    np.testing.assert_array_equal(gray.preprocess("data", np.ones((5, 4, 1))), np.zeros((1, 5, 4)))


def test_oversample():
    crops = io.oversample([RECIPE.image(11, 14, 3, "float32", seed) for seed in (5, 6)], (6, 7))
    assert crops.dtype == np.float32
    np.testing.assert_array_equal(crops, ARRAYS["oversample"])


def test_load_image(tmp_path):
    import cv2

    loaded = np.load(GOLDENS / "loaded.npz")

    def read(name, color=True):
        image = io.load_image(str(GOLDENS / f"{name}.png"), color)
        assert image.dtype == np.float32 and image.flags.c_contiguous
        return image

    np.testing.assert_array_equal(read("colour"), loaded["colour"])
    np.testing.assert_array_equal(read("alpha"), loaded["alpha"][:, :, :3])
    np.testing.assert_array_equal(read("grey"), np.dstack([loaded["grey"]] * 3))
    np.testing.assert_array_equal(read("grey", False), loaded["grey"][:, :, None])
    np.testing.assert_allclose(read("colour", False), loaded["colour_as_grey"][:, :, None], atol=1e-7)
    deep = RECIPE.image(5, 6, 3, "uint8").astype(np.uint16) * 251
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    np.testing.assert_allclose(io.load_image(tmp_path / "deep.png"), deep[:, :, ::-1] / 65535, atol=1e-7)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_text("")
    for name in ("text.jpg", "empty.jpg", "missing.jpg"):
        with pytest.raises(CaffeError, match=name):
            io.load_image(tmp_path / name)


def test_messages_as_pycaffe_makes_them():
    one, two = RECIPE.image(2, 3, 4, "float32"), RECIPE.image(2, 3, 4, "float32", 1)
    for name, message in (
        ("bytes", io.array_to_datum(RECIPE.image(2, 3, 4, "uint8"), 7)),
        ("floats", io.array_to_datum(one)),
        ("blob", io.array_to_blobproto(one, two)),
    ):
        assert message.SerializeToString() == (GOLDENS / f"{name}.binaryproto").read_bytes()
    vector = (GOLDENS / "vector.binaryproto").read_bytes()
    arrays = [one, RECIPE.image(1, 1, 2, "float32", 1)]
    assert io.arraylist_to_blobprotovector_str(arrays) == vector
    for array, read in zip(arrays, io.blobprotovector_str_to_arraylist(vector)):
        np.testing.assert_array_equal(array, read)
    blob = caffe_pb2.BlobProto.FromString((GOLDENS / "blob.binaryproto").read_bytes())
    np.testing.assert_array_equal(io.blobproto_to_array(blob), one)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, True), two)
    datum = io.array_to_datum(RECIPE.image(2, 3, 4, "uint8"))
    array = io.datum_to_array(datum)
    np.testing.assert_array_equal(array, RECIPE.image(2, 3, 4, "uint8"))
    assert array.dtype == np.uint8 and array.flags.writeable and not datum.HasField("label")
    floats = io.datum_to_array(io.array_to_datum(one))
    assert floats.dtype == np.float64
    np.testing.assert_array_equal(floats, one)


def test_blobs_old_and_shapeless():
    blob = caffe_pb2.BlobProto(num=1, channels=2, height=1, width=3, data=range(6))
    assert io.blobproto_to_array(blob).shape == (1, 2, 1, 3)
    assert io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    with pytest.raises(ValueError):
        io.blobproto_to_array(caffe_pb2.BlobProto(data=range(6)))
    with pytest.raises(ValueError):
        io.array_to_datum(np.zeros((2, 3)))
