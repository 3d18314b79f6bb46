"""Balanced maps: what new inner products read has size 1, and what copied layers compute stays, as OpenCV's dnn module
says too."""

import cv2
import numpy as np
import pytest
from google.protobuf.text_format import MessageToString

import torchcaffe as caffe
from ilgnet.nets import emit
from ilgnet.weights import surgery
from ilgnet.weights.balance import balance
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, parse_text

CROP = 96

BRANCHES = """
input: "data" input_shape { dim: 4 dim: 3 dim: 9 dim: 9 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "data" top: "d"
        convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "e" type: "ReLU" bottom: "d" top: "e" }
layer { name: "both" type: "Concat" bottom: "c" bottom: "e" top: "both" }
layer { name: "p" type: "Pooling" bottom: "both" top: "p" pooling_param { pool: MAX kernel_size: 3 stride: 3 } }
layer { name: "new" type: "InnerProduct" bottom: "p" top: "new"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
READER
layer { name: "old" type: "InnerProduct" bottom: "OLD" top: "old"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def engine(net, path, images):
    """The net in the TEST phase, with photos in its input."""
    path.write_text(MessageToString(net))
    made = caffe.Net(str(path), caffe.TEST)
    made.blobs["data"].reshape(*images.shape)
    made.reshape()
    made.blobs["data"].data[...] = images
    return made


def report_of(net, *new):
    """As surgery reports: `new` was filled, all else copied."""
    rows = [surgery.Row(layer.name, layer.type, "", "filled" if layer.name in new else "copied") for layer in net.layer]
    return surgery.Report(rows)


def images(size):
    return np.random.RandomState(3).uniform(-128, 128, (4, 3, size, size)).astype(np.float32)


def size_of(maps):
    return np.sqrt(np.square(maps, dtype=np.float64).mean((0, 2, 3)))


@pytest.mark.parametrize("variant", ["v1", "v1bn", "v3", "v4", "noinc", "third", "two_thirds"])
def test_the_trunk_of_each_net_computes_the_same(variant, tmp_path):
    """Each new inner product's maps have size 1; the trunk's last maps, if none of these, stay."""
    net = emit.deploy(emit.Choice(variant, crop=CROP))
    new = [layer.name for layer in net.layer if layer.type == "InnerProduct"]
    report = report_of(net, *new)
    norms = [layer.name for layer in net.layer if layer.type == "BatchNorm"]
    report.made = dict.fromkeys(norms)
    for row in report.rows:
        if row.type in ("BatchNorm", "Scale"):
            row.what = "made"
    made = engine(net, tmp_path / "net.prototxt", images(CROP))
    surgery.calibrate(made, net, report)
    made.forward()
    reads = {layer.name: layer.bottom[0] for layer in net.layer if layer.name in new}
    maps = {name: blob for name, blob in reads.items() if made.blobs[blob].data.ndim == 4}
    kept = [layer.top[0] for layer in net.layer if layer.type in ("Concat", "Convolution")]
    before = {name: blob.data.copy() for name, blob in made.blobs.items() if name in kept}
    lines = balance(made, net, report)
    made.forward()
    assert maps and [line.partition(":")[0] for line in lines] == list(maps)
    balanced = set(maps.values())
    for blob in balanced:
        was = size_of(before[blob])
        wanted = was / np.maximum(was, was.max() / 100)  # 1 but for channels that are hardly ever awake
        np.testing.assert_allclose(size_of(made.blobs[blob].data), wanted, rtol=1e-3, atol=1e-6)
    last = next(layer for layer in reversed(net.layer) if layer.type == "Convolution" and layer.top[0] not in balanced)
    trunk = last.top[0]
    np.testing.assert_allclose(made.blobs[trunk].data, before[trunk], atol=2e-5 * np.abs(before[trunk]).max())


@pytest.mark.parametrize("reads", ["p", "after"])
def test_opencv_says_that_a_copied_layer_computes_the_same(reads, tmp_path):
    """Copied layers that read balanced maps, straight or behind a pooling, keep their answers."""
    reader = (
        'layer { name: "after" type: "Pooling" bottom: "both" top: "after"'
        " pooling_param { pool: AVE kernel_size: 3 stride: 2 } }"
    )
    net = parse_text(BRANCHES.replace("READER", reader).replace("OLD", reads), caffe_pb2.NetParameter(), "test")
    photos = images(9)
    made = engine(net, tmp_path / "net.prototxt", photos)

    def old():
        made.save(str(tmp_path / "net.caffemodel"))
        read = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
        read.setInput(photos)
        return read.forward("old")

    before = old()
    assert len(balance(made, net, report_of(net, "new"))) == 1
    made.forward()
    np.testing.assert_allclose(size_of(made.blobs["p"].data), 1, rtol=1e-5)
    np.testing.assert_allclose(old(), before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("reader", "named"),
    [
        ('layer { name: "n" type: "LRN" bottom: "both" top: "after" }', "layer 'n': its inputs"),
        ('layer { name: "s" type: "Sigmoid" bottom: "c" top: "after" }', "layer 's': its inputs"),
        (
            'layer { name: "g" type: "Convolution" bottom: "both" top: "after" convolution_param {'
            " num_output: 6 group: 6 kernel_size: 1 } }",
            "layer 'g': its inputs",
        ),
    ],
)
def test_what_would_change_is_refused_before_any_weight_is(reader, named, tmp_path):
    net = parse_text(BRANCHES.replace("READER", reader).replace("OLD", "after"), caffe_pb2.NetParameter(), "test")
    made = engine(net, tmp_path / "net.prototxt", images(9))
    before = {name: [blob.data.copy() for blob in blobs] for name, blobs in made.params.items()}
    with pytest.raises(CaffeError, match=named):
        balance(made, net, report_of(net, "new"))
    for name, blobs in made.params.items():
        for blob, was in zip(blobs, before[name]):
            np.testing.assert_array_equal(blob.data, was)


def test_maps_that_no_weights_make_are_refused(tmp_path):
    text = (
        'input: "data" input_shape { dim: 4 dim: 3 dim: 9 dim: 9 } layer { name: "new" type: "InnerProduct"'
        ' bottom: "data" top: "new" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }'
    )
    net = parse_text(text, caffe_pb2.NetParameter(), "test")
    with pytest.raises(CaffeError, match="layer 'new': nothing with weights makes 'data'"):
        balance(engine(net, tmp_path / "net.prototxt", images(9)), net, report_of(net, "new"))
