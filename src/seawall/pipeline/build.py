"""From a table of a configuration file to a policy. Every kind of policy that a file can hold is in one table here."""

from __future__ import annotations

import builtins
import difflib
import inspect
from collections.abc import Callable
from typing import Any, Final

from seawall.core import errors
from seawall.pipeline.adaptive_limit import AdaptiveLimit
from seawall.pipeline.adaptive_timeout import AdaptiveTimeout
from seawall.pipeline.admission import AdmissionControl
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.cache import Cache
from seawall.pipeline.fallback import Fallback
from seawall.pipeline.hedge import Hedge
from seawall.pipeline.limiter import RateLimiter
from seawall.pipeline.policy import Policy
from seawall.pipeline.retry import Retry, transient
from seawall.pipeline.retry_budget import RetryBudget
from seawall.pipeline.throttle import Throttle
from seawall.pipeline.timeout import Timeout
from seawall.policies.backoff import Backoff

KINDS: Final[dict[str, Callable[..., Policy]]] = {
    "adaptive_limit": AdaptiveLimit,
    "adaptive_timeout": AdaptiveTimeout,
    "admission_control": AdmissionControl,
    "cache": Cache,
    "timeout": Timeout,
    "retry": Retry,
    "circuit_breaker": CircuitBreaker,
    "bulkhead": Bulkhead,
    "rate_limiter": RateLimiter,
    "hedge": Hedge,
    "fallback": Fallback,
    "throttle": Throttle,
}
"""What a file may call a policy, and what it becomes."""

_IN_CODE: Final = {
    "clock",
    "delay",
    "failures",
    "store",
    "weigh",
    "size_bytes",
    "negative",
}  # parameters that are objects or functions: they belong in code


class BadTable(ValueError):
    """A table that makes no policy. words: what to look for in the file to find the place, the most precise first."""

    def __init__(self, message: str, *words: str) -> None:
        super().__init__(message)
        self.words = words


def policy_of(entry: object) -> Policy:
    """The policy of one entry such as `{ timeout = "2s" }` or `{ retry = { attempts = 4 } }`. Raises BadTable."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise BadTable(f'a policy is a table with one name, such as {{ timeout = "2s" }}; got {entry!r}', "policies")
    ((kind, value),) = entry.items()
    make = KINDS.get(kind)
    if make is None:
        raise BadTable(f"unknown policy {kind!r}{suggest(kind, tuple(KINDS))}", kind)
    options = dict(value) if isinstance(value, dict) else {_first(make): value}
    known = tuple(name for name in inspect.signature(make).parameters if name not in _IN_CODE)
    for name in options:
        if name not in known:
            raise BadTable(f"{kind} has no option {name!r}{suggest(name, known)}", name)
    word = kind
    try:
        arguments = {}
        for word, given in options.items():
            arguments[word] = _read(word, given)
        return make(**arguments)
    except (ValueError, TypeError) as error:
        named = next((name for name in options if str(error).startswith(name)), word)
        given = str(options.get(named, value))
        raise BadTable(f"{kind}: {error}", f"{named} = {given}", f'"{given}"', f"{kind} = {given}", named, kind) from error


def _read(name: str, value: Any) -> Any:
    """A value of a file as a policy wants it: false stands for None, tables for Backoff and RetryBudget."""
    if name == "on":
        return transient if value == "transient" else tuple(map(_exception, value if isinstance(value, list) else [value]))
    if value is False and name != "penalise":
        return None
    if name in ("backoff", "open_for") and isinstance(value, dict):
        return Backoff(**value)
    if name == "budget" and isinstance(value, dict):
        return RetryBudget(**value)
    return value


def _exception(name: object) -> type[Exception]:
    kind = getattr(builtins, str(name), None) or getattr(errors, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise ValueError(
            f"on must name exceptions of Python or Seawall, such as ConnectionError; got {name!r}; others belong in code"
        )
    return kind


def _first(make: Callable[..., Policy]) -> str:
    return next(iter(inspect.signature(make).parameters))


def suggest(word: str, known: tuple[str, ...]) -> str:
    """What may have been meant by a word that is not known."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
