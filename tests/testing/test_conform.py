"""The conformance suite accepts our own guards, and catches a broken one."""

from __future__ import annotations

from typing import Any

import pytest

import seawall as sw
from seawall import extend
from seawall.testing import conform


@pytest.mark.parametrize(
    "make",
    [
        lambda: sw.CircuitBreaker(),
        lambda: sw.Bulkhead(1),
        lambda: sw.Bulkhead(2, queue=3),
        lambda: sw.RateLimiter("100/s"),
        lambda: sw.Retry(2),
        lambda: sw.Timeout(5),
        lambda: sw.Fallback(0, on=KeyError),
        lambda: sw.Hedge(),
    ],
)
def test_our_own_policies_conform(make: Any) -> None:
    """What we ask of others holds for us."""
    conform(make, at_rest=lambda policy: getattr(policy.snapshot(), "taken", 0) == 0)


class Leaky(sw.Bulkhead):
    def release(self, held: Any, permit: Any, outcome: Any, verdict: Any) -> None:
        if outcome is not extend.Outcome.IGNORED:
            super().release(held, permit, outcome, verdict)


class Nameless(sw.Bulkhead):
    def refuse(self, rejection: Any, run: Any) -> None:
        raise sw.BulkheadFull("no", policy="somebody")

    def admit(self, run: Any, now: float) -> Any:
        self.rejected += 1
        return extend.Rejection("no") if self.rejected > 3 else super().admit(run, now)


class Swallowing(sw.Fallback):
    pass


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Leaky(50), "still held"),
        (lambda: Nameless(5), "name its policy"),
        (lambda: Swallowing(0), "swallowed"),
    ],
)
def test_a_broken_policy_is_caught(make: Any, complaint: str) -> None:
    """A suite that cannot fail proves nothing."""
    with pytest.raises(AssertionError, match=complaint):
        conform(make, at_rest=lambda policy: getattr(policy.snapshot(), "taken", 0) == 0)
