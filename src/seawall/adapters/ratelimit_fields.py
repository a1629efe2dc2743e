"""The RateLimit header fields (draft-ietf-httpapi-ratelimit-headers) and Retry-After: written for callers, read from callees."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import http_sf

from seawall.core.outcome import parse_retry_after
from seawall.core.units import Limit
from seawall.pipeline.limiter import Decision, RateLimiter

LONGEST_PAUSE: Final = 60.0
"""Seconds up to which a callee's wish is obeyed: a hostile one could ask for a year."""
LONGEST_VALUE: Final = 1024
_LEGACY: Final = (("ratelimit-remaining", "ratelimit-reset"), ("x-ratelimit-remaining", "x-ratelimit-reset"))
_EPOCH: Final = 1e9
"""A reset above this is a moment since 1970, as some send it, and not a length."""


def fields(
    decision: Decision,
    limits: Sequence[Limit],
    *,
    name: str = "default",
    legacy: bool = False,
    later: float = 0.0,
) -> dict[str, str]:
    """The fields that tell a caller of a decision: RateLimit-Policy, RateLimit, and Retry-After when it was refused.

    limits: all limits of the limiter, in order. name: what the first is called; the others have a number behind it.
    legacy: also X-RateLimit-Limit, -Remaining and -Reset. Default False. later: seconds added to Retry-After and to the
    reset of a refusal, so that callers do not all come back at once. Default 0.
    """
    names = [name if index == 0 else f"{name}-{index + 1}" for index in range(len(limits))]
    policies = [(each, _policy(limit)) for each, limit in zip(names, limits, strict=True)]
    binding = next((each for each, limit in zip(names, limits, strict=True) if limit == decision.limit), name)
    wait = decision.reset_after if decision.allowed else decision.retry_after + later
    state: dict[str, Any] = {"r": decision.remaining}
    if math.isfinite(wait):
        state["t"] = math.ceil(wait)
    structures: list[Any] = [policies, [(binding, state)]]
    found = dict(zip(("RateLimit-Policy", "RateLimit"), map(http_sf.ser, structures), strict=True))
    if not decision.allowed and math.isfinite(wait):
        found["Retry-After"] = str(max(1, math.ceil(wait)))
    if legacy:
        found["X-RateLimit-Limit"] = str(decision.limit.count)
        found["X-RateLimit-Remaining"] = str(decision.remaining)
        if math.isfinite(wait):
            found["X-RateLimit-Reset"] = str(math.ceil(wait))
    return found


def pause(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that a callee asks us to stay away, at most 60; None when it does not.

    Retry-After wins; else the fullest of RateLimit (new form), RateLimit-Remaining/-Reset and X-RateLimit-Remaining/-Reset
    that has nothing left. headers: of the answer, looked up in any case. now: seconds since 1970, for what is told as a moment.
    What cannot be read says nothing.
    """
    lower = {key.lower(): value for key, value in headers.items() if isinstance(value, str) and len(value) <= LONGEST_VALUE}
    asked = parse_retry_after(lower["retry-after"], lower.get("date")) if "retry-after" in lower else None
    if asked is None:
        waits = [*_from_fields(lower.get("ratelimit", "")), *_from_legacy(lower, now)]
        asked = max(waits, default=None)
    return None if asked is None or not asked > 0 else min(asked, LONGEST_PAUSE)


def obey(limiter: RateLimiter, key: Hashable, headers: Mapping[str, str]) -> float | None:
    """Hold the key for as long as the callee's answer asks; with a store, in every process that shares the limiter. The pause,
    or None. Sync; `aobey` is its twin."""
    length = pause(headers, now=limiter.clock.wall())
    if length is not None:
        limiter.penalise(key, length)
    return length


async def aobey(limiter: RateLimiter, key: Hashable, headers: Mapping[str, str]) -> float | None:
    """As `obey`, for async code."""
    length = pause(headers, now=limiter.clock.wall())
    if length is not None:
        await limiter.apenalise(key, length)
    return length


def _policy(limit: Limit) -> dict[str, Any]:
    """q and w of a limit: w is whole seconds, so what has a shorter period is told per second."""
    seconds = max(1, round(limit.per))
    quota = limit.count if limit.per >= 1 else round(limit.count / limit.per)
    return {"q": quota, "w": seconds}


def _from_fields(value: str) -> list[float]:
    if not value:
        return []
    try:
        items = http_sf.parse(value.encode("latin-1", "replace"), tltype="list")
    except ValueError:
        return []
    found = []
    for item in items if isinstance(items, list) else []:
        parameters = item[1] if isinstance(item, tuple) else {}
        left, reset = parameters.get("r"), parameters.get("t")
        if isinstance(left, int) and isinstance(reset, int) and left <= 0:
            found.append(float(reset))
    return found


def _from_legacy(lower: Mapping[str, str], now: float) -> list[float]:
    found = []
    for remaining, reset in _LEGACY:
        left, when = _number(lower.get(remaining)), _number(lower.get(reset))
        if left is not None and when is not None and left <= 0:
            found.append(when - now if when > _EPOCH else when)
    return found


def _number(value: str | None) -> float | None:
    if value is None or len(value) > 20:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
