"""Where a net turns on a rounding: ReLUs whose input is nearly 0, max-pool windows whose two greatest nearly tie.

Two kernels that round differently may decide such a tie differently, and then a whole gradient takes another path:
no tolerance of roundings holds it. So real Caffe's values at its ties are kept, and another engine is given them: what
is left is rounding alone, and single gradients can be held to 1e-4 from one end of a net to the other.

Must run on Python 3.9 with NumPy 1.19 (Debian 11, where real Caffe is)."""

from __future__ import annotations

import numpy as np

from tests.bvlc import run_caffe
from torchcaffe.proto import caffe_pb2, parse_text

# How near is nearly, in parts of a blob's root mean square: roundings add up with depth, so NEAR times 5 and one more a
# layer that decides. That is several times what single values of two engines were seen to differ by, at every depth.
NEAR = 5e-6
MAX = caffe_pb2.PoolingParameter.MAX


def decides(layer):
    """Whether a layer (message) decides by its input's order."""
    return (
        layer.type == "ReLU"
        or layer.type == "Pooling"
        and layer.pooling_param.pool == MAX
        or layer.type == "SPP"
        and layer.spp_param.pool == MAX
    )


def windows(layer, size):
    """[(kernel, stride, pad) of both axes] of a pooling layer on a plane of `size`: one a pyramid level for SPP."""
    if layer.type == "SPP":
        found = []
        for level in range(layer.spp_param.pyramid_height):
            kernel = [-(-side // 2**level) for side in size]
            found.append((kernel, kernel, [(k * 2**level - side + 1) // 2 for k, side in zip(kernel, size)]))
        return found
    p = layer.pooling_param
    if p.global_pooling:
        return [(list(size), [1, 1], [0, 0])]
    kernel = [p.kernel_h or p.kernel_size, p.kernel_w or p.kernel_size]
    return [(kernel, [p.stride_h or p.stride, p.stride_w or p.stride], [p.pad_h or p.pad, p.pad_w or p.pad])]


def shifted(x, kernel, stride, pad):
    """(padded x, [view of it a place in the window]), the views one value a window; -inf stands outside of x."""
    counts = []
    for side, k, s, p in zip(x.shape[2:], kernel, stride, pad):
        count = -(-(side + 2 * p - k) // s) + 1
        counts.append(count - 1 if any(pad) and (count - 1) * s >= side + p else count)
    room = [(n - 1) * s + k for n, s, k in zip(counts, stride, kernel)]
    height, width = (max(r, side + p) for r, side, p in zip(room, x.shape[2:], pad))
    padded = np.full(x.shape[:2] + (height, width), -np.inf, x.dtype)
    padded[:, :, pad[0] : pad[0] + x.shape[2], pad[1] : pad[1] + x.shape[3]] = x
    views = [
        np.s_[
            :,
            :,
            i : i + (counts[0] - 1) * stride[0] + 1 : stride[0],
            j : j + (counts[1] - 1) * stride[1] + 1 : stride[1],
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return padded, views


def ties(layer, x, depth):
    """Flat indices into x, the layer's input, of values on which a rounding may decide. It is the net's depth-th layer
    that decides. Zeros decide nothing."""
    near = NEAR * (5 + depth) * np.sqrt(np.mean(np.square(x, dtype=np.float64)))
    if layer.type == "ReLU":
        return np.flatnonzero(np.abs(x) <= near)
    tied = np.zeros(x.shape, bool)
    for kernel, stride, pad in windows(layer, x.shape[2:]):
        padded, views = shifted(x, kernel, stride, pad)
        greatest = np.max([padded[view] for view in views], axis=0)
        least = greatest - near
        close = [padded[view] >= least for view in views]
        # Equal ones are one value that the pooling before took twice: no tie, but if one is given, so must the other.
        tie = np.any([c & (padded[view] < greatest) for c, view in zip(close, views)], axis=0)
        marked, before = np.zeros(padded.shape, bool), -1
        while before != np.count_nonzero(marked):
            before = np.count_nonzero(marked)
            for c, view in zip(close, views):
                marked[view] |= tie & c
            tie |= np.any([c & marked[view] for c, view in zip(close, views)], axis=0)
        tied |= marked[:, :, pad[0] : pad[0] + x.shape[2], pad[1] : pad[1] + x.shape[3]]
    return np.flatnonzero(tied & (x != 0))


def decisions(layer, x):
    """What the layer decides on x: a ReLU which values pass, a maximum which place of a window (-1 where it is 0)."""
    if layer.type == "ReLU":
        return x > 0
    found = []
    for kernel, stride, pad in windows(layer, x.shape[2:]):
        padded, views = shifted(x, kernel, stride, pad)
        stack = np.array([padded[view] for view in views])
        found.append(np.where(stack.max(axis=0) == 0, -1, stack.argmax(axis=0)).reshape(-1))
    return np.concatenate(found)


def forward(net, message, before):
    """net.forward() of the net that `message` describes, with before(layer, its input, depth) ahead of each layer that
    decides, the depth-th of these."""
    deciding = {layer.name: layer for layer in message.layer if decides(layer)}
    depth = 0
    for name in net._layer_names:
        if name in deciding:
            depth += 1
            before(deciding[name], net.blobs[net.bottom_names[name][0]].data, depth)
        net.forward(start=name, end=name)


def settle(layer, x, places, values):
    """Write values at the flat indices `places` of x. Returns how many of the layer's decisions that turns, and the
    greatest change of a value, in parts of x's root mean square."""
    old, flat = decisions(layer, x), x.reshape(-1)  # x is contiguous: writing into flat writes into x
    change = float(np.max(np.abs(flat[places] - values)) / np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    flat[places] = values
    return int(np.count_nonzero(decisions(layer, x) != old)), change


def run_settled(caffe, job, arrays=None):
    """For an engine's call: the pass of run_caffe.run_walk once more, given the ties of what real Caffe recorded, with
    steps, in job["of"].

    Returns [[parameter, its gradient's error]...], how many decisions the ties turned by layer, how many still differ
    from real Caffe's, and the greatest move of a value."""
    net, layers, _ = run_caffe.open_net(caffe, job)
    last, stems = {}, {}  # blob: what was last recorded of it; layer: the record of what it takes
    for i, name in enumerate(layers):
        stems[name] = last.get((list(net.bottom_names[name]) or [None])[0])
        last.update({top: f"f{i}_{k}" for k, top in enumerate(net.top_names[name])})
    turned, left, moves = {}, [], [0.0]

    def before(layer, x, depth):
        theirs = np.array(run_caffe.recorded(job["of"], stems[layer.name]))
        places = ties(layer, theirs, depth)
        if len(places):
            turned[layer.name], move = settle(layer, x, places, theirs.reshape(-1)[places])
            moves.append(move)
        left.append(int(np.count_nonzero(decisions(layer, x) != decisions(layer, theirs))))

    with open(job["net"]) as f:
        forward(net, parse_text(f.read(), caffe_pb2.NetParameter(), job["net"]), before)
    net.backward()
    errors = [
        [f"{name} {k}", run_caffe.error(blob.diff, run_caffe.recorded(job["of"], f"p{i}_{k}"))]
        for i, name in enumerate(layers)
        for k, blob in enumerate(net.params.get(name, []))
    ]
    return [errors, {name: count for name, count in turned.items() if count}, sum(left), max(moves)], {}
