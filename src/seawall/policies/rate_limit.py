"""The rate limiter's rule: who may pass now, who waits his turn, who is refused; per key, under any of the algorithms.

HOT: `tat`, `queue` (truth test), `interval`, `slack`. A token bucket without keys lives in `tat` alone. Compiled code admits a
cost of one by a single line that loads, compares and stores without a call in between, if `queue` is empty; a full bucket needs
no look at its burst, and what is refused leaves the very object that was there:

    state.tat = new = at + state.interval if (tat := state.tat) <= at else tat + state.interval if tat <= at + state.slack else
    tat

and so every write of `tat` here is one such line too: the lock does not protect against the fast path. While other numbers of the
bucket change, `tat` is put so far ahead that the line admits nothing. `queue` keeps its identity for life.

Waiting: a queue per key, in order of arrival. Nothing is spent for who waits, so who leaves owes nothing and those behind
move up. The first one sets an alarm for the moment of its turn; whoever looks serves all whose turn has come, in order, and
wakes them and the next. Those behind set an alarm a little after their own moment, so that a stuck one holds up nobody long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from seawall.core import units
from seawall.core.outcome import Outcome
from seawall.core.units import Limit
from seawall.policies.fixed_window import FixedWindow
from seawall.policies.gcra import Gcra
from seawall.policies.key_table import GRACE, OVERFLOW, UNKEYED
from seawall.policies.limiter_state import Decision, Grant, LimiterState, Pause, Turn
from seawall.policies.limiter_steps import behind, decision, line_up, next_look, scope_of, serve, spend, told, turn_away
from seawall.policies.meter import END, NEVER, Meter, Together, nanoseconds, seconds_until
from seawall.policies.shaper import Shaper
from seawall.policies.sliding_log import SlidingLog
from seawall.policies.sliding_window import SlidingWindow
from seawall.policies.verdict import Events, Note, Rejection, Wake

Algorithm = Literal["token_bucket", "leaky_bucket", "sliding_window", "sliding_log", "fixed_window"]
Initial = Literal["full", "empty"] | int

METERS: Final[dict[str, Callable[[Limit], Meter[Any]]]] = {
    "token_bucket": Gcra,
    "leaky_bucket": Shaper,
    "sliding_window": SlidingWindow,
    "sliding_log": SlidingLog,
    "fixed_window": FixedWindow,
}
LONGEST_HINT: Final = 60.0
"""Seconds up to which a callee's wish to be left alone is obeyed."""


