"""Caffe's binary files, against files that real Caffe wrote (tests/bvlc/make_files_goldens.py) and damaged ones."""

from __future__ import annotations

import errno
import os
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilgnet.evaluate.caffe_log import read_log
from tests import GOLDENS as _GOLDENS
from torchcaffe.base.errors import CaffeError, WriteError
from torchcaffe.formats import blobproto, caffemodel, files, hdf5, npy, solverstate, wire
from torchcaffe.proto import caffe_pb2

GOLDENS = _GOLDENS / "files"


def by_layer(layers, attribute="blobs"):
    return {layer.name: getattr(layer, attribute) for layer in layers}


def net_of(name="n", **blobs):
    net = caffe_pb2.NetParameter(name=name)
    for layer in blobs:
        net.layer.add(name=layer, type="InnerProduct")
    return net


# -- against BVLC --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny.caffemodel", "tiny_diff.caffemodel", "tiny_diff.caffemodel.h5"])
def test_reads_bvlc_weights(name):
    expected = np.load(GOLDENS / "tiny.npz")
    layers = caffemodel.read_caffemodel(GOLDENS / name)
    seen = set()
    for root, attribute in (("data", "blobs"), ("diff", "diffs")):
        for layer in layers:
            for index, blob in enumerate(getattr(layer, attribute)):
                if blob is not None:
                    key = f"{root}/{layer.name}/{index}"
                    seen.add(key)
                    assert blob.dtype == np.float32 and blob.shape == expected[key].shape
                    np.testing.assert_array_equal(blob, expected[key])
    missing = set(expected.files) - seen
    if name == "tiny.caffemodel":
        missing = {key for key in missing if not key.startswith("diff/")}
    # HDF5 leaves out a parameter that another layer owns.
    assert missing == ({"data/conv_again/0"} if name.endswith(".h5") else set())
    names = [layer.name for layer in layers]
    assert set(names) == {"data", "conv", "conv_again", "bn", "scale", "mult", "relu", "mult_relu_0_split", "fc",
                          "fc_too", "sum", "loss"}  # fmt: skip
    if not name.endswith(".h5"):
        assert names[1] == "conv" and layers[1].type == "Convolution" and layers[7].type == "Split"


