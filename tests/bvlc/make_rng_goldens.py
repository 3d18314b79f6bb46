"""Make goldens/rng.json with real BVLC Caffe 1.0.0: what its random streams and fillers give.

Run where pycaffe is (Debian 11: python3-caffe, python3-opencv), Python 3.9:  python3 tests/bvlc/make_rng_goldens.py
It gives the same file on every run. Each record holds the shape, the SHA-256 of the bytes and the first values of what
Caffe made; tests/test_rng.py and tests/test_filler.py make the same from the fillers, shapes and seeds kept beside.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")

import numpy as np

OUT = Path(__file__).resolve().parent / "goldens" / "rng.json"
SEEDS = [0, 1, 2, 1701, 2**31 - 1, 2**31, 2**32 - 1]

UNIFORM = {"type": "uniform", "min": 0, "max": 1}
GAUSSIAN = {"type": "gaussian", "std": 1}
PROBE = (UNIFORM, [5])  # drawn last: shows that the stream stands where it should

# Name -> [(filler, blob shape)], one seed each: every filler type and option, on blobs of 0 to 5 axes.
FILLERS = {
    "constant": [({"type": "constant", "value": 0.2}, [3, 4]), ({"type": "constant"}, [2, 1, 2, 1, 2]), PROBE],
    "uniform": [(UNIFORM, [100]), ({"type": "uniform", "min": -0.3, "max": 2.7}, [3, 5, 7]), PROBE],
    # Half of the draws round up to the open end and are drawn again.
    "uniform of one value": [({"type": "uniform", "min": 1, "max": 1}, [1000]), PROBE],
    "uniform of zeros": [({"type": "uniform", "max": 0}, [99]), PROBE],
    "uniform, tiny": [({"type": "uniform", "min": 0, "max": 1e-44}, [1000]), PROBE],
    "uniform, wide": [({"type": "uniform", "min": -3e38, "max": 3e38}, [1000]), PROBE],
    "uniform, negative": [({"type": "uniform", "min": -2, "max": -1}, [1000]), PROBE],
    "gaussian": [(GAUSSIAN, [1000]), ({"type": "gaussian", "mean": -3, "std": 0.01}, [2, 3, 4, 5, 6]), PROBE],
    "gaussian, 0 axes": [(GAUSSIAN, []), PROBE],
    "gaussian, sparse": [({"type": "gaussian", "std": 0.1, "sparse": 15}, [100, 60]), PROBE],
    "gaussian, sparse 0": [({"type": "gaussian", "std": 0.1, "sparse": 0}, [10, 6]), PROBE],
    "gaussian, sparse all": [({"type": "gaussian", "sparse": 3}, [3, 6]), PROBE],
    "positive_unitball": [({"type": "positive_unitball"}, s) for s in ([9, 3, 17, 17], [3], [1, 2, 3, 2, 1])] + [PROBE],
    "positive_unitball, long": [({"type": "positive_unitball"}, [2, 70001]), PROBE],
    "bilinear": [({"type": "bilinear"}, [2, 3, k, k]) for k in (1, 2, 3, 4, 5, 7, 16)] + [PROBE],
}
SHAPES = [[7], [5, 6], [4, 3, 5], [6, 4, 3, 2], [64, 3, 7, 7], [2, 3, 4, 5, 6]]
for norm in ("FAN_IN", "FAN_OUT", "AVERAGE"):
    for kind in ("xavier", "msra"):
        spec = {"type": kind, "variance_norm": norm}
        FILLERS[f"{kind} {norm}"] = [(spec, s) for s in SHAPES] + [PROBE]

# Large ones, so that the rare paths are taken. The seeds of the last four were searched for.
LARGE = {
    "gaussian 5M": (3, [(GAUSSIAN, [5000000]), PROBE]),
    "msra 2M": (2**32 - 1, [({"type": "msra", "variance_norm": "AVERAGE"}, [2000, 1001]), PROBE]),
    "xavier 8M": (0, [({"type": "xavier"}, [1024, 8000]), PROBE]),
    # A raw that is 1 as a float: drawn again.
    "uniform of 1M with one drawn again": (116, [(UNIFORM, [1000000]), PROBE]),
    # The same in the ziggurat's wedge.
    "gaussian of 1M with a wedge drawn again": (1281, [(GAUSSIAN, [1000000]), PROBE]),
    # A raw of which single and double precision judge differently, whether to keep the weight.
    "gaussian, sparse, single precision": (160, [({"type": "gaussian", "sparse": 1}, [2, 125000]), PROBE]),
}

# Dropout ratio, blob length, forward passes, seed. The last: a raw that single precision would judge otherwise.
DROPOUT = [(0.7, 1000, 3, 1), (0.5, 1000, 2, 0), (0.1, 1000, 2, 2**32 - 1), (0.999, 5000, 2, 7), (0.5, 1000000, 1, 114)]

# Images, batches, seed. The last: one pick is drawn again.
SHUFFLES = [(2, 6, 5), (7, 5, 1), (100, 4, 2**31), (5000, 2, 0), (5000, 2, 9)]

# Fillers that BVLC refuses (True) or takes.
REFUSED = {
    "unknown": ({"type": "Xavier"}, [3, 4]),
    "constant sparse": ({"type": "constant", "sparse": 1}, [3, 4]),
    "uniform sparse": ({"type": "uniform", "sparse": 1}, [3, 4]),
    "xavier sparse": ({"type": "xavier", "sparse": 0}, [3, 4]),
    "msra sparse": ({"type": "msra", "sparse": 1}, [3, 4]),
    "positive_unitball sparse": ({"type": "positive_unitball", "sparse": 1}, [3, 4]),
    "bilinear sparse": ({"type": "bilinear", "sparse": 1}, [1, 1, 3, 3]),
    "gaussian sparse -2": ({"type": "gaussian", "sparse": -2}, [3, 4]),
    "gaussian sparse too many": ({"type": "gaussian", "sparse": 4}, [3, 4]),
    "gaussian sparse 0 axes": ({"type": "gaussian", "sparse": 1}, []),
    "gaussian std 0": ({"type": "gaussian", "std": 0}, [3, 4]),
    "gaussian std -1": ({"type": "gaussian", "std": -1}, [3, 4]),
    "uniform out of order": ({"type": "uniform", "min": 2, "max": 1}, [3, 4]),
    "xavier 5 axes": ({"type": "xavier"}, [1, 2, 3, 2, 1]),
    "xavier 0 axes": ({"type": "xavier"}, []),
    "msra 0 axes": ({"type": "msra"}, []),
    "positive_unitball 0 axes": ({"type": "positive_unitball"}, []),
    "uniform 0 axes": ({"type": "uniform"}, []),
    "constant 5 axes": ({"type": "constant"}, [1, 2, 3, 2, 1]),
    "bilinear not square": ({"type": "bilinear"}, [1, 1, 3, 2]),
    "bilinear 3 axes": ({"type": "bilinear"}, [1, 3, 3]),
    "constant empty": ({"type": "constant"}, [0, 4]),
    "uniform empty": ({"type": "uniform"}, [3, 0]),
    "gaussian empty": ({"type": "gaussian"}, [0]),
    "xavier empty": ({"type": "xavier"}, [0, 3]),
    "msra empty": ({"type": "msra"}, [3, 0]),
    "positive_unitball empty": ({"type": "positive_unitball"}, [3, 0]),
    "bilinear empty": ({"type": "bilinear"}, [0, 1, 3, 3]),
}


def filler_text(spec: dict) -> str:
    return " ".join(f'{key}: "{value}"' if key == "type" else f"{key}: {value}" for key, value in spec.items())


def dummy_layer(name: str, blobs: list) -> str:
    """A DummyData layer whose tops name0, name1, ... are filled so at every forward pass."""
    tops = " ".join(f'top: "{name}{i}"' for i in range(len(blobs)))
    fillers = " ".join(f"data_filler {{ {filler_text(spec)} }}" for spec, _ in blobs)
    shapes = " ".join("shape { " + " ".join(f"dim: {n}" for n in shape) + " }" for _, shape in blobs)
    return f'layer {{ name: "{name}" type: "DummyData" {tops} dummy_data_param {{ {fillers} {shapes} }} }}\n'


def make_net(text: str, phase: int):
    import caffe

    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        return caffe.Net(file.name, phase)


def record(array: np.ndarray) -> dict:
    return {
        "shape": list(array.shape),
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "first": [float(v) for v in array.reshape(-1)[:4]],
    }


def fill_case(name: str, seed: int, blobs: list) -> dict:
    import caffe

    net = make_net(dummy_layer("d", blobs), caffe.TEST)
    caffe.set_random_seed(seed)
    net.forward()
    made = [dict(record(net.blobs[f"d{i}"].data), filler=spec) for i, (spec, _) in enumerate(blobs)]
    for one, (_, shape) in zip(made, blobs):
        assert one["shape"] == shape, (name, one["shape"], shape)
    return {"name": name, "seed": seed, "blobs": made}


def mixed_case(seed: int) -> dict:
    """A whole training net: the weights of several layers at construction, then data and a dropout mask at forward."""
    import caffe

    def layer(name: str, kind: str, bottom: str, param: str, *fillers: str) -> str:
        ends = f'bottom: "{bottom}" top: "{name}"'
        return f'layer {{ name: "{name}" type: "{kind}" {ends} {param} {{ {" ".join(fillers)} }} }}\n'

    specs = {
        "conv": [{"type": "xavier", "variance_norm": "AVERAGE"}, {"type": "constant", "value": 0.2}],
        "deconv": [{"type": "gaussian", "std": 0.03}, {"type": "uniform", "min": -1, "max": 1}],
        "scale": [{"type": "uniform", "min": 0.5, "max": 1.5}, {"type": "gaussian", "std": 0.1}],
        "prelu": [{"type": "gaussian", "mean": 0.25, "std": 0.01}],
        "fc": [{"type": "gaussian", "std": 0.005, "sparse": 5}, {"type": "positive_unitball"}],
        "fc2": [{"type": "msra", "variance_norm": "FAN_OUT"}, {"type": "constant"}],
    }

    def two(name: str) -> list:
        return [f"{key} {{ {filler_text(spec)} }}" for key, spec in zip(("weight_filler", "bias_filler"), specs[name])]

    scale = [f"filler {{ {filler_text(specs['scale'][0])} }}", "bias_term: true", "bias_filler " + two("scale")[1][12:]]
    data = [(UNIFORM, [2, 4, 9, 8])]
    conv = "num_output: 6 kernel_size: 3"
    net_text = (
        dummy_layer("data", data)
        + layer("conv", "Convolution", "data0", "convolution_param", "group: 2", conv, *two("conv"))
        + layer("deconv", "Deconvolution", "conv", "convolution_param", "num_output: 3 kernel_size: 2", *two("deconv"))
        + layer("scale", "Scale", "deconv", "scale_param", *scale)
        + layer("prelu", "PReLU", "scale", "prelu_param", f"filler {{ {filler_text(specs['prelu'][0])} }}")
        + layer("fc", "InnerProduct", "prelu", "inner_product_param", "num_output: 10", *two("fc"))
        + layer("drop", "Dropout", "fc", "dropout_param", "dropout_ratio: 0.4")
        + layer("fc2", "InnerProduct", "drop", "inner_product_param", "num_output: 4 transpose: true", *two("fc2"))
        + dummy_layer("probe", [PROBE])
    )
    caffe.set_random_seed(seed)
    net = make_net(net_text, caffe.TRAIN)
    params = [
        dict(record(blob.data), filler=spec, layer=name)
        for name in specs
        for spec, blob in zip(specs[name], net.params[name])
    ]
    net.forward()
    mask = (net.blobs["drop"].data != 0).astype(np.uint8)
    return {
        "seed": seed,
        "params": params,
        "data": dict(record(net.blobs["data0"].data), filler=data[0][0]),
        "dropout_ratio": 0.4,
        "mask": record(mask),
        "probe": dict(record(net.blobs["probe0"].data), filler=PROBE[0]),
    }


def dropout_case(ratio: float, count: int, passes: int, seed: int) -> dict:
    import caffe

    text = dummy_layer("ones", [({"type": "constant", "value": 1}, [count])])
    param = f"dropout_param {{ dropout_ratio: {ratio} }}"
    text += f'layer {{ name: "drop" type: "Dropout" bottom: "ones0" top: "drop" {param} }}\n'
    text += dummy_layer("probe", [PROBE])
    net = make_net(text, caffe.TRAIN)
    caffe.set_random_seed(seed)
    made = []
    for _ in range(passes):
        net.forward()
        made.append({"top": record(net.blobs["drop"].data), "probe": record(net.blobs["probe0"].data)})
    return {"ratio": ratio, "seed": seed, "passes": made}


def shuffle_case(count: int, passes: int, seed: int, folder: Path) -> dict:
    """ImageData's order, from the labels: one picture is listed `count` times, each time with another label."""
    import caffe
    import cv2

    cv2.imwrite(str(folder / "1.png"), np.zeros((1, 1, 3), np.uint8))
    source = folder / "list.txt"
    source.write_text("".join(f"{folder}/1.png {i}\n" for i in range(count)))
    text = (
        'layer { name: "data" type: "ImageData" top: "data" top: "label" '
        f'image_data_param {{ source: "{source}" batch_size: {count} shuffle: true }} }}\n'
    ) + dummy_layer("probe", [PROBE])
    caffe.set_random_seed(seed)
    net = make_net(text, caffe.TRAIN)
    orders = []
    for _ in range(passes):
        net.forward()
        orders.append(record(net.blobs["label"].data.astype(np.int32)))
    return {"count": count, "seed": seed, "orders": orders, "probe": record(net.blobs["probe0"].data)}


