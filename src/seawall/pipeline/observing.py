"""Which policies of a pipeline only observe: they count and tell, and refuse, hold up and cut nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seawall.pipeline.policy import Policy


def observed(policies: tuple[Policy, ...], observe: Any) -> frozenset[Policy]:
    """The policies that only observe: all, none, or those of the names given."""
    if isinstance(observe, bool):
        return frozenset(policies if observe else ())
    if isinstance(observe, str) or not isinstance(observe, Collection) or not all(isinstance(name, str) for name in observe):
        raise TypeError(f"observe must be True, False, or a list of names of policies; got {observe!r}")
    unknown = sorted(set(observe) - {policy.name for policy in policies})
    if unknown:
        names = ", ".join(repr(policy.name) for policy in policies)
        raise ValueError(f"observe must name policies of the pipeline, which are {names}; got {unknown[0]!r}")
    return frozenset(policy for policy in policies if policy.name in observe)


def moot(policy: Policy, observed: frozenset[Policy]) -> bool:
    """Whether a policy that may wait does not, because it only observes. What adds to a call goes on, and may wait."""
    return policy in observed and not policy.acts_while_observing
