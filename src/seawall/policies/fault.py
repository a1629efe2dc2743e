"""Chaos, by rule: which calls are broken on purpose, how, and when it must stop.

Never active unless enabled by name. Seeded by who draws, capped in number, and it stops itself while the error budget that it is
given is spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from seawall.core import units
from seawall.policies.verdict import Events


class FaultState:
    """One fault. broken: calls it has broken since it was made; seen: calls it could have broken."""

    __slots__ = ("broken", "seen")

    def __init__(self) -> None:
        self.broken = 0
        self.seen = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one call. delay: seconds before it begins. fails: an error or result takes its place."""

    delay: float = 0.0
    fails: bool = False
    events: Events = ()


NOTHING = Plan()


@dataclass(frozen=True, kw_only=True)
class FaultRule:
    """How much is broken. Units, ranges and defaults: see `seawall.Fault`."""

    share: float = 0.1
    latency: float = 0.0
    jitter: float = 0.0
    at_most: int | None = 1000
    breaks: bool = False

    def __post_init__(self) -> None:
        units.ratio("share", self.share, zero=True)
        object.__setattr__(self, "latency", units.seconds("latency", self.latency, zero=True))
        object.__setattr__(self, "jitter", units.seconds("jitter", self.jitter, zero=True))
        if self.at_most is not None:
            units.whole("at_most", self.at_most)

    def start(self, now: float) -> FaultState:
        """Nothing broken."""
        return FaultState()

    def plan(self, state: FaultState, u: float, v: float) -> Plan:
        """What to do to the next call, for two draws in [0, 1): whether it is broken, and how long it is held up."""
        state.seen += 1
        if u >= self.share or (self.at_most is not None and state.broken >= self.at_most):
            return NOTHING
        state.broken += 1
        return Plan(self.latency + v * self.jitter, self.breaks)
