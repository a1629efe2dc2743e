"""The adaptive limit's rule: as many calls at once as the callee serves without queueing, found out from latency.

Permits out = `taken`, granted tickets included; a permit counts once, in its epoch. The limit moves at the end of a
window of results, never below `least` or above `most`, and not up while it is not in use. A partition below its own share
begins even where others have borrowed its places: until those have ended more calls than the limit run, never more than
`most`. Waiters stand in one queue per priority. A queue in which even the shortest wait of an interval was long is
overloaded (CoDel): those who stood in it for long are put out, so that those who come now are served in time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from seawall.core import units
from seawall.core.outcome import Outcome
from seawall.policies.limit_algorithms import ALGORITHMS, Algorithm, Window
from seawall.policies.limit_shares import Accounts, Claim, ShareRule
from seawall.policies.limit_window import Filling
from seawall.policies.verdict import Events, Note, Permit, Rejection, Ticket, Wake

LEVELS = {"critical": 0, "default": 1, "sheddable": 2}
SHARES = (1.1, 1.0, 0.7)  # of the limit, by level: the last tenth is kept for what is critical
SHORTEST, LONGEST = 0.1, 1.0  # seconds of a window
TOO_FAST = 1e-4  # seconds: what answers faster has not done the work


class Slot(Permit):
    """The right to be one of the calls that run. Void once it is settled, or its epoch is over."""

    __slots__ = ("claim", "epoch")

    def __init__(self, epoch: int, claim: Claim | None = None) -> None:
        self.epoch = epoch
        self.claim = claim


class Waiter(Ticket):
    """A place in the queue of its level. `shed` says why it was put out, once it was."""

    __slots__ = ("claim", "level", "shed")

    def __init__(self, since: float, until: float, level: int, claim: Claim | None = None) -> None:
        super().__init__(since, until)
        self.level = level
        self.claim = claim
        self.shed: str | None = None


class LimitState:
    """One limit: the algorithm's memory, the window that fills, who runs and who waits."""

    __slots__ = (
        "accounts",
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

    def __init__(self, limit: float, memory: Any, accounts: Accounts) -> None:
        self.accounts = accounts
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

    def room(self, level: int, most: int) -> int:
        """How many calls of this level may begin now; 0 or less = none."""
        return max(1, min(most, int(self.limit * SHARES[level] + 1e-9))) - self.taken


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
    shares: ShareRule = field(default_factory=ShareRule)
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
        return LimitState(self.initial, self.moves.start(), self.shares.start())

    # --- who may run

    def admit(
        self,
        state: LimitState,
        now: float,
        until: float,
        priority: str = "default",
        partition: Hashable = None,
        tenant: Hashable = None,
    ) -> Slot | Waiter | Rejection:
        """Begin, or take a place in the queue that is given up at the moment `until`, or be refused."""
        level = LEVELS[priority]
        claim = self.shares.claim(state.accounts, now, partition, tenant) if self.shares.used else None
        if self._may_begin(state, now, level, claim):
            if self.queue:
                self._observe(state, now, 0.0)
            return self._seat(state, claim)
        full = f"has its limit of {int(state.limit)} calls at once reached"
        if self.queue == 0 or until <= now:
            return self._refuse(state, now, claim, full)
        events: Events = ()
        if state.waiting >= self.queue:
            events = self._make_room(state, level, claim)
            if not events:
                return self._refuse(state, now, claim, f"{full} and its queue of {self.queue} is full")
        waiter = Waiter(now, until, level, claim)
        self._line_up(state, waiter)
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
        self._step_out(state, ticket)
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
        if permit.claim is not None:
            self.shares.give(state.accounts, permit.claim)
        return moved + self.match(state, now) if moved or any(state.queues) else ()

    def leave(self, state: LimitState, now: float, ticket: Waiter) -> Events:
        """A waiter gives up; what was granted to it meanwhile passes on. After this the ticket is refused."""
        slot, ticket.permit = ticket.permit, None
        if slot is not None:
            return self.settle(state, now, slot, Outcome.IGNORED, 0.0)
        if ticket.shed is None and ticket in state.queues[ticket.level]:
            self._step_out(state, ticket)
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
        state.accounts = self.shares.start()
        state.begin(self.initial, self.moves.start())

    def _may_begin(self, state: LimitState, now: float, level: int, claim: Claim | None) -> bool:
        """Whether a call that has just come may begin, without overtaking anybody."""
        room = state.room(level, self.most)
        if claim is None:
            return room > 0 and not any(state.queues[: level + 1])
        if state.taken < self.most and self.shares.owns(claim, state.limit * SHARES[level]):
            return True
        return room > 0 and not self.shares.withheld(state.accounts, now, claim, state.limit, room)

    def _seat(self, state: LimitState, claim: Claim | None) -> Slot:
        state.taken += 1
        if claim is not None:
            self.shares.take(state.accounts, claim)
        return Slot(state.epoch, claim)

    def _refuse(self, state: LimitState, now: float, claim: Claim | None, reason: str) -> Rejection:
        if claim is not None:
            self.shares.turn_away(state.accounts, now, claim, state.limit)
        return Rejection(reason)

    # --- the queue

    def _line_up(self, state: LimitState, waiter: Waiter) -> None:
        state.queues[waiter.level].append(waiter)
        if waiter.claim is not None:
            self.shares.wait(state.accounts, waiter.claim, 1)

    def _step_out(self, state: LimitState, waiter: Waiter) -> None:
        state.queues[waiter.level].remove(waiter)
        if waiter.claim is not None:
            self.shares.wait(state.accounts, waiter.claim, -1)

    def _serve(self, state: LimitState, now: float) -> Iterator[Wake]:
        while (waiter := self._next(state)) is not None:
            self._step_out(state, waiter)
            delay = now - waiter.since
            self._observe(state, now, delay)
            if state.overloaded and delay > 2 * self.target:
                self._put_out(state, waiter, f"is overloaded: shed after {delay:.3g} s in its queue")
            else:
                waiter.permit = self._seat(state, waiter.claim)
            yield Wake(waiter)

    def _next(self, state: LimitState) -> Waiter | None:
        """Who begins next: a partition below its own share, then the most important, of these the tenant that holds least."""
        if self.shares.partitions and state.taken < self.most:
            for level, queue in enumerate(state.queues):
                owners = [one for one in queue if one.claim and self.shares.owns(one.claim, state.limit * SHARES[level])]
                if owners:
                    return min(owners, key=_held)
        for level, queue in enumerate(state.queues):
            if queue:  # who is less important does not overtake
                if state.room(level, self.most) <= 0:
                    return None
                return min(queue, key=_held) if self.shares.fair else queue[0]
        return None

    def _observe(self, state: LimitState, now: float, delay: float) -> None:
        """CoDel: overloaded while the shortest delay of the last interval was above the target."""
        if now < state.check_at:
            state.least_delay = min(state.least_delay, delay)
            return
        state.overloaded = state.least_delay > self.target
        state.check_at = now + self.interval
        state.least_delay = delay

    def _make_room(self, state: LimitState, level: int, claim: Claim | None) -> Events:
        """Put out the newest waiter of the least important level below `level`, or of a tenant that crowds the queue."""
        for queue in reversed(state.queues[level + 1 :]):
            if queue:
                waiter = queue[-1]
                self._step_out(state, waiter)
                self._put_out(state, waiter, "is overloaded: its place in the queue went to a more important call")
                return (Wake(waiter),)
        if claim is None or claim.tenant is None or not state.queues[level]:
            return ()
        waiter = max(reversed(state.queues[level]), key=_waiting)
        if _waiting(waiter) <= claim.tenant.waiting + 1:
            return ()
        self._step_out(state, waiter)
        self._put_out(state, waiter, "is overloaded: its place in the queue went to a tenant with fewer")
        return (Wake(waiter),)

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


def _held(waiter: Waiter) -> int:
    """What the tenant of a waiter holds."""
    return 0 if waiter.claim is None or waiter.claim.tenant is None else waiter.claim.tenant.taken


def _waiting(waiter: Waiter) -> int:
    """How many calls of a waiter's tenant wait."""
    return 0 if waiter.claim is None or waiter.claim.tenant is None else waiter.claim.tenant.waiting
