"""Command lines as gflags reads them: one dash or two, `=` or a space before the value, words anywhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError

Value = str | int | bool
Flags = dict[str, Any]  # the values by name


class Flag(NamedTuple):
    """A command line flag. Its type (text, integer or boolean) is that of its default."""

    name: str
    default: Value
    help: str


# glog's flags, which old scripts pass to all of Caffe's programs.
_GLOG = (
    Flag("logtostderr", True, "lines always go to standard error"),
    Flag("alsologtostderr", True, "lines always go to standard error"),
    Flag("colorlogtostderr", False, "ignored"),
    Flag("stderrthreshold", 0, "ignored"),
    Flag("minloglevel", 0, "log nothing below this: 0 INFO, 1 WARNING, 2 ERROR"),
    Flag("log_dir", "", "also write the log to a file in this folder"),
    Flag("v", 0, "ignored"),
)
_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")


def parse(argv: Sequence[str], flags: Sequence[Flag]) -> tuple[Flags, list[str]]:
    """Return the flags' values by name, and the other words. glog's flags take effect at once.

    A boolean flag is -NAME, -noNAME, -NAME=true or -NAME=false; `--` ends the flags. Raises CaffeError for an unknown
    flag, a missing value or one of the wrong type."""
    known = {f.name: f for f in (*_GLOG, *flags)}
    found: dict[str, Value] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        name, equals, text = word[1 + word.startswith("--") :].partition("=")
        flag = known.get(name)
        if flag is None and name.startswith("no") and isinstance(getattr(known.get(name[2:]), "default", None), bool):
            flag, equals, text = known[name[2:]], "=", "false"
        if flag is None:
            raise CaffeError(f"unknown command line flag '{name}'")
        if not equals:
            if isinstance(flag.default, bool):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise CaffeError(f"flag -{flag.name}: its value is missing")
        found[flag.name] = _convert(flag, text)
    if "minloglevel" in found:
        log.set_level(int(found["minloglevel"]))
    if found.get("log_dir"):
        log.to_file(Path(str(found["log_dir"])) / f"caffe.INFO.{os.getpid()}.log")
    return {f.name: found.get(f.name, f.default) for f in flags}, words


def _convert(flag: Flag, text: str) -> Value:
    if isinstance(flag.default, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise CaffeError(f"flag -{flag.name}: '{text}' is neither true nor false")
        return text.lower() in _TRUE
    if isinstance(flag.default, int):
        try:
            value = int(text, 0)
        except ValueError:
            raise CaffeError(f"flag -{flag.name}: '{text}' is not a whole number") from None
        if not -(1 << 31) <= value < 1 << 31:  # an int32, as gflags'
            raise CaffeError(f"flag -{flag.name}: {text} is out of range")
        return value
    return text


def describe(flags: Sequence[Flag]) -> str:
    """The flags for a program's usage text, one on each line."""
    return "\n".join(
        f"  -{flag.name:<16} {flag.help}" + (f" (default {flag.default})" if flag.default not in ("", False) else "")
        for flag in flags
    )
