"""Passes of a net on a GPU: whole ones are recorded, and replayed while nothing that they depend on changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchcaffe.base import context
from torchcaffe.core.memory import Memory
from torchcaffe.gpu.recording import Recorder, Recording
from torchcaffe.nets.graph import Graph
from torchcaffe.nets.passes import Passes


class RecordedPasses(Passes):
    """Passes of a graph that `recorder` records."""

    def __init__(self, graph: Graph, recorder: Recorder):
        super().__init__(graph)
        self._recorder = recorder
        self.recorded_forward = Recording(recorder)
        self.recorded_backward: dict[tuple, Recording] = {}  # by where the parameters' diffs were before it
        self.recordable = all(node.layer.recordable for node in graph.nodes)
        for node in graph.nodes:
            node.layer.recorded = self.recordable

    def forward(self, start: int, end: int, fed: int = 0) -> Tensor | float:
        recorded = self.recorded_forward
        if self._records(start, end):
            memories = self._memories("data", params=True) + self._memories("diff", params=False)
            if recorded.ready(self._key(memories)):
                while fed <= end and self._feed(fed):
                    fed += 1
                if fed > end:
                    work, blobs = lambda: super(RecordedPasses, self).forward(start, end, fed), self._blobs
                    loss = recorded.run(memories, work, blobs=blobs)
                    return loss.clone() if isinstance(loss, Tensor) else loss  # the next pass overwrites it
                fed += 1  # layer `fed` has brought its data, to another address
                recorded.forget()
        else:
            recorded.forget()
        self.recorded_backward.clear()
        return super().forward(start, end, fed)

    def backward(self, start: int, end: int) -> None:
        if self._records(end, start) and self.recorded_forward.made:
            memories, read = self._memories("diff", params=True), self._memories("data", params=True)
            # What no layer above has written.
            read += [self.graph.tops[i].blob.diff_memory for i in self.graph.outputs]
            # The first pass of an iteration writes the gradients, further ones add to them (after a copy, where another
            # tensor stands in).
            there = tuple(record.blob.diff_memory.source() for record in self.graph.parameters)
            recorded = self.recorded_backward.setdefault(there, Recording(self._recorder))
            if recorded.ready(self._key(memories, read)):
                work = lambda: super(RecordedPasses, self).backward(start, end)  # noqa: E731
                recorded.run(memories, work, read, self._blobs)
                return
        super().backward(start, end)

    def release(self) -> None:
        """Keep what a recording needs: all of it."""
        if not self.recordable:
            super().release()

    def _feed(self, i: int) -> bool:
        node = self.graph.nodes[i]
        try:
            return node.layer.feed(node.tops)
        except Exception as error:
            self._name(error, node)
            raise

    def _records(self, first: int, last: int) -> bool:
        """Whether a pass over these layers may be recorded: a whole one that nobody watches."""
        whole = first == 0 and last == len(self.graph.nodes) - 1
        return self.recordable and whole and not self.graph.watched()

    def _memories(self, of: str, params: bool) -> list[Memory]:
        """The memories of all blobs' "data" or "diff"; with `params`, of the parameters, too."""
        blobs = [*self._blobs]
        if params:
            blobs += [blob for node in self.graph.nodes for blob in node.layer.blobs]
        return [getattr(blob, of + "_memory") for blob in blobs]

    def _key(self, memories: list[Memory], read: Sequence[Memory] = ()) -> tuple:
        """All that a recording depends on: precision, shapes, the addresses of fixed arrays, and of what the work only
        reads."""
        shapes = [blob.shape for blob in self._blobs]
        return context.precision, *shapes, *(m.place() for m in memories), *(m.address() for m in read)