@pytest.mark.parametrize("name", ["tiny.caffemodel", "tiny_diff.caffemodel"])
def test_writes_the_bytes_bvlc_writes(name, tmp_path):
    layers = caffemodel.read_caffemodel(GOLDENS / name)
    net = caffemodel.read_caffemodel_net(GOLDENS / name)
    assert not any(layer.blobs for layer in net.layer) and net.name == "tiny"
    diffs = by_layer(layers, "diffs") if "diff" in name else None
    caffemodel.write_caffemodel(tmp_path / "w", net, by_layer(layers), diffs)
    assert (tmp_path / "w").read_bytes() == (GOLDENS / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["w"]


def test_blobs_in_the_net_are_not_written_twice(tmp_path):
    net = caffe_pb2.NetParameter.FromString((GOLDENS / "tiny.caffemodel").read_bytes())
    caffemodel.write_caffemodel(tmp_path / "w", net, by_layer(caffemodel.read_caffemodel(GOLDENS / "tiny.caffemodel")))
    assert (tmp_path / "w").read_bytes() == (GOLDENS / "tiny.caffemodel").read_bytes()
    assert net.layer[1].blobs  # the caller's message is left alone


def h5_contents(path):
    import h5py

    found = {}
    with h5py.File(path, "r") as file:

        def visit(name, item):
            if isinstance(item, h5py.Group):
                found[name] = "group"
            else:
                kind = item.id.get_type()
                text = isinstance(kind, h5py.h5t.TypeStringID)
                found[name] = (item.shape, kind.get_size(), kind.get_strpad() if text else kind.dtype, item[()])

        file.visititems(visit)
    return found


def assert_same_h5(left, right):
    left, right = h5_contents(left), h5_contents(right)
    assert left.keys() == right.keys()
    for key in left:
        assert left[key][:3] == right[key][:3], key
        if left[key] != "group":
            np.testing.assert_array_equal(left[key][3], right[key][3])


def test_hdf5_as_bvlc_lays_it_out(tmp_path):
    net = caffemodel.read_caffemodel_net(GOLDENS / "tiny_diff.caffemodel")
    blobs = by_layer(caffemodel.read_caffemodel(GOLDENS / "tiny_diff.caffemodel"))
    diffs = by_layer(caffemodel.read_caffemodel(GOLDENS / "tiny_diff.caffemodel"), "diffs")
    blobs["conv_again"][0] = None  # conv owns it
    caffemodel.write_caffemodel(tmp_path / "w.h5", net, blobs, diffs)
    assert_same_h5(tmp_path / "w.h5", GOLDENS / "tiny_diff.caffemodel.h5")
    state = solverstate.read_solverstate(GOLDENS / "tiny_diff.solverstate.h5")
    solverstate.write_solverstate(tmp_path / "s.h5", state)
    assert_same_h5(tmp_path / "s.h5", GOLDENS / "tiny_diff.solverstate.h5")


def test_hdf5_holds_no_time(tmp_path):
    """The same state has the same bytes, whenever it is written."""
    one = [np.ones(3, np.float32)]
    written = []
    for seconds in (1.1, 0):  # HDF5's times are whole seconds
        caffemodel.write_caffemodel(tmp_path / "w.h5", net_of(a=1), {"a": one})
        solverstate.write_solverstate(tmp_path / "s.solverstate.h5", solverstate.SolverState(1, "w.h5", 0, one))
        written.append([(tmp_path / name).read_bytes() for name in ("w.h5", "s.solverstate.h5")])
        time.sleep(seconds)
    assert written[0] == written[1]


def test_hdf5_with_slashes_in_names(tmp_path):
    """BVLC cannot write those at all; ours nests groups."""
    one, two = np.ones((2, 3), np.float32), np.arange(4, dtype=np.float32)
    net = net_of(**{"a": 0, "a/b": 0, "c/d/e": 0, "bare": 0})
    caffemodel.write_caffemodel(tmp_path / "w.caffemodel.h5", net, {"a": [one], "a/b": [two, one], "c/d/e": [two]})
    read = by_layer(caffemodel.read_caffemodel(tmp_path / "w.caffemodel.h5"))
    assert {name: [b.shape for b in blobs] for name, blobs in read.items()} == {
        "a": [(2, 3)], "a/b": [(4,), (2, 3)], "c/d/e": [(4,)], "bare": [],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tiny.solverstate", "tiny_diff.solverstate.h5"])
def test_solverstate(name, tmp_path):
    state = solverstate.read_solverstate(GOLDENS / name)
    ending = ".caffemodel.h5" if name.endswith(".h5") else ".caffemodel"
    assert (state.iter, state.learned_net, state.current_step) == (3, "tiny_iter_3" + ending, 2)
    assert [h.shape for h in state.history][:3] == [(3, 3, 3, 3), (3,), (3,)] and len(state.history) == 12
    solverstate.write_solverstate(tmp_path / name, state)
    if not name.endswith(".h5"):
        assert (tmp_path / name).read_bytes() == (GOLDENS / name).read_bytes()
        again = solverstate.read_solverstate(GOLDENS / "tiny_diff.solverstate.h5")
        assert all(np.array_equal(a, b) for a, b in zip(state.history, again.history))


@pytest.mark.parametrize("name", ["v0", "v1", "v1_double"])
def test_reads_old_generations_as_bvlc_does(name):
    expected = np.load(GOLDENS / "old.npz")
    layers = caffemodel.read_caffemodel(GOLDENS / f"{name}.caffemodel")
    assert [(layer.name, layer.type) for layer in layers] == [
        ("conv1", "Convolution"), ("relu1", "ReLU"), ("fc2", "InnerProduct"),
    ]  # fmt: skip
    for layer in layers:
        for index, blob in enumerate(layer.blobs):
            want = expected[f"{name}/{layer.name}/{index}"]
            assert blob.ndim == 4 and blob.dtype == np.float32  # legacy shapes stay
            np.testing.assert_array_equal(blob.reshape(want.shape), want)
    net = caffemodel.read_caffemodel_net(GOLDENS / f"{name}.caffemodel")
    assert len(net.layers) == 3 and list(net.input_dim) == [1, 2, 4, 4]
    assert not net.layers[0].blobs and not net.layers[0].layer.blobs


def test_mean_file(tmp_path):
    images = np.load(GOLDENS / "mean_images.npy")
    mean = blobproto.read_blobproto(GOLDENS / "mean.binaryproto")
    assert mean.shape == (1, 3, 4, 5)
    np.testing.assert_allclose(mean[0], images.mean(0), rtol=1e-6)
    blobproto.write_blobproto(tmp_path / "m", mean[0])
    assert (tmp_path / "m").read_bytes() == (GOLDENS / "mean.binaryproto").read_bytes()


def test_real_weights_byte_for_byte(shared, tmp_path):
    path = shared / "bvlc_googlenet.caffemodel"
    tracemalloc.start()
    layers = caffemodel.read_caffemodel(path)
    assert tracemalloc.get_traced_memory()[1] < 2e6  # 28 MB of weights, none of them copied
    caffemodel.write_caffemodel(tmp_path / "w", caffemodel.read_caffemodel_net(path), by_layer(layers))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert (tmp_path / "w").read_bytes() == path.read_bytes()


# -- what protobuf can also mean -----------------------------------------------------------------------------------


def blob_bytes(**fields):
    return caffe_pb2.BlobProto(**fields).SerializeToString()


def test_unpacked_floats_and_split_fields(tmp_path):
    """Any conforming parser takes packed, unpacked and mixed encodings of one field."""
    values = np.random.RandomState(0).randn(1000).astype(np.float32)
    unpacked = b"".join(b"\x2d" + struct.pack("<f", v) for v in values[:700])
    packed = wire.head(5, 4 * 300) + values[700:].tobytes()
    shape = wire.head(7, 2) + b"\x08\x0a" + wire.head(7, 3) + wire.head(1, 1) + wire.varint(100)
    for order in ([unpacked, packed, shape], [shape, unpacked, packed]):
        (tmp_path / "b").write_bytes(b"".join(order))
        assert caffe_pb2.BlobProto.FromString(b"".join(order)).data[999] == values[999]
        np.testing.assert_array_equal(blobproto.read_blobproto(tmp_path / "b"), values.reshape(10, 100))
    doubles = values.astype(np.float64) * (1 + 1e-12)
    (tmp_path / "b").write_bytes(b"".join(b"\x41" + struct.pack("<d", v) for v in doubles) + shape)
    np.testing.assert_array_equal(blobproto.read_blobproto(tmp_path / "b").ravel(), doubles.astype(np.float32))


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 4), max_size=5),
    legacy=st.booleans(),
    double=st.booleans(),
    diff=st.booleans(),
)
def test_blobs_as_protobuf_reads_them(tmp_path_factory, shape, legacy, double, diff):
    path = tmp_path_factory.mktemp("b") / "b"
    if legacy:
        shape = (shape + [1, 2, 3, 2])[:4]
    values = np.asarray(np.random.RandomState(1).randn(*shape))
    blob = caffe_pb2.BlobProto()
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = shape
    else:
        blob.shape.dim.extend(shape)
    (blob.double_data if double else blob.data).extend(np.ravel(values))
    if diff:
        (blob.double_diff if double else blob.diff).extend(np.ravel(values))
    path.write_bytes(blob.SerializeToString() or b"\x50\x00")  # an unknown field, for the file must not be empty
    read = blobproto.read_blobproto(path)
    assert read.shape == tuple(shape) and read.dtype == np.float32
    np.testing.assert_array_equal(read, values.astype(np.float32))


