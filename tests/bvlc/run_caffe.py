"""The script that runs under either engine: jobs in, arrays out, nothing in it knows which engine it is.

As a program it is a worker: it imports `caffe` (real pycaffe, or torchcaffe with --torch), reads one JSON request a
line from stdin and answers each with one JSON line on stdout; arrays travel in .npz files that the lines name. In the
same process, `OPS[op](caffe, args, arrays)` does the same. Everything that is random is drawn here by NumPy's
RandomState from a seed and a shape, whose stream is the same in every NumPy, so that inputs need not travel.

Must run on Python 3.9 with NumPy 1.19 (Debian 11, where real Caffe is)."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile

import numpy as np

CHUNK = 1 << 22
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens", "inputs")
RNG = np.random.RandomState(0)  # seeded again for each draw: a new one takes a hundred times longer


def draw(kind, shape, seed):
    """A float32 array of `shape` for a bottom; `kind` is a name and numbers, e.g. "labels 5"."""
    shape = tuple(shape)
    rng = RNG
    rng.seed(seed)
    name, args = kind.split()[0], [float(a) for a in kind.split()[1:]]
    if name == "normal":  # mean, scale
        mean, scale = (args + [0.0, 1.0][len(args) :])[:2]
        x = rng.standard_normal(shape) * scale + mean
    elif name == "ties":  # few values, so that maxima and zeros repeat
        x = rng.randint(-2, 3, shape)
    elif name == "uniform":
        x = rng.uniform(args[0], args[1], shape)
    elif name == "labels":  # 0 .. K-1; a second number replaces about a third of them (the label to ignore)
        x = rng.randint(0, int(args[0]), shape)
        if len(args) > 1:
            x = np.where(rng.uniform(size=shape) < 0.34, int(args[1]), x)
    elif name == "probabilities":  # along axis 1
        x = rng.uniform(0.05, 1, shape)
        x = x / x.sum(axis=1, keepdims=True)
    elif name == "continue":  # (T, N): sequences start at step 0 and somewhere later
        x = rng.uniform(size=shape) < 0.7
        x[0] = False
    elif name == "constant":
        x = np.full(shape, args[0])
    elif name == "given":
        x = np.resize(np.array(args), shape)
    else:
        raise ValueError("no such kind of data: " + kind)
    return np.ascontiguousarray(x, dtype=np.float32)


def draw_params(blobs, kind, seed):
    """Overwrite a layer's parameters: "own" keeps what the fillers gave, "batchnorm" knows its three blobs."""
    for i, blob in enumerate(blobs if kind != "own" else []):
        shape = tuple(blob.shape)
        if kind == "batchnorm":
            blob.data[...] = (
                draw("normal 0 0.5", shape, seed),
                draw("uniform 0.5 2", shape, seed + 1),
                np.float32(1.7),
            )[i]
        else:
            blob.data[...] = draw(kind, shape, seed + 1000 + i)


def write_files(files):
    """A new folder with `files` (name: text) and, as `inputs`, the folder of what data layers read."""
    folder = tempfile.mkdtemp(prefix="caffe-job-")
    os.symlink(FIXTURES, os.path.join(folder, "inputs"))
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
    return folder


