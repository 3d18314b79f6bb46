"""Passes that a GPU replays from a recording, on the CPU: a tape stands in for the CUDA graph. Like one it runs the
recorded operations again on the tensors they had, and nothing else."""

from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import torchcaffe as caffe
from ilgnet.train import runs
from tests.torchcaffe.gpu.recorded import (
    NET,
    assert_all_same,
    assert_same,
    everything,
    failing,
    made,
    make,
    record,
    tape,
)
from torchcaffe.core.blob import Parameter
from torchcaffe.core.memory import Memory
from torchcaffe.data.transform import DataTransformer
from torchcaffe.formats import blobproto
from torchcaffe.gpu.recording import Recording
from torchcaffe.nets.passes import Passes
from torchcaffe.ops.data import place_crops
from torchcaffe.proto import caffe_pb2, parse_text
from torchcaffe.random.rng import Rng

pytestmark = pytest.mark.usefixtures("one_thread", "quiet")


@pytest.mark.parametrize(
    "settings",
    [
        'lr_policy: "step"',
        'lr_policy: "step" iter_size: 2',
        'lr_policy: "step" type: "Nesterov"',
        'lr_policy: "fixed" type: "Adam" momentum2: 0.9',
        'lr_policy: "inv" power: 0.5',
    ],
)
def test_replayed_training_is_bit_for_bit_the_eager_one(folder, settings):
    eager, recorded = make(settings), make(settings, tape)
    tests = []
    for solver in (eager, recorded):
        caffe.set_random_seed(4)  # both drew from one stream so far
        solver.step(9)
        kinds = 0 if solver is eager else 2 if "iter_size" in settings else 1
        assert made(solver.net) == (solver is recorded, kinds)
        solver.net.params["ip"][0].data[1] *= 0.5  # what somebody writes counts
        solver.net.blobs["norm"].data  # noqa: B018  (somebody looks: other memory from now on)
        solver.step(8)
        tests.append(solver.test())
        assert made(solver.test_nets[0]) == (solver is recorded, 0)
    assert_same(eager, recorded)
    assert tests[0] == tests[1]
    for name in ("norm", "loss"):
        np.testing.assert_array_equal(*(solver.net.blobs[name].data for solver in (eager, recorded)))
    assert eager.loss.mean() == recorded.loss.mean()
    follows = "Adam" not in settings and "inv" not in settings  # those have other numbers in each update
    assert recorded.update.recording.made is follows


def test_looks_from_outside_end_a_recording(folder):
    solver = make(recorder=tape)
    net = solver.net
    solver.step(4)
    assert made(net) == (True, 1)
    net.forward(end="ip")
    assert made(net) == (False, 0)
    for _ in range(3):  # what backward reads is not where the recording of a whole pass would put it
        net.forward(end="ip")
        net.backward()
        assert made(net) == (False, 0)
    solver.step(4)
    assert made(net) == (True, 1)
    seen = []
    net.after_forward(seen.append)
    solver.step(1)
    assert seen == list(range(len(net.layers))) and made(net)[1] == 0


def test_deploy_nets_replay_on_new_inputs_and_shapes(folder):
    deploy = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 20 dim: 20 } } }'
    deploy += NET[NET.index('layer { name: "conv"') : NET.index('layer { name: "loss"')]
    (folder / "deploy.prototxt").write_text(deploy)
    nets = [caffe.Net("deploy.prototxt", caffe.TEST) for _ in range(2)]
    nets[1].share_with(nets[0])
    record(nets[1], tape)
    rng = np.random.RandomState(2)
    for count in (2, 2, 2, 2, 1, 1, 1, 2):
        x = rng.randn(count, 3, 20, 20).astype(np.float32)
        found = []
        for net in nets:
            net.blobs["data"].reshape(*x.shape)
            found.append(net.forward(data=x)["ip2"].copy())
        np.testing.assert_array_equal(*found)
    assert made(nets[1]) == (False, 0)  # two photos again: the first time as ever
    nets[0].params["ip2"][1].data[...] = 3  # shared: seen by a recording, too
    for _ in range(3):
        found = [net.forward(data=x)["ip2"].copy() for net in nets]
        np.testing.assert_array_equal(*found)
    assert made(nets[1]) == (True, 0)