@settings(max_examples=30)
@given(shapes=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=3), strided=st.booleans())
def test_what_we_write_protobuf_reads(tmp_path_factory, shapes, strided):
    path = tmp_path_factory.mktemp("b") / "b"
    arrays = [np.asarray(np.random.RandomState(2).randn(*shape), np.float64 if strided else np.float32)
              for shape in shapes]  # fmt: skip
    if strided:
        arrays = [array.T for array in arrays]
    caffemodel.write_caffemodel(path, net_of(x=0), {"x": arrays}, {"x": arrays})
    layer = caffe_pb2.NetParameter.FromString(path.read_bytes()).layer[0]
    read = caffemodel.read_caffemodel(path)[0]
    assert len(layer.blobs) == len(arrays) == len(read.blobs)
    for blob, ours, array in zip(layer.blobs, read.blobs, arrays):
        assert tuple(blob.shape.dim) == array.shape == ours.shape
        np.testing.assert_array_equal(np.array(blob.data, np.float32), array.astype(np.float32).ravel())
        np.testing.assert_array_equal(np.array(blob.diff, np.float32), array.astype(np.float32).ravel())
        np.testing.assert_array_equal(ours, array.astype(np.float32))


# -- bad files -----------------------------------------------------------------------------------------------------

BAD_BLOBS = {
    "data holds 3 values, its shape (2 x 2) needs 4": dict(shape=dict(dim=[2, 2]), data=[1, 2, 3]),
    "data holds 0 values, its shape (2 x 2) needs 4": dict(shape=dict(dim=[2, 2])),
    "data holds 2 values, its shape (one value) needs 1": dict(data=[1, 2]),
    "diff holds 1 values": dict(shape=dict(dim=[2]), data=[1, 2], diff=[1]),
    "data holds 1 values": dict(shape=dict(dim=[2]), data=[1, 2], double_data=[1]),
    "negative size, -2": dict(shape=dict(dim=[-2, -2]), data=[1, 2, 3, 4]),
    "negative size, -1": dict(num=-1, channels=-1, height=1, width=1, data=[1]),
    "more values than a blob can": dict(shape=dict(dim=[1 << 40, 1 << 40]), data=[1]),
    "more than 32": dict(shape=dict(dim=[1] * 33), data=[1]),
}


