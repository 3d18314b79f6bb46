"""The paper's nets, one pass each under either engine, summed up: what the goldens of make_variant_goldens.py hold.

Every net is cut to small photos (the large connected layers shrink with them), its data layers replaced by Inputs.
Weights and dropout masks come from random_seed, which both engines draw alike; BatchNorm and Scale, whose fillers are
constants, are drawn by NumPy. A blob is summed up by its shape, its norm and at most 64 of its values. The training
pass comes twice: as it is, and with real Caffe's values where a rounding decides (see flips.py).

Must run on Python 3.9 with NumPy 1.19 (Debian 11, where real Caffe is)."""

from __future__ import annotations

import json
import os
import zlib

import numpy as np

from tests.bvlc import flips
from torchcaffe.proto import caffe_pb2, parse_text

BATCH, SEED, SAMPLES = 2, 7, 64


def photos(crop, seed=SEED):
    """Coloured fields with noise, less a mean of 120: (BATCH, 3, crop, crop)."""
    rng = np.random.RandomState(seed)
    small = rng.uniform(0, 256, (BATCH, 3, 8, 8))
    side = -(-crop // 8)
    large = np.repeat(np.repeat(small, side, axis=2), side, axis=3)[:, :, :crop, :crop]
    return (large + rng.uniform(-40, 40, large.shape) - 120).astype(np.float32)


def draw_statistics(net):
    """BatchNorm's and Scale's blobs as after some training; a merged net's biases, which have no filler; a classifier
    that is not certain, since of a loss near 0 only the rounding is left."""
    for name, layer in zip(net._layer_names, net.layers):
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        if layer.type == "BatchNorm":
            mean, variance, factor = layer.blobs
            mean.data[...] = rng.standard_normal(mean.data.shape) * 0.5
            variance.data[...] = rng.uniform(0.5, 2, variance.data.shape)
            factor.data[...] = 1.7
        elif layer.type == "Scale":
            layer.blobs[0].data[...] = rng.uniform(0.5, 1.5, layer.blobs[0].data.shape)
            layer.blobs[1].data[...] = rng.standard_normal(layer.blobs[1].data.shape) * 0.1
        elif "classifier" in name:
            layer.blobs[0].data[...] *= np.float32(0.02)
        elif layer.type == "Convolution" and len(layer.blobs) > 1 and not layer.blobs[1].data.any():
            layer.blobs[1].data[...] = rng.standard_normal(layer.blobs[1].data.shape) * 0.1


def save_drawn(caffe, job, arrays=None):
    """For an engine's call: job["net"]'s weights as its fillers and draw_statistics make them, saved to job["weights"].

    With the statistics that a BatchNorm starts from, a net in the TEST phase has infinite blobs."""
    caffe.set_random_seed(job["seed"])
    net = caffe.Net(job["net"], caffe.TRAIN)
    draw_statistics(net)
    net.save(job["weights"])
    return None, {}


def sum_up(out, key, array):
    """out[key] = shape, norm and values of an array; which values, the key says."""
    array = np.asarray(array)
    flat = array.reshape(-1)
    norm = np.sqrt(sum(float(np.dot(c, c)) for c in (chunk.astype(np.float64) for chunk in np.array_split(flat, 32))))
    chosen = np.random.RandomState(zlib.crc32(key.encode())).randint(0, max(flat.size, 1), SAMPLES)
    values = flat[chosen] if flat.size > SAMPLES else flat
    out[key] = {"shape": list(array.shape), "norm": float(norm), "values": np.array(values, np.float32)}


def save(path, summary, ties=None):
    """A summary as .npz: one line of JSON for shapes and norms, all values in a row; so ties ({layer: (flat indices,
    values)})."""
    about = [[key, found["shape"], found["norm"], len(found["values"])] for key, found in summary.items()]
    values = [found["values"] for found in summary.values()]
    more = {}
    if ties is not None:
        about_ties = [[name, len(places)] for name, (places, _) in ties.items()]
        steps = [np.diff(places, prepend=0) for places, _ in ties.values()]  # smaller numbers than the places
        more = {
            "about_ties": np.array(json.dumps(about_ties)),
            "steps": np.concatenate(steps).astype(np.int32),
            "tie_values": np.concatenate([found for _, found in ties.values()]),
        }
    np.savez_compressed(path, about=np.array(json.dumps(about)), values=np.concatenate(values), **more)


def load(path):
    """The summary that `save` wrote."""
    with np.load(path) as f:
        about, values = json.loads(str(f["about"])), f["values"]
    ends = np.cumsum([count for _, _, _, count in about])
    return {
        key: {"shape": shape, "norm": norm, "values": part}
        for (key, shape, norm, _), part in zip(about, np.split(values, ends[:-1]))
    }


def load_ties(path):
    """The ties that `save` wrote."""
    with np.load(path) as f:
        about, steps, values = json.loads(str(f["about_ties"])), f["steps"], f["tie_values"]
    ends = np.cumsum([count for _, count in about])[:-1]
    return {
        name: (np.cumsum(part), found)
        for (name, _), part, found in zip(about, np.split(steps, ends), np.split(values, ends))
    }


def open_nets(caffe, folder):
    """(training net with seeded weights, net for deployment that shares them), of what generated.write wrote."""
    caffe.set_mode_cpu()
    deploy = caffe.Net(os.path.join(folder, "deploy.prototxt"), caffe.TEST)
    caffe.set_random_seed(SEED)
    train = caffe.Net(os.path.join(folder, "train.prototxt"), caffe.TRAIN)
    draw_statistics(train)
    deploy.share_with(train)
    return train, deploy


def read_net(path):
    """A prototxt's message."""
    with open(path) as f:
        return parse_text(f.read(), caffe_pb2.NetParameter(), path)


def feed(net, seed):
    net.blobs["data"].data[...] = photos(net.blobs["data"].data.shape[2], seed)
    if "label" in net.blobs:
        net.blobs["label"].data[...] = np.arange(BATCH) % 2


def gradients(out, net):
    """What training a pass left in the parameters, summed up into `out`: gradients, and BatchNorm's statistics."""
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            if len(blobs) == 3:
                sum_up(out, f"statistics:{name}/{i}", blob.data)
            else:
                sum_up(out, f"gradient:{name}/{i}", blob.diff)


def passes(caffe, train, deploy):
    """Deployment's forward, training's forward and backward, summed up: {"kind:name": summary}."""
    out = {}
    for kind, net in (("deploy:", deploy), ("train:", train)):
        caffe.set_random_seed(SEED)
        feed(net, SEED)
        net.forward()
        if net is train:
            net.backward()
        for name, blob in net.blobs.items():
            if "_split_" not in name:
                sum_up(out, kind + name, blob.data)
    gradients(out, train)
    return out


def again(caffe, message, net, before):
    """The training pass of `passes` once more, with flips.forward's `before`; the gradients summed up. message: the
    training net's."""
    caffe.set_random_seed(SEED)
    feed(net, SEED)
    net.clear_param_diffs()
    flips.forward(net, message, before)
    net.backward()
    out = {}
    gradients(out, net)
    return {key: found for key, found in out.items() if key.startswith("gradient:")}


def find_ties(caffe, message, net):
    """(ties of the training pass: {layer: (flat indices, values)}, how much one ReLU's flip may turn a gradient).

    In each ReLU in turn the one nearest to 0 is forced to the other side; the greatest distance of a gradient from what
    it was is what one flip may make. A ReLU in place looks at what stands in its blob when it goes backward."""
    found, nearest = {}, {}

    def before(layer, x, depth):
        places = flips.ties(layer, x, depth)
        if len(places):
            found[layer.name] = (places, np.array(x.reshape(-1)[places]))
        if layer.type == "ReLU":
            flat = x.reshape(-1)
            place = int(np.argmin(np.abs(flat)))
            nearest[layer.top[0]] = (place, np.float32(0 if flat[place] > 0 else 1e-30))

    unturned = again(caffe, message, net, before)
    worst = 0.0
    for name, (place, other_side) in nearest.items():
        flat = net.blobs[name].data.reshape(-1)
        value, flat[place] = np.float32(flat[place]), other_side
        net.clear_param_diffs()
        net.backward()
        flat[place] = value
        out = {}
        gradients(out, net)
        turned = {key: out[key] for key in unturned}
        worst = max([worst, *distances(turned, unturned)["gradient"].values()])
    return found, worst


def settled(caffe, message, net, ties):
    """The training pass with `ties` as find_ties found them: (gradients, {layer: (decisions that these turned, how far
    they moved a value)})."""
    turned = {}

    def before(layer, x, depth):
        if layer.name in ties:
            turned[layer.name] = flips.settle(layer, x, *ties[layer.name])

    return again(caffe, message, net, before), turned


def more_gradients(caffe, net, seeds):
    """The same net's gradients on other photos, with other dropout masks: a summary a seed."""
    for seed in seeds:
        caffe.set_random_seed(seed)
        feed(net, seed)
        net.clear_param_diffs()
        net.forward()
        net.backward()
        out = {}
        gradients(out, net)
        yield out


def distances(a, b):
    """{kind: {name: estimate of ||a - b|| / ||b||}} of two summaries; inf where a shape differs or a blob is missing.

    The sampled values stand for all: their distance is divided by what the norm of so many values would be."""
    found = {}
    for key in sorted({*a, *b}):
        kind, name = key.split(":", 1)
        found.setdefault(kind, {})[name] = float("inf")
        if key not in a or key not in b or a[key]["shape"] != b[key]["shape"]:
            continue
        x, y = (summary[key]["values"].astype(np.float64) for summary in (a, b))
        norm = b[key]["norm"]
        share = np.sqrt(y.size / max(np.prod(b[key]["shape"]), 1))
        scale = max(norm * share, float(np.sqrt(np.dot(y, y)))) or 1.0
        error = max(float(np.sqrt(np.dot(x - y, x - y))) / scale, abs(a[key]["norm"] - norm) / (norm or 1.0))
        if np.isfinite(error):
            found[kind][name] = error
    return found