def test_what_a_recording_reads_is_brought_to_the_device_first():
    """What a user has written to an array since the forward pass, a recorded backward pass must see."""
    order = []

    class Seen(Memory):
        def upload(self):
            order.append("upload")

    recording = Recording(tape)
    for _ in range(3):
        recording.ready("key")
        recording.run([Seen()], lambda: order.append("work"), [Seen()])
    assert order[:3] == ["upload", "upload", "work"] and order.count("upload") == 6


def test_nets_that_need_the_host_are_not_recorded(folder):
    (folder / "noise.prototxt").write_text("""
    layer { name: "d" type: "DummyData" top: "d"
      dummy_data_param { data_filler { type: "gaussian" } shape { dim: 3 } } }
    layer { name: "r" type: "Reduction" bottom: "d" top: "r" }""")
    net = caffe.Net("noise.prototxt", caffe.TRAIN)
    record(net, tape)
    assert len({float(net.forward()["r"]) for _ in range(5)}) == 5


def test_what_cannot_be_recorded_runs_all_the_same_and_says_so(folder, capfd, monkeypatch):
    monkeypatch.delenv("GLOG_minloglevel")

    def refuses(work):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    eager, other = make(), make(recorder=refuses)
    for solver in (eager, other):
        caffe.set_random_seed(4)
        solver.step(5)
    assert_same(eager, other)
    told = capfd.readouterr().err.count("not recorded, so slower: operation not permitted\n")
    assert told == 3  # both nets and the update, once each


@pytest.mark.parametrize(
    "text",
    [
        "crop_size: 9 mirror: true MEAN",
        "MEAN scale: 0.3",
        "mirror: true mean_value: 7.7",
        "crop_size: 11 mean_value: 1 mean_value: 2 mean_value: 3",
        "mirror: true",
    ],
)
def test_the_device_crops_as_the_transformer_does(tmp_path, text):
    rng = np.random.RandomState(3)
    images = list(rng.randint(0, 256, (7, 3, 13, 17)).astype(np.uint8))
    blobproto.write_blobproto(tmp_path / "mean", rng.rand(3, 13, 17).astype(np.float32) * 255)
    param = parse_text(text.replace("MEAN", f'mean_file: "{tmp_path}/mean"'), caffe_pb2.TransformationParameter(), "t")
    transformer = DataTransformer(param, caffe_pb2.TRAIN)
    transformer.init_rand(Rng(8))
    wanted = transformer.transform_batch(images)
    transformer.init_rand(Rng(8))
    packed = transformer.pack(images)
    mean = transformer.mean
    got = place_crops(
        torch.from_numpy(packed.pixels),
        torch.from_numpy(packed.placements),
        wanted.shape[2:],
        None if mean is None else torch.from_numpy(mean.copy()),
        param.scale,
    )
    np.testing.assert_array_equal(got.numpy().view(np.uint32), wanted.view(np.uint32))
    transformer.init_rand(Rng(8))
    got = transformer.pack([image.astype(np.float32) for image in images])  # no bytes: as ever, with the same draws
    np.testing.assert_array_equal(got, wanted)


def test_a_gpu_is_waited_for_where_it_is_displayed_or_snapshots_follow(folder, monkeypatch):
    solver = make('lr_policy: "fixed" display: 4 snapshot: 7')
    solver.net.device = "cuda:0"  # as the loop sees it
    looks, finite = [], math.isfinite
    monkeypatch.setattr(math, "isfinite", lambda value: (looks.append(solver.iter), finite(value))[1])
    watcher = runs.Watcher(solver, solver.p, io.StringIO(), look_every=4)
    monkeypatch.setattr(watcher, "check_loss", lambda done: looks.append(-done))
    solver.add_callback(watcher, lambda: None)
    solver.step(10)
    assert looks == [0, -4, 4, 4, 6, 6, -8, 8, 8]  # the iteration's own loss, and the sum since the last look


def test_a_loss_that_nobody_looked_at_on_a_gpu_stops_training_at_the_next_look(folder, monkeypatch):
    solver = make('lr_policy: "fixed" display: 4')
    solver.net.device = "cuda:0"  # as the loop sees it
    forward = solver.net.run_forward
    monkeypatch.setattr(
        solver.net, "run_forward", lambda *layers: forward(*layers) * (math.nan if solver.iter == 1 else 1.0)
    )
    monkeypatch.setattr(solver._guard, "_stop", lambda solver, bad: pytest.fail(f"{solver.iter}: {bad}"))
    with pytest.raises(pytest.fail.Exception, match="4: the loss of an earlier iteration"):
        solver.step(10)


