"""Ways to run policies in a test: without waiting, switched off, or listened to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from seawall.core import clock as clocks
from seawall.core.events import Event, everywhere
from seawall.pipeline import registry
from seawall.pipeline.switch import SWITCH
from seawall.testing.clock import VirtualClock


class _RecordingClock(VirtualClock):
    """Virtual time that writes down every wait."""

    def __init__(self, start: float) -> None:
        super().__init__(start=start)
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        super().sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await super().asleep(seconds)


@contextmanager
def instant() -> Iterator[list[float]]:
    """Inside, nothing really waits. Yields the list of the waits between attempts that would have been made, in seconds.

    Time still passes by as much, so deadlines and open times mean what they say. Policies keep their state.
    """
    clock = _RecordingClock(clocks.default().monotonic())
    before = clocks.override(clock)
    try:
        yield clock.waits
    finally:
        clocks.override(before)
        clock.release()


@contextmanager
def off() -> Iterator[None]:
    """Inside, policies pass every call straight through: no retries, no refusals, no limits."""
    before = SWITCH.off
    SWITCH.turn(off=True)
    try:
        yield
    finally:
        SWITCH.turn(off=before)


@contextmanager
def capture_events(prefix: str = "") -> Iterator[list[Event]]:
    """Yields a list that fills with the events of every policy in this process whose kind begins with `prefix`."""
    events: list[Event] = []
    lock = threading.Lock()

    def keep(event: Event) -> None:
        if event.kind.startswith(prefix):
            with lock:
                events.append(event)

    end = everywhere.add(keep)
    try:
        yield events
    finally:
        end()


@contextmanager
def virtual_time(seed: int = 0) -> Iterator[VirtualClock]:
    """Inside, every policy of this process lives on a fresh virtual clock with fresh state, those built at import too."""
    clock = VirtualClock(seed=seed)
    before = clocks.override(clock)
    registry.restart_all()
    try:
        yield clock
    finally:
        clocks.override(before)
        clock.release()
        registry.restart_all()
