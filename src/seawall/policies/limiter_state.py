"""What one rate limiter knows, and the words of its answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from seawall.core.units import Limit
from seawall.policies.key_table import UNKEYED, KeyTable
from seawall.policies.meter import Meter
from seawall.policies.verdict import Events, Note, Permit, Ticket, Wake


@dataclass(frozen=True, slots=True)
class Decision:
    """What a limiter says of one cost of one key.

    allowed: whether it passes (and was spent, unless it was only a look). remaining: whole units left, >= 0.
    retry_after: seconds until the same cost passes if nobody else spends; 0 when allowed, inf when it never can.
    reset_after: seconds until the key is as if nothing had been spent. limit: the limit that says so: of several, the one
    that asks for the longest wait, or leaves the least. level: that limit's level in a hierarchy, else None.
    degraded: whether it was decided without the store that processes share.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    limit: Limit
    level: str | None = None
    degraded: bool = False


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
    """One limiter. `queue` keeps its identity for life, and so does this object: compiled code binds both.

    tat, interval, tolerance, slack: the bucket of calls without a key, in nanoseconds, when the algorithm is one token bucket,
    with slack = tolerance - interval; for all others tolerance is -1 and that bucket stands in the table. fresh: the value of
    keys never seen. The rule's `begin` gives all of these their first values. overflowing: whether new keys share a bucket.
    closed: whether a key's bucket may only be touched under the lock now, see `at_once`; plain: it always is.
    untold: events that the answer of a fast verb could not carry; the next one that can, does.
    """

    __slots__ = (
        "closed",
        "fresh",
        "interval",
        "meter",
        "overflowing",
        "plain",
        "queue",
        "queues",
        "slack",
        "table",
        "tat",
        "tolerance",
        "untold",
    )

    tat: int
    interval: int
    tolerance: int
    slack: int

    def __init__(self, meter: Meter[Any], max_keys: int) -> None:
        self.queue: deque[Turn] = deque()
        self.meter = meter
        self.fresh: Any = None
        self.queues: dict[Hashable, deque[Turn]] = {}
        self.table = KeyTable(max_keys, pinned=self.queues)
        self.overflowing = False
        self.closed = self.plain = True
        self.untold: list[Note | Wake] = []

    def reopen(self) -> None:
        """The lock is about to be let go: from now on `at_once` may spend, unless somebody waits for a key."""
        self.closed = self.plain or bool(self.queues)

    @property
    def waiting(self) -> int:
        """How many callers stand in all queues."""
        return len(self.queue) + sum(map(len, self.queues.values()))

    def line(self, key: Hashable) -> deque[Turn] | None:
        """The queue of a key; None when a key of the table has none."""
        return self.queue if key == UNKEYED else self.queues.get(key)

    def value(self, key: Hashable) -> Any:
        """What is known of a key; of one never seen, what the limiter began with."""
        if key == UNKEYED and self.tolerance >= 0:
            return self.tat
        value = self.table.values.get(key)
        return self.meter.copy(self.fresh) if value is None else value
