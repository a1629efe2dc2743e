"""The retry budget as people use it; share one object between policies to share the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seawall.core.clock import Clock
from seawall.pipeline.cell import Cell
from seawall.pipeline.policy import Policy
from seawall.policies.retry_budget import BudgetState, rule_of


@dataclass(frozen=True, slots=True)
class BudgetSnapshot:
    """One budget at one moment. balance: retries it would allow now; calls: calls counted since it was made."""

    kind: str
    name: str
    balance: float
    calls: int


class RetryBudget(Policy):
    """Retries may be a share of the traffic, so that they cannot multiply an outage.

    ratio: retries allowed per call, in [0, 1]. Default 0.1.
    floor_per_s: retries allowed per second beside that, >= 0, so that quiet services may retry at all. Default 1.
    ttl: seconds for which a call's deposit lives, > 0. Default 10.
    mode: "share" (default) as above; "tokens": a failure takes one of ten tokens, a success gives `ratio` of one back, retries
        while more than half are there; "in_flight": at most `ratio` of the calls that run now, and never fewer than three.
    name, clock: see `Policy`.

    A retry is paid for when it is scheduled; when the budget is spent, the caller gets the callee's last error.
    Raises ValueError or TypeError for a parameter out of range. Sources: Finagle's RetryBudget, gRPC A6, Envoy.
    """

    kind = "retry_budget"

    def __init__(
        self,
        ratio: float = 0.1,
        *,
        floor_per_s: float = 1,
        ttl: float | str = 10,
        mode: Literal["share", "tokens", "in_flight"] = "share",
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = rule_of(mode, ratio=ratio, floor_per_s=floor_per_s, ttl=ttl)  # type: ignore[arg-type]
        self.mode = mode
        super().__init__(name=name, clock=clock)
        self.cell: Cell[BudgetState] = Cell(self, self.rule)

    def enter(self) -> None:
        """Count one call."""
        if self.rule.counts_ends:
            self.cell.apply(self.rule.enter)
        else:
            self.rule.enter(self.cell.state)  # HOT: one call-free line, exact without the lock

    def leave(self, *, failed: bool, extra: float) -> None:
        """A call is over; `extra` is what its repetitions had withdrawn."""
        if self.rule.counts_ends:
            self.cell.apply(self.rule.leave, failed, extra)

    def withdraw(self, now: float, cost: float = 1.0) -> bool:
        """Pay for one retry or hedge that weighs `cost`; False when the budget is spent."""
        return self.cell.apply(self.rule.withdraw, now, cost)

    def snapshot(self) -> BudgetSnapshot:
        """What it holds now."""
        balance = self.cell.apply(self.rule.refresh, self.clock.monotonic())
        return BudgetSnapshot(self.kind, self.name, balance, self.cell.state.calls)

    def take_over(self, old: Policy) -> None:
        """Keep the balance while the way of counting is the same."""
        super().take_over(old)
        assert isinstance(old, RetryBudget)
        if old.mode == self.mode:
            self.cell = old.cell.handed_to(self, self.rule)

    def restart(self) -> None:
        """Forget everything that happened, in place."""
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self.cell.reopen()
