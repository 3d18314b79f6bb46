"""pycaffe's module names: each module is one object under every name, and the import is light."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from torchcaffe.base.alias import ALIASES


@pytest.mark.parametrize("alias, module", ALIASES.items())
def test_a_module_is_one_object_under_all_its_names(alias, module):
    name = alias.partition(".")[2]
    real = importlib.import_module(module)
    assert importlib.import_module(alias) is real is importlib.import_module(f"caffe.{name}")
    assert getattr(importlib.import_module("torchcaffe"), name) is real
    assert real.__spec__.name == real.__name__ == module


def test_the_import_loads_nothing_heavy():
    code = (
        "import sys, torchcaffe; print({'torch', 'cv2', 'numpy', 'google.protobuf', 'lmdb', 'h5py'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
