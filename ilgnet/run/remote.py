"""pycaffe's API over a pipe: nets and solvers of the real Caffe that bvlc_worker.py runs in a process of its own."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable
from functools import partial, partialmethod
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from ilgnet.run import bvlc
from torchcaffe.base.errors import CaffeError, WorkerLost

WORKER = Path(__file__).with_name("bvlc_worker.py")
MARK = b"\0\n"  # the worker's line in its log after what it has logged so far


def _end(process: subprocess.Popen, pipe: Connection) -> None:
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
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [*bvlc.python_command(), str(WORKER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=bvlc.bvlc_env(coretype=coretype, threads=threads, quiet=log is None),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        self._said: collections.deque[bytes] = collections.deque(maxlen=200)
        self._marked = threading.Event()
        logs = [self._said.append, log] if log else [self._said.append]
        self._reader = threading.Thread(target=_read, args=(self._process.stdout, self._marked.set, logs), daemon=True)
        self._reader.start()
        self.close = weakref.finalize(self, _end, self._process, self._pipe)

    # -- messages ------------------------------------------------------------------------------------------------------

    def send(self, array: np.ndarray | None = None, **message: Any) -> None:
        """Send a request."""
        try:
            if array is None:
                self._pipe.send_bytes(json.dumps(message, default=str).encode())
            else:
                self._pipe.send_bytes(json.dumps({**message, "shape": array.shape}).encode())
                self._pipe.send_bytes(array.tobytes())
        except OSError:
            pass  # the worker has ended: receive() says why

    def receive(self) -> dict[str, Any]:
        """The next answer; its array under "array"."""
        try:
            answer = json.loads(self._pipe.recv_bytes())
            if "error" in answer:
                raise CaffeError(f"real Caffe: {answer['error']}")
            if "shape" in answer:
                values = np.frombuffer(bytearray(self._pipe.recv_bytes()), np.float32)
                answer["array"] = values.reshape(answer["shape"])
            return answer
        except KeyboardInterrupt:
            self._process.kill()
            raise
        except (EOFError, OSError):
            code = self._process.wait()
        self._reader.join()
        said = b"".join(self._said).decode(errors="replace")
        if code < 0 and not any(line.startswith("F") for line in said.splitlines()):
            raise WorkerLost(f"real Caffe's process was ended by {signal.Signals(-code).name}")
        raise CaffeError(f"real Caffe: {bvlc.fatal_line(said)}")

    def ask(self, do: str, array: np.ndarray | None = None, **message: Any) -> Any:
        """Send a request, and return the answer's value or array."""
        self.send(array, do=do, **message)
        answer = self.receive()
        return answer.get("array", answer.get("value"))

    def settle(self) -> None:
        """Wait until every line that real Caffe has logged was given to the log: answers overtake lines."""
        self._marked.clear()
        self.ask("mark")
        while not self._marked.wait(1) and self._reader.is_alive():
            pass

    # -- pycaffe -------------------------------------------------------------------------------------------------------

    def _call(self, method: str, *args: int) -> None:
        self.ask("caffe", method=method, args=args)

    set_mode_cpu = partialmethod(_call, "set_mode_cpu")
    set_mode_gpu = partialmethod(_call, "set_mode_gpu")
    set_device = partialmethod(_call, "set_device")
    set_random_seed = partialmethod(_call, "set_random_seed")

    def Net(self, path: Path | str, phase: int) -> RemoteNet:
        return RemoteNet(self, self.ask("net", path=path, phase=phase))

    def get_solver(self, path: Path | str) -> Solver:
        return Solver(self, self.ask("solver", path=path))

    def timed(self, made: Made, method: str, *args: Any, seconds: float) -> float:
        """Median seconds of a method, called again and again for so long, once at least. It runs no callbacks."""
        return self.ask("time", of=made.number, method=method, args=args, seconds=seconds)

    def peak_memory(self) -> int:
        """The process's largest resident size, in bytes."""
        return self.ask("memory")


def _read(lines: IO[bytes], marked: Callable[[], None], logs: list[Callable[[bytes], None]]) -> None:
    """Give each line to each log, and call `marked` at each MARK."""
    with lines:
        for line in lines:
            if line == MARK:
                marked()
                continue
            for log in logs:
                log(line)


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """A blob's data or diff: reading fetches it, `array[...] = values` sends it. ask: Caffe.ask about the blob."""

    def __init__(self, ask: Callable[..., Any], what: str):
        self._ask, self._what = ask, what

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._ask("shape"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._ask("get", what=self._what), dtype)

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
        self._ask("set", array, what=self._what)


class Blob:
    """pycaffe's Blob: data, diff, shape, reshape."""

    def __init__(self, ask: Callable[..., Any]):
        self._ask, self.data, self.diff = ask, Array(ask, "data"), Array(ask, "diff")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def reshape(self, *shape: int) -> None:
        self._ask("reshape", to=shape)


class Made:
    """A net or a solver of the worker's."""

    def __init__(self, caffe: Caffe, number: int):
        self._caffe, self.number = caffe, number
        self._callbacks: dict[str, Callable[[], None]] = {}

    def _call(self, method: str, *args: Any) -> None:
        self._caffe.send(do="call", of=self.number, method=method, args=args)
        while "event" in (answer := self._caffe.receive()):
            try:
                self._callbacks[answer["event"]]()
            except BaseException:
                self._caffe.ask("stop")
                raise
            self._caffe.send(do="go")


class RemoteNet(Made):
    """pycaffe's Net, as far as programs here use it. about: the worker's description of it."""

    def __init__(self, caffe: Caffe, about: dict[str, Any]):
        super().__init__(caffe, about["number"])
        vars(self).update(about)  # inputs, outputs, layer_names, bottom_names, top_names, blob_loss_weights
        self.layers = [SimpleNamespace(type=kind) for kind in about["types"]]

        def blob(layer: str | None, name: str | int) -> Blob:
            return Blob(partial(caffe.ask, of=self.number, layer=layer, name=name))

        self.blobs = {name: blob(None, name) for name in about["blobs"]}
        self.params = {layer: [blob(layer, i) for i in range(count)] for layer, count in about["params"].items()}

    def backward(self, start: str | None = None, end: str | None = None) -> None:
        self._call("backward", None, start, end)

    forward = partialmethod(Made._call, "forward")
    run_forward = partialmethod(Made._call, "_forward")  # layers by number
    reshape = partialmethod(Made._call, "reshape")
    copy_from = partialmethod(Made._call, "copy_from")
    save = partialmethod(Made._call, "save")


class Solver(Made):
    """pycaffe's solver: net, test_nets, iter, callbacks, step, solve, snapshot."""

    def __init__(self, caffe: Caffe, about: dict[str, Any]):
        super().__init__(caffe, about["number"])
        self.net, *self.test_nets = (RemoteNet(caffe, net) for net in about["nets"])

    @property
    def iter(self) -> int:
        return self._caffe.ask("iter", of=self.number)

    def add_callback(self, start: Callable[[], None], gradients: Callable[[], None]) -> None:
        """Call `start` before each iteration and `gradients` before each update. An exception ends the training."""
        self._callbacks = {"start": start, "gradients": gradients}
        self._caffe.ask("watch", of=self.number)

    def _logged(self, method: str, *args: Any) -> None:
        self._call(method, *args)
        self._caffe.settle()

    step = partialmethod(_logged, "step")
    solve = partialmethod(_logged, "solve")
    snapshot = partialmethod(_logged, "snapshot")
