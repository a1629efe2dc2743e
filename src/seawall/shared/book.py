"""What a process holds in advance: leased units by key, refusals that still hold, and how many processes share the limit.

A lease is paid before it is used, so that by the store's account nobody ever passes too much; spent late it can bunch by what is
outstanding. It lasts a fifth of a second and is as large as what this process uses in that time, but at most an equal share of
half the burst. A grant is refused until half of what is wanted has come in: when the bucket is empty, leases of one unit each
would bring four round trips for each admission. What is not used goes back with the next ask.
Sources: bucket4j (predictive batches), Doorman (shares of capacity), the escrow method (O'Neil 1986).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, Final

from seawall.shared.limits import Limits
from seawall.shared.port import LEASE, TAKE, Answer, Ask, StoreDown
from seawall.shared.source import Source
from seawall.shared.stores import Gate

LIFE: Final = 0.2
"""Seconds that a lease lasts."""
BUSY: Final = 50.0
"""Decisions per second and key above which "auto" leases."""
MOST_KEYS: Final = 10_000
GREETS_EVERY: Final = 3.0
MEMBER_FOR: Final = 10.0


class Held:
    """One key's lease. size: how much is wanted next; mark: when so little is left, the next one is fetched."""

    __slots__ = ("asked_at", "fetching", "left", "mark", "promised", "rate", "refused_until", "size", "spent", "until")

    def __init__(self, now: float) -> None:
        self.left = 0
        self.until = 0.0
        self.mark = -1
        self.size = 1
        self.rate = 0.0
        self.spent = 0
        self.asked_at = now
        self.refused_until = 0.0
        self.fetching = False
        self.promised = False