@contextlib.contextmanager
def inside(folder):
    """Work in `folder`, so that snapshots name each other without it; removes it afterwards."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def run_layer(caffe, job, arrays=None):
    """One net of one layer (or a few): set bottoms, forward, set top diffs, backward; what came out, by name.

    job: proto (text), phase, seed, bottoms [[name, kind, shape]...] or memory, tops [names], params, passes, again
    (shapes of the bottoms in one more pass, after net.reshape()), backward, reads (an HDF5 file the net wrote), extra
    (every layer gets one more blob, by add_blob; what is saved of these comes out, too)."""
    with inside(write_files(dict(job["writes"], **{"net.prototxt": job["proto"]}))):
        return None, layer_passes(caffe, job)


def layer_passes(caffe, job):
    """run_layer's work, in the folder with the job's files."""
    out = {}
    caffe.set_mode_cpu() if not job.get("gpu") else caffe.set_mode_gpu()
    caffe.set_random_seed(job["seed"])
    net = caffe.Net("net.prototxt", caffe.TRAIN if job["phase"] == "TRAIN" else caffe.TEST)
    seed = job["seed"]
    given = {}
    for layer, blobs in net.params.items():
        if job["params"] == "own":
            for i, blob in enumerate(blobs):
                out[f"{layer}.param{i}.filled"] = np.array(blob.data)
        draw_params(blobs, job["params"], seed)
    for layer in net.layers if job.get("extra") else []:
        layer.blobs.add_blob(2, 3)
        layer.blobs[len(layer.blobs) - 1].data[...] = 5
    for layer, blobs in net.params.items():
        given[layer] = [np.array(blob.data) for blob in blobs]
    shapes = [[shape for _, _, shape in job["bottoms"]]] * job["passes"] + ([job["again"]] if job["again"] else [])
    for number, now in enumerate(shapes):
        suffix = "" if number == 0 else f"@{number}"
        if number == job["passes"]:
            for (name, _, _), shape in zip(job["bottoms"], now):
                net.blobs[name].reshape(*shape)
            net.reshape()
        for i, ((name, kind, _), shape) in enumerate(zip(job["bottoms"], now)):
            net.blobs[name].data[...] = draw(kind, shape, seed + 10 * i + 100 * number)
            net.blobs[name].diff[...] = 0
        if job.get("memory") and number == 0:
            net.set_input_arrays(*[draw(kind, shape, seed + 10 * i) for i, (kind, shape) in enumerate(job["memory"])])
        net.forward()
        for name in job["tops"]:
            out[name + suffix] = np.array(net.blobs[name].data)
        if job["backward"]:
            for i, name in enumerate(job["tops"]):
                if not net.blob_loss_weights[name]:
                    blob = net.blobs[name]
                    blob.diff[...] = draw("normal", blob.data.shape, seed + 500 + 10 * i + 100 * number)
            net.backward()
            for name, _, _ in job["bottoms"]:
                out[name + ".diff" + suffix] = np.array(net.blobs[name].diff)
        for layer, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                key = f"{layer}.param{i}"
                if job["backward"]:
                    out[key + ".diff" + suffix] = np.array(blob.diff)
                if not np.array_equal(blob.data, given[layer][i]):  # running statistics
                    out[key + suffix] = np.array(blob.data)
    if job.get("extra"):
        net.save("extra.caffemodel")
        net.copy_from("extra.caffemodel")
        model = importlib.import_module("caffe.proto.caffe_pb2").NetParameter()
        with open("extra.caffemodel", "rb") as f:
            model.ParseFromString(f.read())
        out["saved"] = np.array([list(layer.blobs[-1].data) for layer in model.layer], np.float32)
    if job.get("reads"):
        import h5py

        del net
        with h5py.File(job["reads"], "r") as f:
            out.update({"file." + key: np.array(f[key]) for key in f})
    return out


def weights(net):
    """Every parameter, by "layer/number"."""
    return {f"{layer}/{i}": np.array(blob.data) for layer, blobs in net.params.items() for i, blob in enumerate(blobs)}


def run_net(caffe, job, arrays=None):
    """A net of several layers: its structure as pycaffe shows it, and everything in it after forward and backward.

    Outputs that are no losses get drawn diffs. The value holds layers, types, bottoms, tops, inputs, outputs, weights
    of the losses and shapes of the parameters."""
    with inside(write_files({"net.prototxt": job["proto"]})):
        caffe.set_mode_cpu()
        caffe.set_random_seed(job["seed"])
        phase = caffe.TRAIN if job["phase"] == "TRAIN" else caffe.TEST
        net = caffe.Net("net.prototxt", phase, level=job["level"], stages=job["stages"])
        value = {
            "layers": list(net._layer_names), "types": [layer.type for layer in net.layers],
            "bottoms": {name: list(net.bottom_names[name]) for name in net._layer_names},
            "tops": {name: list(net.top_names[name]) for name in net._layer_names},
            "inputs": list(net.inputs), "outputs": list(net.outputs),
            "loss_weights": {name: float(weight) for name, weight in net.blob_loss_weights.items()},
            "params": {name: [list(blob.shape) for blob in blobs] for name, blobs in net.params.items()},
        }  # fmt: skip
        for i, (name, kind, shape) in enumerate(job["bottoms"]):
            net.blobs[name].data[...] = draw(kind, shape, job["seed"] + i)
        out = {"weight " + key: array for key, array in weights(net).items()}
        net.forward()
        if job["backward"]:
            for i, name in enumerate(net.outputs):
                if not net.blob_loss_weights[name]:
                    net.blobs[name].diff[...] = draw("normal", net.blobs[name].data.shape, job["seed"] + 100 + i)
            net.backward()
        for name, blob in net.blobs.items():
            out["data " + name] = np.array(blob.data)
            if job["backward"]:
                out["diff " + name] = np.array(blob.diff)
        for name, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                out[f"gradient {name}/{i}"] = np.array(blob.diff)
        return value, out


def run_train(caffe, job, arrays=None):
    """Train: weights and blobs after each iteration, test nets' outputs as they stand at the end.

    job: solver (text), files (net.prototxt ...), iterations, keep (the iterations to record the weights of), blobs
    (names to record at each), weights (a caffemodel to start from), restore (a solverstate to go on from, one of the
    files of the folder `copy_from`), snapshots (a folder that gets the files written at the end, their names starting
    with `prefix`)."""
    with inside(write_files(dict(job["files"], **{"solver.prototxt": job["solver"]}))) as folder:
        for name in os.listdir(job["copy_from"]) if job.get("copy_from") else []:
            shutil.copy(os.path.join(job["copy_from"], name), folder)
        caffe.set_mode_cpu() if not job.get("gpu") else caffe.set_mode_gpu()
        solver = caffe.get_solver("solver.prototxt")
        if job.get("weights"):
            solver.net.copy_from(job["weights"])
        if job.get("restore"):
            solver.restore(job["restore"])
        out = {"start " + key: value for key, value in weights(solver.net).items()}
        for i in range(job["iterations"]):
            solver.step(1)
            for name in job.get("blobs", ["loss"]):
                out[f"{name}@{i}"] = np.array(solver.net.blobs[name].data)
            if i in job["keep"]:
                out.update({f"{key}@{i}": value for key, value in weights(solver.net).items()})
        for i, net in enumerate(solver.test_nets):
            for name in net.outputs:
                out[f"test{i} {name}"] = np.array(net.blobs[name].data)
        if job.get("snapshots"):
            solver.snapshot()
            for name in os.listdir(folder):
                if name.startswith(job["prefix"]):
                    shutil.copy(name, job["snapshots"])
        return solver.iter, out


def run_updates(caffe, job, arrays=None):
    """`count` times: overwrite every parameter's diff with the next draw, solver.apply_update()."""
    with inside(write_files(dict(job["files"], **{"solver.prototxt": job["solver"]}))):
        solver = caffe.get_solver("solver.prototxt")
        out = {}
        blobs = [(f"{layer}/{i}", blob) for layer, all_ in solver.net.params.items() for i, blob in enumerate(all_)]
        for number, (_, blob) in enumerate(blobs):
            blob.data[...] = draw("normal", tuple(blob.shape), job["seed"] + number)
        for step in range(job["count"]):
            for number, (_, blob) in enumerate(blobs):
                blob.diff[...] = draw("normal", tuple(blob.shape), job["seed"] + 100 * (step + 1) + number)
            solver.apply_update()
            if step in (0, 1, 9, job["count"] - 1):
                out.update({f"{key}@{step}": np.array(blob.data) for key, blob in blobs})
        return None, out


