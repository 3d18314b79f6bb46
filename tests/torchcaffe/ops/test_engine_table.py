"""docs/engine.md: its table is of all layer types, in step with tests/bvlc/layers.py, and leaves no option out."""

from __future__ import annotations

import re

import pytest

import torchcaffe as caffe
from tests.bvlc import compare, engine_table, layers

AGAIN = "python -m tests.bvlc.engine_table writes the table anew"


def table() -> dict[str, list[str]]:
    """The lines' cells by type."""
    _, text, _ = engine_table.parts(engine_table.PAGE.read_text())
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("`"): row for row in rows}


def test_types_are_the_engines():
    assert list(table()) == list(caffe.layer_type_list()), AGAIN
    assert {row.type for row in layers.ROWS} | set(engine_table.BEYOND) == set(caffe.layer_type_list())


def test_options_and_configurations_are_those_of_the_rows():
    for type_, cells in table().items():
        assert cells[:4] == engine_table.cells(type_), AGAIN
    _, text, _ = engine_table.parts(engine_table.PAGE.read_text())
    assert [line for line in text.splitlines() if line.startswith("- ")] == engine_table.notes(), AGAIN


@pytest.mark.parametrize("type_", sorted({row.type for row in layers.ROWS}))
def test_no_option_is_left_out(type_):
    excused = [name.split(".")[1] for name in engine_table.EXCUSED if name.startswith(type_ + ".")]
    assert engine_table.untried(type_) == excused


def test_errors_are_within_the_limits():
    for type_, cells in table().items():
        if type_ not in engine_table.BEYOND:
            for cell, limit in zip(cells[4:], (compare.FORWARD, compare.BOTTOM, compare.PARAM)):
                assert not cell or float(cell) <= limit, (type_, AGAIN)
