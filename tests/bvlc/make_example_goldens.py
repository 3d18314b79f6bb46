"""Makes goldens/examples/ with real Caffe (`make bvlc` first): python -m tests.bvlc.make_example_goldens [NET ...]

NET.npz: outputs and updates of one iteration of a net of tests/bvlc/example_nets.py, summed up. filled.json: the
SHA-256 of every parameter as filled. spread.json: real Caffe's distance from itself under another BLAS kernel."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bvlc import compare, example_nets, whole_nets
from tests.bvlc.engines import Engine

GOLDENS = Path(__file__).resolve().parent / "goldens" / "examples"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help="default: all")
    args = parser.parse_args(argv)
    GOLDENS.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict] = {}
    for name in ("filled", "spread"):
        path = GOLDENS / f"{name}.json"
        records[name] = json.loads(path.read_text()) if path.is_file() else {}
    with Engine("bvlc") as haswell, Engine("bvlc", compare.OTHER_CORETYPE) as other:
        for name in args.nets or example_nets.EXAMPLES:
            job = example_nets.job(name)
            records["filled"][name], arrays = haswell.call(example_nets.TRAIN_ONCE, job)
            _, again = other.call(example_nets.TRAIN_ONCE, job)
            golden = example_nets.summary(arrays)
            whole_nets.save(GOLDENS / f"{name}.npz", golden)
            own = whole_nets.distances(example_nets.summary(again), golden)
            records["spread"][name] = {kind: float(f"{max(found.values()):.2g}") for kind, found in own.items()}
    for name, found in records.items():
        (GOLDENS / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
