"""The data transformer against batches that real Caffe made (tests/bvlc/make_transform_goldens.py), bit for bit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import GOLDENS as _GOLDENS
from torchcaffe.base.errors import CaffeError
from torchcaffe.data.transform import DataTransformer, datum_image, parse_datum
from torchcaffe.formats import blobproto
from torchcaffe.proto import caffe_pb2
from torchcaffe.random.rng import Rng

GOLDENS = _GOLDENS / "transform"
CONFIGURATIONS = json.loads((GOLDENS / "configurations.json").read_text())


def transformer(text, phase="TEST"):
    param = text_format.Parse(text, caffe_pb2.TransformationParameter())
    return DataTransformer(param, getattr(caffe_pb2, phase))


def records(kind):
    packed = np.load(GOLDENS / "records.npz")[kind].tobytes()
    while packed:
        size = int.from_bytes(packed[:4], "little")
        yield packed[4 : 4 + size]
        packed = packed[4 + size :]


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
@pytest.mark.parametrize("parse", [parse_datum, caffe_pb2.Datum.FromString])
def test_as_bvlc_bit_for_bit(name, parse):
    kind, param, phase = CONFIGURATIONS[name]
    expected = np.load(GOLDENS / "batches.npz")[name]
    data = transformer(param.replace("MEAN", str(GOLDENS / "mean.binaryproto")), phase)
    rng = Rng(1701)
    data.init_rand(rng)  # a Data layer's setup seeds its transformer twice
    data.init_rand(rng)
    datums = [parse(value) for value in records(kind)]
    assert [datum.label for datum in datums] == list(range(6))
    got = [data.transform_batch([datum])[0] for datum in datums]  # one by one
    got += list(data.transform_batch(datums))  # BVLC went round twice
    assert data.infer_shape(datums[0]) == expected.shape[1:]
    assert np.stack(got).dtype == np.float32
    np.testing.assert_array_equal(np.stack(got).view(np.uint32), expected.view(np.uint32))


def test_draws_only_what_is_left_to_chance():
    for text, phase, draws in (
        ("mirror: true", "TEST", 1),
        ("crop_size: 3", "TRAIN", 1),
        ("crop_size: 3", "TEST", 0),
        ("scale: 2", "TRAIN", 0),
        ("mirror: true crop_size: 3", "TRAIN", 1),
    ):
        rng, reference = Rng(5), Rng(5)
        transformer(text, phase).init_rand(rng)
        reference.raw(draws)
        assert rng.rand() == reference.rand(), text


images = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans())


@settings(max_examples=60)
@given(images=images, mirror=st.booleans(), mean=st.sampled_from(["none", "one", "each", "file"]), data=st.data())
def test_against_the_definition(tmp_path_factory, images, mirror, mean, data):
    """One pixel at a time in float32, in any layout of the input, with a pool and without."""
    channels, height, width, is_float, hwc = images
    crop = data.draw(st.integers(0, min(height, width)))
    rng = np.random.RandomState(0)
    batch = rng.randint(0, 256, (3, channels, height, width)).astype(np.float32 if is_float else np.uint8)
    if hwc:
        batch = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    values = {"none": 0, "one": 1, "each": channels, "file": 0}[mean]
    param = caffe_pb2.TransformationParameter(crop_size=crop, mirror=mirror, scale=0.3, mean_value=[77.7] * values)
    full_mean = np.zeros((channels, height, width), np.float32) + np.float32(77.7 if values else 0)
    if mean == "file":
        full_mean = rng.rand(channels, height, width).astype(np.float32)
        param.mean_file = str(tmp_path_factory.mktemp("m") / "m")
        blobproto.write_blobproto(param.mean_file, full_mean)
    transformer = DataTransformer(param, caffe_pb2.TRAIN)
    transformer.init_rand(Rng(3))
    with ThreadPoolExecutor(2) as pool:
        got = transformer.transform_batch(list(batch), pool=pool)
    transformer.init_rand(Rng(3))
    for image, result in zip(batch, got):
        flip, top, left = transformer.draw(height, width)
        size = (crop, crop) if crop else (height, width)
        assert result.shape == (channels,) + size
        for c, h, w in np.ndindex(*result.shape):
            pixel = np.float32(image[c, top + h, left + w]) - full_mean[c, top + h, left + w]
            assert result[c, h, size[1] - 1 - w if flip else w] == pixel * np.float32(0.3)
    transformer.init_rand(Rng(3))
    np.testing.assert_array_equal(transformer.transform_batch(list(batch)), got)


@settings(max_examples=60)
@given(
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=20),
    data=st.binary(max_size=20),
    label=st.integers(-(2**31), 2**31 - 1),
    sizes=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 9)),
    encoded=st.sampled_from([None, False, True]),
)
def test_parses_datums_as_protobuf_does(floats, data, label, sizes, encoded):
    message = caffe_pb2.Datum(channels=sizes[0], height=sizes[1], width=sizes[2], label=label, data=data)
    message.float_data.extend(floats)
    if encoded is not None:
        message.encoded = encoded
    datum = parse_datum(message.SerializeToString())
    for name in ("channels", "height", "width", "label", "data", "encoded"):
        assert getattr(datum, name) == getattr(message, name), name
    np.testing.assert_array_equal(np.array(datum.float_data, np.float32), np.array(message.float_data, np.float32))
    packed = bytes([6 << 3 | 2, 4 * len(floats)]) + np.array(floats, "<f4").tobytes()
    np.testing.assert_array_equal(np.array(parse_datum(packed).float_data), np.array(floats, np.float32))


@settings(max_examples=200)
@given(content=st.binary(max_size=40))
def test_random_bytes_are_a_datum_or_an_error(content):
    try:
        datum_image(parse_datum(content))
    except CaffeError as error:
        assert "atum" in str(error)


def test_errors(tmp_path):
    image = np.zeros((3, 4, 5), np.uint8)
    mean = tmp_path / "mean.binaryproto"
    blobproto.write_blobproto(mean, np.zeros((3, 4, 4), np.float32))

    def message(call, *args, **kwargs):
        with pytest.raises(CaffeError) as error:
            call(*args, **kwargs)
        return str(error.value)

    assert "both" in message(transformer, f'mean_file: "{mean}" mean_value: 1')
    assert "missing" in message(transformer, f'mean_file: "{tmp_path}/missing"')
    assert "3 x 4 x 4" in message(transformer(f'mean_file: "{mean}"').transform_batch, [image])
    assert "crop_size 5 does not fit an image of 3 x 4 x 5" in message(
        transformer("crop_size: 5").transform_batch, [image]
    )
    assert "2 mean_value for 3" in message(transformer("mean_value: 1 mean_value: 2").transform_batch, [image])
    assert "init_rand" in message(transformer("mirror: true").transform_batch, [image])
    assert "batch of 3 x 4 x 5" in message(transformer("").transform_batch, [image, image[:, :3]])
    assert "4 x 5" in message(transformer("").transform_batch, [image[0]])
    short = caffe_pb2.Datum(channels=3, height=4, width=5, data=b"123")
    assert "3 values where" in message(transformer("").transform_batch, [short])
    junk = caffe_pb2.Datum(data=b"junk", encoded=True)
    assert "cannot be decoded" in message(transformer("").transform_batch, [junk])
    assert "cannot be decoded" in message(transformer("").transform_batch, [caffe_pb2.Datum(encoded=True)])
    assert "both be set" in message(transformer("force_color: true force_gray: true").transform_batch, [junk])
    import cv2

    deep = caffe_pb2.Datum(data=cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes(), encoded=True)
    assert "8 bits" in message(transformer("").transform_batch, [deep])
