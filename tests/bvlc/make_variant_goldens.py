"""Makes goldens/variants/ with real Caffe (`make bvlc` first): python -m tests.bvlc.make_variant_goldens [NET ...]

NET.npz: what tests/bvlc/whole_nets.py sums up of one pass of a net, by real Caffe under OpenBLAS's Haswell kernel, and
the values at which a rounding decides.
spread.json: real Caffe's distance from itself under other kernels, of each kind the greatest, and the greatest median
over all blobs; single ReLU and max-pool flips make it, and a small net has few: so gradients are compared on more
photos, too. "flip": the greatest distance of a gradient that one flip makes: in each ReLU the value nearest to 0, in
turn."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).resolve().parent / "goldens" / "variants"
SEEDS = range(101, 109)


def work(folder: str, first: bool) -> None:
    """In a Python that has real Caffe: golden.npz, and a file of gradients a seed; `first`: ties and flip, too."""
    import caffe

    from tests.bvlc import whole_nets

    train, deploy = whole_nets.open_nets(caffe, folder)
    message = whole_nets.read_net(os.path.join(folder, "train.prototxt"))
    summary = whole_nets.passes(caffe, train, deploy)
    for seed, gradients in zip(SEEDS, whole_nets.more_gradients(caffe, train, SEEDS)):
        whole_nets.save(os.path.join(folder, f"{seed}.npz"), gradients)
    ties, flip = whole_nets.find_ties(caffe, message, train) if first else (None, None)
    whole_nets.save(os.path.join(folder, "golden.npz"), summary, ties)
    with open(os.path.join(folder, "flip.json"), "w") as f:
        json.dump(flip, f)


def main(argv: list) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help="default: all")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(args.worker, args.first)
        return 0
    from tests.bvlc import compare, generated, real, whole_nets

    kernels = ("Haswell", *compare.OTHER_CORETYPES)  # the first makes the golden
    GOLDENS.mkdir(parents=True, exist_ok=True)
    path = GOLDENS / "spread.json"
    spread = json.loads(path.read_text()) if args.nets and path.is_file() else {}
    for name in args.nets or generated.NETS:
        spread[name] = {}
        with tempfile.TemporaryDirectory() as work_folder:
            folders = [Path(work_folder) / kernel for kernel in kernels]
            for kernel, folder in zip(kernels, folders):
                folder.mkdir()
                generated.write(generated.NETS[name], folder)
                command = [__file__, "--worker", folder, *(["--first"] if kernel == kernels[0] else [])]
                real.python(command, {"PYTHONPATH": str(ROOT)}, coretype=kernel)
            shutil.copy(folders[0] / "golden.npz", GOLDENS / f"{name}.npz")
            for file in ("golden", *SEEDS):
                golden, *others = (whole_nets.load(folder / f"{file}.npz") for folder in folders)
                for other in others:
                    for kind, errors in whole_nets.distances(other, golden).items():
                        row = spread[name].setdefault(kind, {"greatest": 0.0, "median": 0.0})
                        for what, of in (("greatest", max), ("median", np.median)):
                            row[what] = max(row[what], float(f"{of(list(errors.values())):.2g}"))
            spread[name]["flip"] = float(f"{json.loads((folders[0] / 'flip.json').read_text()):.2g}")
        print(name, json.dumps(spread[name]), flush=True)
        path.write_text(json.dumps(spread, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
