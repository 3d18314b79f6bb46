"""The wheel and the sdist: what they hold, what they depend on, and that the wheel runs from anywhere."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ilgnet
from tests import ROOT

PACKAGES = ("ilgnet", "torchcaffe")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
DATA = {".py", ".pyi", ".proto", ".typed", ".html", ".css", ".js", ".svg", ".md", ".txt", ".mplstyle"}
SCRIPT = """
import runpy, sys, ilgnet, torchcaffe as caffe
program = sys.argv[1] + "/bin/torchcaffe"
from torchcaffe import layers as L, NetSpec
for package in (caffe, ilgnet):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
n = NetSpec()
n.data = L.Input(shape=dict(dim=[2, 3]))
n.ip = L.InnerProduct(n.data, num_output=4, weight_filler=dict(type="xavier"))
with open("net.prototxt", "w") as f:
    f.write("force_backward: true " + str(n.to_proto()))
caffe.set_random_seed(1)
print(caffe.Net("net.prototxt", caffe.TEST).forward()["ip"].shape, flush=True)
sys.argv[1:] = "time -model net.prototxt -iterations 1".split()
runpy.run_path(program, run_name="__main__")
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder with the wheel and the sdist, built in a copy: setuptools leaves files beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "tests").mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def metadata(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        return Parser().parsestr(file.read(name).decode())


@pytest.fixture(scope="module")
def site(dist, tmp_path_factory) -> Path:
    """A folder with the wheel installed in it."""
    site = tmp_path_factory.mktemp("site")
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--no-deps", "--no-compile", "--target", site, wheel], check=True, capture_output=True)
    return site


def run(site: Path, cwd: Path, *command: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)


def program(site: Path, cwd: Path, name: str, *words: object) -> str:
    """What a program of the wheel prints."""
    done = run(site, cwd, site / "bin" / name, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_contents(dist):
    paths = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.*")}
    wanted = {path for path in paths if Path(path).suffix in DATA and "__pycache__" not in path}
    assert {"torchcaffe/proto/caffe.proto", "torchcaffe/py.typed", "ilgnet/py.typed"} <= wanted
    wheel, sdist = dist.glob("*.whl"), dist.glob("*.tar.gz")
    name = f"ilgnet_toolkit-{ilgnet.__version__}"
    with zipfile.ZipFile(next(wheel)) as file:
        found = set(file.namelist())
        assert {path for path in found if ".dist-info/" not in path} == wanted
        assert f"{name}.dist-info/licenses/LICENSE" in found
        scripts = file.read(f"{name}.dist-info/entry_points.txt").decode().split("\n")
        assert {"ilgnet = ilgnet.cli.main:run", "torchcaffe = torchcaffe.cli.main:main"} <= set(scripts)
    with tarfile.open(next(sdist)) as file:
        assert {f"{name}/{path}" for path in wanted | {"LICENSE", "pyproject.toml"}} <= set(file.getnames())


def imported(path: Path) -> set[str]:
    """The top-level names that a module imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    return names


def test_it_asks_for_what_it_imports(metadata):
    requires = {re.match(r"[\w-]+", line).group(): line for line in metadata.get_all("Requires-Dist")}
    asked = {name for name, line in requires.items() if "extra ==" not in line}
    modules = {"opencv-python": "cv2", "protobuf": "google", "pillow": "PIL", "pillow-heif": "pillow_heif"}
    extras = {modules.get(name, name) for name in requires.keys() - asked}
    optional = {"caffe", "pydotplus", "selective_search_ijcv_with_python", "markupsafe"}  # users' own; Jinja2's
    used = {name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in imported(path)}
    third = used - set(sys.stdlib_module_names) - set(PACKAGES) - optional
    assert third - extras == {modules.get(name, name) for name in asked - {"six"}}


def test_the_packages_work_from_anywhere(site, tmp_path):
    assert sorted(path.name for path in site.iterdir() if "dist-info" not in path.name) == ["bin", *PACKAGES]
    done = run(site, tmp_path, "-c", SCRIPT, site)
    assert done.returncode == 0 and "(2, 4)" in done.stdout and "Total Time" in done.stderr, done.stderr


def test_the_programs_work_from_anywhere(site, tmp_path):
    assert "gen-net" in program(site, tmp_path, "ilgnet", "--help")
    assert program(site, tmp_path, "ilgnet", "--version") == f"ilgnet {ilgnet.__version__}\n"
    assert "X/deploy.prototxt" in program(site, tmp_path, "ilgnet", "gen-net", "--variant", "v1bn", "--out", "X")
    assert "inception_4a" in program(site, tmp_path, "ilgnet", "summarize", "X/deploy.prototxt")
    done = run(site, tmp_path, "-m", "ilgnet", "nope")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