def is_refused(name: str) -> bool:
    """Whether BVLC ends itself on this filler (in a process of its own)."""
    done = subprocess.run([sys.executable, __file__, "--one", name], stderr=subprocess.DEVNULL)
    return done.returncode != 0


def accepted_seeds() -> dict:
    import caffe

    result = {}
    for seed in (0, 1, 2**31, 2**32 - 1, -1, 2**32):
        try:
            caffe.set_random_seed(seed)
            result[str(seed)] = True
        except Exception:
            result[str(seed)] = False
    return result


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        fill_case("", 1, [REFUSED[sys.argv[2]]])
        return
    goldens = {
        "seeds": [fill_case(f"seed {seed}", seed, [(UNIFORM, [2000]), (GAUSSIAN, [2000]), PROBE]) for seed in SEEDS],
        "fillers": [fill_case(name, 100 + i, blobs) for i, (name, blobs) in enumerate(FILLERS.items())],
        "large": [fill_case(name, seed, blobs) for name, (seed, blobs) in LARGE.items()],
        "mixed": [mixed_case(seed) for seed in (1, 2**31)],
        "dropout": [dropout_case(*case) for case in DROPOUT],
        "accepted_seeds": accepted_seeds(),
        "refused": {name: {"filler": f, "shape": s, "refused": is_refused(name)} for name, (f, s) in REFUSED.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        goldens["shuffle"] = [shuffle_case(*case, folder=Path(folder)) for case in SHUFFLES]
    OUT.parent.mkdir(exist_ok=True)
    text = json.dumps(goldens, sort_keys=True, separators=(",", ":"))
    # One line a record, for readable differences.
    OUT.write_text(text.replace('{"filler"', '\n{"filler"').replace('{"blobs"', '\n{"blobs"') + "\n")


if __name__ == "__main__":
    main()
