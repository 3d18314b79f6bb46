"""What LMDBs hold."""

from __future__ import annotations

from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.proto import caffe_pb2


def datums(lmdb):
    with LmdbReader(lmdb) as reader:
        return {key.decode(): caffe_pb2.Datum.FromString(value) for key, value in reader}
