"""Make the goldens of tests/test_files.py with real Caffe: python3 make_files_goldens.py OUT (in pycaffe's Python)."""

import os
import subprocess
import sys
import tempfile

os.environ["GLOG_minloglevel"] = "2"

import caffe  # noqa: E402
import lmdb  # noqa: E402
import numpy as np  # noqa: E402
from caffe.proto import caffe_pb2  # noqa: E402
from google.protobuf import text_format  # noqa: E402

NET = """
name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } shape { dim: 2 dim: 3 } data_filler { type: "gaussian" std: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 name: "shared" } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.25 } } }
layer { name: "conv_again" type: "Convolution" bottom: "conv" top: "conv_again" param { name: "shared" } param { lr_mult: 2 }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } loss_weight: 0 }
layer { name: "bn" type: "BatchNorm" bottom: "conv_again" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "mult" type: "Scale" bottom: "bn" top: "mult" scale_param { axis: 0 num_axes: 0 filler { value: 1.5 } } }
layer { name: "relu" type: "ReLU" bottom: "mult" top: "mult" }
layer { name: "fc" type: "InnerProduct" bottom: "mult" top: "fc" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "fc_too" type: "InnerProduct" bottom: "mult" top: "fc_too" inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "fc" bottom: "fc_too" top: "sum" }
layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "target" top: "loss" include { phase: TRAIN } }
"""  # noqa: E501

SOLVER = """
net: "%s" type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.001 lr_policy: "step" gamma: 0.5 stepsize: 1
max_iter: 3 random_seed: 7 snapshot_prefix: "%s" snapshot_format: %s snapshot_diff: %s solver_mode: CPU
"""

DEPLOY = """
name: "old"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 3 kernel_size: 2 } }
layer { name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param { num_output: 2 } }
"""


def main(out):
    os.makedirs(out, exist_ok=True)
    snapshots(out)
    old_models(out)
    mean(out)


def snapshots(out):
    """Caffemodels and solverstates of a tiny net after three iterations, with its parameters and history."""
    with tempfile.TemporaryDirectory() as work:
        net = os.path.join(work, "net.prototxt")
        with open(net, "w") as file:
            file.write(NET)
        for kind, diff in (("BINARYPROTO", "true"), ("HDF5", "true"), ("BINARYPROTO", "false")):
            solver_file = os.path.join(work, "solver.prototxt")
            with open(solver_file, "w") as file:
                file.write(SOLVER % (net, "tiny", kind, diff))
            os.chdir(work)
            solver = caffe.get_solver(solver_file)
            solver.step(3)
            solver.snapshot()
            ending = ".h5" if kind == "HDF5" else ""
            name = "tiny_diff" if diff == "true" else "tiny"
            os.replace("tiny_iter_3.caffemodel" + ending, os.path.join(out, name + ".caffemodel" + ending))
            os.replace("tiny_iter_3.solverstate" + ending, os.path.join(out, name + ".solverstate" + ending))
        arrays = {}
        for layer, blobs in solver.net.params.items():
            for index, blob in enumerate(blobs):
                arrays[f"data/{layer}/{index}"] = blob.data
                arrays[f"diff/{layer}/{index}"] = blob.diff
        np.savez(os.path.join(out, "tiny.npz"), **arrays)


def old_models(out):
    """V0 and V1 caffemodels with legacy shapes and doubles, and what BVLC reads from them."""
    rng = np.random.RandomState(3)
    weights = {
        "conv1": [rng.randn(3, 2, 2, 2), rng.randn(1, 1, 1, 3)],
        "fc2": [rng.randn(1, 1, 2, 27), rng.randn(1, 1, 1, 2)],
    }

    def fill(blob, array, double):
        blob.num, blob.channels, blob.height, blob.width = array.shape
        getattr(blob, "double_data" if double else "data").extend(array.flat)

    v1 = text_format.Parse(
        """name: "old" input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4
        layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2
          convolution_param { num_output: 3 kernel_size: 2 } }
        layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
        layers { name: "fc2" type: INNER_PRODUCT bottom: "conv1" top: "fc2" inner_product_param { num_output: 2 } }""",
        caffe_pb2.NetParameter(),
    )
    v0 = text_format.Parse(
        """name: "old" input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4
        layers { layer { name: "conv1" type: "conv" num_output: 3 kernelsize: 2 blobs_lr: 1 blobs_lr: 2 }
          bottom: "data" top: "conv1" }
        layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
        layers { layer { name: "fc2" type: "innerproduct" num_output: 2 } bottom: "conv1" top: "fc2" }""",
        caffe_pb2.NetParameter(),
    )
    with tempfile.TemporaryDirectory() as work:
        deploy = os.path.join(work, "deploy.prototxt")
        with open(deploy, "w") as file:
            file.write(DEPLOY)
        arrays = {}
        for name, model, double in (("v1", v1, False), ("v1_double", v1, True), ("v0", v0, False)):
            for layer in model.layers:
                holder = layer.layer if name == "v0" else layer
                del holder.blobs[:]
                for array in weights.get(holder.name, ()):
                    fill(holder.blobs.add(), array, double)
            path = os.path.join(out, name + ".caffemodel")
            with open(path, "wb") as file:
                file.write(model.SerializeToString())
            net = caffe.Net(deploy, path, caffe.TEST)
            for layer, blobs in net.params.items():
                for index, blob in enumerate(blobs):
                    arrays[f"{name}/{layer}/{index}"] = blob.data
        np.savez(os.path.join(out, "old.npz"), **arrays)


def mean(out):
    """mean.binaryproto of three tiny images, with the images."""
    images = np.random.RandomState(5).randint(0, 256, (3, 3, 4, 5)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as work:
        env = lmdb.open(os.path.join(work, "lmdb"), map_size=1 << 20)
        with env.begin(write=True) as txn:
            for index, image in enumerate(images):
                datum = caffe.io.array_to_datum(image, 0)
                txn.put(b"%08d" % index, datum.SerializeToString())
        env.close()
        path = os.path.join(out, "mean.binaryproto")
        subprocess.check_call(["compute_image_mean", os.path.join(work, "lmdb"), path], stderr=subprocess.DEVNULL)
    np.save(os.path.join(out, "mean_images.npy"), images)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
