"""Policies of the guard shape: ask for a permit, call, settle. Breaker, bulkhead and limiter differ only in their rule."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from seawall.core.clock import Clock
from seawall.core.errors import Rejected
from seawall.core.events import everywhere
from seawall.core.outcome import SUCCEEDED, Outcome, Verdict
from seawall.pipeline.cell import Cell, Rule
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import Run
from seawall.policies.verdict import Rejection, Ticket

S = TypeVar("S")


class Guarding(Policy, Generic[S]):
    """A policy that issues permits out of a cell.

    rejected: how many calls it refused, or would have refused while observing, since it was made.
    """

    error: type[Rejected] = Rejected
    told_as: ClassVar[str | None] = None
    """What its events begin with; None = its kind."""
    cell_kind: ClassVar[type[Cell[Any]]] = Cell

    def __init__(self, rule: Rule[S], *, name: str | None, clock: Clock | None) -> None:
        super().__init__(name=name, clock=clock)
        self.cell: Cell[S] = self.cell_kind(self, rule)
        self.rejected = 0

    # --- what a kind of guard says for itself

    @abstractmethod
    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule: a permit, a Ticket or a Rejection."""

    @abstractmethod
    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Settle a permit."""

    def poll(self, ticket: Ticket, now: float) -> Any:
        """What a waiter looks at: its permit, a Rejection, or the seconds it may still wait."""
        raise TypeError(f"{type(self).__name__} has no queue")

    def leave(self, ticket: Ticket, now: float) -> None:
        """A waiter gives up."""
        raise TypeError(f"{type(self).__name__} has no queue")

    def judge_result(self, value: Any, run: Run) -> Verdict:
        """What a returned value says."""
        return run.classifier.result(value) if run.classifier.judges_results else SUCCEEDED

    def judge_error(self, error: BaseException, run: Run) -> Verdict:
        """What an error says."""
        return run.classifier.error(error)

    # --- the shape

    def enter(self, run: Run) -> Held:
        """Begin to hold a permit, or a ticket to wait with. Raises Rejected."""
        held = Held(self, run, run.port.now())
        answer = self.admit(run, held.started)
        if isinstance(answer, Rejection):
            self.refuse(answer, run)
        elif isinstance(answer, Ticket):
            if run.pipeline.only_observes(self):
                self.pass_by(answer, run)
            else:
                held.ticket = answer
        else:
            held.permit = answer
        return held

    def refuse(self, rejection: Rejection, run: Run) -> None:
        """Count a refusal, tell of it and raise it; where it only observes, count and tell."""
        observed = run.pipeline.only_observes(self)
        error = self.told_refusal(rejection, run.pipeline.name, observed=observed)
        if not observed:
            raise error

    def told_refusal(self, rejection: Rejection, pipeline: str, *, observed: bool = False) -> Any:
        """The error of a refusal, which is counted and told of."""
        self.rejected += 1
        if self.sinks or everywhere:
            kind = f"{self.told_as or self.kind}.{'would_reject' if observed else 'rejected'}"
            self.emit(kind, reason=rejection.reason, retry_after=rejection.retry_after, pipeline=pipeline)
        return self.error(f"{self.name} {rejection.reason}", policy=self.name, retry_after=rejection.retry_after)

    def pass_by(self, ticket: Ticket, run: Run) -> None:
        """Tell of a wait that is not waited, because the policy only observes; the place in the queue goes to nobody."""
        self.leave(ticket, run.port.now())
        self.emit(f"{self.told_as or self.kind}.would_wait", pipeline=run.pipeline.name)

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Guard what is inside."""
        return partial(twins.guard, self, inner)

    def restart(self) -> None:
        """Forget everything that happened, in place."""
        self.rejected = 0
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own, and nothing held by threads that are not here."""
        self.cell.reopen()
