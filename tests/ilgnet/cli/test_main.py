"""The program `ilgnet`: its list of commands, their help and examples, and the checkout's programs that call them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ilgnet
from ilgnet.cli import main as program
from tests import ROOT
from torchcaffe.base.errors import CaffeError

COMMANDS = [command for commands in program.GROUPS.values() for command in commands]
CHECKOUT = """import sys

sys.path.insert(0, f"{sys.path[0]}/..")

from ilgnet.cli.main import run

run("%s")
"""


def test_every_module_is_a_command():
    modules = {path.stem for path in Path(program.__file__).parent.glob("*.py")}
    assert {program.module_of(command) for command in COMMANDS} == modules - {"__init__", "main", "arguments"}


def test_the_list(capsys):
    assert program.main([]) == 0
    shown = capsys.readouterr().out
    assert program.main(["--help"]) == 0 and capsys.readouterr().out == shown
    assert re.findall(r"^  (\S+) +[A-Z].*\.$", shown, re.M) == COMMANDS
    assert max(map(len, shown.splitlines())) <= 80


def test_version_and_unknown_command(capsys):
    assert program.main(["--version"]) == 0 and capsys.readouterr().out == f"ilgnet {ilgnet.__version__}\n"
    with pytest.raises(CaffeError, match="unknown command 'x': `ilgnet --help` lists the commands"):
        program.main(["x"])


def test_the_list_imports_no_command():
    script = "import sys; from ilgnet.cli.main import main; main([]); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_that_is_accepted(command, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        program.main([command, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith(f"usage: ilgnet {command} ") and program.summary(command) in shown
    example = shlex.split(shown.rpartition("\nexample:\n")[2].replace("\\\n", ""))
    assert example[:2] == ["ilgnet", command]

    class Parsed(Exception):
        pass

    def parse_args(self, words):
        self.parse_known_args(words)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Parsed):
        program.main(example[1:])


def test_the_checkouts_programs_are_the_commands():
    found = []
    for path in [*ROOT.glob("tools/*.py"), *ROOT.glob("data_prep/*.py")]:
        command = {"rank_photos": "rank"}.get(path.stem, path.stem.replace("_", "-"))
        assert path.read_text() == CHECKOUT % command
        found.append(command)
    assert sorted(found) == sorted(COMMANDS)


def test_a_checkout_needs_no_installation(tmp_path):
    """Neither for a program nor for the processes that it starts."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gen_net.py", "--variant", "v1", "--out", "v1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "v1/deploy.prototxt" in done.stdout, done.stderr


def test_processes_that_a_checkouts_program_starts_do_not_run_it_again(tmp_path):
    command = [sys.executable, ROOT / "data_prep" / "demo.py", "--out", tmp_path, "--count", "20", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("Next:") == 1 and not done.stderr, done.stderr


def test_a_broken_opencv_is_one_line(tmp_path):
    """As on a machine without libGL."""
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file', name='cv2')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "ilgnet", "rank", "x", "--weights", "y"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "libGL.so.1" in done.stderr and "opencv-python-headless" in done.stderr
