"""The GPU path on a simulated GPU (device.cpp): the CPU's numbers, and no look of the host too many."""

from __future__ import annotations

import pytest

from tests.torchcaffe.gpu.recorded import assert_all_same, tape
from tests.torchcaffe.gpu.scripts import TYPES, rows_of, run_script

pytestmark = pytest.mark.usefixtures("one_thread", "quiet")


@pytest.mark.parametrize("type_", TYPES)
def test_every_layer_type_computes_the_same_eagerly_and_recorded(type_, gpu):
    for row in rows_of(type_, 100):
        on_cpu = run_script(row, None)
        for recorder in (None, tape):
            with gpu(recorder):
                for number, (wanted, found) in enumerate(zip(on_cpu, run_script(row, None))):
                    assert_all_same(wanted, found, f"{row.id} {number}")
