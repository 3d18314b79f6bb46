"""Passes over the net of one layer, for every row of the table of layers."""

from __future__ import annotations

import contextlib

import torchcaffe as caffe
from tests.bvlc import layers
from tests.bvlc.run_caffe import draw, draw_params, inside, write_files
from tests.torchcaffe.gpu.recorded import everything, made, record
from tests.torchcaffe.ops.plain_rows import PLAIN, net_of
from torchcaffe.gpu.passes import RecordedPasses


def rows_of(type_: str, most: int) -> list[layers.Row]:
    """Up to so many of a type's rows, from all over the table."""
    rows = [row for row in PLAIN if row.type == type_]
    return rows[:: -(-len(rows) // most)]


TYPES = sorted({row.type for row in PLAIN})


@contextlib.contextmanager
def made_ready(row):
    """The net of a row of the table of layers, and a function that gives its bottoms the values of a seed."""
    with inside(write_files(layers.case(row)["writes"])):
        net, job = net_of(row)
        for blobs in net.params.values():
            draw_params(blobs, job["params"], job["seed"])

        def fill(seed: int) -> None:
            for i, (name, kind, shape) in enumerate(job["bottoms"]):
                net.blobs[name].data[...] = draw(kind, shape, seed + 10 * i)
            for i, name in enumerate(job["tops"] if row.backward else ()):
                if not net.blob_loss_weights[name]:
                    net.blobs[name].diff[...] = draw("normal", net.blobs[name].shape, seed + 500 + 10 * i)

        yield net, job, fill


def run_script(row, recorder) -> list[dict]:
    """What every blob holds after each pass of whole, partial and repeated ones, and what somebody sees who looks then;
    with a recorder the passes were recorded, where the layer can be."""
    seen = []
    with made_ready(row) as (net, job, fill):
        if recorder is not None:
            record(net, recorder)
        caffe.set_random_seed(3)
        last = len(net.layers) - 1
        # f: forward, b: backward, p: backward through the last layer alone
        for seed, passes in enumerate("fb fb fb fb fpfb fp fb fbfb fbfb fbfb fb ffp".split()):
            net.clear_param_diffs()
            for kind in passes:
                fill(seed)
                if kind == "f":
                    net._forward(0, last)
                elif row.backward:
                    net._backward(last, 0 if kind == "b" else last)
                seen.append(everything(net))
        if isinstance(net.passes, RecordedPasses) and all(node.layer.recordable for node in net.nodes):
            assert made(net)[0] and bool(made(net)[1]) == row.backward, row.id
        looked = {name: net.blobs[name] for name in [name for name, _, _ in job["bottoms"]] + job["tops"]}
        looked.update(((name, i), b) for name, blobs in net.params.items() for i, b in enumerate(blobs))
        seen.append({(name, of): getattr(b, of).copy() for name, b in looked.items() for of in ("data", "diff")})
    return seen
