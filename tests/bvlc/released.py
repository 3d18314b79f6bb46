"""The released training set-up as it is, under either engine: train.prototxt in V1 format, LMDB, mean, crops, mirrors.

`setup` writes the files: the authors' net as their log shows it, in the format of 2014 that they used (`layers { type:
CONVOLUTION blobs_lr: 1 ... }`, the mean in data_param, a loss without a top), a net to test and their solver. `tiny` is
a small net with the same settings on the LMDB of the goldens. `begin`, `iterate` and `follow` run one solver over
several requests (see engines.Engine.call): what cannot be read off pycaffe's blobs, the dropout masks, is read from a
dropout layer's backward of ones.

Must run on Python 3.9 with NumPy 1.19 (Debian 11, where real Caffe is), but for `follow`, which torchcaffe runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from tests.bvlc.run_caffe import error, inside, record, recorded, write_files

# The authors' solver for AVA1, but for the rate (Table 1's 1e-4 ends in NaN within 7 iterations, in real Caffe, too)
# and the testing (400 batches every 4,750 iterations): one batch before the first iteration.
SOLVER = """
train_net: "train.prototxt"
test_net: "val.prototxt"
test_iter: 1
test_interval: 4750
base_lr: {rate:g}
lr_policy: "step"
gamma: 0.96
stepsize: 115000
momentum: 0.9
weight_decay: 0.0002
display: 20
max_iter: 475000
snapshot: 0
snapshot_prefix: "ilgnet"
solver_mode: CPU
random_seed: {seed}
"""
RUN_TINY, BEGIN, ITERATE, FOLLOW = (
    f"tests.bvlc.released:{name}"
    for name in ("run_tiny", "begin", "iterate", "follow")  # for Engine.call
)
LOSS = "(automatic)"  # what Caffe calls the top that the released loss layer leaves out


# ---- the files -------------------------------------------------------------------------------------------------------
def as_v1(net) -> str:
    """A net of today's `layer`s as the text of 2014's: V1 layers, preprocessing in data_param, the loss without top."""
    from torchcaffe.formats.upgrade import V1_TYPE_NAMES
    from torchcaffe.proto import caffe_pb2, format_text

    types = {new: old for old, new in V1_TYPE_NAMES.items()}
    result = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layer:
        old = result.layers.add(name=layer.name, bottom=layer.bottom, top=layer.top)
        old.type = old.LayerType.Value(types[layer.type])
        for rates in layer.param:
            old.blobs_lr.append(rates.lr_mult)
            old.weight_decay.append(rates.decay_mult)
        for field, value in layer.ListFields():
            if field.name == "transform_param":
                for setting, given in value.ListFields():
                    setattr(old.data_param, setting.name, given)
            elif field.name.endswith("_param"):
                getattr(old, field.name).MergeFrom(value)
        if layer.type == "SoftmaxWithLoss":
            del old.top[:]
    return format_text(result)


def net_texts(data: Path, batch: int, test_batch: int = 50) -> dict[str, str]:
    """train.prototxt and val.prototxt of the released v1: crop 227, the LMDBs and mean of folder `data`."""
    from ilgnet.nets import emit
    from torchcaffe.proto import caffe_pb2

    texts = {}
    for file, phase in (("train.prototxt", caffe_pb2.TRAIN), ("val.prototxt", caffe_pb2.TEST)):
        net = emit.train_val(emit.Choice("v1", crop=227, batch_size=batch, source=str(data)))
        net.name = "GoogleNet"
        kept = [x for x in net.layer if not x.include or x.include[0].phase == phase]
        kept = [x for x in kept if x.type != "Accuracy" or phase == caffe_pb2.TEST]
        for layer in kept:
            del layer.include[:]
            if layer.type == "Data" and phase == caffe_pb2.TEST:
                layer.data_param.batch_size = test_batch
        texts[file] = as_v1(caffe_pb2.NetParameter(name=net.name, layer=kept))
    return texts


def setup(folder: Path, data: Path, batch: int, rate: float, seed: int) -> None:
    """The released set-up's files in `folder`, which programs that read solver.prototxt must work in."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in {**net_texts(data, batch, batch), "solver.prototxt": SOLVER.format(rate=rate, seed=seed)}.items():
        (folder / file).write_text(text)


