"""What imports what: one way only, and without torch wherever nothing computes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ilgnet import bvlc

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "import_everything.py"
# Each may import those behind it.
ORDER = (("tools",), ("ilgnet",), ("prototxt", "solvers", "data_prep"), ("torchcaffe",))
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
# What computes. All else must import without torch, since torch is not where a real pycaffe is.
ENGINE = (
    "blob", "classifier", "detector", "layer", "net", "ops", "parallel", "precision", "python_layer", "recording",
    "solver",
)  # fmt: skip
COMPUTES = {f"torchcaffe.{name}" for name in ENGINE} | {"ilgnet.plain_pytorch"}


def imported(path: Path, package: str) -> set[str]:
    """The top-level names that a module imports anywhere in it, however deep inside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            words = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)]
            names.update(word.split(".")[0] for word in words if word[:1].isalpha())
    return names


@pytest.mark.parametrize("package", LEVEL)
def test_imports_point_one_way(package):
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        for name in imported(path, package) & LEVEL.keys():
            allowed = name == package or LEVEL[name] > LEVEL[package]
            beside = LEVEL[name] == LEVEL[package]  # solvers are made for nets: those three may know each other
            assert allowed or beside, f"{path.relative_to(ROOT)} imports {name}"


def test_torchcaffe_imports_nothing_of_the_rest():
    others = (LEVEL.keys() - {"torchcaffe"}) | {"tests"}
    for path in sorted((ROOT / "torchcaffe").rglob("*.py")):
        assert not imported(path, "torchcaffe") & others, path.relative_to(ROOT)


def computes(name: str) -> bool:
    return ".".join(name.split(".")[:2]) in COMPUTES


def test_without_torch():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing = json.loads(done.stdout.splitlines()[-1])
    assert {name: what for name, what in missing.items() if not computes(name)} == {}
    assert {".".join(name.split(".")[:2]) for name in missing} == COMPUTES, "what imports without torch is not in here"


@pytest.mark.skipif(not bvlc.available(), reason="no real Caffe here: " + bvlc.HOW)
def test_where_real_caffe_is():
    done = bvlc.bvlc_python([SCRIPT])
    missing = json.loads(done.stdout.splitlines()[-1])
    assert {name: what for name, what in missing.items() if not computes(name)} == {}
