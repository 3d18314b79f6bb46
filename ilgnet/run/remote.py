"""pycaffe's API over a pipe: nets and solvers of the real Caffe that bvlc_worker.py runs in a process of its own."""

from __future__ import annotations

import collections
import io
import json
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ilgnet.run import bvlc
from torchcaffe.base.errors import CaffeError, WorkerLost

WORKER = Path(__file__).with_name("bvlc_worker.py")


def _end(process: subprocess.Popen) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()  # the worker ends with its input
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Caffe:
    """What `import caffe` gives, of real Caffe. log: called with each line of its log, as bytes.

    Raises CaffeError with Caffe's own reason where it refuses or aborts, WorkerLost where a signal ended it."""

    TRAIN, TEST = 0, 1

    def __init__(
        self, log: Callable[[bytes], None] | None = None, threads: int | None = None, coretype: str = "Haswell"
    ):
        threads = threads or int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1)
        self._process = subprocess.Popen(
            [*bvlc.python_command(), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=bvlc.bvlc_env(coretype=coretype, threads=threads, quiet=log is None),
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        self._to, self._from = cast(BinaryIO, self._process.stdin), cast(io.BufferedReader, self._process.stdout)
        self._log = cast(BinaryIO, self._process.stderr)
        self._said: collections.deque[bytes] = collections.deque(maxlen=200)
        self._reader = threading.Thread(target=self._read_log, args=(log,), daemon=True)
        self._reader.start()
        self.close = weakref.finalize(self, _end, self._process)

    def _read_log(self, log: Callable[[bytes], None] | None) -> None:
        with self._log:
            for line in self._log:
                self._said.append(line)
                if log:
                    log(line)

    # -- messages ------------------------------------------------------------------------------------------------------

    def send(self, array: np.ndarray | None = None, **message: Any) -> None:
        """Send a request."""
        if array is not None:
            array = np.ascontiguousarray(array, np.float32)
            message["shape"] = array.shape
        try:
            self._to.write(json.dumps(message).encode() + b"\n")
            if array is not None:
                self._to.write(array.data.cast("B"))
            self._to.flush()
        except OSError:
            pass  # the worker has ended: receive() says why

    def receive(self) -> dict[str, Any]:
        """The next answer; its array under "array"."""
        try:
            line = self._from.readline()
            answer = json.loads(line) if line else self._fail()
            if "error" in answer:
                raise CaffeError(f"real Caffe: {answer['error']}")
            if "shape" in answer:
                array = np.empty(answer["shape"], np.float32)
                self._from.readinto(array.data.cast("B"))
                answer["array"] = array
            return answer
        except KeyboardInterrupt:
            self._process.kill()
            raise

    def ask(self, do: str, array: np.ndarray | None = None, **message: Any) -> Any:
        """Send a request, and return the answer's value or array."""
        self.send(array, do=do, **message)
        answer = self.receive()
        return answer.get("array", answer.get("value"))

    def _fail(self) -> dict[str, Any]:
        code = self._process.wait()
        self._reader.join()
        said = b"".join(self._said).decode(errors="replace")
        if code < 0 and not any(line.startswith("F") for line in said.splitlines()):
            raise WorkerLost(f"real Caffe's process was ended by {signal.Signals(-code).name}")
        raise CaffeError(f"real Caffe: {bvlc.fatal_line(said)}")

    # -- pycaffe -------------------------------------------------------------------------------------------------------

    def set_mode_cpu(self) -> None:
        self.ask("caffe", method="set_mode_cpu", args=[])

    def set_mode_gpu(self) -> None:
        self.ask("caffe", method="set_mode_gpu", args=[])

    def set_device(self, index: int) -> None:
        self.ask("caffe", method="set_device", args=[index])

    def set_random_seed(self, seed: int) -> None:
        self.ask("caffe", method="set_random_seed", args=[seed])

    def Net(self, path: Path | str, phase: int) -> RemoteNet:
        return RemoteNet(self, self.ask("net", path=str(path), phase=phase))

    def get_solver(self, path: Path | str) -> Solver:
        return Solver(self, self.ask("solver", path=str(path)))

    def timed(self, made: RemoteNet | Solver, method: str, *args: Any, seconds: float) -> float:
        """Median seconds of a method, called again and again for so long, once at least. It runs no callbacks."""
        return self.ask("time", of=made.number, method=method, args=args, seconds=seconds)

    def peak_memory(self) -> int:
        """The process's largest resident size, in bytes."""
        return self.ask("memory")


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """A blob's data or diff: reading fetches it, `array[...] = values` sends it."""

    def __init__(self, caffe: Caffe, where: dict[str, Any], what: str):
        self._caffe, self._where, self._what = caffe, where, what

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._caffe.ask("shape", **self._where))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._caffe.ask("get", **self._where, what=self._what), dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, Array) else x for x in inputs), **kwargs)

    def __getattr__(self, name: str) -> Any:  # reshape, sum, mean, ...
        if name.startswith("__"):  # NumPy looks for other ways than __array__
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __setitem__(self, key: Any, values: Any) -> None:
        array = np.empty(self.shape, np.float32) if key is Ellipsis else np.array(self)
        array[key] = values
        self._caffe.ask("set", array, **self._where, what=self._what)


