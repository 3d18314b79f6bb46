"""pycaffe's contract: what a script that says `import caffe` relies on.

The same file runs under real pycaffe (tests/test_pycaffe_bvlc.py does that where there is one), so nothing in here
knows which engine it tests; on its own `import caffe` means torchcaffe (tests/conftest.py)."""

from __future__ import annotations

import gc
import os
import sys
from collections import OrderedDict

import caffe
import caffe.io
import numpy as np
import pytest
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2

SMALL = """
name: "small" force_backward: true
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 2 dim: 3 dim: 4 } shape { dim: 5 } data_filler { type: "gaussian" std: 1 }
  data_filler { type: "constant" value: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 6 kernel_size: 2 pad: 1 weight_filler { type: "gaussian" std: 1 }
  bias_filler { type: "constant" value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7
  weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "constant" value: -3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

DEPLOY = """
name: "deploy"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2
  weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""

SOLVER = """
net: "%s" test_iter: 2 test_interval: 3 base_lr: 0.01 momentum: 0.5 weight_decay: 0.001 lr_policy: "inv" gamma: 0.1
power: 0.75 display: 0 max_iter: 8 snapshot_prefix: "%s" random_seed: 4 solver_mode: CPU
"""

# What stands for an error here: pycaffe raises, or ends the process (which no test can show).
WRONG_CALL = TypeError


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")
    caffe.set_mode_cpu()
    caffe.set_random_seed(17)


def write(folder, text, name="net.prototxt"):
    path = str(folder / name)
    with open(path, "w") as f:
        f.write(text)
    return path


@pytest.fixture
def small(tmp_path):
    net = caffe.Net(write(tmp_path, SMALL), caffe.TRAIN)
    net.blobs["label"].data[...] = np.random.RandomState(1).randint(0, 7, net.blobs["label"].data.shape)
    return net


@pytest.fixture
def deploy(tmp_path):
    return caffe.Net(write(tmp_path, DEPLOY), caffe.TEST)


def solver_file(folder, extra="", net=SMALL):
    return write(folder, SOLVER % (write(folder, net), folder / "small") + extra, "solver.prototxt")


# -- the module ----------------------------------------------------------------------------------------------------


def test_top_level_names():
    names = (
        "Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver get_solver NCCL Timer "
        "Layer NetSpec layers params to_proto Classifier Detector io net_spec proto classifier detector "
        "pycaffe TRAIN TEST set_mode_cpu set_mode_gpu set_device set_random_seed layer_type_list init_log log has_nccl "
        "solver_count solver_rank set_solver_count set_solver_rank set_multiprocess __version__"
    ).split()
    assert [name for name in names if not hasattr(caffe, name)] == []


def test_phases_and_version():
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.__version__.split(".")[0] == "1"


def test_layer_type_list():
    types = list(caffe.layer_type_list())
    assert types == sorted(types)
    for name in ("Data", "Convolution", "InnerProduct", "SoftmaxWithLoss", "Input", "Pooling"):
        assert name in types


def test_a_star_brings_the_names():
    names = {}
    exec("from caffe import *", names)
    for name in "Net Layer SGDSolver get_solver NetSpec layers params to_proto io net_spec TRAIN TEST log".split():
        assert names[name] is getattr(caffe, name)
    assert "_caffe" not in names


def test_module_functions_take_numbers_only():
    for function in (caffe.set_solver_count, caffe.set_solver_rank):
        for wrong in ("1", 1.5, None):
            with pytest.raises(WRONG_CALL):
                function(wrong)
    assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)
    for wrong in ("x", 1.5):
        with pytest.raises(WRONG_CALL):
            caffe.set_multiprocess(wrong) if wrong == "x" else caffe.init_log(wrong)


def test_places_among_solvers():
    assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)
    caffe.set_solver_count(3)
    caffe.set_solver_rank(2)
    caffe.set_multiprocess(True)
    assert (caffe.solver_count(), caffe.solver_rank()) == (3, 2)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)


def test_no_nccl_here(tmp_path):
    # As BVLC's CPU build: the class is there, can be made, and has no methods.
    assert caffe.has_nccl() is False
    net = write(tmp_path, 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 } } }')
    (tmp_path / "s.prototxt").write_text(f'net: "{net}" base_lr: 1 lr_policy: "fixed"')
    assert isinstance(caffe.NCCL(caffe.get_solver(str(tmp_path / "s.prototxt")), "uid"), caffe.NCCL)
    assert not hasattr(caffe.NCCL, "bcast") and not hasattr(caffe.NCCL, "new_uid")
    assert isinstance(caffe.NCCL(None, b"uid"), caffe.NCCL)
    for arguments in ((), (1, "uid"), (None, 1)):
        with pytest.raises(TypeError):
            caffe.NCCL(*arguments)


def test_timer():
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert isinstance(timer.ms, float) and timer.ms >= 0


def test_random_seed_takes_unsigned_32_bit_numbers():
    caffe.set_random_seed(2**32 - 1)
    for bad in (-1, 2**32):
        with pytest.raises(OverflowError):
            caffe.set_random_seed(bad)
    with pytest.raises(TypeError):
        caffe.set_random_seed("one")


def test_the_seed_decides_the_weights(tmp_path):
    path = write(tmp_path, SMALL)
    weights = []
    for seed in (5, 5, 6):
        caffe.set_random_seed(seed)
        weights.append(caffe.Net(path, caffe.TRAIN).params["conv"][0].data.copy())
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_compiled_module_by_its_name():
    from caffe import _caffe

    assert issubclass(_caffe.SGDSolver, _caffe.Solver) and issubclass(_caffe.AdamSolver, _caffe.SGDSolver)
    blobs = _caffe.BlobVec()
    blobs.add_blob(2, 3)
    blobs.add_blob()
    assert [b.data.shape for b in blobs] == [(2, 3), ()]
    with pytest.raises(RuntimeError):
        blobs.add_blob(2, size=3)


# -- making a net --------------------------------------------------------------------------------------------------


def test_a_blob_that_a_script_appends_is_saved_and_loaded_but_takes_no_part(tmp_path):
    no_bias = SMALL.replace("param { lr_mult: 2 }", "").replace("num_output", "bias_term: false num_output")
    net, other = (caffe.Net(write(tmp_path, no_bias), caffe.TRAIN) for _ in range(2))
    net.forward()
    net.blobs["label"].data[...] = 3
    wanted = net.forward(start="conv")["loss"].copy()
    for made in (net, other):
        made.params["conv"].add_blob(6)
        made.params["ip"].add_blob(7)
    net.params["conv"][1].data[...] = net.params["ip"][1].data[...] = 100
    assert net.forward(start="conv")["loss"] == wanted
    net.backward()
    assert not net.params["ip"][1].diff.any() and net.params["ip"][0].diff.any()
    net.save(str(tmp_path / "more.caffemodel"))
    other.copy_from(str(tmp_path / "more.caffemodel"))
    assert (other.params["conv"][1].data == 100).all() and other.params["ip"][1].data.shape == (7,)


def test_constructors(tmp_path, small):
    path, weights = write(tmp_path, SMALL), str(tmp_path / "w.caffemodel")
    small.save(weights)
    made = [
        caffe.Net(path, weights, caffe.TEST),
        caffe.Net(path, caffe.TEST, weights=weights),
        caffe.Net(path, caffe.TEST, 0, None, weights),
        caffe.Net(network_file=path, phase=caffe.TEST, weights=weights, level=0, stages=None),
    ]
    for net in made:
        np.testing.assert_array_equal(net.params["ip"][0].data, small.params["ip"][0].data)


