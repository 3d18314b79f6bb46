"""caffe.Detector against what real pycaffe cuts out and scores (tests/bvlc/make_detector_goldens.py)."""

from __future__ import annotations

import numpy as np

import torchcaffe as caffe
from tests import GOLDENS
from tests.bvlc import make_detector_goldens

GOLDEN = GOLDENS / "detector.npz"


def test_crops_with_context_and_their_scores(tmp_path):
    found = make_detector_goldens.detections(caffe, str(tmp_path))
    with np.load(GOLDEN) as golden:
        assert set(found) == set(golden.files)
        for name, values in found.items():
            assert values.shape == golden[name].shape
            np.testing.assert_allclose(values, golden[name], rtol=1e-5, atol=1e-5, err_msg=name)
    crops = found["no_mean/crops"]
    assert (crops[4][:, :, 0] == 0).any() and not (crops[0] == 0).all()  # past the image the mean, here 0, fills up
