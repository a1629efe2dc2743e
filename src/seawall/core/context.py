"""What travels with a call: deadline, attempt, priority, identity, in context variables.

It follows tasks by itself, our own threads and executors because they `carry` it, and nothing else: `detached()` cuts it
for fire-and-forget work, and our background loops start without it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, ParamSpec, TypeVar

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.nesting import retries_around

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")
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


Armed = list[Any]
"""A limit while it runs: [moment, task, cancellations the task had, whether it went off, mark]. Compiled code makes it by one
list display, because an object of a class would cost three times as much; see `core/lanes.py`."""

EMPTY: Final = Context()
VARIABLE: Final[contextvars.ContextVar[Context]] = contextvars.ContextVar("seawall", default=EMPTY)
"""All but deadline and key, which change with every call and therefore stand alone: setting a float costs a tenth."""
DEADLINE: Final[contextvars.ContextVar[float | Armed | None]] = contextvars.ContextVar("seawall.deadline", default=None)
KEY: Final[contextvars.ContextVar[str | list[Any] | None]] = contextvars.ContextVar("seawall.key", default=None)
"""A key, or a list that holds the source of chance it will be drawn from once somebody asks, and then the key."""


def current() -> Context:
    """The context of the code that asks."""
    context, deadline, key = VARIABLE.get(), deadline_at(), call_key()
    around = list(retries_around())
    if around and around[0][1]:
        context = replace(context, attempt=1, retry=around[0][0].made_at)
    depth = context.depth + sum(first for _, first in around)
    if deadline is None and key is None and depth == context.depth:
        return context
    return replace(context, deadline=deadline, key=key, depth=depth)


def deadline_at() -> float | None:
    """The nearest deadline, in monotonic seconds of the clock, or None."""
    held = DEADLINE.get()
    return held[0] if isinstance(held, list) else held


def remaining() -> float | None:
    """Seconds left until the nearest deadline, never below 0; None when there is no deadline."""
    nearest = deadline_at()
    return None if nearest is None else max(0.0, nearest - clocks.default().monotonic())


def call_key() -> str | None:
    """The idempotency key of the guarded call that runs now: the same through retries. None outside a marked call."""
    held = KEY.get()
    if not isinstance(held, list):
        return held
    if len(held) == 1:  # two threads may both draw: the first one's key is the one that both read
        held.append(f"{held[0].getrandbits(128):032x}")
    return str(held[1])


@contextmanager
def deadline(seconds: float | str) -> Iterator[float]:
    """Give everything inside an absolute moment to be done; nested deadlines only shrink it: the nearest one wins.

    seconds: length from now, > 0, or text such as "250ms". Yields the moment that holds inside.
    Guarded async calls inside are cut at that moment (`TimedOut`); guarded sync calls are not begun after it, waits that
    cannot fit are refused at once, and callees read `sw.remaining()`. Raises ValueError or TypeError for a bad length.
    """
    at = clocks.default().monotonic() + units.seconds("seconds", seconds)
    nearest = deadline_at()
    if nearest is not None and nearest <= at:
        yield nearest
        return
    with _scope(DEADLINE, at):
        yield at


@contextmanager
def priority(level: Priority) -> Iterator[None]:
    """Mark everything inside as "critical", "default" or "sheddable". Raises ValueError for another word."""
    units.one_of("level", level, PRIORITIES)
    with _scope(VARIABLE, replace(VARIABLE.get(), priority=level)):
        yield


@contextmanager
def detached() -> Iterator[None]:
    """Cut the context for work that outlives its caller: no deadline, no attempt, no key inside."""
    with _scope(VARIABLE, EMPTY), _scope(DEADLINE, None), _scope(KEY, None):
        yield


def cut_off() -> None:
    """Cut the context of a task or thread of our own, for the rest of its life."""
    VARIABLE.set(EMPTY)
    DEADLINE.set(None)
    KEY.set(None)


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """Bind `function` to the context of now, for threads and executors that are not ours.

    The result may run many times and at once, each time in a copy of the context that was current here.
    """
    captured = contextvars.copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        return captured.copy().run(function, *args, **kwargs)

    return carried


@contextmanager
def _scope(variable: contextvars.ContextVar[V], value: V) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
