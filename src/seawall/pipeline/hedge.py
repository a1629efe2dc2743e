"""The hedge as people use it: a second copy of a slow call, and the race between the copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any

from seawall.core.clock import Clock
from seawall.core.outcome import Kind
from seawall.core.runtime import Mark
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.cell import Cell
from seawall.pipeline.ending import Ending
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.retry_budget import RetryBudget
from seawall.pipeline.run import Run
from seawall.pipeline.threads import wake
from seawall.policies.hedge import HedgeRule
from seawall.policies.quantile import QuantileState
from seawall.policies.verdict import DUST


@dataclass(frozen=True, slots=True)
class HedgeSnapshot:
    """One hedge at one moment. delay: seconds before a copy now, None while unknown. sent: copies sent; won: by copies."""

    kind: str
    name: str
    delay: float | None
    sent: int
    won: int


class Hedge(Policy):
    """Send a second copy of a call that is slow, and take the first answer: it cuts the tail, for a little more load.

    after: seconds before the next copy is sent, >= 0, or text such as "50ms", or a quantile of the latencies seen, such as
        "p95". With a quantile nothing is hedged before 20 latencies are known; cancelled copies count as "at least so long".
    copies: further copies at most, in [1, 10]. Default 1.
    budget: what pays for copies; share one with Retry. Default RetryBudget(0.1, floor_per_s=0) of its own: at most a tenth
        more load; None = no budget.
    name, clock: see `Policy`.

    Only calls marked idempotent are hedged, and none while a circuit breaker of the same pipeline is not closed. A copy that
    fails sends the next at once. Async losers are cancelled and awaited; on plain functions copies run on worker threads,
    which cannot be ended: losers run on, and keep their seats until they end. Raises ValueError or TypeError for a
    parameter out of range. Sources: Dean and Barroso, "The Tail at Scale" (2013); gRPC A6; Finagle's backup requests.
    """

    kind = "hedge"
    acts_while_observing = True
    why_no_block = "Hedge sends copies of the call, and a block cannot be copied"
    may_wait = True

    def __init__(
        self,
        after: float | str = 0.05,
        *,
        copies: int = 1,
        budget: RetryBudget | EllipsisType | None = ...,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = HedgeRule(after=after, copies=copies)
        if not isinstance(budget, RetryBudget | EllipsisType | None):
            raise TypeError(f"budget must be a RetryBudget or None; got {budget!r}")
        self.budget = RetryBudget(0.1, floor_per_s=0, clock=clock) if isinstance(budget, EllipsisType) else budget
        super().__init__(name=name, clock=clock)
        self.cell: Cell[QuantileState] = Cell(self, self.rule)
        self.sent = 0
        self.won = 0

    def adopt(self, name: str, clock: Clock | None) -> None:
        """Take the budget along."""
        super().adopt(name, clock)
        if self.budget is not None:
            self.budget.adopt(f"{self.name}-budget", clock)

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Race copies of what is inside."""
        return partial(twins.hedge, self, inner)

    def race(self, inner: Layer, run: Run) -> Race:
        """Begin one call's race."""
        return Race(self, inner, run)

    def delay(self, run: Run) -> float | None:
        """Seconds before the next copy of this call, or None when it must not be copied."""
        if not run.identity.idempotent or run.streaming:
            return None
        breakers = (policy for policy in run.pipeline.policies if isinstance(policy, CircuitBreaker))
        if any(breaker.state not in ("closed", "disabled", "observing") for breaker in breakers):
            return None
        return self.cell.apply(self.rule.delay)

    def snapshot(self) -> HedgeSnapshot:
        """What it holds now."""
        return HedgeSnapshot(self.kind, self.name, self.cell.apply(self.rule.delay), self.sent, self.won)

    def take_over(self, old: Policy) -> None:
        """Keep the budget, the counts, and the latencies that were learnt while the quantile is the same."""
        super().take_over(old)
        assert isinstance(old, Hedge)
        self.sent, self.won = old.sent, old.won
        if old.rule.quantile == self.rule.quantile:
            self.cell = old.cell.handed_to(self, self.rule)
        if self.budget is not None and old.budget is not None:
            self.budget.take_over(old.budget)

    def restart(self) -> None:
        """Forget what was counted and learnt."""
        self.sent = self.won = 0
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self.cell.reopen()


class Copy(Ending):
    """One copy of a call. It keeps its result until the race looks.

    alone: it is the only one there will be, and its error leaves as it came.
    """

    def __init__(self, race: Race, *, alone: bool = False) -> None:
        super().__init__()
        self._race = race
        self.alone = alone
        self.began: float = race.now()
        self.took: float | None = None
        self.task: Any = None
        self.value: Any = None
        self.error: BaseException | None = None

    def keep(self, value: Any) -> Any:
        """It has answered."""
        self.value = value
        self.took = self._race.now() - self.began
        if self.alone:
            self._race.learn(self)
        return value

    def lose(self, error: BaseException) -> None:
        """It has failed, or was cut."""
        self.error = error

    def end(self) -> None:
        """It is over; the race looks."""
        if self.alone:
            self._race.close(failed=self.error is not None)
        super().end()