class Blob:
    """pycaffe's Blob: data, diff, shape, reshape."""

    def __init__(self, caffe: Caffe, of: int, layer: str | None, name: str | int):
        self._caffe = caffe
        self._where: dict[str, Any] = {"of": of, "layer": layer, "name": name}

    @property
    def data(self) -> Array:
        return Array(self._caffe, self._where, "data")

    @property
    def diff(self) -> Array:
        return Array(self._caffe, self._where, "diff")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def reshape(self, *shape: int) -> None:
        self._caffe.ask("reshape", **self._where, to=shape)


class RemoteNet:
    """pycaffe's Net, as far as programs here use it."""

    def __init__(self, caffe: Caffe, about: dict[str, Any]):
        self._caffe, self.number = caffe, about["number"]
        self.inputs, self.outputs = about["inputs"], about["outputs"]
        self.layer_names = about["layer_names"]
        self.bottom_names, self.top_names = about["bottom_names"], about["top_names"]
        self.blob_loss_weights = about["blob_loss_weights"]
        self.layers = [LayerType(kind) for kind in about["types"]]
        self.blobs = {name: Blob(caffe, self.number, None, name) for name in about["blobs"]}
        self.params = {
            layer: [Blob(caffe, self.number, layer, i) for i in range(count)]
            for layer, count in about["params"].items()
        }

    def _call(self, method: str, *args: Any) -> None:
        self._caffe.ask("call", of=self.number, method=method, args=args)

    def forward(self, start: str | None = None, end: str | None = None) -> None:
        self._call("forward", None, start, end)

    def backward(self, start: str | None = None, end: str | None = None) -> None:
        self._call("backward", None, start, end)

    def run_forward(self, first: int, last: int) -> None:
        """Run layers by number."""
        self._call("_forward", first, last)

    def reshape(self) -> None:
        self._call("reshape")

    def copy_from(self, path: Path | str) -> None:
        self._call("copy_from", str(path))

    def save(self, path: Path | str) -> None:
        self._call("save", str(path))


class LayerType(collections.namedtuple("LayerType", "type")):
    """A layer, of which its type is known here."""


class Solver:
    """pycaffe's solver: net, test_nets, iter, callbacks, step, solve, snapshot."""

    def __init__(self, caffe: Caffe, about: dict[str, Any]):
        self._caffe, self.number = caffe, about["number"]
        self.net = RemoteNet(caffe, about["net"])
        self.test_nets = [RemoteNet(caffe, net) for net in about["test_nets"]]
        self._callbacks: dict[str, Callable[[], None]] = {}

    @property
    def iter(self) -> int:
        return self._caffe.ask("iter", of=self.number)

    def add_callback(self, start: Callable[[], None], gradients: Callable[[], None]) -> None:
        """Call `start` before each iteration and `gradients` before each update. An exception ends the training."""
        self._callbacks = {"start": start, "gradients": gradients}
        self._caffe.ask("watch", of=self.number)

    def _call(self, method: str, *args: Any) -> None:
        raised: BaseException | None = None
        self._caffe.send(do="call", of=self.number, method=method, args=args)
        while "event" in (answer := self._caffe.receive()):
            try:
                self._callbacks[answer["event"]]()
            except BaseException as error:
                raised = error
            self._caffe.send(do="stop" if raised else "go")
        if raised:
            raise raised

    def step(self, iterations: int) -> None:
        self._call("step", iterations)

    def solve(self, snapshot: str | None = None) -> None:
        self._call("solve", *([snapshot] if snapshot else []))

    def snapshot(self) -> None:
        self._call("snapshot")
