"""What of the context crosses to another service, as headers, and back in at its door.

Remaining milliseconds travel, never a moment: two machines' clocks need not agree, and a skewed one cannot make a deadline lie.
At the door nothing is believed beyond its bounds: a deadline may only shrink what the server allows anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.context import DEADLINE, KEY, PRIORITIES, VARIABLE, Context, Priority, current, deadline_at
from seawall.core.events import Event, everywhere

REMAINING: Final = "Seawall-Remaining-Ms"
ATTEMPT: Final = "Seawall-Attempt"
RETRY: Final = "Seawall-Retry"
PRIORITY: Final = "Seawall-Priority"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
FENCE: Final = "Seawall-Fence"  # of a saga's step: timeline.epoch
ISSUED: Final = "Seawall-Issued"  # seconds since 1970 at which the request was made, to tell one that is too old
UNDO: Final = "Seawall-Undo"  # "1" on a request that takes back what the key stands for
LONGEST_VALUE: Final = 128  # characters of a header that are looked at
MOST_ATTEMPTS: Final = 1000
ELSEWHERE: Final = " in a calling service"
_RETRY: Final = re.compile(r'([1-9][0-9]?)(?:; ?at="([A-Za-z0-9_.:<>-]{1,80})")?')


def outgoing_headers() -> dict[str, str]:
    """The headers that tell the callee of this call: remaining milliseconds, attempt, retries around it, priority, key.

    Only what is there is sent: no deadline, no header. Milliseconds are whole, rounded down, >= 0. The retries are their number
    and where the nearest was made, as file name and line without folders, so that a Retry over there can yield or warn.
    """
    context = current()
    headers: dict[str, str] = {}
    if context.deadline is not None:
        left = max(0.0, context.deadline - clocks.default().monotonic())
        headers[REMAINING] = str(int(left * 1000))
    if context.attempt > 1:
        headers[ATTEMPT] = str(context.attempt)
    if context.depth:
        headers[RETRY] = _retries(context.depth, context.retry)
    if context.priority != "default":
        headers[PRIORITY] = context.priority
    if context.key is not None:
        headers[IDEMPOTENCY_KEY] = context.key
    return headers


@contextmanager
def incoming(
    headers: Mapping[str, str], *, longest: float | str = 60, trusted: bool = True, dark: bool = False
) -> Iterator[Context]:
    """Serve a request under the context that its headers bring. Yields the context that holds inside.

    headers: of the request; looked up as they are and in lower case.
    longest: seconds that a request may have at most, > 0; a caller's deadline can only shrink it. Default 60.
    trusted: whether the caller's priority, attempt and retries are believed. Default True.
    dark: only tell, by the event "deadline.dark", what the caller's deadline would have been. Default False.
    Values that are no plain numbers or known words, or too long, are ignored. Raises ValueError or TypeError for `longest`.
    """
    clock = clocks.default()
    limit = units.seconds("longest", longest)
    asked = _remaining(_value(headers, REMAINING))
    seconds = limit if asked is None or dark else min(limit, asked)
    if dark and asked is not None:
        everywhere.emit(Event("deadline.dark", "wire", clock.monotonic(), None, {"remaining": asked}))
    moment = clock.monotonic() + seconds
    nearest = deadline_at()
    if nearest is not None:
        moment = min(moment, nearest)
    context = VARIABLE.get()
    if trusted:
        context = replace(context, attempt=_attempt(_value(headers, ATTEMPT)), priority=_priority(_value(headers, PRIORITY)))
        context = _under(context, _value(headers, RETRY))
    tokens = VARIABLE.set(context), DEADLINE.set(moment), KEY.set(_value(headers, IDEMPOTENCY_KEY))
    try:
        yield current()
    finally:
        VARIABLE.reset(tokens[0])
        DEADLINE.reset(tokens[1])
        KEY.reset(tokens[2])


def _retries(depth: int, made_at: str | None) -> str:
    """The number of retries, and the nearest one's file and line, as an RFC 8941 item with a parameter."""
    place = (made_at or "").removesuffix(ELSEWHERE).replace("\\", "/").rsplit("/", 1)[-1]
    value = f'{min(depth, 99)};at="{place}"'
    return value if _RETRY.fullmatch(value) else str(min(depth, 99))


def _under(context: Context, value: str | None) -> Context:
    """The context inside the retries that a header tells of."""
    told = None if value is None else _RETRY.fullmatch(value)
    if told is None:
        return context
    return replace(context, depth=int(told[1]), retry=f"{told[2] or 'an unknown line'}{ELSEWHERE}")


def _value(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is None:
        value = headers.get(name.lower())
    usable = isinstance(value, str) and 0 < len(value) <= LONGEST_VALUE and value.isascii() and value.isprintable()
    return value if usable else None


def _remaining(value: str | None) -> float | None:
    return int(value) / 1000 if value is not None and value.isdigit() and len(value) <= 12 else None


def _attempt(value: str | None) -> int:
    number = int(value) if value is not None and value.isdigit() and len(value) <= 6 else 1
    return number if 1 <= number <= MOST_ATTEMPTS else 1


def _priority(value: str | None) -> Priority:
    return next((word for word in PRIORITIES if word == value), "default")
