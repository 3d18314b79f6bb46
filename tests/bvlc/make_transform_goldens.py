"""Make the goldens of tests/test_transform.py with real Caffe: python3 make_transform_goldens.py OUT.

Every configuration runs a net of one Data layer over a small LMDB and keeps the batches. The records are kept too.
"""

import json
import os
import sys
import tempfile

os.environ["GLOG_minloglevel"] = "2"

import caffe  # noqa: E402
import cv2  # noqa: E402
import lmdb  # noqa: E402
import numpy as np  # noqa: E402

# name: (kind of records, transform_param, phase)
CONFIGURATIONS = {
    "plain": ("bytes", "", "TEST"),
    "scale": ("bytes", "scale: 0.00390625", "TEST"),
    "odd_scale": ("bytes", "scale: 0.017 mean_value: 103.94", "TEST"),
    "centre": ("bytes", "crop_size: 4", "TEST"),
    "random": ("bytes", "crop_size: 5", "TRAIN"),
    "whole_crop": ("bytes", "crop_size: 7", "TRAIN"),
    "mirror_train": ("bytes", "mirror: true", "TRAIN"),
    "mirror_test": ("bytes", "mirror: true crop_size: 5 mean_value: 104 mean_value: 117.5 mean_value: 123.68", "TEST"),
    "mean_values": ("bytes", "mean_value: 104 mean_value: 117.5 mean_value: 123.68 scale: 0.3", "TEST"),
    "mean_file": ("bytes", 'mean_file: "MEAN"', "TEST"),
    "mean_file_centre": ("bytes", 'mean_file: "MEAN" crop_size: 4 scale: 0.1', "TEST"),
    "everything": ("bytes", 'mean_file: "MEAN" crop_size: 5 mirror: true scale: 0.7', "TRAIN"),
    "floats": ("floats", "crop_size: 5 mirror: true scale: 0.7 mean_value: 1.5", "TRAIN"),
    "encoded": ("png", "crop_size: 5 mirror: true scale: 0.7 mean_value: 1.5", "TRAIN"),
    "encoded_colour": ("grey_png", 'mean_file: "MEAN" crop_size: 5 mirror: true force_color: true', "TRAIN"),
    "encoded_grey": ("png", "force_gray: true scale: 0.5", "TEST"),
    "encoded_native_grey": ("grey_png", "crop_size: 3", "TEST"),
}
NET = """
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { %s } data_param { source: "%s" batch_size: 4 backend: LMDB } }
"""


def records(kind):
    rng = np.random.RandomState(1)
    for index in range(6):
        datum = caffe.proto.caffe_pb2.Datum(channels=3, height=7, width=8, label=index)
        image = rng.randint(0, 256, (7, 8, 3)).astype(np.uint8)
        if kind == "bytes":
            datum.data = image.transpose(2, 0, 1).tobytes()
        elif kind == "floats":
            datum.float_data.extend((image.transpose(2, 0, 1) / 7.0).ravel())
        else:
            image = image[:, :, 0] if kind == "grey_png" else image
            datum.data = cv2.imencode(".png", image)[1].tobytes()
            datum.encoded = True
        yield datum.SerializeToString()


def main(out):
    os.makedirs(out, exist_ok=True)
    batches, values = {}, {}
    with tempfile.TemporaryDirectory() as work:
        mean = os.path.join(out, "mean.binaryproto")
        blob = caffe.io.array_to_blobproto(np.random.RandomState(2).rand(1, 3, 7, 8) * 255)
        with open(mean, "wb") as file:
            file.write(blob.SerializeToString())
        for kind in ("bytes", "floats", "png", "grey_png"):
            values[kind] = list(records(kind))
            env = lmdb.open(os.path.join(work, kind), map_size=1 << 20)
            with env.begin(write=True) as txn:
                for index, value in enumerate(values[kind]):
                    txn.put(b"%08d" % index, value)
            env.close()
        for name, (kind, param, phase) in sorted(CONFIGURATIONS.items()):
            net_file = os.path.join(work, "net.prototxt")
            with open(net_file, "w") as file:
                file.write(NET % (param.replace("MEAN", mean), os.path.join(work, kind)))
            caffe.set_random_seed(1701)
            net = caffe.Net(net_file, getattr(caffe, phase))
            found = []
            for _ in range(3):
                net.forward()
                found.append(net.blobs["data"].data.copy())
                assert net.blobs["label"].data.max() <= 5
            batches[name] = np.concatenate(found)
            del net
    np.savez_compressed(os.path.join(out, "batches.npz"), **batches)
    np.savez_compressed(os.path.join(out, "records.npz"), **{kind: pack(rows) for kind, rows in values.items()})
    with open(os.path.join(out, "configurations.json"), "w") as file:
        json.dump(CONFIGURATIONS, file, indent=1, sort_keys=True)


def pack(rows):
    """Byte strings of different lengths as one array: a 4-byte length before each."""
    return np.frombuffer(b"".join(len(row).to_bytes(4, "little") + row for row in rows), np.uint8)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
