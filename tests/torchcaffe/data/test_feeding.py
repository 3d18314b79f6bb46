"""Records on their way into a net: several threads, and what is said when they come too slowly."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from tests.torchcaffe.gpu.recorded import make

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.usefixtures("folder")
def test_threads_change_nothing(monkeypatch):
    batches = []
    for cores in (1, 4):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        net = make().net
        found = []
        for _ in range(6):
            net.forward(end="data")
            found.append(net.blobs["data"].data.copy())
        assert (net.layers[0]._workers is not None) is (cores > 1)
        assert any(thread.name.startswith("transform-data") for thread in threading.enumerate()) is (cores > 1)
        batches.append(found)
        net.close()
    np.testing.assert_array_equal(*batches)


@pytest.mark.usefixtures("folder")
def test_after_close_it_goes_on_with_the_next_record():
    nets, found = [make().net, make().net], []
    for net, close in zip(nets, (False, True)):
        found.append([])
        for i in range(4):
            net.forward(end="data")
            found[-1].append(net.blobs["data"].data.copy())
            if close and i == 1:
                net.close()
    np.testing.assert_array_equal(*found)


@pytest.mark.usefixtures("folder")
def test_a_slow_reader_is_told(monkeypatch, capfd):
    solver = make('lr_policy: "fixed" display: 3')
    layer = solver.net.layers[0]
    asked, load, wait = threading.Semaphore(0), layer.load, layer._wait
    # No batch is begun before a pass needs it.
    monkeypatch.setattr(layer, "load", lambda: (asked.acquire(), time.sleep(0.05), load())[-1])
    monkeypatch.setattr(layer, "_wait", lambda future: (asked.release(), wait(future))[-1])
    solver.step(4)
    log = capfd.readouterr().err
    assert 0.01 <= solver.waiting <= 1 and solver.net.waited > 0
    assert log.count(f"] Waiting for data {solver.waiting:.0%} of the time") == 1  # not in the first iteration
    asked.release(9)


@pytest.mark.usefixtures("folder")
def test_a_reader_that_is_ahead_is_not(capfd):
    solver = make('lr_policy: "fixed" display: 1')
    layer = solver.net.layers[0]
    for i in range(4):
        before = solver.net.waited
        solver.step(1)
        for future in layer._ahead:
            future.result()
        if i:
            assert solver.net.waited == before
    assert solver.waiting == 0 and "Waiting for data" not in capfd.readouterr().err
