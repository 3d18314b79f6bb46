"""The program `ilgnet`: the table of its commands. Only the module of the command that runs is imported."""

import ast
import importlib
import multiprocessing
import os
import sys
from pathlib import Path

import ilgnet
from torchcaffe.base.errors import CaffeError, run_main

# In the order of a project's life. The command `gen-net` is the module gen_net, which says what it does.
GROUPS = {
    "Data": ("demo", "check-ava", "prepare", "ratings", "splits", "make-lmdb", "mean"),
    "Nets and weights": ("gen-net", "gen-solver", "summarize", "diff-nets", "fetch-weights", "surgery"),
    "Training": ("train", "plot-log", "log-to-tensorboard", "compare-nets"),
    "Tests and the paper's tables": ("evaluate", "visualize", "benchmark", "report"),
    "Photos": ("rank", "check-ranking"),
    "Other formats and engines": ("merge-bn", "export-onnx", "setup-bvlc"),
}
HELP = """\
usage: ilgnet COMMAND [ARGUMENT ...]

ILGNet scores photos for aesthetic quality. These commands prepare data, train,
test and use it, with Caffe's files and without Caffe.

{commands}
Next: `ilgnet demo --out out/demo/ava` makes a small data set to try them on.
`ilgnet COMMAND --help` explains a command and ends with an example."""


def module_of(command: str) -> str:
    return command.replace("-", "_")


def summary(command: str) -> str:
    """The first line of a command's docstring, read without importing the module."""
    text = Path(__file__).with_name(f"{module_of(command)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def main(argv: list[str]) -> int:
    command, *words = argv or ["--help"]
    if command in ("--help", "-h"):
        groups = {group: "".join(f"  {name:20}{summary(name)}\n" for name in GROUPS[group]) for group in GROUPS}
        print(HELP.format(commands="\n".join(f"{group}:\n{lines}" for group, lines in groups.items())))
        return 0
    if command == "--version":
        print(f"ilgnet {ilgnet.__version__}")
        return 0
    if not any(command in names for names in GROUPS.values()):
        raise CaffeError(f"unknown command '{command}': `ilgnet --help` lists the commands")
    return importlib.import_module(f"ilgnet.cli.{module_of(command)}").main(words)


def run(*command: str) -> None:
    """Entry point of `ilgnet` and `python -m ilgnet`; with a command, of its program in a checkout's tools/."""
    if multiprocessing.current_process().name != "MainProcess":
        return  # a process that the command started imports the program again, not to run it
    if command:
        # Nothing may be installed: processes that the command starts with `-m ilgnet` must find this checkout, too.
        here = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))
    run_main(lambda: main([*command, *sys.argv[1:]]))
