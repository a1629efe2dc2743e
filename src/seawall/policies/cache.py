"""The cache's rule: what is fresh, what may still be served, who fetches, and who waits for whom.

One flight per key: the first who finds nothing fetches, all others wait for it. A leader that is cancelled hands its flight
on: its followers look again, and the first of them leads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from seawall.core import units
from seawall.policies.verdict import Events, Note, Ticket, Wake


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of one key: a value, or an error that is worth remembering. weight: its bytes, as the user weighs it."""

    value: Any
    stored_at: float
    ttl: float
    weight: int = 0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """There is an answer. refresh: it is stale, and whoever was told so must fetch a new one in the background."""

    entry: Entry
    refresh: bool = False
    events: Events = ()


@dataclass(frozen=True, slots=True)
class Lead:
    """There is none: fetch it. stale: an old answer that may be served when fetching fails."""

    stale: Entry | None = None
    events: Events = ()


@dataclass(frozen=True, slots=True)
class Landed:
    """What a flight brought its followers: an entry, or None = nothing, so look again."""

    entry: Entry | None


class Follow(Ticket):
    """A place among those who wait for a flight. `permit` becomes what it brought."""

    __slots__ = ("key",)

    def __init__(self, now: float, key: Hashable) -> None:
        super().__init__(now, float("inf"))
        self.key = key


class CacheState:
    """One cache: entries by key, used longest ago first, and flights by key with those who wait for them."""

    __slots__ = ("entries", "flights", "hits", "misses", "weight")

    def __init__(self) -> None:
        self.entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self.flights: dict[Hashable, list[Follow]] = {}
        self.weight = 0
        self.hits = 0
        self.misses = 0


@dataclass(frozen=True, kw_only=True)
class CacheRule:
    """How long and how much. Units, ranges and defaults: see `seawall.Cache`."""

    ttl: float
    size: int = 1024
    size_bytes: int | None = None
    stale_if_error: float = 0.0
    stale_while_revalidate: float = 0.0
    negative_ttl: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ttl", units.seconds("ttl", self.ttl))
        units.whole("size", self.size)
        if self.size_bytes is not None:
            units.whole("size_bytes", self.size_bytes)
        for name in ("stale_if_error", "stale_while_revalidate", "negative_ttl"):
            object.__setattr__(self, name, units.seconds(name, getattr(self, name), zero=True))

    def start(self, now: float) -> CacheState:
        """Empty."""
        return CacheState()

    def restart(self, state: CacheState) -> None:
        """Forget all entries and flights, in place; whoever waits is on its own."""
        state.entries.clear()
        state.flights.clear()
        state.weight = state.hits = state.misses = 0

    def look(self, state: CacheState, now: float, key: Hashable) -> Found | Follow | Lead:
        """An answer, a flight to wait for, or the duty to fetch."""
        entry = state.entries.get(key)
        age = 0.0 if entry is None else now - entry.stored_at - entry.ttl  # seconds since it went stale
        if entry is not None and (age < 0 or (entry.error is None and age < self.stale_while_revalidate)):
            state.entries.move_to_end(key)
            state.hits += 1
            refresh = age >= 0 and key not in state.flights
            if refresh:
                state.flights[key] = []
            return Found(entry, refresh)
        if key in state.flights:
            follow = Follow(now, key)
            state.flights[key].append(follow)
            return follow
        state.misses += 1
        state.flights[key] = []
        return Lead(entry if entry is not None and entry.error is None and age < self.stale_if_error else None)

    def land(self, state: CacheState, now: float, key: Hashable, entry: Entry | None) -> Events:
        """A flight is over. entry: what it brought, kept if it lives; None = the leader was cancelled."""
        followers = state.flights.pop(key, [])
        for follow in followers:
            follow.permit = Landed(entry)
        kept = entry is not None and entry.ttl > 0
        events = self._keep(state, key, entry) if kept and entry is not None else ()
        return (*events, *map(Wake, followers))

    def leave(self, state: CacheState, now: float, ticket: Follow) -> Events:
        """A follower gives up; that harms nobody."""
        line = state.flights.get(ticket.key, [])
        if ticket in line:
            line.remove(ticket)
        return ()

    def forget(self, state: CacheState, now: float, key: Hashable) -> Events:
        """Drop a key; a flight that is under way still lands."""
        entry = state.entries.pop(key, None)
        state.weight -= 0 if entry is None else entry.weight
        return ()

    def retune(self, state: CacheState) -> Events:
        """Hold what is kept to this rule's times and size; flights go on."""
        for key, entry in state.entries.items():
            state.entries[key] = replace(entry, ttl=self.ttl if entry.error is None else self.negative_ttl)
        return self._shrink(state)

    def _keep(self, state: CacheState, key: Hashable, entry: Entry) -> Events:
        if self.size_bytes is not None and entry.weight > self.size_bytes:
            return (Note("cache.too_large", {"bytes": entry.weight}),)
        self.forget(state, 0.0, key)
        state.entries[key] = entry
        state.weight += entry.weight
        return self._shrink(state)

    def _shrink(self, state: CacheState) -> Events:
        while len(state.entries) > self.size or (self.size_bytes is not None and state.weight > self.size_bytes):
            _, old = state.entries.popitem(last=False)
            state.weight -= old.weight
        return ()
