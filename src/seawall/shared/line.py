"""Who waits in this process for a limit that lives in a store: in order of arrival, threads and tasks in one line per key.

Nothing is spent for who waits: the first of a line asks the store again at the moment that its last refusal named, and those
behind wait for it to pass or to leave. So who gives up owes nothing. Callers that find no line ask at once and side by side;
when they are refused and wait, they stand in the order in which they came.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from seawall.policies.verdict import Events, Ticket, Wake
from seawall.shared.port import Answer, Ask


class Turn(Ticket):
    """One caller. ask: what it wants; number: its place in the order of arrival; due: the moment at which it asks (again).

    asking: whether its ask is on its way; answer: what came back and was not looked at yet; queued: whether it stands in line.
    """

    __slots__ = ("answer", "ask", "asking", "due", "given_up", "key", "number", "priority", "queued", "subject", "tasks")

    def __init__(self, since: float, until: float, subject: str, ask: Ask, *, tasks: bool) -> None:
        super().__init__(since, until, ask.cost)
        self.subject = subject
        self.ask = ask
        self.number = 0
        self.due = -math.inf
        self.asking = False
        self.answer: Answer | None = None
        self.queued = False
        self.given_up = False
        self.tasks = tasks
        self.key: Any = None
        self.priority = "default"


class Lines:
    """All lines of one limiter. arrived: how many callers there have been."""

    __slots__ = ("arrived", "by_subject")

    def __init__(self) -> None:
        self.arrived = 0
        self.by_subject: dict[str, deque[Turn]] = {}

    @property
    def waiting(self) -> int:
        """How many stand in all lines."""
        return sum(map(len, self.by_subject.values()))


class LineRule:
    """Who asks, who waits. `unit`: seconds that one unit of cost takes at the least once the limit is spent, 0 if unknown."""

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.unit = 0.0

    def start(self, now: float) -> Lines:
        """Nobody."""
        return Lines()

    def arrive(self, state: Lines, turn: Turn) -> float | None:
        """Take a number. None: ask at once. A number of seconds >= 0: how long it waits behind others at the least, now that
        it stands in line; below 0: the line is full."""
        state.arrived += 1
        turn.number = state.arrived
        line = state.by_subject.get(turn.subject)
        if not line or turn.cost == 0:
            return None
        if len(line) >= self.queue:
            return -1.0
        ahead = sum(other.cost for other in line) - line[0].cost
        line.append(turn)
        turn.queued = True
        return max(0.0, line[0].due - turn.since) + (ahead + turn.cost) * self.unit

    def stand(self, state: Lines, turn: Turn, due: float) -> bool:
        """It was refused until `due` and waits; False when the line is full."""
        turn.due = due
        if turn.queued:
            return True
        line = state.by_subject.setdefault(turn.subject, deque())
        if len(line) >= self.queue:
            return False
        place = next((index for index, other in enumerate(line) if other.number > turn.number), len(line))
        line.insert(place, turn)
        turn.queued = True
        return True

    def leads(self, state: Lines, turn: Turn) -> bool:
        """Whether it is the one to ask."""
        line = state.by_subject.get(turn.subject)
        return not turn.queued or (bool(line) and line is not None and line[0] is turn)

    def leave(self, state: Lines, now: float, ticket: Turn) -> Events:
        """It passed, or gives up; whoever stands first then asks at once."""
        line = state.by_subject.get(ticket.subject)
        if not ticket.queued or line is None or ticket not in line:
            ticket.queued = False
            return ()
        first = line[0] is ticket
        line.remove(ticket)
        ticket.queued = False
        if not line:
            del state.by_subject[ticket.subject]
            return ()
        return (Wake(line[0]),) if first else ()

    def restart(self, state: Lines) -> None:
        """Nobody any more, in place: after a fork those who stand here do not exist."""
        state.by_subject.clear()
