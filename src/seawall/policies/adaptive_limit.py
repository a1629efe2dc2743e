"""The adaptive limit's rule: as many calls at once as the callee serves without queueing, found out from latency.

Permits out = `taken`, granted tickets included; a permit counts once, in its epoch. The limit moves at the end of a
window of results, never below `least` or above `most`, and not up while it is not in use. Waiters stand in one queue per
priority. A queue in which even the shortest wait of an interval was long is overloaded (CoDel): those who stood in it for
long are put out, so that those who come now are served in time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from seawall.core import units
from seawall.core.outcome import Outcome
from seawall.policies.limit_algorithms import ALGORITHMS, Algorithm, Window
from seawall.policies.limit_window import Filling
from seawall.policies.verdict import Events, Note, Permit, Rejection, Ticket, Wake

LEVELS = {"critical": 0, "default": 1, "sheddable": 2}
SHARES = (1.1, 1.0, 0.7)  # of the limit, by level: the last tenth is kept for what is critical
SHORTEST, LONGEST = 0.1, 1.0  # seconds of a window
TOO_FAST = 1e-4  # seconds: what answers faster has not done the work


class Slot(Permit):
    """The right to be one of the calls that run. Void once it is settled, or its epoch is over."""

    __slots__ = ("epoch",)

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class Waiter(Ticket):
    """A place in the queue of its level. `shed` says why it was put out, once it was."""

    __slots__ = ("level", "shed")

    def __init__(self, since: float, until: float, level: int) -> None:
        super().__init__(since, until)
        self.level = level
        self.shed: str | None = None


class LimitState:
    """One limit: the algorithm's memory, the window that fills, who runs and who waits."""

    __slots__ = (
        "check_at",
        "epoch",
        "filling",
        "least_delay",
        "limit",
        "memory",
        "overloaded",
        "queues",
        "rtt",
        "shed",
        "taken",
        "windows",
    )

    def __init__(self, limit: float, memory: Any) -> None:
        self.epoch = 0
        self.taken = 0
        self.shed = 0
        self.queues: tuple[deque[Waiter], ...] = (deque(), deque(), deque())
        self.begin(limit, memory)

    def begin(self, limit: float, memory: Any) -> None:
        """Nothing learned, no delay seen."""
        self.limit = limit
        self.memory = memory
        self.filling = Filling()
        self.rtt: float | None = None
        self.windows = 0
        self.overloaded = False
        self.check_at = -math.inf
        self.least_delay = 0.0

    @property
    def waiting(self) -> int:
        """How many calls stand in the queue."""
        return sum(map(len, self.queues))

    def room(self, level: int, most: int) -> bool:
        """Whether a call of this level may begin now."""
        return self.taken < max(1, min(most, int(self.limit * SHARES[level] + 1e-9)))