def test_paths_may_be_bytes_and_numbers_bools(tmp_path, small):
    path = write(tmp_path, SMALL)
    assert caffe.Net(path.encode(), caffe.TEST).inputs == []
    weights = str(tmp_path / "w.caffemodel").encode()
    small.save(weights)
    made = [caffe.Net(path, weights, caffe.TEST), caffe.Net(path.encode(), caffe.TEST, weights=weights)]
    made.append(caffe.Net(path, caffe.TEST))
    made[-1].copy_from(weights)
    small.save_hdf5(weights + b".h5")
    made.append(caffe.Net(path, True, False))
    made[-1].load_hdf5(weights + b".h5")
    for net in made:
        np.testing.assert_array_equal(net.params["ip"][0].data, small.params["ip"][0].data)
    ruled = 'layer { name: "p" type: "DummyData" top: "p" dummy_data_param { shape { dim: 2 } } include { %s } }'
    for rule, arguments in (("phase: TRAIN", (False,)), ("phase: TEST", (True,)), ("min_level: 1", (0, True))):
        assert list(caffe.Net(write(tmp_path, ruled % rule), *arguments).blobs) == ["p"]


def test_wrong_constructors(tmp_path):
    path = write(tmp_path, SMALL)
    for args, kwargs in [((), {}), ((path,), {}), ((path, caffe.TEST), {"nonsense": 1}), ((caffe.TEST, path), {})]:
        with pytest.raises(WRONG_CALL):
            caffe.Net(*args, **kwargs)
    for args in [(str(tmp_path / "none.prototxt"), caffe.TEST), (path, str(tmp_path / "none.caffemodel"), caffe.TEST)]:
        with pytest.raises(RuntimeError):
            caffe.Net(*args)


def test_names_of_blobs_layers_and_parameters(small):
    assert list(small.blobs) == ["data", "label", "conv", "ip", "loss"]
    assert list(small._layer_names) == list(small.layer_dict) == ["data", "conv", "ip", "loss"]
    assert list(small.params) == ["conv", "ip"]
    assert small.inputs == [] and small.outputs == ["loss"]
    assert small.top_names == OrderedDict(
        [("data", ["data", "label"]), ("conv", ["conv"]), ("ip", ["ip"]), ("loss", ["loss"])]
    )
    assert small.bottom_names == OrderedDict(
        [("data", []), ("conv", ["data"]), ("ip", ["conv"]), ("loss", ["ip", "label"])]
    )
    assert small.blob_loss_weights == OrderedDict([(n, float(n == "loss")) for n in small.blobs])
    for found in (small.blobs, small.params, small.layer_dict, small.top_names, small.blob_loss_weights):
        assert isinstance(found, OrderedDict)


ATTRIBUTES = "blobs blob_loss_weights params layers layer_dict inputs outputs top_names bottom_names".split()


def test_attributes_of_nets_are_read_only(small):
    for name in ATTRIBUTES:
        assert isinstance(getattr(caffe.Net, name), property)
        with pytest.raises(AttributeError):
            setattr(small, name, None)
        with pytest.raises(AttributeError):
            delattr(small, name)
        assert len(getattr(small, name)) == len(getattr(small, name))
    assert small.layer_dict["conv"].blobs[0].data is not None and small.blobs["conv"] is small.blobs["conv"]
    small.anything_else = 3

    class Mine(caffe.Net):
        blobs = "mine"

    assert Mine.blobs == "mine"


def test_private_names_that_scripts_use(small):
    assert list(small._blob_names) == list(small.blobs)
    assert len(small._blobs) == 5 and list(small._inputs) == [] and list(small._outputs) == [4]
    assert list(small._top_ids(0)) == [0, 1] and list(small._bottom_ids(3)) == [3, 1]
    assert list(small._blob_loss_weights) == [0, 0, 0, 0, 1]
    loss = small._forward(0, 3)
    assert loss == pytest.approx(float(small.blobs["loss"].data))
    small._backward(3, 0)
    assert np.abs(small.params["conv"][0].diff).sum() > 0


def test_layers(small):
    assert len(small.layers) == 4
    assert [layer.type for layer in small.layers] == ["DummyData", "Convolution", "InnerProduct", "SoftmaxWithLoss"]
    assert [len(layer.blobs) for layer in small.layers] == [0, 2, 2, 0]
    assert small.layers[-1].type == small.layer_dict["loss"].type
    small.layers[1].blobs[0].data[...] = 3
    assert (small.params["conv"][0].data == 3).all()
    with pytest.raises(IndexError):
        small.layers[4]
    with pytest.raises(KeyError):
        small.layer_dict["nothing"]


def test_splits_are_blobs_too(tmp_path):
    text = SMALL + 'layer { name: "more" type: "ReLU" bottom: "ip" top: "more" }'
    net = caffe.Net(write(tmp_path, text), caffe.TEST)
    assert list(net.blobs)[3:6] == ["ip", "ip_ip_0_split_0", "ip_ip_0_split_1"]
    assert "ip_ip_0_split" in net.layer_dict
    assert net.outputs == ["loss", "more"]


def test_outputs_come_in_alphabetical_order(tmp_path):
    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 6 } } }
    layer { name: "cut" type: "Slice" bottom: "x" top: "z" top: "a" top: "M" }
    """
    net = caffe.Net(write(tmp_path, text), caffe.TEST)
    assert net.inputs == ["x"] and net.outputs == ["M", "a", "z"]
    assert list(net.forward()) == ["M", "a", "z"] or set(net.forward()) == {"M", "a", "z"}


# -- blobs ---------------------------------------------------------------------------------------------------------


def test_blob_attributes(small):
    blob = small.blobs["data"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (5, 2, 3, 4, 120)
    assert list(blob.shape) == [5, 2, 3, 4] and blob.shape[0] == 5 and len(blob.shape) == 4
    for array in (blob.data, blob.diff):
        assert type(array) is np.ndarray and array.dtype == np.float32 and array.shape == (5, 2, 3, 4)
        assert array.flags["C_CONTIGUOUS"] and array.flags["WRITEABLE"]
    assert small.blobs["loss"].data.shape == () and small.blobs["label"].data.shape == (5,)
    with pytest.raises(AttributeError):
        blob.data = 3


def test_blob_reshape(deploy):
    blob = deploy.blobs["data"]
    blob.reshape(2, 7)
    assert blob.data.shape == (2, 7) and blob.num == 2 and blob.height == 1
    for bad in ("a", 1.5):
        with pytest.raises(TypeError):
            blob.reshape(bad)


def test_a_smaller_blob_keeps_its_first_values(deploy):
    blob = deploy.blobs[deploy.inputs[0]]
    whole = blob.data
    whole[...] = np.arange(blob.count).reshape(blob.shape)
    one, *rest = blob.shape
    blob.reshape(one - 1, *rest)
    np.testing.assert_array_equal(blob.data.reshape(-1), np.arange(blob.count))
    blob.data[...] = -1
    assert (whole[:-1] == -1).all() and not (whole[-1] == -1).any()


def test_views_and_values_outlive_a_smaller_size(deploy):
    """As in BVLC, where a blob's memory only ever grows."""
    x = deploy.blobs["data"]
    whole, top = x.data, deploy.blobs["ip"].data
    whole[...] = np.arange(whole.size).reshape(whole.shape)
    deploy.forward()
    before = top.copy()
    x.reshape(1, *x.shape[1:])
    x.data[...] = 5
    deploy.forward()
    assert (whole[0] == 5).all() and whole[-1].ravel()[-1] == whole.size - 1
    assert not np.array_equal(top[0], before[0]) and np.array_equal(top[1:], before[1:])
    x.reshape(*whole.shape)
    np.testing.assert_array_equal(x.data, whole)
    whole[...] = np.arange(whole.size).reshape(whole.shape)
    deploy.forward()
    np.testing.assert_array_equal(top, before)


