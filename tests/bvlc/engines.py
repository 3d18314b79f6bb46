"""Drives tests/bvlc/run_caffe.py in a process of its own, under real Caffe or torchcaffe.

Real Caffe ends its process on bad input; the next call then starts a new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ilgnet.run import bvlc

HERE = Path(__file__).resolve().parent


class EngineError(Exception):
    """The engine refused a job: its own reason."""


class Engine:
    """A worker process. `name` is "bvlc" or "torch"; `coretype` and `threads` choose OpenBLAS's kernel (bvlc)."""

    def __init__(self, name: str, coretype: str = "Haswell", threads: int = 1, quiet: bool = True):
        self.name, self.coretype, self.threads, self.quiet = name, coretype, threads, quiet
        self.process: subprocess.Popen | None = None
        self.folder = tempfile.TemporaryDirectory(prefix="caffe-jobs-")
        self.log = Path(self.folder.name) / "stderr"

    def start(self) -> None:
        script = str(HERE / "run_caffe.py")
        paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        own = {"TMPDIR": self.folder.name}  # a job that ends the process cannot tidy up behind itself
        if self.name == "bvlc":
            command = [*bvlc.python_command(), script]
            env = bvlc.bvlc_env({"PYTHONPATH": paths, **own}, self.coretype, self.threads, self.quiet)
        else:
            command = [sys.executable, script, "--torch"]
            env = dict(os.environ, PYTHONPATH=paths, GLOG_minloglevel="2", **own)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env
            )

    def call(
        self, op: str, args: dict, arrays: dict | None = None, fork: bool = False
    ) -> tuple[object, dict[str, np.ndarray]]:
        """The value and arrays that OPS[op] returns; EngineError with the engine's reason when it fails.

        `fork`: in a copy of the process, which saves starting a new one where the job is expected to end it."""
        if self.process is None:
            self.start()
        folder = Path(self.folder.name)
        request = {"op": op, "args": args, "out": str(folder / "out.npz"), "fork": fork}
        seen = self.log.stat().st_size
        if arrays:
            np.savez(folder / "in.npz", **arrays)
            request["arrays"] = str(folder / "in.npz")
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.process = None
            raise EngineError(f"{bvlc.fatal_line(self.log.read_text(errors='replace'))} (exit status {code})")
        answer = json.loads(line)
        if "crash" in answer:
            said = self.log.read_bytes()[seen:].decode(errors="replace")
            raise EngineError(f"{bvlc.fatal_line(said)} (exit status -{answer['crash']})")
        if "error" in answer:
            raise EngineError(answer["error"])
        out = {}
        if answer["arrays"]:
            with np.load(request["out"]) as f:
                out = dict(f)
        return answer["value"], out

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None
        self.folder.cleanup()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc) -> None:
        self.close()
