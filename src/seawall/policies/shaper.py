"""The leaky bucket as a shaper: calls leave evenly spaced, one emission interval for each unit of cost, never in a burst."""

from __future__ import annotations

from seawall.core.units import Limit
from seawall.policies.gcra import Gcra
from seawall.policies.meter import NEVER


class Shaper(Gcra):
    """Evenly spaced calls. Its value is the moment at which the next one may leave.

    A cost of n may leave as soon as the one before has used up its intervals, and then uses up n of them, so nothing is ever
    saved up. The limit's burst is only the largest cost that may pass.
    Admitted in any window of length W: at most rate * W + the largest cost, which is 1 for ordinary calls.
    """

    __slots__ = ()

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self.room = 1

    def wait(self, value: int, at: int, cost: int) -> int:
        """Until the one before has used up its intervals."""
        if cost > self.capacity:
            return NEVER
        return max(0, value - at) if cost else 0

    def remaining(self, value: int, at: int) -> int:
        """1 when a call may leave now, else 0."""
        return int(value <= at)

    def hold(self, value: int, at: int, until: int) -> int:
        """The next one leaves at `until`."""
        return max(value, until)
