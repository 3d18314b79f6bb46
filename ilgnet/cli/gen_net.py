"""Write the prototxts of one of the paper's nets.

They are train_val.prototxt and deploy.prototxt.

Example:
  ilgnet gen-net --variant v1bn --batch-size 16 --source out/demo/data \\
    --out out/demo/net
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.nets import emit
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.targets import TARGETS
from ilgnet.nets.variants import VARIANTS


def main(argv: Sequence[str] | None = None) -> int:
    p = make_parser(__name__)
    variants = "; ".join(f"{v.name}: {v.title}, {v.about}" for v in VARIANTS.values())
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--variant", choices=list(VARIANTS), metavar="VARIANT", help=variants)
    what.add_argument("--all", action="store_true", help="write every file below prototxt/ again")
    p.add_argument("--dataset", choices=list(DATASETS), default="ava1", help="default ava1")
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
    targets = "; ".join(f"{t.name}: {t.about}" for t in TARGETS.values())
    p.add_argument("--target", choices=list(TARGETS), default="classes", help=f"what the net learns ({targets})")
    p.add_argument("--out", type=Path, help="folder to write to (default out/VARIANT)")
    args = vars(p.parse_args(argv))
    for name in ("crop", "batch_size"):
        if not 0 < args[name] < 1 << 31:
            p.error(f"--{name.replace('_', '-')} {args[name]}: must be above 0, and an int32")
    try:
        (args["source"] or "").encode()
    except UnicodeEncodeError:
        p.error("--source: its name is not UTF-8, as a prototxt is")
    out, everything = args.pop("out"), args.pop("all")
    if everything:
        if out or any(args[name] != p.get_default(name) for name in args):
            p.error("--all takes no other option")
        files = emit.committed()
    else:
        folder = out or Path("out") / args["variant"]
        files = {folder / name: text for name, text in emit.texts(emit.Choice(**args)).items()}
    emit.write(files)
    print("\n".join(map(str, files)))
    if not everything:
        print(f"Next: write its solver: ilgnet gen-solver --net {folder / 'train_val.prototxt'}")
    return 0
