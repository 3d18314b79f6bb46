"""Write the solver of one of the paper's trainings.

The values are those of Table 1, or with --released those of the authors' files.

Example:
  ilgnet gen-solver --net out/demo/net/train_val.prototxt --base-lr 2e-5 \\
    --max-iter 200 --test-iter 4 --test-interval 100 --display 10 \\
    --snapshot-prefix out/demo/snapshots/demo --out out/demo/solver.prototxt
"""

from pathlib import Path

from ilgnet.cli.arguments import check_range, given, make_parser
from ilgnet.nets import emit, table1
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.variants import VARIANTS
from torchcaffe.proto import caffe_pb2

COUNTS = {  # options that take a whole number
    "--stepsize": "iterations between two drops of the learning rate",
    "--max-iter": "iterations of the training",
    "--iter-size": "batches an iteration: 3 of 16 photos make 48",
    "--test-iter": "batches of a test (default: the whole test set)",
    "--test-interval": "iterations between two tests",
    "--snapshot": "iterations between two snapshots",
}


def main(argv: list[str]) -> int:
    p = make_parser(__name__)
    p.add_argument("--all", action="store_true", help="write every file below solvers/ again")
    p.add_argument("--dataset", choices=DATASETS, default="ava1", help="column of Table 1 (default ava1)")
    p.add_argument("--variant", choices=VARIANTS, default="v1bn", help="default v1bn")
    p.add_argument("--released", action="store_true", help="the values of the authors' files where they differ")
    p.add_argument("--net", help="the net to train (default prototxt/VARIANT/train_val*.prototxt)")
    p.add_argument("--base-lr", type=float, help="initial learning rate")
    for name, what in COUNTS.items():
        p.add_argument(name, type=int, help=what)
    p.add_argument("--snapshot-prefix", help="start of the snapshots' paths (default out/snapshots/DATASET_VARIANT)")
    p.add_argument("--display", type=int, help="iterations between two lines of the log")
    p.add_argument("--random-seed", type=int, help="makes the training repeatable")
    p.add_argument("--cpu", action="store_true", help="solver_mode CPU, for BVLC Caffe on a CPU")
    p.add_argument("--out", type=Path, help="file to write (default out/solvers/DATASET/VARIANT.prototxt)")
    args = p.parse_args(argv)
    if args.all:
        if given(p, args, vars(args)) != ["--all"]:
            p.error("--all takes no other option")
        files = table1.committed()
    else:
        which = "all dataset variant released cpu out".split()
        changed = {field: value for field, value in vars(args).items() if field not in which and value is not None}
        check_range(args, "stepsize test_iter iter_size")
        check_range(args, "max_iter test_interval snapshot display base_lr", 0)
        if args.cpu:
            changed["solver_mode"] = caffe_pb2.SolverParameter.CPU
        out = args.out or Path("out") / "solvers" / args.dataset / f"{args.variant}.prototxt"
        files = {out: table1.text(args.dataset, args.variant, args.released, **changed)}
    emit.write(files)
    if not args.all:
        print(f"Next: train with it: ilgnet train --solver {out}")
    return 0
