"""Many keys: bounded memory that never forgets debt."""

from __future__ import annotations

import gc
import math
import random
import tracemalloc

import pytest

from seawall.policies.key_table import GRACE, OVERFLOW, KeyTable
from seawall.policies.limiter_state import Turn
from seawall.policies.limiter_steps import told
from seawall.policies.meter import NANO
from seawall.policies.rate_limit import METERS, RateLimitRule
from seawall.policies.verdict import Note

LATE = GRACE / NANO


def test_drained_keys_are_dropped_and_others_are_not() -> None:
    """Memory follows the keys that owe something, without a timer."""
    rule = RateLimitRule(limits="1/min")  # type: ignore[arg-type]
    state = rule.start(0.0)
    for number in range(1000):
        assert rule.take(state, 0.0, f"old {number}")
    for number in range(1000):
        rule.take(state, 61.0 + LATE, f"new {number}")
    assert not [key for key in state.table.values if str(key).startswith("old")]
    assert len(state.table.values) == len(state.table.ring) == 1000


def test_cycling_through_other_keys_never_frees_a_spent_one() -> None:
    """A table that drops what was used longest ago let fifty pass where five were allowed."""
    rule = RateLimitRule(limits="5/h", max_keys=64)  # type: ignore[arg-type]
    state = rule.start(0.0)
    passed = 0
    for step in range(3000):
        passed += rule.take(state, step / 1000, "victim")
        rule.take(state, step / 1000, f"noise {step}")
    assert passed == 5
    assert len(state.table.ring) == 64


def test_new_keys_share_one_bucket_while_the_table_is_full_told_once() -> None:
    """Bounded means bounded; and the share is told, once, or the log would overflow instead."""
    rule = RateLimitRule(limits="2/min", max_keys=8)  # type: ignore[arg-type]
    state = rule.start(0.0)
    assert all(rule.take(state, 0.0, number) for number in range(8))
    assert [rule.take(state, 0.0, f"late {number}") for number in range(4)] == [True, True, False, False]
    assert told(state) == (Note("limiter.overflow", {"max_keys": 8}),)
    assert not rule.decide(state, 1.0, "another").allowed
    assert rule.peek(state, 1.0, "another").remaining == 0
    assert told(state) == ()
    assert state.overflowing
    assert set(state.table.ring) == set(range(8))


def test_an_episode_ends_when_an_eighth_of_the_table_is_free_and_the_next_is_told_again() -> None:
    """One drained key must not make the events flap."""
    rule = RateLimitRule(limits="1/min", max_keys=8)  # type: ignore[arg-type]
    state = rule.start(0.0)
    for number in range(9):
        rule.take(state, number / 10, number)
    assert len(told(state)) == 1
    assert rule.take(state, 60.0, "a")  # one has drained, and its slot is found by the hand
    assert state.overflowing
    assert not told(state)
    for _ in range(40):
        rule.take(state, 200.0, "b")
    assert not state.overflowing
    for number in range(20):
        rule.take(state, 200.0, f"again {number}")
    assert len(told(state)) == 1


def test_a_full_table_drops_a_drained_key_without_the_grace() -> None:
    """Keeping idle keys for a while is for speed; nobody shares a bucket for it."""
    rule = RateLimitRule(limits="10/s", max_keys=2)  # type: ignore[arg-type]
    state = rule.start(0.0)
    assert rule.take(state, 0.0, "a")
    assert rule.take(state, 0.0, "b")
    assert rule.take(state, 0.1, "c")
    assert "c" in state.table.values
    assert not state.overflowing


def test_a_key_that_somebody_waits_for_keeps_its_slot() -> None:
    """Else the waiter would be served from another bucket than the one it waits for."""
    rule = RateLimitRule(limits="1/s", initial="empty", max_keys=1)  # type: ignore[arg-type]
    state = rule.start(0.0)
    turn = rule.admit(state, 0.0, "k", 1, math.inf)
    assert isinstance(turn, Turn)
    assert "k" in state.table.values
    for _ in range(8):
        rule.take(state, 100.0, "other")
    assert "k" in state.table.values
    assert turn.key == "k"


