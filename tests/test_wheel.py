"""A wheel of torchcaffe alone: what is in it, and that it runs where nothing else of the project is."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import torchcaffe
from tests import ROOT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
SCRIPT = """
import sys, torchcaffe as caffe
from torchcaffe import layers as L, NetSpec
assert caffe.__file__.startswith(sys.argv[1]), caffe.__file__
n = NetSpec()
n.data = L.Input(shape=dict(dim=[2, 3]))
n.ip = L.InnerProduct(n.data, num_output=4, weight_filler=dict(type="xavier"))
with open("net.prototxt", "w") as f:
    f.write(str(n.to_proto()))
caffe.set_random_seed(1)
print(caffe.Net("net.prototxt", caffe.TEST).forward()["ip"].shape)
assert "ilgnet" not in sys.modules
"""


def imported(path: Path, package: str) -> set[str]:
    """The top-level names that a module imports anywhere in it, however deep inside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else str(node.module).split(".")[0])
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # In a copy: setuptools leaves its build folder beside what it builds.
    shutil.copytree(ROOT / "torchcaffe", folder / "torchcaffe", ignore=shutil.ignore_patterns("__pycache__", "build"))
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "torchcaffe"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel):
    assert wheel.name == f"torchcaffe-{torchcaffe.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as f:
        names = set(f.namelist())
        about = f"torchcaffe-{torchcaffe.__version__}.dist-info/"
        metadata = Parser().parsestr(f.read(about + "METADATA").decode())
        scripts = f.read(about + "entry_points.txt").decode()
    paths = {path.relative_to(ROOT) for path in (ROOT / "torchcaffe").rglob("*.py")}
    wanted = {path.as_posix() for path in paths if "build" not in path.parts} | {"torchcaffe/proto/caffe.proto"}
    assert {name for name in names if not name.startswith(about)} == wanted
    assert about + "licenses/LICENSE" in names
    assert metadata["Name"] == "torchcaffe" and metadata["Version"] == torchcaffe.__version__
    assert "torchcaffe = torchcaffe.cli.main:main" in scripts


def test_it_asks_for_what_it_imports(wheel):
    with zipfile.ZipFile(wheel) as f:
        metadata = Parser().parsestr(f.read(f"torchcaffe-{torchcaffe.__version__}.dist-info/METADATA").decode())
    asked = {re.match(r"[\w-]+", line).group() for line in metadata.get_all("Requires-Dist")}
    modules = {"opencv-python": "cv2", "protobuf": "google"}
    # pydot draws, and a user's own programs find windows: draw.py and detector.py say so where they are missing.
    optional = {"pydot"}
    used: set[str] = set()
    for path in (ROOT / "torchcaffe").rglob("*.py"):
        used |= imported(path, "torchcaffe")
    third = used - set(sys.stdlib_module_names) - {"torchcaffe"} - optional
    assert third == {modules.get(name, name) for name in asked}


def test_it_installs_and_runs(wheel, tmp_path):
    site = tmp_path / "site"
    install = [*PIP, "install", "--no-deps", "--no-compile", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    assert sorted(path.name for path in site.iterdir() if "dist-info" not in path.name) == ["bin", "torchcaffe"]
    env = {**os.environ, "PYTHONPATH": str(site), "GLOG_minloglevel": "2"}
    run = [sys.executable, "-c", SCRIPT, site]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "(2, 4)" in done.stdout
    program = [sys.executable, site / "bin" / "torchcaffe", "train"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: "), done.stderr


def test_the_licence_is_the_projects():
    assert (ROOT / "torchcaffe" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
