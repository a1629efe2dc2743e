"""How much of a rate is spent: one key's account under one limit, by five algorithms. Time is whole nanoseconds.

Each meter answers the same questions of a state: `look` (how long until `cost` fits), `spend`, `refund`, `remaining`,
`reset_after`, `drained` (is it as if never seen). States are values: `spend` and `refund` return the next one.
Floats lose the last unit of a full burst for a third of all rates; integers for none (measured).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final

from seawall.core.units import Limit

NS: Final = 1_000_000_000


@dataclass(frozen=True)
class Meter(ABC):
    """One limit under one algorithm. capacity: the largest cost that can ever pass at once."""

    limit: Limit

    @property
    def period(self) -> int:
        """The limit's period in nanoseconds."""
        return max(1, round(self.limit.per * NS))

    @property
    def capacity(self) -> int:
        """The largest cost that can ever pass."""
        return self.limit.count

    @abstractmethod
    def fresh(self, now: int, filled: int) -> Any:
        """The state of a key never seen, with `filled` of its capacity to spend."""

    @abstractmethod
    def look(self, state: Any, now: int, cost: int) -> int:
        """Nanoseconds until `cost` fits, 0 = now. For more than the capacity: a lower bound, for sums of a queue."""

    @abstractmethod
    def spend(self, state: Any, now: int, cost: int) -> Any:
        """The state after `cost` was spent, whether it fitted or not."""

    @abstractmethod
    def refund(self, state: Any, now: int, cost: int) -> Any:
        """The state after `cost` was given back."""

    @abstractmethod
    def remaining(self, state: Any, now: int) -> int:
        """What could be spent at once now."""

    @abstractmethod
    def reset_after(self, state: Any, now: int) -> int:
        """Nanoseconds until everything could be spent at once."""

    def drained(self, state: Any, now: int) -> bool:
        """Whether forgetting this state would change no answer."""
        return self.reset_after(state, now) <= 0


