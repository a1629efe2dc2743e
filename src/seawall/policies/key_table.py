"""What is known of many keys, bounded without ever forgetting debt: only keys that are as good as new are dropped.

There is no timer and no list in order of use. Each decision looks at two slots of a ring of all keys and drops those whose
value has said nothing for ten seconds; a hand walks round the ring, so every key is looked at once in half as many decisions
as there are keys. Once the table is full, a new key does not wait for the ten seconds, only for a value that says nothing.
A cache that drops what was used longest ago forgets debt: whoever cycles through enough other keys is free again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable
from typing import Any, Final

UNKEYED: Final = ""
"""The key of calls that have none. It is never dropped and takes no slot."""
GRACE: Final = 10_000_000_000
"""Nanoseconds for which a drained key is kept if there is room: making it anew for each call would cost three times as much."""
REST: Final = 2_500_000_000
"""Nanoseconds from the beginning of one round of the hand to the next one that it makes for known keys."""
OVERFLOW: Final = "\0overflow"
"""The key that new keys share while the table is full. Plain text, as one key of another kind makes a dict larger."""


class KeyTable:
    """Values by key, at most `max_keys`. pinned: keys that are not to be dropped, because somebody waits for them.

    rests_until: the moment, in nanoseconds, until which known keys may pass without moving the hand. Under load it moves with
    every decision until it has been round, then it rests; so a key is dropped a little later, and passes sooner.
    """

    __slots__ = ("hand", "max_keys", "pinned", "rests_until", "ring", "values")

    def __init__(self, max_keys: int, *, pinned: Container[Hashable] = ()) -> None:
        self.max_keys = max_keys
        self.pinned = pinned
        self.values: dict[Hashable, Any] = {}
        self.ring: list[Hashable] = []
        self.hand = 0
        self.rests_until = 0

    def has_place_for(self, key: Hashable) -> bool:
        """Whether the key is known, or there is a slot for it."""
        return key == UNKEYED or key in self.values or len(self.ring) < self.max_keys

    def put(self, key: Hashable, value: Any) -> None:
        """Keep the value of a key; the caller has seen to it that a new one has a slot."""
        if key not in self.values and key not in (UNKEYED, OVERFLOW):
            self.ring.append(key)
        self.values[key] = value

    def clear(self) -> None:
        """Forget every key."""
        self.values.clear()
        self.ring.clear()
        self.hand = 0

    def sweep(self, at: int, drained: Callable[[Any, int], bool]) -> None:
        """Move the hand over two slots and drop what was drained at the moment `at`. The hand walks down, so that one bound
        is to be checked; at -1 the two slots are the last and the first."""
        ring, values = self.ring, self.values
        if not ring:
            return
        hand = self.hand - 2
        if hand <= -2:
            hand = len(ring) - 2
            self.rests_until = at + GRACE + REST
        self.hand = hand
        if drained(values[ring[hand]], at) or drained(values[ring[hand + 1]], at):
            self.evict(at, drained)

    def evict(self, at: int, drained: Callable[[Any, int], bool]) -> None:
        """Drop what is drained in the two slots under the hand; the last slot's key takes the place of one that goes. The
        hand goes two slots down before it looks again, so it needs no bound here."""
        ring, values = self.ring, self.values
        places = {self.hand % len(ring), (self.hand + 1) % len(ring)}
        for place in sorted(places, reverse=True):
            key = ring[place]
            if drained(values[key], at) and key not in self.pinned:
                ring[place] = ring[-1]
                ring.pop()
                del values[key]
