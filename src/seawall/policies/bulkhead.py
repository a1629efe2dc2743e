"""The bulkhead's rule: at most `limit` calls at once, a bounded queue in order of arrival for the rest.

HOT: `free` (pop, append) and `queue` (truth test). Release appends a seat first and looks at the queue after; a waiter
queues first and looks at the seats after: both orders together exclude a lost wake-up. Seats in `free` + seats held +
seats on tickets = limit + waiting `Retire` tickets, always.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from seawall.core import units
from seawall.core.outcome import Outcome
from seawall.policies.verdict import DUST, Events, Note, Permit, Rejection, Ticket, Wake

Order = Literal["fifo", "lifo"]


class Seat(Permit):
    """The right to be one of the calls that run. Made once, passed on for ever; void when its epoch is over."""

    __slots__ = ("epoch",)

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class Retire(Ticket):
    """Stands at the head of the queue and swallows one seat: the limit was lowered while all seats were taken."""

    __slots__ = ()


class BulkheadState:
    """One bulkhead. `free` and `queue` keep their identity for life: compiled code binds them."""

    __slots__ = ("epoch", "free", "limit", "queue")

    def __init__(self, limit: int) -> None:
        self.epoch = 0
        self.limit = limit
        self.free: list[Seat] = [Seat(0) for _ in range(limit)]
        self.queue: deque[Ticket] = deque()

    @property
    def waiting(self) -> int:
        """How many calls stand in the queue."""
        return sum(not isinstance(ticket, Retire) for ticket in self.queue)

    @property
    def taken(self) -> int:
        """How many seats are held or granted."""
        return self.limit + (len(self.queue) - self.waiting) - len(self.free)


@dataclass(frozen=True, kw_only=True)
class BulkheadRule:
    """How many at once and how many may wait. Units, ranges and defaults: see `seawall.Bulkhead`."""

    limit: int
    queue: int = 0
    wait: float | None = None
    order: Order = "fifo"

    def __post_init__(self) -> None:
        units.whole("limit", self.limit)
        units.whole("queue", self.queue, least=0)
        if self.wait is not None:
            object.__setattr__(self, "wait", units.seconds("wait", self.wait, zero=True))
        units.one_of("order", self.order, ("fifo", "lifo"))

    def start(self, now: float) -> BulkheadState:
        """All seats free, nobody waiting."""
        return BulkheadState(self.limit)

    def admit(self, state: BulkheadState, now: float, until: float) -> Seat | Ticket | Rejection:
        """Take a seat, or a place in the queue that is given up at the moment `until`, or be refused."""
        if not state.queue and state.free:
            return state.free.pop()
        if self.queue == 0 or until - now <= DUST:
            return Rejection(f"has all {state.limit} seats taken")
        if state.waiting >= self.queue:
            return Rejection(f"has all {state.limit} seats taken and its queue of {self.queue} is full")
        ticket = Ticket(now, until)
        state.queue.append(ticket)
        ticket.events = self.match(state)
        return ticket

    def poll(self, state: BulkheadState, now: float, ticket: Ticket) -> Seat | Rejection | float:
        """What a waiter looks at when it wakes: its seat, the end of its time, or how many seconds it may still wait."""
        if ticket.permit is not None:
            seat: Seat = ticket.permit
            return seat
        if ticket not in state.queue:
            return Rejection("began anew while the call waited")
        if ticket.until - now > DUST:
            return ticket.until - now
        state.queue.remove(ticket)
        waited = now - ticket.since
        return Rejection(f"had no seat free within {waited:.3g} s", events=self.match(state))

    def settle(self, state: BulkheadState, now: float, permit: Seat, outcome: Outcome) -> Events:
        """Give the seat back; the first in the queue gets it."""
        if permit.epoch != state.epoch:
            return ()
        state.free.append(permit)
        return self.match(state) if state.queue else ()

    def leave(self, state: BulkheadState, now: float, ticket: Ticket) -> Events:
        """A waiter gives up; a seat that was granted to it meanwhile passes on. After this the ticket is refused."""
        seat, ticket.permit = ticket.permit, None
        if seat is not None:
            return self.settle(state, now, seat, Outcome.IGNORED)
        if ticket in state.queue:
            state.queue.remove(ticket)
        return self.match(state)

    def match(self, state: BulkheadState) -> Events:
        """Bring free seats and waiters together, in order; the ones that got a seat are to be woken."""
        woken: list[Wake] = []
        while state.free and state.queue:
            newest = self.order == "lifo" and not isinstance(state.queue[0], Retire)
            ticket = state.queue.pop() if newest else state.queue.popleft()
            seat = state.free.pop()
            if not isinstance(ticket, Retire):
                ticket.permit = seat
                woken.append(Wake(ticket))
        return tuple(woken)

    def resize(self, state: BulkheadState, now: float, limit: int) -> Events:
        """Change the number of seats; a lower limit takes effect as seats come back."""
        units.whole("limit", limit)
        change = limit - state.limit
        state.limit = limit
        for _ in range(change):
            if state.queue and isinstance(state.queue[0], Retire):
                state.queue.popleft()
            else:
                state.free.append(Seat(state.epoch))
        for _ in range(-change):
            state.queue.appendleft(Retire(now, now))
        return (Note("bulkhead.resized", {"limit": limit}), *self.match(state))

    def restart(self, state: BulkheadState) -> None:
        """Void every seat and ticket that is out, in place: after a fork their holders do not exist here."""
        state.epoch += 1
        state.queue.clear()
        state.free[:] = [Seat(state.epoch) for _ in range(state.limit)]
