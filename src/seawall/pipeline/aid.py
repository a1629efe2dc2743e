"""What compiled code asks where its fast path ends: the plain guards, entered in the middle of a call.

One aid per layer of a compiled function. Each of its verbs does what the plain guard would do at that place, with the plain
guard's own objects, so that the two can share every circuit, bucket and seat and never differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seawall.core.context import KEY, Armed
from seawall.core.errors import TimedOut
from seawall.core.outcome import Outcome, Verdict
from seawall.core.runtime import AT, MARK, refuse_under_loop
from seawall.pipeline.held import Held
from seawall.pipeline.retry import Course, Retry
from seawall.pipeline.run import UNMARKED, Identity, Run

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.policy import Layer
    from seawall.pipeline.retry_budget import RetryBudget


class Aid:
    """One layer's way into the plain guards.

    make, port: the run and the runtime of this kind of function. tail, inner: the plain guards from this layer inwards, and from
    the next one. budgets: what outer layers have counted this call in. limits: the lengths of outer timeouts.
    slow: how often it was asked, for tests: a fast path that never accepts would pass every comparison.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        policy: Any,
        identity: Identity,
        *,
        is_async: bool,
        make: Callable[..., Run],
        port: Any,
        tail: Layer,
        inner: Layer,
        repeat: Callable[..., Any],
        budgets: tuple[RetryBudget, ...],
        limits: tuple[float, ...],
        retries: bool,
    ) -> None:
        self.pipeline = pipeline
        self.policy = policy
        self.identity = identity
        self.classifier = pipeline.classifier
        self.is_async = is_async
        self.make = make
        self.port = port
        self.now: Callable[[], float] = port.now
        self.tail = tail
        self.inner = inner
        self.repeat = repeat
        self.budgets = budgets
        self.limits = limits
        self.retries = retries
        self.slow = 0

    def begin(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], before: Run | None, armed: Armed | None) -> Run:
        """The run with which the plain guards go on here. Raises WrongTwin for a sync call that may wait under a running loop.

        before: the one of guards that took part earlier in this call. armed: the nearest limit of this call around the layer.
        """
        self.refuse_to_block()
        return self._run(fn, args, kwargs, before, armed)

    def refuse_to_block(self) -> None:
        """A sync call that may have to wait must not do so under a running event loop."""
        if not self.is_async and self.pipeline.may_wait:
            refuse_under_loop(f"a guarded call of {self.pipeline.name}", "acall(...) or an `async def` function")

    def _run(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], before: Run | None, armed: Armed | None) -> Run:
        self.slow += 1
        run = self.make(self.pipeline, self.port, fn, args, kwargs, self.identity)
        run.budgets = self.budgets
        run.armed = armed
        if self.identity is not UNMARKED:
            run.key = KEY.get()
        if before is not None:
            run.waited = before.waited
        return run

    # --- a circuit breaker

    def failed(self, permit: Any, error: BaseException, began: float | None, before: Run | None, armed: Armed | None) -> None:
        """Settle a call that left with an error."""
        held = self._held(permit, began, before, armed)
        held.fail(error)
        held.release()

    def judged(self, permit: Any, verdict: Verdict, began: float | None, before: Run | None, armed: Armed | None) -> None:
        """Settle a call by its result, or by how long it took."""
        held = self._held(permit, began, before, armed)
        held.decide(verdict)
        held.release()

    # --- a bulkhead

    def back(self, seat: Any) -> None:
        """Give a seat back after an error."""
        self.policy.cell.apply(self.policy.rule.settle, 0.0, seat, Outcome.IGNORED)

    def match(self) -> None:
        """Bring the seat that came back to whoever waits for it."""
        self.policy.cell.apply(self._match)

    def _match(self, state: Any) -> Any:
        return self.policy.rule.match(state)

    # --- a retry

    def again(  # noqa: PLR0917  # called by generated text, by place
        self,
        fn: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        error: Exception,
        before: Run | None,
        armed: Armed | None,
    ) -> Course | None:
        """The course that goes on after the first attempt failed, or None when the error leaves."""
        course = self._course(fn, args, kwargs, before, armed)
        if not course.again(error):
            return None
        self.refuse_to_block()
        return course

    def unsatisfied(  # noqa: PLR0917
        self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, before: Run | None, armed: Armed | None
    ) -> Course | None:
        """The course that goes on after the first attempt's result, or None when the result stands."""
        if self.policy.unwanted(value, self) is None:  # it asks for classifier and identity alone
            return None
        course = self._course(fn, args, kwargs, before, armed)
        if not course.unwanted(value):
            return None
        self.refuse_to_block()
        return course

    def _course(self, fn: Any, args: Any, kwargs: Any, before: Run | None, armed: Armed | None) -> Course:
        policy: Retry = self.policy
        run = self._run(fn, args, kwargs, before, armed)
        if policy.budget is not None:
            run.budgets = (*run.budgets, policy.budget)
        return Course(policy, run, counted=True)

    # --- a timeout

    def expired(self, before: Run | None) -> TimedOut:
        """The error of a call that was cut by this layer's limit."""
        run = self._run(None, (), {}, before, None)
        error: TimedOut = self.policy.expire(run, self.policy.seconds)
        return error

    def _held(self, permit: Any, began: float | None, before: Run | None, armed: Armed | None) -> Held:
        run = self._run(None, (), {}, None, armed)
        if began is None:  # nobody looked at the clock: where a limit of this call is armed, it says when the attempt began
            began = self.now() if armed is None else armed[AT] - armed[MARK].limit
        held = Held(self.policy, run, began)
        held.permit = permit
        if before is not None:
            run.waited = before.waited
        return held
