"""The circuit breaker as people use it: the rule, its cell, and the verbs for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from seawall.core.clock import Clock
from seawall.core.errors import CircuitOpen
from seawall.core.outcome import SUCCEEDED, Kind, Outcome, Verdict
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.policies.backoff import Backoff
from seawall.policies.circuit_breaker import BreakerRule, BreakerState, Mode, Probe, State
from seawall.policies.verdict import Rejection

Failures = type[Exception] | tuple[type[Exception], ...] | Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """One circuit at one moment.

    state: see `CircuitBreaker.state`. calls, failed, slow: what the window holds while closed, else 0. streak: failures in
    a row. retry_after: seconds until it lets a probe through, 0 when it is not open. probes_out: probes that run now.
    share: the share of calls that pass now, in [0, 1].
    opened: how often it opened; rejected: how many calls it refused (or would have, while observing); both since made.
    """

    kind: str
    name: str
    state: State
    calls: int
    failed: int
    slow: int
    streak: int
    retry_after: float
    probes_out: int
    share: float
    opened: int
    rejected: int


class CircuitBreaker(Guarding[BreakerState]):
    """Stop calling what is broken, and find out gently whether it is well again.

    consecutive_failures: failures in a row that open it, >= 1. Default 5; None = this rule is off.
    failure_ratio: share of failed calls in the window that opens it, in (0, 1]. Default 0.5; None = off.
    minimum_calls: calls in the window below which no ratio is looked at, >= 1. Default 10.
    window: seconds that a call is remembered, > 0, or text such as "1min". Default 30.
    window_calls: remember the last so many calls instead, >= consecutive_failures. Default None = by time.
    slow_call: seconds beyond which a call counts as slow, > 0; waiting in queues is not counted. Default None = off.
    slow_ratio: share of slow calls in the window that opens it, in (0, 1]. Default 0.8.
    open_for: seconds that it stays open, > 0, or a Backoff whose length grows with each opening that follows a failed
        half-open. Default 5. A callee's Retry-After can lengthen it, up to 60.
    probes: calls let through in half-open before it decides, >= 1. Default 3. It decides as soon as the rest cannot change
        the answer; the failure_ratio holds for them too.
    probes_at_once: of these, how many may run at the same time, in [1, probes]. Default 1.
    probe_lease: seconds after which a probe that has not come back counts as failed. Default None = open_for.
    ramp: seconds over which the share of calls that pass grows from a tenth to all after it has recovered, > 0; one failure
        meanwhile reopens it. `state` says "half_open" for so long. Default None = all pass at once.
    failures: what counts as a failure: exception types (all others say nothing), or a predicate over the error or the
        result. Default None = the pipeline's classifier: every exception but cancellation, our own rejections and permanent
        errors (4xx, ValueError, TypeError).
    name, clock: see `Policy`.

    Raises CircuitOpen for a call that it refuses; ValueError or TypeError for a parameter out of range.
    Sources: Finagle's failure accrual (the two rules joined by "or"), resilience4j (windows, slow calls), gobreaker (epochs).
    """

    kind = "circuit_breaker"
    told_as = "breaker"
    error = CircuitOpen

    def __init__(
        self,
        *,
        consecutive_failures: int | None = 5,
        failure_ratio: float | None = 0.5,
        minimum_calls: int = 10,
        window: float | str = 30,
        window_calls: int | None = None,
        slow_call: float | str | None = None,
        slow_ratio: float = 0.8,
        open_for: float | str | Backoff = 5,
        probes: int = 3,
        probes_at_once: int = 1,
        probe_lease: float | str | None = None,
        ramp: float | str | None = None,
        failures: Failures | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = BreakerRule(
            consecutive_failures=consecutive_failures,
            failure_ratio=failure_ratio,
            minimum_calls=minimum_calls,
            window=window,  # type: ignore[arg-type]  # the rule reads text
            window_calls=window_calls,
            slow_call=slow_call,  # type: ignore[arg-type]
            slow_ratio=slow_ratio,
            open_for=open_for,  # type: ignore[arg-type]
            probes=probes,
            probes_at_once=probes_at_once,
            probe_lease=probe_lease,  # type: ignore[arg-type]
            ramp=ramp,  # type: ignore[arg-type]
        )
        self._failures, self._types = _read_failures(failures)
        self.keyed = False
        super().__init__(self.rule, name=name, clock=clock)

    # --- verbs for people

    @property
    def state(self) -> State:
        """ "closed", "open", "half_open", "isolated", "disabled" or "observing"."""
        return self.rule.state(self.cell.state)

    def isolate(self) -> None:
        """Refuse every call until `reset`."""
        self._set_mode("isolated")

    def disable(self) -> None:
        """Let every call through and count nothing, until `reset`."""
        self._set_mode("disabled")

    def observe(self) -> None:
        """Count everything and refuse nothing, telling what it would have refused, until `reset`."""
        self._set_mode("observing")

    def reset(self) -> None:
        """Back to closed with an empty window; results of calls that run now change nothing."""
        self.cell.apply(self.rule.reset, self.clock.monotonic())

    def doubt(self, epoch: int) -> bool:
        """Find out with probes whether the callee is well, because others say it is not. epoch: `cell.state.epoch` at the time
        they were asked; nothing happens unless the circuit is closed and still in it. Whether it went to half-open."""
        return bool(self.cell.apply(self.rule.doubt, self.clock.monotonic(), epoch))

    def snapshot(self) -> BreakerSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read, self.clock.monotonic())

    def take_over(self, old: Policy) -> None:
        """Keep the circuit and what its window holds; a window of another kind begins empty."""
        super().take_over(old)
        assert isinstance(old, CircuitBreaker)
        self.cell, old.rule = old.cell.handed_to(self, self.rule), self.rule
        self.rejected = old.rejected
        self.cell.apply(self.rule.retune, self.clock.monotonic())

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing: closed, with nothing in its window."""
        shot = self.snapshot()
        return shot.state == "closed" and shot.calls == 0

    @property
    def judges_results(self) -> bool:
        """Whether a predicate of its own looks at results."""
        return self._failures is not None

    # --- the guard's part

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule."""
        return self.cell.apply(self.rule.admit, now, self._chance(self.cell.state.window is None))

    def turn_away(self, pipeline: str) -> CircuitOpen | None:
        """The refusal of a call while it is open or isolated, counted and told as ever; None when it might let one pass."""
        state, now = self.cell.state, self.clock.monotonic()
        if state.mode != "isolated" and (state.mode is not None or state.phase != "open" or now >= state.open_until):
            return None
        answer = self.cell.apply(self.rule.admit, now)
        if not isinstance(answer, Rejection):  # it opened up between the look and the question
            self.cell.apply(self.rule.settle, now, answer, Outcome.IGNORED)
            return None
        refused: CircuitOpen = self.told_refusal(answer, pipeline)
        return refused

    def judge_result(self, value: Any, run: Run) -> Verdict:
        """By the user's predicate if there is one, else by the classifier."""
        if self._failures is not None:
            return Verdict(Kind.ERROR) if self._failures(value) else SUCCEEDED
        return super().judge_result(value, run)

    def judge_error(self, error: BaseException, run: Run) -> Verdict:
        """By the user's types or predicate if given, else by the classifier. Cancellation and rejections say nothing."""
        verdict = run.classifier.error(error)
        if verdict.kind in (Kind.CANCELLED, Kind.REJECTED) or (self._failures is None and self._types is None):
            return verdict
        failed = isinstance(error, self._types) if self._types is not None else bool(self._ask(error))
        return Verdict(Kind.ERROR, verdict.retry_after) if failed else Verdict(Kind.PERMANENT)

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Count the result."""
        now, took = held.run.port.now(), held.took or 0.0
        slow = self.rule.slow_call is not None and took > self.rule.slow_call
        if verdict.kind is Kind.THROTTLED and verdict.retry_after and self.keyed:
            self.cell.apply(self.rule.pause, now, permit, verdict.retry_after)
        self.cell.apply(
            self.rule.settle,
            now,
            permit,
            outcome,
            took=took,
            hint=verdict.retry_after,
            u=self._chance(slow or outcome is not Outcome.SUCCESS or isinstance(permit, Probe)),
        )

    def _chance(self, wanted: bool) -> float:  # noqa: FBT001  # not public
        """A draw for the jitter of the open time, when this step may open it: a seeded source is drawn from as seldom as
        compiled code draws."""
        return self.clock.random.random() if wanted and isinstance(self.rule.open_for, Backoff) else 0.5

    def _ask(self, error: BaseException) -> bool:
        assert self._failures is not None
        return self._failures(error)

    def _set_mode(self, mode: Mode) -> None:
        self.cell.apply(partial(self.rule.set_mode, mode=mode), self.clock.monotonic())

    def _read(self, state: BreakerState, now: float) -> BreakerSnapshot:
        counts = state.current.counts(now) if state.current is not None else None
        return BreakerSnapshot(
            kind=self.kind,
            name=self.name,
            state=self.rule.state(state),
            calls=counts.calls if counts else 0,
            failed=counts.failed if counts else 0,
            slow=counts.slow if counts else 0,
            streak=counts.streak if counts else 0,
            retry_after=max(0.0, state.open_until - now) if state.phase == "open" else 0.0,
            probes_out=len(state.out),
            share=self.rule.share(state, now),
            opened=state.opened,
            rejected=self.rejected,
        )


def _read_failures(failures: Any) -> tuple[Callable[[Any], bool] | None, tuple[type[Exception], ...] | None]:
    if failures is None:
        return None, None
    types = failures if isinstance(failures, tuple) else (failures,)
    if types and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        return None, types
    if callable(failures) and not isinstance(failures, type):
        return failures, None
    raise TypeError(f"failures must be exception types or a predicate over error or result; got {failures!r}")
