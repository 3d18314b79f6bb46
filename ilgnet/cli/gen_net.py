"""Write the prototxts of one of the paper's nets.

They are train_val.prototxt and deploy.prototxt.

Example:
  ilgnet gen-net --variant v1bn --batch-size 16 --source out/demo/data \\
    --out out/demo/net
"""

from pathlib import Path

from ilgnet.cli.arguments import check_range, given, make_parser
from ilgnet.nets import emit
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.targets import TARGETS
from ilgnet.nets.variants import VARIANTS


def main(argv: list[str]) -> int:
    p = make_parser(__name__)
    variants = "; ".join(f"{v.name}: {v.title}, {v.about}" for v in VARIANTS.values())
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--variant", choices=VARIANTS, metavar="VARIANT", help=variants)
    what.add_argument("--all", action="store_true", help="write every file below prototxt/ again")
    p.add_argument("--dataset", choices=DATASETS, default="ava1", help="default ava1")
    p.add_argument("--crop", type=int, default=224, help="side of the net's input (default 224; released: 227)")
    p.add_argument("--batch-size", type=int, default=48, help="photos in a training batch (default 48, as released)")
    p.add_argument(
        "--trunk",
        choices=["finetune", "frozen"],
        default="finetune",
        help="finetune: the trunk learns, too (default, as released); frozen: it does not (the paper's text)",
    )
    p.add_argument("--source", help="folder with train_lmdb, val_lmdb and mean.binaryproto (default data/DATASET)")
    p.add_argument(
        "--pool",
        choices=["ave", "max"],
        help="pooling branch of Inception V1's modules (ave: released ILGNet; max: BVLC GoogLeNet)",
    )
    p.add_argument("--drop-lrn", action="store_true", help="without GoogLeNet's local response normalisation")
    p.add_argument(
        "--spp",
        action="store_true",
        help="spatial pyramid pooling instead of fixed poolings, for photos of any size",
    )
    p.add_argument("--merge-bn", action="store_true", help="with batch normalisation folded into the convolutions")
    p.add_argument(
        "--no-clip", action="store_true", help="nima: without Clip layers, which OpenCV and early Caffes do not read"
    )
    targets = "; ".join(f"{t.name}: {t.about}" for t in TARGETS.values())
    p.add_argument("--target", choices=TARGETS, default="", help=f"what the net learns ({targets})")
    p.add_argument("--out", type=Path, help="folder to write to (default out/VARIANT)")
    args = p.parse_args(argv)
    check_range(args, "crop batch_size", 1, 2**31 - 1)
    try:
        (args.source or "").encode()
    except UnicodeEncodeError:
        p.error("--source: its name is not UTF-8, as a prototxt is")
    if args.all:
        if given(p, args, vars(args)) != ["--all"]:
            p.error("--all takes no other option")
        files = emit.committed()
    else:
        folder = args.out or Path("out") / args.variant
        choice = emit.Choice(**{name: value for name, value in vars(args).items() if name not in ("all", "out")})
        files = {folder / name: text for name, text in emit.texts(choice).items()}
    emit.write(files)
    if not args.all:
        print(f"Next: write its solver: ilgnet gen-solver --net {folder / 'train_val.prototxt'}")
    return 0
