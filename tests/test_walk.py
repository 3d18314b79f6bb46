"""The walk of docs/engine.md through one iteration: each line is where it says, and an iteration comes through all."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest

import torchcaffe as caffe
from tests import ROOT

ROW = re.compile(r"^\| \[(\w+\.py):(\d+)\]\(\.\./(torchcaffe/[\w/]+\.py)#L(\d+)\) `([\w.]+)`", re.M)
NET = """layer { name: "data" type: "DummyData" top: "data" top: "target" dummy_data_param {
  shape { dim: 4 dim: 9 } shape { dim: 4 dim: 5 } data_filler { type: "gaussian" } data_filler { type: "gaussian" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""


class Stop(NamedTuple):
    path: Path
    line: int
    name: str  # with the class's in front


def stops() -> list[Stop]:
    rows = ROW.findall((ROOT / "docs/engine.md").read_text())
    for file, line, path, anchor, name in rows:
        assert (file, line) == (Path(path).name, anchor), name
    return [Stop(ROOT / path, int(line), name) for _, line, path, _, name in rows]


def definitions(path: Path) -> dict[str, tuple[int, int]]:
    """The first and last line of every function, from its def on, by name."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for one in parts:
            if isinstance(one, ast.FunctionDef):
                name = f"{node.name}.{one.name}" if isinstance(node, ast.ClassDef) else one.name
                found[name] = (one.lineno, one.end_lineno or 0)
    return found


def test_each_line_is_where_the_page_says():
    there = stops()
    assert len(there) > 15
    wrong = [f"{stop.name}: line {definitions(stop.path)[stop.name][0]}, not {stop.line}" for stop in there
             if definitions(stop.path)[stop.name][0] != stop.line]  # fmt: skip
    assert not wrong, "docs/engine.md: " + "; ".join(wrong)


def test_an_iteration_comes_through_all_in_this_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 momentum: 0.9 weight_decay: 0.001 lr_policy: "fixed"'
    )
    solver = caffe.get_solver("solver.prototxt")
    solver.step(1)
    before = solver.net.params["ip"][0].data.copy()
    called: list[tuple[str, str, int]] = []

    def record(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call":
            called.append((code.co_filename, code.co_name, code.co_firstlineno))

    sys.setprofile(record)
    try:
        solver.net.blobs["ip"].reshape(2, 5)  # so that shapes are given again
        solver.step(1)
    finally:
        sys.setprofile(None)
    assert (before != solver.net.params["ip"][0].data).all()
    position = 0
    for stop in stops():
        code = (str(stop.path), stop.name.rpartition(".")[2], stop.line)
        if code not in called[position:]:
            pytest.fail(f"docs/engine.md: {stop.name} is not called after the one before it")
        position = called.index(code, position) + 1
