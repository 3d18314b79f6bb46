"""The solvers: in step with the committed files, Table 1 as the paper's text prints it, the released values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ilgnet.cli import gen_solver
from ilgnet.nets import table1
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.variants import PAPER
from tests import ROOT
from torchcaffe.base.errors import CaffeError, named
from torchcaffe.proto import caffe_pb2, parse_text


def read(path: Path):
    return parse_text(path.read_text(), caffe_pb2.SolverParameter(), str(path))


def test_generator_reproduces_every_committed_file():
    files = table1.committed()
    assert set((ROOT / "solvers").rglob("*.prototxt")) == set(files)
    for path, text in files.items():
        assert path.read_text() == text, f"{path} is not what tools/gen_solver.py --all writes"


@pytest.mark.parametrize("dataset", list(DATASETS))
@pytest.mark.parametrize("variant", list(PAPER))
def test_committed_solvers_are_table_1_and_train_a_net_for_their_data(dataset, variant):
    solver = read(ROOT / "solvers" / dataset / f"{variant}.prototxt")
    net = parse_text((ROOT / solver.net).read_text(), caffe_pb2.NetParameter(), solver.net)
    sources = {layer.data_param.source for layer in net.layer if layer.type == "Data"}
    assert sources == {f"data/{dataset}/train_lmdb", f"data/{dataset}/val_lmdb"} and net.name == PAPER[variant].title
    test_batch = net.layer[1].data_param.batch_size
    photos = {"ava1": 20000, "ava1_delta1": 20000, "ava2": 25553}[dataset]
    assert 0 <= solver.test_iter[0] * test_batch - photos < test_batch  # a test sees the whole test set
    assert solver.max_iter % solver.snapshot == 0 and solver.snapshot % solver.test_interval == 0
    assert solver.snapshot_prefix.endswith(f"{dataset}_{variant}")


def test_table_1_is_the_paper_s(shared):
    """Every number of Table 1, read from the paper's text."""
    text = (shared.parent / "paper" / "ilgnet.txt").read_text()
    table = text[text.index("Table 1 The main") :]
    for field, message_field in [
        ("base_ lr", "base_lr"),
        ("lr_ policy", "lr_policy"),
        ("stepsize", "stepsize"),
        ("gamma", "gamma"),
        ("max_ iter", "max_iter"),
        ("momentum", "momentum"),
        ("weight_ decay", "weight_decay"),
    ]:
        printed = re.search(rf"^{field} (\S+) (\S+) (\S+)$", table, re.MULTILINE).groups()
        for dataset, value in zip(("ava1", "ava1_delta1", "ava2"), printed):
            ours = getattr(table1.solver(dataset, "v1bn"), message_field)
            expected = value.strip('"') if isinstance(ours, str) else pytest.approx(float(value), rel=1e-6)
            assert ours == expected, (field, dataset)


def test_released_values():
    """The released solvers, which differ from Table 1 in AVA1's stepsize alone."""
    ava1, ava2 = (read(ROOT / "solvers" / dataset / "released.prototxt") for dataset in ("ava1", "ava2"))
    assert (ava1.stepsize, ava1.test_iter[0], ava1.test_interval, ava1.snapshot) == (115000, 400, 4750, 4750)
    assert (ava2.stepsize, ava2.test_iter[0], ava2.test_interval, ava2.snapshot) == (13325, 533, 533, 5330)
    for solver in (ava1, ava2):
        assert solver.display == 20 and solver.solver_mode == caffe_pb2.SolverParameter.GPU
    with pytest.raises(CaffeError, match="released no solver for ava1_delta1"):
        table1.solver("ava1_delta1", "v1", released=True)


def test_gen_solver_changes_single_fields_and_its_command_makes_the_file_again(tmp_path, capsys):
    path = tmp_path / "solver.prototxt"
    argv = "--dataset ava2 --variant v1 --released --net a/b.prototxt --base-lr 1e-06 --max-iter 300".split()
    argv += "--iter-size 3 --test-iter 4 --snapshot-prefix x/y --random-seed 0 --cpu".split()
    assert gen_solver.main([*argv, "--out", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}\n")
    solver, text = read(path), path.read_text()
    assert (solver.net, solver.max_iter, solver.iter_size, list(solver.test_iter)) == ("a/b.prototxt", 300, 3, [4])
    assert solver.HasField("random_seed") and solver.random_seed == 0
    assert solver.base_lr == pytest.approx(1e-6) and solver.solver_mode == caffe_pb2.SolverParameter.CPU
    assert solver.stepsize == 13325 and solver.snapshot == 5330
    command = re.search(r"# Made by: python tools/gen_solver.py (.*)", text).group(1).split()
    assert set(command) == set(argv)
    assert "the released values, but for base_lr and max_iter and iter_size (paper" in text
    gen_solver.main([*command, "--out", str(path)])
    assert path.read_text() == text


@pytest.mark.parametrize(
    "words, reason",
    [
        ("--dataset ava1_delta1 --released", "the authors released no solver for ava1_delta1"),
        ("--iter-size 0", "--iter-size 0: must be at least 1"),
        ("--max-iter -5", "--max-iter -5: must be at least 0"),
        ("--max-iter 99999999999", "max_iter 99999999999: "),
        ("--test-iter 99999999999", "test_iter 99999999999: "),
        ("--random-seed 99999999999999999999", "random_seed 99999999999999999999: "),
        ("--base-lr nan", "--base-lr nan: must be at least 0"),
        ("--base-lr 1e39", "base_lr 1e+39: "),
    ],
)
def test_bad_input_is_one_line(words, reason):
    with pytest.raises(Exception) as raised:
        gen_solver.main(words.split())
    error = named(raised.value)
    assert error.status == 2 and str(error).startswith(reason) and str(error).isprintable()
