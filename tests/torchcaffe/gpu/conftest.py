"""The simulated device is loaded for the tests that use it."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from tests.torchcaffe.gpu import device


def pytest_collection_finish(session: pytest.Session) -> None:
    """Load the device before the first test: once PyTorch's autograd has run, it takes no further device."""
    if any("gpu" in getattr(item, "fixturenames", ()) for item in session.items) and not device.missing():
        with contextlib.suppress(subprocess.CalledProcessError):  # g++ has said why
            device.load(session.config._tmp_path_factory.mktemp("device"))  # type: ignore[attr-defined]


@pytest.fixture
def gpu():
    """A context in which nets and solvers are made on the simulated device."""
    if device.missing():
        pytest.skip(device.missing())
    assert device.counts is not None, "the simulated device was not built: see g++'s errors"
    return device.simulated
