"""GPU work that is recorded as a CUDA graph once and then launched as a whole.

A pass over a net is hundreds of small kernels, and launching each from Python takes longer than most of them run. A
recording launches them all at once, on the memory that they used when it was made. So the layers' feed() writes what
comes from the host (records, random numbers) to fixed addresses, and all else that may change (shapes, arrays that a
user accesses, the learning rate) is in a key: a recording is made when two runs in a row have the same key, and
dropped when the key changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from torchcaffe.base import log
from torchcaffe.core.blob import Blob
from torchcaffe.core.memory import Memory

# Does the work once, and returns its result and a function that repeats it on the same memory.
Recorder = Callable[[Callable[[], Any]], "tuple[Any, Callable[[], None]]"]


def cuda_graph(device: str, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """A Recorder, but for the first argument: the GPU, which need not be the current one."""

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    with torch.cuda.device(device):
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # thread_local: data layers' threads copy meanwhile.
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(before)  # a failed capture leaves its own stream current
    replay()
    return result, replay


class Recording:
    """One piece of work, recorded by `recorder`."""

    def __init__(self, recorder: Recorder):
        self._recorder: Recorder | None = recorder  # None after a failure
        self.forget()

    @property
    def made(self) -> bool:
        """Whether the last run was recorded or replayed."""
        return self._replay is not None

    def forget(self) -> None:
        """Drop what was recorded, and its memory."""
        self._key: Hashable = None
        self._replay: Callable[[], None] | None = None
        self._result: Any = None
        self._states: list[tuple[Blob | Memory, Any]] = []

    def ready(self, key: Hashable) -> bool:
        """Whether the last run had this key. If not, do this one without recording: it allocates what stays."""
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
        assert self._recorder is not None  # as ready() has said
        for memory in (*memories, *read):
            memory.upload()
        if self._replay is None:
            parts: list[Blob | Memory] = [*blobs, *memories]
            before = [(one, one.state()) for one in parts]
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
