"""A convolution that does the work of the BatchNorm, Scale and ReLU after it: the same values, whatever happens to the
blobs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchcaffe as caffe
from torchcaffe.core.memory import Memory

NET = """
force_backward: %s
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 5 kernel_size: 3 pad: 1 bias_term: %s weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "s" type: "Scale" bottom: "c" top: "c"
  scale_param { bias_term: true filler { type: "gaussian" std: 1 } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 } }
"""


@pytest.fixture(params=["true", "false"])
def net(request, tmp_path):
    caffe.set_random_seed(1)
    (tmp_path / "net.prototxt").write_text(NET % ("false", request.param))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    random = np.random.RandomState(0)
    net.blobs["x"].data[...] = random.randn(2, 3, 7, 6)
    mean, variance, factor = net.params["n"]
    mean.data[...], variance.data[...], factor.data[...] = random.randn(5), random.rand(5) + 0.5, 2
    net.params["s"][1].data[...] = random.randn(5)
    return net


def apart(net) -> np.ndarray:
    """The answer with every layer on its own."""
    for i in range(len(net.layers)):
        net.run_forward(i, i)
    return net.blobs["p"].data.copy()


def together(net) -> np.ndarray:
    net.run_forward(0, len(net.layers) - 1)
    return net.blobs["p"].data.copy()


def assert_same(net) -> np.ndarray:
    answer = together(net)
    np.testing.assert_allclose(answer, apart(net), rtol=2e-5, atol=2e-6)
    return answer


def test_blobs_that_a_program_appends_take_no_part(net):
    wanted = together(net)
    for layer in net.layers:
        layer.blobs.add_blob(5)
        layer.blobs[-1].data[...] = 7
    np.testing.assert_array_equal(assert_same(net), wanted)


def test_what_is_fused(net):
    assert [[layer.type for layer in node.fused] for node in net.nodes] == [
        [],
        ["BatchNorm", "Scale", "ReLU"],
        [],
        [],
        [],
        [],
    ]
    assert_same(net)


def test_no_layer_is_fused_whose_backward_needs_what_it_kept(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET % ("true", "true"))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    assert not any(node.fused for node in net.nodes)


def test_a_loss_in_place_counts(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
      layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
      layer { name: "c" type: "Convolution" bottom: "x" top: "c"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
      layer { name: "r" type: "ReLU" bottom: "c" top: "c" loss_weight: 2 }""")
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.blobs["x"].data[...] = np.random.RandomState(0).randn(2, 3, 4, 5)
    loss = net._forward(0, len(net.layers) - 1)
    np.testing.assert_allclose(loss, 2 * net.blobs["c"].data.sum(), rtol=1e-5)
    assert loss > 0


