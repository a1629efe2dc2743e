"""What in a pipeline would surprise: one function per finding, each over all policies, outermost first.

An error is a setting that can never take effect as it is written; a warning is what hurts one day; a note is worth knowing.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from seawall.core import units
from seawall.core.errors import Rejected
from seawall.core.findings import Finding
from seawall.pipeline.adaptive_limit import AdaptiveLimit
from seawall.pipeline.adaptive_timeout import AdaptiveTimeout
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.fallback import Fallback
from seawall.pipeline.hedge import Hedge
from seawall.pipeline.limiter import RateLimiter
from seawall.pipeline.retry import Retry, transient
from seawall.pipeline.timeout import Timeout

if TYPE_CHECKING:
    from seawall.pipeline.policy import Policy

MOST_PROCESSES: Final = 100_000
_NEVER_SENT: Final = (ConnectionRefusedError, Rejected)  # errors after which nothing can have happened


@dataclass(frozen=True, slots=True)
class Case:
    """What is looked at. policies: outermost first; guarded: decorated functions, and whether each is marked idempotent."""

    policies: tuple[Policy, ...]
    guarded: Mapping[str, bool]
    processes: int

    def limits_outside(self, index: int) -> list[Timeout]:
        """The timeouts that stand outside the policy at `index`."""
        return [policy for policy in self.policies[:index] if isinstance(policy, Timeout)]

    def limits_inside(self, index: int) -> list[Timeout]:
        """The timeouts that stand inside the policy at `index`."""
        return [policy for policy in self.policies[index + 1 :] if isinstance(policy, Timeout)]


def findings(case: Case) -> Iterator[Finding]:
    """Everything that would surprise, by policy and then by code."""
    for index, policy in enumerate(case.policies):
        for look in _LOOKS:
            yield from look(case, index, policy)


# --- time


def _interrupts_nothing(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if isinstance(policy, Timeout) and policy.sync == "deadline":
        reason = "on plain functions a deadline is handed to the callee and interrupts nothing."
        yield Finding("SW001", "note", policy.name, reason, 'read sw.remaining() in the callee, or use sync="thread".')


def _connects_too_long(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if not isinstance(policy, Timeout) or policy.connect is None:
        return
    limit = min((policy, *case.limits_outside(index)), key=lambda timeout: timeout.seconds)
    if limit.seconds < policy.connect:
        reason = f"its connect part of {policy.connect:g} s can never end before the {limit.seconds:g} s of {limit.name}."
        yield Finding("SW008", "error", policy.name, reason, "make the connect part shorter than every limit around it.")
    elif limit.seconds == policy.connect:
        reason = f"connecting alone may take the whole {limit.seconds:g} s of {limit.name}; nothing is left for the answer."
        yield Finding("SW008", "warning", policy.name, reason, "make the connect part shorter than every limit around it.")


def _waits_do_not_fit(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    outer = case.limits_outside(index)
    if isinstance(policy, Retry) and outer and min(t.seconds for t in outer) <= policy.rule.longest_wait():
        limit = min(t.seconds for t in outer)
        reason = f"its waits of up to {policy.rule.longest_wait():g} s do not fit the outer limit of {limit:g} s."
        yield Finding("SW004", "warning", policy.name, reason, "raise the limit, or lower attempts or the backoff's cap.")


def _dead_limit(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if not isinstance(policy, Timeout):
        return
    least = policy.least if isinstance(policy, AdaptiveTimeout) else policy.seconds
    shorter = [outer for outer in case.limits_outside(index) if outer.seconds < least]
    if shorter:
        outer = min(shorter, key=lambda timeout: timeout.seconds)
        reason = f"its {least:g} s can never pass within the {outer.seconds:g} s of {outer.name}."
        yield Finding("SW011", "error", policy.name, reason, f"make it shorter than {outer.name}, or take it away.")


def _attempts_do_not_fit(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    inner, outer = case.limits_inside(index), case.limits_outside(index)
    if not isinstance(policy, Retry) or not inner or not outer or policy.rule.attempts == 1:
        return
    limit, each = min(t.seconds for t in outer), min(t.seconds for t in inner)
    fit = _how_many_fit(policy, each, limit)
    if fit == 0 or fit >= policy.rule.attempts:
        return  # none: the inner limit itself is told of
    reason = f"of its {policy.rule.attempts} attempts only {fit} fit{'s' if fit == 1 else ''} the outer limit of {limit:g} s"
    reason += f" when each takes the {each:g} s that it may."
    fix = "raise the outer limit, or lower attempts or the limit of an attempt."
    yield Finding("SW011", "warning" if fit == 1 else "note", policy.name, reason, fix)


def _how_many_fit(retry: Retry, each: float, limit: float) -> int:
    """Attempts that fit one after the other with the longest waits between them, at most as many as there are."""
    attempts = min(retry.rule.attempts, 1 + math.ceil(limit / each))
    gaps = (retry.rule.backoff.longest(n) for n in range(attempts - 1))
    ends = accumulate(gaps, lambda end, gap: end + gap + each, initial=each)
    return sum(end <= limit + 1e-9 for end in ends)


# --- repetitions


def _sees_calls_only(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if isinstance(policy, CircuitBreaker) and any(isinstance(inner, Retry) for inner in case.policies[index + 1 :]):
        reason = "it stands outside Retry and sees one result per call: it opens after n calls, not n attempts."
        yield Finding("SW002", "warning", policy.name, reason, "put the circuit breaker inside Retry.")


def _no_budget(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if isinstance(policy, Retry) and policy.budget is None:
        reason = f"without a budget an outage is called {policy.rule.attempts} times as often."
        yield Finding("SW003", "warning", policy.name, reason, "keep the default RetryBudget().")


def _no_common_budget(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if not isinstance(policy, Hedge):
        return
    retries = [other for other in case.policies if isinstance(other, Retry) and other.rule.attempts > 1]
    if any(retry.budget is not policy.budget or policy.budget is None for retry in retries):
        reason = "it and Retry have no budget in common, so together they may send more than either may."
        yield Finding("SW005", "warning", policy.name, reason, "give both the same RetryBudget.")


def _repeats_unmarked(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if not isinstance(policy, Retry) or policy.rule.attempts == 1 or policy.on is transient:
        return
    if policy.types and all(issubclass(kind, _NEVER_SENT) for kind in policy.types):
        return
    unmarked = sorted(name for name, marked in case.guarded.items() if not marked)
    fix = "mark what may be repeated with (idempotent=True), or leave on= to the classifier."
    if unmarked:
        named = ", ".join(unmarked[:3]) + (" and others" if len(unmarked) > 3 else "")
        reason = f"its on= repeats {named} after failures that may have taken effect, and nobody marked that idempotent."
        yield Finding("SW009", "warning", policy.name, reason, fix)
    elif not case.guarded:
        reason = "its on= repeats calls after failures that may have taken effect, whether they are marked idempotent or not."
        yield Finding("SW009", "note", policy.name, reason, fix)


# --- what hides, and what is held


def _hides_the_outage(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    inside = case.policies[index + 1 :]
    if isinstance(policy, Fallback) and policy.hides_rejections and any(isinstance(p, CircuitBreaker) for p in inside):
        reason = "it answers for an open circuit too, so nobody sees the outage."
        fix = "watch the event fallback.used, or leave our rejections out with on=."
        yield Finding("SW006", "note", policy.name, reason, fix)


def _holds_a_seat(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    inside = case.policies[index + 1 :]
    if isinstance(policy, (Bulkhead, AdaptiveLimit)) and any(isinstance(p, RateLimiter) and p.wait > 0 for p in inside):
        reason = "a seat is held while the call inside waits for a token."
        yield Finding("SW007", "warning", policy.name, reason, f"put the RateLimiter outside {policy.name}.")


def _is_per_process(case: Case, index: int, policy: Policy) -> Iterator[Finding]:
    if case.processes < 2 or policy.is_shared:
        return
    reason = f"each of the {case.processes} processes has a limit of its own, so together they may pass {case.processes} times"
    if isinstance(policy, RateLimiter):
        fix = "divide the rate by the number of processes, or keep it in a store that they share."
        yield Finding("SW012", "warning", policy.name, f"{reason} the rate.", fix)
    elif isinstance(policy, Bulkhead):
        fix = "divide the limit by the number of processes."
        yield Finding("SW012", "note", policy.name, f"{reason} as many calls at once.", fix)


_LOOKS: Final[tuple[Callable[[Case, int, Policy], Iterator[Finding]], ...]] = (
    _interrupts_nothing,
    _sees_calls_only,
    _no_budget,
    _waits_do_not_fit,
    _no_common_budget,
    _hides_the_outage,
    _holds_a_seat,
    _connects_too_long,
    _repeats_unmarked,
    _dead_limit,
    _attempts_do_not_fit,
    _is_per_process,
)


def processes_of(told: int | None, env: Mapping[str, str] | None = None) -> int:
    """How many processes run this pipeline: as told, else as servers are told by WEB_CONCURRENCY and GUNICORN_CMD_ARGS, else 1.

    Raises ValueError or TypeError for a number that is told and is none in [1, 100 000].
    """
    if told is not None:
        return units.whole("processes", told, most=MOST_PROCESSES)
    variables = os.environ if env is None else env
    return _number(_workers(variables.get("GUNICORN_CMD_ARGS", ""))) or _number(variables.get("WEB_CONCURRENCY", "")) or 1


def _workers(arguments: str) -> str:
    """The number of workers in gunicorn's arguments; the last one holds, as it does there."""
    try:
        words = shlex.split(arguments)
    except ValueError:  # a quote that is not closed: gunicorn itself would not start with it
        return ""
    found = ""
    for word, following in pairwise([*words, ""]):
        if word in ("-w", "--workers"):
            found = following
        elif word.startswith("--workers="):
            found = word.removeprefix("--workers=")
        elif word.startswith("-w") and word[2:].isdigit():
            found = word[2:]
    return found


def _number(text: str) -> int | None:
    return min(int(text), MOST_PROCESSES) if text.isascii() and text.isdigit() and len(text) < 10 else None
