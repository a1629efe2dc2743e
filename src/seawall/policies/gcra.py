"""The token bucket, as the generic cell rate algorithm: one whole number per key.

The number is the theoretical arrival time (`tat`): the moment at which the bucket is full again. Each unit of cost moves it
one emission interval ahead; a cost passes if `tat` then lies at most `burst` intervals ahead of now. It decides exactly as
a bucket that fills evenly and as a leaky bucket used as a meter, without ever having to fill anything.
Source: ITU-T I.371 (virtual scheduling); the interval is rounded up to a whole nanosecond, which is the strict side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seawall.core.units import Limit
from seawall.policies.meter import NANO, NEVER, Meter


def period(limit: Limit) -> int:
    """The period of a limit in whole nanoseconds. Raises ValueError for one out of range."""
    if not 1e-9 <= limit.per <= 1e9:
        raise ValueError(f"per must be in [1e-9, 1e9] seconds for a rate limit; got {limit.per!r}")
    return round(limit.per * NANO)


def interval(limit: Limit) -> int:
    """Nanoseconds between two units at the limit's rate, rounded up. Raises ValueError for more than one a nanosecond."""
    length = period(limit)
    if limit.count > length:
        raise ValueError(f"count must leave a nanosecond for each call; got {limit.count} in {limit.per:g} s")
    return -(-length // limit.count)


class Gcra(Meter[int]):
    """A token bucket of `burst` units that fills at the limit's rate. Its value is `tat`.

    Admitted in any window of length W: at most rate * W + burst.
    """

    __slots__ = ("capacity", "interval", "limit", "room", "tolerance")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.capacity = self.room = limit.capacity
        self.interval = interval(limit)
        self.tolerance = limit.capacity * self.interval

    def blank(self, at: int) -> int:
        """Full since now."""
        return at

    def wait(self, value: int, at: int, cost: int) -> int:
        """Until so many units have come in."""
        if cost > self.capacity:
            return NEVER
        return max(0, value + cost * self.interval - at - self.tolerance) if cost else 0

    def spend(self, value: int, at: int, cost: int) -> int:
        """One interval ahead for each unit. `| 0` makes a copy of exact size: sums are made with a digit to spare."""
        return (max(value, at) + cost * self.interval) | 0

    def refund(self, value: int, at: int, amount: int, since: int) -> int:
        """The same intervals back, never to more than full."""
        return max(at, value - amount * self.interval)

    def remaining(self, value: int, at: int) -> int:
        """Whole units in the bucket."""
        return max(0, (self.tolerance - max(0, value - at)) // self.interval)

    def reset_after(self, value: int, at: int) -> int:
        """Until it is full."""
        return max(0, value - at)

    def drained(self, value: int, at: int) -> bool:
        """Whether it is full."""
        return value <= at

    def hold(self, value: int, at: int, until: int) -> int:
        """Empty, with its first unit at `until`."""
        return max(value, until + self.tolerance - self.interval)

    def carry(self, value: int, at: int, old: Any) -> int:
        """The same debt in units, at the new interval; debt beyond the new burst is forgiven."""
        debt: int = -(-max(0, value - at) * self.interval // old.interval)
        return at + min(debt, self.capacity * self.interval)

    def forecast(self, value: int, at: int, ahead: Iterable[int], cost: int) -> int:
        """In one step: while units are short, those ahead only ever move `tat` by what they cost."""
        return self.wait(max(value, at) + sum(ahead) * self.interval, at, cost)
