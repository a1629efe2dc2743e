"""One guarded call while it runs: what the layers of a pipeline share about it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Coroutine
from contextvars import Token
from dataclasses import dataclass
from functools import lru_cache
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from seawall.core.context import KEY, Armed, deadline_at
from seawall.core.errors import Misplaced, TimedOut, WrongTwin
from seawall.core.outcome import Classifier, Outcome
from seawall.core.runtime import HIT, MARK, Mark

if TYPE_CHECKING:
    from seawall.pipeline.ending import Ending
    from seawall.pipeline.held import Held
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.retry_budget import RetryBudget


@dataclass(frozen=True, slots=True)
class Identity:
    """What the user said about a call: whether it may be repeated, and under which idempotency key.

    idempotent: repeating it does no harm. key: from the call's arguments to its key, or None for a key of our own.
    """

    idempotent: bool = False
    key: Callable[..., str] | None = None


UNMARKED: Final = Identity()


class Run:
    """One call. `deadline` is the nearest moment at which it must be done; `armed` is the limit of this very call that is nearest
    around the layer that looks, or None."""

    __slots__ = (
        "args",
        "armed",
        "attempt",
        "budgets",
        "classifier",
        "deadline",
        "drills",
        "fn",
        "held",
        "identity",
        "key",
        "kwargs",
        "pipeline",
        "port",
        "sent",
        "source",
        "started",
        "token",
        "waited",
        "workers",
    )
    streaming: ClassVar[bool] = False

    def __init__(  # noqa: PLR0917  # made once per call by the pipeline alone, where keywords would cost
        self,
        pipeline: Pipeline,
        port: Any,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        identity: Identity = UNMARKED,
    ) -> None:
        self.pipeline = pipeline
        self.classifier: Classifier = pipeline.classifier
        self.port = port
        self.fn = fn
        self.args = args
        self.kwargs = kwargs if kwargs is not None else {}
        self.identity = identity
        self.deadline = deadline_at()
        self.armed: Armed | None = None
        self.attempt = 1
        self.budgets: tuple[RetryBudget, ...] = ()
        self.waited = 0.0
        self.workers: list[Ending] = []
        self.held: list[Held] = []
        self.source: Any = None
        self.sent: Any = None
        self.key: str | list[Any] | None = None
        self.token: Token[Any] | None = None
        self.started = 0.0
        self.drills: dict[Any, Any] | None = None

    # --- the beginning and the end of the call

    def open(self) -> None:
        """Give the call its identity, and refuse it when its deadline has passed."""
        self.started = self.port.now()
        if self.deadline is not None and self.started >= self.deadline:
            raise TimedOut(f"{self.pipeline.name}: the deadline passed before the call began", policy="deadline", started=False)
        if self.identity is not UNMARKED:
            self.key = key_of(self.identity, self.pipeline, self.args, self.kwargs)
            self.enter()

    def enter(self) -> None:
        """Put the call's key into the context of the code that runs now."""
        if self.key is not None:
            self.token = KEY.set(self.key)

    def succeeded(self) -> None:
        """Tell that the call has its result."""
        self.pipeline.tell_success(self.started)

    def failed(self, error: BaseException) -> None:
        """Tell that the call leaves with an error."""
        self.pipeline.tell_failure(error, self.started)

    def close(self) -> None:
        """Take the identity off the context again."""
        if self.token is not None:
            token, self.token = self.token, None
            KEY.reset(token)

    # --- what layers ask

    def enters(self, budget: RetryBudget | None) -> RetryBudget | None:
        """The budget, when this call is not counted in it yet: two policies that share one count a call once."""
        if budget is None or budget in self.budgets:
            return None
        self.budgets = (*self.budgets, budget)
        budget.enter()
        return budget

    def argument(self, name: str | Callable[..., Any]) -> Any:
        """The value of the call's argument called `name`, or what the function `name` makes of the arguments.

        Raises Misplaced when the function has no such parameter.
        """
        if callable(name):
            return name(*self.args, **self.kwargs)
        bound = signature_of(self.fn).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        if name not in bound.arguments:
            raise Misplaced(f"{self.pipeline.name}: {self.fn!r} has no parameter {name!r} to key by")
        return bound.arguments[name]

    def cut(self, error: BaseException, took: float) -> Outcome | None:
        """What being cut by an outer limit says of the callee: FAILURE if the attempt had at least half of the limit and
        the limit is of this pipeline, else IGNORED; None when it was no such cut."""
        armed = self.armed
        if any(isinstance(mark, Mark) for mark in error.args):
            ours = armed is not None and armed[HIT]  # else it was a limit of some call around this one
        elif isinstance(error, TimeoutError) and self.deadline is not None and self.port.now() >= self.deadline:
            ours = armed is not None
        else:
            return None
        fair = ours and armed is not None and took >= armed[MARK].limit / 2
        return Outcome.FAILURE if fair else Outcome.IGNORED

    def settle(self, held: Held) -> None:
        """A layer is done with its permit."""
        held.release()

    def release_all(self, failure: BaseException | None) -> None:
        """The stream is over: settle what was held for it, innermost first."""
        for held in self.held:
            held.end(failure)

    def twin(self) -> Run:
        """A copy for another task or thread of the same kind; workers given up on are known to both."""
        other = copy.copy(self)
        other.held, other.token = [], None
        return other

    def branch(self) -> SyncRun:
        """A sync copy for a worker thread that may outlive this call, so that the two never write the same fields."""
        other = SyncRun(self.pipeline, self.pipeline.clock.threads, self.fn, self.args, self.kwargs, self.identity)
        other.deadline, other.armed = self.deadline, self.armed
        other.attempt, other.waited, other.key = self.attempt, self.waited, self.key
        return other


