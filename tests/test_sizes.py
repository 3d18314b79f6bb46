"""No module and no function is longer than a reader keeps in mind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import ROOT

MODULE, FUNCTION = 500, 60  # lines, at most
MODULES = [path for package in ("torchcaffe", "ilgnet") for path in sorted((ROOT / package).rglob("*.py"))]


def too_long(text: str) -> list[str]:
    """What is too long in a module's text."""
    lines = len(text.splitlines())
    found = [f"{lines} lines, {MODULE} at most"] if lines > MODULE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION:
                found.append(f"line {node.lineno}: {node.name} has {lines} lines, {FUNCTION} at most")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path):
    assert not too_long(path.read_text())


def test_what_is_too_long_is_found():
    assert too_long("x = 1\n" * 501) == ["501 lines, 500 at most"]
    body = "    x = 1\n" * 60
    assert too_long(f"class A:\n  def f(self):\n{body}") == ["line 2: f has 61 lines, 60 at most"]
    assert not too_long(f"def f():\n{body[10:]}")
