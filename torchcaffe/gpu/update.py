"""Updates of a solver on a GPU: recorded, and replayed while rate, addresses and the diffs' places stay."""

from __future__ import annotations

from torchcaffe.gpu.recording import Recorder, Recording
from torchcaffe.solvers.rules import Rule


class RecordedUpdate:
    """A rule's update that `recorder` records."""

    def __init__(self, rule: Rule, recorder: Recorder):
        self._rule = rule
        self.recording = Recording(recorder)

    def __call__(self, rate: float, clip: float, iteration: int) -> None:
        rule, recording = self._rule, self.recording
        memories = [blob.diff_memory for blob in rule.blobs] + [blob.data_memory for blob in rule.blobs]
        places = [memory.place() for memory in memories]
        histories = [array.data_ptr() for history in rule.history for array in history]
        sources = [blob.diff_memory.source() for blob in rule.blobs]
        if recording.ready((rule.constants(rate, clip, iteration), sources, places, histories)):
            recording.run(memories, lambda: rule.update(rate, clip, iteration))
        else:
            rule.update(rate, clip, iteration)
