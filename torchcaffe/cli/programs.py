"""Caffe's other programs, as commands of `torchcaffe`."""

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.cli.flags import Flag, describe, parse
from torchcaffe.core.blob import Blob
from torchcaffe.formats import files, upgrade
from torchcaffe.proto import caffe_pb2, format_text, parse_text
from torchcaffe.random import streams

_BACKEND = Flag("backend", "lmdb", "lmdb (leveldb is not read or written)")
_CONVERT = (
    Flag("gray", False, "store one channel"),
    Flag("shuffle", False, "store in random order, not the list's"),
    _BACKEND,
    Flag("resize_width", 0, "width to warp to"),
    Flag("resize_height", 0, "height to warp to"),
    Flag("check_size", False, "refuse pictures of different sizes"),
    Flag("encoded", False, "store compressed pictures, by default as the files are"),
    Flag("encode_type", "", "png, jpg, ...: compress to this"),
)


def _check_backend(values: dict) -> None:
    if values["backend"] != "lmdb":
        raise CaffeError(f"-backend {values['backend']}: only lmdb is read and written")


def _check_absent(*outputs: str) -> None:
    for path in outputs:
        if Path(path).exists():
            raise CaffeError(f"{path}: is there already; remove it first")


def convert_imageset(argv: list[str]) -> int:
    """`convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME`: write pictures to an LMDB of Datums."""
    from torchcaffe.data import imageset

    values, words = parse(argv, _CONVERT)
    if len(words) != 3:
        print("usage: convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME\n\n" + describe(_CONVERT))
        return 1
    _check_backend(values)
    root, list_file, out = words
    photos = imageset.read_list(list_file)
    if values["shuffle"]:
        log.info("convert_imageset.cpp:86", "Shuffling data")
        streams.rng().shuffle(photos)
    log.info("convert_imageset.cpp:89", f"A total of {len(photos)} images.")
    if values["encode_type"] and not values["encoded"]:
        log.info("convert_imageset.cpp:92", "encode_type specified, assuming encoded=true.")
    size = (values["resize_height"], values["resize_width"])
    options = imageset.Options(
        resize=size if min(size) > 0 else None, gray=values["gray"], encode=_encoding(values, photos)
    )
    _check_absent(out)
    log.info("db_lmdb.cpp:35", f"Opened lmdb {out}")
    result = imageset.convert_imageset(root, photos, out, options)
    if values["check_size"]:
        _check_sizes(out)
    log.info("convert_imageset.cpp:153", f"Processed {result.records} files.")
    return 0


def _encoding(values: dict, photos: list) -> str:
    def canonical(name: str) -> str:
        return {"jpeg": "jpg"}.get(name.lower(), name.lower())

    if values["encode_type"] or not values["encoded"]:
        return canonical(values["encode_type"])
    kinds = {canonical(Path(photo.name).suffix[1:]) for photo in photos}
    if len(kinds) != 1:
        raise CaffeError(
            f"-encoded: the list has several kinds of files ({', '.join(sorted(kinds))}): add -encode_type"
        )
    return kinds.pop()


def _check_sizes(out: str) -> None:
    """Raise CaffeError, and remove the LMDB, unless all Datums' data have one length, as BVLC's check_size."""
    from torchcaffe.data.lmdb_writer import records
    from torchcaffe.data.transform import parse_datum

    first: int | None = None
    for key, value in records(out):
        length = len(parse_datum(value).data)
        first = first or length
        if length != first:
            shutil.rmtree(out)
            raise CaffeError(f"{key.decode(errors='replace')}: {length} bytes, the first picture has {first}")


def compute_image_mean(argv: list[str]) -> int:
    """`compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]`: the mean of an LMDB's pictures and their channels."""
    from torchcaffe.data import imageset
    from torchcaffe.data.lmdb_reader import LmdbReader

    values, words = parse(argv, (_BACKEND,))
    if len(words) not in (1, 2):
        print("usage: compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]\n\n" + describe((_BACKEND,)))
        return 1
    _check_backend(values)
    with LmdbReader(words[0]) as reader:
        count = len(reader)
    log.info("db_lmdb.cpp:35", f"Opened lmdb {words[0]}")
    log.info("compute_image_mean.cpp:70", "Starting iteration")
    mean = imageset.compute_image_mean(words[0])
    log.info("compute_image_mean.cpp:101", f"Processed {count} files.")
    if len(words) == 2:
        log.info("compute_image_mean.cpp:108", f"Write to {words[1]}")
        imageset.write_mean(mean, words[1])
    log.info("compute_image_mean.cpp:114", f"Number of channels: {len(mean)}")
    for index, plane in enumerate(mean):
        # One running float32 sum, as BVLC's.
        total = np.add.accumulate(plane.reshape(-1), dtype=np.float32)[-1]
        log.info("compute_image_mean.cpp:119", f"mean_value channel [{index}]: {total / np.float32(plane.size):g}")
    return 0


_FEATURES = (
    "usage: extract_features PRETRAINED_WEIGHTS NET_PROTOTXT BLOB1[,BLOB2,...] DB1[,DB2,...] MINI_BATCHES DB_TYPE "
    "[CPU|GPU] [DEVICE_ID=0]\n\nRuns the net in the TEST phase and writes each blob, item by item, as Datums of floats "
    "to an LMDB of its own."
)


