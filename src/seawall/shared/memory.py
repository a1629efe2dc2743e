"""A store in this process: the rules of policies/ behind one lock. The reference for scripts, and the share of who is alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from seawall.core import clock as clocks
from seawall.core.clock import Clock
from seawall.policies.gcra import Gcra
from seawall.policies.key_table import GRACE, KeyTable
from seawall.policies.meter import NEVER, Meter
from seawall.shared.port import CHARGE, HOLD, LEASE, PEEK, RESET, TAKE, Answer, Ask, Done, Part

OVERFLOW = "overflow"


class Entry:
    """What is known of a key, and the meter it was last counted under."""

    __slots__ = ("meter", "value")

    def __init__(self, meter: Meter[Any], value: Any) -> None:
        self.meter = meter
        self.value = value


class MemoryStore:
    """Counts in this process, on the clock's wall time. Give one object to several limiters to share their counts.

    max_keys: how many keys are kept, >= 1; only keys that are as good as new are forgotten, and when none is, new keys share
    one. Default 100 000. clock: default the system's.
    """

    at_once = True
    name = "memory:"

    def __init__(self, *, max_keys: int = 100_000, clock: Clock | None = None) -> None:
        self._lock = threading.Lock()
        self._own_clock = clock
        self.table = KeyTable(max_keys)

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self._lock = threading.Lock()

    def now(self) -> int:
        """Its time in whole microseconds since 1970."""
        return int(clocks.resolve(self._own_clock).wall() * 1e6)

    def ask(self, ask: Ask) -> Answer:
        """One step."""
        return self.ask_all((ask,))[0]

    def ask_all(self, asks: Sequence[Ask]) -> list[Answer]:
        """Several steps, in order, as one."""
        blocked: set[str] = set()
        with self._lock:
            now = self.now()
            return [self._step(ask, now, blocked) for ask in asks]

    def mirror(self, keys: Sequence[str], parts: Sequence[Part], cost: int) -> None:
        """Spend what somebody else has granted, where it fits, and answer nothing: an ask of which only the effect is wanted."""
        at = self.now() * 1000
        with self._lock:
            known = self.table.values.get(keys[0])
            if known is not None and len(parts) == 1 and known.meter is parts[0].meter and type(known.meter) is Gcra:
                after = max(known.value, at) + cost * known.meter.interval  # as below, for what comes most
                if after - at <= known.meter.tolerance:
                    known.value = after
                return
            for key, part in zip(keys, parts, strict=True):
                place = self._place(key)
                entry = self._entry(place, part.meter, at)
                if entry.meter.wait(entry.value, at, cost) == 0:
                    entry.value = entry.meter.spend(entry.value, at, cost)
                    self.table.put(place, entry)

    def submit(self, ask: Ask, done: Done) -> None:
        """One step; `done` is called before this returns."""
        done(self.ask(ask))

    # --- one step, under the lock

    def _step(self, ask: Ask, now: int, blocked: set[str]) -> Answer:
        at = now * 1000
        places = [self._place(key) for key in ask.keys]
        entries = [self._entry(key, part.meter, at) for key, part in zip(places, ask.program.parts, strict=True)]
        granted, wait, binding = self._apply(ask, places, entries, at, blocked)
        left = [entry.meter.remaining(entry.value, at) for entry in entries]
        least = min(left)
        if granted:
            binding = left.index(least)
        reset = max(entry.meter.reset_after(entry.value, at) for entry in entries)
        return Answer(granted, _micros(wait), least, _micros(reset), binding, now)

    def _entry(self, key: str, meter: Meter[Any], at: int) -> Entry:
        table = self.table
        table.sweep(at - GRACE, _drained)
        known = table.values.get(key)
        if known is None:
            return Entry(meter, meter.blank(at))
        value = known.value
        if _differ(known.meter, meter):
            value = meter.carry(value, at, known.meter)
        return Entry(meter, meter.copy(value))

    def _place(self, key: str) -> str:
        """Where a key is counted: while the table is full, new keys of one limit share one place."""
        if self.table.has_place_for(key):
            return key
        before, _, after = key.partition("{")
        return f"{before}{OVERFLOW}{after.rpartition('}')[2]}"

    def _apply(self, ask: Ask, places: list[str], entries: list[Entry], at: int, blocked: set[str]) -> tuple[int, int, int]:
        if ask.verb in (PEEK, TAKE):
            return self._decide(ask, places, entries, at, blocked)
        if ask.verb == LEASE:
            return self._lease(ask, places[0], entries[0], at)
        for key, entry in zip(places, entries, strict=True):
            meter = entry.meter
            if ask.verb == RESET:
                entry.value = meter.blank(at)
            elif ask.verb == HOLD:
                entry.value = meter.hold(entry.value, at, at + ask.x * 1000)
            elif ask.verb == CHARGE and ask.x > 0:
                entry.value = meter.spend(entry.value, at, ask.x)
            elif ask.verb == CHARGE and ask.x < 0:
                entry.value = meter.refund(entry.value, at, -ask.x, ask.y * 1000)
            self.table.put(key, entry)
        return 1, 0, 0

    def _decide(self, ask: Ask, places: list[str], entries: list[Entry], at: int, blocked: set[str]) -> tuple[int, int, int]:
        waits = [entry.meter.wait(entry.value, at, ask.cost) for entry in entries]
        longest = max(waits)
        behind = ask.verb == TAKE and ask.cost > 0 and not blocked.isdisjoint(ask.keys)
        if longest == 0 and not behind:
            if ask.verb == TAKE and ask.cost:
                for key, entry in zip(places, entries, strict=True):
                    entry.value = entry.meter.spend(entry.value, at, ask.cost)
                    self.table.put(key, entry)
            return 1, 0, 0
        if ask.waits and longest > 0:
            blocked.update(ask.keys)
        return 0, longest or 1000, waits.index(longest)

    def _lease(self, ask: Ask, place: str, entry: Entry, at: int) -> tuple[int, int, int]:
        meter = entry.meter
        if ask.y > 0:
            entry.value = meter.refund(entry.value, at, ask.y, at)
        granted = min(ask.cost, meter.remaining(entry.value, at))
        wait = 0
        if granted >= ask.x:
            entry.value = meter.spend(entry.value, at, granted)
        else:
            granted, wait = 0, meter.wait(entry.value, at, ask.x)
        self.table.put(place, entry)
        return granted, wait, 0


def _drained(entry: Entry, at: int) -> bool:
    return entry.meter.drained(entry.value, at)


def _differ(old: Meter[Any], new: Meter[Any]) -> bool:
    """Whether a value of `old` has to be carried over: another interval or length. Another burst changes no value."""
    return any(getattr(old, name, None) != getattr(new, name, None) for name in ("interval", "length"))


def _micros(nanos: int) -> int:
    return -1 if nanos >= NEVER else -(-nanos // 1000)
