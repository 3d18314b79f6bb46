"""Run real Caffe's programs, and scripts in a Python that has its pycaffe."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from ilgnet.run import bvlc
from torchcaffe.base.errors import CaffeError


def binary_command(name: str) -> list[str]:
    """The command line that starts one of Caffe's programs (caffe, convert_imageset, compute_image_mean, ...)."""
    root = bvlc.bvlc_root()
    if root is not None:
        if not (root / "usr" / "bin" / name).is_file():
            raise CaffeError(f"{root}/usr/bin/{name}: real Caffe has no such program")
        return bvlc.loader_command(root, name)
    found = shutil.which(name)
    if found is None:
        raise CaffeError(f"no program {name} of real Caffe on this machine: {bvlc.HOW}")
    return [found]


def python(args: Sequence, env: Mapping[str, str] | None = None, coretype: str = "Haswell", check=True, **options):
    """Run `args` (a script and its arguments, or -c CODE) in a Python that has the real pycaffe.

    Returns the finished process with stdout and stderr as text; CaffeError with BVLC's own reason when it failed and
    `check` holds (BVLC aborts on bad input). `options` go to subprocess.run (cwd, timeout, input)."""
    args = [str(a) for a in args]
    return bvlc.run(bvlc.python_command() + args, args[0], check, env=bvlc.bvlc_env(env, coretype), **options)


def binary(name: str, *args, check=True, **options):
    """Run one of real Caffe's programs, e.g. binary("caffe", "train", "--solver=s.prototxt"); see python."""
    command = binary_command(name) + [str(a) for a in args]
    return bvlc.run(command, name, check, env=bvlc.bvlc_env(quiet=False), **options)
