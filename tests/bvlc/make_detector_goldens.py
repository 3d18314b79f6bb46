"""What pycaffe's Detector cuts out of an image, with and without context, and how it scores it: python -m
tests.bvlc.make_detector_goldens makes goldens/detector.npz with real Caffe; tests/test_pycaffe_detector.py reads it.

As a script it runs under real pycaffe (Python 3.9): make_detector_goldens.py OUT."""

import os
import sys

import numpy as np

DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 17 dim: 17 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
  weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
# (ymin, xmin, ymax, xmax): inside, at each edge, past the corner, long and thin, all of the image
WINDOWS = [
    (12, 15, 30, 41),
    (0, 20, 11, 33),
    (20, 0, 37, 9),
    (29, 40, 40, 52),
    (0, 0, 5, 7),
    (3, 4, 6, 50),
    (0, 0, 40, 52),
]
SETTINGS = {
    "no_mean": {"context_pad": 3},
    "channel_mean": {"context_pad": 4, "mean": np.array([0.3, 0.5, 0.2]), "channel_swap": (2, 0, 1), "raw_scale": 2.0},
    "full_mean": {"context_pad": 1, "mean": "full", "raw_scale": 255.0, "input_scale": 0.01, "channel_swap": (2, 1, 0)},
}


class Image(np.ndarray):
    """pycaffe slices with whole floats, which newer NumPys than it was written for refuse."""

    def __getitem__(self, key):
        if isinstance(key, tuple):
            key = tuple(
                slice(*(None if n is None else int(n) for n in (k.start, k.stop, k.step)))
                if isinstance(k, slice)
                else k
                for k in key
            )
        return np.asarray(super().__getitem__(key))


def detections(caffe, folder):
    """By setting: the crops of every window, and the scores that detect_windows gives them."""
    deploy, weights = os.path.join(folder, "deploy.prototxt"), os.path.join(folder, "w.caffemodel")
    with open(deploy, "w") as f:
        f.write(DEPLOY)
    caffe.set_mode_cpu()
    caffe.set_random_seed(3)
    caffe.Net(deploy, caffe.TEST).save(weights)
    image = np.random.RandomState(1).uniform(size=(40, 52, 3)).astype(np.float32)
    before, caffe.io.load_image = caffe.io.load_image, lambda name: image.view(Image)
    image = image.cumsum(0).cumsum(1) % 7 / 7  # smooth, with edges
    out = {}
    try:
        for name, given in SETTINGS.items():
            settings = dict(given)
            if isinstance(settings.get("mean"), str):
                settings["mean"] = np.random.RandomState(2).uniform(size=(3, 17, 17))
            detector = caffe.Detector(deploy, weights, **settings)
            windows = [np.array(w) for w in WINDOWS]
            out[name + "/crops"] = np.array([detector.crop(image.view(Image), w) for w in windows])
            found = detector.detect_windows([("one", windows[:3]), ("two", windows[3:])])
            out[name + "/scores"] = np.array([f["prediction"] for f in found])
    finally:
        caffe.io.load_image = before
    return out


def main(argv):
    if argv:  # under real pycaffe
        import tempfile

        import caffe

        with tempfile.TemporaryDirectory() as folder:
            np.savez_compressed(argv[0], **detections(caffe, folder))
        return 0
    from pathlib import Path

    from tests.bvlc import real

    real.python([__file__, Path(__file__).resolve().parent / "goldens" / "detector.npz"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
