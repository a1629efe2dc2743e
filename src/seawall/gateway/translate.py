"""From a pipeline of the configuration to what Envoy can do of it. What it cannot do is refused by name, at its line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from seawall.core.units import Limit
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.limiter import RateLimiter
from seawall.pipeline.origins import Leaf, Origin, Tree, leaves
from seawall.pipeline.plan import Entry, Plan
from seawall.pipeline.retry import Retry
from seawall.pipeline.timeout import Timeout

SHORTEST_FILL: Final = 0.05
"""Seconds: Envoy refills its local buckets no more often."""

INSTEAD: Final = {
    "circuit_breaker": "Envoy has no circuit breaker with three states; it ejects single instances: say [services.NAME.ejection]",
    "hedge": "Envoy does not hedge by latency; leave hedging to the callers",
    "fallback": "Envoy cannot answer in a callee's place; leave the fallback to the callers",
    "cache": "this Envoy keeps no answers; leave the cache to the callers",
    "throttle": "Envoy keeps no client-side throttle; leave it to the callers, or limit with rate_limiter",
    "adaptive_limit": "Envoy's adaptive concurrency follows other rules; say a bulkhead with a fixed limit",
    "adaptive_timeout": "Envoy does not learn timeouts; say a timeout with a fixed length",
    "admission_control": "Envoy does not know our priorities and pulse; leave admission to the services",
}
SAID: Final = {
    "timeout": {"seconds", "connect", "name", "sync"},
    "retry": {"attempts", "on", "backoff", "budget", "retry_after_cap", "name", "nested"},
    "bulkhead": {"limit", "queue", "name"},
    "rate_limiter": {"spec", "algorithm", "name", "max_keys"},
}
"""The options of each kind that Envoy has an equal of, or that mean nothing outside a process."""


@dataclass(frozen=True, slots=True)
class Retries:
    """retries: beside the first attempt. base, cap: seconds of the waits. hint_cap: seconds up to which Retry-After is obeyed.
    ratio, at_least: the budget; None = none. connection_errors_only: nothing else is repeated."""

    retries: int
    base: float
    cap: float
    hint_cap: float
    ratio: float | None
    at_least: int = 3
    connection_errors_only: bool = False


@dataclass(frozen=True, slots=True)
class Bucket:
    """A local rate limit: `tokens` each `every` seconds, at most `room` of them."""

    room: int
    tokens: int
    every: float


@dataclass(frozen=True, slots=True)
class Translated:
    """A pipeline in Envoy's terms. total: seconds for a request with its retries; each: for one attempt. seats, queue: of a
    bulkhead; None = no bulkhead."""

    total: float | None = None
    each: float | None = None
    connect: float | None = None
    retries: Retries | None = None
    seats: int | None = None
    queue: int = 0
    bucket: Bucket | None = None

    @property
    def of_cluster(self) -> tuple[Any, ...]:
        """What stands in a cluster rather than a route; those that differ in it need clusters of their own."""
        budget = None if self.retries is None else (self.retries.ratio, self.retries.at_least)
        return (self.connect, self.seats, self.queue, budget)


def translate(plan: Plan, shared: Mapping[str, Entry], policies: Sequence[Any]) -> Translated:
    """What Envoy can do of a pipeline. Raises ConfigError that names what it cannot, at its file and line."""
    found = Translated()
    for entry, policy in zip(plan.entries, policies, strict=True):
        real = shared[entry.uses] if entry.uses is not None else entry
        _refuse(plan.name, real)
        step = _STEPS[real.kind]
        found = step(found, policy, plan.name, real)
    if plan.observe.value:
        raise plan.observe.origin.error(f"pipeline {plan.name}: Envoy does not observe only; take `observe` away for the gateway")
    return found


def _refuse(pipeline: str, entry: Entry) -> None:
    if entry.kind not in SAID:
        raise entry.origin.error(f"pipeline {pipeline}: {entry.kind} has no equal in Envoy. {INSTEAD[entry.kind]}")
    for name, tree in entry.options.items():
        if name not in SAID[entry.kind]:
            raise _place(entry, tree).error(
                f"pipeline {pipeline}: {entry.kind}: Envoy has no equal of {name}; take it away for the gateway"
            )


def _place(entry: Entry, tree: Tree | None) -> Origin:
    if isinstance(tree, Leaf):
        return tree.origin
    first = None if tree is None else next(leaves(tree), None)
    return entry.origin if first is None else first[1].origin


def _timeout(found: Translated, policy: Timeout, _pipeline: str, _entry: Entry) -> Translated:
    if policy.connect is not None:
        found = replace(found, connect=_least(found.connect, policy.connect))
    if found.retries is None:
        return replace(found, total=_least(found.total, policy.seconds))
    return replace(found, each=_least(found.each, policy.seconds))


def _least(one: float | None, other: float) -> float:
    return other if one is None else min(one, other)


def _retry(found: Translated, policy: Retry, pipeline: str, entry: Entry) -> Translated:
    def refuse(option: str, why: str) -> Exception:
        return _place(entry, entry.options.get(option)).error(f"pipeline {pipeline}: retry: {why}")

    if found.retries is not None:
        raise entry.origin.error(f"pipeline {pipeline}: Envoy retries in one place; take one of the two away")
    backoff = policy.rule.backoff
    if backoff.growth != "exponential" or backoff.jitter != "full":
        raise refuse(
            "backoff", f"Envoy waits exponentially with full jitter only; got {backoff.growth!r} with {backoff.jitter!r}"
        )
    if policy.types not in ((), None) and set(policy.types) != {ConnectionError}:
        raise refuse("on", "Envoy knows no exceptions of Python; leave `on` away, or say ['ConnectionError']")
    only_connections = bool(policy.types)
    budget = policy.budget
    ratio = None if budget is None else budget.rule.ratio
    at_least = 3 if budget is None else _burst(budget.rule)
    retries = Retries(
        policy.rule.attempts - 1,
        backoff.base,
        backoff.cap,
        policy.rule.retry_after_cap,
        ratio,
        at_least,
        only_connections,
    )
    return replace(found, retries=retries)


def _burst(rule: Any) -> int:
    """Retries that a budget allows at once to a quiet service: what its floor gathers while a deposit lives. Envoy counts retries
    that run, so this is how many it must let run together to bridge the same sudden death of an instance."""
    return max(3, math.ceil(getattr(rule, "floor_per_s", 0.0) * getattr(rule, "ttl", 0.0)))


def _bulkhead(found: Translated, policy: Bulkhead, pipeline: str, entry: Entry) -> Translated:
    if found.seats is not None:
        raise entry.origin.error(f"pipeline {pipeline}: Envoy has one bulkhead per service; take one of the two away")
    return replace(found, seats=policy.rule.limit, queue=policy.rule.queue)


def _rate_limiter(found: Translated, policy: RateLimiter, pipeline: str, entry: Entry) -> Translated:
    limits = policy.rule.limits
    where = _place(entry, entry.options.get("algorithm"))
    if policy.rule.algorithm != "token_bucket":
        raise where.error(f"pipeline {pipeline}: rate_limiter: Envoy has token buckets only; got {policy.rule.algorithm!r}")
    if len(limits) != 1 or found.bucket is not None or not isinstance(limits[0], Limit):
        raise entry.origin.error(
            f"pipeline {pipeline}: rate_limiter: Envoy keeps one local limit per route; got more, or one of the calendar"
        )
    return replace(found, bucket=bucket_of(limits[0]))


def bucket_of(limit: Limit) -> Bucket:
    """The bucket nearest to a limit: refilled one by one where Envoy can, else as many at a time as fit its shortest interval.

    >>> bucket_of(Limit.parse("10/s burst 3"))
    Bucket(room=3, tokens=1, every=0.1)
    >>> bucket_of(Limit.parse("1000/s"))
    Bucket(room=1000, tokens=50, every=0.05)
    """
    each = limit.per / limit.count
    tokens = max(1, math.ceil(SHORTEST_FILL / each - 1e-9))
    room = limit.burst or limit.count
    return Bucket(max(room, tokens), tokens, tokens * each)


_STEPS: Final[dict[str, Any]] = {"timeout": _timeout, "retry": _retry, "bulkhead": _bulkhead, "rate_limiter": _rate_limiter}
