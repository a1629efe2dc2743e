"""A bulkhead whose seats are shared by processes: each seat is leased, so that a process that dies gives its seats back."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Literal

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import BulkheadFull
from seawall.core.outcome import Outcome, Verdict
from seawall.pipeline.cell import Cell
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.run import Run
from seawall.policies.verdict import Events, Permit, Rejection, Ticket, Wake
from seawall.shared import keys
from seawall.shared.port import StoreDown
from seawall.shared.stores import Gate, gate

Outage = Literal["local", "open", "closed"]
LOOKS_EVERY: Final = 0.05
"""Seconds between two looks of the first waiter, when no seat of its own process comes free."""


@dataclass(frozen=True, slots=True)
class SharedBulkheadSnapshot:
    """One process's part of a shared bulkhead.

    limit: seats of all processes together. taken: seats that this process holds; waiting: calls in its queue; rejected: calls
    it refused; lost: seats whose lease ended while the call still ran; degraded: whether it decides without the store now.
    """

    kind: str
    name: str
    limit: int
    taken: int
    waiting: int
    rejected: int
    lost: int
    degraded: bool


class Seat(Permit):
    """A seat. id: its name in the store; None for one that was taken without the store."""

    __slots__ = ("id",)
    epoch = 0

    def __init__(self, id: str | None) -> None:  # what it is
        self.id = id


class Place(Ticket):
    """A place in the queue of this process. due: when it may look again; answer: what came back."""

    __slots__ = ("answer", "asking", "due", "given_up", "tasks")

    def __init__(self, since: float, until: float, *, tasks: bool) -> None:
        super().__init__(since, until)
        self.due = -math.inf
        self.asking = False
        self.answer: Any = None
        self.given_up = False
        self.tasks = tasks


class Seats:
    """What one process holds: seats of the store by id, seats taken alone, and its queue."""

    __slots__ = ("alone", "held", "queue")

    def __init__(self) -> None:
        self.alone = 0
        self.held: set[str] = set()
        self.queue: deque[Place] = deque()


class _Rule:
    """The queue of one process."""

    def start(self, now: float) -> Seats:
        """Nothing held."""
        return Seats()

    def leave(self, state: Seats, now: float, ticket: Place) -> Events:
        """It is seated or gives up; whoever stands first then looks."""
        if ticket not in state.queue:
            return ()
        first = state.queue[0] is ticket
        state.queue.remove(ticket)
        return (Wake(state.queue[0]),) if first and state.queue else ()

    def join(self, state: Seats, place: Place, most: int) -> bool:
        """Stand in the queue; False when it is full."""
        if place not in state.queue and len(state.queue) >= most:
            return False
        if place not in state.queue:
            state.queue.append(place)
        return True

    def leads(self, state: Seats, place: Place) -> bool:
        """Whether nobody stands before it."""
        return place not in state.queue or state.queue[0] is place

    def hold(self, state: Seats, seat: str) -> None:
        """A seat of the store is held."""
        state.held.add(seat)

    def drop(self, state: Seats, seat: str | None) -> None:
        """A seat is held no more; None = one that was taken alone."""
        if seat is None:
            state.alone = max(0, state.alone - 1)
        else:
            state.held.discard(seat)

    def held(self, state: Seats) -> list[str]:
        """The seats of the store that are held."""
        return sorted(state.held)

    def take_alone(self, state: Seats, most: float) -> bool:
        """Take a seat without the store, of at most so many in all."""
        if len(state.held) + state.alone >= most:
            return False
        state.alone += 1
        return True

    def first(self, state: Seats) -> Events:
        """A seat came free: whoever stands first looks at once."""
        if not state.queue:
            return ()
        state.queue[0].due = -math.inf
        return (Wake(state.queue[0]),)

    def restart(self, state: Seats) -> None:
        """After a fork: nothing held, nobody waits."""
        state.alone = 0
        state.held.clear()
        state.queue.clear()


class SharedBulkhead(Guarding[Seats]):
    """At most `limit` calls at once, in all processes together.

    limit: calls that may run at once, >= 1. name: what the processes share it by, a text that is not empty.
    store: a URL such as "redis://127.0.0.1:6379", which needs `seawall[redis]`.
    lease: seconds after which the seats of a process that died come back, >= 0.1; a living one renews them by itself, three times
        as often. Default 10.
    queue: calls that may wait in this process, >= 0. Default 0 = refuse at once. wait: seconds that one call may wait, >= 0;
        None (default) = as long as its deadline allows. In order of arrival within a process.
    outage: what decides while the store does not answer: "local" (default) limit / replicas seats of this process alone, at least
        one; "open" lets pass, "closed" refuses. replicas: how many processes share it, >= 1. Default 1.
    budget: seconds that one ask of the store may take, > 0. Default 0.025.
    Raises BulkheadFull for a call that gets no seat; ValueError or TypeError for a parameter out of range.
    Bound: a process that is stopped for longer than its lease loses its seats while its calls still run (event
    "bulkhead.seat_lost"): then there may be as many more at once as it held.
    """

    kind = "bulkhead"
    error = BulkheadFull

    def __init__(
        self,
        limit: int,
        *,
        name: str,
        store: Any,
        lease: float | str = 10,
        queue: int = 0,
        wait: float | str | None = None,
        outage: Outage = "local",
        replicas: int = 1,
        budget: float | str = 0.025,
        clock: Clock | None = None,
    ) -> None:
        self.limit = units.whole("limit", limit)
        self.lease = units.seconds("lease", lease, above=0.1)
        self.queue = units.whole("queue", queue, least=0)
        self.wait = math.inf if wait is None else units.seconds("wait", wait, zero=True)
        self.outage: Outage = outage
        units.one_of("outage", outage, ("local", "open", "closed"))
        self.replicas = units.whole("replicas", replicas)
        self.may_wait = True
        self.lost = 0
        self._rule = _Rule()
        super().__init__(self._rule, name=name, clock=clock)
        self.cell: Cell[Seats] = Cell(self, self._rule)
        self._gate: Gate = gate(store, budget=units.seconds("budget", budget), clock=clock)
        if not hasattr(self._gate.store, "call_named"):
            raise TypeError(f"store must be one that processes share, such as redis://...; got {self._gate.store.name}")
        self._key = f"{keys_version()}:seats:{{{keys.name(name)}}}"
        self._renewer: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._degraded = False

    def snapshot(self) -> SharedBulkheadSnapshot:
        """What this process knows, without asking."""
        state = self.cell.state
        taken = len(state.held) + state.alone
        return SharedBulkheadSnapshot(
            self.kind, self.name, self.limit, taken, len(state.queue), self.rejected, self.lost, self._degraded
        )

    @property
    def at_rest(self) -> bool:
        """Whether this process holds nothing and nobody waits."""
        shot = self.snapshot()
        return shot.taken == 0 and shot.waiting == 0

    def reopen(self) -> None:
        """After a fork: the seats and waiters are the parent's, and connections are made anew."""
        super().reopen()
        self._gate.reopen()
        self._renewer = None

    # --- the guard's part

    def admit(self, run: Run, now: float) -> Any:
        """Ask for a seat; in a task the answer comes to a ticket."""
        until = now + self.wait if self.queue else now
        if run.deadline is not None:
            until = min(until, run.deadline)
        place = Place(now, until, tasks=run.port.kind == "asyncio")
        if self.cell.state.queue:
            if until > now and self.cell.apply(self._rule.join, place, self.queue):
                return place
            return Rejection(f"has all {self.limit} seats taken and others waiting", LOOKS_EVERY)
        if place.tasks:
            self._send(place)
            return place
        answer = self.poll(place, now)
        return place if isinstance(answer, float) else answer

    def poll(self, ticket: Any, now: float) -> Any:
        """What a waiter looks at."""
        place: Place = ticket
        leads = self.cell.apply(self._rule.leads, place)
        if place.answer is None and not place.asking and leads and now >= place.due:
            self._send(place)
        if place.answer is not None:
            return self._weigh(place, now)
        if place.asking:
            return math.inf
        if place.until <= now:
            self.cell.apply(self._rule.leave, now, place)
            return Rejection(f"had no seat free within {now - place.since:.3g} s", LOOKS_EVERY)
        return max(0.0, min(place.due if leads else math.inf, place.until) - now)

    def leave(self, ticket: Any, now: float) -> None:
        """A waiter gives up; a seat that is granted to it after this goes back."""
        place: Place = ticket
        place.given_up = True
        self.cell.apply(self._rule.leave, now, place)
        answer, place.answer = place.answer, None
        if isinstance(answer, Seat):
            self._return(answer, tasks=place.tasks)

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Give the seat back, once every worker thread that was given up on under it has ended."""
        running = held.still_running()
        if running:
            running[0].on_done(lambda: self._return(permit, tasks=False))
        else:
            self._return(permit, tasks=held.run.port.kind == "asyncio")

    # --- asking

    def _send(self, place: Place) -> None:
        words = ["take", str(self.limit), str(int(self.lease * 1000)), f"{os.getpid()}-{os.urandom(8).hex()}"]
        if place.tasks:
            place.asking = True
            self._spawn(self._take_by_task(place, words))
            return
        try:
            place.answer = self._heard(self._gate.call("seats", [self._key], words), words[3])
        except StoreDown as error:
            place.answer = self._without(error)

    async def _take_by_task(self, place: Place, words: list[str]) -> None:
        try:
            answer = self._heard(await self._gate.acall("seats", [self._key], words), words[3])
        except StoreDown as error:
            answer = self._without(error)
        place.asking = False
        if place.given_up:
            if isinstance(answer, Seat):
                self._return(answer, tasks=True)
            return
        place.answer = answer
        if place.event is not None:
            place.event.set()

    def _heard(self, raw: Any, seat: str) -> Seat | float:
        """A seat, or the seconds until one may be free."""
        self._degraded = False
        granted, _, wait = raw
        if not granted:
            return min(LOOKS_EVERY, float(wait) / 1000)
        self.cell.apply(self._rule.hold, seat)
        self._keep_renewing()
        return Seat(seat)

    def _without(self, error: StoreDown) -> Seat | float:
        if not self._degraded:
            self._degraded = True
            self.emit("bulkhead.degraded", reason=str(error), outage=self.outage)
        shares = {"closed": 0.0, "open": math.inf, "local": float(max(1, self.limit // self.replicas))}
        return Seat(None) if self.cell.apply(self._rule.take_alone, shares[self.outage]) else LOOKS_EVERY

    def _weigh(self, place: Place, now: float) -> Any:
        answer, place.answer = place.answer, None
        if isinstance(answer, Seat):
            self.cell.apply(self._rule.leave, now, place)
            return answer
        if place.until <= now or not self.cell.apply(self._rule.join, place, self.queue):
            self.cell.apply(self._rule.leave, now, place)
            waited = f" within {now - place.since:.3g} s" if place.until > place.since else ""
            return Rejection(f"has all {self.limit} seats taken{waited}", LOOKS_EVERY)
        place.due = now + answer * (0.5 + self.clock.random.random())
        return max(0.0, min(place.due, place.until) - now)

    # --- giving back and renewing

    def _return(self, seat: Seat, *, tasks: bool) -> None:
        self.cell.apply(self._rule.drop, seat.id)
        if seat.id is None:
            self.cell.apply(self._rule.first)
            return
        words = ["leave", str(self.limit), str(int(self.lease * 1000)), seat.id]
        if tasks and _in_loop():
            self._spawn(self._return_by_task(words))
            return
        try:
            self._gate.call("seats", [self._key], words)
        except StoreDown as error:
            self.emit("bulkhead.degraded", reason=f"a seat comes back by its lease: {error}", outage=self.outage)
        self.cell.apply(self._rule.first)

    async def _return_by_task(self, words: list[str]) -> None:
        try:
            await self._gate.acall("seats", [self._key], words)
        except StoreDown as error:
            self.emit("bulkhead.degraded", reason=f"a seat comes back by its lease: {error}", outage=self.outage)
        self.cell.apply(self._rule.first)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep_renewing(self) -> None:
        if self._renewer is None or not self._renewer.is_alive():
            self._renewer = threading.Thread(target=self._renew, name=f"seawall seats {self.name}", daemon=True)
            self._renewer.start()

    def _renew(self) -> None:
        """On a thread of its own, for threads and tasks alike, so that a loop that is busy loses no seat."""
        idle = threading.Event()
        while True:
            idle.wait(self.lease / 3)
            seats = self.cell.apply(self._rule.held)
            if not seats:
                return
            try:
                words = ["renew", str(self.limit), str(int(self.lease * 1000)), *seats]
                lost = int(self._gate.call("seats", [self._key], words))
            except StoreDown as error:
                self.emit("bulkhead.degraded", reason=f"seats were not renewed: {error}", outage=self.outage)
                continue
            if lost:
                self.lost += lost
                self.emit("bulkhead.seat_lost", seats=lost)


def keys_version() -> str:
    """The beginning of every key."""
    from seawall.shared.limits import VERSION

    return VERSION


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None
