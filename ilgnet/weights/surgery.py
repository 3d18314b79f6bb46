"""Move weights between nets: copy by name, insert BatchNorm, fold BatchNorm away again.

All of it is NumPy; the engine is needed only for fillers and for the forward pass of a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ilgnet.nets.folding import folds, merge_bn, statistics
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel
from torchcaffe.formats.blobproto import same_shape
from torchcaffe.formats.files import PathLike


class Layer(NamedTuple):
    """A layer of a weights file."""

    name: str
    type: str
    blobs: list[np.ndarray]


def read_weights(path: PathLike) -> list[Layer]:
    """A caffemodel's layers. CaffeError for an HDF5 file that leaves out a shared blob, since another layer owns it."""
    found = []
    for layer in caffemodel.read_caffemodel(path):
        blobs = [blob for blob in layer.blobs if blob is not None]
        if len(blobs) < len(layer.blobs):
            missing = next(i for i, blob in enumerate(layer.blobs) if blob is None)
            raise CaffeError(
                f"{path}: layer '{layer.name}': blob {missing} is not in the file (HDF5 stores a shared blob once); "
                "save the net as a .caffemodel"
            )
        found.append(Layer(layer.name, layer.type, blobs))
    return found


@dataclass
class Row:
    """One line of the surgery's table."""

    layer: str
    type: str
    shape: str
    what: str  # copied, filled, shape differs, made, unused
    note: str = ""


@dataclass
class Report:
    """Where each layer's weights came from, and the BatchNorms that surgery made: name -> the source's bias (C,) that
    it has to add, zeros if the source has none; None behind a layer that was not copied."""

    rows: list[Row] = field(default_factory=list)
    made: dict[str, np.ndarray | None] = field(default_factory=dict)

    def count(self, what: str) -> int:
        return sum(row.what == what for row in self.rows)


def transplant(net: Any, params: dict[str, list[np.ndarray]], source: list[Layer]) -> Report:
    """Fill `params` (arrays of the NetParameter `net`, already filled by its fillers; in place) from `source` by name.

    A source layer with a bias whose target has none but a BatchNorm: the bias goes into the BatchNorm's mean. Every
    BatchNorm that the source lacks starts as the identity: mean = -bias, variance = 1 - eps, factor 1. (As the fillers
    leave it, zero throughout, the TEST phase would divide by sqrt(eps).)
    """
    by_name = {s.name: s for s in source if s.blobs}
    pairs = folds(net, strict=False)
    by_layer = {fold.convolution: fold for fold in pairs}
    scales = {fold.scale: fold.batch_norm for fold in pairs if fold.scale}
    report = Report()
    biases: dict[str, np.ndarray] = {}
    used = set()
    for layer in net.layer:
        blobs = params.get(layer.name)
        if not blobs:
            continue
        found, fold = by_name.get(layer.name), by_layer.get(layer.name)
        row = Row(layer.name, layer.type, _shapes(blobs), "filled")
        report.rows.append(row)
        if found is not None:
            used.add(layer.name)
            given, bias = found.blobs, np.zeros(blobs[0].shape[:1])
            if fold and len(given) == 2 and len(blobs) == 1:
                given, bias = given[:1], given[1]
                row.note = f"bias into the mean of {fold.batch_norm}"
            if not _fits(given, blobs):
                row.what, row.note = "shape differs", f"source has {_shapes(found.blobs)}; filled"
                continue
            row.what = "copied"
            for to, values in zip(blobs, given):
                to[...] = values.reshape(to.shape)
            if fold:
                biases[fold.batch_norm] = bias.reshape(-1).astype(np.float32)
        if layer.type == "BatchNorm":
            lost = biases.get(layer.name)
            if row.what == "copied" and lost is not None:
                blobs[0][...] -= lost * blobs[2].reshape(-1)[0]
            elif row.what == "filled":
                blobs[0][...] = 0 if lost is None else -lost
                blobs[1][...] = 1 - layer.batch_norm_param.eps
                blobs[2][...] = 1
                report.made[layer.name] = lost
                row.what, row.note = "made", "identity"
        elif row.what == "filled" and scales.get(layer.name) in report.made:
            row.what, row.note = "made", "identity"
            blobs[0][...] = 1
            if len(blobs) > 1:
                blobs[1][...] = 0
        elif row.what == "filled" and not _has_filler(layer):
            row.note = "no filler in the prototxt: all zero"
    unused = [s for s in source if s.blobs and s.name not in used]
    report.rows += [Row(s.name, s.type, _shapes(s.blobs), "unused") for s in unused]
    _refuse_lost_norms(source, used, report)
    return report


