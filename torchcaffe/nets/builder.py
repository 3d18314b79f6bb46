"""Making a net, as BVLC's Net::Init: each layer takes its bottoms, makes its tops, is set up, and adds its parameters.

A layer's `param` is the file's own. What its set-up changed (BatchNorm's lr_mult) counts when it learns, but not when
the net decides what needs the backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from torchcaffe.base import context, log
from torchcaffe.base.errors import CaffeError
from torchcaffe.core.blob import Blob
from torchcaffe.core.layer import Layer, registry
from torchcaffe.nets import plan
from torchcaffe.nets.graph import Graph, Learnable, Node, Top, name_layer
from torchcaffe.nets.passes import reshape_layer
from torchcaffe.proto import format_text
from torchcaffe.proto.caffe_pb2 import LayerParameter, NetParameter, ParamSpec

AUTOMATIC = "(automatic)"  # what BVLC's log calls a top that the prototxt doesn't name


@dataclass
class _Scope:
    """What names mean while the layers are made."""

    ids: dict[str, int] = field(default_factory=dict)  # of the blob that a name means so far
    available: dict[str, None] = field(default_factory=dict)  # the names that no layer has taken so far
    with_gradient: set[int] = field(default_factory=set)  # the blobs that get one
    owners: dict[str, Learnable] = field(default_factory=dict)  # by the param's name


def build(param: NetParameter, source: str) -> Graph:
    """Make all layers of an upgraded NetParameter whose `state` is set. Raises CaffeError naming the layer and the
    field."""
    try:
        kept = plan.filter_net(param)
        log.info("net.cpp:53", "Initializing net from parameters: \n" + format_text(kept))
        kept = plan.insert_splits(kept)
    except CaffeError as error:
        raise CaffeError(f"{source}: {error}") from None
    graph = Graph(source, kept.name, kept.state.phase, context.device(), kept.debug_info)
    scope = _Scope()
    for lp in kept.layer:
        _append_layer(graph, lp, scope)
    _prune_backward(graph)
    if kept.force_backward:
        _force_backward(graph)
    # What no layer has taken is the net's output, in alphabetical order.
    graph.outputs = [scope.ids[name] for name in sorted(scope.available)]
    for name in sorted(scope.available):
        log.info("net.cpp:244", f"This network produces output {name}")
    for i, node in enumerate(graph.nodes):
        node.fused = _layers_after(graph, i)
    return graph


def _append_layer(graph: Graph, lp: LayerParameter, scope: _Scope) -> None:
    cls: type[Layer] = registry.get(lp.type, Layer)
    bottoms: list[Blob] = []
    try:
        node = Node(lp, _make_layer(graph, lp), bottoms)
        _append_bottoms(graph, node, scope)
        _append_tops(graph, node, scope)
        graph.nodes.append(node)
        layer = node.layer
        with torch.no_grad():
            layer.setup(node.bottoms, node.tops)
            if layer.blob_count is None:
                layer.blob_count = len(layer.blobs)
            reshape_layer(graph, node)
        _set_loss_weights(graph, node)
        _log_setup(graph, node)
        _append_params(graph, node, scope)
    except Exception as error:
        name_layer(error, graph.source, lp, cls, bottoms)
        raise


def _make_layer(graph: Graph, lp: LayerParameter) -> Layer:
    if not lp.HasField("phase"):
        lp.phase = graph.phase
    if lp.propagate_down and len(lp.propagate_down) != len(lp.bottom):
        raise CaffeError("propagate_down: specified neither 0 times nor once a bottom")
    log.info("layer_factory.hpp:77", f"Creating layer {lp.name}")
    if lp.type not in registry:
        raise CaffeError(f"type: unknown layer type '{lp.type}' (known types: {', '.join(sorted(registry))})")
    own = LayerParameter()
    own.CopyFrom(lp)
    cls = registry[lp.type]
    layer = getattr(cls, "create", cls)(own, graph.device)
    log.info("net.cpp:86", f"Creating Layer {lp.name}")
    return layer


def _append_bottoms(graph: Graph, node: Node, scope: _Scope) -> None:
    lp = node.param
    for index, name in enumerate(lp.bottom):
        if name not in scope.available:
            raise CaffeError(f"bottom {index}: unknown blob '{name}' (no layer before makes it, or it is taken)")
        del scope.available[name]
        log.info("net.cpp:408", f"{lp.name} <- {name}")
        blob_id = scope.ids[name]
        node.bottom_ids.append(blob_id)
        node.bottoms.append(graph.tops[blob_id].blob)
        node.bottom_needs.append(lp.propagate_down[index] if lp.propagate_down else blob_id in scope.with_gradient)


def _append_tops(graph: Graph, node: Node, scope: _Scope) -> None:
    lp, layer = node.param, node.layer
    names = list(lp.top)
    if layer.auto_top and layer.top_count is not None:
        least = layer.top_count if isinstance(layer.top_count, int) else layer.top_count[0]
        names += [AUTOMATIC] * (max(least, 1) - len(names))
    layer.check_counts(len(node.bottoms), len(names))
    for index, name in enumerate(names):
        if index < len(lp.bottom) and name == lp.bottom[index]:
            log.info("net.cpp:369", f"{lp.name} -> {name} (in-place)")
            if not layer.allows_in_place:
                raise CaffeError(f"top {index} '{name}': this type cannot work in place")
            blob_id = scope.ids[name]
        else:
            if name in scope.ids:
                raise CaffeError(f"top {index}: blob '{name}' is produced by more than one layer")
            log.info("net.cpp:382", f"{lp.name} -> {name}")
            blob_id = len(graph.tops)
            graph.tops.append(Top(name, Blob(device=graph.device)))
            if layer.makes_inputs:
                graph.inputs.append(blob_id)
        if name != AUTOMATIC:
            scope.ids[name] = blob_id
            scope.available[name] = None
        node.top_ids.append(blob_id)
        node.tops.append(graph.tops[blob_id].blob)


def _set_loss_weights(graph: Graph, node: Node) -> None:
    # A loss without one has a single loss_weight, 1: with two tops BVLC requires a second one.
    lp, layer, tops = node.param, node.layer, node.tops
    weights = list(lp.loss_weight) or [1.0] * layer.is_loss
    if weights and len(weights) != len(tops):
        raise CaffeError(
            f"loss_weight: {len(lp.loss_weight) or 'none'} given for {len(tops)} top(s): "
            f"give {'' if layer.is_loss else 'none or '}one a top"
        )
    layer.loss_weights = weights or [0.0] * len(tops)
    for blob_id, blob, weight in zip(node.top_ids, tops, layer.loss_weights):
        graph.tops[blob_id].loss_weight = weight
        if weight:
            # As in BVLC the weight is stored in the top's diff, where backward finds it.
            blob.g = torch.full(blob.shape, weight, device=graph.device)
            blob.diff_memory.fix()
            node.loss_tops.append(blob)


def _log_setup(graph: Graph, node: Node) -> None:
    """Log a layer's tops, and the memory of all tops so far."""
    log.info("net.cpp:124", f"Setting up {node.name}")
    for blob, weight in zip(node.tops, node.layer.loss_weights):
        log.info("net.cpp:131", f"Top shape: {''.join(f'{size} ' for size in blob.shape)}({blob.count})")
        if weight:
            log.info("net.cpp:134", f"    with loss weight {weight:g}")
    memory = 4 * sum(blob.count for made in graph.nodes for blob in made.tops)
    log.info("net.cpp:139", f"Memory required for data: {memory}")


