"""PyTorch's private functions, and the plain operations that take their place where one is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchcaffe as caffe
from tests.torchcaffe.core.small import NET, SOLVER
from torchcaffe.core import private_torch
from torchcaffe.core.memory import Memory


def updated(size: int) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(size)
    weight, gradient, buffer = (torch.randn(size, generator=generator) for _ in range(3))
    for _ in range(5):
        private_torch.sgd([weight], [gradient], [buffer], 4e-5, 0.9, 3.7)
    return [weight.numpy(), gradient.numpy(), buffer.numpy()]


def test_the_update_without_the_kernel_gives_the_same_bits(monkeypatch):
    fused = [updated(64 * 500), updated(13)]
    monkeypatch.setattr(private_torch, "_fused_sgd", None)
    for a, b in zip(fused[0], updated(64 * 500)):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(fused[1], updated(13)):  # fills no vector register of 16
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("more", ["", "iter_size: 3", "clip_gradients: 0.5"])
def test_training_without_them(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER + more)
    trained = []
    for missing in ((), ("_fused_sgd", "_storage_use_count")):
        for name in missing:
            monkeypatch.setattr(private_torch, name, None)
        solver = caffe.get_solver("solver.prototxt")
        solver.step(10)
        blobs = [blob for blobs in solver.net.params.values() for blob in blobs]
        trained.append([*(blob.data.copy() for blob in blobs), *(blob.diff.copy() for blob in blobs)])
    for fused, plain in zip(*trained):
        np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-6)


def test_int8_products_without_the_kernel(monkeypatch):
    streams = torch.Generator().manual_seed(1)
    x = torch.randn(4, 192, generator=streams).bfloat16()
    weight = torch.randint(-127, 128, (10, 192), generator=streams, dtype=torch.int8)
    fast = private_torch.int8_product(x, weight)
    monkeypatch.setattr(private_torch, "_int8_kernel", None)
    plain = private_torch.int8_product(x, weight)
    assert plain.dtype == fast.dtype == torch.bfloat16
    torch.testing.assert_close(plain, fast, rtol=2**-7, atol=0)


def test_without_a_count_of_references_nothing_is_computed_in_place(monkeypatch):
    memory = Memory(torch.zeros(3))
    assert memory.owned()
    monkeypatch.setattr("torchcaffe.core.ownership._UNSHARED", None)
    assert not memory.owned()
