# ruff: noqa: E501 - rows of tables
"""The table of solver configurations: whole training runs, updates on given gradients, learning-rate policies.

Each is a job for run_caffe.run_train, run_updates or run_rates."""

from __future__ import annotations

import re

# A small classifier on the LMDB that convert_imageset made: 7 records, so batches of 3 wrap around at odd places.
# conv1's bias has its own rates, ip2 shares nothing, ip3 has no bias and no decay.
NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "inputs/lmdb" batch_size: 3 backend: LMDB }
  transform_param { scale: 0.01 mean_value: 120 %(transform)s } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "inputs/lmdb" batch_size: 2 backend: LMDB }
  transform_param { scale: 0.01 mean_value: 120 %(transform)s } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } convolution_param { num_output: 4 kernel_size: 5 stride: 2 group: 1
  weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.2 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip2" type: "InnerProduct" bottom: "pool1" top: "ip2" param { lr_mult: 10 } param { lr_mult: 20 decay_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.2 } } }
layer { name: "relu2" type: "ReLU" bottom: "ip2" top: "ip2" relu_param { negative_slope: 0.1 } }
%(dropout)s
layer { name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3" param { lr_mult: 1 decay_mult: 0 }
  inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip3" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }
"""
DROPOUT = 'layer { name: "drop2" type: "Dropout" bottom: "ip2" top: "ip2" dropout_param { dropout_ratio: 0.4 } }'


def net(transform: str = "crop_size: 12", dropout: str = "") -> str:
    """The small net; TRAIN crops at random and mirrors only where `transform` says so."""
    return NET % {"transform": transform, "dropout": dropout}


PLAIN = net()
RANDOM = net("crop_size: 12 mirror: true", DROPOUT)
FIXED = net("")
COMMON = 'net: "net.prototxt" random_seed: 31 max_iter: 100 snapshot_prefix: "small" solver_mode: CPU display: 0\n'
STEP = 'base_lr: 0.02 lr_policy: "step" stepsize: 5 gamma: 0.5\n'
FIXED_RATE = 'base_lr: 0.02 lr_policy: "fixed"\n'

TRAINING: dict[str, dict] = {}


def training(name: str, text: str, net: str = PLAIN, iterations: int = 20, **options) -> None:
    keep = sorted({0, 1, 4, 9, iterations - 1} & set(range(iterations)))  # the iterations whose weights are recorded
    job = {"solver": COMMON + text, "files": {"net.prototxt": net}, "iterations": iterations, "keep": keep}
    TRAINING[name] = {**job, **options}


training("sgd", FIXED_RATE + 'type: "SGD"')
training("sgd_momentum", STEP + 'type: "SGD" momentum: 0.9 weight_decay: 0.01')
training("sgd_l1", STEP + 'momentum: 0.8 weight_decay: 0.005 regularization_type: "L1"')
training("sgd_clip", STEP + "momentum: 0.9 weight_decay: 0.01 clip_gradients: 0.5")
training("sgd_iter_size", STEP + "momentum: 0.9 weight_decay: 0.01 iter_size: 3 clip_gradients: 2", iterations=10)
training("sgd_random", STEP + "momentum: 0.9 weight_decay: 0.001", RANDOM)
training("sgd_test_net", STEP + "momentum: 0.9 test_iter: 3 test_interval: 4", RANDOM)
training(
    "sgd_no_first_test",
    STEP + "momentum: 0.9 test_iter: 2 test_interval: 3 test_initialization: false",
    RANDOM,
    iterations=7,
)
training("sgd_rate_rises", 'base_lr: 0.001 lr_policy: "step" stepsize: 2 gamma: 2 momentum: 0.9', iterations=10)
training("sgd_zero_rate", 'base_lr: 0 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.01', iterations=3)
training("sgd_multistep", 'base_lr: 0.02 lr_policy: "multistep" stepvalue: 3 stepvalue: 8 gamma: 0.3 momentum: 0.9')
training("sgd_no_shuffle", STEP + "momentum: 0.9 average_loss: 4 layer_wise_reduce: false", FIXED)
training("nesterov", STEP + 'type: "Nesterov" momentum: 0.9 weight_decay: 0.01')
training("adagrad", STEP + 'type: "AdaGrad" weight_decay: 0.01 delta: 1e-6')
training("rmsprop", 'base_lr: 0.002 lr_policy: "fixed" type: "RMSProp" rms_decay: 0.95 weight_decay: 0.01 delta: 1e-5')
training("adadelta", 'base_lr: 1 lr_policy: "fixed" type: "AdaDelta" momentum: 0.95 delta: 1e-6 weight_decay: 0.001')
training(
    "adam",
    'base_lr: 0.002 lr_policy: "fixed" type: "Adam" momentum: 0.9 momentum2: 0.99 delta: 1e-7 weight_decay: 0.01',
)
training("solver_type_enum", FIXED_RATE + "solver_type: NESTEROV momentum: 0.8", iterations=5)

# Snapshots by real Caffe after 5 iterations, and what it makes of them in 5 more (the data starts at record 0 again).
RESUMED = {name: TRAINING[name] for name in ("sgd_momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam")}
RESUMED["hdf5"] = {**TRAINING["sgd_momentum"], "solver": TRAINING["sgd_momentum"]["solver"] + " snapshot_format: HDF5"}
RESUMED["random"] = TRAINING["sgd_random"]
AT = 5


def snapshot_job(name: str, folder: str) -> dict:
    """The job for run_caffe.run_train that leaves small_iter_5.* in `folder`."""
    return {**RESUMED[name], "iterations": AT, "keep": [AT - 1], "snapshots": folder, "prefix": "small_iter"}


def resume_job(name: str, folder: str) -> dict:
    """The job for run_caffe.run_train that goes on from the files in `folder`."""
    state = f"small_iter_{AT}.solverstate" + (".h5" if name == "hdf5" else "")
    return {**RESUMED[name], "iterations": AT, "keep": [0, AT - 1], "restore": state, "copy_from": folder}


# Updates on given gradients, so that nothing of the net plays a part: 100 times set every diff, apply_update().
UPDATE_NET = """
name: "parameters"
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 5 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } inner_product_param { num_output: 12 } }
layer { name: "b" type: "Scale" bottom: "a" top: "b" param { lr_mult: 0.1 decay_mult: 3 } }
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 3 bias_term: false } }
layer { name: "label" type: "DummyData" top: "label" dummy_data_param { shape { dim: 2 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "loss" }
"""
UPDATES = {
    "sgd": "base_lr: 0.01 momentum: 0.9 weight_decay: 0.05",
    "sgd_plain": "base_lr: 0.01",
    "sgd_l1": 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.05 regularization_type: "L1"',
    "sgd_clip": "base_lr: 0.01 momentum: 0.9 weight_decay: 0.05 clip_gradients: 5",
    "sgd_iter_size": "base_lr: 0.01 momentum: 0.9 weight_decay: 0.05 iter_size: 4 clip_gradients: 5",
    "nesterov": 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.05 type: "Nesterov"',
    "nesterov_l1": 'base_lr: 0.01 momentum: 0.5 weight_decay: 0.05 type: "Nesterov" regularization_type: "L1" iter_size: 2',
    "adagrad": 'base_lr: 0.01 weight_decay: 0.05 type: "AdaGrad" delta: 1e-6',
    "adagrad_default": 'base_lr: 0.01 type: "AdaGrad"',
    "rmsprop": 'base_lr: 0.01 weight_decay: 0.05 type: "RMSProp" rms_decay: 0.9 delta: 1e-4',
    "rmsprop_default": 'base_lr: 0.001 type: "RMSProp" iter_size: 2',
    "adadelta": 'base_lr: 0.5 momentum: 0.95 weight_decay: 0.05 type: "AdaDelta" delta: 1e-6',
    "adadelta_clip": 'base_lr: 1 momentum: 0.9 type: "AdaDelta" delta: 1e-3 clip_gradients: 3',
    "adam": 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.05 type: "Adam"',
    # Of whose powers BVLC makes doubles: 1 - 0.99999^t has two digits as a float.
    "adam_slow": 'base_lr: 0.01 momentum: 0.9 momentum2: 0.99999 type: "Adam"',
    "adam_betas": 'base_lr: 0.01 momentum: 0.5 momentum2: 0.9 delta: 1e-3 type: "Adam" clip_gradients: 5 iter_size: 2',
}
COUNT = 100

# Rates: 1,000 iterations of a net that costs nothing, solver.lr before each.
RATE_NET = """
layer { name: "d" type: "DummyData" top: "d" top: "label" dummy_data_param { shape { dim: 1 dim: 1 } shape { dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
RATES = {
    "fixed": 'base_lr: 0.013 lr_policy: "fixed"',
    "step": 'base_lr: 0.013 lr_policy: "step" gamma: 0.9 stepsize: 37',
    "exp": 'base_lr: 0.013 lr_policy: "exp" gamma: 0.995',
    "inv": 'base_lr: 0.013 lr_policy: "inv" gamma: 0.001 power: 0.75',
    "multistep": 'base_lr: 0.013 lr_policy: "multistep" gamma: 0.4 stepvalue: 5 stepvalue: 100 stepvalue: 101 stepvalue: 700',
    "poly": 'base_lr: 0.013 lr_policy: "poly" power: 1.7',
    "sigmoid": 'base_lr: 0.013 lr_policy: "sigmoid" gamma: 0.01 stepsize: 500',
}
POINTS = 1000


# Whole runs of the programs, whose log lines must be ours too (numbers that are times or paths aside).
SHOW = "display: 3 test_iter: 2 test_interval: 4 momentum: 0.9 weight_decay: 0.01 "
LOGS = {
    "train": [["train", "--solver=solver.prototxt"], STEP + SHOW + "max_iter: 10 snapshot: 5 average_loss: 2"],
    "train_no_test": [
        ["train", "--solver=solver.prototxt"],
        STEP + "display: 2 max_iter: 5 clip_gradients: 0.1 iter_size: 2",
    ],
    "train_debug": [["train", "--solver=solver.prototxt"], FIXED_RATE + "max_iter: 1 debug_info: true"],
    "train_after": [["train", "--solver=solver.prototxt"], STEP + SHOW + "max_iter: 6 snapshot_after_train: false"],
    "resume": [
        ["train", "--solver=solver.prototxt", "--snapshot=small_iter_5.solverstate"],
        STEP + SHOW + "max_iter: 8",
    ],
    "finetune": [
        ["train", "--solver=solver.prototxt", "--weights=small_iter_5.caffemodel"],
        STEP + SHOW + "max_iter: 3",
    ],
    "test": [["test", "--model=net.prototxt", "--weights=small_iter_5.caffemodel", "--iterations=4"], STEP],
}


def log_files(name: str) -> dict[str, str]:
    """The prototxts of a run in LOGS."""
    return {
        "net.prototxt": PLAIN,
        "solver.prototxt": COMMON.replace("max_iter: 100", "").replace("display: 0", "") + LOGS[name][1],
    }


def normalise(log: str) -> list[str]:
    """A log's lines without times, process numbers and speeds: `I solver.cpp:239] Iteration 5 (# iter/s, ...`.

    Lines of BVLC's prefetching thread, and ours on a slow one, come when they come, and go."""
    lines = []
    for line in log.splitlines():
        line = re.sub(r"^([IWEF])\d{4} [\d:.]+ +\d+ ", r"\1 ", line)
        line = re.sub(r"\([\d.e+inf-]+ iter/s, [\d.e+-]+s/", "(# iter/s, #s/", line)
        if not re.match(r"I (data_layer.cpp:73|blocking_queue.cpp:49)\]|W solver.py:1\]", line):
            lines.append(line)
    return lines


# Solvers that BVLC refuses.
REFUSED = {
    "unknown_policy": 'base_lr: 0.1 lr_policy: "nope"',
    "no_policy": "base_lr: 0.1",
    "negative_gamma": 'base_lr: 0.1 lr_policy: "sigmoid" gamma: -0.1 stepsize: 5',
    "unknown_type": 'base_lr: 0.1 lr_policy: "fixed" type: "nope"',
    "adagrad_momentum": 'base_lr: 0.1 lr_policy: "fixed" type: "AdaGrad" momentum: 0.9',
    "rmsprop_momentum": 'base_lr: 0.1 lr_policy: "fixed" type: "RMSProp" momentum: 0.9',
    "rms_decay": 'base_lr: 0.1 lr_policy: "fixed" type: "RMSProp" rms_decay: 1.5',
    "unknown_regularization": 'base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.1 regularization_type: "L3"',
    "type_and_solver_type": 'base_lr: 0.1 lr_policy: "fixed" type: "SGD" solver_type: ADAM',
    "test_without_interval": 'base_lr: 0.1 lr_policy: "fixed" test_iter: 2',
    "two_nets": 'base_lr: 0.1 lr_policy: "fixed" train_net: "net.prototxt"',
    "no_net_file": 'base_lr: 0.1 lr_policy: "fixed" test_net: "none.prototxt" test_iter: 1 test_interval: 1',
    "no_stepsize": 'base_lr: 0.1 lr_policy: "step" gamma: 0.1',
}


def refused_job(name: str) -> dict:
    """The job for run_caffe.run_train that BVLC aborts on."""
    return {"solver": COMMON + REFUSED[name], "files": {"net.prototxt": PLAIN}, "iterations": 2, "keep": []}


def update_job(name: str) -> dict:
    """The job for run_caffe.run_updates."""
    text = UPDATES[name] + ("" if "lr_policy" in UPDATES[name] else ' lr_policy: "fixed"')
    return {
        "solver": 'net: "net.prototxt" random_seed: 5 max_iter: 1000 ' + text,
        "files": {"net.prototxt": UPDATE_NET},
        "count": COUNT,
        "seed": 17,
    }


def rate_job(name: str) -> dict:
    """The job for run_caffe.run_rates."""
    return {
        "solver": f'net: "net.prototxt" random_seed: 5 max_iter: {POINTS} display: 0 {RATES[name]}',
        "files": {"net.prototxt": RATE_NET},
        "points": POINTS,
    }