def test_parameters_keep_their_values_when_made_smaller(small):
    blob = small.params["ip"][0]
    whole, values = blob.data, blob.data.copy()
    blob.diff[...] = 3
    blob.reshape(1, values.shape[1])
    np.testing.assert_array_equal(blob.data, values[:1])
    assert (blob.diff == 3).all() and blob.diff.shape == blob.data.shape
    blob.data[...] = 7
    blob.reshape(*values.shape)
    assert (whole[0] == 7).all() and np.array_equal(blob.data, whole) and np.array_equal(whole[1:], values[1:])


def test_a_loss_that_grows_no_longer_counts(tmp_path):
    """BVLC writes loss_weight into the top's diff once, and a larger blob's memory starts at zero."""
    text = """force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "p" type: "Power" bottom: "x" top: "p" loss_weight: 0.5 power_param { scale: 2 } }"""
    net = caffe.Net(write(tmp_path, text), caffe.TRAIN)
    losses, gradients = [], []
    for size in (2, 1, 2, 4, 2):
        net.blobs["x"].reshape(size, 3)
        net.blobs["x"].data[...] = 1
        losses.append(net._forward(0, 1))
        net.backward()
        gradients.append(net.blobs["x"].diff.mean())
    assert losses == [6, 3, 6, 0, 0] and gradients == [1, 1, 1, 0, 0]


def test_whoever_reshapes_a_computed_blob_gets_its_shape_back(deploy):
    deploy.blobs[deploy.inputs[0]].data[...] = 1
    (wanted,) = deploy.forward().values()
    wanted = wanted.copy()
    deploy.blobs[deploy.outputs[0]].reshape(1, 1)
    (again,) = deploy.forward().values()
    np.testing.assert_array_equal(again, wanted)


def test_views_are_live(small):
    data, again = small.blobs["ip"].data, small.blobs["ip"].data
    weights = small.params["ip"][0].data
    small.forward()
    before = data.copy()
    weights *= 2
    small.forward(start="ip")
    assert np.array_equal(data, again) and np.array_equal(data, small.blobs["ip"].data)
    np.testing.assert_allclose(data + 3, 2 * (before + 3), rtol=1e-5, atol=1e-4)
    gradient = small.params["ip"][0].diff
    small.clear_param_diffs()
    assert not gradient.any()
    small.backward()
    assert gradient.any() and np.array_equal(gradient, small.params["ip"][0].diff)


def test_arrays_outlive_their_net(tmp_path):
    net = caffe.Net(write(tmp_path, SMALL), caffe.TRAIN)
    net.forward()
    held = [blob for blobs in net.params.values() for blob in blobs] + list(net.blobs.values())
    arrays = [blob.data for blob in held] + [blob.diff for blob in held]
    total = sum(float(a.sum()) for a in arrays)
    del net, held
    gc.collect()
    junk = [np.ones(1000) for _ in range(100)]
    assert sum(float(a.sum()) for a in arrays) == total
    arrays[0][...] = 1
    del junk


# -- forward and backward ------------------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_forward_and_backward(small):
    out = small.forward()
    assert set(out) == {"loss"}
    label = small.blobs["label"].data.astype(int)
    scores = small.blobs["ip"].data
    p = softmax(scores.astype(np.float64))
    assert float(out["loss"]) == pytest.approx(-np.log(np.maximum(p[range(5), label], 1e-30)).mean(), rel=1e-4)
    assert small.backward() == {}  # the net has no inputs
    p[range(5), label] -= 1
    np.testing.assert_allclose(small.blobs["ip"].diff, p / 5, atol=1e-6)
    x = small.blobs["conv"].data.reshape(5, -1)
    np.testing.assert_allclose(small.params["ip"][0].diff, (p / 5).T.dot(x), rtol=1e-3, atol=1e-4)


def test_gradients_add_up_until_they_are_cleared(small):
    small.clear_param_diffs()
    small.forward()
    small.backward()
    once = small.params["ip"][1].diff.copy()
    small.backward()
    np.testing.assert_allclose(small.params["ip"][1].diff, 2 * once, rtol=1e-5)
    small.clear_param_diffs()
    assert not any(blob.diff.any() for blobs in small.params.values() for blob in blobs)


def test_start_and_end(small):
    for blobs in small.params.values():
        for blob in blobs:
            blob.data[...] = 0
    small.blobs["conv"].data[...] = 7
    small.params["ip"][0].data[...] = 1
    out = small.forward(start="ip", end="ip")
    assert set(out) == {"ip"} and (out["ip"] == 7 * 6 * 4 * 5).all()
    small.forward(end="conv")
    assert not small.blobs["conv"].data.any() and small.blobs["ip"].data.any()
    small.blobs["ip"].diff[...] = 2
    found = small.backward(start="ip", end="ip")
    assert set(found) == {"conv"} and (found["conv"] == 14).all()
    small.blobs["conv"].diff[...] = 1
    assert set(small.backward(start="conv", end="conv")) == {"data"}


def test_forward_takes_inputs_and_returns_what_is_asked(deploy):
    x = np.random.RandomState(2).standard_normal((4, 3, 5, 5))
    out = deploy.forward(data=x, blobs=["ip", "data"])
    assert set(out) == {"prob", "ip", "data"}
    np.testing.assert_array_equal(out["data"], x.astype(np.float32))
    np.testing.assert_allclose(out["prob"], softmax(out["ip"]), rtol=1e-5)
    weights = deploy.params["ip"][0].data
    np.testing.assert_allclose(out["ip"], x.reshape(4, -1).dot(weights.T), rtol=1e-3, atol=1e-5)
    found = deploy.backward(prob=np.ones((4, 2)), diffs=["ip"])
    assert set(found) == {"data", "ip"}


def test_passes_over_no_inputs(deploy):
    for call in (deploy.forward_all, deploy.forward_backward_all):
        with pytest.raises(RuntimeError):
            call()


def test_wrong_calls_of_forward_and_backward(deploy):
    for call in (
        lambda: deploy.forward(nonsense=np.zeros((4, 3, 5, 5))),
        lambda: deploy.forward(data=np.zeros((3, 3, 5, 5))),
        lambda: deploy.backward(nonsense=np.zeros((4, 2))),
        lambda: deploy.backward(prob=np.zeros((3, 2))),
    ):
        with pytest.raises(Exception) as error:
            call()
        assert "batch sized" in str(error.value) or "do not match" in str(error.value)
    for call in (lambda: deploy.forward(end="none"), lambda: deploy.backward(start="none")):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(KeyError):
        deploy.forward(blobs=["none"])