def run_rates(caffe, job, arrays=None):
    """solver.lr before each of `points` iterations; BVLC computes it in an update, so one is made first."""
    with inside(write_files(dict(job["files"], **{"solver.prototxt": job["solver"]}))):
        solver = caffe.get_solver("solver.prototxt")
        rates = []
        for _ in range(job["points"]):
            solver.step(1)
            rates.append(solver.lr)
        return None, {"rates": np.array(rates, np.float64)}


def record(folder, name, array):
    np.save(os.path.join(folder, name + ".npy"), np.asarray(array))


def recorded(folder, name):
    """An array that `record` left, mapped; None where there is none."""
    path = os.path.join(folder, name + ".npy")
    return np.load(path, mmap_mode="r") if os.path.exists(path) else None


def open_net(caffe, job):
    """The net of a walk, with weights and seed set."""
    caffe.set_mode_cpu() if not job.get("gpu") else caffe.set_mode_gpu()
    caffe.set_random_seed(job["seed"])
    net = caffe.Net(job["net"], caffe.TRAIN if job["phase"] == "TRAIN" else caffe.TEST)
    if job.get("weights"):
        net.copy_from(job["weights"])
    for i, (name, kind, shape) in enumerate(job.get("inputs", [])):
        net.blobs[name].data[...] = draw(kind, shape, job["seed"] + i)
    return net, list(net._layer_names), list(net.blobs)


