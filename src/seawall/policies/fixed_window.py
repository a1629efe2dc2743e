"""The fixed window: so many in each period, counted anew in the next. Cheap, and lets two bursts meet at a boundary."""

from __future__ import annotations

from typing import NamedTuple

from seawall.core.units import Limit
from seawall.policies.gcra import period
from seawall.policies.meter import NEVER, Meter


def refuse_burst(limit: Limit, algorithm: str) -> None:
    """Raise ValueError for a burst beside a window, which has none: its whole count may be spent at once."""
    if limit.capacity != limit.count:
        raise ValueError(
            f"burst must be left out, or equal the count, with algorithm {algorithm!r}, "
            f"where the whole count may pass at once; got {limit}"
        )


class Tally(NamedTuple):
    """What is known of a key: the newest window by number, what was used in it, and until when nothing passes."""

    window: int
    used: int
    held: int


class FixedWindow(Meter[Tally]):
    """`count` in each window of `per`; windows begin at whole multiples of `per` on the limiter's clock.

    Admitted in one window: at most count. In any span of that length: at most 2 * count, when two bursts meet at a
    boundary.
    """

    __slots__ = ("capacity", "length", "limit", "room")

    def __init__(self, limit: Limit) -> None:
        refuse_burst(limit, "fixed_window")
        self.limit = limit
        self.capacity = self.room = limit.count
        self.length = period(limit)

    def blank(self, at: int) -> Tally:
        """Nothing used."""
        return Tally(at // self.length, 0, at)

    def wait(self, value: Tally, at: int, cost: int) -> int:
        """Until the window has room, or the next one begins."""
        if cost > self.capacity:
            return NEVER
        moment = max(at, value.held)
        tally = self._current(value, moment)
        if tally.used + cost > self.capacity:
            moment = (tally.window + 1) * self.length
        return moment - at if cost else 0

    def spend(self, value: Tally, at: int, cost: int) -> Tally:
        """Used in the window of now."""
        tally = self._current(value, at)
        return tally._replace(used=tally.used + cost)

    def refund(self, value: Tally, at: int, amount: int, since: int) -> Tally:
        """Back into the window it was used in, if that one still counts."""
        tally = self._current(value, at)
        if since // self.length != tally.window:
            return tally
        return tally._replace(used=max(0, tally.used - amount))

    def remaining(self, value: Tally, at: int) -> int:
        """What the window of now has left."""
        return 0 if value.held > at else max(0, self.capacity - self._current(value, at).used)

    def reset_after(self, value: Tally, at: int) -> int:
        """Until the end of the window, when anything was used in it."""
        tally = self._current(value, at)
        end = (tally.window + 1) * self.length if tally.used else at
        return max(end, value.held) - at

    def hold(self, value: Tally, at: int, until: int) -> Tally:
        """Nothing passes before `until`."""
        return value._replace(held=max(value.held, until))

    def carry(self, value: Tally, at: int, old: FixedWindow) -> Tally:
        """What was used in the window of now counts in the new window of now."""
        tally = old._current(value, at)
        return tally if old.length == self.length else tally._replace(window=at // self.length)

    def _current(self, value: Tally, at: int) -> Tally:
        window = at // self.length
        return value if window <= value.window else Tally(window, 0, value.held)