@dataclass(frozen=True, kw_only=True)
class RateLimitRule:
    """Which limits, and how they are kept. Units, ranges and defaults: see `seawall.RateLimiter`.

    limits: one spec or a list of them; kept as a tuple of Limit. obeys_hints: whether a throttled call's hint pauses its key.
    meter: the algorithm on these limits.
    """

    limits: tuple[Limit, ...]
    algorithm: Algorithm = "token_bucket"
    initial: Initial = "full"
    queue: int = 1000
    max_keys: int = 100_000
    obeys_hints: bool = False
    meter: Meter[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", read_limits(self.limits))
        units.one_of("algorithm", self.algorithm, tuple(METERS))
        units.whole("queue", self.queue, least=0)
        units.whole("max_keys", self.max_keys)
        if not isinstance(self.obeys_hints, bool):
            raise TypeError(f"penalise must be True or False; got {self.obeys_hints!r}")
        parts = tuple(METERS[self.algorithm](limit) for limit in self.limits)
        object.__setattr__(self, "meter", parts[0] if len(parts) == 1 else Together(parts))
        _read_initial(self.initial, self.meter.room)

    # --- beginning

    def start(self, now: float) -> LimiterState:
        """Nothing spent but what `initial` withholds, nobody waiting."""
        state = LimiterState(self.meter, self.max_keys)
        self.begin(state, now)
        return state

    def begin(self, state: LimiterState, now: float) -> Events:
        """Forget everything, in place. Whoever waits is woken and refused."""
        at = nanoseconds(now)
        state.tolerance, state.interval, state.slack, state.tat = -1, 0, 0, END
        standing = [turn for line in (state.queue, *state.queues.values()) for turn in line]
        self.disband(state)
        state.table.clear()
        state.table.max_keys = self.max_keys
        state.untold.clear()
        state.overflowing = False
        state.meter = self.meter
        state.fresh = self._untouched(at)
        self._open_fast_path(state, state.fresh)
        return tuple(map(Wake, standing))

    def disband(self, state: LimiterState) -> None:
        """Empty all queues: after a fork those who stand in them do not exist here."""
        for line in (state.queue, *state.queues.values()):
            for turn in line:
                turn.queued = False
            line.clear()
        state.queues.clear()

    def _untouched(self, at: int) -> Any:
        initial = {"full": None, "empty": 0}.get(self.initial) if isinstance(self.initial, str) else self.initial
        return self.meter.begin(at, initial)

    def _open_fast_path(self, state: LimiterState, tat: Any) -> None:
        if type(self.meter) is Gcra:
            state.interval = self.meter.interval
            state.tolerance = self.meter.tolerance
            state.slack = self.meter.tolerance - self.meter.interval
            state.tat = tat

    # --- passing at once

    def take(self, state: LimiterState, now: float, key: Hashable = UNKEYED, cost: int = 1) -> bool:
        """Spend `cost` if it fits now and nobody waits. Nothing is allocated for the answer; events stay in `untold`."""
        at = int(now * 1e9)
        tolerance = state.tolerance
        if tolerance < 0 or cost != 1:
            return self._take_any(state, at, key, cost)
        if key == "":  # UNKEYED, without looking it up
            if state.queue:
                return False
            limit = at + tolerance
            state.tat = new if (new := (tat if (tat := state.tat) > at else at) + state.interval) <= limit else tat
            return new <= limit
        return self._take_any(state, at, key, cost)

    def decide(self, state: LimiterState, now: float, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """Spend `cost` if it fits now and nobody waits, and say all there is to say about it."""
        at = nanoseconds(now)
        state.table.sweep(at - GRACE, state.meter.drained)
        scope = scope_of(state, at, key)
        line = state.line(scope) if cost else None
        wait = behind(state, at, scope, line, cost) if line else spend(state, at, scope, cost)
        return decision(state, now, at, scope, cost, wait, allowed=wait == 0 and not line)

    def peek(self, state: LimiterState, now: float, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """What `decide` would say, without spending."""
        at = nanoseconds(now)
        scope = key if state.table.has_place_for(key) else OVERFLOW
        line = state.line(scope) if cost else None
        wait = behind(state, at, scope, line or (), cost)
        return decision(state, now, at, scope, cost, wait, allowed=wait == 0 and not line)

    # --- passing, or waiting for it

    def admit(self, state: LimiterState, now: float, key: Hashable, cost: int, until: float) -> Grant | Turn | Rejection:
        """Pass, or take a place in the key's queue that is given up at the moment `until`, or be refused: at once when
        the turn would come later than that."""
        at = nanoseconds(now)
        state.table.sweep(at - GRACE, state.meter.drained)
        scope = scope_of(state, at, key)
        line = state.line(scope) if cost else None
        if line:
            wait = behind(state, at, scope, line, cost)
        else:
            wait = spend(state, at, scope, cost)
            if wait == 0:
                grant = Grant(scope, cost, at)
                grant.events = told(state)
                return grant
        refusal = self._refusal(state, now, at, scope, cost, wait, until)
        return refusal if refusal is not None else line_up(state, Turn(now, until, cost, scope, at + wait))

    def poll(self, state: LimiterState, now: float, ticket: Turn) -> Grant | Rejection | Pause:
        """What a waiter looks at when it wakes: its grant, its refusal, or how many seconds are left until its turn."""
        at = nanoseconds(now)
        if ticket.queued:
            serve(state, at, ticket.key, me=ticket)
        if ticket.permit is not None:
            grant: Grant = ticket.permit
            grant.events = told(state)
            return grant
        if not ticket.queued:
            return self._turned_away(state, ticket)
        moment, until = next_look(state, at, ticket), nanoseconds(ticket.until)
        if ticket.due > until:
            events = self.leave(state, now, ticket)
            pause = seconds_until(now, ticket.due)
            return Rejection(f"had no room for the call within {now - ticket.since:.3g} s", pause, events)
        return Pause.of(seconds_until(now, min(moment, until)), told(state))

    def leave(self, state: LimiterState, now: float, ticket: Turn) -> Events:
        """A waiter gives up; what it was granted meanwhile is given back. After this the ticket is refused."""
        grant, ticket.permit = ticket.permit, None
        if grant is not None:
            return self.refund(state, now, grant, grant.cost)
        line = state.line(ticket.key)
        if ticket.queued and line is not None:
            ticket.queued = False
            was_first = line[0] is ticket
            line.remove(ticket)
            serve(state, nanoseconds(now), ticket.key, moved=was_first)
        return told(state)

    # --- afterwards

    def settle(self, state: LimiterState, now: float, permit: Grant, outcome: Outcome, hint: float | None = None) -> Events:
        """What was spent stays spent, however the call went. hint: seconds that a callee which throttled asked for; the key
        then passes nothing for as long, up to a minute, if the rule obeys hints."""
        if not self.obeys_hints or hint is None or not hint > 0:
            return ()
        return self.penalise(state, now, permit.key, min(hint, LONGEST_HINT))

    def refund(self, state: LimiterState, now: float, permit: Grant, amount: int) -> Events:
        """Give `amount` of what was granted back; a negative amount charges more, into debt if need be."""
        at, key = nanoseconds(now), permit.key
        if key == UNKEYED and state.tolerance >= 0:
            step = amount * state.interval
            if amount > 0:
                state.tat = back if (back := state.tat - step) > at else at
            else:
                state.tat = (tat if (tat := state.tat) > at else at) - step
        elif amount < 0:
            scope = scope_of(state, at, key)
            state.table.put(scope, state.meter.spend(state.value(scope), at, -amount))
        elif key in state.table.values:  # a key that was dropped since had nothing left to give back
            state.table.put(key, state.meter.refund(state.value(key), at, amount, permit.since))
        serve(state, at, key, moved=True)
        return told(state)

    def penalise(self, state: LimiterState, now: float, key: Hashable, seconds: float) -> Events:
        """Let the key pass nothing for so many seconds; then it begins with one unit and fills as ever."""
        at, until = nanoseconds(now), nanoseconds(now + seconds)
        scope = scope_of(state, at, key)
        if scope == UNKEYED and state.tolerance >= 0:
            floor = until + state.tolerance - state.interval
            state.tat = floor if (tat := state.tat) < floor else tat
        else:
            state.table.put(scope, state.meter.hold(state.value(scope), at, until))
        state.untold.append(Note("limiter.penalised", {"key": key, "seconds": seconds}))
        serve(state, at, scope, moved=True)
        return told(state)

    def reset(self, state: LimiterState, now: float, key: Hashable) -> Events:
        """Let the key begin anew, as if the limiter had been made now."""
        at = nanoseconds(now)
        value = self._untouched(at)
        if key == UNKEYED and state.tolerance >= 0:
            state.tat = value
        elif state.table.has_place_for(key):
            state.table.put(key, value)
        serve(state, at, key, moved=True)
        return told(state)

    def retune(self, state: LimiterState, now: float) -> Events:
        """Put this rule's limits in the place of those that `state` was counted under. Debt is kept in units, so that a
        key which owes three calls owes three calls. Looks at every key once.

        Raises ValueError when the number of limits or the algorithm is another one.
        """
        at, old, new = nanoseconds(now), state.meter, self.meter
        if type(old) is not type(new) or _count(old) != _count(new):
            raise ValueError(f"spec must have as many limits as before, {_count(old)}; got {_count(new)}")
        tat, state.tat = state.tat, END  # the fast path steps aside until all numbers fit together again
        tat = new.carry(tat, at, old) if isinstance(old, Gcra) else tat
        for key, value in state.table.values.items():
            state.table.values[key] = new.carry(value, at, old)
        state.fresh = new.carry(state.fresh, at, old)
        state.meter = new
        self._open_fast_path(state, tat)
        state.untold.append(Note("limiter.retuned", {"limits": [str(limit) for limit in self.limits]}))
        for scope in (UNKEYED, *state.queues):
            turn_away(state, scope)
            serve(state, at, scope, moved=True)
        return told(state)

    # --- steps

    def _take_any(self, state: LimiterState, at: int, key: Hashable, cost: int) -> bool:
        state.table.sweep(at - GRACE, state.meter.drained)
        scope = scope_of(state, at, key)
        if cost and state.line(scope):
            return False
        return spend(state, at, scope, cost) == 0

    def _turned_away(self, state: LimiterState, ticket: Turn) -> Rejection:
        if ticket.cost <= state.meter.capacity:
            return Rejection("began anew while the call waited", 0.0, told(state))
        return Rejection(_too_much(ticket.cost, state.meter.limit), math.inf, told(state))

    def _refusal(
        self, state: LimiterState, now: float, at: int, key: Hashable, cost: int, wait: int, until: float
    ) -> Rejection | None:
        """Why a cost that cannot pass now may not wait for its turn either, or None when it may."""
        if wait >= NEVER:
            return Rejection(_too_much(cost, state.meter.binding(state.value(key), at, cost)[1]), math.inf, told(state))
        pause = seconds_until(now, at + wait)
        line = state.line(key) or ()
        if until <= now or at + wait > nanoseconds(until) or self.queue == 0:
            limit = state.meter.binding(state.value(key), at, cost)[1]
            ahead = f", with {len(line)} waiting before it" if line else ""
            return Rejection(f"has spent {limit}{_of(key)}; the call could pass in {pause:.3g} s{ahead}", pause, told(state))
        if len(line) >= self.queue:
            return Rejection(f"has its queue of {self.queue} full{_of(key)}", pause, told(state))
        return None


def read_limits(spec: Any) -> tuple[Limit, ...]:
    """Read one spec or a list of them. Raises TypeError or ValueError naming what was given."""
    if not isinstance(spec, (list, tuple)):
        return (Limit.parse(spec),)
    if not spec:
        raise ValueError(f"spec must hold at least one limit; got {spec!r}")
    return tuple(Limit.parse(each) for each in spec)


def _read_initial(initial: object, room: int) -> None:
    if isinstance(initial, str):
        units.one_of("initial", initial, ("full", "empty"))
    else:
        units.whole("initial", initial, least=0, most=room)


def _count(meter: Meter[Any]) -> int:
    return len(meter.parts) if isinstance(meter, Together) else 1


def _too_much(cost: int, limit: Limit) -> str:
    return f"can never pass a cost of {cost}: {limit} lets at most {limit.capacity} pass at once"


def _of(key: Hashable) -> str:
    """The key in a message: quoted, and cut, since it may be anything that a caller sent."""
    return "" if key == UNKEYED else f" for {'keys beyond max_keys' if key == OVERFLOW else repr(key)[:80]}"
