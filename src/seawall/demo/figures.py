"""What one telling comes to, in numbers. Pure: orders and marks in, figures out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from seawall.demo.story import BACK, BROKEN, DEADLINE, Phase, Story

RUN: Final = 10  # neighbouring orders that are looked at together to say that the shop has recovered
WELL: Final = 0.9  # share of them, and of all later ones of the phase, that must be good


class Order(NamedTuple):
    """One order. arrived: seconds from the start of the telling. took: seconds until it had its answer, or until its customer
    left. answer: "paid", "pending", "failed", "left" (the customer did), "waits" (still does) or "cut" (the telling ended).
    """

    arrived: float
    took: float
    answer: str

    @property
    def good(self) -> bool:
        """Really paid, within the deadline: the same rule for both tellings."""
        return self.answer == "paid" and self.took <= DEADLINE


class Mark(NamedTuple):
    """What had been counted `at` seconds into the telling.

    calls: attempts that had reached payment's door. breaker: its state, "" where there is none. refused: calls that guards
    had refused. retries: retries that had been scheduled.
    """

    at: float
    calls: int
    breaker: str = ""
    refused: int = 0
    retries: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a telling in numbers.

    pending: orders taken whose payment follows. lost: all that are neither good nor pending: failed, or paid too late.
    p50, p99: seconds over all orders that arrived in it, whatever their answer. breaker: its state at the end.
    """

    name: str
    begins: float
    ends: float
    offered: int
    good: int
    pending: int
    lost: int
    p50: float
    p99: float
    calls: int
    breaker: str
    refused: int
    retries: int

    @property
    def goodput(self) -> float:
        """Good orders per second."""
        return self.good / (self.ends - self.begins)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One telling in numbers.

    recovery: seconds from the moment payment was well again until orders were good again; None = not within the phase.
    calls_to_broken: attempts that reached payment's door while it was slow or dead. charged_again: charges beyond the first
    for one order. events: what the guards did, by kind. phases: the same numbers per phase. pids: the processes.
    """

    whole: Part
    phases: tuple[Part, ...]
    recovery: float | None
    calls_to_broken: int
    charged_again: int
    events: Mapping[str, int] = field(default_factory=dict)
    pids: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **_row(self.whole),
            "good_share": round(self.whole.good / max(1, self.whole.offered), 4),
            "recovery": None if self.recovery is None else round(self.recovery, 3),
            "calls_to_broken": self.calls_to_broken,
            "charged_again": self.charged_again,
            "events": dict(self.events),
            "phases": [_row(part) for part in self.phases],
            "pids": list(self.pids),
        }


def better(bare: Figures, guarded: Figures) -> bool:
    """Whether guarded has higher goodput AND fewer calls to the broken service AND an earlier recovery."""
    earlier = guarded.recovery is not None and guarded.recovery < (math.inf if bare.recovery is None else bare.recovery)
    fewer = guarded.calls_to_broken < bare.calls_to_broken
    return guarded.whole.goodput > bare.whole.goodput and fewer and earlier


def figures(
    story: Story,
    orders: Sequence[Order],
    marks: Sequence[Mark],
    *,
    charged_again: int = 0,
    events: Mapping[str, int] | None = None,
    pids: Iterable[int] = (),
) -> Figures:
    """What a telling comes to. orders: in any order. marks: by time, with one at each change of scene."""
    broken = [story.phase(name) for name in BROKEN]
    return Figures(
        whole=part("whole", 0.0, story.seconds, orders, marks),
        phases=tuple(part(phase.name, phase.begins, phase.ends, orders, marks) for phase in story.phases),
        recovery=recovery(story.phase(BACK), orders),
        calls_to_broken=sum(_grown(marks, phase.begins, phase.ends).calls for phase in broken),
        charged_again=charged_again,
        events=events or {},
        pids=tuple(pids),
    )


def part(name: str, begins: float, ends: float, orders: Iterable[Order], marks: Sequence[Mark]) -> Part:
    """The numbers of the orders that arrived in [begins, ends), and of what was counted in it."""
    mine = [order for order in orders if begins <= order.arrived < ends]
    times = sorted(order.took for order in mine)
    grown = _grown(marks, begins, ends)
    good, pending = sum(order.good for order in mine), sum(order.answer == "pending" for order in mine)
    return Part(
        name=name,
        begins=begins,
        ends=ends,
        offered=len(mine),
        good=good,
        pending=pending,
        lost=len(mine) - good - pending,
        p50=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        calls=grown.calls,
        breaker=grown.breaker,
        refused=grown.refused,
        retries=grown.retries,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; 0 when there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def recovery(phase: Phase, orders: Iterable[Order]) -> float | None:
    """Seconds into `phase` at which orders were good again: from there on WELL of the next RUN, and of all the rest of the
    phase, are good. None when that never came; a phase with fewer orders than RUN cannot show it.
    """
    good = [(o.arrived, o.good) for o in sorted(orders) if phase.begins <= o.arrived < phase.ends]
    left = sum(fine for _, fine in good)
    for index in range(len(good) - RUN + 1):
        run = sum(fine for _, fine in good[index : index + RUN])
        if run >= WELL * RUN and left >= WELL * (len(good) - index) and good[index][1]:
            return good[index][0] - phase.begins
        left -= good[index][1]
    return None


def _grown(marks: Sequence[Mark], begins: float, ends: float) -> Mark:
    """What was counted in between."""
    first, last = _at(marks, begins), _at(marks, ends)
    return Mark(ends, last.calls - first.calls, last.breaker, last.refused - first.refused, last.retries - first.retries)


def _at(marks: Sequence[Mark], moment: float) -> Mark:
    """The last mark that is not later than `moment`; before the first one, nothing had been counted."""
    return next((mark for mark in reversed(marks) if mark.at <= moment + 1e-9), Mark(0.0, 0))


def _row(part: Part) -> dict[str, Any]:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(part).items()}
    return {**rounded, "goodput": round(part.goodput, 3)}
