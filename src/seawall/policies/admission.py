"""Admission by priority: while calls stand too long in this process's queues, the least important are refused at the door.

Every call has a rank: its class, and inside it a lot that is drawn, or made of the caller's key. A window ends after `window`
seconds or `calls` of them. When the mean delay of those that were let in was above the target, the door closes by a share
`shed` of what was let in; when it was not, it opens by a share `regain` of what came. A histogram of ranks, which forgets a
fifth per window, says which rank that is, so that one step has the same effect whatever the mix. Source: Zhou et al., "Overload
Control for Scaling WeChat Microservices" (DAGOR, SoCC 2018), which uses 20 ms, 1 s, 2000 calls, 5 % and 1 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from seawall.core import units
from seawall.policies.verdict import Events, Note, Permit, Rejection

CLASSES: Final = ("critical", "default", "sheddable")
LOTS: Final = 128  # ranks of one class
RANKS: Final = LOTS * len(CLASSES)
KEPT: Final = 0.8  # of the histogram, from window to window: a second without sheddable calls does not open the door to them


class Admitted(Permit):
    """The right of one call to go on. Void once it is settled, or its epoch is over.

    waited: seconds that the call had waited before it came to the door.
    """

    __slots__ = ("epoch", "events", "waited")

    def __init__(self, epoch: int, events: Events, waited: float) -> None:
        self.epoch = epoch
        self.events = events
        self.waited = waited


class AdmissionState:
    """One door. door: ranks below it pass. came: calls by rank, of this window and, fading, of those before; total, let_in: of
    this window. share_below: of the calls that came until the last window's end, by rank.
    """

    __slots__ = (
        "begun_at",
        "came",
        "delay",
        "delays",
        "door",
        "epoch",
        "let_in",
        "mean_delay",
        "overloaded",
        "refused_inside",
        "share_below",
        "total",
    )

    def __init__(self) -> None:
        self.epoch = 0
        self.begin()

    def begin(self) -> None:
        """The door is open, nothing seen."""
        self.door = RANKS
        self.overloaded = False
        self.mean_delay = 0.0
        self.came = [0.0] * RANKS
        self.share_below: list[float] = []  # while the door is open to all nobody asks for it
        self.clear(-math.inf)

    def clear(self, now: float) -> None:
        """A new window."""
        self.begun_at = now
        self.total = self.let_in = 0
        self.delay = 0.0
        self.delays = self.refused_inside = 0


@dataclass(frozen=True, kw_only=True)
class AdmissionRule:
    """When the door moves, and how far. Units, ranges and defaults: see `seawall.AdmissionControl`."""

    target: float = 0.02
    window: float = 1.0
    calls: int = 2000
    shed: float = 0.05
    regain: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", units.seconds("target", self.target))
        object.__setattr__(self, "window", units.seconds("window", self.window))
        units.whole("calls", self.calls)
        for name in ("shed", "regain"):
            units.ratio(name, getattr(self, name))

    def start(self, now: float) -> AdmissionState:
        """Everybody passes."""
        return AdmissionState()

    def admit(self, state: AdmissionState, now: float, priority: str, u: float, waited: float = 0.0) -> Admitted | Rejection:
        """Let a call in or refuse it; u in [0, 1) is its lot within its class, 0 = passes longest."""
        moved: Events = ()
        if not state.total:
            state.begun_at = now
        elif now >= state.begun_at + self.window or state.total >= self.calls:
            moved = self._move(state, now)
        rank = CLASSES.index(priority) * LOTS + int(u * LOTS)
        state.came[rank] += 1
        state.total += 1
        if rank >= state.door:
            return Rejection(
                f"sheds {priority} calls: those let in waited {state.mean_delay:.3g} s on average",
                self.opens_in(state, rank),
                moved,
            )
        state.let_in += 1
        return Admitted(state.epoch, moved, waited)

    def settle(self, state: AdmissionState, now: float, permit: Admitted, delay: float, *, refused: bool) -> Events:
        """A call that was let in is over.

        delay: seconds that it stood in queues inside. refused: a limit inside refused it.
        """
        if permit.epoch != state.epoch:
            return ()
        permit.epoch = -1
        state.delay += delay + permit.waited
        state.delays += 1
        state.refused_inside += refused
        return ()

    def restart(self, state: AdmissionState) -> None:
        """Void every permit that is out, and open the door, in place."""
        state.epoch += 1
        state.begin()

    def opens_in(self, state: AdmissionState, rank: int) -> float:
        """Seconds until the door could be open for `rank`, if the overload ended now: its steps back, by the last window."""
        ahead = state.share_below[min(rank + 1, RANKS)] - state.share_below[state.door]
        return self.window * max(1, math.ceil(ahead / self.regain - 1e-9))

    def admitted(self, state: AdmissionState) -> dict[str, float]:
        """The share of each class that the door lets in."""
        return {name: min(1.0, max(0.0, state.door / LOTS - number)) for number, name in enumerate(CLASSES)}

    def _move(self, state: AdmissionState, now: float) -> Events:
        """End the window: look whether there was overload, and move the door."""
        before, state.mean_delay = state.door, state.delay / state.delays if state.delays else 0.0
        state.overloaded = state.mean_delay > self.target or state.refused_inside > self.shed * state.let_in
        self._remember(state)
        state.door = self._closed(state) if state.overloaded else self._opened(state, now)
        state.clear(now)
        if state.door == before:
            return ()
        return (Note("admission_control.moved", {"admitted": self.admitted(state), "delay": state.mean_delay}),)

    def _remember(self, state: AdmissionState) -> None:
        """The share of what came below each rank; then the histogram fades."""
        total, below, shares = sum(state.came), 0.0, [0.0]
        for count in state.came:
            below += count
            shares.append(below / total)
        state.share_below = shares
        state.came = [count * KEPT for count in state.came]

    def _closed(self, state: AdmissionState) -> int:
        """The widest door that sheds its part of what was let in, but never the most important calls of all."""
        below = state.share_below
        wanted = (1 - self.shed) * below[state.door]
        door = next(door for door in range(RANKS, -1, -1) if below[door] <= wanted + 1e-9)
        return door if below[door] > 0 else next(door for door in range(RANKS + 1) if below[door] > 0)

    def _opened(self, state: AdmissionState, now: float) -> int:
        """The narrowest door that lets its part more in, per window; the whole house when nobody would be left outside."""
        windows = max(1.0, (now - state.begun_at) // self.window)
        wanted = state.share_below[state.door] + self.regain * windows
        if wanted >= 1 - 1e-9:
            return RANKS
        return next(door for door, below in enumerate(state.share_below) if below >= wanted - 1e-9)
