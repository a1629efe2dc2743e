"""The words all rules share: what `admit` and `settle` answer, and what they say has happened.

`admit(state, now, ...)` answers a permit, a `Ticket` (wait your turn) or a `Rejection`. `settle(state, now, permit,
outcome)` and `leave(state, now, ticket)` answer events. Every answer carries `.events`: admitting can change state, or
wake somebody else, as well; dropping them would leave a waiter waiting for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

DUST: Final = 1e-9
"""Seconds below which two moments are the same: sums of floats differ by less, and no wait is worth so little."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling, before the cell stamps it with time and name. kind: "<pattern>.<what>"; data: details."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Permit:
    """The right to make one call. A permit of a closed epoch is the epoch's own window object.

    epoch: the number of the epoch it was issued in. Results of another epoch change nothing.
    """

    __slots__ = ()
    epoch: int
    events: Events = ()


class Ticket:
    """A place in a queue. `permit` is set when its turn came; `until` is the moment at which it gives up (may be inf).

    cost: what it asks for. event: the runtime's flag that wakes the waiter, attached by whoever waits.
    """

    __slots__ = ("cost", "event", "events", "permit", "since", "until")

    def __init__(self, since: float, until: float, cost: int = 1) -> None:
        self.since = since
        self.until = until
        self.cost = cost
        self.permit: Any = None
        self.event: Any = None
        self.events: Events = ()


@dataclass(frozen=True, slots=True)
class Wake:
    """Tell the waiter of `ticket` to look again: its turn came, or it now stands at the head."""

    ticket: Ticket


Events: TypeAlias = tuple[Note | Wake, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """The rule says no.

    reason: why, in words that end a sentence beginning with the policy's name. retry_after: seconds until another try
    can succeed, `inf` if never, None if unknown.
    """

    reason: str
    retry_after: float | None = None
    events: Events = ()

    allowed: ClassVar[bool] = False
