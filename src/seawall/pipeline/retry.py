"""The retry as people use it: which errors are worth another try, and one call's course through its attempts."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Token
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.context import VARIABLE, Context
from seawall.core.errors import Rejected, TimedOut
from seawall.core.findings import Finding, tell
from seawall.core.nesting import outer_retry
from seawall.core.outcome import Kind, Repeat, Verdict, hint
from seawall.core.runtime import refuse_under_loop
from seawall.pipeline import guard_sync
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.retry_budget import BudgetSnapshot, RetryBudget
from seawall.pipeline.run import Run
from seawall.policies.backoff import Backoff
from seawall.policies.retry import RetryRule


class _Transient:
    """The default of `Retry(on=)`: what the classifier calls transient."""

    def __repr__(self) -> str:
        return "seawall.transient"


transient: Final = _Transient()
"""Repeat what the classifier calls transient; calls not marked idempotent only where nothing can have happened."""

_OWN: Final = RetryBudget(name="default budget")  # stands for "a budget of its own"; never spent from

On = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], bool] | _Transient


@dataclass(frozen=True, slots=True)
class RetrySnapshot:
    """One retry at one moment. retried: attempts it added since made; gave_up: calls that failed in spite of it."""

    kind: str
    name: str
    attempts: int
    retried: int
    gave_up: int
    budget: BudgetSnapshot | None


class Retry(Policy):
    """Try again what is worth another try, with growing, jittered waits, within a budget and the deadline.

    attempts: calls in all, the first included, >= 1. Default 3.
    on: which failures. Default `transient` reads the classifier, and repeats calls that are not marked idempotent only when
        nothing can have happened (never sent, connect timeout) or the callee said so (throttled). An exception type, a
        tuple of them, or a predicate over error or result is the user's own judgement and is repeated as said. A Rejected
        or an expired outer deadline is never repeated unless its type is named.
    backoff: the waits between attempts. Default Backoff(): exponential from 0.1 s, capped at 5 s, full jitter.
    budget: the share of traffic that may be retries. Default a RetryBudget() of its own; None = no budget.
    cost: what one retry takes from the budget, > 0, or a function of the call's arguments, for calls of unlike weight. Default 1.
    retry_after_cap: seconds up to which a callee's Retry-After is obeyed, >= 0; it can only lengthen a wait. Default 60.
    nested: what to do inside another Retry, whose attempts would multiply with these: "warn" (default) says so once, naming
        both source lines; "yield" makes one attempt and leaves the rest to the outer one; "allow" says nothing.
    name, clock: see `Policy`.

    The last error leaves as it came, with a note (PEP 678) that says why no further attempt was made. A wait that cannot fit
    the deadline is not begun. Raises ValueError or TypeError for a parameter out of range.
    """

    kind = "retry"
    acts_while_observing = True
    why_no_block = "Retry repeats the call, and a block cannot be repeated; use `for attempt in retry.attempts()`"

    def __init__(
        self,
        attempts: int = 3,
        *,
        on: On = transient,
        backoff: Backoff | None = None,
        budget: RetryBudget | None = _OWN,
        retry_after_cap: float | str = 60,
        cost: float | Callable[..., float] = 1.0,
        nested: Literal["warn", "yield", "allow"] = "warn",
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        cap: Any = retry_after_cap
        self.rule = RetryRule(attempts=attempts, backoff=Backoff() if backoff is None else backoff, retry_after_cap=cap)
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None; got {budget!r}")
        super().__init__(name=name, clock=clock)
        self.cost = cost if callable(cost) else units.number("cost", cost, least=1e-9)
        self.budget = RetryBudget(clock=clock) if budget is _OWN else budget
        self.on = on
        self.nested = units.one_of("nested", nested, ("warn", "yield", "allow"))
        self.made_at = _caller()
        self.types, self._predicate = _read_on(on)
        self.may_wait = attempts > 1
        self.retried = 0
        self.gave_up = 0
        self._warned = False

    def adopt(self, name: str, clock: Clock | None) -> None:
        """Take the budget along."""
        super().adopt(name, clock)
        if self.budget is not None:
            self.budget.adopt(f"{self.name}-budget", clock)

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Repeat what is inside."""
        return partial(twins.retry, self, inner)

    def course(self, run: Run) -> Course:
        """Begin one call's course through its attempts."""
        return Course(self, run)

    def attempts(self) -> Attempts:
        """The attempts of a loop: `for attempt in retry.attempts(): with attempt: ...`, and `async for` too."""
        return Attempts(self)

    def attempts_inside(self, outer: str | None) -> int:
        """How many attempts to make inside a Retry that was made at `outer`, or None; tells of it as asked."""
        if outer is None or self.nested == "allow" or self.rule.attempts == 1:
            return self.rule.attempts
        if self.nested == "yield":
            return 1
        if not self._warned:
            self._warned = True
            self.emit("retry.nested", outer=outer, inner=self.made_at)
            reason = f"the Retry made at {self.made_at} runs inside the one made at {outer}: their attempts multiply."
            fix = 'retry at one layer only, or say nested="yield" or nested="allow" on the inner one.'
            tell(Finding("SW010", "warning", self.name, reason, fix), self.clock.monotonic())
        return self.rule.attempts

    def snapshot(self) -> RetrySnapshot:
        """What it holds now."""
        budget = None if self.budget is None else self.budget.snapshot()
        return RetrySnapshot(self.kind, self.name, self.rule.attempts, self.retried, self.gave_up, budget)

    def take_over(self, old: Policy) -> None:
        """Keep the budget and the counts."""
        super().take_over(old)
        assert isinstance(old, Retry)
        self.retried, self.gave_up = old.retried, old.gave_up
        if self.budget is not None and old.budget is not None:
            self.budget.take_over(old.budget)

    def restart(self) -> None:
        """Forget what was counted."""
        self.retried = self.gave_up = 0
        self._warned = False

    @property
    def judges_results(self) -> bool:
        """Whether a predicate of its own looks at results, or the classifier may; types look at errors alone."""
        return self._predicate is not None

    def worth(self, error: Exception, run: Run) -> Verdict | None:
        """The verdict of an error that is worth another try, or None."""
        verdict = run.classifier.error(error)
        if self.types is not None:
            return verdict if isinstance(error, self.types) and self._named(error) else None
        if self._predicate is not None:
            return verdict if not _ours(error) and self._predicate(error) else None
        return verdict if may_repeat(verdict, run) else None

    def unwanted(self, value: Any, run: Run) -> Verdict | None:
        """The verdict of a result that is worth another try, or None."""
        if self._predicate is not None:
            return Verdict(Kind.ERROR, hint(value)) if self._predicate(value) else None
        if self.types is None and run.classifier.judges_results:
            verdict = run.classifier.result(value)
            return verdict if may_repeat(verdict, run) else None
        return None

    def _named(self, error: Exception) -> bool:
        """Our own refusals are repeated only when a type of ours was named, not when a base happens to cover them."""
        if not _ours(error):
            return True
        family = Rejected if isinstance(error, Rejected) else TimedOut
        return any(isinstance(error, kind) and issubclass(kind, family) for kind in self.types or ())


