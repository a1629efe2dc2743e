"""The cache against a naive model: a list of what was stored, youngest use last, and who waits for which flight."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.policies.cache import CacheRule, Entry, Follow, Found, Landed, Lead
from seawall.policies.verdict import Note, Wake

KEYS = st.sampled_from(["a", "b", "c", "d"])


class CacheMachine(RuleBasedStateMachine):
    """Looks, landings of all kinds, followers that give up, forgetting and time."""

    @initialize(
        size=st.integers(1, 3), room=st.sampled_from([None, 5]), error=st.sampled_from([0, 4]), while_=st.sampled_from([0, 2])
    )
    def begin(self, size: int, room: int | None, error: int, while_: int) -> None:
        self.rule = CacheRule(ttl=3, size=size, size_bytes=room, stale_if_error=error, stale_while_revalidate=while_)
        self.state = self.rule.start(0.0)
        self.now, self.count = 0, 0
        self.kept: list[tuple[str, Entry]] = []
        self.flights: dict[str, list[Follow]] = {}
        self.hits = self.misses = 0

    def find(self, key: str) -> Entry | None:
        return next((entry for known, entry in self.kept if known == key), None)

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        answer: Any = self.rule.look(self.state, float(self.now), key)
        entry = self.find(key)
        stale = None if entry is None else self.now - entry.stored_at - entry.ttl
        if (
            entry is not None
            and stale is not None
            and (stale < 0 or (not entry.error and stale < self.rule.stale_while_revalidate))
        ):
            refresh = stale >= 0 and key not in self.flights
            assert answer == Found(entry, refresh)
            self.kept.remove((key, entry))
            self.kept.append((key, entry))
            self.hits += 1
            if refresh:
                self.flights[key] = []
        elif key in self.flights:
            assert isinstance(answer, Follow)
            assert answer.permit is None
            self.flights[key].append(answer)
        else:
            serves = entry is not None and stale is not None and not entry.error and stale < self.rule.stale_if_error
            assert answer == Lead(entry if serves else None)
            self.misses += 1
            self.flights[key] = []

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), what=st.sampled_from(["value", "error", "remembered error", "cancelled"]), weight=st.integers(0, 6))
    def land(self, data: st.DataObject, what: str, weight: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.flights)))
        self.count += 1
        error = OSError(self.count) if "error" in what else None
        entry = Entry(self.count, float(self.now), 0.0 if what == "error" else 3.0, weight, error)
        followers = self.flights.pop(key)
        events = self.rule.land(self.state, float(self.now), key, None if what == "cancelled" else entry)
        assert [event.ticket for event in events if isinstance(event, Wake)] == followers
        for follower in followers:
            assert follower.permit == Landed(None if what == "cancelled" else entry)
        room = self.rule.size_bytes
        if what in ("cancelled", "error"):
            return
        too_large = room is not None and weight > room
        assert any(isinstance(event, Note) for event in events) is too_large
        if too_large:
            return
        self.kept = [item for item in self.kept if item[0] != key] + [(key, entry)]
        while len(self.kept) > self.rule.size or (room is not None and sum(one.weight for _, one in self.kept) > room):
            self.kept.pop(0)

    @precondition(lambda self: any(self.flights.values()))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        follower = data.draw(st.sampled_from([one for line in self.flights.values() for one in line]))
        self.rule.leave(self.state, float(self.now), follower)
        self.rule.leave(self.state, float(self.now), follower)
        for line in self.flights.values():
            if follower in line:
                line.remove(follower)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.rule.forget(self.state, float(self.now), key)
        self.kept = [item for item in self.kept if item[0] != key]

    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "state"):
            return
        assert list(self.state.entries.items()) == self.kept
        assert self.state.flights == self.flights
        assert self.state.weight == sum(entry.weight for _, entry in self.kept)
        assert (self.state.hits, self.state.misses) == (self.hits, self.misses)


CacheMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


class TestCache(CacheMachine.TestCase):  # type: ignore[name-defined,misc]
    """Nobody fetches twice, waits for nobody, or is served what is too old, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