def test_backward_recordings_know_what_the_diffs_were(folder):
    """After an update a diff's values may be those of the history, to be copied when somebody asks. Passes that a
    script runs itself then add to them, and to what the pass before has left."""
    eager, recorded = make(), make(recorder=tape)
    for solver in (eager, recorded):
        caffe.set_random_seed(4)
        for passes in (1, 2, 1, 1, 2, 2, 1):
            for _ in range(passes):
                solver.net.forward()
                solver.net.backward()
            solver.apply_update()
    assert_same(eager, recorded)


def test_window_data_packs_for_a_device_beside_its_mean(folder):
    cv2.imwrite("a.png", np.random.RandomState(0).randint(0, 256, (30, 40, 3)).astype(np.uint8))
    Path("windows.txt").write_text("# 0\na.png\n3\n30\n40\n2\n1 0.9 2 3 30 25\n0 0.1 5 5 20 20\n")
    Path("windows.prototxt").write_text("""layer { name: "data" type: "WindowData" top: "data" top: "label"
      transform_param { crop_size: 8 mean_file: "mean.binaryproto" }
      window_data_param { source: "windows.txt" batch_size: 2 fg_fraction: 1 } }""")
    batches = []
    for packs in (False, True):
        caffe.set_random_seed(3)
        net = caffe.Net("windows.prototxt", caffe.TEST)
        if packs:
            net.layers[0].pack_for_device()
        net.forward()
        batches.append(net.blobs["data"].data.copy())
    np.testing.assert_array_equal(*batches)


def partly_backward(solver):
    number = solver.net._layer_index
    for first, end in (("loss", "ip2"), ("ip2", "norm"), ("loss", "scale")):
        solver.net._backward(number(first), number(end))


# What a script may do between a solver's passes.
BETWEEN = {
    "nothing": lambda solver: None,
    "partly_backward": partly_backward,
    "backward_of_one_layer": lambda solver: solver.net._backward(*[solver.net._layer_index("ip")] * 2),
    "twice_backward": lambda solver: (solver.net.backward(), solver.net.backward()),
    "forward_alone": lambda solver: solver.net.forward(),
    "forward_and_partly_backward": lambda solver: (solver.net.forward(), partly_backward(solver)),
    "partly_forward": lambda solver: (solver.net._forward(0, solver.net._layer_index("both")), partly_backward(solver)),
    "tests": lambda solver: solver.test(),
    "looks": lambda solver: (solver.net.blobs["norm"].diff, solver.net.blobs["ip"].data),
    "rebinds": lambda solver: [
        setattr(blob, of, getattr(blob, of) + 1)
        for of in ("t", "g")
        for name, blob in solver.net.blobs.items()
        if "_split_" not in name
    ],
}


@pytest.mark.parametrize("iter_size", [1, 3])
@pytest.mark.parametrize("between", BETWEEN)
def test_no_blob_is_stale_whatever_runs_between_the_replays(folder, between, iter_size, monkeypatch):
    """Every blob shows what the last pass wrote, data and diff, though each recording writes to memory of its own."""
    monkeypatch.setattr(Passes, "release", lambda passes: None)  # an eager net lets go of what no pass writes, too
    found, kinds = [], 0
    for recorder in (None, tape):
        solver, seen = make(f'lr_policy: "fixed" iter_size: {iter_size} type: "Nesterov"', recorder), []
        caffe.set_random_seed(4)
        for steps in (3, 1, 2):
            solver.step(steps)
            seen.append(everything(solver.net, *solver.test_nets))
            kinds = max(kinds, made(solver.net)[1])
            BETWEEN[between](solver)
            seen.append(everything(solver.net, *solver.test_nets))
        solver.step(1)
        seen.append(everything(solver.net, *solver.test_nets))
        found.append(seen)
    assert kinds >= min(iter_size, 2)  # it did replay
    for number, (eager, recorded) in enumerate(zip(*found)):
        assert_all_same(eager, recorded, number)


