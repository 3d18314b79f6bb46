"""A trainer's reaction to SIGINT, SIGHUP and SIGTERM."""

import signal
from collections.abc import Callable
from typing import Any

from torchcaffe.base.errors import CaffeError

EFFECTS = ("stop", "snapshot", "none")


class Signals:
    """A context manager in which SIGINT and SIGHUP have the given effects, like BVLC's flags, and SIGTERM (which kills
    BVLC) stops. Call it after every iteration: it returns "stop" or "snapshot" once for each signal, else None.

    A second SIGINT or SIGTERM after one that stops raises KeyboardInterrupt at once. `told` is called from the handler
    with the effect. `status` is the exit status of a program that was stopped."""

    def __init__(self, sigint: str, sighup: str, told: Callable[[str], None] = lambda effect: None):
        for name, effect in (("sigint", sigint), ("sighup", sighup)):
            if effect not in EFFECTS:
                raise CaffeError(f"-{name}_effect {effect}: give one of {', '.join(EFFECTS)}")
        # SIGHUP first: BVLC checks it before SIGINT.
        self.effects: dict[int, str] = {signal.SIGHUP: sighup, signal.SIGINT: sigint, signal.SIGTERM: "stop"}
        self.arrived: set[int] = set()
        self.stopped_by = 0
        self.told = told

    @property
    def status(self) -> int:
        return 128 + self.stopped_by

    def __enter__(self) -> "Signals":
        self.before: dict[int, Any] = {number: signal.signal(number, self._handle) for number in self.effects}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        effect = self.effects[number]
        if effect == "stop":
            if self.stopped_by and number != signal.SIGHUP:
                raise KeyboardInterrupt
            self.stopped_by = number
        self.arrived.add(number)
        self.told(effect)

    def __call__(self) -> str | None:
        for number in self.effects:
            if number in self.arrived:
                self.arrived.discard(number)
                effect = self.effects[number]
                return None if effect == "none" else effect
        return None
