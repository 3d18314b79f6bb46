"""Get weights to start from: BVLC GoogLeNet's from its published address, the authors' trained ILGNets from a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ilgnet.nets import emit
from ilgnet.weights import published
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, run_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model",
        nargs="?",
        choices=list(published.MODELS),
        default="googlenet",
        help="googlenet (default), or a trained ILGNet, which --file must bring",
    )
    parser.add_argument("--file", type=Path, metavar="PATH", help="check and install this file, without any network")
    parser.add_argument("--out", type=Path, default=Path("weights"), metavar="FOLDER", help="default: weights")
    parser.add_argument("--url", help="a mirror to download googlenet from; the hash decides what is taken")
    args = parser.parse_args(argv)
    model = published.MODELS[args.model]
    if isinstance(model, published.Released) and args.file is None:
        raise CaffeError(published.where(args.model, model))
    args.out.mkdir(parents=True, exist_ok=True)
    if isinstance(model, published.Released):
        target = args.out / model.installed
        if target.exists():
            raise CaffeError(f"{target} is there already: move it away")
        log.set_level(2)
        print(published.convert(model, args.file, target, emit.deploy(emit.Choice("v1")), "v1"))
        print(f"wrote {target}, in the current format; its net is v1")
        return 0
    target = args.out / model.file
    if published.is_there(target, model.sha1):
        print(f"{target} is there already, and its sha1 is right")
        return 0
    if args.file is not None:
        published.install(model, args.file, target)
    else:
        published.download(model, target, args.url)
    print(f"wrote {target} (sha1 {model.sha1})")
    return 0


if __name__ == "__main__":
    run_main(main)
