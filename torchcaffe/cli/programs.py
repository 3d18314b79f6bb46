"""Caffe's other programs, as commands of `torchcaffe`: thin front ends to the code that does the work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.cli.flags import Flag, describe, parse
from torchcaffe.formats import upgrade
from torchcaffe.formats.files import publish
from torchcaffe.proto import caffe_pb2
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


def convert_imageset(argv: list[str]) -> int:
    """`convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME`: pictures to an LMDB of Datums."""
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
    if Path(out).exists():
        raise CaffeError(f"{out}: is there already; remove it first")
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
    """BVLC compares the lengths of the Datums' data."""
    from torchcaffe.data.lmdb_writer import records
    from torchcaffe.data.transform import parse_datum

    first = None
    for key, value in records(out):
        length = len(parse_datum(value).data)
        first = length if first is None else first
        if length != first:
            shutil.rmtree(out)
            raise CaffeError(f"{key.decode(errors='replace')}: {length} bytes, the first picture has {first}")


def compute_image_mean(argv: list[str]) -> int:
    """`compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]`: the mean of an LMDB's pictures, and of their channels."""
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
    """`extract_features WEIGHTS NET BLOBS DBS BATCHES lmdb [CPU|GPU] [DEVICE_ID=0]`: blobs to LMDBs of Datums."""
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
    if len(words) > 6 and words[6] == "GPU":
        log.error("extract_features.cpp:52", "Using GPU")
        device = words[7].removeprefix("DEVICE_ID=") if len(words) > 7 else "0"
        if not device.isdecimal():
            raise CaffeError(f"extract_features: DEVICE_ID: {words[7]} is no device number")
        context.set_device(int(device))
        context.set_mode_gpu()
    else:
        log.error("extract_features.cpp:62", "Using CPU")
        context.set_mode_cpu()
    for folder in folders:
        if Path(folder).exists():
            raise CaffeError(f"{folder}: is there already; remove it first")
    from torchcaffe.data.lmdb_writer import LmdbWriter, remove
    from torchcaffe.nets.net import Net

    net = Net(model, caffe_pb2.TEST)
    net.copy_from(weights)
    for name in blobs:
        if name not in net.blobs:
            raise CaffeError(f"{model}: has no blob '{name}'")
    partial = [Path(folder + ".partial") for folder in folders]
    for folder in partial:
        remove(folder)
    writers = [LmdbWriter(folder) for folder in partial]
    for folder in folders:
        log.info("extract_features.cpp:125", f"Opening dataset {folder}")
        log.info("db_lmdb.cpp:35", f"Opened lmdb {folder}")
    log.error("extract_features.cpp:133", "Extracting Features")
    counts = [0] * len(blobs)
    for _ in range(int(batches)):
        net.run_forward(0, len(net.layers) - 1)
        for index, name in enumerate(blobs):
            blob = net.blobs[name]
            size = blob.channels * blob.height * blob.width
            for item in blob.t.detach().cpu().numpy().reshape(blob.num, size):
                datum = caffe_pb2.Datum(channels=blob.channels, height=blob.height, width=blob.width)
                datum.float_data.extend(item.tolist())
                writers[index].put(b"%010d" % counts[index], datum.SerializeToString())
                counts[index] += 1
                if counts[index] % 1000 == 0:
                    writers[index].commit()
                    log.error(
                        "extract_features.cpp:160",
                        f"Extracted features of {counts[index]} query images for feature blob {name}",
                    )
    for index, name in enumerate(blobs):
        if counts[index] % 1000:
            writers[index].commit()
        writers[index].close()
        publish(partial[index], folders[index])
        log.error(
            "extract_features.cpp:176", f"Extracted features of {counts[index]} query images for feature blob {name}"
        )
    log.error("extract_features.cpp:181", "Successfully extracted the features!")
    return 0


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "convert_imageset": convert_imageset,
    "compute_image_mean": compute_image_mean,
    "extract_features": extract_features,
    "upgrade_net_proto_text": upgrade.upgrade_net_proto_text,
    "upgrade_net_proto_binary": upgrade.upgrade_net_proto_binary,
    "upgrade_solver_proto_text": upgrade.upgrade_solver_proto_text,
}
