"""The parser of a command, and what several commands do with their arguments."""

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError


def make_parser(module: str, quiet: bool = False) -> argparse.ArgumentParser:
    """The parser of a command's module, whose docstring is the description and, from "Example:" on, the epilog.

    quiet: from now on the engine logs nothing but errors."""
    if quiet:
        log.set_level(2)
    about, _, example = str(sys.modules[module].__doc__).partition("\n\nExample:")
    return argparse.ArgumentParser(
        prog="ilgnet " + module.rpartition(".")[2].replace("_", "-"),
        description=about,
        epilog="example:" + example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_net(parser: argparse.ArgumentParser, mean: str = "(default: none)", weights: bool = True) -> None:
    """--weights, unless the command adds them itself, and --net, --preset and --mean: how to score with them."""
    from ilgnet.photos.preprocess import PRESETS

    if weights:
        parser.add_argument(
            "--weights",
            metavar="CAFFEMODEL",
            help="or the name of an installed model (ilgnet fetch-weights --list); default: the first installed of "
            "ilgnet-ava1, nima and taught",
        )
    parser.add_argument("--net", help="deploy.prototxt or variant's name (default: the variant the weights fit)")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="preprocessing (default: nima's own for nima, else lmdb if there is a mean file)",
    )
    parser.add_argument("--mean", help=f"mean.binaryproto or mean.npy of the training set {mean}")


def find_mean(args: argparse.Namespace) -> None:
    """Set --mean, where it is needed and not given, to the mean.binaryproto beside --lmdb, if there is one."""
    if args.lmdb and not args.mean and args.preset != "direct":
        beside = Path(args.lmdb).resolve().with_name("mean.binaryproto")
        args.mean = str(beside) if beside.is_file() else None


def flag(name: str) -> str:
    """The option whose value is args.NAME."""
    return "--" + name.replace("_", "-")


def given(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of the options that do not have their default."""
    return [flag(name) for name in names if getattr(args, name) != parser.get_default(name)]


def check_range(args: argparse.Namespace, names: str, least: float = 1, most: float = math.inf) -> None:
    """CaffeError unless each of the options is None or a number from `least` to `most`."""
    for name in names.split():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise CaffeError(f"{flag(name)} {value}: must be {limits}")