def _shapes(blobs: list[np.ndarray]) -> str:
    return " ".join("x".join(map(str, b.shape)) for b in blobs)


def _fits(source: list[np.ndarray], target: list[np.ndarray]) -> bool:
    return len(source) == len(target) and all(same_shape(s.shape, t.shape) for s, t in zip(source, target))


def _has_filler(layer: Any) -> bool:
    param = {"Convolution": layer.convolution_param, "InnerProduct": layer.inner_product_param}.get(layer.type)
    return param is None or param.HasField("weight_filler")


def _refuse_lost_norms(source: list[Layer], used: set[str], report: Report) -> None:
    """CaffeError for a source layer that was copied without its BatchNorm: it would compute something else."""
    copied = {row.layer for row in report.rows if row.what == "copied"}
    for before, norm in zip(source, source[1:]):
        if norm.type == "BatchNorm" and norm.blobs and norm.name not in used and before.name in copied:
            raise CaffeError(
                f"layer '{norm.name}': the source normalises '{before.name}' and the target does not; "
                "fold it first (ilgnet merge-bn)"
            )


def set_statistics(
    bn: list[np.ndarray], scale: list[np.ndarray], eps: float, x: np.ndarray, bias: np.ndarray | None
) -> None:
    """Give a BatchNorm (its three arrays, written in place) the statistics of its input x (N, C, ...).

    With a bias (C,), Scale undoes the normalisation, so that both together add the bias and change nothing else:
    gamma = sqrt(var + eps), beta = mean + bias. Without, gamma 1 and beta 0: a fresh layer's normalised output.
    """
    axes = (0,) + tuple(range(2, x.ndim))
    count = x.size // x.shape[1]
    bn[0][...] = x.mean(axis=axes, dtype=np.float64)
    bn[1][...] = x.var(axis=axes, dtype=np.float64) * (count / max(count - 1, 1))  # as Caffe's running variance
    bn[2][...] = 1
    if bias is None:
        scale[0][...], scale[1][...] = 1, 0
    else:  # from the statistics as stored, in float32
        scale[0][...] = np.sqrt(bn[1].astype(np.float64) + eps)
        scale[1][...] = bn[0].astype(np.float64) + bias


def calibrate(engine_net: Any, net: Any, report: Report) -> int:
    """Run `engine_net` (of the NetParameter `net`, TEST phase, input blobs set, weights transplanted) once, layer by
    layer, giving each BatchNorm that surgery made the statistics of its input. Behind copied layers the net's answer
    stays what it was; behind filled ones the BatchNorm normalises. Returns how many were calibrated."""
    names = list(engine_net.top_names)
    rows = {row.layer: row for row in report.rows}
    layers = {layer.name: layer for layer in net.layer}
    todo = [
        (names.index(fold.convolution), fold.batch_norm, fold.scale)
        for fold in folds(net, strict=False)
        if fold.batch_norm in report.made and fold.scale and rows[fold.scale].what == "made"
        if len(engine_net.params[fold.scale]) == 2
    ]
    start = 0
    for end, norm, scale in sorted(todo):
        engine_net.run_forward(start, end)
        start = end + 1
        x = engine_net.blobs[layers[names[end]].top[0]].data
        if not np.isfinite(x).all():
            raise CaffeError(f"layer '{names[end]}': its output on the calibration images is not finite")
        arrays, affine = ([blob.data for blob in engine_net.params[name]] for name in (norm, scale))
        set_statistics(arrays, affine, layers[norm].batch_norm_param.eps, x, report.made[norm])
        rows[norm].note = rows[scale].note = "calibrated"
    engine_net.run_forward(start, len(names) - 1)
    return len(todo)


