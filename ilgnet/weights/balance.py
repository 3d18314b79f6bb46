"""Features of the size that new layers are made for.

Xavier's weights (Glorot and Bengio, 2010) suppose inputs of root mean square 1. GoogLeNet's features, of pixels of
+-128, reach 100, and a local layer reads 200,704 of them: at a rate at which the other layers learn, one step moves its
outputs by thousands. ReLU, pooling and concatenation keep a positive factor a channel, so the layer that makes a
channel is divided by its size and the copied layers that read it are multiplied: what these compute stays what it was
(the cross-layer equalisation of Nagel et al., 2019, for another purpose)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ilgnet.weights.surgery import Report
from torchcaffe.base.errors import CaffeError

KEEP = ("ReLU", "Dropout", "Pooling")  # layers through which a positive factor a channel passes


class Edit(NamedTuple):
    """Weights of a layer to be multiplied: the outputs (every blob's first axis), or the inputs (the second one of its
    first blob), by `factor` a channel."""

    layer: str
    outputs: bool
    factor: np.ndarray


def balance(engine_net: Any, net: Any, report: Report) -> list[str]:
    """Give the feature maps that new InnerProducts read the root mean square 1, channel by channel, on the photos that
    `engine_net` (of the NetParameter `net`, TEST phase, weights transplanted and calibrated) has in its input blobs.
    Returns a line a layer. CaffeError for a layer through which a factor does not pass."""
    names, layers, lines = list(engine_net.top_names), list(net.layer), []
    new = {row.layer for row in report.rows if row.what in ("filled", "shape differs")}
    for at, layer in enumerate(layers):
        if layer.type != "InnerProduct" or layer.name not in new:
            continue
        engine_net.run_forward(0, names.index(layer.name) - 1)
        x = engine_net.blobs[layer.bottom[0]].data
        if x.ndim < 4:
            continue  # behind new layers, whose fillers keep the size
        sizes = np.sqrt(np.square(x, dtype=np.float64).mean(axis=(0, 2, 3)))
        if not np.isfinite(sizes).all():
            raise CaffeError(f"layer '{layer.name}': its input on the calibration images is not finite")
        # A channel that is hardly ever awake must not grow without bound
        factor = 1 / np.maximum(sizes, sizes.max() / 100) if sizes.any() else np.ones_like(sizes)
        for edit in [*_made(engine_net, layers, at, layer.bottom[0], factor, new)]:  # all are found before any is made
            _multiply([blob.data for blob in engine_net.params[edit.layer]], edit)
        lines.append(f"{layer.name}: its input's {len(sizes)} channels were {sizes.min():.3g} to {sizes.max():.3g}")
    return lines


def _made(engine_net: Any, layers: list, at: int, blob: str, factor: np.ndarray, new: set[str]) -> Iterator[Edit]:
    """What multiplies `blob`, as the layers before `at` make it, and keeps what its other readers compute."""
    yield from _read(layers, at, blob, factor, new)
    for i in reversed(range(at)):
        layer = layers[i]
        if blob not in layer.top or (layer.type in KEEP and layer.bottom[0] == blob):
            continue
        if layer.type in ("Convolution", "InnerProduct") or (layer.type == "Scale" and len(layer.bottom) == 1):
            yield Edit(layer.name, True, factor)
            return
        if layer.type not in (*KEEP, "Concat"):
            raise CaffeError(f"layer '{layer.name}': its outputs cannot be balanced")
        for bottom in layer.bottom:
            count = engine_net.blobs[bottom].data.shape[1]
            yield from _made(engine_net, layers, i, bottom, factor[:count], new)
            factor = factor[count:]
        return
    raise CaffeError(f"layer '{layers[at].name}': nothing with weights makes '{blob}'")


def _read(layers: list, but: int, blob: str, factor: np.ndarray, new: set[str]) -> Iterator[Edit]:
    """What keeps the outputs of the layers that read `blob`, all but layers[but] and new InnerProducts."""
    for at, layer in enumerate(layers):
        if at == but or blob not in layer.bottom or blob in layer.top:
            continue
        if layer.type == "InnerProduct" or (layer.type == "Convolution" and layer.convolution_param.group == 1):
            if layer.type == "Convolution" or layer.name not in new:
                yield Edit(layer.name, False, 1 / factor)
        elif layer.type in KEEP:
            yield from _read(layers, at, layer.top[0], factor, new)
        else:
            raise CaffeError(f"layer '{layer.name}': its inputs cannot be balanced")


def _multiply(blobs: list[np.ndarray], edit: Edit) -> None:
    """Carry out an edit on a layer's arrays."""
    if edit.outputs:
        for blob in blobs:
            rows = blob.reshape(len(edit.factor), -1)
            rows *= edit.factor[:, None].astype(blob.dtype)
    else:
        columns = blobs[0].reshape(blobs[0].shape[0], len(edit.factor), -1)
        columns *= edit.factor[None, :, None].astype(blobs[0].dtype)