def test_waiting_for_the_shared_bucket_works_like_any_other() -> None:
    """Who has no slot still gets its turn."""
    rule = RateLimitRule(limits="1/s", max_keys=1)  # type: ignore[arg-type]
    state = rule.start(0.0)
    assert rule.take(state, 0.0, "first")
    assert rule.take(state, 0.0, "second")
    turn = rule.admit(state, 0.0, "third", 1, math.inf)
    assert isinstance(turn, Turn)
    assert turn.key == OVERFLOW
    refused = rule.admit(state, 0.0, "fourth", 1, 0.0)
    assert "for keys beyond max_keys" in refused.reason  # type: ignore[union-attr]
    rule.reset(state, 0.5, "fourth")  # has nothing of its own to reset
    assert not rule.take(state, 0.5, "fourth")
    granted = rule.poll(state, 1.0, turn)
    assert granted is turn.permit
    assert not rule.take(state, 1.0, OVERFLOW)


@pytest.mark.parametrize("algorithm", METERS)
def test_every_algorithm_drops_only_what_says_nothing(algorithm: str) -> None:
    """Whatever the value is, a forgotten key must be one that would answer the same if it were remembered."""
    draw = random.Random(7)
    rule = RateLimitRule(limits="3/s", algorithm=algorithm, max_keys=20)  # type: ignore[arg-type]
    state, twin = rule.start(0.0), RateLimitRule(limits="3/s", algorithm=algorithm, max_keys=10**6)  # type: ignore[arg-type]
    unbounded = twin.start(0.0)
    now, seen = 0.0, 0
    for _ in range(4000):
        now += draw.choice([0.0, 0.01, 0.3])
        key = f"k{draw.randrange(30)}"
        if state.table.has_place_for(key):
            assert rule.take(state, now, key) is twin.take(unbounded, now, key)
            seen += 1
    assert seen > 2000
    assert len(state.table.ring) <= 20


def drained(value: int, at: int) -> bool:
    """For a table of plain moments."""
    return value <= at


@pytest.mark.parametrize("keys", range(1, 12))
def test_the_hand_visits_every_slot_whatever_the_number_of_keys(keys: int) -> None:
    """An index that is never looked at is a key that is never dropped."""
    for victim in range(keys):
        table = KeyTable(100)
        for key in range(keys):
            table.put(key, 1 if key == victim else 5)
        for _ in range(keys // 2 + 2):
            table.sweep(2, drained)
        assert set(table.values) == set(table.ring) == set(range(keys)) - {victim}
        for _ in range(2 * keys):
            table.sweep(9, drained)
        assert not table.values
        assert not table.ring


def test_an_emptied_table_takes_keys_again() -> None:
    """The hand must not be left where there is no slot any more."""
    table = KeyTable(100)
    table.sweep(9, drained)
    for key in range(7):
        table.put(key, 5)
    for _ in range(20):
        table.sweep(9, drained)
    table.put("next", 5)
    table.sweep(1, drained)
    assert table.ring == ["next"]
    table.clear()
    table.sweep(9, drained)
    assert not table.values


@pytest.mark.soak
def test_a_key_costs_less_than_eighty_bytes(capsys: pytest.CaptureFixture[str], soak_seconds: float) -> None:
    """L4: a limiter per tenant must not be what fills the memory."""
    count = 1_000_000 if soak_seconds >= 60 else 200_000
    keys = [f"tenant-{number}" for number in range(count)]
    rule = RateLimitRule(limits="100/min", max_keys=count)  # type: ignore[arg-type]
    gc.collect()
    tracemalloc.start()
    try:
        state = rule.start(1000.0)
        for key in keys:
            rule.take(state, 1000.0, key)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    with capsys.disabled():
        print(f" [{used / count:.1f} B per key at {count} keys]", end="")
    assert len(state.table.values) == count
    assert used / count <= 80
