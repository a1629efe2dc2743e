"""Chaos, by rule: which calls are broken on purpose, how, and when it must stop.

Never active unless enabled by name. Seeded by who draws, capped in number, and it stops itself once the error budget that it is
given is spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from seawall.core import units
from seawall.policies.verdict import Events, Note


class FaultState:
    """One fault. broken: calls it has broken since it was made; seen: calls it could have broken; failed: calls that failed
    while it was enabled, through it or without it; stopped: whether that was its whole error budget."""

    __slots__ = ("broken", "failed", "seen", "stopped")

    def __init__(self) -> None:
        self.broken = 0
        self.seen = 0
        self.failed = 0
        self.stopped = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one call, or to one item of a stream.

    delay: seconds before it begins. fails: an error or result takes its place. late: it would outlast the deadline, and fails
    for that. item_delay: seconds before each further item of a stream. cut_after: how much of the answer arrives; None = all.
    """

    delay: float = 0.0
    fails: bool = False
    late: bool = False
    item_delay: float = 0.0
    cut_after: int | None = None
    events: Events = ()


NOTHING = Plan()


@dataclass(frozen=True, kw_only=True)
class FaultRule:
    """How much is broken. Units, ranges and defaults: see `seawall.Fault`. breaks: something takes the call's place."""

    share: float = 0.1
    latency: float = 0.0
    jitter: float = 0.0
    item_latency: float = 0.0
    cut_after: int | None = None
    at_most: int | None = 1000
    error_budget: int | None = None
    breaks: bool = False

    def __post_init__(self) -> None:
        units.ratio("share", self.share, zero=True)
        for name in ("latency", "jitter", "item_latency"):
            object.__setattr__(self, name, units.seconds(name, getattr(self, name), zero=True))
        for name, least in (("at_most", 1), ("cut_after", 0), ("error_budget", 1)):
            if getattr(self, name) is not None:
                units.whole(name, getattr(self, name), least=least)

    @property
    def does_something(self) -> bool:
        """Whether a broken call differs from another one."""
        return bool(self.breaks or self.latency or self.jitter or self.item_latency or self.cut_after is not None)

    def start(self, now: float) -> FaultState:
        """Nothing broken."""
        return FaultState()

    def plan(self, state: FaultState, u: float, v: float) -> Plan:
        """What to do to the next call, for two draws in [0, 1): whether it is broken, and how long it is held up."""
        if state.stopped:
            return NOTHING
        state.seen += 1
        if u >= self.share or (self.at_most is not None and state.broken >= self.at_most):
            return NOTHING
        state.broken += 1
        return Plan(
            self.latency + v * self.jitter,
            fails=self.breaks and self.cut_after is None,
            item_delay=self.item_latency,
            cut_after=self.cut_after,
        )

    def fail(self, state: FaultState) -> Events:
        """A call failed while the fault was enabled. Once that were as many as the error budget holds, it stops for good."""
        state.failed += 1
        if self.error_budget is None or state.stopped or state.failed < self.error_budget:
            return ()
        state.stopped = True
        return (Note("fault.stopped", {"failed": state.failed, "broken": state.broken}),)
