"""Makes goldens/hdf5_shuffle.npz: what real Caffe's HDF5Data layer gives with `shuffle` in a process of its own.

It draws from the C library's rand(), which Caffe never seeds, so a process always begins with the same order; after
another layer's draws it would go on with the next numbers. python -m tests.bvlc.make_shuffle_goldens"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.bvlc import layers
from tests.bvlc.engines import Engine

GOLDEN = Path(__file__).resolve().parent / "goldens" / "hdf5_shuffle.npz"
ROW = layers.Row(
    "HDF5Data",
    "shuffle",
    "hdf5_data_param { source: 'list.txt' batch_size: 3 shuffle: true }",
    tops=2,
    passes=12,
    writes=layers.H5,
    **layers.ALONE,
)


def main() -> int:
    with Engine("bvlc") as engine:
        _, out = engine.call("layer", layers.case(ROW))
    np.savez_compressed(GOLDEN, **out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