class Course:
    """One call on its way through its attempts. `pause` is the wait before the next one."""

    __slots__ = (
        "_counted",
        "_ended_well",
        "_in_loop",
        "_paid",
        "_previous",
        "_token",
        "failed",
        "most",
        "number",
        "pause",
        "policy",
        "run",
    )

    def __init__(self, policy: Retry, run: Run, *, in_loop: bool = False, counted: bool = False) -> None:
        self.policy = policy
        self.run = run
        self.number = 1
        self.pause = 0.0
        self.failed = False
        self._paid = 0.0
        self._ended_well = False
        self._counted = None if counted else run.enters(policy.budget)
        self._previous: float | None = None
        self._in_loop = in_loop
        self._token: Token[Context] | None = None
        self.most = policy.rule.attempts

    def again(self, error: Exception) -> bool:
        """Whether to try again after `error`; if so, `pause` is set and the budget is charged."""
        verdict = self.policy.worth(error, self.run)
        if verdict is None:
            return False
        refused = self._schedule(verdict, error)
        if refused is None:
            return True
        self.policy.gave_up += 1
        self.policy.emit("retry.gave_up", attempts=self.number, reason=refused, error=error)
        error.add_note(f"{self.policy.name}: {refused}; {self.number} attempts made")
        return False

    def unwanted(self, value: Any) -> bool:
        """Whether to try again after a result; when it may not be, the result is returned as it is."""
        verdict = self.policy.unwanted(value, self.run)
        if verdict is None:
            self._ended_well = True
            return False
        refused = self._schedule(verdict, None)
        if refused is not None:
            self.policy.gave_up += 1
            self.policy.emit("retry.gave_up", attempts=self.number, reason=refused, error=None)
        return refused is None

    def succeeded(self, well: bool) -> None:  # noqa: FBT001  # not public
        """A loop's attempt ended, well or not."""
        self._ended_well = well

    def next(self) -> None:
        """The wait is over: the next attempt begins."""
        self.number += 1
        self.failed = False
        self.run.attempt = self.number
        self._hand_on()

    def end(self) -> None:
        """The call is over; the context is as it was, and the budget knows."""
        if self._counted is not None:
            self._counted.leave(failed=not self._ended_well, extra=self._paid)
        if self._token is not None:
            token, self._token = self._token, None
            VARIABLE.reset(token)

    def attempt(self) -> Attempt:
        """The next turn of a loop."""
        return Attempt(self)

    def _hand_on(self) -> None:
        """Tell what runs inside which attempt it is in. The first one tells nothing: setting a context costs each call."""
        if self._in_loop:  # a loop's body is the caller's own code: its context is not ours to change
            return
        context = VARIABLE.get()
        if self._token is not None:
            VARIABLE.set(replace(context, attempt=self.number))
        else:
            inside = replace(context, attempt=self.number, depth=context.depth + 1, retry=self.policy.made_at)
            self._token = VARIABLE.set(inside)

    def _schedule(self, verdict: Verdict, error: Exception | None) -> str | None:
        """Charge for and prepare another attempt; or say why there is none."""
        policy, rule, port = self.policy, self.policy.rule, self.run.port
        if self.number == 1:
            self.most = policy.attempts_inside(VARIABLE.get().retry or outer_retry(policy))
        if self.number >= self.most:
            return "no attempts left"
        pause = rule.wait(self.number, port.random(), self._previous, verdict.retry_after)
        now = port.now()
        if not rule.fits(now, pause, self.run.deadline):
            return f"a wait of {pause:.3g} s does not fit the deadline"
        if policy.budget is not None:
            cost = policy.cost if isinstance(policy.cost, float) else float(self.run.argument(policy.cost))
            if not policy.budget.withdraw(now, cost):
                policy.emit("retry.budget_spent", budget=policy.budget.name)
                return "the retry budget is spent"
            self._paid += cost
        self.pause = self._previous = pause
        self.failed = True
        policy.retried += 1
        policy.emit("retry.scheduled", attempt=self.number + 1, wait=pause, cause=verdict.kind.value, error=error)
        return None


