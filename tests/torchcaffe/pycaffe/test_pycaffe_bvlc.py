"""Live against real Caffe, where this machine has it: the same pycaffe tests, and snapshots in both directions."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from ilgnet.run import bvlc
from tests.bvlc import real

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(not bvlc.available(), reason=f"no real Caffe on this machine: {bvlc.HOW}")


def test_real_pycaffe_passes_the_same_tests(tmp_path):
    script = HERE / "test_pycaffe.py"
    options = ["-q", "-c", os.devnull, "--rootdir", tmp_path, "--noconftest", "-p", "no:cacheprovider"]
    done = real.python(["-m", "pytest", *options, script], check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout and "failed" not in done.stdout


NET = """
layer { name: "data" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 }
  shape { dim: 4 } data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "fixed" type: "Scale" bottom: "conv" top: "conv" param { lr_mult: 0 }
  scale_param { filler { value: 0.5 } } }
layer { name: "one" type: "InnerProduct" bottom: "conv" top: "one" param { name: "w" } inner_product_param {
  num_output: 27 bias_term: false weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" } inner_product_param {
  num_output: 27 bias_term: false weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "two" bottom: "y" top: "loss" }
"""

# Runs under either engine, in the folders given: steps, then a snapshot; or restores the other's, tells what it holds,
# and makes two updates on given gradients.
SCRIPT = """
import os
import sys
import caffe
import numpy as np


def learned(net):
    return {f"{n}.{i}": np.array(b.data) for n, blobs in net.params.items() for i, b in enumerate(blobs)}


def job(what, out):
    solver = caffe.get_solver("solver.prototxt")
    if what == "make":
        solver.step(5)
        solver.snapshot()
    else:
        solver.restore([name for name in os.listdir(".") if "solverstate" in name][0])
    result = dict(learned(solver.net), iter=solver.iter, rate=solver.lr)
    for k in range(2):
        solver.net.clear_param_diffs()
        for n, (name, blobs) in enumerate(solver.net.params.items()):
            for i, b in enumerate(blobs if name != "two" else []):
                b.diff[...] = np.random.RandomState(10 * n + i + 100 * k).standard_normal(b.data.shape)
        solver.apply_update()
    result.update({k + ".after": v for k, v in learned(solver.net).items()})
    np.savez(out, **result)


if __name__ == "__main__":
    for folder in sys.argv[3:]:
        os.chdir(folder)
        job(sys.argv[1], sys.argv[2])
"""
TYPES = {
    "SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
    "AdaDelta": "momentum: 0.9", "Adam": "momentum: 0.9 momentum2: 0.99",
}  # fmt: skip


def run(engine: str, script: Path, *args: object) -> None:
    """The script in `engine`: what to do, the file to write, the folders."""
    if engine == "bvlc":
        real.python([script, *args])
    else:
        sys.argv = [str(script), *map(str, args)]
        runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.mark.parametrize("maker, taker", [("bvlc", "torch"), ("torch", "bvlc")])
def test_snapshots_go_both_ways(maker, taker, tmp_path, monkeypatch, quiet):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    folders = []
    for kind, options in TYPES.items():
        for form in ("BINARYPROTO", "HDF5"):
            folders.append(tmp_path / f"{kind}.{form}")
            folders[-1].mkdir()
            (folders[-1] / "net.prototxt").write_text(NET)
            (folders[-1] / "solver.prototxt").write_text(
                f'net: "net.prototxt" type: "{kind}" base_lr: 0.01 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 '
                f'stepvalue: 6 weight_decay: 0.01 snapshot_prefix: "s" snapshot_format: {form} random_seed: 3 {options}'
            )
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run(maker, script, "make", "made.npz", *folders)
    run(taker, script, "take", "taken.npz", *folders)
    for folder in folders:
        with np.load(folder / "made.npz") as made, np.load(folder / "taken.npz") as taken:
            assert made.files == taken.files and int(taken["iter"]) == 5
            for name in made.files:
                limit = 1e-6 * np.abs(made[name]).max() if name.endswith("after") else 0
                np.testing.assert_allclose(taken[name], made[name], rtol=0, atol=limit, err_msg=f"{folder}: {name}")
