"""A permit while a call holds it: it is judged once, settled once, and never lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seawall.core.outcome import Kind, Outcome, Verdict
from seawall.policies.verdict import Rejection, Ticket

if TYPE_CHECKING:
    from seawall.pipeline.ending import Ending
    from seawall.pipeline.guarding import Guarding
    from seawall.pipeline.run import Run

_UNJUDGED = Verdict(Kind.CANCELLED)


class Held:
    """One policy's permit for one call. `permit` is None when the policy only observes and would have refused."""

    __slots__ = (
        "_judged",
        "_outcome",
        "_verdict",
        "_waited",
        "_workers",
        "permit",
        "policy",
        "run",
        "started",
        "ticket",
        "took",
    )

    def __init__(self, policy: Guarding[Any], run: Run, now: float) -> None:
        self.policy = policy
        self.run = run
        self.started = now
        self.permit: Any = None
        self.ticket: Ticket | None = None
        self.took: float | None = None
        self._waited = run.waited
        self._workers = len(run.workers)
        self._judged = False
        self._verdict = _UNJUDGED
        self._outcome = Outcome.IGNORED

    @property
    def succeeded(self) -> bool:
        """Whether the call was judged a success."""
        return self._outcome is Outcome.SUCCESS

    @property
    def queued(self) -> float:
        """Seconds that the call has stood in queues since this permit was had."""
        return self.run.waited - self._waited

    def still_running(self) -> list[Ending]:
        """Worker threads that were begun under this permit, were given up on, and have not ended."""
        return [worker for worker in self.run.workers[self._workers :] if not worker.done]

    # --- waiting for it

    def pending(self) -> float | None:
        """Seconds this waiter may still wait, or None when it has its permit. Raises Rejected when its time is over."""
        assert self.ticket is not None
        now = self.run.port.now()
        answer = self.policy.poll(self.ticket, now)
        if isinstance(answer, Rejection):
            self._seated(now)
            self.policy.refuse(answer, self.run)
            return None
        if isinstance(answer, float):
            return answer
        self.permit = answer
        self._seated(now)
        return None

    def abandon(self) -> None:
        """The waiter gives up, cancelled or interrupted; whatever it was granted meanwhile passes on."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            self.policy.leave(ticket, self.run.port.now())

    def _seated(self, now: float) -> None:
        assert self.ticket is not None
        self.run.waited += now - self.ticket.since  # a slow queue is not a slow callee
        self._waited = self.run.waited
        self.started = now
        self.ticket = None

    # --- judging and settling

    def judge(self, value: Any) -> None:
        """Classify a result. A predicate of the user's that raises leaves the call ignored."""
        self._judged = True  # also when a predicate raises
        self._measure()
        self.decide(self.policy.judge_result(value, self.run))

    def decide(self, verdict: Verdict) -> None:
        """Take the verdict of a result."""
        self._judged = True
        self._measure()
        self._decide(verdict)

    def fail(self, error: BaseException) -> None:
        """Classify an error, once."""
        if self._judged:
            return
        self._judged = True
        self._measure()
        assert self.took is not None
        cut = self.run.cut(error, self.took)
        verdict = self.policy.judge_error(error, self.run)
        self._decide(verdict, cut if verdict.outcome is not Outcome.SUCCESS else None)

    def settle(self) -> None:
        """Hand the permit back through the run, which may keep it until a stream has ended."""
        self.run.settle(self)

    def release(self) -> None:
        """Hand the permit back now, with its judgement."""
        permit, self.permit = self.permit, None
        if permit is not None:
            self._measure()
            self.policy.release(self, permit, self._outcome, self._verdict)

    def end(self, error: BaseException | None) -> None:
        """The stream that held this permit is over: well, with an error, or closed early."""
        if error is not None:
            self._judged = False
            self.fail(error)
        self.release()

    def _measure(self) -> None:
        if self.took is None:
            elapsed = self.run.port.now() - self.started
            self.took = max(0.0, elapsed - (self.run.waited - self._waited))

    def _decide(self, verdict: Verdict, cut: Outcome | None = None) -> None:
        self._verdict = verdict
        self._outcome = verdict.outcome if cut is None else cut
