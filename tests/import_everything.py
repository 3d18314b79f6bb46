"""Imports every module of the project with torch made unimportable, and prints {module: what was missing} as JSON.

A program of its own, which tests/test_imports.py runs in a fresh process, with real Caffe's Python 3.9, too."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

PACKAGES = ("torchcaffe", "prototxt", "solvers", "data_prep", "ilgnet")
ROOT = Path(__file__).resolve().parents[1]


def modules() -> list:
    """The names of all modules of the packages and of tools/, but for __main__, which runs a program."""
    found = list(PACKAGES)
    for name in PACKAGES:
        package = importlib.import_module(name)
        found += [info.name for info in pkgutil.walk_packages(package.__path__, name + ".", onerror=lambda name: None)]
    found += ["tools." + path.stem for path in sorted((ROOT / "tools").glob("*.py")) if path.stem != "__init__"]
    return [name for name in found if not name.endswith("__main__")]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    sys.modules["torch"] = None
    missing = {}
    for name in modules():
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = error.name or str(error)
    assert not any(name.startswith("torch.") for name in sys.modules)
    print(json.dumps(missing))


if __name__ == "__main__":
    main()
