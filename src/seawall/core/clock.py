"""Time and chance, as one object that is handed in. The virtual clock and the simulator are just other clocks.

`monotonic` is for every length and deadline: it never jumps, and means nothing in another process. `wall` is the time
of day, for people, files and other machines: it may jump either way. No rule ever reads either; it is given `now`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.core.runtime import AsyncPort, ThreadPort


class Clock(ABC):
    """What a clock offers. Give one as `clock=` to a pipeline or policy; the default is the system's.

    random: a seedable source of chance for jitter; reseeded in a forked child.
    """

    random: random.Random

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that only grow, from an unknown start."""

    @abstractmethod
    def wall(self) -> float:
        """Seconds since 1970 in UTC; may jump."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""

    @abstractmethod
    async def asleep(self, seconds: float) -> None:
        """Suspend this task for `seconds`."""

    def wait(self, flag: threading.Event, seconds: float | None) -> bool:
        """Block this thread until `flag` is set or `seconds` have passed; whether it is set."""
        return flag.wait(seconds)

    def job(self) -> AbstractContextManager[object]:
        """One piece of work that a worker thread will do: made by who hands it out, entered by the thread. A virtual clock
        does not jump while such work runs."""
        return nullcontext()

    @property
    def threads(self) -> ThreadPort:
        """The runtime port of sync code on this clock, made once."""
        port: ThreadPort | None = self.__dict__.get("_threads")
        if port is None:
            from seawall.core.runtime import ThreadPort

            port = self.__dict__["_threads"] = ThreadPort(self)
        return port

    @property
    def tasks(self) -> AsyncPort:
        """The runtime port of async code on this clock, made once, with asyncio loaded at its first use."""
        port: AsyncPort | None = self.__dict__.get("_tasks")
        if port is None:
            port = self.__dict__["_tasks"] = self._make_tasks()
        return port

    def _make_tasks(self) -> AsyncPort:
        from seawall.core.runtime_asyncio import AsyncioPort

        return AsyncioPort(self)


class SystemClock(Clock):
    """The machine's own time, and a random source of its own.

    seed: makes the jitter repeatable; default None = seeded by the operating system, anew in a forked child.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self.random = random.Random(seed)
        if seed is None:
            reseeded_after_fork(self.random)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970 in UTC; may jump."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Suspend this task."""
        import asyncio

        await asyncio.sleep(seconds)


def reseeded_after_fork(source: random.Random) -> None:
    """Let forked children draw their own numbers: without it every worker would jitter in step with its siblings."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=source.seed)


_SYSTEM = SystemClock()
_override: Clock | None = None
_on_override: list[Callable[[], object]] = []
system_ticks: Callable[[], int] = time.monotonic_ns
"""Now, in whole nanoseconds, on the system's clock or the one in its place. Read it here at every use: `override` changes it."""


def default() -> Clock:
    """The clock of everything that was given none: the system's, unless a test put another one in its place."""
    return _override or _SYSTEM


def resolve(own: Clock | None) -> Clock:
    """The clock to use for what was given `own`: a test's clock takes the place of the system's, never of another's."""
    if own is None or (_override is not None and isinstance(own, SystemClock)):
        return _override or _SYSTEM
    return own


def ticks(own: Clock | None) -> int:
    """Now, in whole nanoseconds, on the clock to use for what was given `own`."""
    return system_ticks() if own is None else int(resolve(own).monotonic() * 1e9)


def override(clock: Clock | None) -> Clock | None:
    """Put `clock` in the place of every system clock of this process (None = no more); the one before comes back."""
    global _override, system_ticks
    before, _override = _override, clock
    system_ticks = time.monotonic_ns if clock is None else lambda: int(clock.monotonic() * 1e9)
    for callback in _on_override:
        callback()
    return before


def on_override(callback: Callable[[], object]) -> None:
    """Call `callback` whenever a test puts another clock in the place of the system's, or takes it away."""
    _on_override.append(callback)
