"""NIMA: Keras computes the same, from the file that its authors publish, and so do real Caffe and OpenCV."""

from __future__ import annotations

import os

import cv2
import h5py
import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.nets import emit
from ilgnet.photos.preprocess import read_photo
from ilgnet.run import bvlc, engine
from ilgnet.weights import keras as published
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.caffemodel import write_caffemodel
from torchcaffe.proto import format_text

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="keras is in the extra [test]")

PROBABILITY = 1e-5
PHOTOS = np.stack(  # RGB
    [cv2.resize(np.random.RandomState(i).randint(0, 256, (5, 5, 3)).astype(np.uint8), (224, 224)) for i in range(4)]
)


@pytest.fixture(scope="module")
def model():
    """NIMA as its authors' program makes it, with drawn weights, and statistics of PHOTOS."""
    keras.utils.set_random_seed(1)
    base = keras.applications.MobileNet((224, 224, 3), 1, include_top=False, pooling="avg", weights=None)
    x = keras.layers.Dropout(0.75)(base.output)
    made = keras.Model(base.inputs, keras.layers.Dense(10, activation="softmax", name="dense_1")(x))
    rng = np.random.RandomState(2)
    for layer in made.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([rng.uniform(0.5, 2, shape), rng.randn(*shape), np.zeros(shape), np.ones(shape)])
            layer.momentum = 0  # the statistics become the next batch's
    made(keras.applications.mobilenet.preprocess_input(PHOTOS.astype(np.float32)), training=True)
    return made


def write(model, path) -> None:
    """The model's weights in the published file's form, which Keras 2 wrote."""
    with h5py.File(path, "w") as file:
        for layer in model.layers:
            for weight in layer.weights:
                name = weight.name
                if isinstance(layer, keras.layers.DepthwiseConv2D):
                    name = "depthwise_kernel"
                file[f"{layer.name}/{layer.name}/{name}:0"] = keras.ops.convert_to_numpy(weight)


def read(model, path) -> None:
    """Load the published file into the model."""
    with h5py.File(path, "r") as file:
        for layer in model.layers:
            names = [weight.name for weight in layer.weights]
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                names = ["depthwise_kernel"]
            layer.set_weights([file[f"{layer.name}/{layer.name}/{name}:0"][()] for name in names])


def install(source, folder, **words):
    """The deploy net and the caffemodel of a published file."""
    net = emit.deploy(emit.Choice("nima", **words))
    layers = published.read_nima(source, net)
    (folder / "deploy.prototxt").write_text(format_text(net))
    write_caffemodel(folder / "nima.caffemodel", net, {layer.name: layer.blobs for layer in layers})
    return str(folder / "deploy.prototxt"), str(folder / "nima.caffemodel")


def shares(net, photos) -> np.ndarray:
    net.blobs["data"].reshape(len(photos), 3, *photos.shape[1:3])
    net.blobs["data"].data[...] = blobs(photos)
    net.forward()
    return np.array(net.blobs["nima/loss"].data)


def blobs(photos) -> np.ndarray:
    """RGB photos as the Caffe net takes them: BGR, less 127.5."""
    return photos[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5


def by_keras(model, photos) -> np.ndarray:
    return model.predict_on_batch(keras.applications.mobilenet.preprocess_input(photos.astype(np.float32)))


def test_the_shares_are_kerass(model, tmp_path):
    write(model, tmp_path / "nima.hdf5")
    paths = install(tmp_path / "nima.hdf5", tmp_path)
    wanted = by_keras(model, PHOTOS)
    assert np.ptp(wanted, axis=0).max() > 0.05  # they depend on the photo
    np.testing.assert_allclose(shares(caffe.Net(*paths, caffe.TEST), PHOTOS), wanted, rtol=0, atol=PROBABILITY)
    if bvlc.available():
        real = engine.load_engine("bvlc").Net(paths[0], caffe.TEST)
        real.copy_from(paths[1])
        np.testing.assert_allclose(shares(real, PHOTOS), wanted, rtol=0, atol=PROBABILITY)
    paths = install(tmp_path / "nima.hdf5", tmp_path, no_clip=True)
    np.testing.assert_allclose(shares(caffe.Net(*paths, caffe.TEST), PHOTOS), wanted, rtol=0, atol=PROBABILITY)
    net = cv2.dnn.readNetFromCaffe(*paths)
    net.setInput(blobs(PHOTOS))
    np.testing.assert_allclose(net.forward().reshape(4, 10), wanted, rtol=0, atol=PROBABILITY)


def test_the_published_weights_on_real_photos(model, shared, tmp_path):
    source = shared / "nima_mobilenet_aesthetic.hdf5"
    read(model, source)
    paths = install(source, tmp_path)
    chosen = sorted((shared / "ava" / "photos").glob("*.jpg"))[::20]
    photos = np.stack([cv2.resize(read_photo(path), (224, 224))[..., ::-1] for path in chosen])
    wanted = by_keras(model, photos)
    np.testing.assert_allclose(shares(caffe.Net(*paths, caffe.TEST), photos), wanted, rtol=0, atol=PROBABILITY)


@pytest.mark.parametrize("no_clip", [False, True])
def test_the_gradient_is_0_where_relu6_is_flat(no_clip, tmp_path):
    net = emit.train_val(emit.Choice("nima", target="classes", crop=32, batch_size=1, no_clip=no_clip))
    kept = [layer for layer in net.layer if layer.name.startswith("conv1")]
    del net.layer[:]
    net.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[1, 3, 8, 8])
    net.layer.extend(kept)
    net.force_backward = True
    (tmp_path / "net.prototxt").write_text(format_text(net))
    made = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    made.params["conv1_scale"][1].data[...] = 3
    made.params["conv1_scale"][0].data[...] = 5
    made.params["conv1_bn"][1].data[...] = made.params["conv1_bn"][2].data[...] = 1
    made.blobs["data"].data[...] = np.random.RandomState(0).randn(1, 3, 8, 8)
    (top,) = made.outputs
    y = made.forward()[top].copy()
    assert (y == 0).any() and (y == 6).any() and ((y > 0) & (y < 6)).any()
    made.blobs[top].diff[...] = 1
    made.backward()
    inside = ((y > 0) & (y < 6)).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(made.params["conv1_scale"][1].diff, inside, rtol=1e-6)


def test_another_file(model, tmp_path):
    write(model, tmp_path / "nima.hdf5")
    net = emit.deploy(emit.Choice("nima"))
    with h5py.File(tmp_path / "nima.hdf5", "a") as file:
        del file["conv_pw_3_bn/conv_pw_3_bn/gamma:0"]
    with pytest.raises(CaffeError, match=r"nima\.hdf5: .* no array conv_pw_3_bn/gamma"):
        published.read_nima(tmp_path / "nima.hdf5", net)
    with h5py.File(tmp_path / "nima.hdf5", "a") as file:
        del file["conv1/conv1/kernel:0"]
        file["conv1/conv1/kernel:0"] = np.zeros(3, np.float32)
    with pytest.raises(CaffeError, match="conv1: a kernel of 1 axes, 4 expected"):
        published.read_nima(tmp_path / "nima.hdf5", net)
