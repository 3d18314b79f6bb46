"""Test-time augmentation: the views are pycaffe's, and Caffe's transformer's."""

from __future__ import annotations

import numpy as np
import pytest

from ilgnet.photos import preprocess
from ilgnet.scoring import tta
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import blobproto

RNG = np.random.RandomState(0)
RECORD = RNG.randint(0, 256, (3, 256, 256)).astype(np.uint8)


def spec(tmp_path, mean=None, size=(224, 200)):
    blobproto.write_blobproto(
        tmp_path / "mean.binaryproto", np.zeros((3, 256, 256), np.float32) if mean is None else mean
    )
    return preprocess.make("lmdb", tmp_path / "mean.binaryproto", size)


def test_views_are_pycaffes_oversample(tmp_path):
    from torchcaffe.pycaffe import io

    views = tta.Views(spec(tmp_path), "both").warped(RECORD)
    theirs = io.oversample([RECORD.transpose(1, 2, 0).astype(np.float32)], np.array([224, 200])).transpose(0, 3, 1, 2)
    assert views.shape == (10, 3, 224, 200)
    # pycaffe's order is corners, centre, and again mirrored
    np.testing.assert_array_equal(views, theirs[[4, 0, 1, 2, 3, 9, 5, 6, 7, 8]])


def test_the_mean_is_cropped_with_the_photo_but_not_mirrored(tmp_path):
    mean = RNG.rand(3, 256, 256).astype(np.float32) * 255
    made = spec(tmp_path, mean)
    both = tta.Views(made, "both").warped(RECORD)
    np.testing.assert_array_equal(both[0], made.warped(RECORD))  # the centre is what is tested without it
    np.testing.assert_array_equal(both[4], RECORD[:, 32:, 56:].astype(np.float32) - mean[:, 32:, 56:])
    np.testing.assert_array_equal(both[9], both[4][:, :, ::-1])
    np.testing.assert_array_equal(tta.Views(made, "mirror").warped(RECORD), both[[0, 5]])
    np.testing.assert_array_equal(tta.Views(made, "crops").photo(RECORD.transpose(1, 2, 0)), both[:5])


def test_direct_has_nothing_to_crop():
    direct = preprocess.make("direct", None, (224, 224))
    photo = np.ascontiguousarray(RECORD.transpose(1, 2, 0))
    np.testing.assert_array_equal(tta.Views(direct, "mirror").photo(photo)[0], direct.photo(photo))
    np.testing.assert_array_equal(tta.Views(direct, "mirror").warped(RECORD)[0], direct.warped(RECORD))
    with pytest.raises(CaffeError, match="nothing is left to crop; take --tta mirror"):
        tta.Views(direct, "crops")
    with pytest.raises(CaffeError, match="--tta all: choose one of mirror, crops, both"):
        tta.Views(direct, "all")


def test_views_are_resized_as_the_photo_is():
    """With the preset nima a mirrored view took other pixels than the photo."""
    spec = preprocess.make("nima", None, (31, 31))
    bgr = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)
    views = tta.Views(spec, "mirror").photo(bgr)
    np.testing.assert_array_equal(views, [spec.photo(bgr), spec.photo(bgr)[:, :, ::-1]])
