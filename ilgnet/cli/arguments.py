"""The parser of a command, and the arguments that several commands take."""

from __future__ import annotations

import argparse
import sys


def make_parser(module: str) -> argparse.ArgumentParser:
    """The parser of a command's module, whose docstring is the description and, from "Example:" on, the epilog."""
    about, _, example = str(sys.modules[module].__doc__).partition("\n\nExample:")
    return argparse.ArgumentParser(
        prog="ilgnet " + module.rpartition(".")[2].replace("_", "-"),
        description=about,
        epilog="example:" + example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_net(parser: argparse.ArgumentParser, mean: str = "(default: none)") -> None:
    """--net, --preset and --mean: how to score with --weights."""
    from ilgnet.photos.preprocess import PRESETS

    parser.add_argument("--net", help="deploy.prototxt or variant's name (default: the variant the weights fit)")
    parser.add_argument("--preset", choices=PRESETS, help="preprocessing (default: lmdb if there is a mean file)")
    parser.add_argument("--mean", help=f"mean.binaryproto or mean.npy of the training set {mean}")
