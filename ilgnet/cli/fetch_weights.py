"""Fetch published weights, or install a file of them.

GoogLeNet and NIMA are downloaded. The authors' trained ILGNets have no stable
address: download the archive by hand and give it with --file.

Example:
  ilgnet fetch-weights nima
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.nets import emit
from ilgnet.run import outputs
from ilgnet.weights import published
from torchcaffe.base.errors import CaffeError


def show(folder: Path) -> None:
    """Print every known model, and whether it is in the folder."""
    for name, model in published.MODELS.items():
        if isinstance(model, published.Released):
            path, source = folder / model.installed, model.page
        else:
            path, source = folder / model.file, model.url
        place = path if path.is_file() else "not installed"
        print(f"{name:12} {place!s:36} from {source}")


def convert(name: str, model: published.Released, folder: Path, given: Path | None) -> None:
    """Install a trained net from a given file, or by download."""
    if given is None and not model.url:
        raise CaffeError(published.where(name, model))
    target = outputs.check(folder / model.installed)
    if target.exists():
        raise CaffeError(f"{target} exists; move it away")
    source = given or folder / model.file
    if given is None:
        download = published.Published(model.file, model.url, model.sha256, 100 << 20)
        if not published.is_there(source, download):
            published.download(download, source)
    print(published.convert(model, source, target, emit.deploy(emit.Choice(model.variant))))
    if given is None:
        source.unlink()
    print(f"wrote {target}, in the current format; its net is {model.variant} ({model.licence})")


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    parser.add_argument(
        "model",
        nargs="?",
        choices=published.MODELS,
        default="googlenet",
        help="googlenet (default), nima, or a trained ILGNet, which needs --file",
    )
    parser.add_argument("--list", action="store_true", help="show the models, and which are installed")
    parser.add_argument("--file", type=Path, metavar="PATH", help="check and install this file instead of downloading")
    parser.add_argument("--out", type=Path, default=Path("weights"), metavar="FOLDER", help="default: weights")
    parser.add_argument("--url", help="mirror to download googlenet from; its SHA-1 is checked")
    args = parser.parse_args(argv)
    if args.list:
        show(args.out)
        return 0
    model = published.MODELS[args.model]
    if isinstance(model, published.Released):
        convert(args.model, model, args.out, args.file)
        weights = args.out / model.installed
        if model.variant == "v1":
            print(f"Next: rank photos with it: ilgnet rank FOLDER --weights {weights}")
        else:
            print(f"Next: its mean votes, in Python: import ilgnet; ilgnet.score(['a.jpg'], '{weights}')")
        return 0
    target = outputs.check(args.out / model.file)
    if published.is_there(target, model):
        print(f"{target} is there already, and its {model.algorithm} is right")
    else:
        if args.file is not None:
            published.install(model, args.file, target)
        else:
            published.download(model, target, args.url)
        print(f"wrote {target} ({model.algorithm} {model.checksum})")
    print(f"Next: make a net's starting weights of it: ilgnet surgery --weights {target}")
    return 0