def record_whole(net, layers, blobs, folder):
    """What stands in the net after forward and backward: dI and gI of blob I, pI_K of layer I's parameter K."""
    for i, name in enumerate(blobs):
        record(folder, f"d{i}", net.blobs[name].data)
        record(folder, f"g{i}", net.blobs[name].diff)
    for i, name in enumerate(layers):
        for k, blob in enumerate(net.params.get(name, [])):
            record(folder, f"p{i}_{k}", blob.diff)


def run_walk(caffe, job, arrays=None):
    """A whole net, forward and backward, everything recorded in the folder job["out"] (too much for a line's arrays).

    With `steps`, layer by layer: fI_K is top K of layer I just after its forward, bI_K the diff of its bottom K just
    after its backward. job: net (file), weights, phase, seed, steps. Returns layers, blobs and the outputs."""
    net, layers, blobs = open_net(caffe, job)
    os.makedirs(job["out"], exist_ok=True)
    if not job["steps"]:
        net.forward()
        if job["phase"] == "TRAIN":
            net.backward()
    else:
        for i, name in enumerate(layers):
            net.forward(start=name, end=name)
            for k, top in enumerate(net.top_names[name]):
                record(job["out"], f"f{i}_{k}", net.blobs[top].data)
        for i, name in reversed(list(enumerate(layers))):
            net.backward(start=name, end=name)
            for k, bottom in enumerate(net.bottom_names[name]):
                record(job["out"], f"b{i}_{k}", net.blobs[bottom].diff)
    record_whole(net, layers, blobs, job["out"])
    parameters = [[name, k] for name in layers for k in range(len(net.params.get(name, [])))]
    return {"layers": layers, "blobs": blobs, "params": parameters, "types": [layer.type for layer in net.layers]}, {}


def error(a, b):
    """||a - b|| / ||b||; inf when shapes or the places of NaN and infinities differ."""
    if a.shape != b.shape:
        return float("inf")
    difference = norm = 0.0
    a, b = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.size, CHUNK):  # weights come by the hundred million
        x, y = (v[start : start + CHUNK].astype(np.float64) for v in (a, b))
        # Infinities, and -FLT_MAX of an empty pooling window, would swamp all else: they must be equal, then they go.
        odd = ~np.isfinite(y) | (np.abs(y) > 1e37)
        if odd.any() or not np.isfinite(x).all():
            if not np.isfinite(x[~odd]).all() or not np.array_equal(x[odd], y[odd], equal_nan=True):
                return float("inf")
            x, y = x[~odd], y[~odd]
        difference += float(np.dot(x - y, x - y))
        norm += float(np.dot(y, y))
    return float(np.sqrt(difference / norm if norm else difference))


def run_given(caffe, job, arrays=None):
    """The layers of a net one by one, each on the bottoms and top diffs that a walk with `steps` recorded in job["of"].

    Returns per layer [name, type, forward error, bottom diff error, parameter diff error], None where there is none.
    Layers draw random numbers in the net's order, once each, so that masks are those of the recorded walk."""
    net, layers, _ = open_net(caffe, job)
    of = job["of"]
    last = {}  # blob: the recorded top that stands in it when the next layer runs
    diffs = {}  # (layer, top number): the recorded diff of that top when the layer's backward began
    for i, name in reversed(list(enumerate(layers))):
        for k, top in enumerate(net.top_names[name]):
            diffs[i, k] = last.get(top)
        for k, bottom in enumerate(net.bottom_names[name]):
            last[bottom] = f"b{i}_{k}"
    last = {}
    rows = []
    for i, name in enumerate(layers):
        for bottom in net.bottom_names[name]:
            net.blobs[bottom].data[...] = recorded(of, last[bottom])
        net.forward(start=name, end=name)
        tops = list(enumerate(net.top_names[name]))
        outputs = [error(net.blobs[top].data, recorded(of, f"f{i}_{k}")) for k, top in tops]
        worst = [max(outputs or [0.0]), None, None]
        for k, top in enumerate(net.top_names[name]):
            net.blobs[top].data[...] = recorded(of, f"f{i}_{k}")
            last[top] = f"f{i}_{k}"
            if diffs[i, k] is not None:
                net.blobs[top].diff[...] = recorded(of, diffs[i, k])
        if job["phase"] == "TRAIN" and net.bottom_names[name]:
            net.backward(start=name, end=name)
            worst[1] = max(
                error(net.blobs[bottom].diff, recorded(of, f"b{i}_{k}"))
                for k, bottom in enumerate(net.bottom_names[name])
            )
            if name in net.params:
                blobs = enumerate(net.params[name])
                worst[2] = max(error(blob.diff, recorded(of, f"p{i}_{k}")) for k, blob in blobs)
        rows.append([name, net.layers[i].type] + worst)
    return rows, {}