class SyncRun(Run):
    """A call of a plain function."""

    __slots__ = ()

    def finish(self, value: Any) -> Any:
        """Hand the callee's result on, unless it is something that would run unguarded after we return."""
        if would_run_later(value):
            refuse_late_work(self.pipeline.name, value)
        return value

    def answer(self, value: Any) -> Any:
        """Hand a fallback's value on."""
        return self.finish(value)


class AsyncRun(Run):
    """A call of an async function."""

    __slots__ = ()

    async def finish(self, value: Any) -> Any:
        """Await what the callee returned. Raises WrongTwin when that is no awaitable."""
        if not hasattr(type(value), "__await__"):
            refuse_no_work(self.pipeline.name, self.fn, value)
        return await value

    async def answer(self, value: Any) -> Any:
        """Hand a fallback's value on, awaited when it has to be."""
        return await value if hasattr(type(value), "__await__") else value


_WOULD_RUN_LATER: Final = (GeneratorType, AsyncGeneratorType)


def would_run_later(value: Any) -> bool:
    """Whether a plain function's result is work that has not happened yet."""
    return isinstance(value, _WOULD_RUN_LATER) or hasattr(type(value), "__await__")


def refuse_no_work(name: str, function: Any, value: Any) -> None:
    """Raise for the result of an async call that cannot be awaited."""
    raise WrongTwin(
        f"{name}: {function!r} returned {type(value).__name__}, which cannot be awaited; use `call` for plain functions"
    )


def refuse_late_work(name: str, value: Any) -> None:
    """Raise for a result whose work has not happened yet: outside the guard it would run silently unguarded."""
    if isinstance(value, Coroutine):
        value.close()
    if isinstance(value, _WOULD_RUN_LATER):
        raise Misplaced(
            f"{name}: the function returned a generator, whose items would run unguarded; decorate the generator function itself"
        )
    raise WrongTwin(
        f"{name}: the function returned an awaitable, which would run unguarded; "
        "use `await acall(...)`, or decorate an `async def` function"
    )


def key_of(identity: Identity, pipeline: Pipeline, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | list[Any]:
    """The key of a call: what the user's function makes of its arguments, or a source that one is drawn from on demand.

    Raises TypeError when that function returns no text.
    """
    if identity.key is None:
        return [pipeline.clock.random]
    key = identity.key(*args, **kwargs)
    if not isinstance(key, str) or not key:
        raise TypeError(f"idempotency_key must return a text that is not empty; got {key!r}")
    return key


@lru_cache(maxsize=1024)
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, remembered: reading it anew would cost more than the guarded call."""
    return inspect.signature(function)
