"""Fetch published weights, or install a file of them.

GoogLeNet and NIMA are downloaded. The authors' trained ILGNets have no stable
address: download the archive by hand and give it with --file. They go to the
folder weights here if there is one, else to the user's data folder.

Example:
  ilgnet fetch-weights nima
"""

import argparse
from pathlib import Path

from ilgnet.cli.arguments import given, make_parser
from ilgnet.nets import emit
from ilgnet.run import outputs
from ilgnet.weights import models, published
from torchcaffe.base.errors import CaffeError


def show(folder: Path) -> None:
    """Print every known model, where it comes from, and whether it is in the folder."""
    for name, file in models.INSTALLED.items():
        model = published.MODELS.get(name)
        if model is None:
            about = "an ILGNet that another model taught, by make teach"
        elif isinstance(model, published.Released):
            about = f"{model.file} from {model.page}; licence: {model.licence}"
        else:
            about = f"from {model.url}"
        path = folder / file
        print(f"{name:12} {outputs.plain(path) if path.is_file() else 'not installed'}\n{'':12} {about}")


def convert(name: str, model: published.Released, target: Path, given: Path | None) -> None:
    """Install a trained net from a given file, or by download."""
    if target.exists():
        raise CaffeError(f"{target} exists; remove it by ilgnet fetch-weights --remove {name}, or move it away")
    source = given or target.with_name(model.file)
    if given is None:
        download = published.Published(model.file, model.url, model.sha256, 100 << 20)
        if not published.is_there(source, download):
            published.download(download, source)
    outputs.say(published.convert(model, source, target, emit.deploy(emit.Choice(model.variant))))
    if given is None:
        source.unlink()
    outputs.say(f"wrote {target}, in the current format; its net is {model.variant} ({model.licence})")


def googlenet(model: published.Published, target: Path, args: argparse.Namespace) -> None:
    """Install it from a given file, or by download."""
    if published.is_there(target, model):
        outputs.say(f"{target} is there already, and its {model.algorithm} is right")
        return
    if args.file is not None:
        published.install(model, args.file, target)
    else:
        published.download(model, target, args.url)
    outputs.say(f"wrote {target} ({model.algorithm} {model.checksum})")


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    parser.add_argument(
        "model",
        nargs="?",
        choices=models.INSTALLED,
        default="googlenet",
        help="googlenet (default), nima, a trained ILGNet (needs --file), or taught: a snapshot of make teach (--file)",
    )
    parser.add_argument("--list", action="store_true", help="show the models, and which are installed")
    parser.add_argument("--remove", choices=models.INSTALLED, metavar="MODEL", help="remove an installed model")
    parser.add_argument("--file", type=Path, metavar="PATH", help="check and install this file instead of downloading")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: weights here if it is a folder, else your data folder"
    )
    parser.add_argument("--url", help="mirror to download googlenet from; its SHA-1 is checked")
    args = parser.parse_args(argv)
    folder = args.out or models.folder()
    if args.list:
        show(folder)
        return 0
    if args.remove:
        for option in given(parser, args, ("file", "url")):
            parser.error(f"{option} means nothing with --remove")
        outputs.say(*(f"removed {path}" for path in models.remove(folder, args.remove)))
        return 0
    model = published.MODELS.get(args.model)
    if args.file is None and isinstance(model, published.Released) and not model.url:
        raise CaffeError(published.where(args.model, model))
    target = outputs.check(folder / models.INSTALLED[args.model])
    if isinstance(model, published.Published):
        googlenet(model, target, args)
        outputs.say(f"Next: make a net's starting weights of it: ilgnet surgery --weights {target}")
        return 0
    if model is not None:
        convert(args.model, model, target, args.file)
    elif args.file is None:
        raise CaffeError("taught: name a snapshot of make teach with --file")
    else:
        models.install_taught(args.file, target)
        outputs.say(f"wrote {target}")
    known = args.out is None
    outputs.say(f"Next: rank photos with it: ilgnet rank FOLDER --weights {args.model if known else target}")
    return 0
