"""Batch normalisation folded into the convolutions, for deployment: the net's side of it.

In testing, BatchNorm and Scale behind a convolution are one affine map a channel, y = a x + b, so the convolution with
its weights times a and its bias b computes the same. weights/surgery.py does the same for the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2


def statistics(blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (C,) from BatchNorm's three blobs: running sums, divided by the third; where that is 0, 0."""
    mean, variance, factor = (np.reshape(blob, -1) for blob in blobs)
    inverse = 1 / factor[0] if factor[0] else factor[0]
    return mean * inverse, variance * inverse


@dataclass(frozen=True)
class Fold:
    """One convolution, the BatchNorm behind it, and the Scale behind that (None: there is none), by layer name."""

    convolution: str
    batch_norm: str
    scale: str | None


def folds(net, strict: bool = True) -> list[Fold]:
    """Which BatchNorm and Scale layers of a NetParameter fold into which convolution.

    A BatchNorm folds if its bottom comes straight from a Convolution and nothing else reads the blob in between;
    a Scale if it comes straight from such a BatchNorm. A BatchNorm that cannot be folded raises CaffeError, or, without
    `strict`, is left out."""
    found = []
    layers = list(net.layer)
    for i, layer in enumerate(layers):
        if layer.type != "BatchNorm":
            continue
        before = _maker(layers, i)
        if before is None or before.type != "Convolution" or _readers(layers, before) != [layer]:
            if not strict:
                continue
            raise CaffeError(f"layer {layer.name}: only a BatchNorm straight behind a Convolution can be merged")
        name = None
        match _readers(layers, layer):
            case [scale] if scale.type == "Scale" and len(scale.bottom) == 1:
                if scale.scale_param.axis == scale.scale_param.num_axes == 1:
                    name = scale.name
        found.append(Fold(before.name, layer.name, name))
    return found


def merge_bn(net):
    """A copy of a NetParameter without the layers of folds(net); their convolutions have a bias."""
    todo = folds(net)
    gone = {name for fold in todo for name in (fold.batch_norm, fold.scale)}
    merged_into = {fold.convolution for fold in todo}
    merged = caffe_pb2.NetParameter()
    merged.CopyFrom(net)
    del merged.layer[:]
    renamed: dict[str, str] = {}  # the tops of layers that are gone, where they did not work in place
    for layer in net.layer:
        if layer.name in gone:
            renamed[layer.top[0]] = renamed.get(layer.bottom[0], layer.bottom[0])
            continue
        kept = merged.layer.add()
        kept.CopyFrom(layer)
        del kept.bottom[:]
        kept.bottom.extend(renamed.get(bottom, bottom) for bottom in layer.bottom)
        if layer.name in merged_into:
            kept.convolution_param.ClearField("bias_term")
            if len(kept.param) == 1:
                weights = kept.param[0]
                kept.param.add(lr_mult=2 * weights.lr_mult, decay_mult=0)
    return merged


def _maker(layers: list, i: int):
    """The layer that last wrote the bottom of layers[i]."""
    blob = layers[i].bottom[0]
    return next((layer for layer in reversed(layers[:i]) if blob in layer.top), None)


def _readers(layers: list, maker) -> list:
    """The layers that read what `maker` makes, up to one that overwrites it in place."""
    blob, found = maker.top[0], []
    for layer in layers[layers.index(maker) + 1 :]:
        if blob in layer.bottom:
            found.append(layer)
        if blob in layer.top:
            break
    return found
