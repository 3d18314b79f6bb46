"""Passes over a net: each layer's reshape, forward and backward in turn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.base.malloc import keep_freed_memory
from torchcaffe.core import blob as blobs
from torchcaffe.core import precision
from torchcaffe.nets.graph import Graph, Node, name_layer


def reshape_layer(graph: Graph, node: Node) -> None:
    """Give the tops their shapes, if a shape of a bottom or top has changed since this was last done."""
    layer, bottoms, tops = node.layer, node.bottoms, node.tops
    # The tops' shapes, too: BVLC reshapes before each forward, so a top that a user reshaped gets its shape back.
    if layer.reshape_always or [b.shape for b in (*bottoms, *tops)] != node.shapes:
        layer.reshape(bottoms, tops)
        node.shapes = [b.shape for b in (*bottoms, *tops)]
        for blob in node.loss_tops:
            held = blob.diff_memory.tensor
            if held is not None and held.numel() < blob.count and not blob.g.any():
                name = graph.tops[node.top_ids[node.tops.index(blob)]].name
                log.warning(
                    "net.cpp:130",
                    f"{name} has grown: its loss_weight is lost and it no longer counts, as "
                    "in BVLC; make the net with its largest shape",
                )
    node.checked = blobs.shape_changes


class Passes:
    """Runs the layers of a graph one by one. On a GPU, torchcaffe.gpu has a subclass that records whole passes."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._passed = False  # whether there was a forward pass
        self._blobs = [top.blob for top in graph.tops]
        self._loss_tops = [blob for node in graph.nodes for blob in node.loss_tops]
        self._sources = [blob for node in graph.nodes if not node.bottoms for blob in node.tops]

    def reshape(self) -> None:
        """Push the input blobs' shapes through the net."""
        with torch.no_grad():
            for node in self.graph.nodes:
                try:
                    reshape_layer(self.graph, node)
                except Exception as error:
                    self._name(error, node)
                    raise

    def forward(self, start: int, end: int, fed: int = 0) -> Tensor | float:
        """Run layers start..end, of which those in front of `fed` have been fed; returns the weighted loss that they
        produced, left on its device (0.0 without a loss)."""
        keep_freed_memory(self._passed)
        self._passed = True
        graph = self.graph
        nodes, watched = graph.nodes, graph.watched()
        loss: Tensor | float | None = None
        done = start - 1  # the last layer whose work is done
        with torch.no_grad(), precision.applied():
            for i in range(start, end + 1):
                node = nodes[i]
                if watched:
                    for callback in graph.before_forward:
                        callback(i)
                try:
                    if node.checked != blobs.shape_changes or node.layer.reshape_always:
                        reshape_layer(graph, node)
                    if i > done:
                        if i >= fed:
                            node.layer.feed(node.tops)
                        done = self._forward_layer(node, i, end if not watched else i)
                except Exception as error:
                    self._name(error, node)
                    raise
                node.ran = True
                for blob in node.loss_tops:
                    part = _weighted(blob.t, blob.g)
                    loss = part if loss is None else loss + part
                if watched:
                    self._log_forward(node)
                    for callback in graph.after_forward:
                        callback(i)
        return 0.0 if loss is None else loss

    def _forward_layer(self, node: Node, i: int, end: int) -> int:
        """Run layer i, and those up to `end` that it does the work of; returns the last one's number."""
        last = i + len(node.fused)
        if i < last <= end:
            node.layer.forward_fused(node.fused, node.bottoms, node.tops)
            return last
        node.layer.forward(node.bottoms, node.tops)
        return i

    def backward(self, start: int, end: int) -> None:
        """Run layers start down to end, those that need it."""
        graph = self.graph
        watched = graph.watched()
        with torch.no_grad(), precision.applied():
            for i in range(start, end - 1, -1):
                node = graph.nodes[i]
                if watched:
                    for callback in graph.before_backward:
                        callback(i)
                if node.needs_backward:
                    self._backward_layer(node)
                    if watched:
                        self._log_backward(node)
                if watched:
                    for callback in graph.after_backward:
                        callback(i)

    def _backward_layer(self, node: Node) -> None:
        try:
            node.layer.backward(node.tops, node.bottom_needs, node.bottoms)
        except Exception as error:
            if isinstance(error, (AttributeError, TypeError)) and not node.ran:
                error = CaffeError("backward before the first forward")
            self._name(error, node)
            raise

    def _name(self, error: Exception, node: Node) -> None:
        name_layer(error, self.graph.source, node.param, type(node.layer), node.bottoms)

    def release(self) -> None:
        """Free what the last passes computed, so that the next ones find that much memory. Arrays that a user holds
        stay, and so do the tops of layers without bottoms, which need not make them again."""
        kept = {id(blob.diff_memory) for blob in self._loss_tops} | {id(blob.data_memory) for blob in self._sources}
        for blob in self._blobs:
            if id(blob.data_memory) not in kept:
                blob.data_memory.drop()
            if id(blob.diff_memory) not in kept:
                blob.diff_memory.drop()

    # -- debug_info --------------------------------------------------------------------------------------------------

    def _log_forward(self, node: Node) -> None:
        if not self.graph.debug_info:
            return
        prefix = f"    [Forward] Layer {node.name}, "
        for blob_id, blob in zip(node.top_ids, node.tops):
            log.info("net.cpp:593", f"{prefix}top blob {self.graph.tops[blob_id].name} data: {_mean_abs(blob.t):g}")
        given = node.layer.layer_param.param
        for index, blob in enumerate(node.layer.blobs):
            name = given[index].name if index < len(given) and given[index].name else index
            log.info("net.cpp:605", f"{prefix}param blob {name} data: {_mean_abs(blob.t):g}")

    def _log_backward(self, node: Node) -> None:
        if not self.graph.debug_info:
            return
        prefix = f"    [Backward] Layer {node.name}, "
        for blob_id, blob, wanted in zip(node.bottom_ids, node.bottoms, node.bottom_needs):
            if wanted:
                name = self.graph.tops[blob_id].name
                log.info("net.cpp:621", f"{prefix}bottom blob {name} diff: {_mean_abs(blob.g):g}")
        for index, (blob, wanted) in enumerate(zip(node.layer.blobs, node.layer.param_propagate_down)):
            if wanted:
                log.info("net.cpp:632", f"{prefix}param blob {index} diff: {_mean_abs(blob.g):g}")

    def log_norms(self) -> None:
        """Log debug_info's last line of a backward pass: L1 and L2 norms of all parameters' data and diffs."""
        learned = [record.blob for record in self.graph.parameters]
        with torch.no_grad():
            (data1, data2), (diff1, diff2) = (
                [sum(float(norm(t).sum()) for t in tensors) for norm in (Tensor.abs, Tensor.square)]
                for tensors in ([b.t for b in learned], [b.g for b in learned])
            )
        log.error(
            "net.cpp:721",
            f"    [Backward] All net params (data, diff): L1 norm = ({data1:g}, {diff1:g}); "
            f"L2 norm = ({math.sqrt(data2):g}, {math.sqrt(diff2):g})",
        )


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """A top's part of the loss."""
    return torch.dot(values.reshape(-1), weights.reshape(-1)) if values.dim() else values * weights


def _mean_abs(tensor: Tensor) -> float:
    return float(tensor.abs().mean()) if tensor.numel() else 0.0
