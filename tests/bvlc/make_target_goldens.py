"""Makes goldens/targets/ with real Caffe (`make bvlc` first): python -m tests.bvlc.make_target_goldens

NAME.npz: what tests/bvlc/target_nets.py's `train` found. spread.json: real Caffe's distance from itself, of each array,
under another BLAS kernel."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.bvlc import compare, target_nets
from tests.bvlc.engines import Engine

GOLDENS = Path(__file__).resolve().parent / "goldens" / "targets"


def main() -> int:
    GOLDENS.mkdir(parents=True, exist_ok=True)
    spread = {}
    for name in target_nets.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            job = target_nets.write(Path(folder), name)
            with Engine("bvlc") as one, Engine("bvlc", compare.OTHER_CORETYPE) as two:
                (_, golden), (_, other) = (engine.call(target_nets.TRAIN, job) for engine in (one, two))
        np.savez_compressed(GOLDENS / f"{name}.npz", **golden)
        spread[name] = {key: float(f"{compare.error(other[key], golden[key]):.2g}") for key in golden}
        print(name, {k: v.ravel()[:6].tolist() for k, v in golden.items()}, spread[name], flush=True)
    (GOLDENS / "spread.json").write_text(json.dumps(spread, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