TINY = """
name: "tiny"
layers { name: "data" type: DATA top: "data" top: "label" data_param { source: "inputs/lmdb" backend: LMDB
  batch_size: %(batch)d crop_size: 11 mirror: %(mirror)s mean_file: "inputs/mean.binaryproto" } }
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  weight_decay: 0 convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" }
  bias_filler { type: "constant" value: 0.2 } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layers { name: "norm1" type: LRN bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layers { name: "temp1" type: INNER_PRODUCT bottom: "norm1" top: "temp1" blobs_lr: 10 blobs_lr: 20 weight_decay: 1
  weight_decay: 0 inner_product_param { num_output: 16 weight_filler { type: "xavier" }
  bias_filler { type: "constant" value: 0.2 } } }
layers { name: "temp1_relu" type: RELU bottom: "temp1" top: "temp1" }
layers { name: "temp1_drop" type: DROPOUT bottom: "temp1" top: "temp1" dropout_param { dropout_ratio: 0.7 } }
layers { name: "temp2" type: INNER_PRODUCT bottom: "norm1" top: "temp2" blobs_lr: 10 blobs_lr: 20 weight_decay: 1
  weight_decay: 0 inner_product_param { num_output: 8 weight_filler { type: "xavier" }
  bias_filler { type: "constant" value: 0.2 } } }
layers { name: "temp2_relu" type: RELU bottom: "temp2" top: "temp2" }
layers { name: "temp2_drop" type: DROPOUT bottom: "temp2" top: "temp2" dropout_param { dropout_ratio: 0.7 } }
layers { name: "temp" type: CONCAT bottom: "temp1" bottom: "temp2" top: "temp" }
layers { name: "classifier" type: INNER_PRODUCT bottom: "temp" top: "classifier" blobs_lr: 10 blobs_lr: 20
  weight_decay: 1 weight_decay: 0 inner_product_param { num_output: 3
  weight_filler { type: "gaussian" std: 0.01 } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "classifier" bottom: "label" }
"""
ACCURACY = 'layers { name: "top-1" type: ACCURACY bottom: "classifier" bottom: "label" top: "top-1" }\n'
TINY_FILES = {
    "train.prototxt": TINY % {"batch": 3, "mirror": "true"},
    "val.prototxt": TINY % {"batch": 2, "mirror": "false"} + ACCURACY,
    "solver.prototxt": SOLVER.format(rate=1e-4, seed=11).replace("display: 20", "display: 0"),
}


