"""The client-side throttle as people use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.errors import Overloaded
from seawall.core.outcome import Kind, Outcome, Verdict
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.policies.throttle import ThrottleRule, ThrottleState

UNKNOWN: Final = (Kind.CANCELLED, Kind.REJECTED)


@dataclass(frozen=True, slots=True)
class ThrottleSnapshot:
    """One throttle at one moment. share: of calls that is shed; calls, accepted: in its window; rejected: since it was made."""

    kind: str
    name: str
    share: float
    calls: int
    accepted: int
    rejected: int


class Throttle(Guarding[ThrottleState]):
    """Send less to a callee that refuses most of it, so that it can serve the rest.

    k: how many calls are sent per accepted one, >= 1. Default 2: while the callee accepts half, nothing is shed.
    window: seconds that are looked at, > 0; longer than the slowest call. Default 120.
    most: the largest share that is ever shed, in (0, 1). Default 0.9: the rest finds out when it is back.
    minimum_calls: calls in the window below which nothing is shed, >= 1. Default 20.
    name, clock: see `Policy`.

    A call is accepted when it succeeds or fails permanently, and refused when it is throttled, overloaded, cut or not reached.
    Raises Overloaded for a call that it sheds; ValueError or TypeError for a parameter out of range.
    Source: "Site Reliability Engineering" (2016), chapter 21.
    """

    kind = "throttle"
    error = Overloaded

    def __init__(
        self,
        *,
        k: float = 2.0,
        window: float | str = 120,
        most: float = 0.9,
        minimum_calls: int = 20,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = ThrottleRule(k=k, window=window, most=most, minimum_calls=minimum_calls)  # type: ignore[arg-type]
        super().__init__(self.rule, name=name, clock=clock)

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule."""
        return self.cell.apply(self.rule.admit, now, self.clock.random.random())

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Count whether the callee accepted the call."""
        accepted = outcome is not Outcome.FAILURE and verdict.kind is not Kind.THROTTLED
        known = verdict.kind not in UNKNOWN or outcome is Outcome.FAILURE
        self.cell.apply(self.rule.settle, held.run.port.now(), permit, accepted=accepted if known else None)

    def snapshot(self) -> ThrottleSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read, self.clock.monotonic())

    def take_over(self, old: Policy) -> None:
        """Keep what the window holds, whatever its length."""
        super().take_over(old)
        assert isinstance(old, Throttle)
        before = old.rule.window
        self.cell, old.rule = old.cell.handed_to(self, self.rule), self.rule
        self.cell.apply(self.rule.retune, before)
        self.rejected = old.rejected

    def _read(self, state: ThrottleState, now: float) -> ThrottleSnapshot:
        share = self.rule.share(state, now)
        calls, accepted = sum(one.requests for one in state.slices), sum(one.accepts for one in state.slices)
        return ThrottleSnapshot(self.kind, self.name, share, calls, accepted, self.rejected)
