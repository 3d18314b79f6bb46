"""Every reader as a target for made-up input, with seeds, and a mutator that knows no format.

A target takes a file and must return or raise CaffeError with status 2; anything else (another exception, a signal,
more than LIMIT_BYTES of memory or LIMIT_SECONDS) is a finding. tests/test_fuzz.py tries a few inputs a reader with
hypothesis, `python -m tests.fuzz` (make fuzz) tries them for hours, with --atheris by coverage."""

from __future__ import annotations

import collections
import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import h5py
import lmdb
import numpy as np
from google.protobuf import text_format

from ilgnet.ava import labels, ratings, splits
from ilgnet.evaluate import caffe_log, protocol
from ilgnet.photos import decode, preprocess
from ilgnet.rank import xmp
from ilgnet.scoring.answers import Answer
from torchcaffe.base.errors import CaffeError, OutOfMemory, named
from torchcaffe.data import imageset, pictures
from torchcaffe.data.lmdb_reader import LmdbReader
from torchcaffe.data.transform import datum_image, parse_datum
from torchcaffe.formats import blobproto, caffemodel, solverstate, upgrade
from torchcaffe.proto import caffe_pb2
from torchcaffe.random import streams
from torchcaffe.solvers import snapshots

LIMIT_BYTES = 1 << 30
LIMIT_SECONDS = 60  # of a clock: on a busy machine the ten of computing that an HDF5 file may take are longer
ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests" / "bvlc" / "goldens"
BIG = 20_000  # bytes; longer seeds are no better


class Target(NamedTuple):
    """A reader: what it does with a file, the name that file has, and files that it can read. `tried`: it lets another
    process read first (hdf5.tried)."""

    read: Callable[[Path], object]
    name: str
    seeds: Callable[[], list[bytes]]
    tried: bool = False


def _small(pattern: str) -> list[bytes]:
    return [data for path in sorted(GOLDENS.parents[1].glob(pattern)) if len(data := path.read_bytes()) <= BIG]


def _saved(save: Callable, *args: object, **options: object) -> bytes:
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def _hdf5(**datasets: object) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        for name, values in datasets.items():
            out[name.replace("__", "/")] = values
    return file.getvalue()


def _images() -> list[bytes]:
    picture = np.random.RandomState(0).randint(0, 256, (40, 48, 3), np.uint8)
    return [
        cv2.imencode(f".{kind}", picture)[1].tobytes()
        for kind in ("jpg", "png", "bmp", "webp", "tiff", "ppm", "jp2", "hdr", "ras")
    ]


def _datums() -> list[bytes]:
    picture = caffe_pb2.Datum(channels=3, height=2, width=2, label=1, data=bytes(range(12)))
    floats = caffe_pb2.Datum(channels=1, height=1, width=3, float_data=[1, 2, 3])
    return [
        picture.SerializeToString(),
        floats.SerializeToString(),
        *(caffe_pb2.Datum(encoded=True, data=data, label=1).SerializeToString() for data in _images()[:2]),
    ]


def _lmdb() -> list[bytes]:
    import tempfile

    found = []
    for count, size in ((1, 10), (300, 40), (20, 5000)):
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
                for i in range(count):
                    transaction.put(b"%08d" % i, bytes(size))
            found.append((Path(folder) / "data.mdb").read_bytes())
    return found


def _read_lmdb(path: Path) -> None:
    with LmdbReader(path.parent) as reader:
        for count, _ in enumerate(reader):
            if count > 1000:
                break


def _read_datum(path: Path) -> None:
    datum_image(parse_datum(path.read_bytes()))


def _read_net(path: Path) -> None:
    """Parse, upgrade, make the net and run it once."""
    from torchcaffe.nets.net import Net

    net = upgrade.read_net(path)
    if len(net.layer) > 50:
        return
    net.state.phase = caffe_pb2.TEST
    streams.set_random_seed(1)
    made = Net.from_param(net, str(path))
    if made._blob_list and sum(blob.count for blob in made._blob_list) < 100_000:
        made.run_forward(0, len(made.layers) - 1)


def _nets() -> list[bytes]:
    """Up to five small nets of each layer type that the comparison with BVLC has (but those that read files)."""
    from tests.bvlc import layers

    seeds = collections.defaultdict(list)
    for row in layers.ROWS:
        text = str(layers.case(row)["proto"])
        if len(text) < 3000 and "source" not in text and "file" not in text and len(seeds[row.type]) < 5:
            seeds[row.type].append(text.encode())
    return [text for texts in seeds.values() for text in texts]


