"""The GPU path on a simulated GPU (device.cpp): the CPU's numbers, and no look of the host too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import torchcaffe as caffe
from ilgnet.bench import benchmark
from ilgnet.nets import emit
from tests.torchcaffe.gpu.device import Stream
from tests.torchcaffe.gpu.recorded import NET, assert_all_same, everything, failing, made, make, tape
from tests.torchcaffe.gpu.scripts import TYPES, rows_of, run_script
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2
from torchcaffe.solvers.solver import get_solver

pytestmark = pytest.mark.usefixtures("one_thread", "quiet")

# A GPU's code may add in another order (BatchNorm, InnerProduct, Scale); a recording computes as it does eagerly.
TOLERANCE = 1e-5
# In front of BatchNorm a bias has no gradient but rounding, which Adam and others make as large as any.
UNBIASED = NET.replace("param { lr_mult: 2 decay_mult: 0 }", "").replace(
    "num_output: 6", "num_output: 6 bias_term: false"
)
TRAINED = 1e-3  # after iterations of training, in which rounding adds up


@pytest.mark.parametrize("type_", TYPES)
def test_every_layer_type_computes_the_same_eagerly_and_recorded(type_, gpu):
    for row in rows_of(type_, 100):
        on_cpu = run_script(row, None)
        with gpu(None):
            eager = run_script(row, None)
        with gpu():
            recorded = run_script(row, None)
        for number, (one, two, three) in enumerate(zip(on_cpu, eager, recorded)):
            assert_all_same(one, two, f"{row.id} {number}", TOLERANCE)
            assert_all_same(two, three, f"{row.id} {number} recorded")


def train(settings: str) -> tuple[list[dict], caffe.SGDSolver]:
    """Training with tests in between, partial passes, a user's writes and looks, and a snapshot. What every blob and
    parameter of train and test net holds after each iteration, and the solver."""
    Path("net.prototxt").write_text(UNBIASED)
    solver = make(settings)
    caffe.set_random_seed(4)
    seen = []

    def step(count: int) -> None:
        for _ in range(count):
            solver.step(1)
            seen.append(everything(solver.net, *solver.test_nets))

    step(6)  # a test at iteration 0 and at 5
    solver.net.forward(end="ip")
    seen.append(everything(solver.net))
    solver.net.backward(start="ip2", end="both")
    seen.append(everything(solver.net))
    step(3)
    solver.net.params["ip"][0].data[1] *= 0.5  # what a user writes counts
    solver.net.blobs["norm"].data[...]  # and who looks is given the same array from now on
    step(3)
    solver.snapshot()
    step(3)
    return seen, solver


@pytest.mark.parametrize(
    "settings",
    [
        'lr_policy: "step"',
        'lr_policy: "step" iter_size: 2',
        'lr_policy: "fixed" clip_gradients: 0.5',
        'lr_policy: "fixed" type: "Nesterov"',
        'lr_policy: "fixed" type: "AdaGrad" momentum: 0',
        'lr_policy: "fixed" type: "RMSProp" momentum: 0 rms_decay: 0.9',
        'lr_policy: "fixed" type: "AdaDelta"',
        'lr_policy: "fixed" type: "Adam" momentum2: 0.9 base_lr: 0.001',
    ],
)
def test_training(settings, folder, gpu):
    on_cpu, _ = train(settings)
    with gpu(None):
        eager, _ = train(settings)
        snapshots = {path: path.read_bytes() for path in folder.glob("s_iter_*")}
    with gpu():
        recorded, solver = train(settings)
        assert made(solver.net)[0] and made(solver.net)[1] == (2 if "iter_size" in settings else 1)
        assert solver.update.recording.made is not ("Adam" in settings or "clip" in settings)
        assert len(snapshots) == 3
        for path, held in snapshots.items():
            assert path.read_bytes() == held, path
        resumed = make(settings)
        resumed.restore("s_iter_12.solverstate")
        resumed.step(3)
        assert made(resumed.net)[0]
        for key, array in everything(solver.net).items():
            if isinstance(key[1], tuple):
                np.testing.assert_array_equal(everything(resumed.net)[key], array, str(key))
    for number, (one, two, three) in enumerate(zip(on_cpu, eager, recorded)):
        assert_all_same(one, two, f"{number}", TRAINED)
        assert_all_same(two, three, f"{number} recorded")


@pytest.mark.parametrize("number", range(1, 5))
def test_training_goes_on_where_a_recording_fails(number, folder, gpu, capfd, monkeypatch):
    monkeypatch.delenv("GLOG_minloglevel")
    with gpu(None):
        eager = make()
        caffe.set_random_seed(4)
        eager.step(8)
    with gpu(failing(number)):
        failed = make()
        caffe.set_random_seed(4)
        failed.step(8)
    assert capfd.readouterr().err.count("not recorded, so slower: operation not permitted") == 1
    assert_all_same(everything(eager.net, *eager.test_nets), everything(failed.net, *failed.test_nets))


@pytest.mark.parametrize("recorder", [None, tape])
def test_out_of_memory_is_an_error_of_one_line_and_leaves_nothing(recorder, folder, gpu):
    with gpu(recorder) as counts:
        before = counts.bytes
        solver = make()
        solver.step(3)
        counts.limit = counts.bytes + 1000
        with pytest.raises(CaffeError, match="^out of memory: |layer '.*out of memory: ") as error:
            while True:
                solver.net.blobs["data"].reshape(50, 3, 20, 20)
                solver.net.forward(start="conv")
        assert "\n" not in str(error.value)
        counts.limit = 0
        solver.step(2)
        solver.net.close()
        del solver, error
        assert counts.bytes == before


@pytest.mark.parametrize("recorder", [None, tape])
def test_an_iteration_asks_the_host_as_little_as_it_can(recorder, folder, gpu):
    """Labels, pixels, places of crops and a dropout mask go to the device; back comes what is displayed alone."""
    with gpu(recorder) as counts:
        solver = make('lr_policy: "fixed" display: 10 test_interval: 1000')
        solver.step(4)
        solver.net.layers[0].close()
        solver.net.layers[0].prefetch = 0  # each iteration waits for its own batch, read in the data layer's thread
        found, held = [], []
        for _ in range(12):
            before = counts.to_device, counts.to_host
            solver.step(1)
            found.append((counts.to_device - before[0], counts.to_host - before[1]))
            held.append(counts.bytes)
        assert found == [(4, 0)] * 6 + [(4, 3)] + [(4, 0)] * 5
        assert held[2] == held[5] == held[-1]
        assert Stream.main.waits == 16 + 4  # for batches: of training, and of a test at iteration 0
        assert made(solver.net)[0] is (recorder is not None)


@pytest.mark.parametrize("variant", ["v1", "v1bn"])
def test_training_ilgnet_brings_only_masks_and_looks_at_nothing(variant, gpu):
    net = benchmark.training_net(emit.Choice(variant=variant, batch_size=2, crop=96))
    param = caffe_pb2.SolverParameter(net_param=net, base_lr=1e-6, lr_policy="fixed", momentum=0.9, weight_decay=2e-4)
    with gpu() as counts:
        solver = get_solver(param)
        solver.step(3)
        before, looks = counts.to_device, counts.to_host
        solver.step(2)
        assert made(solver.net) == (True, 1) and solver.update.recording.made
        assert counts.to_host == looks
        assert counts.to_device - before == 2 * sum(layer.type == "Dropout" for layer in solver.net.layers)
