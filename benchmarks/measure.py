"""How times are taken: every round times every case once, the minimum of rounds counts, garbage collection is off.

The machine's mood then meets all cases alike, and a ratio of two minima means something where a time does not.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

_HOLDS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Row:
    """One figure. goal: "<= 3.5" or None. versus: what it is measured against, and how."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    versus: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        sign, limit = self.goal.split()
        return bool(_HOLDS[sign](self.value, float(limit)))

    def as_json(self) -> dict[str, Any]:
        """The row as performance.md wants it."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "goal": self.goal,
            "holds": self.holds,
            "versus": self.versus,
        }


def best_of(cases: Mapping[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, float]:
    """Nanoseconds per call of each case, loop included: the minimum of interleaved rounds."""
    best = dict.fromkeys(cases, float("inf"))
    loops = {name: _loop(case) for name, case in cases.items()}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, loop in loops.items():
                best[name] = min(best[name], loop(calls))
    finally:
        gc.enable()
    return {name: seconds / calls * 1e9 for name, seconds in best.items()}


async def abest_of(cases: Mapping[str, Callable[[], Awaitable[object]]], *, rounds: int, calls: int) -> dict[str, float]:
    """As `best_of`, awaiting each call, in CPU time when the body suspends as well."""
    best = dict.fromkeys(cases, float("inf"))
    gc.disable()
    try:
        for _ in range(rounds):
            for name, case in cases.items():
                began = time.perf_counter()
                for _call in range(calls):
                    await case()
                best[name] = min(best[name], time.perf_counter() - began)
                await asyncio.sleep(0)
    finally:
        gc.enable()
    return {name: seconds / calls * 1e9 for name, seconds in best.items()}


async def cpu_of(cases: Mapping[str, Callable[[], Awaitable[object]]], *, rounds: int, calls: int) -> dict[str, float]:
    """Nanoseconds of CPU per awaited call, for bodies that suspend: what waits costs nothing, what the loop does counts."""
    best = dict.fromkeys(cases, float("inf"))
    gc.disable()
    try:
        for _ in range(rounds):
            for name, case in cases.items():
                began = time.process_time()
                for _call in range(calls):
                    await case()
                best[name] = min(best[name], time.process_time() - began)
    finally:
        gc.enable()
    return {name: seconds / calls * 1e9 for name, seconds in best.items()}


def _loop(case: Callable[[], object]) -> Callable[[int], float]:
    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            case()
        return time.perf_counter() - began

    return run
