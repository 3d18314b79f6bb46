"""Fixtures of the application's tests."""

from __future__ import annotations

import cv2
import lmdb
import numpy as np
import pytest

from tests.ilgnet.small_nets import ANSWER, CONV, DATA, HEAD, INPUT, LOSS, NORM
from torchcaffe.formats import blobproto
from torchcaffe.proto import caffe_pb2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set whose high photos are bright, its mean, and the nets plain/ and bn/."""
    folder = tmp_path_factory.mktemp("tools")
    rng = np.random.RandomState(0)
    (folder / "photos").mkdir()
    environment = lmdb.open(str(folder / "val_lmdb"), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for i in range(21):  # no multiple of any batch
            label = int(i % 3 != 0)
            photo = np.clip(rng.randn(256, 256, 3) * 30 + (150 if label else 90), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "photos" / f"{i}.png"), photo)
            datum = caffe_pb2.Datum(
                channels=3, height=256, width=256, label=label, data=photo.transpose(2, 0, 1).tobytes()
            )
            transaction.put(f"{i:08d}_{i}.png".encode(), datum.SerializeToString())
    environment.close()
    blobproto.write_blobproto(folder / "mean.binaryproto", np.full((3, 256, 256), 120, np.float32))
    (folder / "manifest.json").write_text('{"dataset": "ava1", "synthetic": "made up"}')
    data = "".join(DATA % {"phase": phase, "folder": folder} for phase in ("TRAIN", "TEST"))
    for name, trunk in (("plain", CONV % ""), ("bn", CONV % "bias_term: false" + NORM)):
        (folder / f"{name}.prototxt").write_text(f'name: "{name}"\n' + data + trunk + HEAD + LOSS)
        (folder / f"{name}_deploy.prototxt").write_text(f'name: "{name}"\n' + INPUT + trunk + HEAD + ANSWER)
    return folder
