"""Runs of Caffe's programs on small files, whose output is to be ours too: tests/bvlc/make_cli_goldens.py records what
real Caffe says and writes, tests/test_cli.py compares."""

from __future__ import annotations

import re

NET = """
name: "many rules"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 3 }
  shape { dim: 4 } data_filler { type: "gaussian" std: 1 } data_filler { value: 1 } } include { phase: TRAIN } }
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 2 dim: 3 }
  shape { dim: 2 } data_filler { type: "gaussian" std: 1 } data_filler { value: 2 } }
  include { phase: TEST stage: "s" min_level: 1 } include { phase: TEST not_stage: "q" max_level: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { name: "w" } param { name: "b" lr_mult: 2 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2" param { name: "w" lr_mult: 1 decay_mult: 0 }
  param { name: "b" } inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" loss_weight: 0.5 }
layer { name: "l2" type: "EuclideanLoss" bottom: "ip2" bottom: "data" propagate_down: true propagate_down: false }
layer { name: "acc" type: "Accuracy" bottom: "ip3" bottom: "label" top: "acc" exclude { phase: TRAIN } }
layer { name: "low" type: "ReLU" bottom: "ip3" top: "low" include { max_level: -1 } }
layer { name: "sil" type: "Silence" bottom: "ip3" }
"""
SOLVER = """
net: "net.prototxt" test_iter: 2 test_iter: 1 test_state { } test_state { stage: "s" level: 2 } test_interval: 2
test_initialization: false test_compute_loss: true base_lr: 0.1 momentum: 0.9 weight_decay: 0.1 lr_policy: "multistep"
gamma: 0.5 stepvalue: 1 stepvalue: 3 display: 1 max_iter: 4 snapshot_prefix: "snap" random_seed: 3 average_loss: 3
clip_gradients: 0.4 iter_size: 2 snapshot_format: HDF5
"""
# All constant: the same numbers whatever the seed.
FIXED = """
name: "fixed" state { stage: "own" }
layer { name: "x" type: "DummyData" top: "x" top: "label" dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 }
  data_filler { value: 0.7 } data_filler { value: 1 } } }
layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3
  weight_filler { value: 0.1 } bias_filler { value: 0.25 } } }
layer { name: "staged" type: "TanH" bottom: "y" top: "staged" include { stage: "extra" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "y" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
# Each: files, then the commands in their order (the first words are Caffe's program).
JOBS: dict[str, tuple[dict[str, str], list[list[str]]]] = {
    "train": (
        {"net.prototxt": NET, "solver.prototxt": SOLVER},
        [["caffe", "train", "-solver", "solver.prototxt"]],
    ),
    "train_debug": (
        {"net.prototxt": NET, "solver.prototxt": SOLVER.replace("max_iter: 4", "max_iter: 1 debug_info: true")},
        [["caffe", "train", "--solver=solver.prototxt", "-level", "2", "--stage=a,b"]],
    ),
    "time": (
        {"net.prototxt": FIXED},
        [["caffe", "time", "--model", "net.prototxt", "-iterations=2", "-phase", "TEST", "-stage=extra"]],
    ),
    "test": (
        {
            "net.prototxt": FIXED,
            "solver.prototxt": 'net: "net.prototxt" base_lr: 0 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s"',
        },
        [
            ["caffe", "train", "-solver=solver.prototxt"],
            ["caffe", "test", "-model=net.prototxt", "-weights=s_iter_1.caffemodel", "-iterations", "2"],
            ["extract_features", "s_iter_1.caffemodel", "net.prototxt", "y,x", "fy,fx", "3", "lmdb"],
        ],
    ),
    "images": (
        {"list.txt": "a.png 3\nb.png 1\n", "l2.txt": "a.png 3\nb.png 1\n"},
        [
            ["convert_imageset", "./", "list.txt", "db"],
            "convert_imageset -resize_width=5 --resize_height 4 -gray -check_size . l2.txt db2".split(),
            ["convert_imageset", "--encoded", "-encode_type=png", "./", "list.txt", "db3"],
            ["convert_imageset", "-encode_type=png", "./", "list.txt", "db4"],
            ["compute_image_mean", "db", "mean.binaryproto"],
            ["compute_image_mean", "-backend=lmdb", "db2"],
        ],
    ),
}
DATABASES = ["fy", "fx", "db", "db2", "db3", "db4"]


def normalise(text: str) -> list[str]:
    """Lines without time, process number, speeds and durations, and without ours on waiting for data."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"^([IWEF])\d{4} [\d:.]+ +\d+ ", r"\1 ", line)
        line = re.sub(r"\(\S+ iter/s, \S+s/", "(# iter/s, #s/", line)
        line = re.sub(r"\S+ ms\.", "# ms.", line)
        if not line.startswith("W solver.py:1]"):
            lines.append(line)
    return lines
