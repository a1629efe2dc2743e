"""What travels with a call: deadline, attempt, priority, identity. One immutable value in one context variable.

It follows tasks by itself, our own threads and executors because they `carry` it, and nothing else: `detached()` cuts it
for fire-and-forget work, and our background loops start without it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal, ParamSpec, TypeVar

from seawall.core import clock as clocks
from seawall.core import units

P = ParamSpec("P")
T = TypeVar("T")
Priority = Literal["critical", "default", "sheddable"]
PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "default", "sheddable")


@dataclass(frozen=True, slots=True)
class Context:
    """What the code of a guarded call can know about itself.

    deadline: the moment (monotonic seconds of the clock) at which everything inside must be done, or None.
    attempt: the number of this attempt in the nearest Retry, from 1. depth: how many Retry policies stand around it.
    retry: where the nearest of them was made, as "file:line", or None.
    priority: "critical", "default" or "sheddable". key: the idempotency key, the same for every attempt, or None.
    connect, read: seconds that the nearest Timeout gives to these parts of a client's call, or None.
    """

    deadline: float | None = None
    attempt: int = 1
    depth: int = 0
    retry: str | None = None
    priority: Priority = "default"
    key: str | None = None
    connect: float | None = None
    read: float | None = None


EMPTY: Final = Context()
VARIABLE: Final[contextvars.ContextVar[Context]] = contextvars.ContextVar("seawall", default=EMPTY)


def current() -> Context:
    """The context of the code that asks."""
    return VARIABLE.get()


def remaining() -> float | None:
    """Seconds left until the nearest deadline, never below 0; None when there is no deadline."""
    moment = VARIABLE.get().deadline
    return None if moment is None else max(0.0, moment - clocks.default().monotonic())


def call_key() -> str | None:
    """The idempotency key of the guarded call that runs now: the same through retries. None outside a marked call."""
    return VARIABLE.get().key


@contextmanager
def deadline(seconds: float | str) -> Iterator[float]:
    """Give everything inside an absolute moment to be done; nested deadlines only shrink it: the nearest one wins.

    seconds: length from now, > 0, or text such as "250ms". Yields the moment that holds inside.
    Guarded async calls inside are cut at that moment (`TimedOut`); guarded sync calls are not begun after it, waits that
    cannot fit are refused at once, and callees read `sw.remaining()`. Raises ValueError or TypeError for a bad length.
    """
    context = VARIABLE.get()
    moment = clocks.default().monotonic() + units.seconds("seconds", seconds)
    if context.deadline is not None:
        moment = min(moment, context.deadline)
    with _scope(replace(context, deadline=moment)):
        yield moment


@contextmanager
def priority(level: Priority) -> Iterator[None]:
    """Mark everything inside as "critical", "default" or "sheddable". Raises ValueError for another word."""
    units.one_of("level", level, PRIORITIES)
    with _scope(replace(VARIABLE.get(), priority=level)):
        yield


@contextmanager
def detached() -> Iterator[None]:
    """Cut the context for work that outlives its caller: no deadline, no attempt, no key inside."""
    with _scope(EMPTY):
        yield


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """Bind `function` to the context of now, for threads and executors that are not ours.

    The result may run many times and at once, each time in a copy of the context that was current here.
    """
    captured = contextvars.copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        return captured.copy().run(function, *args, **kwargs)

    return carried


@contextmanager
def _scope(context: Context) -> Iterator[None]:
    token = VARIABLE.set(context)
    try:
        yield
    finally:
        VARIABLE.reset(token)
