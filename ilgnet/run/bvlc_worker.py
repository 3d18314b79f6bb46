"""Real pycaffe behind a pipe: the one file that runs inside real Caffe's Python. It needs pycaffe and NumPy alone.

Started by ilgnet.run.remote with the Python that has pycaffe (Debian 11's is 3.9, with NumPy 1.19), and the number of a
pipe. A message is JSON; where it has a `shape`, the float32 values follow in a second message. Caffe's log goes to
stderr. A fatal error of Caffe ends the process, and the log says why."""

import json
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection

import caffe
import numpy as np


class Stop(Exception):
    """Raised inside Caffe's callback to end a training."""


def describe(net):
    """What a caller needs to know of a net, once: everything that a reshape does not change."""
    return {
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "blobs": list(net.blobs),
        "layer_names": list(net._layer_names),
        "types": [layer.type for layer in net.layers],
        "bottom_names": {name: list(names) for name, names in net.bottom_names.items()},
        "top_names": {name: list(names) for name, names in net.top_names.items()},
        "params": {name: len(blobs) for name, blobs in net.params.items()},
        "blob_loss_weights": dict(net.blob_loss_weights),
    }


class Worker:
    """Answers requests about the nets and solvers that it has made, which have numbers."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.objects = []

    def send(self, array=None, **message):
        if array is None:
            self.pipe.send_bytes(json.dumps(message).encode())
        else:
            self.pipe.send_bytes(json.dumps(dict(message, shape=array.shape)).encode())
            self.pipe.send_bytes(array.tobytes())

    def receive(self):
        """The next request, its array under "array". EOFError at the end of the input."""
        request = json.loads(self.pipe.recv_bytes().decode())
        if "shape" in request:
            request["array"] = np.frombuffer(self.pipe.recv_bytes(), np.float32).reshape(request["shape"])
        return request

    def serve(self):
        """Answer requests; inside a callback until one says how the training goes on."""
        while True:
            request = self.receive()
            do = request.pop("do")
            if do == "go":
                return
            if do == "stop":
                raise Stop
            try:
                answer = getattr(self, "do_" + do)(**request) or {}
            except Exception as error:
                answer = {"error": "{}: {}".format(type(error).__name__, " ".join(str(error).split()))}
            self.send(**answer)

    def keep(self, made):
        self.objects.append(made)
        return len(self.objects) - 1

    def blob(self, of, layer, name):
        net = self.objects[of]
        return net.blobs[name] if layer is None else net.params[layer][name]

    # -- requests ------------------------------------------------------------------------------------------------------

    def do_caffe(self, method, args):
        getattr(caffe, method)(*args)

    def do_mark(self):
        """Mark the place in the log."""
        os.write(2, b"\0\n")

    def do_net(self, path, phase):
        net = caffe.Net(path, phase)
        return {"value": dict(describe(net), number=self.keep(net))}

    def do_solver(self, path):
        solver = caffe.get_solver(path)
        nets = [dict(describe(net), number=self.keep(net)) for net in [solver.net] + list(solver.test_nets)]
        return {"value": {"number": self.keep(solver), "nets": nets}}

    def do_watch(self, of):
        """From now on ask before each iteration and each update whether the training goes on."""

        def ask(event):
            self.send(event=event)
            self.serve()

        self.objects[of].add_callback(lambda: ask("start"), lambda: ask("gradients"))

    def do_call(self, of, method, args):
        """A method of a net or a solver; its result is not sent. `stopped`: a callback was told to end the training."""
        try:
            getattr(self.objects[of], method)(*args)
        except Stop:
            return {"value": "stopped"}

    def do_iter(self, of):
        return {"value": int(self.objects[of].iter)}

    def do_shape(self, of, layer, name):
        return {"value": list(self.blob(of, layer, name).shape)}

    def do_reshape(self, of, layer, name, to):
        self.blob(of, layer, name).reshape(*to)

    def do_get(self, of, layer, name, what):
        return {"array": getattr(self.blob(of, layer, name), what)}

    def do_set(self, of, layer, name, what, shape, array):
        getattr(self.blob(of, layer, name), what)[...] = array

    def do_time(self, of, method, args, seconds):
        """The median time of a method, called again and again for so many seconds, once at least."""
        times = []  # type: list[float]
        while not times or sum(times) < seconds:
            start = time.perf_counter()
            getattr(self.objects[of], method)(*args)
            times.append(time.perf_counter() - start)
        return {"value": statistics.median(times)}

    def do_memory(self):
        """The process's largest resident size, in bytes."""
        with open("/proc/self/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM"))
        return {"value": int(peak.split()[1]) * 1024}


if __name__ == "__main__":
    try:
        Worker(Connection(int(sys.argv[1]))).serve()
    except EOFError:
        pass
