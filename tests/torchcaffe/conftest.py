"""Fixtures of the engine's tests."""

from __future__ import annotations

import cv2
import lmdb
import numpy as np
import pytest
import torch

from tests.torchcaffe.gpu.recorded import NET
from torchcaffe.formats import blobproto
from torchcaffe.proto import caffe_pb2


@pytest.fixture
def one_thread():
    """More would spend longer on waiting for each other than on so little work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet(monkeypatch):
    """Nets by the hundred are made quicker without their log."""
    monkeypatch.setenv("GLOG_minloglevel", "2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """13 pictures, every third one a JPEG in its record."""
    rng = np.random.RandomState(1)
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 22) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(13):
                image = rng.randint(0, 256, (24, 24, 3)).astype(np.uint8)
                datum = caffe_pb2.Datum(channels=3, height=24, width=24, label=i % 3)
                datum.data, datum.encoded = image.transpose(2, 0, 1).tobytes(), i % 3 == 0
                if datum.encoded:
                    datum.data = cv2.imencode(".jpg", image)[1].tobytes()
                transaction.put(f"{i:08d}".encode(), datum.SerializeToString())
    blobproto.write_blobproto(tmp_path / "mean.binaryproto", rng.rand(3, 24, 24).astype(np.float32) * 200)
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path
