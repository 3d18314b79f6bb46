"""The smoothed loss of Caffe's log."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy import float32

Window = tuple[list[float32], float32, int]  # the losses of the mean, the mean, how many losses there were


class SmoothedLoss:
    """The mean of the last `average` losses, updated in float, as BVLC's UpdateSmoothedLoss.

    Losses stay on their device until somebody asks for the mean: a GPU need not be waited for in each iteration."""

    def __init__(self, average: int):
        self._average = average
        self._next: Window | None = None
        self._losses: list[float32]
        self._mean: float32
        self.start()

    def start(self) -> None:
        """Begin a run: without losses, or where resume() says."""
        self._losses, self._mean, self._seen = self._next or ([], float32(0), 0)
        self._next = None
        self._unread: deque[Any] = deque()

    def resume(self, window: Window) -> None:
        """Let the next run go on from another run's window()."""
        self._next = window

    def add(self, loss: Any) -> None:
        """Take an iteration's loss."""
        self._unread.append(loss)
        if len(self._unread) > 1000:
            self.mean()

    def mean(self) -> float:
        """The smoothed loss."""
        while self._unread:
            loss, size = float32(float(self._unread.popleft())), float32(len(self._losses) + 1)
            with np.errstate(all="ignore"):
                if len(self._losses) < self._average:
                    self._losses.append(loss)
                    self._mean = (self._mean * (size - float32(1)) + loss) / size
                else:
                    slot = self._seen % self._average
                    self._mean += (loss - self._losses[slot]) / float32(self._average)
                    self._losses[slot] = loss
            self._seen += 1
        return float(self._mean)

    def window(self) -> Window:
        """The state of the smoothed loss."""
        self.mean()
        return list(self._losses), self._mean, self._seen