def test_reshape(deploy):
    deploy.blobs["data"].reshape(2, 3, 5, 5)
    deploy.reshape()
    assert deploy.blobs["prob"].data.shape == (2, 2)
    deploy.blobs["data"].reshape(6, 3, 5, 5)
    deploy.forward()  # reshapes too
    assert deploy.blobs["prob"].data.shape == (6, 2)


def test_forward_all_pads_the_last_batch_and_cuts_it_off(deploy):
    x = np.random.RandomState(3).standard_normal((10, 3, 5, 5)).astype(np.float32)
    out = deploy.forward_all(data=x, blobs=["ip"])
    assert out["prob"].shape == out["ip"].shape == (10, 2)
    np.testing.assert_allclose(out["ip"], x.reshape(10, -1).dot(deploy.params["ip"][0].data.T), rtol=1e-4, atol=1e-5)
    kept = out["prob"].copy()
    deploy.forward(data=x[:4])
    np.testing.assert_array_equal(out["prob"], kept)  # copies, not views


def test_forward_backward_all(tmp_path):
    text = DEPLOY.replace('name: "deploy"', "force_backward: true")
    net = caffe.Net(write(tmp_path, text), caffe.TEST)
    rng = np.random.RandomState(4)
    x, g = rng.standard_normal((6, 3, 5, 5)).astype("f"), rng.standard_normal((6, 2)).astype("f")
    outs, diffs = net.forward_backward_all(data=x, prob=g, blobs=["ip"], diffs=["ip"])
    assert outs["prob"].shape == (6, 2) and outs["ip"].shape == (6, 2)
    p = softmax(outs["ip"])
    wanted = p * (g - (g * p).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(diffs["ip"], wanted, atol=1e-5)
    np.testing.assert_allclose(diffs["data"].reshape(6, -1), wanted.dot(net.params["ip"][0].data), atol=1e-5)


def test_callbacks(small):
    seen = []
    small.before_forward(lambda i: seen.append(("before forward", i)))
    small.after_forward(lambda i: seen.append(("after forward", i)))
    small.before_backward(lambda i: seen.append(("before backward", i)))
    small.after_backward(lambda i: seen.append(("after backward", i)))
    small.forward(start="conv", end="ip")
    small.backward(start="ip", end="conv")
    assert seen == [
        (f"{when} {way}", i) for way, order in (("forward", (1, 2)), ("backward", (2, 1))) for i in order
        for when in ("before", "after")
    ]  # fmt: skip


MEMORY = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 } }
layer { name: "ip" type: "Flatten" bottom: "data" top: "flat" }
"""


def test_set_input_arrays(tmp_path, small):
    net = caffe.Net(write(tmp_path, MEMORY), caffe.TEST)
    data = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for first in (0, 2, 0):
        net.forward()
        np.testing.assert_array_equal(net.blobs["flat"].data, data[first : first + 2].reshape(2, 6))
        np.testing.assert_array_equal(net.blobs["label"].data.ravel(), [first, first + 1])
    with pytest.raises(RuntimeError):
        small.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for bad in (data.astype(float), data[:3], data[:, :, :1], np.repeat(data, 2, axis=1)):
        with pytest.raises(RuntimeError):
            net.set_input_arrays(np.ascontiguousarray(bad), np.zeros(len(bad), np.float32))


# -- weights -------------------------------------------------------------------------------------------------------


def same_weights(one, two):
    assert list(one.params) == list(two.params)
    for name in one.params:
        for a, b in zip(one.params[name], two.params[name]):
            np.testing.assert_array_equal(a.data, b.data)


def test_save_and_load(tmp_path, small):
    path, other = str(tmp_path / "w.caffemodel"), caffe.Net(write(tmp_path, SMALL), caffe.TEST)
    small.save(path)
    assert not np.array_equal(other.params["ip"][0].data, small.params["ip"][0].data)
    other.copy_from(path)
    same_weights(small, other)
    saved = caffe_pb2.NetParameter()
    with open(path, "rb") as f:
        saved.ParseFromString(f.read())
    assert saved.name == "small" and [layer.name for layer in saved.layer] == list(small._layer_names)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(saved.layer[2].blobs[1]), small.params["ip"][1].data)


def test_save_and_load_hdf5(tmp_path, small):
    for name in ("w.caffemodel.h5", "any.name"):
        path, other = str(tmp_path / name), caffe.Net(write(tmp_path, SMALL), caffe.TEST)
        small.save_hdf5(path)
        with open(path, "rb") as f:
            assert f.read(4) == b"\x89HDF"
        other.load_hdf5(path)
        same_weights(small, other)
    other = caffe.Net(write(tmp_path, SMALL), str(tmp_path / "w.caffemodel.h5"), caffe.TEST)
    same_weights(small, other)
    small.save(str(tmp_path / "binary.h5"))
    with open(str(tmp_path / "binary.h5"), "rb") as f:
        assert f.read(4) != b"\x89HDF"


def test_weights_go_by_layer_name(tmp_path, small):
    path = str(tmp_path / "w.caffemodel")
    small.save(path)
    other = caffe.Net(write(tmp_path, SMALL.replace('name: "ip"', 'name: "renamed"', 1)), caffe.TEST)
    own = other.params["renamed"][0].data.copy()
    other.copy_from(path)
    np.testing.assert_array_equal(other.params["conv"][0].data, small.params["conv"][0].data)
    np.testing.assert_array_equal(other.params["renamed"][0].data, own)


def test_of_two_layers_with_one_name_the_first_gets_the_weights(tmp_path, small):
    path = str(tmp_path / "w.caffemodel")
    small.save(path)
    again = """layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "more" inner_product_param { num_output: 7
      weight_filler { type: "constant" value: 2 } } } """
    other = caffe.Net(write(tmp_path, SMALL + again), caffe.TEST)
    other.copy_from(path)
    first = list(other._layer_names).index("ip")
    np.testing.assert_array_equal(other.layers[first].blobs[0].data, small.params["ip"][0].data)
    assert (other.params["ip"][0].data == 2).all()


def test_share_with(tmp_path, small):
    other = caffe.Net(write(tmp_path, SMALL), caffe.TEST)
    other.share_with(small)
    small.params["conv"][1].data[...] = 9
    assert (other.params["conv"][1].data == 9).all()
    other.params["ip"][0].data[0, 0] = -5
    assert small.params["ip"][0].data[0, 0] == -5


SHARED = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "x" top: "y" param { name: "w" } inner_product_param { num_output: 3
  bias_term: false weight_filler { type: "gaussian" std: 1 } } }
layer { name: "two" type: "InnerProduct" bottom: "y" top: "z" param { name: "w" } inner_product_param { num_output: 3
  bias_term: false weight_filler { type: "gaussian" std: 1 } } }
"""


def test_parameters_of_one_name_are_one(tmp_path):
    net = caffe.Net(write(tmp_path, SHARED), caffe.TEST)
    net.params["one"][0].data[...] = np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(net.params["two"][0].data, net.params["one"][0].data)
    x = np.ones((2, 3), np.float32)
    w = net.params["one"][0].data
    np.testing.assert_allclose(net.forward(x=x)["z"], x.dot(w.T).dot(w.T))


# -- phases, levels and stages -------------------------------------------------------------------------------------

