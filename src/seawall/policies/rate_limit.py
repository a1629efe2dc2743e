"""The rate limiter's rule: who may pass now, who waits his turn, who is refused; per key, under any of the algorithms.

HOT: `tat`, `queue` (truth test), `interval`, `tolerance`. A token bucket without keys lives in `tat` alone. Compiled code
admits a cost of one by a single line that loads, compares and stores without a call in between, if `queue` is empty:

    state.tat = new if (new := (tat if (tat := state.tat) > at else at) + state.interval) <= at + state.tolerance else tat

and so every write of `tat` here is one such line too: the lock does not protect against the fast path. For all other
algorithms `tolerance` is below zero, so that the line never admits. `queue` keeps its identity for life.

Waiting: a queue per key, in order of arrival. Nothing is spent for who waits, so who leaves owes nothing and those behind
move up. Every waiter sets its own clock by the moment at which its turn comes, and whoever looks first serves all whose turn
has come, so a waiter whose thread or loop is stuck holds up nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal

from seawall.core.units import Limit
from seawall.policies.fixed_window import FixedWindow
from seawall.policies.gcra import Gcra
from seawall.policies.key_table import UNKEYED, KeyTable
from seawall.policies.meter import Meter
from seawall.policies.shaper import Shaper
from seawall.policies.sliding_log import SlidingLog
from seawall.policies.sliding_window import SlidingWindow
from seawall.policies.verdict import Events, Note, Permit, Ticket, Wake

Algorithm = Literal["token_bucket", "leaky_bucket", "sliding_window", "sliding_log", "fixed_window"]
Initial = Literal["full", "empty"] | int

METERS: Final[dict[str, Callable[[Limit], Meter[Any]]]] = {
    "token_bucket": Gcra,
    "leaky_bucket": Shaper,
    "sliding_window": SlidingWindow,
    "sliding_log": SlidingLog,
    "fixed_window": FixedWindow,
}
LONGEST_HINT: Final = 60.0
"""Seconds up to which a callee's wish to be left alone is obeyed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a limiter says of one cost of one key.

    allowed: whether it passes (and was spent, unless it was only a look). remaining: whole units left after it, >= 0.
    retry_after: seconds until the same cost passes if nobody else spends; 0 when allowed, inf when it never can.
    reset_after: seconds until the key is as if nothing had been spent. limit: the limit that says so: of several, the one
    that asks for the longest wait, or leaves the least.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    limit: Limit


class Grant(Permit):
    """The right to pass, already paid. key: whose bucket paid; cost: how much; since: when, in nanoseconds."""

    __slots__ = ("cost", "events", "key", "since")
    epoch = 0

    def __init__(self, key: Hashable, cost: int, since: int) -> None:
        self.key = key
        self.cost = cost
        self.since = since
        self.events: Events = ()


class Turn(Ticket):
    """A place in a key's queue. due: when its turn comes as far as known, in nanoseconds; queued: whether it still stands."""

    __slots__ = ("due", "key", "queued")

    def __init__(self, since: float, until: float, cost: int, key: Hashable, due: int) -> None:
        super().__init__(since, until, cost)
        self.key = key
        self.due = due
        self.queued = True


class Pause(float):
    """Seconds to wait before looking again, with what looking has set in motion."""

    __slots__ = ("events",)
    events: Events

    @classmethod
    def of(cls, seconds: float, events: Events) -> Pause:
        """A pause that carries events."""
        pause = cls(seconds)
        pause.events = events
        return pause


class LimiterState:
    """One limiter. `queue` keeps its identity for life, and so does this object: compiled code binds both."""

    __slots__ = (
        "fresh",
        "interval",
        "meter",
        "overflowing",
        "queue",
        "queues",
        "table",
        "tat",
        "tolerance",
        "untold",
    )

    def __init__(self, meter: Meter[Any], max_keys: int) -> None:
        self.tat = 0
        self.queue: deque[Turn] = deque()
        self.interval = 0
        self.tolerance = -1
        self.meter = meter
        self.fresh: Any = None
        self.table = KeyTable(max_keys)
        self.queues: dict[Hashable, deque[Turn]] = {UNKEYED: self.queue}
        self.overflowing = False
        self.untold: list[Note | Wake] = []

    @property
    def waiting(self) -> int:
        """How many callers stand in all queues."""
        return sum(map(len, self.queues.values()))

    def value(self, key: Hashable) -> Any:
        """What is known of a key; of one never seen, what the limiter began with."""
        if key == UNKEYED and self.tolerance >= 0:
            return self.tat
        value = self.table.values.get(key)
        return self.meter.copy(self.fresh) if value is None else value