OPEN = {}  # the solver that run_solver works on


def save_diffs(net, path):
    """All parameter diffs, one after the other, as one float32 vector."""
    with open(path, "wb") as file:
        for blobs in net.params.values():
            for blob in blobs:
                blob.diff.tofile(file)


def run_solver(caffe, job, arrays=None):
    """One solver over several requests: do = open (solver file, weights), restore, step, skip, snapshot.

    A solver opened with diffs = FILE leaves each iteration's gradients there. A step returns the losses (blobs named in
    job["blobs"]) of its iteration."""
    if job["do"] == "open":
        caffe.set_mode_cpu()
        OPEN["solver"] = caffe.get_solver(job["solver"])
        if job.get("diffs"):  # each iteration's gradients, before the update makes them its own
            OPEN["solver"].add_callback(lambda: None, lambda: save_diffs(OPEN["solver"].net, job["diffs"]))
        if job.get("weights"):
            OPEN["solver"].net.copy_from(job["weights"])
    elif job["do"] == "restore":
        OPEN["solver"].restore(job["state"])
    elif job["do"] == "snapshot":
        OPEN["solver"].snapshot()
    elif job["do"] == "step":
        OPEN["solver"].step(1)
        return [float(np.sum(OPEN["solver"].net.blobs[name].data)) for name in job["blobs"]], {}
    elif job["do"] == "skip":  # the data layer, which comes first, takes its batch
        first = OPEN["solver"].net._layer_names[0]
        OPEN["solver"].net.forward(start=first, end=first)
    elif job["do"] == "close":
        OPEN.clear()
    return None, {}


OPS = {
    "layer": run_layer, "train": run_train, "updates": run_updates, "rates": run_rates,
    "net": run_net, "walk": run_walk, "given": run_given, "solver": run_solver,
}  # fmt: skip


def operation(name):
    """OPS' function, or that of another module: "tests.bvlc.example_nets:train_once"."""
    module, colon, function = name.partition(":")
    return getattr(importlib.import_module(module), function) if colon else OPS[name]


def serve(caffe):
    """Answer requests until stdin ends. An exception of the engine is an answer; only a crash ends the worker."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes to stderr
    for line in sys.stdin:
        request = json.loads(line)
        if request["fork"]:  # the engine may take its process down: let a copy of this one go
            child = os.fork()
            if child:
                code = os.waitpid(child, 0)[1]
                if code:
                    answers.write(json.dumps({"crash": os.WTERMSIG(code)}) + "\n")
                    answers.flush()
                continue
        try:
            arrays = None
            if request.get("arrays"):
                with np.load(request["arrays"]) as f:
                    arrays = dict(f)
            value, out = operation(request["op"])(caffe, request["args"], arrays)
            if out:
                np.savez(request["out"], **out)
            answer = {"value": value, "arrays": sorted(out or {})}
        except Exception as error:  # noqa: BLE001 - reported to the caller
            answer = {"error": f"{type(error).__name__}: " + " ".join(str(error).split())}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if request["fork"]:
            os._exit(0)


if __name__ == "__main__":
    if "--torch" in sys.argv:
        import torchcaffe

        torchcaffe.install_as_caffe()
        torchcaffe.allow_python_layers(True)
    import caffe as engine

    serve(engine)