RULES = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "always" type: "ReLU" bottom: "x" top: "always" }
layer { name: "train" type: "ReLU" bottom: "x" top: "train" include { phase: TRAIN } }
layer { name: "not_train" type: "ReLU" bottom: "x" top: "not_train" exclude { phase: TRAIN } }
layer { name: "level1" type: "ReLU" bottom: "x" top: "level1" include { min_level: 1 } }
layer { name: "level2" type: "ReLU" bottom: "x" top: "level2" include { min_level: 2 max_level: 3 } }
layer { name: "a" type: "ReLU" bottom: "x" top: "a" include { stage: "A" } }
layer { name: "b" type: "ReLU" bottom: "x" top: "b" include { stage: "B" } }
layer { name: "both" type: "ReLU" bottom: "x" top: "both" include { stage: "A" stage: "B" } }
layer { name: "either" type: "ReLU" bottom: "x" top: "either" include { stage: "A" } include { stage: "B" } }
layer { name: "not_a" type: "ReLU" bottom: "x" top: "not_a" include { phase: TEST not_stage: "A" } }
"""


@pytest.mark.parametrize(
    "options, wanted",
    [
        (dict(phase=0), "always train"),
        (dict(phase=1), "always not_a not_train"),
        (dict(phase=1, level=1), "always level1 not_a not_train"),
        (dict(phase=1, level=2), "always level1 level2 not_a not_train"),
        (dict(phase=1, level=4), "always level1 not_a not_train"),
        (dict(phase=0, stages=["A"]), "a always either train"),
        (dict(phase=1, stages=["B"]), "always b either not_a not_train"),
        (dict(phase=1, stages=["A", "B"]), "a always b both either not_train"),
        (dict(phase=1, stages=["C"], level=1), "always level1 not_a not_train"),
    ],
)
def test_rules(tmp_path, options, wanted):
    net = caffe.Net(write(tmp_path, RULES), **options)
    assert net.outputs == wanted.split()


def test_the_files_own_state(tmp_path):
    text = 'state { stage: "A" level: 3 phase: TRAIN } ' + RULES
    net = caffe.Net(write(tmp_path, text), caffe.TEST)
    # The program's phase and level replace the file's; its stages are added.
    assert net.outputs == "a always either not_train".split()
    assert "both" in caffe.Net(write(tmp_path, text), caffe.TEST, stages=["B"]).outputs


# -- solvers -------------------------------------------------------------------------------------------------------

TYPES = {
    "SGD": "", "Nesterov": "", "AdaGrad": "momentum: 0", "RMSProp": "momentum: 0", "AdaDelta": "", "Adam": "",
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_solver_types(tmp_path, kind):
    text = SOLVER.replace("momentum: 0.5", TYPES[kind]) if TYPES[kind] else SOLVER
    path = write(tmp_path, text % (write(tmp_path, SMALL), tmp_path / "s") + f'type: "{kind}"', "solver.prototxt")
    solver = caffe.get_solver(path)
    cls = getattr(caffe, kind + "Solver")
    assert type(solver) is cls and isinstance(solver, caffe.SGDSolver)
    assert type(cls(path)) is cls
    before = solver.net.params["ip"][0].data.copy()
    assert solver.step(1) is None
    assert solver.iter == 1 and not np.array_equal(before, solver.net.params["ip"][0].data)


def test_solver_attributes(tmp_path):
    solver = caffe.SGDSolver(solver_file(tmp_path))
    assert solver.iter == 0 and solver.lr == pytest.approx(0.01)
    assert isinstance(solver.net, caffe.Net) and len(solver.test_nets) == 1
    assert list(solver.test_nets[0].blobs) == list(solver.net.blobs)
    param = solver.param
    assert (param.max_iter, param.display, param.layer_wise_reduce) == (8, 0, True)
    assert param.base_lr == pytest.approx(0.01)
    with pytest.raises(AttributeError):
        solver.iter = 5


def test_a_solvers_attributes(tmp_path):
    path = solver_file(tmp_path)
    solver = caffe.get_solver(path.encode())
    for name in ("net", "test_nets", "iter", "lr"):
        with pytest.raises(AttributeError):
            setattr(solver, name, None)
    solver.history, solver.net.blobs["ip"].mine = [], 3  # a program's own, by names that pycaffe leaves free
    solver.step(1)
    assert solver.history == [] and solver.net.blobs["data"].data.size
    with pytest.raises(WRONG_CALL):
        solver.share_weights(3)


def test_step_and_solve(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path))
    solver.step(3)
    assert solver.iter == 3 and solver.lr == pytest.approx(0.01 * (1 + 0.1 * 3) ** -0.75)
    solver.solve()
    assert solver.iter == 8
    assert os.path.exists(str(tmp_path / "small_iter_8.caffemodel"))
    assert os.path.exists(str(tmp_path / "small_iter_8.solverstate"))
    solver.step(2)
    assert solver.iter == 10


def test_apply_update(tmp_path):
    solver = caffe.SGDSolver(solver_file(tmp_path))
    blob = solver.net.params["conv"][1]  # twice the rate
    for blobs in solver.net.params.values():
        for b in blobs:
            b.data[...] = 0
            b.diff[...] = 0
    solver.apply_update()
    assert not blob.data.any() and solver.iter == 1
    blob.diff[...] = 1
    solver.apply_update()
    first = 0.02 * (1 + 0.1) ** -0.75
    np.testing.assert_allclose(blob.data, -first, rtol=1e-5)
    np.testing.assert_allclose(blob.diff, first, rtol=1e-5)  # what was subtracted
    assert not solver.net.params["conv"][0].data.any() and solver.iter == 2


def test_base_lr_can_be_changed(tmp_path):
    solver = caffe.SGDSolver(solver_file(tmp_path))
    solver.param.base_lr = 0.5
    assert solver.lr == pytest.approx(0.5)


def test_snapshot_and_restore(tmp_path):
    path = solver_file(tmp_path)
    solver = caffe.get_solver(path)
    solver.step(4)
    solver.snapshot()
    for kind in ("caffemodel", "solverstate"):
        assert os.path.exists(str(tmp_path / ("small_iter_4." + kind)))
    other = caffe.get_solver(path)
    other.restore(str(tmp_path / "small_iter_4.solverstate"))
    assert other.iter == 4
    same_weights(solver.net, other.net)
    # With the same gradients both go on alike: momentum was restored.
    for one in (solver, other):
        one.net.clear_param_diffs()
        one.apply_update()
    same_weights(solver.net, other.net)


def test_solve_from_a_snapshot(tmp_path):
    path = solver_file(tmp_path)
    solver = caffe.get_solver(path)
    solver.step(5)
    solver.snapshot()
    other = caffe.get_solver(path)
    other.solve(str(tmp_path / "small_iter_5.solverstate"))
    assert other.iter == 8


def test_nets_outlive_their_solver(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path))
    nets = [solver.net] + list(solver.test_nets)
    del solver
    gc.collect()
    for net in nets:
        net.forward()
        assert np.isfinite(sum(float(b.data.sum()) for blobs in net.params.values() for b in blobs))


def test_test_nets_have_their_own_weights_until_the_first_test(tmp_path):
    """As BVLC's, which shares them in each test: what is loaded into one before must not reach the train net."""
    solver = caffe.SGDSolver(solver_file(tmp_path, "test_initialization: false"))
    train, test = solver.net.params["ip"][0], solver.test_nets[0].params["ip"][0]
    before = train.data.copy()
    test.data[...] = 5
    np.testing.assert_array_equal(train.data, before)
    solver.step(1)
    assert (test.data == 5).all()
    solver.step(3)  # (a test comes every third iteration)
    same_weights(solver.net, solver.test_nets[0])