# ---- under either engine ---------------------------------------------------------------------------------------------
def digest(array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()


def parameters(net) -> list:
    """[(LAYER/I, blob)...] in the order of the solver's history."""
    return [(f"{layer}/{i}", blob) for layer, blobs in net.params.items() for i, blob in enumerate(blobs)]


def observe(net) -> dict:
    """What an iteration left: its loss, and hashes of data, labels and the mask (times its scale) of each Dropout."""
    seen = {"loss": float(net.blobs[LOSS].data), "data": digest(net.blobs["data"].data)}
    seen["label"] = digest(net.blobs["label"].data)
    for name, layer in zip(net._layer_names, net.layers):
        if layer.type == "Dropout":
            diff = net.blobs[net.top_names[name][0]].diff
            diff[...] = 1
            net.backward(start=name, end=name)
            seen["mask " + name] = digest(net.blobs[net.bottom_names[name][0]].diff)
    return seen


def run_tiny(caffe, job, arrays=None):
    """`iterations` of TINY: an observation of each, and arrays NAME@I of gradients, updates and weights after it."""
    out = {}
    with inside(write_files(TINY_FILES)):
        caffe.set_mode_cpu()
        solver = caffe.get_solver("solver.prototxt")
        blobs = parameters(solver.net)
        out.update({f"weights {name}@-1": np.array(blob.data) for name, blob in blobs})
        number = [0]

        def gradients():
            out.update({f"gradient {name}@{number[0]}": np.array(blob.diff) for name, blob in blobs})

        solver.add_callback(lambda: None, gradients)
        seen = []
        for number[0] in range(job["iterations"]):
            solver.step(1)
            seen.append(observe(solver.net))
            for name, blob in blobs:
                out[f"update {name}@{number[0]}"] = np.array(blob.diff)  # V, which is the history, too
                out[f"weights {name}@{number[0]}"] = np.array(blob.data)
    return seen, out


def update_error(weights, theirs, update) -> float:
    """The error of weights after an update, relative to themselves or the update, whichever is greater: a bias that
    goes from 0 and back again is smaller than its updates, and keeps their rounding."""
    size = float(np.linalg.norm(theirs))
    return error(weights, theirs) * (size or 1) / (max(size, float(np.linalg.norm(update))) or 1)


OPEN: dict = {}  # the solver that begin opened


def begin(caffe, job, arrays=None):
    """Open the solver in job["folder"], from job["weights"]; each step leaves gradients in the folder `gradients`."""
    os.chdir(job["folder"])
    caffe.set_mode_cpu()
    OPEN["solver"] = solver = caffe.get_solver("solver.prototxt")
    solver.net.copy_from(job["weights"])
    if job.get("gradients"):

        def gradients():
            for number, (_, blob) in enumerate(parameters(solver.net)):
                record(job["gradients"], str(number), blob.diff)

        solver.add_callback(lambda: None, gradients)
    return None, {}


def iterate(caffe, job, arrays=None):
    """One iteration: what it left. With `snapshot`, the solver's state after it is written."""
    OPEN["solver"].step(1)
    seen = observe(OPEN["solver"].net)
    if job.get("snapshot"):
        OPEN["solver"].snapshot()
    return seen, {}


def follow(caffe, job, arrays=None):
    """One iteration beside real Caffe's, whose gradients are in the folder job["gradients"] and whose state after it in
    job["state"] (a solverstate): torchcaffe's own gradients are compared, then BVLC's put in their place, so that the
    update is that of the same gradients; its results are compared, and then all is set to BVLC's.

    Returns what the iteration left, with the errors of gradients (greatest and median) and of weights and history."""
    from torchcaffe.formats import caffemodel, solverstate

    solver = OPEN["solver"]
    blobs = parameters(solver.net)
    errors = []

    def gradients():
        for number, (_, blob) in enumerate(blobs):
            theirs = recorded(job["gradients"], str(number))
            errors.append(error(blob.diff, theirs))
            blob.diff[...] = theirs

    if "callback" not in OPEN:
        solver.add_callback(lambda: None, lambda: OPEN["callback"]())
    OPEN["callback"] = gradients
    solver.step(1)
    seen = observe(solver.net)
    state = solverstate.read_solverstate(job["state"])
    learned = caffemodel.read_caffemodel(os.path.join(os.path.dirname(job["state"]), state.learned_net))
    theirs = {f"{layer.name}/{i}": values for layer in learned for i, values in enumerate(layer.blobs)}
    history = [error(blob.diff, values) for (_, blob), values in zip(blobs, state.history)]
    weights = [update_error(blob.data, theirs[name], values) for (name, blob), values in zip(blobs, state.history)]
    del learned, theirs, state  # mapped files, a gigabyte of them
    solver.restore(job["state"])
    seen.update(gradient=max(errors), median=float(np.median(errors)), weights=max(weights), update=max(history))
    return seen, {}
