"""Pipelines for common callees, with every number and its reason in one place. Copy one when its numbers are not yours.

`print(presets.http("stock").order())` says why each policy stands where it stands. The tables are those of a configuration
file: `preset = "http"` in a file takes them, and single numbers may be changed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from seawall.pipeline.build import policy_of
from seawall.pipeline.pipeline import Pipeline

__all__ = ["TABLES", "database", "http", "llm", "queue"]

Table = dict[str, dict[str, Any]]


def http(name: str = "http", *, total: float = 10, attempt: float = 2, at_once: int = 50) -> Pipeline:
    """For a service over HTTP that answers in milliseconds.

    total, attempt: seconds for the whole call and for each of 3 attempts. at_once: calls in flight; as many again may wait for
    one second. Raises ValueError for a parameter out of range.
    """
    return _pipeline(name, _http(total, attempt, at_once))


def _http(total: float = 10, attempt: float = 2, at_once: int = 50) -> list[Table]:
    return [
        {"timeout": {"seconds": total, "name": "total"}},
        {"retry": {"attempts": 3}},
        {"circuit_breaker": {"failure_ratio": 0.5, "window": 30, "open_for": _GROWING, "ramp": 10}},
        {"bulkhead": {"limit": at_once, "queue": at_once, "wait": 1}},
        {"timeout": {"seconds": attempt, "name": "attempt"}},
    ]


_GROWING: Final = {"base": 5, "cap": 60, "jitter": "equal"}


def database(name: str = "database", *, total: float = 5, attempt: float = 2, connections: int = 20) -> Pipeline:
    """For a database behind a connection pool of `connections`.

    total, attempt: seconds for the whole call and for each of 2 attempts; a transaction is repeated only when marked idempotent.
    The queue is short, because a database that is behind is not helped by more work. Raises ValueError for a parameter out of
    range.
    """
    return _pipeline(name, _database(total, attempt, connections))


def _database(total: float = 5, attempt: float = 2, connections: int = 20) -> list[Table]:
    return [
        {"timeout": {"seconds": total, "name": "total"}},
        {"retry": {"attempts": 2, "backoff": {"base": 0.02, "cap": 0.5}}},
        {"circuit_breaker": {"consecutive_failures": 5, "open_for": 2, "probes": 1}},
        {"bulkhead": {"limit": connections, "queue": connections * 2, "wait": 0.5}},
        {"timeout": {"seconds": attempt, "name": "attempt"}},
    ]


def llm(name: str = "llm", *, total: float = 120, attempt: float = 50, at_once: int = 10) -> Pipeline:
    """For a language model's API: slow, throttled, dear.

    total, attempt: seconds for the whole call and for each of 4 attempts, of which two fit even when each takes all of its time;
    a stream's further items get 15 s each. Waits grow to 20 s and obey Retry-After up to 60; the budget is small, since every
    repetition costs money. at_once: calls in flight, a hundred may wait. Raises ValueError for a parameter out of range.
    """
    return _pipeline(name, _llm(total, attempt, at_once))


def _llm(total: float = 120, attempt: float = 50, at_once: int = 10) -> list[Table]:
    budget = {"ratio": 0.1, "floor_per_s": 0.2, "ttl": 60}
    return [
        {"timeout": {"seconds": total, "name": "total"}},
        {"retry": {"attempts": 4, "backoff": {"base": 1, "cap": 20}, "budget": budget}},
        {"circuit_breaker": {"consecutive_failures": 5, "minimum_calls": 5, "window": 120, "open_for": 15}},
        {"bulkhead": {"limit": at_once, "queue": 100}},
        {"timeout": {"seconds": attempt, "item": 15, "name": "attempt"}},
    ]


def queue(name: str = "queue", *, total: float = 30, attempt: float = 5, at_once: int = 20) -> Pipeline:
    """For publishing to a broker: worth many patient attempts, since the message would be lost.

    total, attempt: seconds for the whole call and for each of 8 attempts. at_once: calls in flight; a thousand may wait, because
    a short stop of the broker is normal. Raises ValueError for a parameter out of range.
    """
    return _pipeline(name, _queue(total, attempt, at_once))


def _queue(total: float = 30, attempt: float = 5, at_once: int = 20) -> list[Table]:
    return [
        {"timeout": {"seconds": total, "name": "total"}},
        {"retry": {"attempts": 8, "backoff": {"base": 0.1, "cap": 3}, "budget": {"ratio": 0.5, "floor_per_s": 5}}},
        {"circuit_breaker": {"consecutive_failures": 10, "failure_ratio": 0.9, "open_for": 2}},
        {"bulkhead": {"limit": at_once, "queue": 1000}},
        {"timeout": {"seconds": attempt, "name": "attempt"}},
    ]


TABLES: Final[dict[str, Callable[[], list[Table]]]] = {"http": _http, "database": _database, "llm": _llm, "queue": _queue}
"""What a preset is made of, as the tables of a configuration file."""


def _pipeline(name: str, tables: list[Table]) -> Pipeline:
    return Pipeline.recommended(*map(policy_of, tables), name=name)