class Race:
    """One call's copies, until the first answers well or none will. message: what the copies are cancelled with."""

    def __init__(self, hedge: Hedge, inner: Layer, run: Run) -> None:
        self._hedge = hedge
        self._inner = inner
        self._run = run
        self._copies: list[Copy] = []
        self._compete: Callable[..., Any] | None = None
        self._counted = run.enters(hedge.budget)
        self._paid = 0.0
        self._next_at: float | None = None
        self.message: object = None
        self.flag: Any = None
        self.now: Callable[[], float] = run.port.now
        self.single = Copy(self, alone=True)
        self.alone = hedge.delay(run) is None

    def begin(self, compete: Callable[..., Any]) -> None:
        """Send the first copy. compete: the shape that runs one."""
        self._compete = compete
        self.flag = self._run.port.event()
        self._send()

    def pending(self) -> float | None:
        """Seconds until the next copy is due (inf = none), or None when the race is decided."""
        if self._decided() is not None:
            return None
        ended = [copy for copy in self._copies if copy.done]
        failed = len(ended) == len(self._copies)
        due = self._next_at is not None and self.now() >= self._next_at - DUST
        if (failed and self._worth(ended[-1])) or due:
            if self._may_send():
                self._send()
                failed = False
            else:
                self._next_at = None
        if failed:
            return None
        return float("inf") if self._next_at is None else max(0.0, self._next_at - self.now())

    def result(self) -> Any:
        """The first good answer; else the error that decided, or the first copy's."""
        copy = self._decided() or self._copies[0]
        if copy.error is not None:
            raise copy.error
        if copy is not self._copies[0]:
            self._hedge.won += 1
            self._hedge.emit("hedge.won", copy=self._copies.index(copy) + 1, pipeline=self._run.pipeline.name)
        return copy.value

    def cut_by(self, error: BaseException) -> None:
        """The race itself was cut; a timer's mark is handed on to the copies, so that they know whose limit it was."""
        self.message = next((mark for mark in error.args if isinstance(mark, Mark)), None)

    def losers(self) -> list[Any]:
        """End the race and learn from it. The tasks to end."""
        for copy in self._copies:
            self.learn(copy)
            if not copy.done and self._run.port.kind == "threads":
                self._run.workers.append(copy)
        decided = self._decided()
        self.close(failed=decided is None or decided.error is not None)
        return [copy.task for copy in self._copies]

    def learn(self, copy: Copy) -> None:
        """Tell the rule how long a copy took, or at least took."""
        hedge = self._hedge
        if copy.took is not None:
            hedge.cell.apply(hedge.rule.observe, copy.took, cut=False)
        elif copy.error is None:
            hedge.cell.apply(hedge.rule.observe, self.now() - copy.began, cut=True)

    def close(self, *, failed: bool) -> None:
        """Tell the budget that the call is over."""
        if self._counted is not None:
            self._counted.leave(failed=failed, extra=self._paid)

    def _decided(self) -> Copy | None:
        """The copy whose end decides: one that answered, else one whose error every other copy would repeat."""
        ended = [copy for copy in self._copies if copy.done]
        answered = [copy for copy in ended if copy.error is None]
        final = [copy for copy in ended if copy.error is not None and self._kind(copy) is Kind.PERMANENT]
        return next(iter([*answered, *final]), None)

    def _worth(self, copy: Copy) -> bool:
        """Whether another copy could do better than one that failed."""
        return self._kind(copy) not in (Kind.PERMANENT, Kind.REJECTED, Kind.CANCELLED)

    def _kind(self, copy: Copy) -> Kind:
        assert copy.error is not None
        return self._run.classifier.error(copy.error).kind

    def _may_send(self) -> bool:
        """Whether one more copy is allowed, and paid for."""
        hedge = self._hedge
        if len(self._copies) > hedge.rule.copies or hedge.delay(self._run) is None:
            return False
        if hedge.budget is not None and not hedge.budget.withdraw(self.now()):
            hedge.emit("hedge.budget_spent", pipeline=self._run.pipeline.name)
            return False
        self._paid += 1.0
        hedge.sent += 1
        hedge.emit("hedge.sent", copy=len(self._copies) + 1, pipeline=self._run.pipeline.name)
        return True

    def _send(self) -> None:
        assert self._compete is not None
        copy, port = Copy(self), self._run.port
        self._copies.append(copy)
        copy.on_done(partial(wake, self.flag))
        delay = self._hedge.delay(self._run)
        self._next_at = None if delay is None else self.now() + delay
        if port.kind == "threads":
            job = self._run.pipeline.clock.job()
            copy.task = port.spawn(_at_work, job, self._compete, copy, self._inner, self._run.twin())
        else:
            copy.task = port.spawn(self._compete, copy, self._inner, self._run.twin())


def _at_work(job: Any, compete: Callable[..., Any], *args: Any) -> None:
    """A copy on a thread, which a virtual clock does not jump over."""
    with job:
        compete(*args)