def _read_rows(path: Path) -> None:
    from torchcaffe.ops import hdf5

    hdf5.read_datasets(path, ("data", "label"))


def _batch(path: Path, kind: str, parameters: str) -> None:
    """A batch of a layer that reads a list of pictures, of which a.png is there."""
    from torchcaffe.nets.net import Net

    (path.parent / "a.png").write_bytes(_images()[1])
    net = caffe_pb2.NetParameter()
    text = f"""layer {{ name: "data" type: "{kind}" top: "data" top: "label" transform_param {{ crop_size: 8 }}
               {parameters % path} }}"""
    text_format.Parse(text, net)
    streams.set_random_seed(1)
    Net.from_param(net, str(path)).run_forward(0, 0)


def _read_image_data(path: Path) -> None:
    _batch(
        path,
        "ImageData",
        f"""image_data_param {{ source: "%s" root_folder: "{path.parent}/" batch_size: 2
                                  new_height: 9 new_width: 9 }}""",
    )


def _read_window_data(path: Path) -> None:
    _batch(path, "WindowData", f"""window_data_param {{ source: "%s" root_folder: "{path.parent}/" batch_size: 2 }}""")


def _read_sidecar(path: Path) -> None:
    photo = path.with_suffix(".jpg")
    photo.write_bytes(path.read_bytes())
    xmp.rated_by_hand(photo, by_person=False)


ROW = b"1 10 1 2 3 4 5 6 7 8 9 10 0 0 1\n"
LOG = (
    b"I1124 23:59:58.999999  1 solver.cpp:239] Iteration 20 (3.1 iter/s, 6.4s/20 iters), loss = 0.7\n"
    b"I1124 23:59:59.999999  1 solver.cpp:347] Iteration 20, Testing net (#0)\n"
    b"I1124 23:59:59.999999  1 solver.cpp:414]     Test net output #0: accuracy = 0.5\n"
    b"I1124 23:59:59.999999  1 caffe.cpp:304] Batch 0, accuracy = 0.8\n"
)

TARGETS = {
    "caffemodel": Target(caffemodel.read_caffemodel, "x.caffemodel", lambda: _small("bvlc/goldens/**/*.caffemodel")),
    "caffemodel_net": Target(
        caffemodel.read_caffemodel_net, "x.caffemodel", lambda: _small("bvlc/goldens/**/*.caffemodel")),
    "caffemodel_hdf5": Target(caffemodel.read_caffemodel, "x.caffemodel.h5", lambda: [
        *_small("bvlc/goldens/**/*.caffemodel.h5"), _hdf5(data__ip__0=np.ones((2, 3), "f4"))], tried=True),
    "solverstate": Target(
        solverstate.read_solverstate, "x.solverstate", lambda: _small("bvlc/goldens/**/*.solverstate")),
    "solverstate_hdf5": Target(solverstate.read_solverstate, "x.solverstate.h5", lambda: [
        *_small("bvlc/goldens/**/*.solverstate.h5"),
        _hdf5(iter=np.int32(1), learned_net=b"x", current_step=np.int32(0), history__0=np.ones(3, "f4"))], tried=True),
    "hdf5_data": Target(_read_rows, "x.h5", lambda: [
        _hdf5(data=np.ones((3, 2), "f4"), label=np.arange(3)), _hdf5(data=np.ones((2, 1, 2)), label=np.ones(2))],
        tried=True),
    "image_data": Target(_read_image_data, "list.txt", lambda: [b"a.png 0\na.png 1\n", b"a.png\n"]),
    "window_data": Target(_read_window_data, "windows.txt", lambda: [
        b"# 0\na.png\n3\n40\n48\n2\n1 0.9 0 0 20 20\n1 0.1 5 5 30 30\n"]),
    "blobproto": Target(blobproto.read_blobproto, "x.binaryproto", lambda: [
        caffe_pb2.BlobProto(num=1, channels=3, height=1, width=2, data=range(6)).SerializeToString(),
        *_small("bvlc/goldens/inputs/*.binaryproto")]),
    "mean": Target(preprocess.read_mean, "x.npy", lambda: [_saved(np.save, np.ones((3, 2, 2), "f4")),
                                                           _saved(np.save, np.ones(3))]),
    "resume": Target(snapshots.read, "x.resume.npz", lambda: [
        _saved(np.savez, about=np.array('{"format": 1, "iter": 2, "files": {}, "losses_seen": 1}'), a=np.ones(2))]),
    "datum": Target(_read_datum, "x.datum", _datums),
    "lmdb": Target(_read_lmdb, "data.mdb", _lmdb),
    "picture": Target(lambda path: pictures.read(path, cv2.IMREAD_COLOR), "x.jpg", _images),
    "photo": Target(decode.read, "x.jpg", lambda: _images()[:5]),
    "prototxt": Target(upgrade.read_net, "x.prototxt", lambda: [
        *_small("bvlc/goldens/upgrade/*.in.prototxt"), *_small("bvlc/goldens/net_spec/*.prototxt")]),
    "net": Target(_read_net, "x.prototxt", _nets),
    "solver": Target(upgrade.read_solver, "x.prototxt", lambda: [
        path.read_bytes() for path in sorted((ROOT / "solvers").glob("*/v1.prototxt"))]),
    "ratings": Target(ratings.read_ratings, "AVA.txt", lambda: [ROW, ROW + b"\r\n" + ROW.replace(b" 10 ", b" 11 ", 1)]),
    "list": Target(splits.read_list, "train.txt", lambda: [b"1.jpg 0\n2.jpg 1\n"]),
    "imageset_list": Target(imageset.read_list, "list.txt", lambda: [b"1.jpg 0\na b.jpg 12\n"]),
    "labels": Target(labels.read_labels, "x.csv", lambda: [b"file,pick,stars\na.jpg,keep,5\nb.jpg,,\n",
                                                         b"file,votes\na.jpg,1 2 3\n"]),
    "predictions": Target(protocol.read_csv, "x.csv", lambda: [
        b"key,label,p_high\n1_a,0,0.5\n2_b,1,1e-3\n", b"key,label,p_high,margin\n1_a,0,0.5,0\n2_b,1,1,17.5\n"]),
    "sidecar": Target(_read_sidecar, "x.xmp", lambda: [
        xmp.render(3, True, Answer(0.5, 0.0), 60), _images()[0] + b'xmp:Rating="4"']),
    "log": Target(caffe_log.read_log, "x.log", lambda: [LOG]),
}  # fmt: skip

_NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63)
_WORDS = (
    b"0",
    b"-1",
    b"1",
    b"3",
    b"65536",
    b"2147483647",
    b"4294967296",
    b"1e39",
    b"nan",
    b"-inf",
    b'"',
    b"{",
    b"}",
    b" ",
    b"\n",
    b"\0",
    b"\xff",
    b"../",
    b",",
    b"true",
)


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """A seed with a few faults: bits, bytes, numbers, words, pieces cut out, doubled or taken from another seed."""
    data = bytearray(rng.choice(seeds))
    is_text = data.isascii()
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 9))):
        at = rng.randrange(len(data) + 1)
        kind = 8 if is_text and rng.random() < 0.5 else rng.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            form = rng.choice(("<B", "<H", "<I", "<Q", ">H", ">I", ">Q"))
            number = struct.pack(form, rng.choice(_NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1))
            data[at : at + len(number)] = number
        elif kind == 3:
            word = rng.choice(_WORDS)
            data[at : at + rng.choice((0, 0, 1, len(word)))] = word
        elif kind == 4:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            piece = data[at : at + rng.choice((1, 4, 30, 200))]
            data[at:at] = piece * rng.choice((1, 2, 10))
        elif kind == 7:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at : at + rng.choice((0, 20, 1 << 30))] = other[start : start + rng.choice((5, 50, 1 << 30))]
        elif kind == 8:  # a number of a text
            digits = [i for i in range(len(data)) if 48 <= data[i] <= 57] if len(data) < 4000 else []
            if digits:
                i = rng.choice(digits)
                data[i : i + 1] = rng.choice(_WORDS[:9])
    return bytes(data[: 4 * BIG])


def attempt(target: Target, data: bytes, folder: Path) -> str:
    """Read a made-up file: "read", or "refused" in one line. Any other exception is raised."""
    path = folder / target.name
    path.write_bytes(data)
    try:
        target.read(path)
    except CaffeError as error:
        wanted = {2, OutOfMemory.status} if target.read is _read_net else {2}  # a net may be too large for a process
        if named(error).status not in wanted:
            raise
        if not str(error) or "\n" in str(error):
            raise AssertionError(f"not one line: {error!r}") from error
        return "refused"
    return "read"
