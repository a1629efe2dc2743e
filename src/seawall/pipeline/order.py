"""The recommended order of a pipeline, written once, each place with its reason."""

from __future__ import annotations

from typing import Final

from seawall.pipeline.policy import Policy
from seawall.pipeline.timeout import Timeout

PLACES: Final[tuple[tuple[str, str], ...]] = (
    ("fallback", "outermost: it answers for everything inside"),
    ("cache", "outside all that calls: an answer in memory costs nobody anything"),
    ("total timeout", "outside Retry: it bounds the whole call, waits included"),
    ("admission_control", "at the door of a server, outside the limits whose queues it watches"),
    ("retry", "outside everything that refuses, so that each attempt is asked for anew"),
    ("hedge", "inside Retry: the copies are one attempt"),
    ("keyed", "where its circuit breaker would stand"),
    ("circuit_breaker", "inside Retry: it sees attempts, and a refused attempt costs nothing"),
    ("throttle", "as a circuit breaker, which it takes the place of"),
    ("rate_limiter", "outside Bulkhead: nobody holds a seat while waiting for a token"),
    ("bulkhead", "around the attempt alone: a seat is held only while something runs"),
    ("adaptive_limit", "as a bulkhead, which it takes the place of"),
    ("thread_bulkhead", "as a bulkhead"),
    ("adaptive_timeout", "as the timeout of an attempt"),
    ("timeout", "innermost: the time of one attempt, without our own queues"),
    ("fault", "inside everything, so that it looks like the callee"),
)
"""(place, why), outermost first. A place is called after the kind of policy that stands there."""

_RANKS: Final = {place: rank for rank, (place, _) in enumerate(PLACES)}


def in_order(policies: tuple[Policy, ...]) -> list[Policy]:
    """The policies in their recommended places. Raises ValueError for two of one kind, TypeError for one without a place."""
    ranked: dict[int, Policy] = {}
    total = _total_of([policy for policy in policies if isinstance(policy, Timeout)])
    for policy in policies:
        place = "total timeout" if policy is total else getattr(policy, "kind", "")
        if place not in _RANKS:
            raise TypeError(f"{policy!r} has no recommended place; order the pipeline by hand")
        other = ranked.setdefault(_RANKS[place], policy)
        if other is not policy:
            raise ValueError(f"{other!r} and {policy!r} want the same place; order the pipeline by hand")
    return [ranked[rank] for rank in sorted(ranked)]


def reasons(policies: tuple[Policy, ...]) -> str:
    """One line per policy: its name, and why its kind belongs where it is recommended."""
    why = dict(PLACES)
    total = _total_of([policy for policy in policies if isinstance(policy, Timeout)])
    lines = []
    for number, policy in enumerate(policies, 1):
        place = "total timeout" if policy is total else policy.kind
        lines.append(f"{number}. {policy.name}: {why.get(place, 'no place is recommended for its kind')}")
    return "\n".join(lines)


def _total_of(timeouts: list[Timeout]) -> Timeout | None:
    """Of two timeouts the longer one is the total; beside one that adapts, which is an attempt's, the other one is."""
    if len(timeouts) != 2:
        return None
    plain = [timeout for timeout in timeouts if timeout.kind == Timeout.kind]
    return max(plain, key=lambda timeout: timeout.seconds, default=None)
