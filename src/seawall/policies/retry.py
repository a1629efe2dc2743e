"""The retry's rule: whether to try again, and after which wait. Which errors are worth it is the classifier's word."""

from __future__ import annotations

from dataclasses import dataclass, field

from seawall.core import units
from seawall.policies.backoff import Backoff


@dataclass(frozen=True, kw_only=True)
class RetryRule:
    """How often and how far apart. Units, ranges and defaults: see `seawall.Retry`."""

    attempts: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    retry_after_cap: float = 60.0

    def __post_init__(self) -> None:
        units.whole("attempts", self.attempts)
        if not isinstance(self.backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff; got {self.backoff!r}")
        object.__setattr__(self, "retry_after_cap", units.seconds("retry_after_cap", self.retry_after_cap, zero=True))

    def wait(self, attempt: int, u: float, previous: float | None, hint: float | None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        u: a draw in [0, 1). previous: the wait before, or None. hint: the callee's Retry-After in seconds, or None; it can
        only lengthen the wait, and by no more than `retry_after_cap`.
        """
        wait = self.backoff.wait(attempt - 1, u, previous)
        return wait if hint is None else max(wait, min(hint, self.retry_after_cap))

    def fits(self, now: float, wait: float, deadline: float | None) -> bool:
        """Whether an attempt after `wait` could still begin before the deadline."""
        return deadline is None or now + wait < deadline

    def longest_wait(self) -> float:
        """The sum of all waits in the worst case, without hints."""
        return sum(self.backoff.longest(n) for n in range(self.attempts - 1))
