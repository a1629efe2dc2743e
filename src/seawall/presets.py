"""Pipelines for common callees, with every number and its reason in one place. Copy one when its numbers are not yours.

`print(presets.http("stock").order())` says why each policy stands where it stands.
"""

from __future__ import annotations

from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.pipeline import Pipeline
from seawall.pipeline.retry import Retry
from seawall.pipeline.retry_budget import RetryBudget
from seawall.pipeline.timeout import Timeout
from seawall.policies.backoff import Backoff

__all__ = ["database", "http", "llm", "queue"]


def http(name: str = "http", *, total: float = 10, attempt: float = 2, at_once: int = 50) -> Pipeline:
    """For a service over HTTP that answers in milliseconds.

    total, attempt: seconds for the whole call and for each of 3 attempts. at_once: calls in flight; as many again may wait for
    one second. Raises ValueError or TypeError for a parameter out of range.
    """
    return Pipeline.recommended(
        Timeout(total, name="total"),
        Retry(3),
        CircuitBreaker(failure_ratio=0.5, window=30, open_for=Backoff(base=5, cap=60, jitter="equal"), ramp=10),
        Bulkhead(at_once, queue=at_once, wait=1),
        Timeout(attempt, name="attempt"),
        name=name,
    )


def database(name: str = "database", *, total: float = 5, attempt: float = 2, connections: int = 20) -> Pipeline:
    """For a database behind a connection pool of `connections`.

    total, attempt: seconds for the whole call and for each of 2 attempts; a transaction is repeated only when marked idempotent.
    The queue is short, because a database that is behind is not helped by more work. Raises ValueError or TypeError for a
    parameter out of range.
    """
    return Pipeline.recommended(
        Timeout(total, name="total"),
        Retry(2, backoff=Backoff(base=0.02, cap=0.5)),
        CircuitBreaker(consecutive_failures=5, open_for=2, probes=1),
        Bulkhead(connections, queue=connections * 2, wait=0.5),
        Timeout(attempt, name="attempt"),
        name=name,
    )


def llm(name: str = "llm", *, total: float = 120, attempt: float = 60, at_once: int = 10) -> Pipeline:
    """For a language model's API: slow, throttled, dear.

    total, attempt: seconds for the whole call and for each of 4 attempts; a stream's further items get 15 s each. Waits grow to
    20 s and obey Retry-After up to 60; the budget is small, since every repetition costs money. at_once: calls in flight, a
    hundred may wait. Raises ValueError or TypeError for a parameter out of range.
    """
    return Pipeline.recommended(
        Timeout(total, name="total"),
        Retry(4, backoff=Backoff(base=1, cap=20), budget=RetryBudget(0.1, floor_per_s=0.2, ttl=60)),
        CircuitBreaker(consecutive_failures=5, minimum_calls=5, window=120, open_for=15),
        Bulkhead(at_once, queue=100),
        Timeout(attempt, item=15, name="attempt"),
        name=name,
    )


def queue(name: str = "queue", *, total: float = 30, attempt: float = 5, at_once: int = 20) -> Pipeline:
    """For publishing to a broker: worth many patient attempts, since the message would be lost.

    total, attempt: seconds for the whole call and for each of 8 attempts. at_once: calls in flight; a thousand may wait, because
    a short stop of the broker is normal. Raises ValueError or TypeError for a parameter out of range.
    """
    return Pipeline.recommended(
        Timeout(total, name="total"),
        Retry(8, backoff=Backoff(base=0.1, cap=3), budget=RetryBudget(0.5, floor_per_s=5)),
        CircuitBreaker(consecutive_failures=10, failure_ratio=0.9, open_for=2),
        Bulkhead(at_once, queue=1000),
        Timeout(attempt, name="attempt"),
        name=name,
    )