def test_test_nets_see_the_trained_weights(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path, "snapshot_after_train: false"))
    solver.solve()
    solver.test_nets[0].share_with(solver.net)
    same_weights(solver.net, solver.test_nets[0])


def test_share_weights(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path))
    net = caffe.Net(write(tmp_path, SMALL), caffe.TEST)
    solver.share_weights(net)
    solver.net.params["ip"][1].data[...] = 4
    assert (net.params["ip"][1].data == 4).all()


def every_diff(solver):
    return [blob.diff for blobs in solver.net.params.values() for blob in blobs]


def test_held_gradients_are_live(tmp_path):
    solver, other = (caffe.get_solver(solver_file(tmp_path)) for _ in range(2))
    held = every_diff(solver)
    for _ in range(3):
        for one in (solver, other):
            caffe.set_random_seed(5)
            one.step(1)
        for array, touched in zip(held, every_diff(other)):
            np.testing.assert_array_equal(array, touched)  # the update, which a solver leaves there
    assert all(array.any() for array in held)
    solver.net.clear_param_diffs()
    assert not any(array.any() for array in held)
    for array in held:
        array[...] = 1
    before = solver.net.params["ip"][1].data.copy()
    solver.apply_update()
    assert not np.array_equal(solver.net.params["ip"][1].data, before)


def test_infinite_gradients_are_clipped_to_zero(tmp_path):
    solvers = [caffe.get_solver(solver_file(tmp_path, "clip_gradients: 1")) for _ in range(2)]
    for solver, value in zip(solvers, (np.inf, 0)):
        caffe.set_random_seed(5)
        solver.step(1)
        for array in every_diff(solver):
            array[...] = value
        solver.apply_update()
    same_weights(solvers[0].net, solvers[1].net)


def test_solver_callbacks(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path))
    seen = []
    solver.add_callback(
        lambda: seen.append(("start", bool(solver.net.params["ip"][0].diff.any()))),
        lambda: seen.append(("gradients", bool(solver.net.params["ip"][0].diff.any()))),
    )
    solver.step(2)
    assert seen == [("start", False), ("gradients", True)] * 2


def test_callbacks_at_the_start_see_the_last_iteration(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path))
    seen = []
    solver.add_callback(
        lambda: solver.iter == 2 and seen.append(float(solver.net.blobs["loss"].data)),
        lambda: solver.iter == 1 and seen.append(solver.net._forward(0, len(solver.net.layers) - 1)),
    )
    solver.step(3)
    assert seen[0] == seen[1] > 0


def test_wrong_calls_of_solvers(tmp_path):
    solver = caffe.get_solver(solver_file(tmp_path))
    for call in (caffe.SGDSolver, lambda: caffe.SGDSolver(3), solver.step, lambda: solver.step("a"),
                 lambda: solver.step(1.5), solver.restore, lambda: solver.restore(3),
                 lambda: caffe.get_solver(3)):  # fmt: skip
        with pytest.raises(WRONG_CALL):
            call()


def test_wrong_calls_of_nets(small):
    for call in (small.copy_from, lambda: small.copy_from(3), small.save, lambda: small.save(3),
                 lambda: small.share_with(3), lambda: small.load_hdf5(3), lambda: small.reshape(3)):  # fmt: skip
        with pytest.raises(WRONG_CALL):
            call()


# -- Python layers -------------------------------------------------------------------------------------------------


class TenTimes(caffe.Layer):
    def setup(self, bottom, top):
        self.calls = ["setup"]

    def reshape(self, bottom, top):
        self.calls.append("reshape")
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        self.calls.append("forward")
        top[0].data[...] = 10 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.calls.append("backward")
        bottom[0].diff[...] = 10 * top[0].diff


class Fails(TenTimes):
    def setup(self, bottom, top):
        raise RuntimeError("this layer cannot be set up")


class FailsLater(TenTimes):
    def forward(self, bottom, top):
        raise KeyError("no such thing")


class Learns(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = self.blobs[0].data[0]

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] = 1


class Holds(Learns):
    def setup(self, bottom, top):
        Learns.setup(self, bottom, top)
        self.gradient = self.blobs[0].diff

    def backward(self, top, propagate_down, bottom):
        self.gradient[0] += 1