class Book:
    """The leases of one limiter."""

    def __init__(
        self, limits: Limits, source: Source, members: Members, mode: str, ask_for: Callable[[int, Hashable, int], Ask]
    ) -> None:
        if mode == "lease" and not limits.leasable:
            raise ValueError('mode must be "exact" or "auto" unless there is one token bucket without levels and headroom')
        self.leases = mode != "exact" and limits.leasable
        self._always = mode == "lease"
        self._limits, self._source, self._members, self._ask_for = limits, source, members, ask_for
        self._clock = source.gate.clock
        self.reopen()

    @property
    def keys(self) -> int:
        """How many keys are held."""
        return len(self._held)

    def reopen(self) -> None:
        """After a fork: what was leased belongs to the parent."""
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._names: dict[Hashable, str] = {}

    def clear(self) -> None:
        """Forget all leases; what was not used comes back to nobody."""
        with self._lock:
            self._held.clear()
            self._names.clear()

    def drop(self, key: Hashable) -> None:
        """Forget the lease of a key."""
        with self._lock:
            self._held.pop(self._names.get(key, ""), None)

    def hope(self, key: Hashable) -> None:
        """Units came back: what was refused may pass now."""
        held = self._held.get(self._names.get(key, ""))
        if held is not None:
            held.refused_until = 0.0

    def take(self, key: Hashable, cost: int) -> bool:
        """Spend from what is leased. False says only that it has to be asked for. Never waits, unless it is this caller's turn
        to fetch the next lease, and it is a thread."""
        held = self._held.get(self._names.get(key, ""))
        if held is None or cost.__class__ is not int or cost < 0:
            return False
        with self._lock:
            if held.left < cost or self._clock.monotonic() >= held.until:
                return False
            held.left -= cost
            held.spent += cost
            if held.left > held.mark or held.fetching:
                return True
            held.fetching = True
        self._refill(key)
        return True

    def known(self, ask: Ask) -> Answer | None:
        """The answer to a take that needs no round trip: from the lease, or a refusal that still holds."""
        held = self._held.get(ask.keys[0])
        if held is None or not 0 < ask.cost <= self._limits.flat[0].capacity:
            return None
        now = self._clock.monotonic()
        with self._lock:
            if now < held.until and held.left >= ask.cost:
                held.left -= ask.cost
                held.spent += ask.cost
                return Answer(1, 0, held.left, 0, 0, 0)
        if now < held.refused_until:
            wait = int((held.refused_until - now) * 1e6) + 1
            return Answer(0, wait, 0, wait, 0, 0)
        return None

    def ask(self, ask: Ask) -> Answer:
        """One take, for threads: with a lease if the key is worth one."""
        known = self.known(ask)
        if known is not None:
            return known
        lease = self._lease(ask)
        if lease is None:
            return self._noted(ask, self._source.ask(ask))
        return self._leased(lease, self._source.ask(lease))

    def submit(self, ask: Ask, done: Callable[[Answer], object]) -> None:
        """One take, for the running event loop."""
        known = self.known(ask)
        if known is not None:
            done(known)
            return
        lease = self._lease(ask)
        if lease is None:
            self._source.submit(ask, lambda answer: done(self._noted(ask, answer)))
        else:
            self._source.submit(lease, lambda answer: done(self._leased(lease, answer)))

    # --- leasing

    def _refill(self, key: Hashable) -> None:
        ask = self._ask_for(TAKE, key, 0)
        lease = self._lease(ask, again=True)
        if lease is None:
            return
        if _in_loop() and not self._source.gate.store.at_once:
            self._source.submit(lease, lambda answer: self._leased(lease, answer))
        else:
            self._leased(lease, self._source.ask(lease))

    def _lease(self, ask: Ask, *, again: bool = False) -> Ask | None:
        """The ask for a lease that covers this one, or None when it is not worth one now."""
        now = self._clock.monotonic()
        with self._lock:
            held = self._entry(ask.keys[0], now)
            if held.fetching and not again:
                return None
            self._measure(held, now)
            most = self._limits.flat[0].capacity // (2 * self._limits.replicas)
            held.size = min(most, int(held.rate * LIFE))
            if held.size < 2 or held.size < ask.cost or not (self._always or held.rate >= BUSY):
                held.fetching = False
                return None
            unused = held.left if now < held.until + LIFE else 0
            held.left = 0
            held.fetching = True
            promised, held.promised = held.promised, False  # an exact refusal said that it passes now
        least = max(ask.cost, 1 if promised else held.size // 2, 1)
        return Ask(LEASE, ask.keys, ask.program, cost=held.size, x=least, y=unused, waits=False, own=ask.cost)

    def _leased(self, lease: Ask, answer: Answer) -> Answer:
        now = self._clock.monotonic()
        with self._lock:
            held = self._entry(lease.keys[0], now)
            held.fetching = False
            held.spent += lease.own if answer.granted else 0
            if answer.degraded:
                return answer
            if not answer.granted:
                pause = answer.wait / 1e6
                if answer.wait > 0 and held.rate > 0:  # others take as well: come when an own share may have come in
                    pause = max(pause, min(LIFE / 2, lease.x / held.rate))
                held.refused_until = now + pause
                return answer if answer.wait < 0 else answer._replace(wait=int(pause * 1e6) + 1)
            held.refused_until = 0.0
            held.left += answer.granted - lease.own
            held.until = now + LIFE
            held.mark = answer.granted // 4 if answer.remaining >= held.size // 2 else -1  # nothing to fetch early
            return answer._replace(granted=1, remaining=answer.remaining + held.left)

    def _noted(self, ask: Ask, answer: Answer) -> Answer:
        with self._lock:
            held = self._entry(ask.keys[0], self._clock.monotonic())
            if answer.granted:
                held.spent += ask.cost
            elif answer.wait > 0 and ask.cost == 1 and not answer.degraded:
                held.refused_until = self._clock.monotonic() + answer.wait / 1e6
                held.promised = True
        return answer

    def _entry(self, name: str, now: float) -> Held:
        held = self._held.get(name)
        if held is None:
            if len(self._held) >= MOST_KEYS:
                self._held.pop(next(iter(self._held)))
                self._names.clear()
            held = self._held[name] = Held(now)
        return held

    def remember(self, key: Hashable, ask: Ask) -> None:
        """Let `take` find the lease of a key without writing its name."""
        if len(self._names) < MOST_KEYS:
            self._names[key] = ask.keys[0]

    def _measure(self, held: Held, now: float) -> None:
        elapsed = now - held.asked_at
        if elapsed < 0.005:
            return
        share = min(1.0, elapsed / LIFE)
        held.rate += share * (held.spent / elapsed - held.rate)
        held.asked_at, held.spent = now, 0


class Members:
    """How many processes share the limit: each says that it lives, every three seconds in which it asks."""

    def __init__(self, gate: Gate, limits: Limits, key: Callable[[], str]) -> None:
        self._gate, self._limits, self._key = gate, limits, key
        self._due = 0.0
        self._begun = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = limits.fixed_replicas is None and hasattr(gate.store, "call")
        self.id = os.urandom(8).hex()
        self._pid = os.getpid()

    def is_due(self) -> bool:
        """Whether it is time to greet; from here on it is not."""
        if not self._begun:
            self._begun = True
            self._gate.look_once()
        if not self._counts:
            return False
        now = self._gate.clock.monotonic()
        if now < self._due or self._gate.breaker.state != "closed":
            return False
        self._due = now + GREETS_EVERY
        if os.getpid() != self._pid:
            self.id, self._pid = os.urandom(8).hex(), os.getpid()
        return True

    def greet(self) -> None:
        """For threads: one round trip when it is time."""
        if self.is_due():
            store: Any = self._gate.store
            try:
                self._limits.count(store.call_named("members", [self._key()], self._words()))
            except StoreDown:
                self._due = 0.0  # the ask that follows finds out by itself; the last count holds

    def greet_by_task(self) -> None:
        """For the running event loop: nobody waits for it."""
        if self.is_due():
            task = asyncio.get_running_loop().create_task(self._greet())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _greet(self) -> None:
        store: Any = self._gate.store
        try:
            self._limits.count(await store.acall_named("members", [self._key()], self._words()))
        except StoreDown:
            self._due = 0.0

    def _words(self) -> list[str]:
        return [self.id, str(int(MEMBER_FOR * 1000))]


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None
