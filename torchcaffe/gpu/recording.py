"""Work on a GPU that is launched as a whole: recorded as a CUDA graph once, and replayed from then on.

A pass over a net is hundreds of small kernels; launching each from Python takes longer than most of them run. A
recording launches them all at once, on the memory that they used when it was made. So what a net needs of the host
(records, random numbers) is brought by its layers' feed() to places that stay the same, and whatever else may change
(shapes, an array that somebody looks at, the learning rate) is in a key: a recording is made when two runs in a row
have the same key, and forgotten when the key changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from torchcaffe.base import log
from torchcaffe.core.blob import Blob, Memory

# Does the work once, and returns its result and what does the same work again on the same memory.
Recorder = Callable[[Callable[[], Any]], "tuple[Any, Callable[[], None]]"]


def recorder_of(device: str) -> Recorder | None:
    """How work on a device is recorded: on a GPU as a CUDA graph, on the CPU not at all."""
    return None if device == "cpu" else functools.partial(_cuda_graph, device)


def _cuda_graph(device: str, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """The Recorder of a GPU, whichever is the current one."""

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    with torch.cuda.device(device):
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Data layers' threads go on with copies of their own meanwhile.
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(before)  # which a capture that fails leaves at its own
    replay()
    return result, replay


class Recording:
    """One piece of work. recorder: how it is recorded; None: it never is."""

    def __init__(self, recorder: Recorder | None):
        self._recorder = recorder
        self.forget()

    @property
    def made(self) -> bool:
        """Whether the last run was recorded or replayed."""
        return self._replay is not None

    def forget(self) -> None:
        """Let go of what was recorded, and its memory."""
        self._key: Hashable = None
        self._replay: Callable[[], None] | None = None
        self._result: Any = None
        self._states: list[tuple[Blob | Memory, Any]] = []

    def ready(self, key: Hashable) -> bool:
        """Whether the last run had this key. If not, this one must be done as ever; it makes what is made once."""
        if self._recorder is None:
            return False
        if key != self._key:
            self.forget()
            self._key = key
            return False
        return True

    def run(
        self,
        memories: Sequence[Memory],
        work: Callable[[], Any],
        read: Sequence[Memory] = (),
        blobs: Sequence[Blob] = (),
    ) -> Any:
        """Do the work, recorded. memories: all that it may write to; read: what else it looks at; blobs: whose shape or
        memory it may change.

        A replay repeats what the work did on the device. What it did on the host (bind another tensor, reshape a blob)
        is repeated here, as other passes may have undone it since. What the work did not change is left alone: it may
        be what another recording has written."""
        for memory in (*memories, *read):
            memory.upload()
        if self._replay is None:
            before = [(one, one.state()) for one in (*blobs, *memories)]
            try:
                self._result, self._replay = self._recorder(work)
            except RuntimeError as error:
                log.warning("recording.py:1", f"not recorded, so slower: {str(error).splitlines()[0]}")
                self._recorder = None
                for one, state in before:
                    one.restate(state)
                return work()
            self._states = [(one, one.state()) for one, state in before if one.state() != state]
        else:
            self._replay()
            for one, state in self._states:
                one.replayed(state)
        return self._result
