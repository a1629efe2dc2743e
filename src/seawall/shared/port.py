"""The port to a store: steps of limiters as asks, decided in order, each all or nothing.

A store is small and knows the algorithms by itself: it gets the limits with every ask and keeps no configuration, so limits
may change at any time. `MemoryStore` runs the rules of policies/; `RedisStore` runs the same ones in a script on the server.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

from seawall.core.units import Limit
from seawall.policies.gcra import Gcra, period
from seawall.policies.meter import Meter
from seawall.policies.rate_limit import METERS
from seawall.policies.shaper import Shaper
from seawall.shared.quota import CalendarWindow, Quota

PEEK, TAKE, CHARGE, HOLD, RESET, LEASE = range(6)
CODES: Final = {"token_bucket": 1, "leaky_bucket": 2, "sliding_window": 3, "sliding_log": 4, "fixed_window": 5}
CALENDAR: Final = 6
LARGEST: Final = 1 << 52
"""The largest number a script counts with exactly, with a digit to spare."""
MICRO: Final = 1_000_000


class StoreDown(Exception):
    """The store did not answer as it should: not reachable, too slow, or with an error. The message says which."""


class Answer(NamedTuple):
    """What the store says of one ask.

    granted: 1 or 0 for a take or peek; for a lease, how many units. wait: microseconds until it would pass, -1 = never.
    remaining: whole units left. reset: microseconds until it is as new. binding: the part that says so. at: the store's time.
    degraded: whether it was decided without the store.
    """

    granted: int
    wait: int
    remaining: int
    reset: int
    binding: int
    at: int
    degraded: bool = False


class Part(NamedTuple):
    """One limit in a program. code: its algorithm and numbers for the script; meter: the rule itself."""

    limit: Limit
    meter: Meter[Any]
    code: bytes
    level: str | None = None


class Program(NamedTuple):
    """The limits that are decided together; their keys come with the ask. local: a process's share of them for an outage."""

    parts: tuple[Part, ...]
    code: bytes
    local: Program | None = None


@dataclass(slots=True)
class Ask:
    """One step: a verb on some keys under a program. x, y: see the verbs in lua/step.lua. waits: whether a refusal stands in
    line, so that nobody of the same batch overtakes it. own: what the caller of a lease wants for itself."""

    verb: int
    keys: tuple[str, ...]
    program: Program
    cost: int = 1
    x: int = 0
    y: int = 0
    waits: bool = False
    own: int = 0

    def packed(self) -> bytes:
        """As the script wants it."""
        head = _HEAD.pack(self.verb, self.cost, self.x, self.y, self.waits, len(self.keys))
        return head + self.program.code


Done = Callable[["Answer | StoreDown"], object]


class Store(Protocol):
    """What limiters need of a store. at_once: whether it answers without waiting for anybody, so that a loop may ask it."""

    at_once: bool
    name: str

    def ask(self, ask: Ask) -> Answer:
        """One step, for threads. Raises StoreDown."""
        ...

    def submit(self, ask: Ask, done: Done) -> None:
        """One step, for the running event loop: `done` is called there with the answer or a StoreDown."""
        ...

    def ask_all(self, asks: Sequence[Ask]) -> list[Answer]:
        """Several steps in order, for threads. Raises StoreDown."""
        ...


_HEAD: Final = struct.Struct(">dddddd")
_PART: Final = struct.Struct(">ddddddd")


def part(limit: Limit, algorithm: str, *, now: float, level: str | None = None) -> Part:
    """One limit under one algorithm, for a store. now: seconds of the wall clock, for a calendar's windows.

    Raises ValueError for a limit that a script could not count exactly.
    """
    if isinstance(limit, Quota):
        window = CalendarWindow(limit, limit.bounds(now))
        numbers = (CALENDAR, limit.count, *(bound // 1000 for bound in window.bounds))
        return Part(limit, window, _PART.pack(*numbers, 0), level)
    meter = METERS[algorithm](limit)
    if isinstance(meter, Gcra):
        return Part(limit, meter, _PART.pack(CODES[algorithm], *_bucket(meter), 0, 0, 0), level)
    length = period(limit) // 1000
    if length < 1 or length * 2 > LARGEST or limit.count > 1e9:
        raise ValueError(f"spec must have a period from a microsecond to 70 years and a count of at most 1e9; got {limit}")
    return Part(limit, meter, _PART.pack(CODES[algorithm], limit.count, length, 0, 0, 0, 0), level)


def program(parts: Sequence[Part], local: Program | None = None) -> Program:
    """The limits that are decided together."""
    return Program(tuple(parts), b"".join(each.code for each in parts), local)


def narrowed(limit: Limit, share: float) -> Limit:
    """The limit with `share` of what may pass at once: at least one unit. The rate stays the same where there is a burst."""
    if isinstance(limit, Quota):
        return replace(limit, count=max(1, int(limit.count * share)))
    return replace(limit, burst=max(1, int(limit.capacity * share)))


def capped(limit: Limit, share: float) -> Limit:
    """The limit with `share` of its count, for algorithms without a burst."""
    count = max(1, int(limit.count * share))
    return replace(limit, count=count) if isinstance(limit, Quota) else replace(limit, count=count, burst=count)


def divided(limit: Limit, by: int, algorithm: str) -> Limit:
    """A share of the limit for one of `by` processes that decide on their own."""
    if isinstance(limit, Quota) or algorithm not in ("token_bucket", "leaky_bucket"):
        return capped(limit, 1 / by)
    return replace(limit, per=limit.per * by, burst=max(1, limit.capacity // by))


def _bucket(meter: Gcra) -> tuple[int, int, int]:
    """Interval, tolerance and units per microsecond: nanoseconds, or microseconds where those would not fit."""
    if meter.tolerance <= LARGEST:
        return meter.interval, meter.tolerance, 1000
    interval = -(-meter.interval // 1000)
    tolerance = interval * meter.capacity
    if tolerance > LARGEST:
        raise ValueError(f"spec must fill its burst within 140 years to be shared; got {meter.limit}")
    return interval, tolerance, 1


def is_bucket(each: Part) -> bool:
    """Whether a part is a token bucket, which can be leased from."""
    return type(each.meter) is Gcra and not isinstance(each.meter, Shaper)
