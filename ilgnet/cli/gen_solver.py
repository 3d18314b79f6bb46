"""Write the solver of one of the paper's trainings: Table 1 as printed, or the released values."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ilgnet.nets import emit, table1
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.variants import VARIANTS
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.proto import caffe_pb2

AT_LEAST = dict(max_iter=0, stepsize=1, test_iter=1, test_interval=0, snapshot=0, display=0, iter_size=1, base_lr=0)


def main(argv: list) -> int:
    p = argparse.ArgumentParser(prog="gen_solver.py", description=__doc__)
    p.add_argument("--all", action="store_true", help="write every committed file below solvers/ anew")
    p.add_argument("--dataset", choices=list(DATASETS), default="ava1", help="column of Table 1 (default ava1)")
    p.add_argument("--variant", choices=list(VARIANTS), default="v1bn", help="default v1bn")
    p.add_argument("--released", action="store_true", help="the released solvers' values, where they differ")
    p.add_argument("--net", help="the net to train (default prototxt/VARIANT/train_val*.prototxt)")
    p.add_argument("--base-lr", type=float, help="learning rate to start from")
    p.add_argument("--stepsize", type=int, help="iterations between two drops of the rate")
    p.add_argument("--max-iter", type=int, help="iterations of the training")
    p.add_argument("--iter-size", type=int, help="batches an iteration: with `gen_net.py --batch-size 16`, 3 give 48")
    p.add_argument("--test-iter", type=int, help="batches of a test (default: the whole test set)")
    p.add_argument("--test-interval", type=int, help="iterations between two tests")
    p.add_argument("--snapshot", type=int, help="iterations between two snapshots")
    p.add_argument("--snapshot-prefix", help="how the snapshots' paths begin (default out/snapshots/DATASET_VARIANT)")
    p.add_argument("--display", type=int, help="iterations between two lines of the log")
    p.add_argument("--random-seed", type=int, help="the same training every time")
    p.add_argument("--cpu", action="store_true", help="solver_mode CPU, for Caffe's own programs on a CPU")
    p.add_argument("--out", type=Path, help="file to write (default out/solvers/DATASET/VARIANT.prototxt)")
    args = p.parse_args(argv)
    if args.all:
        if len(argv) > 1:
            p.error("--all takes no other option")
        files = table1.committed()
    else:
        which = ("all", "dataset", "variant", "released", "cpu", "out")
        changed = {field: value for field, value in vars(args).items() if field not in which and value is not None}
        for field, least in AT_LEAST.items():
            if not changed.get(field, least) >= least:
                raise CaffeError(f"--{field.replace('_', '-')} {changed[field]}: must be at least {least}")
        if args.cpu:
            changed["solver_mode"] = caffe_pb2.SolverParameter.CPU
        out = args.out or Path("out") / "solvers" / args.dataset / f"{args.variant}.prototxt"
        files = {out: table1.text(args.dataset, args.variant, args.released, **changed)}
    emit.write(files)
    print("\n".join(str(path) for path in files))
    return 0


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
