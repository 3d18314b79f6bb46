"""Download GoogLeNet's weights or install a released ILGNet.

The authors' trained nets have no stable address: download the archive by hand
and give it with --file.

Example:
  ilgnet fetch-weights googlenet
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.nets import emit
from ilgnet.run import outputs
from ilgnet.weights import published
from torchcaffe.base.errors import CaffeError


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    parser.add_argument(
        "model",
        nargs="?",
        choices=published.MODELS,
        default="googlenet",
        help="googlenet (default), or a trained ILGNet, which needs --file",
    )
    parser.add_argument("--file", type=Path, metavar="PATH", help="check and install this file instead of downloading")
    parser.add_argument("--out", type=Path, default=Path("weights"), metavar="FOLDER", help="default: weights")
    parser.add_argument("--url", help="mirror to download googlenet from; its SHA-1 is checked")
    args = parser.parse_args(argv)
    model = published.MODELS[args.model]
    if isinstance(model, published.Released):
        if args.file is None:
            raise CaffeError(published.where(args.model, model))
        target = outputs.check(args.out / model.installed)
        if target.exists():
            raise CaffeError(f"{target} exists; move it away")
        print(published.convert(model, args.file, target, emit.deploy(emit.Choice("v1")), "v1"))
        print(f"wrote {target}, in the current format; its net is v1")
        print(f"Next: rank photos with it: ilgnet rank FOLDER --weights {target}")
        return 0
    target = outputs.check(args.out / model.file)
    if published.is_there(target, model.sha1):
        print(f"{target} is there already, and its sha1 is right")
    else:
        if args.file is not None:
            published.install(model, args.file, target)
        else:
            published.download(model, target, args.url)
        print(f"wrote {target} (sha1 {model.sha1})")
    print(f"Next: make a net's starting weights of it: ilgnet surgery --weights {target}")
    return 0
