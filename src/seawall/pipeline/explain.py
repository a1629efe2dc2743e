"""What a pipeline does to one call in the worst case, and what in it would surprise, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seawall.core import clock as clocks
from seawall.core.findings import Finding, tell
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.fallback import Fallback
from seawall.pipeline.hedge import Hedge
from seawall.pipeline.keyed import Keyed
from seawall.pipeline.limiter import RateLimiter
from seawall.pipeline.lint import Case, findings, processes_of
from seawall.pipeline.retry import Retry
from seawall.pipeline.timeout import Timeout

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.policy import Policy


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

    @property
    def has_errors(self) -> bool:
        """Whether something in it can never work as it is written."""
        return any(finding.severity == "error" for finding in self.findings)

    def warn(self) -> None:
        """Tell of every finding: as an event and a log record with its code, and as a Python warning unless it is a note.

        Raises a finding's warning where the user turned its category into an error.
        """
        for finding in self.findings:
            tell(finding, clocks.resolve(None).monotonic(), pipeline=self.name)

    def __str__(self) -> str:
        bound = "no limit" if self.wall_time == float("inf") else f"{self.wall_time:g} s"
        head = f"{self.name}: at most {self.attempts} attempts, {bound}, load x{self.load_factor:g} while all calls fail"
        head += f" (no retry storm below {self.safe_load:.0%} of capacity)"
        return "\n".join((head, *(f"  {line}" for line in self.lines), *map(str, self.findings)))


def explain(pipeline: Pipeline, processes: int | None = None) -> Explanation:
    """Work out the worst case of one async call from the policies, outermost first. processes: see `Pipeline.explain`."""
    count = processes_of(pipeline.processes if processes is None else processes)
    policies: list[Policy] = [policy.sample if isinstance(policy, Keyed) else policy for policy in pipeline.policies]
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
        findings=tuple(findings(Case(tuple(policies), pipeline.guarded, count))),
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