@dataclass(frozen=True, kw_only=True)
class AdaptiveLimitRule:
    """Where the limit begins, its bounds, and who may wait. Units, ranges and defaults: see `seawall.AdaptiveLimit`.

    algorithm: its name, or one with parameters of its own. interval, target: seconds of CoDel; defaults of folly.
    """

    initial: int = 20
    least: int = 1
    most: int = 200
    algorithm: str | Algorithm = "correlation"
    queue: int = 0
    wait: float | None = None
    interval: float = 0.1
    target: float = 0.005
    moves: Algorithm = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        units.whole("least", self.least)
        units.whole("most", self.most, least=self.least)
        units.whole("initial", self.initial, least=self.least, most=self.most)
        units.whole("queue", self.queue, least=0)
        if self.wait is not None:
            object.__setattr__(self, "wait", units.seconds("wait", self.wait, zero=True))
        object.__setattr__(self, "interval", units.seconds("interval", self.interval))
        object.__setattr__(self, "target", units.seconds("target", self.target))
        if not hasattr(self.algorithm, "next"):
            units.one_of("algorithm", self.algorithm, tuple(ALGORITHMS))
        moves = ALGORITHMS[self.algorithm] if isinstance(self.algorithm, str) else self.algorithm
        object.__setattr__(self, "moves", moves)

    def start(self, now: float) -> LimitState:
        """Nobody runs, nothing learned."""
        return LimitState(self.initial, self.moves.start())

    # --- who may run

    def admit(self, state: LimitState, now: float, until: float, priority: str = "default") -> Slot | Waiter | Rejection:
        """Begin, or take a place in the queue that is given up at the moment `until`, or be refused."""
        level = LEVELS[priority]
        ahead = any(state.queues[: level + 1])
        if not ahead and state.room(level, self.most):
            if self.queue:
                self._observe(state, now, 0.0)
            state.taken += 1
            return Slot(state.epoch)
        full = f"has its limit of {int(state.limit)} calls at once reached"
        if self.queue == 0 or until <= now:
            return Rejection(full)
        events: Events = ()
        if state.waiting >= self.queue:
            events = self._make_room(state, level)
            if not events:
                return Rejection(f"{full} and its queue of {self.queue} is full")
        waiter = Waiter(now, until, level)
        state.queues[level].append(waiter)
        waiter.events = events + self.match(state, now)
        return waiter

    def poll(self, state: LimitState, now: float, ticket: Waiter) -> Slot | Rejection | float:
        """What a waiter looks at when it wakes: its permit, why it was put out, or the seconds it may still wait."""
        if ticket.permit is not None:
            slot: Slot = ticket.permit
            return slot
        if ticket.shed is not None:
            return Rejection(ticket.shed)
        if now < ticket.until:
            return ticket.until - now
        state.queues[ticket.level].remove(ticket)
        return Rejection(f"had no room within {now - ticket.since:.3g} s", events=self.match(state, now))

    def settle(
        self,
        state: LimitState,
        now: float,
        permit: Slot,
        outcome: Outcome,
        took: float,
        dropped: bool = False,  # noqa: FBT001, FBT002  # one of the three ends of a permit
    ) -> Events:
        """Give the permit back and learn from how it ended.

        took: seconds of the call, without its waits in queues. dropped: it failed because it timed out or the callee shed
        it. A success teaches its rtt; other failures, and what is ignored, teach nothing.
        """
        if permit.epoch != state.epoch:
            return ()
        permit.epoch = -1
        dropped = dropped and outcome is Outcome.FAILURE
        moved: Events = ()
        if dropped or (outcome is Outcome.SUCCESS and took >= TOO_FAST):
            moved = self._learn(state, now, took, dropped)
        state.taken -= 1
        return moved + self.match(state, now) if moved or any(state.queues) else ()

    def leave(self, state: LimitState, now: float, ticket: Waiter) -> Events:
        """A waiter gives up; what was granted to it meanwhile passes on. After this the ticket is refused."""
        slot, ticket.permit = ticket.permit, None
        if slot is not None:
            return self.settle(state, now, slot, Outcome.IGNORED, 0.0)
        if ticket.shed is None and ticket in state.queues[ticket.level]:
            state.queues[ticket.level].remove(ticket)
        return self.match(state, now)

    def match(self, state: LimitState, now: float) -> Events:
        """Bring room and waiters together, the most important first; those who got a permit or were shed are to be woken."""
        return tuple(self._serve(state, now))

    def retune(self, state: LimitState, now: float, before: AdaptiveLimitRule) -> Events:
        """Put this rule in the place of `before`: who runs and who waits stays, and so does the limit, within the bounds. What
        another algorithm had learned says nothing to this one."""
        if self.algorithm != before.algorithm:
            state.begin(state.limit, self.moves.start())
        state.limit = min(float(self.most), max(float(self.least), state.limit))
        return self.match(state, now)

    def restart(self, state: LimitState) -> None:
        """Void every permit and ticket that is out and forget what was learned, in place."""
        state.epoch += 1
        state.taken = state.shed = 0
        for queue in state.queues:
            for waiter in queue:
                waiter.shed = "began anew while it waited"
            queue.clear()
        state.begin(self.initial, self.moves.start())

    # --- the queue

    def _serve(self, state: LimitState, now: float) -> Iterator[Wake]:
        for level, queue in enumerate(state.queues):
            while queue and state.room(level, self.most):
                waiter = queue.popleft()
                delay = now - waiter.since
                self._observe(state, now, delay)
                if state.overloaded and delay > 2 * self.target:
                    self._put_out(state, waiter, f"is overloaded: shed after {delay:.3g} s in its queue")
                else:
                    state.taken += 1
                    waiter.permit = Slot(state.epoch)
                yield Wake(waiter)
            if queue:
                return  # who is less important does not overtake

    def _observe(self, state: LimitState, now: float, delay: float) -> None:
        """CoDel: overloaded while the shortest delay of the last interval was above the target."""
        if now < state.check_at:
            state.least_delay = min(state.least_delay, delay)
            return
        state.overloaded = state.least_delay > self.target
        state.check_at = now + self.interval
        state.least_delay = delay

    def _make_room(self, state: LimitState, level: int) -> Events:
        """Put out the newest waiter of the least important level below `level`, if there is one."""
        for queue in reversed(state.queues[level + 1 :]):
            if queue:
                waiter = queue.pop()
                self._put_out(state, waiter, "is overloaded: its place in the queue went to a more important call")
                return (Wake(waiter),)
        return ()

    def _put_out(self, state: LimitState, waiter: Waiter, reason: str) -> None:
        waiter.shed = reason
        state.shed += 1

    # --- the limit

    def _learn(self, state: LimitState, now: float, took: float, dropped: bool) -> Events:  # noqa: FBT001  # not public
        window = state.filling
        if window.begun_at is None:
            window.begin(now, min(LONGEST, max(SHORTEST, 2 * (took if state.rtt is None else state.rtt))))
        window.add(took, state.taken, int(state.limit), dropped=dropped)
        if not window.is_over(now):
            return ()
        state.filling = Filling()
        state.windows += 1
        return self._move(state, window.close(now))

    def _move(self, state: LimitState, window: Window) -> Events:
        if window.rtt is not None:
            state.rtt = window.rtt
        before = state.limit
        wanted = self.moves.next(state.memory, before, window)
        if window.in_flight < before / 2:
            wanted = min(wanted, before)  # what is not in use proves nothing
        state.limit = min(float(self.most), max(float(self.least), wanted))
        if int(state.limit) == int(before):
            return ()
        return (Note("adaptive_limit.moved", {"limit": int(state.limit), "before": int(before), "rtt": state.rtt}),)
