"""The rows of the table of layers (tests/bvlc/layers.py) that a net of one layer can run, and their nets."""

from __future__ import annotations

import torchcaffe as caffe
from tests.bvlc import layers
from torchcaffe.proto import caffe_pb2, parse_text

PLAIN = [row for row in layers.ROWS if not row.fails and row.bottoms and not row.reads and row.type != "Python"]


def net_of(row: layers.Row) -> tuple[caffe.Net, dict]:
    job = layers.case(row)
    caffe.set_random_seed(job["seed"])
    param = parse_text(job["proto"], caffe_pb2.NetParameter(), "test")
    param.state.phase = caffe.TRAIN if job["phase"] == "TRAIN" else caffe.TEST
    return caffe.Net.from_param(param), job
