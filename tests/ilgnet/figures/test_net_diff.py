"""How nets differ (ilgnet/net_diff.py, tools/diff_nets.py), and that docs/reproduction.md prints it."""

from __future__ import annotations

import re

import pytest

from ilgnet.cli import diff_nets
from ilgnet.figures import net_diff
from tests import ROOT
from torchcaffe.proto import caffe_pb2, parse_text


@pytest.mark.parametrize("variant", ["noinc", "third"])
def test_the_page_shows_what_the_tool_prints(variant, capsys, monkeypatch):
    page = (ROOT / "docs" / "reproduction.md").read_text()
    pattern = rf" \$ python tools/diff_nets.py (prototxt/v1bn/\S+) (prototxt/{variant}/\S+)\n((?:      .+\n)+)"
    *arguments, shown = re.search(pattern, page).groups()
    monkeypatch.chdir(ROOT)
    assert diff_nets.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in shown.splitlines()]


def test_what_differs_by_hand():
    first, second = (
        parse_text(text, caffe_pb2.NetParameter(), "test")
        for text in (
            'layer { name: "d" type: "Input" include { phase: TRAIN } }'
            'layer { name: "d" type: "Data" include { phase: TEST } } layer { name: "a/x" type: "ReLU" }'
            'layer { name: "b" type: "Convolution" convolution_param { num_output: 2 '
            "kernel_size: 3 kernel_size: 3 } }",
            'layer { name: "d" type: "Input" include { phase: TRAIN } } layer { name: "a/y" type: "TanH" }'
            'layer { name: "b" type: "Convolution" bottom: "q" convolution_param { num_output: 4 kernel_size: 3 } }',
        )
    )
    assert net_diff.lines(first, second, ("one", "two")) == [
        "one: 4 layers, two: 3 layers, 1 of them the same",
        "only in one: d TEST: 1 Data",
        "only in one: a: 1 ReLU",
        "only in two: a: 1 TanH",
        'changed: b: num_output: 2, kernel_size: 3 -> bottom: "q", num_output: 4',
    ]


def test_files_of_other_names(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.prototxt").write_text('layer { name: "x" type: "ReLU" bottom: "y" top: "x" }')
    assert diff_nets.main([str(tmp_path / "a.prototxt"), str(tmp_path / "b.prototxt")]) == 0
    both = [f"{tmp_path}/{name}.prototxt: 1 layers" for name in ("a", "b")]
    assert capsys.readouterr().out == ", ".join(both) + ", 1 of them the same\n"
