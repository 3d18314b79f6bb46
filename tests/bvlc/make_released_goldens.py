"""Makes goldens/released.npz with real Caffe (`make bvlc` first): python -m tests.bvlc.make_released_goldens

`seen`: what each iteration of tests/bvlc/released.py's tiny net left, as JSON; and its gradients, updates, weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from tests.bvlc import released
from tests.bvlc.engines import Engine

GOLDEN = Path(__file__).resolve().parent / "goldens" / "released.npz"


def main() -> int:
    with Engine("bvlc") as engine:
        seen, arrays = engine.call(released.RUN_TINY, {"iterations": 6})  # 7 records in batches of 3: twice around
    np.savez_compressed(GOLDEN, seen=np.array(json.dumps(seen)), **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main())