def _append_params(graph: Graph, node: Node, scope: _Scope) -> None:
    lp, layer = node.param, node.layer
    if len(lp.param) > len(layer.blobs):
        raise CaffeError(f"param: {len(lp.param)} given, the layer has {len(layer.blobs)} parameter blob(s)")
    # BVLC looks at the file's own lr_mult here: a BatchNorm without three explicit zeros forces the backward pass.
    layer.param_propagate_down = [
        index >= len(lp.param) or lp.param[index].lr_mult != 0 for index in range(len(layer.blobs))
    ]
    # (whatever propagate_down says)
    below = not scope.with_gradient.isdisjoint(node.bottom_ids)
    node.needs_backward = below or any(layer.param_propagate_down)
    for index in range(len(layer.blobs)):
        _append_param(graph, node, index, scope)
    if node.needs_backward:
        scope.with_gradient.update(node.top_ids)


def _append_param(graph: Graph, node: Node, index: int, scope: _Scope) -> None:
    given = node.layer.layer_param.param  # as the layer's set-up left it
    spec = given[index] if index < len(given) else ParamSpec()
    name, blob = spec.name, node.layer.blobs[index]
    known = scope.owners.get(name)
    if known is None:
        known = Learnable(blob, f"{node.name}[{index}]", (node.name, index))
        graph.parameters.append(known)
        if name:
            scope.owners[name] = known
    else:
        owner, (layer, owned) = known.blob, known.owner
        log.info("net.cpp:467", f"Sharing parameters '{name}' owned by layer '{layer}', param index {owned}")
        permissive = spec.share_mode == ParamSpec.PERMISSIVE
        if (owner.count != blob.count) if permissive else (owner.shape != blob.shape):
            raise CaffeError(
                f"param {index} '{name}': shape {blob.shape} does not fit {owner.shape} of layer '{layer}'"
            )
        blob.share_data(owner)
        blob.share_diff(owner)
    for multiplier in ("lr_mult", "decay_mult"):
        if spec.HasField(multiplier):
            mine = getattr(spec, multiplier)
            if getattr(known, multiplier) not in (None, mine):
                raise CaffeError(f"param {index}: shared param '{name}' has mismatched {multiplier}")
            setattr(known, multiplier, mine)


