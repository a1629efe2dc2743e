"""What every rate limit algorithm answers about one key: how long to wait, what spending and giving back make of it.

A meter is frozen and holds one limit; what it knows of a key is a small value that the limiter keeps. Time is whole
nanoseconds inside: with float seconds the last unit of a full burst was lost for about every third combination of rate,
period and clock that was tried. Moments that seem to lie before the newest one a value has seen are read as that one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

from seawall.core.units import Limit

V = TypeVar("V")

NANO: Final = 1_000_000_000
END: Final = 1 << 126
"""The moment, in nanoseconds, of a caller that waits for ever."""
NEVER: Final = 1 << 127
"""The wait of what can never pass: longer than for ever."""


def nanoseconds(moment: float) -> int:
    """A moment in whole nanoseconds, rounded down, so that a later moment is never the smaller one."""
    return END if moment == math.inf else int(moment * 1e9)


def seconds_until(now: float, moment: int) -> float:
    """Seconds from `now` until the clock shows `moment` (nanoseconds): so exact that asking then is not a moment early.

    0 when it has passed; inf for a wait that never ends.
    """
    if moment >= END:
        return math.inf
    pause = max(0, moment - nanoseconds(now)) / NANO
    while nanoseconds(now + pause) < moment:  # the sum may round down; a step of the last place settles it
        pause += math.ulp(now + pause)
    return pause


class Meter(ABC, Generic[V]):
    """One limit under one algorithm. All moments and lengths are whole nanoseconds; costs are whole and >= 0.

    limit: the limit it keeps. capacity: the largest cost that can ever pass. room: how much a fresh key may spend at once.
    """

    __slots__ = ()
    limit: Limit
    capacity: int
    room: int

    @abstractmethod
    def blank(self, at: int) -> V:
        """The value of a key that has spent nothing."""

    @abstractmethod
    def wait(self, value: V, at: int, cost: int) -> int:
        """How long until `cost` fits if nobody else spends: 0 = it fits now, NEVER = it is above the capacity."""

    @abstractmethod
    def spend(self, value: V, at: int, cost: int) -> V:
        """The value once `cost` is spent, whether or not it fits: what does not fit becomes debt."""

    @abstractmethod
    def refund(self, value: V, at: int, amount: int, since: int) -> V:
        """The value once `amount` > 0, spent at the moment `since`, is given back."""

    @abstractmethod
    def remaining(self, value: V, at: int) -> int:
        """How many units could be spent now."""

    @abstractmethod
    def reset_after(self, value: V, at: int) -> int:
        """How long until the value is as if nothing had ever been spent."""

    @abstractmethod
    def hold(self, value: V, at: int, until: int) -> V:
        """The value of a key that is to pass nothing before `until`."""

    @abstractmethod
    def carry(self, value: V, at: int, old: Any) -> V:
        """The value under this meter of what was counted under `old`, one of the same algorithm with another limit."""

    def drained(self, value: V, at: int) -> bool:
        """Whether the value says no more than a blank one: only then may the key be forgotten."""
        return self.reset_after(value, at) <= 0

    def begin(self, at: int, initial: int | None) -> V:
        """The value of a key that may spend `initial` units at once; None = all there is room for."""
        value = self.blank(at)
        return value if initial is None else self.spend(value, at, self.room - initial)

    def copy(self, value: V) -> V:
        """A value that may be spent from without changing this one. Most are immutable, and their own copies."""
        return value

    def binding(self, value: V, at: int, cost: int) -> tuple[int, Limit]:
        """The wait for `cost`, and the limit that asks for it."""
        return self.wait(value, at, cost), self.limit

    def tightest(self, value: V, at: int) -> Limit:
        """The limit that leaves the least."""
        return self.limit

    def forecast(self, value: V, at: int, ahead: Iterable[int], cost: int) -> int:
        """How long `cost` waits behind the costs that stand in line before it: each passes as soon as it fits, in order."""
        moment, value = at, self.copy(value)
        for each in ahead:
            moment += self.wait(value, moment, each)
            value = self.spend(value, moment, each)
        return moment + self.wait(value, moment, cost) - at


class Together(Meter[tuple[Any, ...]]):
    """Several limits decided as one: a cost passes when it fits all of them, and is spent from all or from none."""

    __slots__ = ("capacity", "limit", "parts", "room")

    def __init__(self, parts: tuple[Meter[Any], ...]) -> None:
        self.parts = parts
        self.limit = parts[0].limit
        self.capacity = min(part.capacity for part in parts)
        self.room = min(part.room for part in parts)

    def blank(self, at: int) -> tuple[Any, ...]:
        """Blank in every part."""
        return tuple(part.blank(at) for part in self.parts)

    def wait(self, value: tuple[Any, ...], at: int, cost: int) -> int:
        """The longest wait of all parts: what fits once goes on fitting while nobody spends."""
        return max(part.wait(own, at, cost) for part, own in self._pairs(value))

    def spend(self, value: tuple[Any, ...], at: int, cost: int) -> tuple[Any, ...]:
        """Spent from every part."""
        return tuple(part.spend(own, at, cost) for part, own in self._pairs(value))

    def refund(self, value: tuple[Any, ...], at: int, amount: int, since: int) -> tuple[Any, ...]:
        """Given back to every part."""
        return tuple(part.refund(own, at, amount, since) for part, own in self._pairs(value))

    def remaining(self, value: tuple[Any, ...], at: int) -> int:
        """What the tightest part leaves."""
        return min(part.remaining(own, at) for part, own in self._pairs(value))

    def reset_after(self, value: tuple[Any, ...], at: int) -> int:
        """Until the slowest part is as new."""
        return max(part.reset_after(own, at) for part, own in self._pairs(value))

    def hold(self, value: tuple[Any, ...], at: int, until: int) -> tuple[Any, ...]:
        """Held in every part."""
        return tuple(part.hold(own, at, until) for part, own in self._pairs(value))

    def carry(self, value: tuple[Any, ...], at: int, old: Any) -> tuple[Any, ...]:
        """Carried over part by part; both must have as many."""
        pairs = zip(self.parts, value, old.parts, strict=True)
        return tuple(part.carry(own, at, before) for part, own, before in pairs)

    def begin(self, at: int, initial: int | None) -> tuple[Any, ...]:
        """Begun in every part."""
        return tuple(part.begin(at, initial) for part in self.parts)

    def copy(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        """Copied in every part."""
        return tuple(part.copy(own) for part, own in self._pairs(value))

    def binding(self, value: tuple[Any, ...], at: int, cost: int) -> tuple[int, Limit]:
        """The longest wait, and whose it is."""
        waits = [(part.wait(own, at, cost), part.limit) for part, own in self._pairs(value)]
        return max(waits, key=lambda pair: pair[0])

    def tightest(self, value: tuple[Any, ...], at: int) -> Limit:
        """The limit of the part that leaves the least."""
        return min(self._pairs(value), key=lambda pair: pair[0].remaining(pair[1], at))[0].limit

    def _pairs(self, value: tuple[Any, ...]) -> zip[tuple[Meter[Any], Any]]:
        return zip(self.parts, value, strict=True)
