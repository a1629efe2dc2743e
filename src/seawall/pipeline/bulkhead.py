"""The bulkhead as people use it: seats with a queue, or a thread pool of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seawall.core.clock import Clock
from seawall.core.errors import BulkheadFull
from seawall.core.outcome import Outcome, Verdict
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.policies.bulkhead import BulkheadRule, BulkheadState, Order
from seawall.policies.verdict import Ticket

if TYPE_CHECKING:
    from seawall.pipeline.threads import ThreadBulkhead


@dataclass(frozen=True, slots=True)
class BulkheadSnapshot:
    """One bulkhead at one moment. taken: seats in use; waiting: calls in the queue; rejected: calls refused since made."""

    kind: str
    name: str
    limit: int
    taken: int
    waiting: int
    rejected: int


class Bulkhead(Guarding[BulkheadState]):
    """At most `limit` calls at once, so that one slow dependency cannot take every thread and connection.

    limit: calls that may run at once, >= 1; one true limit for threads and tasks together.
    queue: calls that may wait for a seat, >= 0, in order of arrival. Default 0 = refuse at once.
    wait: seconds that one call may wait, >= 0. Default None = as long as its deadline allows.
    order: "fifo" serves the longest waiter first, "lifo" the newest (under overload the only ones still in time).
    name, clock: see `Policy`.

    Raises BulkheadFull for a call that gets no seat; ValueError or TypeError for a parameter out of range.
    A task that is cancelled after it was granted a seat passes it on; a worker thread that was given up on keeps its seat
    until it really ends.
    """

    kind = "bulkhead"
    error = BulkheadFull

    def __init__(
        self,
        limit: int,
        *,
        queue: int = 0,
        wait: float | str | None = None,
        order: Order = "fifo",
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = BulkheadRule(limit=limit, queue=queue, wait=wait, order=order)  # type: ignore[arg-type]
        self.may_wait = queue > 0 and self.rule.wait != 0
        super().__init__(self.rule, name=name, clock=clock)

    @staticmethod
    def threads(workers: int, *, queue: int = 0, name: str | None = None, clock: Clock | None = None) -> ThreadBulkhead:
        """A bulkhead that runs plain functions on `workers` threads of its own, with up to `queue` calls waiting."""
        from seawall.pipeline.threads import ThreadBulkhead

        return ThreadBulkhead(workers, queue=queue, name=name, clock=clock)

    def resize(self, limit: int) -> None:
        """Change the number of seats; a lower limit takes effect as seats come back. Raises ValueError below 1."""
        self.cell.apply(self.rule.resize, self.clock.monotonic(), limit)

    def snapshot(self) -> BulkheadSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read)

    def take_over(self, old: Policy) -> None:
        """Keep the seats; a lower limit takes effect as they come back."""
        super().take_over(old)
        assert isinstance(old, Bulkhead)
        self.cell = old.cell.handed_to(self, self.rule)
        self.rejected = old.rejected
        if self.cell.state.limit != self.rule.limit:
            self.resize(self.rule.limit)

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing: no seat taken, nobody waiting."""
        shot = self.snapshot()
        return shot.taken == 0 and shot.waiting == 0

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule; a waiter gives up at the end of its wait or at its deadline, whichever is first."""
        until = float("inf") if self.rule.wait is None else now + self.rule.wait
        if run.deadline is not None:
            until = min(until, run.deadline)
        return self.cell.apply(self.rule.admit, now, until)

    def poll(self, ticket: Ticket, now: float) -> Any:
        """What a waiter looks at."""
        return self.cell.apply(self.rule.poll, now, ticket)

    def leave(self, ticket: Ticket, now: float) -> None:
        """A waiter gives up."""
        self.cell.apply(self.rule.leave, now, ticket)

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Give the seat back, once every worker thread that was given up on under it has ended."""
        running = held.still_running()
        if running:
            running[0].on_done(lambda: self.release(held, permit, outcome, verdict))
        else:
            self.cell.apply(self.rule.settle, self.clock.monotonic(), permit, outcome)

    def _read(self, state: BulkheadState) -> BulkheadSnapshot:
        return BulkheadSnapshot(self.kind, self.name, state.limit, state.taken, state.waiting, self.rejected)