def extract_features(argv: list[str]) -> int:
    """`extract_features WEIGHTS NET BLOBS DBS BATCHES lmdb [CPU|GPU] [DEVICE_ID=0]`: write blobs to LMDBs of Datums."""
    _, words = parse(argv, ())
    if len(words) < 6:
        print(_FEATURES)
        return 1
    weights, model, blob_names, outs, batches, backend = words[:6]
    _check_backend({"backend": backend.lower()})
    if not batches.isdecimal() or int(batches) < 1:
        raise CaffeError(f"extract_features: {batches} mini-batches: give a whole number, 1 or more")
    blobs, folders = blob_names.split(","), outs.split(",")
    if len(blobs) != len(folders):
        raise CaffeError(f"extract_features: {len(blobs)} blobs and {len(folders)} databases: give as many of each")
    _choose_device(words[6:])
    _check_absent(*folders)
    from torchcaffe.nets.net import Net

    net = Net(model, caffe_pb2.TEST)
    net.copy_from(weights)
    for name in blobs:
        if name not in net.blobs:
            raise CaffeError(f"{model}: has no blob '{name}'")
    outputs = [_Features(name, folder) for name, folder in zip(blobs, folders)]
    log.error("extract_features.cpp:133", "Extracting Features")
    for _ in range(int(batches)):
        net.run_forward(0, len(net.layers) - 1)
        for output in outputs:
            output.write(net.blobs[output.name])
    for output in outputs:
        output.close()
    log.error("extract_features.cpp:181", "Successfully extracted the features!")
    return 0


def _choose_device(words: list[str]) -> None:
    if words[:1] != ["GPU"]:
        log.error("extract_features.cpp:62", "Using CPU")
        context.set_mode_cpu()
        return
    from torchcaffe.gpu.mode import set_mode_gpu

    log.error("extract_features.cpp:52", "Using GPU")
    device = words[1].removeprefix("DEVICE_ID=") if len(words) > 1 else "0"
    if not device.isdecimal():
        raise CaffeError(f"extract_features: DEVICE_ID: {words[1]} is no device number")
    context.set_device(int(device))
    set_mode_gpu()


class _Features:
    """The LMDB of one blob: a Datum of floats for each item. It is written aside until it is complete."""

    def __init__(self, name: str, folder: str):
        from torchcaffe.data.lmdb_writer import LmdbWriter, remove

        self.name, self.folder, self.partial, self.count = name, folder, Path(folder + ".partial"), 0
        remove(self.partial)
        self.writer = LmdbWriter(self.partial)
        log.info("extract_features.cpp:125", f"Opening dataset {folder}")
        log.info("db_lmdb.cpp:35", f"Opened lmdb {folder}")

    def write(self, blob: Blob) -> None:
        size = blob.channels * blob.height * blob.width
        for item in blob.t.cpu().numpy().reshape(blob.num, size):
            datum = caffe_pb2.Datum(channels=blob.channels, height=blob.height, width=blob.width)
            datum.float_data.extend(item.tolist())
            self.writer.put(b"%010d" % self.count, datum.SerializeToString())
            self.count += 1
            if self.count % 1000 == 0:
                self.writer.commit()
                self._log(160)

    def close(self) -> None:
        self.writer.commit()
        self.writer.close()
        files.publish(self.partial, self.folder)
        self._log(176)

    def _log(self, line: int) -> None:
        what = f"Extracted features of {self.count} query images for feature blob {self.name}"
        log.error(f"extract_features.cpp:{line}", what)


def _upgrade(program: str, argv: list[str]) -> int:
    """`upgrade_... IN OUT`: write the upgraded prototxt or caffemodel.

    Returns BVLC's exit status: 1 for wrong usage or for V0 settings that were dropped, else 0."""
    solver, kind = "solver" in program, program.rpartition("_")[2]
    if len(argv) != 2:
        age, what = ("old_solver", "solver") if solver else ("v0_net", "net")
        print(f"Usage: {program} {age}_proto_file_in {what}_proto_file_out", file=sys.stderr)
        return 1
    path, result = argv
    message: Any
    if kind == "binary":
        message = upgrade.read_net_binary(path)
    else:
        message = caffe_pb2.SolverParameter() if solver else caffe_pb2.NetParameter()
        parse_text(upgrade.read_text(path), message, path)
    if not (message.HasField("solver_type") if solver else upgrade.net_needs_upgrade(message)):
        log.error(f"{program}.cpp:43", f"File already in latest proto format: {path}")
    if solver:
        upgrade.upgrade_solver(message, path)
    compatible = solver or upgrade.upgrade_in_place(message, path)
    if not compatible:
        log.error(f"{program}.cpp:39", "Encountered error(s) while upgrading prototxt; see details above.")
    data = message.SerializeToString() if kind == "binary" else format_text(message).encode("ascii")
    files.write_bytes(result, data)
    log.info(f"{program}.cpp:49", f"Wrote upgraded {message.DESCRIPTOR.name} {kind} proto to {result}")
    return 0 if compatible else 1


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "convert_imageset": convert_imageset,
    "compute_image_mean": compute_image_mean,
    "extract_features": extract_features,
    **{
        name: partial(_upgrade, name)
        for name in ("upgrade_net_proto_text", "upgrade_net_proto_binary", "upgrade_solver_proto_text")
    },
}
