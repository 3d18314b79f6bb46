"""What imports what: a wing imports only wings on lines below its own, and nothing imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

# A line's wings import only what is on lines below (and their own modules). `torchcaffe` itself loads on first use.
WINGS = {
    "torchcaffe": [
        ("pycaffe", "cli"),
        ("gpu",),
        ("solvers",),
        ("nets",),
        ("ops",),
        ("core", "data"),
        ("formats",),
        ("proto", "random"),
        ("base",),
    ],
    "ilgnet": [
        ("cli",),
        ("rank", "bench"),
        ("report",),
        ("evaluate",),
        ("train", "scoring", "export"),
        ("weights",),
        ("figures",),
        ("run",),
        ("demo",),
        ("ava",),
        ("photos",),
        ("nets",),
    ],
}
LEVEL = {
    f"{package}.{wing}": level
    for package, lines in WINGS.items()
    for level, wings in enumerate(lines)
    for wing in wings
}
# What imports no torch: the schema, the file formats and what only makes or reads files.
LIGHT = ("torchcaffe", "torchcaffe.proto", "torchcaffe.pycaffe.net_spec", "torchcaffe.formats.caffemodel",
         "ilgnet.nets.emit", "ilgnet.nets.table1", "ilgnet.evaluate.caffe_log", "ilgnet.ava.splits")  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for package in WINGS for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text(), str(path))))


def wing_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@cache
def imports(module: str, top_level: bool = False) -> set[str]:
    """The project's modules that a module imports: anywhere in it, or as it is itself imported."""
    path, found = modules()[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    inside = {
        id(node)
        for block in nodes(path)
        if top_level
        and (
            isinstance(block, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            or isinstance(block, ast.If)
            and ast.unparse(block.test) == "TYPE_CHECKING"
        )
        for node in ast.walk(block)
    }
    for node in nodes(path):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *base.split(".")])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in modules() else base)
    return {name for name in found if name in modules()}


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module):
    wing = wing_of(module)
    for other in imports(module):
        target = wing_of(other)
        if module.split(".")[0] != other.split(".")[0]:
            assert module.startswith("ilgnet"), f"{module} imports {other}: the engine knows nothing of ILGNet"
        elif target in LEVEL and wing in LEVEL and target != wing:
            assert LEVEL[target] > LEVEL[wing], f"{module} imports {other}, which is not on a line below"


def test_every_wing_has_its_line():
    for module in modules():
        assert wing_of(module) in LEVEL or module in WINGS or module.endswith(".__main__"), module


def test_no_circle():
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, "a circle: " + " > ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in sorted(imports(module, top_level=True) - {"torchcaffe", "ilgnet"}):
                visit(other, (*above, module))
            done.add(module)

    for module in modules():
        visit(module, ())


# Private names of other projects' objects: of pycaffe's nets, named tuples, `os` and PyTorch.
FOREIGN = {"_forward", "_layer_names", "_replace", "_asdict", "_fields", "_exit", "_version", "_cdata", "_C"}


def private_names(wing: str) -> tuple[set[str], set[tuple[str, str]]]:
    """The private names that a wing defines (functions, classes, variables, attributes of self and cls, slots), and
    those of other objects that it reads, each with its place."""
    defined: set[str] = set()
    read: set[tuple[str, str]] = set()
    for module, path in modules().items():
        if wing_of(module) != wing:
            continue
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                defined.add(node.value)  # __slots__
            elif isinstance(node, ast.Attribute):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if own and isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)
                elif not own and node.attr.startswith("_") and not node.attr.startswith("__"):
                    read.add((node.attr, f"{path.relative_to(ROOT)}:{node.lineno}"))
    return defined, read


@pytest.mark.parametrize("wing", sorted({wing_of(module) for module in modules()}))
def test_private_names_stay_in_their_wing(wing):
    defined, read = private_names(wing)
    assert not sorted(f"{place}: {name}" for name, place in read if name not in defined | FOREIGN)


def test_no_test_module_imports_another():
    """What tests share is in conftest.py files and in modules without tests."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
            found = [name for name in names if name.split(".")[-1].startswith("test_")]
            assert not found, f"{path.relative_to(ROOT)}:{node.lineno} imports {found[0]}"


@pytest.mark.parametrize("folder", ["tools", "data_prep"])
def test_programs_hold_no_logic(folder):
    for path in sorted((ROOT / folder).glob("*.py")):
        code = [node for node in ast.parse(path.read_text()).body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        assert len(code) == 2 and all(isinstance(node, ast.Expr) for node in code), path  # the path, and the call


def test_without_torch():
    """One process imports all of them, and prints the first that brings in torch."""
    script = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules: sys.exit(module)"
    )
    done = subprocess.run([sys.executable, "-c", script, *LIGHT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
