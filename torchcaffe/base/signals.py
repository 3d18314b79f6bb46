"""What a trainer does at SIGINT, SIGHUP and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable

from torchcaffe.base.errors import CaffeError

EFFECTS = ("stop", "snapshot", "none")


class Signals:
    """While entered, SIGINT and SIGHUP have the effects given, as with BVLC's flags, and SIGTERM (which ends BVLC at
    once) stops: called after every iteration, it says "stop" or "snapshot", once each time one comes, or None.

    A second SIGINT or SIGTERM after one that stops is not waited for: it raises KeyboardInterrupt where the program is.
    `told` is called from the handler with the effect. `status` is what a program that was stopped exits with."""

    def __init__(self, sigint: str, sighup: str, told: Callable[[str], None] = lambda effect: None):
        for name, effect in (("sigint", sigint), ("sighup", sighup)):
            if effect not in EFFECTS:
                raise CaffeError(f"-{name}_effect {effect}: give one of {', '.join(EFFECTS)}")
        # SIGHUP (1) before SIGINT (2), as BVLC looks.
        self.effects = {signal.SIGHUP: sighup, signal.SIGINT: sigint, signal.SIGTERM: "stop"}
        self.arrived: set[int] = set()
        self.stopped_by = 0
        self.told = told

    @property
    def status(self) -> int:
        return 128 + self.stopped_by

    def __enter__(self) -> Signals:
        self.before = {number: signal.signal(number, self._handle) for number in self.effects}
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