class Zero(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = 0

    def backward(self, top, propagate_down, bottom):
        pass


class Tells(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(2)

    def forward(self, bottom, top):
        top[0].data[...] = self.phase, float(self.param_str or 0)

    def backward(self, top, propagate_down, bottom):
        pass


def python_layer(name, bottom, top, cls, extra="", param=""):
    bottoms = f'bottom: "{bottom}"' if bottom else ""
    settings = f'python_param {{ module: "{__name__}" layer: "{cls}" {param} }}'
    return f'layer {{ name: "{name}" type: "Python" {bottoms} top: "{top}" {settings} {extra} }}\n'


INPUT = 'force_backward: true layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 10 dim: 9 } } }\n'


def test_python_layer(tmp_path):
    text = INPUT + python_layer("one", "x", "y", "TenTimes") + python_layer("two", "y", "z", "TenTimes")
    net = caffe.Net(write(tmp_path, text), caffe.TRAIN)
    net.blobs["x"].data[...] = np.arange(90).reshape(10, 9)
    np.testing.assert_array_equal(net.forward()["z"], 100 * np.arange(90).reshape(10, 9))
    net.blobs["z"].diff[...] = 7
    net.backward()
    assert (net.blobs["x"].diff == 700).all()
    calls = net.layers[1].calls
    assert calls[:2] == ["setup", "reshape"] and calls[-2:] == ["forward", "backward"]
    net.blobs["x"].reshape(2, 3)
    net.blobs["x"].data[...] = 1
    assert (net.forward()["z"] == np.full((2, 3), 100)).all()
    assert net.blobs["y"].data.shape == (2, 3)


def test_errors_of_python_layers_surface(tmp_path):
    with pytest.raises(RuntimeError):
        caffe.Net(write(tmp_path, INPUT + python_layer("one", "x", "y", "Fails")), caffe.TRAIN)
    net = caffe.Net(write(tmp_path, INPUT + python_layer("one", "x", "y", "FailsLater")), caffe.TRAIN)
    with pytest.raises(KeyError):
        net.forward()


def test_parameters_of_python_layers(tmp_path):
    path = write(tmp_path, "force_backward: true " + python_layer("one", "", "y", "Learns"))
    net = caffe.Net(path, caffe.TRAIN)
    assert float(net.forward()["y"][0]) == 0
    net.backward()
    assert float(net.params["one"][0].diff[0]) == 1
    net.clear_param_diffs()
    assert float(net.params["one"][0].diff[0]) == 0
    net.params["one"][0].data[0] = 3
    weights = str(tmp_path / "w.caffemodel")
    net.save(weights)
    assert float(caffe.Net(path, weights, caffe.TRAIN).forward()["y"][0]) == 3


def test_a_python_layer_may_hold_its_gradient(tmp_path):
    net = (
        python_layer("p", "", "y", "Holds")
        + python_layer("z", "", "z", "Zero")
        + """
        layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "z" top: "loss" }"""
    )
    solver = caffe.get_solver(solver_file(tmp_path, net=net))
    solver.step(1)
    np.testing.assert_allclose(solver.net.params["p"][0].data, -0.01)
    solver.step(1)
    assert solver.net.params["p"][0].data[0] < -0.02


OWN_NAMES = "p device layer_param loss_weights param_propagate_down param_field state close user hold".split()


class HasItsOwn(Tells):
    type = "mine"
    recorded = "of the class"

    def __init__(self, *args):
        super().__init__(*args)
        assert not hasattr(self, "phase") and not hasattr(self, "param_str")

    def setup(self, bottom, top):
        for name in OWN_NAMES:
            assert not hasattr(self, name)
            setattr(self, name, "own " + name)

    def scaling(self):
        return "own method"


class SetsItsType(Tells):
    def setup(self, bottom, top):
        self.type = "mine"


class SetsItsBlobs(Tells):
    def setup(self, bottom, top):
        self.blobs = []


def test_python_layers_may_have_attributes_of_any_name(tmp_path):
    net = caffe.Net(write(tmp_path, python_layer("one", "", "y", "HasItsOwn", param="param_str: '3'")), caffe.TEST)
    for _ in range(2):
        np.testing.assert_array_equal(net.forward()["y"], [1, 3])
    net.backward()
    mine = net.layers[0]
    assert [getattr(mine, name) for name in OWN_NAMES] == ["own " + name for name in OWN_NAMES]
    assert (mine.type, mine.recorded, mine.scaling()) == ("mine", "of the class", "own method")
    assert isinstance(mine, caffe.Layer) and list(mine.blobs) == []
    for cls in ("SetsItsType", "SetsItsBlobs"):
        with pytest.raises(AttributeError):
            caffe.Net(write(tmp_path, python_layer("one", "", "y", cls)), caffe.TEST)


def test_what_a_layer_is(small):
    assert all(isinstance(layer, caffe.Layer) for layer in small.layers)
    assert hasattr(caffe.Layer, "blobs") and hasattr(caffe.Layer, "type")
    for name in ("forward", "backward", "p", "device", "phase", "layer_param"):
        assert not hasattr(caffe.Layer, name)
    for arguments in ((), (3,), (None,)):
        with pytest.raises(TypeError):
            caffe.Layer(*arguments)
    with pytest.raises(AttributeError):
        small.layers[1].blobs = None


def test_phase_and_param_str(tmp_path):
    path = write(tmp_path, python_layer("one", "", "y", "Tells", param="param_str: '2.5'"))
    for phase in (caffe.TRAIN, caffe.TEST):
        np.testing.assert_array_equal(caffe.Net(path, phase).forward()["y"], [phase, 2.5])


# -- NetSpec -------------------------------------------------------------------------------------------------------


def lenet(batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(shape=[dict(dim=[batch_size, 1, 28, 28]), dict(dim=[batch_size, 1, 1, 1])],
                                  transform_param=dict(scale=1.0 / 255), ntop=2)  # fmt: skip
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=50, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def test_net_spec(tmp_path):
    proto = lenet(5)
    assert [layer.name for layer in proto.layer] == "data conv1 pool1 ip1 relu1 ip2 loss".split()
    assert list(proto.layer[0].top) == ["data", "label"] and list(proto.layer[4].bottom) == ["ip1"]
    assert proto.layer[4].top[0] == "ip1" and proto.layer[2].pooling_param.pool == P.Pooling.MAX
    net = caffe.Net(write(tmp_path, str(proto)), caffe.TEST)
    assert [layer.type for layer in net.layers][:3] == ["DummyData", "Convolution", "Pooling"]
    assert set(net.forward()) == {"loss"}


def test_net_spec_takes_messages_where_a_field_is_repeated():
    n = caffe.NetSpec()
    n.x = L.DummyData(shape=caffe_pb2.BlobShape(dim=[2, 3]), data_filler=[caffe_pb2.FillerParameter(type="gaussian")],
                      include=[caffe_pb2.NetStateRule(phase=caffe.TRAIN)])  # fmt: skip
    given = caffe_pb2.ParamSpec(lr_mult=3)
    n.conv = L.Convolution(n.x, num_output=2, param=[given, caffe_pb2.ParamSpec(lr_mult=0)])
    data, conv = n.to_proto().layer
    assert list(data.dummy_data_param.shape[0].dim) == [2, 3] and data.include[0].phase == caffe.TRAIN
    assert data.dummy_data_param.data_filler[0].type == "gaussian"
    assert [param.lr_mult for param in conv.param] == [3, 0]
    conv.param[0].lr_mult = 5
    assert given.lr_mult == 3 and isinstance(n.tops, OrderedDict)


def test_net_spec_by_hand():
    layer, solver = caffe_pb2.LayerParameter(), caffe_pb2.SolverParameter()
    assign = caffe.net_spec.assign_proto
    assign(layer, "name", "a")
    assign(layer, "top", ["b", "c"])
    assign(layer, "top", "d")
    assign(layer, "param", dict(lr_mult=2))
    assign(layer, "convolution_param", dict(kernel_size=3, weight_filler=dict(type="xavier")))
    assign(solver, "stepvalue", [1, 2])
    assert (layer.name, list(layer.top), layer.param[0].lr_mult) == ("a", ["b", "c", "d"], 2)
    assert layer.convolution_param.weight_filler.type == "xavier" and list(solver.stepvalue) == [1, 2]
    for name, value in (("nope", 1), ("convolution_param", dict(nope=1))):
        with pytest.raises(AttributeError):
            assign(layer, name, value)
    names = caffe.net_spec.param_name_dict()
    assert (names["Convolution"], names["InnerProduct"], names["BatchNorm"], names["ReLU"]) == (
        "convolution", "inner_product", "batch_norm", "relu")  # fmt: skip


def test_parameters_of_coordinate_maps(monkeypatch):
    from caffe import coord_map

    data = L.Data()
    conv = L.Convolution(data, kernel_size=[3, 5], dilation=2, stride=2, pad=1, axis=2)
    axis, stride, extent, pad = coord_map.conv_params(conv.fn)
    assert (axis, stride.tolist(), extent.tolist(), pad.tolist()) == (2, [2], [5, 9], [1])
    up = L.Deconvolution(data, convolution_param=dict(kernel_size=4))
    assert [np.ravel(x).tolist() for x in coord_map.conv_params(up.fn)] == [[1], [1], [4], [0]]
    with pytest.raises(AssertionError):
        coord_map.conv_params(L.Convolution(data, kernel_size=3, pad_h=1).fn)
    for settings, wanted in (({}, (2, [0])), (dict(axis=1, offset=5), (1, [5])),
                             (dict(crop_param=dict(axis=3, offset=[1, 2])), (3, [1, 2]))):  # fmt: skip
        axis, offset = coord_map.crop_params(L.Crop(data, data, **settings).fn)
        assert (axis, offset.tolist()) == wanted
    monkeypatch.setattr(coord_map, "PASS_THROUGH_LAYERS", list(coord_map.PASS_THROUGH_LAYERS))
    with pytest.raises(coord_map.UndefinedMapException):
        coord_map.coord_map(L.Mine(data).fn)
    coord_map.PASS_THROUGH_LAYERS.append("Mine")
    assert coord_map.coord_map(L.Mine(data).fn) == (None, 1, 0)


def test_net_spec_names_what_has_no_name():
    data, label = L.DummyData(shape=[dict(dim=[2, 3])] * 2, ntop=2)
    loss = L.SoftmaxWithLoss(L.InnerProduct(data, num_output=4), label)
    proto = loss.to_proto()
    assert [layer.type for layer in proto.layer] == ["DummyData", "InnerProduct", "SoftmaxWithLoss"]
    assert proto.layer[2].bottom[0] == proto.layer[1].top[0] == proto.layer[1].name
    assert caffe.to_proto(loss) == proto


def test_net_spec_with_no_tops_and_wrong_bottoms():
    n = caffe.NetSpec()
    n.data = L.DummyData(shape=dict(dim=[3, 4]))
    n.silence = L.Silence(n.data, ntop=0)
    assert len(n.to_proto().layer[1].top) == 0
    with pytest.raises(TypeError):
        L.Convolution(["data"])


# -- io ------------------------------------------------------------------------------------------------------------


def test_arrays_and_messages():
    array = np.random.RandomState(5).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(caffe.io.array_to_blobproto(array)), array)
    many = caffe.io.blobprotovector_str_to_arraylist(caffe.io.arraylist_to_blobprotovector_str([array, array + 1]))
    np.testing.assert_array_equal(many, [array, array + 1])
    np.testing.assert_array_equal(caffe.io.datum_to_array(caffe.io.array_to_datum(array, 4)), array)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    datum = caffe.io.array_to_datum(picture, 7)
    assert datum.label == 7 and datum.data == picture.tobytes() and datum.channels == 2
    np.testing.assert_array_equal(caffe.io.datum_to_array(datum), picture)
    with pytest.raises(ValueError):
        caffe.io.array_to_datum(picture[0])


def test_blobproto_with_and_without_legacy_sizes():
    blob = caffe_pb2.BlobProto(data=range(12))
    blob.shape.dim.extend([3, 4])
    assert caffe.io.blobproto_to_array(blob).shape == (3, 4)
    blob = caffe_pb2.BlobProto(data=range(12), num=1, channels=2, height=3, width=2)
    assert caffe.io.blobproto_to_array(blob).shape == (1, 2, 3, 2)


def test_transformer():
    t = caffe.io.Transformer({"data": (1, 3, 6, 5)})
    t.set_transpose("data", (2, 0, 1))
    t.set_channel_swap("data", (2, 1, 0))
    t.set_raw_scale("data", 255)
    t.set_mean("data", np.array([10.0, 20.0, 30.0]))
    t.set_input_scale("data", 0.5)
    image = np.random.RandomState(6).uniform(size=(6, 5, 3)).astype(np.float32)
    ready = t.preprocess("data", image)
    wanted = (image.transpose(2, 0, 1)[::-1] * 255 - np.array([10, 20, 30])[:, None, None]) * 0.5
    np.testing.assert_allclose(ready, wanted, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(t.deprocess("data", ready), image, rtol=1e-4, atol=1e-5)
    assert t.preprocess("data", np.ones((9, 4, 3), np.float32)).shape == (3, 6, 5)
    with pytest.raises(Exception):  # noqa: B017 - pycaffe raises Exception itself
        t.set_transpose("other", (2, 0, 1))
    with pytest.raises(ValueError):
        t.set_mean("data", np.zeros(2))


def test_a_mean_of_two_axes():
    transformer = caffe.io.Transformer({"data": (1, 1, 2, 3)})
    mean = np.arange(6.0).reshape(2, 3)
    transformer.set_mean("data", mean)
    assert transformer.mean["data"].shape == (2, 3)
    ready = transformer.preprocess("data", np.full((2, 3), 10.0))
    np.testing.assert_array_equal(ready, 10 - mean)
    np.testing.assert_array_equal(transformer.deprocess("data", ready), np.full((2, 3), 10))
    transformer.set_transpose("data", (2, 0, 1))
    np.testing.assert_array_equal(transformer.preprocess("data", np.full((2, 3, 1), 10.0)), 10 - mean[np.newaxis])


def test_resize_and_oversample():
    assert caffe.io.resize_image(np.random.RandomState(7).uniform(size=(8, 6, 3)), (4, 9)).shape == (4, 9, 3)
    image = np.arange(6 * 5 * 3, dtype=np.float32).reshape(6, 5, 3)
    crops = caffe.io.oversample([image, image + 1], (4, 3))
    assert crops.shape == (20, 4, 3, 3)
    np.testing.assert_array_equal(crops[0], image[:4, :3])
    np.testing.assert_array_equal(crops[4], image[1:5, 1:4])
    np.testing.assert_array_equal(crops[5:10], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[10], image[:4, :3] + 1)


# -- Classifier and Detector ---------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    net = caffe.Net(write(tmp_path, DEPLOY), caffe.TEST)
    path = str(tmp_path / "deploy.caffemodel")
    net.save(path)
    return path, net.params["ip"][0].data.copy(), net.params["ip"][1].data.copy()


def test_classifier(tmp_path, weights):
    path, w, b = weights
    mean = np.array([1.0, 2.0, 3.0])
    model = caffe.Classifier(write(tmp_path, DEPLOY), path, image_dims=(8, 7), mean=mean, raw_scale=255,
                             channel_swap=(2, 1, 0), input_scale=0.01)  # fmt: skip
    assert isinstance(model, caffe.Net) and tuple(model.image_dims) == (8, 7) and list(model.crop_dims) == [5, 5]
    images = [np.random.RandomState(i).uniform(size=(8, 7, 3)).astype(np.float32) for i in range(3)]

    def scores(crops):
        x = (crops.transpose(0, 3, 1, 2)[:, ::-1] * 255 - mean[:, None, None]) * 0.01
        return softmax(x.reshape(len(x), -1).dot(w.T) + b)

    np.testing.assert_allclose(
        model.predict(images), scores(caffe.io.oversample(images, (5, 5))).reshape(3, 10, 2).mean(axis=1), atol=1e-5
    )
    centre = np.array(images)[:, 1:6, 1:6]
    np.testing.assert_allclose(model.predict(images, oversample=False), scores(centre), atol=1e-5)


def test_detector(tmp_path, weights, monkeypatch):
    path, w, b = weights
    image = np.random.RandomState(8).uniform(size=(20, 30, 3)).astype(np.float32)
    monkeypatch.setattr(caffe.io, "load_image", lambda name: image)
    model = caffe.Detector(write(tmp_path, DEPLOY), path, mean=np.ones((3, 5, 5)), raw_scale=2, channel_swap=(2, 1, 0))
    windows = [(0, 0, 5, 5), (3, 4, 8, 9), (10, 20, 15, 25)]
    found = model.detect_windows([("one.png", windows[:2]), ("two.png", windows[2:])])
    assert [(f["filename"], tuple(f["window"])) for f in found] == list(zip(["one.png"] * 2 + ["two.png"], windows))
    crops = np.array([image[y0:y1, x0:x1] for y0, x0, y1, x1 in windows])
    x = crops.transpose(0, 3, 1, 2)[:, ::-1] * 2 - 1
    wanted = softmax(x.reshape(3, -1).dot(w.T) + b)
    np.testing.assert_allclose(np.array([f["prediction"] for f in found]).reshape(3, 2), wanted, atol=1e-5)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", *sys.argv[1:]]))
