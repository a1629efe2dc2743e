"""Client-side throttling: the share of calls that a callee accepts decides how many are sent at all.

A callee that refuses most calls is still busy refusing them. P(shed) = max(0, (requests - k * accepts) / (requests + 1)), capped
below 1, since a throttle that sheds everything never learns that the callee is back. Source: Beyer et al., "Site Reliability
Engineering" (2016), chapter 21. Requests count when they are attempted, not when they end: slow answers must not hide a storm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from seawall.core import units
from seawall.policies.verdict import Events, Permit, Rejection

BUCKETS = 12


class Counted(Permit):
    """The right to make one call, counted in the slice of its beginning."""

    __slots__ = ("epoch", "slice")

    def __init__(self, slice_: Slice) -> None:
        self.epoch = slice_.index
        self.slice = slice_


class Slice:
    """One twelfth of the window: calls attempted, calls the callee accepted."""

    __slots__ = ("accepts", "index", "requests")

    def __init__(self, index: int) -> None:
        self.index = index
        self.requests = 0
        self.accepts = 0


class ThrottleState:
    """One throttle: its slices, oldest first."""

    __slots__ = ("slices",)

    def __init__(self) -> None:
        self.slices: deque[Slice] = deque()


@dataclass(frozen=True, kw_only=True)
class ThrottleRule:
    """How much is shed. Units, ranges and defaults: see `seawall.Throttle`."""

    k: float = 2.0
    window: float = 120.0
    most: float = 0.9
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", units.number("k", self.k, least=1.0))
        object.__setattr__(self, "window", units.seconds("window", self.window))
        object.__setattr__(self, "most", units.ratio("most", self.most))
        if self.most >= 1:
            raise ValueError(f"most must be in (0, 1): a throttle that sheds everything never learns; got {self.most!r}")
        units.whole("minimum_calls", self.minimum_calls)

    def start(self, now: float) -> ThrottleState:
        """Nothing seen."""
        return ThrottleState()

    def admit(self, state: ThrottleState, now: float, u: float) -> Counted | Rejection:
        """Attempt one call, for a draw u in [0, 1)."""
        shed = self.share(state, now)
        now_slice = self._slice(state, now)
        now_slice.requests += 1
        if u < shed:
            return Rejection(f"sheds {shed:.0%} of calls, because the callee refuses most of them")
        return Counted(now_slice)

    def settle(self, state: ThrottleState, now: float, permit: Counted, *, accepted: bool | None) -> Events:
        """The callee accepted the call, refused it, or (None) nobody knows: then it was never attempted."""
        if accepted is None:
            permit.slice.requests -= 1
        elif accepted:
            permit.slice.accepts += 1
        return ()

    def share(self, state: ThrottleState, now: float) -> float:
        """The share of calls that is shed now."""
        self._slice(state, now)
        requests = sum(one.requests for one in state.slices)
        accepts = sum(one.accepts for one in state.slices)
        if requests < self.minimum_calls:
            return 0.0
        return min(self.most, max(0.0, (requests - self.k * accepts) / (requests + 1)))

    def retune(self, state: ThrottleState, before: float) -> Events:
        """Go on with the slices of a window of `before` seconds; calls that run now keep theirs."""
        for one in state.slices:
            one.index = int(one.index * before / self.window)
        return ()

    def _slice(self, state: ThrottleState, now: float) -> Slice:
        index = int(now / (self.window / BUCKETS))
        while state.slices and state.slices[0].index <= index - BUCKETS:
            state.slices.popleft()
        if not state.slices or state.slices[-1].index < index:
            state.slices.append(Slice(index))
        return state.slices[-1]
