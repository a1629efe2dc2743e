"""The sliding log: the moment of every call of the last period. Exact, and the only one whose memory grows with the calls."""

from __future__ import annotations

from collections import deque

from seawall.core.units import Limit
from seawall.policies.fixed_window import refuse_burst
from seawall.policies.gcra import period
from seawall.policies.meter import NEVER, Meter


class Log:
    """What is known of a key: (moment, cost) of what was spent, oldest first; their sum; until when nothing passes."""

    __slots__ = ("entries", "held", "used")

    def __init__(self, held: int) -> None:
        self.entries: deque[tuple[int, int]] = deque()
        self.used = 0
        self.held = held


class SlidingLog(Meter[Log]):
    """`count` in the last `per`, exactly: what was spent at the moment t counts until just before t + per.

    Admitted in any span of length `per`, its end not included: at most count. At most `count` entries per key.
    """

    __slots__ = ("capacity", "length", "limit", "room")

    def __init__(self, limit: Limit) -> None:
        refuse_burst(limit, "sliding_log")
        self.limit = limit
        self.capacity = self.room = limit.count
        self.length = period(limit)

    def blank(self, at: int) -> Log:
        """Nothing spent."""
        return Log(at)

    def wait(self, value: Log, at: int, cost: int) -> int:
        """Until enough of the oldest entries are too old."""
        if cost > self.capacity:
            return NEVER
        self._forget(value, at)
        moment, excess = max(at, value.held), value.used + cost - self.capacity
        for spent_at, amount in value.entries:
            if excess <= 0:
                break
            excess -= amount
            moment = max(moment, spent_at + self.length)
        return moment - at if cost else 0

    def spend(self, value: Log, at: int, cost: int) -> Log:
        """One more entry, or a larger one when time stands still."""
        self._forget(value, at)
        entries = value.entries
        if entries and entries[-1][0] >= at:
            at, before = entries.pop()
            entries.append((at, before + cost))
        elif cost:
            entries.append((at, cost))
        value.used += cost
        return value

    def refund(self, value: Log, at: int, amount: int, since: int) -> Log:
        """Out of the entry of its moment, if that one still counts."""
        self._forget(value, at)
        if since <= at - self.length:
            return value
        for index, (spent_at, spent) in enumerate(value.entries):
            if spent_at >= since:
                back = min(amount, spent)
                value.used -= back
                value.entries[index] = (spent_at, spent - back)
                if back == spent:
                    del value.entries[index]
                break
        return value

    def remaining(self, value: Log, at: int) -> int:
        """The count, less what was spent in the last period."""
        self._forget(value, at)
        return 0 if value.held > at else max(0, self.capacity - value.used)

    def reset_after(self, value: Log, at: int) -> int:
        """Until the newest entry is too old."""
        self._forget(value, at)
        end = value.entries[-1][0] + self.length if value.entries else at
        return max(end, value.held) - at

    def hold(self, value: Log, at: int, until: int) -> Log:
        """Nothing passes before `until`."""
        value.held = max(value.held, until)
        return value

    def carry(self, value: Log, at: int, old: SlidingLog) -> Log:
        """The entries stay what they are."""
        old._forget(value, at)
        return value

    def copy(self, value: Log) -> Log:
        """A log of its own."""
        log = Log(value.held)
        log.entries.extend(value.entries)
        log.used = value.used
        return log

    def _forget(self, value: Log, at: int) -> None:
        entries, too_old = value.entries, at - self.length
        while entries and entries[0][0] <= too_old:
            value.used -= entries.popleft()[1]
