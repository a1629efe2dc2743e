"""From a table of a configuration file to a policy. Every kind of policy that a file can hold is in one table here."""

from __future__ import annotations

import builtins
import difflib
import inspect
from collections.abc import Callable, Mapping
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
"""What a file may call a policy in a pipeline, and what it becomes."""
SHAREABLE: Final[dict[str, Callable[..., Policy]]] = {**KINDS, "retry_budget": RetryBudget}
"""What a file may hold under a name of its own, for pipelines to share."""

_IN_CODE: Final = {
    "clock",
    "delay",
    "failures",
    "store",
    "weigh",
    "size_bytes",
    "negative",
}  # parameters that are objects or functions: they belong in code
_WITHIN: Final[dict[str, Callable[..., Any]]] = {"backoff": Backoff, "open_for": Backoff, "budget": RetryBudget}
"""Options whose value may be a table, and what it becomes."""


class BadTable(ValueError):
    """A table that makes no policy. path: where in it, as the names of options; () = the table as a whole."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path


def policy_of(entry: object) -> Policy:
    """The policy of one entry such as `{ timeout = "2s" }` or `{ retry = { attempts = 4 } }`. Raises BadTable."""
    kind, value = one_pair(entry)
    check_kind(kind, KINDS)
    return make(kind, dict(value) if isinstance(value, dict) else {first_option(kind): value})


def one_pair(entry: object) -> tuple[str, Any]:
    """The name and the value of an entry. Raises BadTable for what is no table with one name."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise BadTable(f'a policy is a table with one name, such as {{ timeout = "2s" }}; got {entry!r}')
    ((kind, value),) = entry.items()
    return str(kind), value


def check_kind(kind: str, kinds: Mapping[str, Any]) -> None:
    """Raise BadTable for a kind that there is not."""
    if kind not in kinds:
        raise BadTable(f"unknown policy {kind!r}{suggest(kind, tuple(kinds))}")


def first_option(kind: str) -> str:
    """The option that a value without a table stands for."""
    return next(iter(inspect.signature(SHAREABLE[kind]).parameters))


def options_of(kind: str) -> dict[str, inspect.Parameter]:
    """The options that a file can give a policy, with their defaults."""
    return _options(SHAREABLE[kind])


def within(option: str) -> dict[str, inspect.Parameter] | None:
    """The options of an option whose value may be a table, or None."""
    return _options(_WITHIN[option]) if option in _WITHIN else None


def make(kind: str, options: Mapping[str, Any], budgets: Mapping[str, RetryBudget] | None = None) -> Policy:
    """A policy from its options as a file gives them. budgets: what `budget = "NAME"` may mean. Raises BadTable."""
    known = tuple(options_of(kind))
    word = ""
    for name in options:
        if name not in known:
            raise BadTable(f"{kind} has no option {name!r}{suggest(name, known)}", name)
    try:
        arguments = {}
        for word, given in options.items():
            arguments[word] = _read(kind, word, given, budgets or {})
        word = ""
        return SHAREABLE[kind](**arguments)
    except BadTable:
        raise
    except (ValueError, TypeError) as error:
        named = next((name for name in options if str(error).startswith(f"{name} ")), word)
        raise BadTable(f"{kind}: {error}", *([named] if named else [])) from error


def _options(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(make).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in _IN_CODE}


def _read(kind: str, name: str, value: Any, budgets: Mapping[str, RetryBudget]) -> Any:
    """A value of a file as a policy wants it: false stands for None, tables for Backoff and RetryBudget."""
    if name == "on":
        return transient if value == "transient" else tuple(map(_exception, value if isinstance(value, list) else [value]))
    if value is False and name != "penalise":
        return None
    if name == "budget" and isinstance(value, str):
        if value not in budgets:
            raise BadTable(f"{kind}: there is no retry_budget {value!r}{suggest(value, tuple(budgets))}", name)
        return budgets[value]
    if name in _WITHIN and isinstance(value, dict):
        return _inner(kind, name, value)
    return value


def _inner(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """A Backoff or a RetryBudget from a table within a table."""
    known = tuple(_options(_WITHIN[name]))
    for key in table:
        if key not in known:
            raise BadTable(f"{kind}: {name} has no option {key!r}{suggest(key, known)}", name, key)
    try:
        return _WITHIN[name](**table)
    except (ValueError, TypeError) as error:
        named = next(((key,) for key in table if str(error).startswith(f"{key} ")), ())
        raise BadTable(f"{kind}: {name}: {error}", name, *named) from error


def _exception(name: object) -> type[Exception]:
    kind = getattr(builtins, str(name), None) or getattr(errors, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise ValueError(
            f"on must name exceptions of Python or Seawall, such as ConnectionError; got {name!r}; others belong in code"
        )
    return kind


def suggest(word: str, known: tuple[str, ...]) -> str:
    """What may have been meant by a word that is not known."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known) or 'none'}"
