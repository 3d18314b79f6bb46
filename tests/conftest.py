"""Fixtures that all test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Tests run side by side, one a core. A second thread would only wait for the first one's core, and busily.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torchcaffe  # noqa: E402  (PyTorch reads the above when it is loaded)
from tests.faults import Faults  # noqa: E402

# How fast the machine is and what it runs besides decide no test.
health = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture]
hypothesis.settings.register_profile("local", deadline=None, suppress_health_check=health)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("local"), derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

# `import caffe` in a test means this engine (tests that want the real one start a process of their own).
torchcaffe.install_as_caffe()

ROOT = Path(__file__).resolve().parents[1]

# The test files that `make test-quick` leaves out.
SLOW = """
test_bad_input test_benchmark test_bvlc test_calibrated_surgery test_cli test_demo_set test_device test_example_nets
test_export_onnx test_faults test_feature_maps test_frozen_trunk test_fuzz test_gallery test_imageset test_malloc
test_parallel test_pycaffe_bvlc test_ranking test_recording test_remote test_report test_resume
test_solvers_bvlc test_splits test_summary test_targets test_tools test_variants_bvlc test_wheel
""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _log_level():
    """How much a tool logs, which it sets for its whole process, ends with the test that ran it in this one."""
    before = os.environ.pop("GLOG_minloglevel", None)
    yield
    os.environ.pop("GLOG_minloglevel", None)
    if before is not None:
        os.environ["GLOG_minloglevel"] = before


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """The file layer for files below tmp_path, where nothing fails until `fail` is called."""
    return Faults(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with AVA's real ratings, lists, logs and GoogLeNet's weights, which cannot be redistributed.

    ILGNET_SHARED names it; the default is ../shared beside the checkout. Tests that need it skip where it is absent."""
    folder = Path(os.environ.get("ILGNET_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real AVA lists and GoogLeNet weights are not at {folder} (set ILGNET_SHARED)")
    return folder / "data"
