"""The nets plain and bn of a made-up data set, and their solver."""

from __future__ import annotations

DATA = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: %(phase)s }
  transform_param { crop_size: 32 mean_file: "%(folder)s/mean.binaryproto" mirror: false }
  data_param { source: "%(folder)s/val_lmdb" batch_size: 8 backend: LMDB } }
"""
CONV = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 5 stride: 4 %s weight_filler { type: "xavier" }
    bias_filler { type: "constant" value: 0.5 } } }
"""
NORM = """layer { name: "conv/bn" type: "BatchNorm" bottom: "conv" top: "conv"
  param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } }
layer { name: "conv/scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
"""
HEAD = """layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }\n'
ANSWER = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'
SOLVER = """net: "%(net)s" test_iter: 3 test_interval: 10 base_lr: %(lr)s lr_policy: "fixed" momentum: 0.9 display: 5
max_iter: %(max_iter)d snapshot_prefix: "%(folder)s/%(run)s/x" random_seed: 1 solver_mode: %(mode)s
"""


def write_solver(folder, net="plain", lr=0.01, max_iter=30, mode="CPU", run="run"):
    path = folder / "solver.prototxt"
    path.write_text(
        SOLVER
        % {
            "net": folder / f"{net}.prototxt",
            "lr": lr,
            "max_iter": max_iter,
            "folder": folder,
            "mode": mode,
            "run": run,
        }
    )
    return str(path)
