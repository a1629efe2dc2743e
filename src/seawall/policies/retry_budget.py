"""The retry budget's rule: retries may be a share of the traffic, so that they cannot multiply an outage.

Source: Finagle's RetryBudget (deposits that expire, a reserve), charged when the retry is scheduled. Deposits are
counted without a clock: calls since the last request for a retry, scaled to the time for which a deposit lives.
"""

from __future__ import annotations

from dataclasses import dataclass

from seawall.core import units


class BudgetState:
    """One budget. HOT: `calls` (`+= 1`, only grows)."""

    __slots__ = ("balance", "calls", "seen", "since")

    def __init__(self, now: float, balance: float) -> None:
        self.calls = 0
        self.seen = 0
        self.since = now
        self.balance = balance


@dataclass(frozen=True, kw_only=True)
class BudgetRule:
    """Retries allowed per call and per second. Units, ranges and defaults: see `seawall.RetryBudget`."""

    ratio: float = 0.1
    floor_per_s: float = 1.0
    ttl: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", units.ratio("ratio", self.ratio, zero=True))
        object.__setattr__(self, "floor_per_s", units.number("floor_per_s", self.floor_per_s))
        object.__setattr__(self, "ttl", units.seconds("ttl", self.ttl))

    def start(self, now: float) -> BudgetState:
        """A budget that holds its floor for one ttl, so that the first failures of a quiet service may be retried."""
        return BudgetState(now, self.floor_per_s * self.ttl)

    def deposit(self, state: BudgetState) -> None:
        """Count one call."""
        state.calls += 1

    def refresh(self, state: BudgetState, now: float) -> float:
        """Bring the balance up to date; the retries it allows."""
        elapsed = max(0.0, now - state.since)
        calls = state.calls
        fresh = (calls - state.seen) * (min(1.0, self.ttl / elapsed) if elapsed else 1.0)
        kept = state.balance * max(0.0, 1.0 - elapsed / self.ttl)
        state.balance = kept + self.ratio * fresh + self.floor_per_s * min(elapsed, self.ttl)
        state.seen, state.since = calls, now
        return state.balance

    def withdraw(self, state: BudgetState, now: float) -> bool:
        """Pay for one retry, at the moment when it is scheduled; False when the budget is spent."""
        if self.refresh(state, now) < 1.0 - 1e-9:
            return False
        state.balance -= 1.0
        return True