def _prune_backward(graph: Graph) -> None:
    """Let backward run only for layers between a loss and something that learns, as in BVLC."""
    under_loss: set[int] = set()
    skip: set[int] = set()
    # BVLC keys these sets by blob name. Ids give the same answer, but for automatic tops, which nobody reads.
    for node in reversed(graph.nodes):
        contributes = any(node.layer.loss_weights) or not under_loss.isdisjoint(node.top_ids)
        if contributes:
            under_loss.update(node.bottom_ids)
        if not contributes or node.needs_backward and skip.issuperset(node.top_ids):
            node.needs_backward = False
            node.bottom_needs = [False] * len(node.bottom_needs)
        if node.needs_backward:
            log.info("net.cpp:200", f"{node.name} needs backward computation.")
        else:
            log.info("net.cpp:202", f"{node.name} does not need backward computation.")
        skip.update(blob_id for blob_id, need in zip(node.bottom_ids, node.bottom_needs) if not need)


def _force_backward(graph: Graph) -> None:
    """Give every blob and parameter a gradient, but for bottoms that cannot have one."""
    for node in graph.nodes:
        layer = node.layer
        node.needs_backward = True
        node.bottom_needs = [need or j not in layer.no_force_backward for j, need in enumerate(node.bottom_needs)]
        layer.param_propagate_down = [True] * len(layer.blobs)


def _layers_after(graph: Graph, i: int) -> list[Layer]:
    """The layers after layer i whose work it can do together with its own: they come next, work in place on its only
    top, keep nothing for the backward pass and add nothing to the loss."""
    node, following = graph.nodes[i], []
    for after in graph.nodes[i + 1 :]:
        in_place = len(node.top_ids) == 1 and after.bottom_ids == after.top_ids == node.top_ids
        kept = after.needs_backward and after.layer.keeps_for_backward
        if not in_place or kept or after.loss_tops:
            break
        following.append(after.layer)
    return following[: node.layer.fuses(following)]
