"""The plan of a net: which layers a phase keeps, and where blobs are split. Imports no torch."""

from __future__ import annotations

from collections import Counter

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto.caffe_pb2 import NetParameter, NetState, NetStateRule

Place = tuple[int, int]  # (layer, top or bottom), by number


def _meets_rule(state: NetState, rule: NetStateRule, layer: str) -> bool:
    def differs(line: int, text: str) -> bool:
        log.info(f"net.cpp:{line}", f"The NetState {text} by a rule in layer {layer}")
        return False

    if rule.HasField("phase") and rule.phase != state.phase:
        return differs(296, f"phase ({state.phase}) differed from the phase ({rule.phase}) specified")
    if rule.HasField("min_level") and state.level < rule.min_level:
        return differs(306, f"level ({state.level}) is above the min_level ({rule.min_level}) specified")  # BVLC's word
    if rule.HasField("max_level") and state.level > rule.max_level:
        return differs(316, f"level ({state.level}) is above the max_level ({rule.max_level}) specified")
    for stage in rule.stage:
        if stage not in state.stage:
            return differs(332, f"did not contain stage '{stage}' specified")
    for stage in rule.not_stage:
        if stage in state.stage:
            return differs(347, f"contained a not_stage '{stage}' specified")
    return True


def filter_net(param: NetParameter) -> NetParameter:
    """Keep the layers whose include or exclude rules `param.state` meets. CaffeError for a layer with both kinds."""
    kept = NetParameter()
    kept.CopyFrom(param)
    del kept.layer[:]
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise CaffeError(f"layer '{layer.name}': include and exclude: give either, not both")
        rules = layer.include or layer.exclude
        if any(_meets_rule(param.state, rule, layer.name) for rule in rules) == bool(layer.include):
            kept.layer.add().CopyFrom(layer)
    return kept


def insert_splits(param: NetParameter) -> NetParameter:
    """Put a Split layer after every blob that more than one layer reads (its own loss weight counts as a reader).

    The names are BVLC's (BLOB_LAYER_INDEX_split, tops ..._split_K), since users see them in net.blobs."""
    source: dict[str, Place] = {}  # blob name -> (layer, top) that wrote it last
    origin: dict[Place, Place] = {}  # (layer, bottom) -> (layer, top)
    readers: Counter[Place] = Counter()
    for i, layer in enumerate(param.layer):
        for j, name in enumerate(layer.bottom):
            if name not in source:
                raise CaffeError(f"layer '{layer.name}': bottom {j}: unknown blob '{name}' (no layer before makes it)")
            origin[i, j] = source[name]
            readers[source[name]] += 1
        for j, name in enumerate(layer.top):
            source[name] = (i, j)
        for j, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            readers[i, j] += bool(weight)

    split = NetParameter()
    split.CopyFrom(param)
    del split.layer[:]
    used: Counter[Place] = Counter()
    for i, original in enumerate(param.layer):
        layer = split.layer.add()
        layer.CopyFrom(original)
        for j in range(len(layer.bottom)):
            top = origin[i, j]
            if readers[top] > 1:
                layer.bottom[j] = _split_name(param, top) + f"_{used[top]}"
                used[top] += 1
        for j, blob in enumerate(original.top):
            count = readers[i, j]
            if count <= 1:
                continue
            name = _split_name(param, (i, j))
            extra = split.layer.add(name=name, type="Split", bottom=[blob], top=[f"{name}_{k}" for k in range(count)])
            weights = list(original.loss_weight[j : j + 1])
            if any(weights):
                layer.ClearField("loss_weight")
                used[i, j] += 1
                extra.loss_weight.extend(weights + [0.0] * (count - 1))
    return split


def _split_name(param: NetParameter, top: Place) -> str:
    layer = param.layer[top[0]]
    return f"{layer.top[top[1]]}_{layer.name}_{top[1]}_split"
