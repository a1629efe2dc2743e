"""The sliding window counter: this window's count, and of the last one's the share that the sliding window still covers.

Two numbers per key. It takes the last window's calls as evenly spread over it. Where they were not, the guess is off:
see the bounds of `SlidingWindow`, or use the sliding log, which is exact and costs memory for each call.
"""

from __future__ import annotations

from typing import NamedTuple

from seawall.core.units import Limit
from seawall.policies.fixed_window import refuse_burst
from seawall.policies.gcra import period
from seawall.policies.meter import NEVER, Meter


class Counts(NamedTuple):
    """What is known of a key: the newest window by number, the counts of it and of the one before, and until when nothing
    passes."""

    window: int
    current: int
    previous: int
    held: int


class SlidingWindow(Meter[Counts]):
    """`count` in the last `per`, where the last whole window counts for the share of it that is not yet too old.

    Admitted in any span of length `per`: at most count * (1 + a), where a < 1 is how far into its window the span begins:
    1.33 times the count for a burst in the first third of a window. The worst case, a whole burst right before a window
    ends and full demand ever after, comes close to 2 times.
    """

    __slots__ = ("capacity", "length", "limit", "room")

    def __init__(self, limit: Limit) -> None:
        refuse_burst(limit, "sliding_window")
        self.limit = limit
        self.capacity = self.room = limit.count
        self.length = period(limit)

    def blank(self, at: int) -> Counts:
        """Nothing counted."""
        return Counts(at // self.length, 0, 0, at)

    def wait(self, value: Counts, at: int, cost: int) -> int:
        """Until enough of the last window has slid out."""
        if cost > self.capacity:
            return NEVER
        if cost == 0:
            return 0
        moment = max(at, value.held, value.window * self.length)
        while True:
            counts = self._current(value, moment)
            end = (counts.window + 1) * self.length
            fits_at = end - self._share(counts, cost)
            if moment >= fits_at:
                return moment - at
            moment = min(fits_at, end)

    def spend(self, value: Counts, at: int, cost: int) -> Counts:
        """Counted in the window of now."""
        counts = self._current(value, at)
        return counts._replace(current=counts.current + cost)

    def refund(self, value: Counts, at: int, amount: int, since: int) -> Counts:
        """Back into the window it was counted in, if that one still counts."""
        counts = self._current(value, at)
        age = counts.window - since // self.length
        if age == 0:
            return counts._replace(current=max(0, counts.current - amount))
        return counts._replace(previous=max(0, counts.previous - amount)) if age == 1 else counts

    def remaining(self, value: Counts, at: int) -> int:
        """The count, less this window's and the share of the last one's, rounded down."""
        counts = self._current(value, at)
        covered = min(self.length, (counts.window + 1) * self.length - at)
        left = (self.capacity * self.length - counts.previous * covered) // self.length - counts.current
        return 0 if value.held > at else max(0, left)

    def reset_after(self, value: Counts, at: int) -> int:
        """Until neither window counts any more."""
        counts = self._current(value, at)
        windows = 2 if counts.current else int(counts.previous > 0)
        end = (counts.window + windows) * self.length if windows else at
        return max(end, value.held) - at

    def hold(self, value: Counts, at: int, until: int) -> Counts:
        """Nothing passes before `until`."""
        return value._replace(held=max(value.held, until))

    def carry(self, value: Counts, at: int, old: SlidingWindow) -> Counts:
        """With another length, what counts now is taken as used now."""
        counts = old._current(value, at)
        if old.length == self.length:
            return counts
        covered = min(old.length, (counts.window + 1) * old.length - at)
        used = counts.current - (-counts.previous * covered // old.length)
        return Counts(at // self.length, used, 0, counts.held)

    def _current(self, value: Counts, at: int) -> Counts:
        window = at // self.length
        age = window - value.window
        if age <= 0:
            return value
        return Counts(window, 0, value.current if age == 1 else 0, value.held)

    def _share(self, counts: Counts, cost: int) -> int:
        """How much of the last window may still be covered for `cost` to fit: the whole length when nothing is in the way,
        a negative length when this window alone is too full."""
        room = self.capacity - counts.current - cost
        if room < 0:
            return -1
        return self.length if counts.previous <= room else room * self.length // counts.previous
