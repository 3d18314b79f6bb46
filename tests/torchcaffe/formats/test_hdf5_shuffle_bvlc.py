"""HDF5Data's shuffle as real Caffe's (tests/bvlc/make_shuffle_goldens.py), which draws from the C library's rand()."""

from __future__ import annotations

import numpy as np

import torchcaffe as caffe
from tests.bvlc import layers
from tests.bvlc.make_shuffle_goldens import GOLDEN, ROW
from tests.bvlc.run_caffe import run_layer


def test_order_is_bvlcs(monkeypatch):
    from torchcaffe.ops import hdf5

    monkeypatch.setattr(hdf5, "_libc", hdf5.LibcRand())  # as in a new process
    _, got = run_layer(caffe, layers.case(ROW))
    with np.load(GOLDEN) as wanted:
        assert set(got) == set(wanted.files)
        for key in wanted.files:
            np.testing.assert_array_equal(got[key], wanted[key], key)
        first, later = wanted["t1"].ravel(), wanted["t1@3"].ravel()
    assert first.tolist() != later.tolist()