@pytest.mark.parametrize("number", range(1, 6))
def test_after_a_recording_that_fails_every_blob_is_as_without(folder, number):
    found = []
    for recorder in (None, failing(number)):
        solver, seen = make('lr_policy: "fixed" iter_size: 2', recorder), []
        caffe.set_random_seed(4)
        for _ in range(7):
            solver.step(1)
            partly_backward(solver)
            seen.append(everything(solver.net, *solver.test_nets))
        found.append(seen)
    for iteration, (eager, recorded) in enumerate(zip(*found)):
        assert_all_same(eager, recorded, iteration)


# Layers that do more than compute tensors: on the host, or with values of the pass before.
SQUARES = """layer { name: "l" type: "Reduction" bottom: "%s" top: "l" loss_weight: 1
  reduction_param { operation: SUMSQ } }"""
INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }'
PARAMETER = 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 dim: 4 } } }'
LABELS = 'layer { name: "y" type: "DummyData" top: "y" dummy_data_param { shape { dim: 3 } data_filler { value: 2 } } }'
ODD = {
    "a_parameter_as_a_top": PARAMETER + SQUARES % "p",
    "a_diff_that_is_shared_in_backward": PARAMETER
    + 'layer { name: "f" type: "Flatten" bottom: "p" top: "f" }'
    + SQUARES % "f",
    "a_shape_that_backward_changes": INPUT + 'layer { name: "t" type: "TanH" bottom: "x" top: "t" }'
    'layer { name: "m" type: "MVN" bottom: "t" top: "t" }' + SQUARES % "t",
    "a_constant_that_is_overwritten": LABELS.replace('"y"', '"x"')
    + 'layer { name: "w" type: "Power" bottom: "x" top: "x" power_param { scale: 1.1 } }'
    + SQUARES % "x",
    "a_diff_that_forward_writes": INPUT
    + LABELS
    + PARAMETER
    + 'layer { name: "e" type: "Eltwise" bottom: "x" bottom: "p" top: "e" }'
    'layer { name: "l" type: "HingeLoss" bottom: "e" bottom: "y" top: "l" }',
    "an_output_in_place": INPUT + 'layer { name: "w" type: "Power" bottom: "x" top: "w" power_param { scale: 1.1 } }'
    'layer { name: "v" type: "Power" bottom: "w" top: "w" power_param { scale: 3 } }',
}


def odd_passes(case: str, recorder) -> tuple[list[dict], bool]:
    """What the blobs hold after each pass, and whether the last forward pass was replayed."""
    param = parse_text("force_backward: true " + ODD[case], caffe_pb2.NetParameter(), "test")
    param.state.phase = caffe.TRAIN
    net, seen = caffe.Net.from_param(param), []
    record(net, recorder)
    for blobs in net.params.values():
        blobs[0].data[...] = np.arange(12).reshape(3, 4)
    if "w" in net.blobs:
        net.blobs["w"].g = torch.ones(3, 4)
    last = len(net.layers) - 1
    for seed in range(9):
        if "x" in net.inputs:
            net.blobs["x"].data[...] = np.random.RandomState(seed).randn(3, 4)
        net.clear_param_diffs()
        net._forward(0, last)
        seen.append(everything(net))
        for end in (last, 1, 0) if seed in (5, 7) else (0,):
            net._backward(last, end)
            seen.append(everything(net))
    return seen, made(net)[0]


@pytest.mark.parametrize("case", ODD)
def test_what_layers_do_on_the_host_is_done_after_a_replay_too(case):
    (eager, _), (recorded, replayed) = odd_passes(case, None), odd_passes(case, tape)
    for number, pair in enumerate(zip(eager, recorded)):
        assert_all_same(*pair, number)
    assert replayed is (case != "a_constant_that_is_overwritten")  # which is another tensor in each pass


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("case", ODD)
def test_a_pass_that_was_not_recorded_begins_with_what_was_there(case, number):
    (eager, _), (recorded, _) = odd_passes(case, None), odd_passes(case, failing(number))
    for pair in zip(eager, recorded):
        assert_all_same(*pair)


def test_a_parameters_diff_is_one_array_whoever_asks_for_it_first():
    blob = Parameter(3)
    looked, memory = blob.g, blob.diff_memory
    blob.accumulate(torch.ones(3))
    blob.g = torch.full((3,), 2.0)
    assert memory.tensor is looked and looked.tolist() == [2, 2, 2]
    seen = Parameter(3)
    held = seen.diff
    seen.accumulate(torch.ones(3))
    seen.clear_diff()
    assert held.tolist() == [0, 0, 0] and seen.diff_memory.array is held