class Attempts:
    """What `Retry.attempts()` returns; each iteration is a course of its own."""

    def __init__(self, policy: Retry) -> None:
        self._policy = policy

    def __iter__(self) -> Iterator[Attempt]:
        if self._policy.may_wait:
            refuse_under_loop("for ... in attempts()", "async for ... in attempts()")
        port = self._policy.clock.threads
        return guard_sync.attempts(self._course(port), port)

    def __aiter__(self) -> AsyncIterator[Attempt]:
        from seawall.pipeline import guard_async

        port = self._policy.clock.tasks
        return guard_async.attempts(self._course(port), port)

    def _course(self, port: Any) -> Course:
        run = Run(self._policy.whole, port, _block)
        if run.deadline is not None and port.now() >= run.deadline:
            raise TimedOut(f"{self._policy.name}: the deadline passed before the first attempt", policy="deadline", started=False)
        return Course(self._policy, run, in_loop=True)


class Attempt:
    """One turn of a loop. `with attempt:` swallows an error that is worth another try, and lets all others out.

    number: which attempt it is, from 1.
    """

    __slots__ = ("_course", "number")

    def __init__(self, course: Course) -> None:
        self._course = course
        self.number = course.number

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._course.succeeded(error is None)
        return isinstance(error, Exception) and self._course.again(error)


def may_repeat(verdict: Verdict, run: Run) -> bool:
    """Whether the classifier's verdict allows repeating this call."""
    if verdict.repeat is Repeat.IDEMPOTENT:
        return run.identity.idempotent
    return verdict.repeat is Repeat.ALWAYS


def _caller() -> str:
    """Where our user's code stands, as "file:line": the first frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("seawall."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _ours(error: Exception) -> bool:
    return isinstance(error, Rejected) or (isinstance(error, TimedOut) and error.policy == "deadline")


def _block() -> Literal["the body of a loop"]:
    return "the body of a loop"


def _read_on(on: Any) -> tuple[tuple[type[BaseException], ...] | None, Callable[[Any], bool] | None]:
    if on is transient:
        return None, None
    types = on if isinstance(on, tuple) else (on,)
    if types and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
        if all(issubclass(kind, Exception) for kind in types):
            return types, None
        raise TypeError(f"on must name subclasses of Exception, since cancellation is never repeated; got {on!r}")
    if callable(on) and not isinstance(on, type):
        return None, on
    raise TypeError(f"on must be exception types, a predicate over error or result, or transient; got {on!r}")
