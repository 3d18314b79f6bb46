"""Make the goldens of tests/test_io.py with pycaffe's caffe.io: python3 make_io_goldens.py OUT."""

import os
import sys

os.environ["GLOG_minloglevel"] = "2"

import caffe  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import skimage  # noqa: E402
import skimage.color  # noqa: E402
import skimage.io  # noqa: E402

# (height, width, channels, dtype) -> (height, width)
RESIZES = [
    ((7, 9, 3, "float32"), (7, 9)),
    ((7, 9, 3, "float32"), (14, 18)),
    ((7, 9, 3, "float64"), (16, 23)),
    ((31, 43, 3, "float32"), (10, 11)),
    ((31, 43, 1, "float32"), (30, 42)),
    ((31, 43, 3, "float64"), (13, 57)),
    ((31, 43, 3, "float32"), (57, 13)),
    ((43, 31, 3, "uint8"), (17, 19)),
    ((60, 9, 3, "float32"), (4, 5)),
    ((9, 8, 3, "float32"), (1, 1)),
    ((7, 9, 4, "float32"), (12, 5)),
    ((7, 9, 2, "float64"), (5, 20)),
    ((7, 9, 5, "uint8"), (13, 20)),
    ((7, 9, 2, "float32"), (1, 4)),
]


def image(height, width, channels, dtype, seed=0):
    rng = np.random.RandomState(seed)
    values = rng.rand(height, width, channels)
    return (values * 256 if dtype == "uint8" else values * 1.7 - 0.4).astype(dtype)


def main(out):
    os.makedirs(out, exist_ok=True)
    found = {}
    for index, (shape, size) in enumerate(RESIZES):
        for order in (0, 1):
            if order == 0 and shape[2] not in (1, 3):
                continue
            found[f"resize_{index}_{order}"] = caffe.io.resize_image(image(*shape), size, order)

    picture = image(20, 26, 3, "float32", 1)
    for name, shape in (("same", (1, 3, 20, 26)), ("other", (2, 3, 13, 17))):
        transformer = caffe.io.Transformer({"data": shape})
        transformer.set_transpose("data", (2, 0, 1))
        transformer.set_channel_swap("data", (2, 1, 0))
        transformer.set_raw_scale("data", 255)
        transformer.set_input_scale("data", 0.017)
        for kind, mean in (
            ("channels", np.array([103.9, 116.8, 123.7])),
            ("full", np.random.RandomState(3).rand(*shape[1:]) * 255),
            ("resized", np.random.RandomState(4).rand(3, 25, 24) * 255),
        ):
            transformer.set_mean("data", mean)
            made = transformer.preprocess("data", picture.copy())
            found[f"preprocess_{name}_{kind}"] = made
            found[f"deprocess_{name}_{kind}"] = transformer.deprocess("data", made)
    found["oversample"] = caffe.io.oversample([image(11, 14, 3, "float32", s) for s in (5, 6)], (6, 7))
    np.savez_compressed(os.path.join(out, "arrays.npz"), **found)

    # caffe.io.load_image fails with this scikit-image, for the name of one argument: so its steps, one by one.
    loaded = {}
    colour = image(5, 6, 3, "uint8", 7)
    for name, pixels in (
        ("colour", colour),
        ("grey", colour[:, :, 0]),
        ("alpha", np.dstack([colour, colour[:, :, 1]])),
    ):
        path = os.path.join(out, name + ".png")
        cv2.imwrite(path, pixels)
        read = skimage.io.imread(path)
        loaded[name] = skimage.img_as_float(read).astype(np.float32)
        if name == "colour":
            loaded[name + "_as_grey"] = skimage.img_as_float(skimage.color.rgb2gray(read)).astype(np.float32)
    np.savez_compressed(os.path.join(out, "loaded.npz"), **loaded)

    for name, message in (
        ("bytes", caffe.io.array_to_datum(image(2, 3, 4, "uint8"), 7)),
        ("floats", caffe.io.array_to_datum(image(2, 3, 4, "float32"))),
        ("blob", caffe.io.array_to_blobproto(image(2, 3, 4, "float32"), image(2, 3, 4, "float32", 1))),
    ):
        with open(os.path.join(out, name + ".binaryproto"), "wb") as file:
            file.write(message.SerializeToString())
    with open(os.path.join(out, "vector.binaryproto"), "wb") as file:
        arrays = [image(2, 3, 4, "float32"), image(1, 1, 2, "float32", 1)]
        file.write(caffe.io.arraylist_to_blobprotovector_str(arrays))


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
