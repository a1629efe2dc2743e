"""What a pipeline does to one call in the worst case, and what in it would surprise, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.fallback import Fallback
from seawall.pipeline.hedge import Hedge
from seawall.pipeline.keyed import Keyed
from seawall.pipeline.limiter import RateLimiter
from seawall.pipeline.retry import Retry
from seawall.pipeline.timeout import Timeout

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.policy import Policy


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a pipeline that would surprise.

    code: stable, such as "SW001". severity: "warning" or "note". policy: whose. reason: why. fix: what to do.
    """

    code: str
    severity: Literal["warning", "note"]
    policy: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.policy}: {self.reason} Fix: {self.fix}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One pipeline, explained; `str()` of it is for people.

    attempts: how often the callee is called for one call, at most. wall_time: seconds until the caller has an answer, at
    most; inf when nothing bounds it. load_factor: attempts per call in the long run while every call fails. safe_load: the
    share of the callee's capacity up to which its collapse cannot be kept up by our repetitions alone, 1 / load_factor.
    findings: what would surprise. lines: the policies in order, in words.
    """

    name: str
    attempts: int
    wall_time: float
    load_factor: float
    safe_load: float
    findings: tuple[Finding, ...]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        bound = "no limit" if self.wall_time == float("inf") else f"{self.wall_time:g} s"
        head = f"{self.name}: at most {self.attempts} attempts, {bound}, load x{self.load_factor:g} while all calls fail"
        head += f" (no retry storm below {self.safe_load:.0%} of capacity)"
        return "\n".join((head, *(f"  {line}" for line in self.lines), *map(str, self.findings)))


def explain(pipeline: Pipeline) -> Explanation:
    """Work out the worst case of one async call from the policies, outermost first."""
    policies = [policy.sample if isinstance(policy, Keyed) else policy for policy in pipeline.policies]
    attempts, load = 1, 1.0
    for policy in policies:
        if isinstance(policy, Retry):
            attempts *= policy.rule.attempts
            load *= _load_of(policy)
        if isinstance(policy, Hedge):
            attempts *= policy.rule.copies + 1
            load *= _load_of_hedge(policy, policies)
    return Explanation(
        name=pipeline.name,
        attempts=attempts,
        wall_time=_wall_time(policies),
        load_factor=round(load, 6),
        safe_load=round(1 / load, 6),
        findings=tuple(_findings(policies)),
        lines=tuple(f"{shown.name}: {_words(policy)}" for shown, policy in zip(pipeline.policies, policies, strict=True)),
    )


def _wall_time(policies: list[Policy]) -> float:
    """Seconds at most: inner to outer, each policy bounds or repeats what is inside it."""
    inside = float("inf")
    for policy in reversed(policies):
        if isinstance(policy, Timeout):
            inside = min(inside, policy.seconds)
        elif isinstance(policy, Retry):
            inside = inside * policy.rule.attempts + policy.rule.longest_wait()
        elif isinstance(policy, Bulkhead) and policy.rule.queue:
            inside += float("inf") if policy.rule.wait is None else policy.rule.wait
        else:
            inside += float(getattr(policy, "wait", 0.0) or 0.0)
    return inside


def _load_of(retry: Retry) -> float:
    if retry.budget is None:
        return float(retry.rule.attempts)
    return min(float(retry.rule.attempts), 1.0 + retry.budget.rule.ratio)


def _load_of_hedge(hedge: Hedge, policies: list[Policy]) -> float:
    if hedge.budget is None:
        return 1.0 + hedge.rule.copies
    shared = any(isinstance(policy, Retry) and policy.budget is hedge.budget for policy in policies)
    return 1.0 if shared else min(1.0 + hedge.rule.copies, 1.0 + hedge.budget.rule.ratio)


def _words(policy: Policy) -> str:
    """One policy in a few words."""
    words: list[tuple[type[Policy], Callable[[Any], str]]] = [
        (Timeout, lambda p: f"at most {p.seconds:g} s" + (", on a worker thread" if p.sync == "thread" else "")),
        (Retry, lambda p: f"up to {p.rule.attempts} attempts, waits up to {p.rule.longest_wait():g} s in all"),
        (CircuitBreaker, _breaker_words),
        (Bulkhead, lambda p: f"{p.rule.limit} at once, {p.rule.queue} may wait"),
        (RateLimiter, lambda p: f"{', '.join(map(str, p.rule.limits))}, {p.rule.algorithm.replace('_', ' ')}"),
        (Hedge, lambda p: f"up to {p.rule.copies} more copies, after {_after(p.rule.after)}"),
        (Fallback, lambda _: "another answer on failure"),
    ]
    return next((say(policy) for kind, say in words if isinstance(policy, kind)), policy.kind.replace("_", " "))


def _after(after: float | str) -> str:
    return after if isinstance(after, str) else f"{after:g} s"


def _breaker_words(breaker: CircuitBreaker) -> str:
    rule = breaker.rule
    parts = []
    if rule.consecutive_failures is not None:
        parts.append(f"{rule.consecutive_failures} failures in a row")
    if rule.failure_ratio is not None:
        span = f"{rule.window:g} s" if rule.window_calls is None else f"{rule.window_calls} calls"
        parts.append(f"{rule.failure_ratio:.0%} of at least {rule.minimum_calls} calls in {span}")
    if rule.slow_call is not None:
        parts.append(f"{rule.slow_ratio:.0%} slower than {rule.slow_call:g} s")
    return "opens at " + " or ".join(parts)


def _findings(policies: list[Policy]) -> Iterator[Finding]:
    retries = [index for index, policy in enumerate(policies) if isinstance(policy, Retry)]
    for index, policy in enumerate(policies):
        if isinstance(policy, Timeout) and policy.sync == "deadline":
            yield Finding(
                "SW001",
                "note",
                policy.name,
                "on plain functions a deadline is handed to the callee and interrupts nothing.",
                'read sw.remaining() in the callee, or use sync="thread".',
            )
        if isinstance(policy, CircuitBreaker) and any(retry > index for retry in retries):
            yield Finding(
                "SW002",
                "warning",
                policy.name,
                "it stands outside Retry and sees one result per call: it opens after n calls, not n attempts.",
                "put the circuit breaker inside Retry.",
            )
    yield from _retry_findings(policies, retries)
    yield from _order_findings(policies)


def _retry_findings(policies: list[Policy], retries: list[int]) -> Iterator[Finding]:
    for index in retries:
        retry = policies[index]
        assert isinstance(retry, Retry)
        if retry.budget is None:
            yield Finding(
                "SW003",
                "warning",
                retry.name,
                f"without a budget an outage is called {retry.rule.attempts} times as often.",
                "keep the default RetryBudget().",
            )
        outer = [p.seconds for p in policies[:index] if isinstance(p, Timeout)]
        if outer and min(outer) <= retry.rule.longest_wait():
            yield Finding(
                "SW004",
                "warning",
                retry.name,
                f"its waits of up to {retry.rule.longest_wait():g} s do not fit the outer limit of {min(outer):g} s.",
                "raise the limit, or lower attempts or the backoff's cap.",
            )


def _order_findings(policies: list[Policy]) -> Iterator[Finding]:
    """Pairs of policies that are fine alone and surprise together."""
    budgets = [policy.budget for policy in policies if isinstance(policy, (Retry, Hedge)) and policy.budget is not None]
    for index, policy in enumerate(policies):
        inside = policies[index + 1 :]
        if isinstance(policy, Hedge) and len(set(map(id, budgets))) > 1:
            yield Finding(
                "SW005",
                "warning",
                policy.name,
                "it and Retry have a budget each, so together they may send twice the share.",
                "give both the same RetryBudget.",
            )
        if isinstance(policy, Fallback) and policy.hides_rejections and any(isinstance(p, CircuitBreaker) for p in inside):
            yield Finding(
                "SW006",
                "note",
                policy.name,
                "it answers for an open circuit too, so nobody sees the outage.",
                "watch the event fallback.used, or leave our rejections out with on=.",
            )
        if isinstance(policy, Bulkhead) and any(getattr(p, "wait", 0) and p.kind == "rate_limiter" for p in inside):
            yield Finding(
                "SW007",
                "warning",
                policy.name,
                "a seat is held while the call inside waits for a token.",
                "put the RateLimiter outside the Bulkhead.",
            )