@dataclass(frozen=True)
class TokenBucket(Meter):
    """GCRA: the state is the theoretical arrival time (TAT), one integer. Leaky bucket as a meter is the same machine.

    Source: ITU-T I.371. Over any time t it admits at most burst + t * rate.
    """

    def __post_init__(self) -> None:
        # rounded up, the strict side; kept, because it is read at every decision
        object.__setattr__(self, "interval", -(-self.period // self.limit.count))
        object.__setattr__(self, "tau", self.capacity * self.interval)

    interval: int = 0
    tau: int = 0

    @property
    def capacity(self) -> int:
        """The burst."""
        return self.limit.capacity

    def fresh(self, now: int, filled: int) -> int:
        """TAT as if `capacity - filled` had just been spent."""
        return now + (self.capacity - filled) * self.interval

    def look(self, state: int, now: int, cost: int) -> int:
        """How far the new TAT would reach beyond the burst."""
        return max(0, (state if state > now else now) + cost * self.interval - now - self.tau)

    def spend(self, state: int, now: int, cost: int) -> int:
        """Push the TAT forward."""
        return (state if state > now else now) + cost * self.interval

    def refund(self, state: int, now: int, cost: int) -> int:
        """Pull the TAT back, never into the past, where it would say nothing."""
        return max(now, state - cost * self.interval)

    def remaining(self, state: int, now: int) -> int:
        """Whole tokens."""
        return max(0, (self.tau - max(0, state - now)) // self.interval)

    def reset_after(self, state: int, now: int) -> int:
        """Until the bucket is full."""
        return max(0, state - now)


@dataclass(frozen=True)
class LeakyBucket(Meter):
    """The shaper: calls leave one by one, evenly spaced; what comes earlier waits in line. The burst is the line's length."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", -(-self.period // self.limit.count))

    interval: int = 0

    @property
    def capacity(self) -> int:
        """The longest line."""
        return self.limit.capacity

    def fresh(self, now: int, filled: int) -> int:
        """The moment the next call may leave: now, or later when the line begins full."""
        return now + (self.capacity - filled) * self.interval

    def look(self, state: int, now: int, cost: int) -> int:
        """Until the ones before have left; what follows the first unit only spaces those behind."""
        return max(0, state - now) + (max(0, cost - self.capacity) * self.interval)

    def spend(self, state: int, now: int, cost: int) -> int:
        """The next may leave `cost` intervals later."""
        return max(state, now) + cost * self.interval

    def refund(self, state: int, now: int, cost: int) -> int:
        """The next may leave earlier again."""
        return max(now, state - cost * self.interval)

    def remaining(self, state: int, now: int) -> int:
        """One, when a call could leave now."""
        return int(state <= now)

    def reset_after(self, state: int, now: int) -> int:
        """Until a call could leave."""
        return max(0, state - now)


Window = tuple[int, int, int]
"""(index of the window, spent in it, spent in the one before)."""


@dataclass(frozen=True)
class FixedWindow(Meter):
    """A count per window of the clock. Cheap and calendar-like; around a window's edge up to twice the count may pass."""

    def fresh(self, now: int, filled: int) -> Window:
        """A window in which the rest is spent."""
        return now // self.period, self.capacity - filled, 0

    def _turned(self, state: Window, now: int) -> Window:
        index = now // self.period
        if index == state[0]:
            return state
        return index, 0, state[1] if index == state[0] + 1 else 0

    def look(self, state: Window, now: int, cost: int) -> int:
        """Until the window with enough room begins."""
        index, spent, _ = self._turned(state, now)
        if spent + cost <= self.capacity:
            return 0
        full = max(1, -(-(spent + cost) // self.capacity) - 1) if cost > self.capacity else 1
        return (index + full) * self.period - now

    def spend(self, state: Window, now: int, cost: int) -> Window:
        """Count it."""
        index, spent, before = self._turned(state, now)
        return index, spent + cost, before

    def refund(self, state: Window, now: int, cost: int) -> Window:
        """Take it back; what was spent in a window that is over stays spent there."""
        index, spent, before = self._turned(state, now)
        return index, max(0, spent - cost), before

    def remaining(self, state: Window, now: int) -> int:
        """What the window has left."""
        return max(0, self.capacity - self._turned(state, now)[1])

    def reset_after(self, state: Window, now: int) -> int:
        """Until the next window, when anything was spent in this one."""
        index, spent, _ = self._turned(state, now)
        return (index + 1) * self.period - now if spent else 0


@dataclass(frozen=True)
class SlidingWindow(FixedWindow):
    """Two counters: this window's, and the last one's by the share of it that is still in sight.

    Over any window of the period it admits at most 4/3 of the count, and the count itself for even traffic.
    """

    def _used(self, state: Window, now: int) -> int:
        """Spent in sight, times the period, so that no rounding takes part."""
        index, spent, before = self._turned(state, now)
        return spent * self.period + before * (self.period - (now - index * self.period))

    def look(self, state: Window, now: int, cost: int) -> int:
        """Until enough of the last window is out of sight, in this window or in the next."""
        index, spent, before = self._turned(state, now)
        room = self.capacity - spent - cost
        if self._used((index, spent, before), now) + cost * self.period <= self.capacity * self.period:
            return 0
        begins = index * self.period
        if room >= 0:  # before > 0 here: when a share room/before of the last window is left in sight
            return max(1, begins + self.period - room * self.period // before - now)
        room = max(0, self.capacity - cost)  # in the next window this one is the last
        return max(1, begins + 2 * self.period - (room * self.period // spent if spent else self.period) - now)

    def remaining(self, state: Window, now: int) -> int:
        """What fits at once now."""
        return max(0, (self.capacity * self.period - self._used(state, now)) // self.period)

    def reset_after(self, state: Window, now: int) -> int:
        """Until nothing is in sight."""
        index, spent, before = self._turned(state, now)
        if spent:
            return (index + 2) * self.period - now
        return (index + 1) * self.period - now if before else 0


Log = tuple[tuple[int, int], ...]
"""Admissions in sight as (moment, cost), oldest first."""


@dataclass(frozen=True)
class SlidingLog(Meter):
    """Every admission in sight is remembered: exact over every window, at the price of memory per admission."""

    def fresh(self, now: int, filled: int) -> Log:
        """As if the rest had been spent just now."""
        return ((now, self.capacity - filled),) if filled < self.capacity else ()

    def _seen(self, state: Log, now: int) -> Log:
        return tuple(entry for entry in state if entry[0] > now - self.period)

    def look(self, state: Log, now: int, cost: int) -> int:
        """Until enough of the oldest admissions are out of sight."""
        seen = self._seen(state, now)
        over = sum(spent for _, spent in seen) + min(cost, self.capacity) - self.capacity
        for moment, spent in seen:
            if over <= 0:
                break
            over -= spent
            if over <= 0:
                return moment + self.period - now
        return self.period * ((cost - 1) // self.capacity) if cost > self.capacity else 0

    def spend(self, state: Log, now: int, cost: int) -> Log:
        """Write it down."""
        return (*self._seen(state, now), (now, cost))

    def refund(self, state: Log, now: int, cost: int) -> Log:
        """Strike it from the newest admissions."""
        kept: list[tuple[int, int]] = []
        for moment, spent in reversed(self._seen(state, now)):
            struck = min(cost, spent)
            cost -= struck
            kept += [(moment, spent - struck)] if spent > struck else []
        return tuple(reversed(kept))

    def remaining(self, state: Log, now: int) -> int:
        """What the window has left."""
        return max(0, self.capacity - sum(spent for _, spent in self._seen(state, now)))

    def reset_after(self, state: Log, now: int) -> int:
        """Until the newest admission is out of sight."""
        seen = self._seen(state, now)
        return seen[-1][0] + self.period - now if seen else 0


METERS: Final[dict[str, type[Meter]]] = {
    "token_bucket": TokenBucket,
    "leaky_bucket": LeakyBucket,
    "sliding_window": SlidingWindow,
    "sliding_log": SlidingLog,
    "fixed_window": FixedWindow,
}
