"""tools/benchmark.py, on a small net: every engine of this machine computes the same, and everything is timed."""

from __future__ import annotations

import json

import pytest

from ilgnet.bench import benchmark
from ilgnet.cli import benchmark as tool
from ilgnet.run import bvlc, processes
from ilgnet.run.results import Timed
from tests.loaded import elsewhere
from torchcaffe.base.errors import CaffeError


def test_peers_compute_the_same_and_are_timed(tmp_path, capsys, monkeypatch):
    """Real Caffe is one of them where it is."""
    out = tmp_path / "b.json"
    monkeypatch.setattr(benchmark, "machine_limits", lambda *_: {"sgemm_flops": 1e11, "copy_bytes_per_s": 1e10})
    tasks = ["frozen", "train", "test1", "load"]
    monkeypatch.setattr(processes, "elsewhere", elsewhere)
    peers = ["torchcaffe", "bvlc"] if bvlc.available() else ["torchcaffe"]
    assert (
        tool.main(
            [
                "--variants",
                "third",
                "--tasks",
                *tasks,
                "--batch",
                "1",
                "--crop",
                "96",
                "--rounds",
                "1",
                "--threads",
                "1",
                "--peers",
                "--precision",
                "int8",
                "--layers",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    made = json.loads(out.read_text())
    rows = {(r["task"], r["engine"]): r for r in made["rows"]}
    assert set(rows) == {
        *(("frozen", e) for e in peers),
        *(("train", e) for e in (*peers, "pytorch")),
        *(("load", e) for e in peers),
        *(("test1", e) for e in (*peers, "torchcaffe-int8", "opencv", "onnxruntime", "pytorch")),
    }
    assert all(r["median_s"] > 0 and r["peak_memory_bytes"] > 1e6 for r in rows.values())
    assert all(r["difference"] < 1e-4 for (task, _), r in rows.items() if task == "test1")
    one = rows["test1", "torchcaffe"]
    multiply_adds, parameters = benchmark.work("third", 96)
    assert one["flops"] == pytest.approx(2 * multiply_adds / one["median_s"])
    assert one["weight_bytes_per_s"] == pytest.approx(4 * parameters / one["median_s"])
    layers = {layer["layer"]: layer for layer in made["layers"]["third"]}
    assert layers["conv2/3x3"]["backward_s"] > 0 and layers["conv2/3x3"]["type"] == "Convolution"
    # The net has no inner product large enough to be rounded.
    assert made["precision"] == [{"variant": "third", "precision": "int8", "photos": 16, "greatest": 0, "mean": 0}]
    assert made["photos"]["decode_s"] > 0 and made["machine"]["threads"] == 1
    assert "1/3 GoogLeNetV1-BN" in capsys.readouterr().out


def test_ratios_of_table_4():
    rows = [
        Timed(variant=v, task=t, engine="torchcaffe", median_s=s)
        for v, t, s in (("v1bn", "test1", 3.0), ("full", "test1", 6.0), ("third", "test", 1.0))
    ]
    (found,) = tool.ratios(rows)
    assert found == {"variant": "v1bn", "of": "full", "task": "test1", "paper": 0.31 / 0.84, "ratio": 0.5}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--weights", "w.caffemodel"], "--weights fits one variant"),
        (["--precision", "int8", "--gpu", "0"], "--precision is for the CPU"),
        (["--gpu", "1000"], "GPU mode: this PyTorch sees no CUDA device|GPU 1000: this machine has"),
        (["--out", "result.txt"], "result.txt: must end in .json"),
        (["--variants", "third", "--photos", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_bad_words(words, message, monkeypatch):
    monkeypatch.setattr(benchmark, "machine_limits", lambda *_: {"sgemm_flops": 1.0, "copy_bytes_per_s": 1.0})
    with pytest.raises(CaffeError, match=message):
        tool.main(words)
