"""Writes what Caffe's upgrade programs make of tests/bvlc/goldens/upgrade/NAME.in.prototxt: NAME.out.prototxt (unless
Caffe aborts) and NAME.log. Needs Caffe's programs on PATH:

    python3 tests/bvlc/make_upgrade_goldens.py tests/bvlc/goldens/upgrade
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# A log line less its time and thread; the rest of a multi-line message; or the stack trace that ends a fatal one.
_LINE = re.compile(r"^([IWEF])\d{4} [\d:.]+ +\d+ (.*)$")


def main(folder: Path) -> None:
    for source in sorted(folder.glob("*.in.prototxt")):
        name = source.name[: -len(".in.prototxt")]
        program = "upgrade_solver_proto_text" if name.startswith("solver_") else "upgrade_net_proto_text"
        result = name + ".out.prototxt"
        (folder / result).unlink(missing_ok=True)
        run = subprocess.run([program, source.name, result], cwd=folder, stderr=subprocess.PIPE, text=True)
        lines = [
            _LINE.match(line) for line in run.stderr.splitlines() if not line.startswith(("***", "    @", "PC: @"))
        ]
        log = [f"exit {run.returncode}\n"] + [" ".join(line.groups()) + "\n" for line in lines if line]
        (folder / (name + ".log")).write_text("".join(log))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
