"""Where real Caffe is, and how to run it: the one place that knows.

`make bvlc` (bvlc_setup.py) unpacks Debian 11 with BVLC Caffe 1.0.0 under the user's cache folder. Its programs
run through that root's own dynamic loader instead of chroot: paths mean the same as outside, and running needs no root
rights. Without it, a pycaffe that some Python of this machine can import is used as it is."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchcaffe.base.errors import CaffeError

MARKER = "ilgnet-bvlc-ready"
HOW = "run `make bvlc` (root on Debian), or `apt install caffe-cpu python3-caffe-cpu` on Ubuntu 18.04 to 22.04"
_PROBE = "import sys; sys.path = [p for p in sys.path if p not in ('', '.')]; import caffe._caffe"


def cache_root() -> Path:
    """The folder that `make bvlc` fills: $XDG_CACHE_HOME (or ~/.cache)/ilgnet/bvlc."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ilgnet" / "bvlc"


def bvlc_root() -> Path | None:
    """The Debian root with real Caffe, or None where `make bvlc` has not finished."""
    root = cache_root()
    return root if (root / MARKER).is_file() else None


def loader_command(root: Path, program: str) -> list[str]:
    """The command line that runs ROOT/usr/bin/`program` through the root's own loader and libraries."""
    loaders = sorted(root.glob("usr/lib/*/ld-linux*.so*"))
    if not loaders:
        raise CaffeError(f"{root}: no dynamic loader in it; remove the folder and {HOW}")
    libraries = loaders[0].parent
    # OpenBLAS's own folder comes first: in libraries/, libblas.so.3 is a link into /etc/alternatives of the *host*.
    path = ":".join(map(str, [*sorted(libraries.glob("openblas-*")), libraries, root / "usr/lib"]))
    return [str(loaders[0]), "--library-path", path, str(root / "usr" / "bin" / program)]


@functools.cache
def _system_python() -> str | None:
    """A Python of this machine (this one first) that imports a real pycaffe, or None."""
    for python in (sys.executable, shutil.which("python3"), "/usr/bin/python3"):
        if python and Path(python).is_file():
            done = subprocess.run([python, "-c", _PROBE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
            if done.returncode == 0:
                return python
    return None


def available() -> bool:
    """Whether some real pycaffe can be run from here."""
    return bool(bvlc_root() or _system_python())


def python_command() -> list[str]:
    """The command line that starts a Python with a real pycaffe. CaffeError, with what to do, where there is none."""
    root = bvlc_root()
    if root is not None:
        return loader_command(root, "python3.9")
    python = _system_python()
    if python is None:
        raise CaffeError(f"no real Caffe on this machine: {HOW}")
    return [python]


def bvlc_env(
    env: Mapping[str, str] | None = None,
    coretype: str = "Haswell",
    threads: int = 1,
    quiet: bool = True,
) -> dict[str, str]:
    """The environment in which real Caffe gives the same bits every time.

    Its results depend on OpenBLAS's kernel (`coretype`) and number of threads, so both are set, whatever the machine.
    `quiet` keeps Caffe's INFO and WARNING lines off stderr; fatal ones always come. `env` is added last."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")  # of the Python that calls
    result = {k: v for k, v in os.environ.items() if k not in foreign}
    result.update(
        OPENBLAS_CORETYPE=coretype,
        OPENBLAS_NUM_THREADS=str(threads),
        GLOG_minloglevel="2" if quiet else "0",
        GLOG_logtostderr="1",
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONIOENCODING="utf-8",
        OPENCV_OPENCL_RUNTIME="disabled",
    )
    root = bvlc_root()
    if root is not None:
        result.update(PYTHONHOME=str(root / "usr"), MATPLOTLIBDATA=str(root / "usr/share/matplotlib/mpl-data"))
    result.update(env or {})
    return result


def fatal_line(stderr: str) -> str:
    """The line that says why BVLC stopped: its fatal log line without the prefix, else an exception's last line."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("F") and "] " in line:
            return line.split("] ", 1)[1].strip()
    return lines[-1].strip() if lines else "stopped without a word"


def run(command: Sequence[str], what: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of real Caffe. `what` names it in the CaffeError with BVLC's own reason, if it fails and `check`
    holds. `options` go to subprocess.run."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check and done.returncode:
        raise CaffeError(f"real Caffe, {what}: {fatal_line(done.stderr)} (exit status {done.returncode})")
    return done
