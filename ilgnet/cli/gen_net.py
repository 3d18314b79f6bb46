"""Write the train_val.prototxt and deploy.prototxt of one of the paper's nets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ilgnet.nets import emit
from ilgnet.nets.datasets import DATASETS
from ilgnet.nets.targets import TARGETS
from ilgnet.nets.variants import VARIANTS
from torchcaffe.base.errors import run_main


def main(argv: list) -> int:
    p = argparse.ArgumentParser(prog="gen_net.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    variants = "\n".join(f"{v.name:10} {v.title}: {v.about}" for v in VARIANTS.values())
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--variant", choices=list(VARIANTS), metavar="VARIANT", help=variants)
    what.add_argument("--all", action="store_true", help="write every committed file below prototxt/ anew")
    p.add_argument("--dataset", choices=list(DATASETS), default="ava1", help="default ava1")
    p.add_argument("--crop", type=int, default=224, help="side of the photos the net sees (default 224; released: 227)")
    p.add_argument("--batch-size", type=int, default=48, help="photos a training iteration (default 48, as released)")
    p.add_argument(
        "--trunk",
        choices=["finetune", "frozen"],
        default="finetune",
        help="frozen: the trunk learns nothing (the paper's text); default finetune (the released files)",
    )
    p.add_argument("--source", help="folder of train_lmdb, val_lmdb and mean.binaryproto (default data/DATASET)")
    p.add_argument(
        "--pool",
        choices=["ave", "max"],
        help="pooling branch of Inception V1's modules (ave: released ILGNet; max: BVLC GoogLeNet)",
    )
    p.add_argument("--drop-lrn", action="store_true", help="leave GoogLeNet's local response normalisation out")
    p.add_argument(
        "--spp",
        action="store_true",
        help="spatial pyramid pooling in place of poolings of fixed size: scores photos of any size",
    )
    p.add_argument("--merge-bn", action="store_true", help="batch normalisation folded into the convolutions")
    targets = "; ".join(f"{t.name}: {t.about}" for t in TARGETS.values())
    p.add_argument("--target", choices=list(TARGETS), default="classes", help=f"what it learns ({targets})")
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
    print("\n".join(str(path) for path in files))
    return 0


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