@pytest.mark.parametrize("message", BAD_BLOBS)
def test_bad_blobs_name_file_layer_and_field(tmp_path, message):
    path = tmp_path / "bad.caffemodel"
    net = caffe_pb2.NetParameter(name="n")
    net.layer.add(name="fine", type="ReLU")
    net.layer.add(name="fc7", type="InnerProduct").blobs.add(shape=dict(dim=[1]), data=[1])
    net.layer[1].blobs.add(**BAD_BLOBS[message])
    path.write_bytes(net.SerializeToString())
    with pytest.raises(CaffeError) as error:
        caffemodel.read_caffemodel(path)
    assert str(path) in str(error.value) and "layer 'fc7', blob 1" in str(error.value) and message in str(error.value)
    path.write_bytes(blob_bytes(**BAD_BLOBS[message]))
    with pytest.raises(CaffeError, match="bad.caffemodel"):
        blobproto.read_blobproto(path)


@pytest.mark.parametrize("read", [caffemodel.read_caffemodel, solverstate.read_solverstate, blobproto.read_blobproto])
@pytest.mark.parametrize("content", [None, b"", b"GIF89a", b"name: 'prototxt'\nlayer {\n}", b"\x89HDF\r\n\x1a\n junk"])
def test_not_caffe_files(tmp_path, read, content):
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaffeError, match="other"):
        read(path)
    with pytest.raises(CaffeError, match=str(tmp_path)):
        read(tmp_path)


def check_survives(read, path):
    """Reading gives arrays or CaffeError, within a few times the file's own size of memory."""
    tracemalloc.start()
    try:
        return read(path)
    except CaffeError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000
    return None