def calibrate_on(engine_net: Any, net: Any, report: Report, images: np.ndarray) -> tuple[float, int]:
    """calibrate() on images (N, 3, H, W): (how far the net's answers moved, relative; how many BatchNorms)."""
    for i, name in enumerate(engine_net.inputs):
        blob = engine_net.blobs[name]
        blob.reshape(len(images), *(images.shape[1:] if i == 0 else blob.data.shape[1:]))
    engine_net.reshape()
    engine_net.blobs[engine_net.inputs[0]].data[...] = images
    engine_net.forward()
    before = _answers(engine_net, net)
    count = calibrate(engine_net, net, report)
    return float(np.linalg.norm(_answers(engine_net, net) - before) / max(np.linalg.norm(before), 1e-30)), count


def _answers(engine_net: Any, net: Any) -> np.ndarray:
    """The scores before Softmax or loss, which hide most of a change; where the net ends in the scores (see
    engine.without_data), the scores themselves."""
    last = [layer for layer in net.layer if layer.bottom and set(layer.top) & set(engine_net.outputs)]
    names = {layer.top[0] if layer.type == "InnerProduct" else layer.bottom[0] for layer in last}
    return np.concatenate([np.array(engine_net.blobs[name].data, dtype=np.float64).ravel() for name in sorted(names)])


def share(source: Any, target: Any) -> None:
    """Copy the parameters of same-named layers from one engine net to another."""
    for name, blobs in target.params.items():
        if name in source.params:
            for to, given in zip(blobs, source.params[name]):
                to.data[...] = given.data


def unloaded(params: dict[str, list[np.ndarray]], source: list[Layer]) -> list[str]:
    """The layers that have parameters which `source` lacks, or holds in another shape."""
    by_name = {s.name: s.blobs for s in source if s.blobs}
    return [layer for layer, blobs in params.items() if blobs and not _fits(by_name.get(layer, []), blobs)]


def refuse_unloaded(params: dict[str, list[np.ndarray]], source: list[Layer], weights: PathLike, net: PathLike) -> None:
    """CaffeError where a layer of the net would keep its filler's values; `weights` and `net` name the files."""
    missing = unloaded(params, source)
    if missing:
        raise CaffeError(f"{weights}: nothing in it fits {len(missing)} layer(s) of {net} ({first_of(missing)})")


def first_of(names: Sequence[str]) -> str:
    """The first three names, for an error."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def merge(net: Any, source: list[Layer]) -> tuple[Any, dict[str, list[np.ndarray]], list[str]]:
    """Fold every BatchNorm (and Scale) into the Convolution before it.

    w' = w gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta. Returns (NetParameter, arrays by
    layer name, folded convolutions). CaffeError when a layer that is to be folded has no weights in `source`.
    """
    params = {s.name: [np.asarray(b, dtype=np.float64) for b in s.blobs] for s in source}
    layers = {layer.name: layer for layer in net.layer}
    todo = folds(net)
    for fold in todo:
        for name in filter(None, (fold.convolution, fold.batch_norm, fold.scale)):
            if not params.get(name):
                raise CaffeError(f"layer '{name}': the weights hold nothing for it")
        bn = layers[fold.batch_norm].batch_norm_param
        if bn.HasField("use_global_stats") and not bn.use_global_stats:
            raise CaffeError(f"layer '{fold.batch_norm}': use_global_stats: false cannot be folded")
        weight, *bias = params[fold.convolution]
        mean, var = statistics(params[fold.batch_norm])
        gamma, *beta = [b.reshape(-1) for b in params[fold.scale]] if fold.scale else [np.ones_like(mean)]
        rate = gamma / np.sqrt(var + bn.eps)
        shift = (sum(b.reshape(-1) for b in bias) - mean) * rate + sum(beta)
        params[fold.convolution] = [weight * rate.reshape(-1, 1, 1, 1), shift]
    merged = merge_bn(net)
    kept = {layer.name for layer in merged.layer}
    arrays = {name: [b.astype(np.float32) for b in blobs] for name, blobs in params.items() if name in kept and blobs}
    return merged, arrays, [fold.convolution for fold in todo]
