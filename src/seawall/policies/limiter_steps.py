"""The small steps that the rate limiter's verbs are made of: find the bucket, spend from it, serve those who wait for it.

All they need stands in the state, so they are functions of it. The lock is held around each verb, not here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from itertools import takewhile
from typing import Final

from seawall.policies.key_table import OVERFLOW, UNKEYED
from seawall.policies.limiter_state import Decision, Grant, LimiterState, Turn
from seawall.policies.meter import NEVER, seconds_until
from seawall.policies.verdict import Events, Note, Wake

PATIENCE: Final = 50_000_000
"""Nanoseconds that one who is not first sleeps past its moment. Those before it serve and wake it, so that all go on in
order; only when they are stuck does it have to look by itself."""


def scope_of(state: LimiterState, at: int, key: Hashable) -> Hashable:
    """The key whose bucket counts for `key`: its own, or the one that new keys share while the table is full.

    Telling of that begins once per episode: an episode ends when an eighth of the table has come free.
    """
    table = state.table
    if not table.has_place_for(key):
        table.sweep(at, state.meter.drained)
    if table.has_place_for(key):
        if state.overflowing and len(table.ring) * 8 < table.max_keys * 7:
            state.overflowing = False
        return key
    if not state.overflowing:
        state.overflowing = True
        state.untold.append(Note("limiter.overflow", {"max_keys": table.max_keys}))
    return OVERFLOW


def at_once(state: LimiterState, at: int, key: str) -> bool | None:
    """Spend one unit of a known key's bucket without the lock; whether it fitted, or None when that has to be asked under it.

    It is only right where nothing else runs between the parts of one line (a build with the global lock): no line here calls
    anything, so no thread is switched within it. Whoever holds the lock has set `closed` before he looked at anything.
    """
    s, k = state, key  # short names, as a line is a step
    if s.closed:
        return None
    if not k:
        s.tat = n if (fits := (n := (o if (o := s.tat) > at else at) + s.interval) <= at + s.tolerance and not s.queue) else o
        return fits or None
    if at >= s.table.rests_until:
        return None
    t, v = at, s.table.values
    # fmt: off
    try:  # `| 0` makes a copy of exact size: sums have a digit to spare, 16 bytes more for each key
        v[k] = n if (ok := None if s.closed else (n := (o if (o := v[k]) > t else t) + s.interval | 0) <= t + s.tolerance) else v[k]  # noqa: E501
    # fmt: on
    except KeyError:
        return None
    return ok


def spend(state: LimiterState, at: int, key: Hashable, cost: int) -> int:
    """Spend `cost` if it fits and answer 0; else change nothing and answer for how long it will not, or NEVER."""
    meter = state.meter
    if cost == 0 or cost > meter.capacity:
        return NEVER if cost else 0
    if key == UNKEYED and state.tolerance >= 0:
        step, limit = cost * state.interval, at + state.tolerance
        state.tat = new if (new := (tat if (tat := state.tat) > at else at) + step) <= limit else tat
        return max(0, new - limit)
    value = state.value(key)
    wait = meter.wait(value, at, cost)
    if wait == 0:
        state.table.put(key, meter.spend(value, at, cost))
    return wait


def behind(state: LimiterState, at: int, key: Hashable, line: Iterable[Turn], cost: int) -> int:
    """How long `cost` has to wait behind all who stand in `line`, or NEVER."""
    if cost > state.meter.capacity:
        return NEVER
    return state.meter.forecast(state.value(key), at, (turn.cost for turn in line), cost)


def line_up(state: LimiterState, turn: Turn) -> Turn:
    """Stand at the end of the key's queue. The key keeps its slot in the table while somebody waits for it."""
    key = turn.key
    line = state.line(key)
    if line is None:
        line = state.queues[key] = deque()
        state.table.put(key, state.value(key))
    line.append(turn)
    return turn


def serve(state: LimiterState, at: int, key: Hashable, *, me: Turn | None = None, moved: bool = False) -> None:
    """Grant all whose turn has come, in order, and wake them and whoever stands first then; but not `me`, who looks.

    moved: whether the first one has to look again in any case, because it is another one or its turn comes at another time.
    """
    line = state.line(key)
    while line and spend(state, at, key, line[0].cost) == 0:
        turn = line.popleft()
        turn.queued = False
        turn.permit = Grant(key, turn.cost, at)
        _wake(state, turn, me)
        moved = True
    if line and moved:
        _wake(state, line[0], me)
    if not line:
        state.queues.pop(key, None)


def next_look(state: LimiterState, at: int, turn: Turn) -> int:
    """The moment at which one has to look again who stands in a queue whose first one cannot pass yet; `due` is set anew.

    Those behind the first keep to the moment they know while it lies ahead: when theirs comes earlier, they are woken.
    """
    line = state.line(turn.key) or (turn,)
    first = line[0] is turn
    if first or turn.due <= at:
        turn.due = at + behind(state, at, turn.key, takewhile(lambda other: other is not turn, line), turn.cost)
    return turn.due if first else turn.due + PATIENCE


def turn_away(state: LimiterState, key: Hashable) -> None:
    """Take those out of a queue whose cost can never pass any more; they are told when they look."""
    line = state.line(key) or deque()
    for turn in [turn for turn in line if turn.cost > state.meter.capacity]:
        line.remove(turn)
        turn.queued = False
        _wake(state, turn, None)


def decision(state: LimiterState, now: float, at: int, key: Hashable, cost: int, wait: int, *, allowed: bool) -> Decision:
    """All there is to say about one cost of one key."""
    value, meter = state.value(key), state.meter
    limit = meter.tightest(value, at) if allowed else meter.binding(value, at, cost)[1]
    return Decision(
        allowed=allowed,
        remaining=0 if state.line(key) else meter.remaining(value, at),
        retry_after=0.0 if allowed else seconds_until(now, at + wait),
        reset_after=seconds_until(now, at + meter.reset_after(value, at)),
        limit=limit,
    )


def told(state: LimiterState) -> Events:
    """The events that wait to be told, which from now on are."""
    if not state.untold:
        return ()
    events = tuple(state.untold)
    state.untold.clear()
    return events


def _wake(state: LimiterState, turn: Turn, me: Turn | None) -> None:
    if turn is not me:
        state.untold.append(Wake(turn))