def test_a_product_in_place_is_the_bias_with_what_follows_too(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
      layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
      layer { name: "c" type: "Convolution" bottom: "x" top: "x" convolution_param { num_output: 3 kernel_size: 1
        weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.5 } } }
      layer { name: "r" type: "ReLU" bottom: "x" top: "x" }""")
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.blobs["x"].data[...] = np.random.RandomState(0).randn(2, 3, 4, 5)
    net.forward()
    assert (net.blobs["x"].data == 0.5).all()


@pytest.mark.parametrize("layer, index", [("c", 0), ("n", 0), ("n", 1), ("n", 2), ("s", 0), ("s", 1)])
def test_changed_weights(net, layer, index):
    before = assert_same(net)
    net.params[layer][index].data[...] *= 1.5
    changed = assert_same(net)
    assert np.abs(changed - before).max() > 1e-2
    view = net.params[layer][index].data[:]  # a view that the user keeps
    for _ in range(2):
        view *= 0.5
        assert np.abs(assert_same(net) - changed).max() > 1e-3
        changed = together(net)


def test_shared_weights(net):
    other = caffe.Net(net.source, caffe.TEST)
    for blob in other.params["n"]:
        blob.data[...] = 1
    before = assert_same(net)
    net.share_with(other)
    shared = assert_same(net)
    assert np.abs(shared - before).max() > 1e-2
    other.params["c"][0].load(np.ones((5, 3, 3, 3)))
    assert np.abs(assert_same(net) - shared).max() > 1e-2


def test_weights_that_a_solver_updates(tmp_path):
    loss = 'layer { name: "l" type: "Reduction" bottom: "p" top: "l" loss_weight: 1 include { phase: TRAIN } }'
    layers = (NET % ("false", "true")).replace('"n"', '"n" batch_norm_param { use_global_stats: true }')
    (tmp_path / "net.prototxt").write_text(layers + loss)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1 '
        "test_iter: 1 test_interval: 100 test_initialization: false"
    )
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    net = solver.test_nets[0]
    solver.share_weights(net)
    assert len(net.nodes[1].fused) == 3
    for of in (net, solver.net):
        of.blobs["x"].data[...] = np.random.RandomState(0).randn(2, 3, 7, 6)
    for blob in solver.net.params["n"]:
        blob.data[...] = 1
    before = assert_same(net)
    for _ in range(2):
        solver.step(1)
        assert np.abs(assert_same(net) - before).max() > 1e-2
        before = together(net)


def test_a_part_of_the_net_and_callbacks(net):
    whole = apart(net)
    net.forward(end="c")
    convolved = net.blobs["c"].data.copy()
    assert (convolved < 0).any()
    net.forward(start="n", end="s")
    assert (net.blobs["c"].data < 0).any() and np.abs(net.blobs["c"].data - convolved).max() > 1e-2
    net.forward(start="r")
    np.testing.assert_array_equal(net.blobs["p"].data, whole)
    seen = []
    net.after_forward(lambda i: seen.append(net.blobs["c"].data.copy()))
    np.testing.assert_array_equal(together(net), whole)
    np.testing.assert_array_equal(seen[1], convolved)


def test_not_a_number_stays_one(net):
    net.blobs["x"].data[0, 0, 3, 3] = np.nan
    net.forward()
    assert np.isnan(net.blobs["c"].data).sum() == 9 * 5


def test_the_same_memory_is_stamped_anew_by_every_change():
    memory = Memory(torch.zeros(4))
    memory.fix()
    stamps = [memory.stamp()]
    assert memory.stamp() == stamps[0]
    memory.tensor.add_(1)
    stamps.append(memory.stamp())
    memory.set(torch.ones(4))
    stamps.append(memory.stamp())
    array = memory.touch((4,), "cpu")
    assert memory.stamp() is None
    part = array[1:2]
    del array
    assert memory.stamp() is None
    tensor = torch.from_numpy(part)
    del part
    assert memory.stamp() is None
    del tensor
    stamps.append(memory.stamp())
    assert None not in stamps and len(set(stamps)) == len(stamps)
    assert Memory(torch.zeros(4)).stamp() != Memory(torch.zeros(4)).stamp()


def test_what_is_computed_in_its_own_place():
    memory = Memory(torch.zeros(4))
    assert memory.owned()
    held = memory.tensor
    assert not memory.owned()
    held = held[1:]  # a part of it
    assert not memory.owned()
    del held
    assert memory.owned()
    memory.touch((4,), "cpu")
    assert not memory.owned()


def test_what_comes_out_of_layers_is_their_blobs_alone(net):
    # Else nothing would be computed in place any more, which no result shows.
    net.run_forward(0, 1)
    assert net.blobs["c"].data_memory.owned()
    net.run_forward(2, len(net.layers) - 1)
    assert net.blobs["c"].data_memory.owned() and net.blobs["p"].data_memory.owned()


def test_a_concatenation_and_its_parts_are_in_memory_once(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 2 dim: 3 dim: 4 } } }
layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { shift: 1 } }
layer { name: "b" type: "Power" bottom: "x" top: "b" power_param { shift: 2 } }
layer { name: "c" type: "Concat" bottom: "a" bottom: "b" bottom: "x" top: "c" }
layer { name: "d" type: "ReLU" bottom: "c" top: "c" }""")
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    x = np.random.RandomState(0).randn(2, 2, 3, 4).astype(np.float32)
    held, join = net.blobs["b"].data, net._layer_names.index("c")
    net.blobs["x"].data[...] = x
    for _ in range(2):
        net.run_forward(0, join)
        a, b, c = (net.blobs[name].data_memory.tensor.untyped_storage().data_ptr() for name in "abc")
        assert a == c != b
        net.run_forward(join + 1, join + 1)  # in place of c, but a stays as it is
        np.testing.assert_array_equal(net.blobs["a"].t.numpy(), x + 1)
        np.testing.assert_array_equal(held, x + 2)
    np.testing.assert_array_equal(net.blobs["c"].data, np.maximum(np.concatenate([x + 1, x + 2, x], 1), 0))


def test_gradients_that_are_shared_are_not_overwritten(tmp_path):
    # Eltwise hands one gradient to both branches, and Concat parts of one.
    (tmp_path / "net.prototxt").write_text("""force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 } } }
layer { name: "a" type: "Power" bottom: "x" top: "a" }
layer { name: "b" type: "Power" bottom: "x" top: "b" power_param { scale: -1 } }
layer { name: "ra" type: "ReLU" bottom: "a" top: "a" }
layer { name: "rb" type: "ReLU" bottom: "b" top: "b" }
layer { name: "c" type: "Concat" bottom: "a" bottom: "b" top: "c" }
layer { name: "d" type: "Power" bottom: "c" top: "d" }
layer { name: "rd" type: "ReLU" bottom: "d" top: "d" }
layer { name: "s" type: "Eltwise" bottom: "c" bottom: "d" top: "s" }""")
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    x = np.random.RandomState(0).randn(1, 2, 3, 4).astype(np.float32)
    net.blobs["x"].data[...] = x
    net.run_forward(0, len(net.layers) - 1)
    net.blobs["s"].diff[...] = 1
    net.run_backward(len(net.layers) - 1, 0)
    assert (net.blobs["c"].diff == 1 + (net.blobs["c"].data > 0)).all()
    np.testing.assert_array_equal(net.blobs["x"].diff, np.where(x > 0, 2, -2))