SAMPLES = {
    "tiny_diff.caffemodel": caffemodel.read_caffemodel,
    "v1_double.caffemodel": caffemodel.read_caffemodel,
    "v0.caffemodel": caffemodel.read_caffemodel,
    "tiny.solverstate": solverstate.read_solverstate,
    "mean.binaryproto": blobproto.read_blobproto,
}


@settings(max_examples=120)
@given(data=st.data(), name=st.sampled_from(sorted(SAMPLES)))
def test_damaged_files_never_crash(tmp_path_factory, data, name):
    content = bytearray((GOLDENS / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.mktemp("d") / "damaged"
    path.write_bytes(content)
    check_survives(SAMPLES[name], path)
    if name.endswith("caffemodel"):
        check_survives(caffemodel.read_caffemodel_net, path)


@settings(max_examples=200)
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes_never_crash(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("d") / "random"
    path.write_bytes(content)
    for read in (
        caffemodel.read_caffemodel,
        caffemodel.read_caffemodel_net,
        solverstate.read_solverstate,
        blobproto.read_blobproto,
    ):
        check_survives(read, path)


@pytest.mark.parametrize("name", ["tiny.caffemodel", "tiny.solverstate", "mean.binaryproto"])
def test_every_truncation_is_an_error_or_shorter(tmp_path, name):
    """A file cut anywhere but between two layers is refused, and never read as more than it holds."""
    content = (GOLDENS / name).read_bytes()
    path = tmp_path / "cut"
    good = []
    for size in range(1, len(content), 7):
        path.write_bytes(content[:size])
        try:
            SAMPLES.get(name, caffemodel.read_caffemodel)(path)
            good.append(size)
        except CaffeError as error:
            assert str(path) in str(error)
    assert len(good) <= 3


def test_hdf5_damage(tmp_path):
    import h5py

    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data/fc/0", shape=(1 << 15, 1 << 16), dtype="f4")  # 8 GB on paper, nothing on disk
    with pytest.raises(CaffeError, match="more than the file can hold"):
        caffemodel.read_caffemodel(path)
    with h5py.File(path, "w") as file:
        file["data/fc/0"] = "text"
    with pytest.raises(CaffeError, match="does not hold numbers"):
        caffemodel.read_caffemodel(path)
    with h5py.File(path, "w") as file:
        file["other"] = 1
    for read in (caffemodel.read_caffemodel, solverstate.read_solverstate):
        with pytest.raises(CaffeError, match="w.h5: not a"):
            read(path)
    content = (GOLDENS / "tiny_diff.caffemodel.h5").read_bytes()
    for size in range(10, len(content), 3001):
        path.write_bytes(content[:size])
        check_survives(caffemodel.read_caffemodel, path)


# -- writing -------------------------------------------------------------------------------------------------------


def resident_file_pages() -> int:
    """How many bytes of mapped files count as this process's memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what memory is resident")
def test_a_file_read_in_pieces_stays_out_of_memory(tmp_path):
    values = np.arange(8 << 20, dtype=np.float32).reshape(2, 4, 1 << 20)
    caffemodel.write_caffemodel(tmp_path / "w.caffemodel", net_of(a=1, b=1), {"a": [values], "b": [values[0]]})
    layers = by_layer(caffemodel.read_caffemodel(tmp_path / "w.caffemodel"))
    before, most = resident_file_pages(), 0
    copy = np.zeros(values.size, np.float32)
    for start, piece in files.pieces(layers["a"][0], 100_001):
        copy[start : start + piece.size] = piece
        most = max(most, resident_file_pages())
    np.testing.assert_array_equal(copy, values.reshape(-1))
    assert most - before < values.nbytes / 4
    np.testing.assert_array_equal(layers["a"][0], values)  # whose pages come back when they are read again
    np.testing.assert_array_equal(layers["b"][0], values[0])


def test_pieces_of_an_array_that_is_no_file():
    for values in (np.arange(10.0).reshape(2, 5)[:, ::2], np.ones(()), np.ones((0, 3))):
        found = list(files.pieces(values, 4))
        assert [start for start, _ in found] == list(range(0, values.size, 4))
        np.testing.assert_array_equal(np.concatenate([p for _, p in found] or [[]]), values.reshape(-1))


def test_more_than_two_gigabytes_is_refused(tmp_path):
    big = np.broadcast_to(np.float32(1), (1 << 15, 1 << 14))  # 2 GB on paper
    pieces = [b"", wire.head(5, 4 * big.size), range(4 * big.size)]  # what has a length, only that is asked for
    with pytest.raises(CaffeError, match="HDF5"):
        blobproto.write_pieces(tmp_path / "w", pieces)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "read",
    [files.map_file, hdf5.is_hdf5, npy.read_npy, npy.read_npz, files.read_text, files.sha256, files.sha256, read_log],
)
def test_devices_are_not_read(read):
    with pytest.raises(CaffeError, match=f"{os.devnull}: not a regular file"):
        read(os.devnull)


def test_atomic(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyError), files.atomic(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and target.read_text() == "old"
        raise KeyError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    link = tmp_path / "link"
    link.symlink_to("file")
    umask = os.umask(0o027)
    try:
        files.write_bytes(link, b"new")
    finally:
        os.umask(umask)
    assert link.is_symlink() and target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(CaffeError, match="there is no folder"):
        files.write_bytes(tmp_path / "no" / "file", b"")
    with pytest.raises(CaffeError, match="cannot write"):
        files.write_bytes(tmp_path, b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    for name in ("pipe", "to_pipe"):
        with pytest.raises(WriteError, match=f"cannot write .*/{name}: it is a device, a pipe"):
            files.write_bytes(tmp_path / name, b"")
    assert (tmp_path / "pipe").is_fifo()


def test_the_longest_names_are_written(tmp_path):
    target = tmp_path / ("\u00e4" * 127 + "x")  # 255 bytes
    target.with_name(f".{files._stem(target)}.{2**22 + 1}.00000000.tmp").touch()  # of a killed process
    for content in (b"old", b"new"):
        files.write_bytes(target, content)
        assert target.read_bytes() == content and os.listdir(tmp_path) == [target.name]


@pytest.mark.parametrize("links", [True, False])
def test_atomic_replaces_nothing_unless_told_to(tmp_path, monkeypatch, links):
    if not links:  # as on a memory card
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    files.write_bytes(tmp_path / "file", b"mine", replace=False)
    (tmp_path / "nowhere").symlink_to("gone")
    for taken in ("file", "nowhere"):
        with pytest.raises(FileExistsError):
            files.write_bytes(tmp_path / taken, b"theirs", replace=False)
    with pytest.raises(FileExistsError), files.atomic(tmp_path / "late", replace=False) as temporary:
        temporary.write_bytes(b"theirs")
        (tmp_path / "late").write_bytes(b"mine")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "late").read_bytes() == b"mine"
    with pytest.raises(KeyError), files.atomic(tmp_path / "half", replace=False) as temporary:
        temporary.write_bytes(b"half")
        assert not (tmp_path / "half").exists()
        raise KeyError
    assert sorted(os.listdir(tmp_path)) == ["file", "late", "nowhere"]


def test_write_refuses_nonsense(tmp_path):
    with pytest.raises(CaffeError, match="blob 0 is missing"):
        caffemodel.write_caffemodel(tmp_path / "w", net_of(x=0), {"x": [None]})
    with pytest.raises(CaffeError, match="diff of 2"):
        caffemodel.write_caffemodel(tmp_path / "w", net_of(x=0), {"x": [np.ones(3)]}, {"x": [np.ones(2)]})
    with pytest.raises(CaffeError, match="5 axes"):
        blobproto.write_blobproto(tmp_path / "w", np.ones((1,) * 5))
    assert os.listdir(tmp_path) == []
