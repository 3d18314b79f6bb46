"""Where a tool writes its result, settled before the work begins, not after hours of it."""

from pathlib import Path
from typing import IO

from torchcaffe.base.errors import CaffeError


def plain(text: object) -> str:
    """Text with names in it as a terminal may show it: one line, what does not print spelt out (see CaffeError)."""
    return str(CaffeError(text))


def say(*lines: str, file: IO[str] | None = None) -> None:
    """Print lines with names in them to stdout or `file`, each as `plain` has it."""
    for line in lines:
        print(plain(line), file=file)


def check(path: Path, *suffixes: str) -> Path:
    """The path, its folder made. CaffeError unless it ends in one of `suffixes`, where any are given; and for a folder.

    What is written beside the result has its name and another suffix: with that suffix, one would replace the other."""
    if suffixes and path.suffix not in suffixes:
        raise CaffeError(f"{path}: must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise CaffeError(f"{path}: is a folder; give a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
