"""The rate limit's edges: exact moments, books that are kept, and defaults. Found by mutation testing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.core.units import Limit
from seawall.policies.key_table import GRACE, OVERFLOW, UNKEYED, KeyTable
from seawall.policies.limiter_state import Grant, LimiterState, Pause, Turn
from seawall.policies.limiter_steps import PATIENCE, scope_of, spend
from seawall.policies.meter import END
from seawall.policies.rate_limit import RateLimitRule
from seawall.policies.verdict import DUST, Note, Rejection, Ticket, Wake

SECOND = 10**9


def limiter(spec: Any = "1/s", **options: Any) -> tuple[RateLimitRule, LimiterState]:
    """A limiter that begins at the moment 100."""
    rule = RateLimitRule(limits=spec, **options)
    return rule, rule.start(100.0)


def wait_for(rule: RateLimitRule, state: LimiterState, now: float, until: float = math.inf, key: str = "", cost: int = 1) -> Turn:
    """Stand in the queue."""
    turn = rule.admit(state, now, key, cost, until)
    assert isinstance(turn, Turn)
    return turn


def test_the_defaults_are_those_of_the_front_door() -> None:
    """A default that drifts changes every limiter that trusted it."""
    rule = RateLimitRule(limits="1/s")  # type: ignore[arg-type]
    assert (rule.queue, rule.max_keys, rule.algorithm, rule.initial, rule.obeys_hints) == (
        1000,
        100_000,
        "token_bucket",
        "full",
        False,
    )
    assert (GRACE, PATIENCE, DUST, UNKEYED, OVERFLOW) == (10 * SECOND, SECOND // 20, 1e-9, "", "\0overflow")
    ticket = Ticket(1.0, 2.0)
    assert (ticket.cost, ticket.permit, ticket.event, ticket.events) == (1, None, None, ())
    assert Grant("k", 2, 3).epoch == 0


@pytest.mark.parametrize("key", ["", "k"])
def test_a_cost_above_one_is_spent_whole_and_one_is_the_default(key: str) -> None:
    """The fast path is for one unit; two must not pass for the price of one."""
    rule, state = limiter("1/s burst 3")
    assert rule.take(state, 100.0, key, 2)
    assert rule.peek(state, 100.0, key).allowed
    assert rule.peek(state, 100.0, key).remaining == 1
    assert rule.take(state, 100.0, key)
    assert not rule.take(state, 100.0, key)
    assert not rule.peek(state, 100.0, key).allowed


@pytest.mark.parametrize("verb", ["decide", "admit", "take", "take two"])
def test_every_verb_takes_its_part_in_forgetting_keys(verb: str) -> None:
    """A limiter that is only asked one way must not keep what it will never need."""
    rule, state = limiter("10/s", max_keys=100)
    for number in range(100):
        rule.take(state, 100.0, f"old-{number}")
    for _ in range(60):
        if verb == "decide":
            rule.decide(state, 200.0, "new")
        elif verb == "admit":
            rule.admit(state, 200.0, "new", 1, 200.0)
        else:
            rule.take(state, 200.0, "new", 1 if verb == "take" else 2)
    assert len(state.table.ring) <= 2
    assert set(state.table.values) == set(state.table.ring)


def test_a_key_is_kept_for_its_grace() -> None:
    """Ten seconds after it was as good as new, not before."""
    rule, state = limiter("1/s", max_keys=100)
    rule.take(state, 100.0, "a")
    rule.take(state, 100.0, "b")
    for _ in range(4):
        rule.decide(state, 110.9, "b")
    assert "a" in state.table.values
    for _ in range(4):
        rule.decide(state, 111.1, "b")
    assert "a" not in state.table.values


def test_beginning_anew_leaves_nothing_behind() -> None:
    """Neither events that nobody was told, nor queues, nor keys."""
    rule, state = limiter("1/s", max_keys=1)
    rule.take(state, 100.0, "a")
    rule.take(state, 100.0, "b")
    assert state.untold
    keyed = wait_for(rule, state, 100.0, key="a")
    assert state.waiting == 1
    assert rule.begin(state, 150.0) == (Wake(keyed),)
    assert (state.untold, state.queues, state.waiting, state.table.values, state.overflowing) == ([], {}, 0, {}, False)
    refused = rule.poll(state, 150.0, keyed)
    assert isinstance(refused, Rejection)
    assert (refused.reason, refused.retry_after) == ("began anew while the call waited", 0.0)
    rule.disband(state)
    assert state.queues == {}


def test_the_number_who_wait_is_that_of_all_queues() -> None:
    """With and without a key."""
    rule, state = limiter("1/s")
    for key in ("", "a", "b"):
        rule.take(state, 100.0, key)
        wait_for(rule, state, 100.0, key=key)
    wait_for(rule, state, 100.0, key="b")
    assert state.waiting == 4


def test_a_turn_that_comes_exactly_at_the_end_of_the_wait_still_counts() -> None:
    """In time is in time; a nanosecond later is not."""
    rule, state = limiter("1/s")
    rule.take(state, 100.0)
    turn = wait_for(rule, state, 100.0, until=101.0)
    assert turn.due == 101 * SECOND
    second = rule.admit(state, 100.0, "", 1, 101.9)
    assert isinstance(second, Rejection)
    assert second.retry_after == 2.0
    pause = rule.poll(state, 100.5, turn)
    assert isinstance(pause, Pause)
    assert pause == 0.5
    assert isinstance(rule.poll(state, 101.0, turn), Grant)


def test_a_waiter_whose_turn_moves_behind_its_end_is_told_how_long_it_waited() -> None:
    """And when it could have passed."""
    rule, state = limiter("1/s")
    rule.take(state, 100.0)
    turn = wait_for(rule, state, 100.0, until=103.0)
    rule.penalise(state, 100.0, "", 9)
    answer = rule.poll(state, 102.0, turn)
    assert isinstance(answer, Rejection)
    assert answer.reason == "had no room for the call within 2 s"
    assert answer.retry_after == pytest.approx(7.0)
    assert state.waiting == 0


def test_what_is_given_back_is_no_more_than_full_and_what_is_charged_is_charged_whole() -> None:
    """Also for a bucket that stood full for long: its past is no credit."""
    rule, state = limiter("1/s burst 5")
    grant = Grant("", 3, 100 * SECOND)
    rule.refund(state, 110.0, grant, 3)
    assert rule.peek(state, 110.0).remaining == 5
    rule.refund(state, 120.0, grant, -4)
    assert rule.peek(state, 120.0).remaining == 1
    rule.refund(state, 120.0, grant, 1)
    assert rule.peek(state, 120.0).remaining == 2
    rule.refund(state, 120.0, grant, 0)
    assert rule.peek(state, 120.0).remaining == 2
    keyed = Grant("k", 3, 100 * SECOND)
    for amount in (0, 3):
        rule.refund(state, 120.0, keyed, amount)
        assert "k" not in state.table.values
    rule.refund(state, 120.0, keyed, -2)
    assert rule.peek(state, 120.0, "k").remaining == 3


@pytest.mark.parametrize(
    ("hint", "waits"), [(None, 0.0), (0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (0.5, 0.5), (1.5, 1.5), (999.0, 60.0)]
)
def test_hints_of_the_callee_are_obeyed_up_to_a_minute(hint: float | None, waits: float) -> None:
    """However short."""
    rule, state = limiter("100/s", obeys_hints=True)
    grant = rule.admit(state, 100.0, "k", 1, 100.0)
    assert isinstance(grant, Grant)
    events = rule.settle(state, 100.0, grant, Outcome.IGNORED, hint)
    assert [event.kind for event in events if isinstance(event, Note)] == (["limiter.penalised"] if waits else [])
    assert rule.peek(state, 100.0, "k").retry_after == pytest.approx(waits)
    assert limiter("1/s")[0].settle(state, 100.0, grant, Outcome.IGNORED, 5.0) == ()


def test_a_penalty_never_shortens_another() -> None:
    """The longer one holds, with and without a key."""
    rule, state = limiter("1/s")
    for key in ("", "k"):
        rule.penalise(state, 100.0, key, 5)
        rule.penalise(state, 100.0, key, 2)
        assert rule.peek(state, 100.0, key).retry_after == pytest.approx(5.0)
        rule.reset(state, 100.0, key)
        assert rule.peek(state, 100.0, key).allowed


def test_messages_say_what_was_given_and_cut_what_strangers_sent() -> None:
    """A key may be a megabyte of somebody's text."""
    rule, state = limiter("1/s")
    rule.take(state, 100.0, "k" * 500)
    refused = rule.admit(state, 100.0, "k" * 500, 1, 100.0)
    assert isinstance(refused, Rejection)
    assert f" for '{'k' * 79}; the call" in refused.reason
    with pytest.raises(ValueError, match=r"as many limits as before, 1; got 2"):
        RateLimitRule(limits=["1/s", "2/min"]).retune(state, 100.0)  # type: ignore[arg-type]
    too_much = rule.admit(state, 100.0, "", 2, 200.0)
    assert isinstance(too_much, Rejection)
    assert too_much.retry_after == math.inf


def test_retuning_to_a_smaller_burst_tells_those_who_can_never_pass() -> None:
    """And only those: a cost of the whole burst can."""
    rule, state = limiter("1/s burst 5")
    rule.take(state, 100.0, cost=5)
    turns = [wait_for(rule, state, 100.0, cost=cost) for cost in (2, 3, 4)]
    RateLimitRule(limits="1/s burst 3").retune(state, 100.0)  # type: ignore[arg-type]
    assert [turn.queued for turn in turns] == [True, True, False]
    assert state.meter.limit == Limit(1, 1.0, 3)


def test_an_episode_of_overflow_ends_when_an_eighth_is_free() -> None:
    """Told once per episode, not once per call."""
    rule, state = limiter("1/s", max_keys=8)
    for number in range(8):
        rule.take(state, 100.0, f"k{number}")
    told: list[Any] = []
    for _ in range(3):
        rule.take(state, 100.0, "new")
    told += [note for note in state.untold if isinstance(note, Note)]
    assert [note.kind for note in told] == ["limiter.overflow"]
    assert state.overflowing
    state.table.ring.pop()
    del state.table.values["k7"]
    rule.take(state, 100.0, "other")
    assert state.overflowing
    assert len(state.table.ring) == 8
    for _ in range(2):
        del state.table.values[state.table.ring.pop()]
    rule.take(state, 100.0, "another")
    assert not state.overflowing


def test_an_empty_queue_is_taken_away() -> None:
    """A queue per key that ever waited would be memory without bound."""
    rule, state = limiter("1/s")
    rule.take(state, 100.0, "k")
    turn = wait_for(rule, state, 100.0, key="k")
    assert set(state.queues) == {"k"}
    assert isinstance(rule.poll(state, 101.0, turn), Grant)
    assert state.queues == {}
    again = wait_for(rule, state, 101.0, key="k")
    rule.leave(state, 101.0, again)
    assert state.queues == {}


def test_the_hand_of_the_table_begins_anew_with_it() -> None:
    """It points into a ring that is gone."""
    table = KeyTable(10)
    assert table.hand == 0
    for key in "abc":
        table.put(key, 5)
    table.sweep(0, lambda value, at: False)
    table.clear()
    assert (table.hand, table.ring, table.values) == (0, [], {})


def test_only_a_single_token_bucket_has_a_fast_path() -> None:
    """All others are marked by a tolerance of -1; one of nothing would be a bucket still."""
    for options in ({"algorithm": "fixed_window"}, {"spec": ["1/s", "9/min"]}):
        rule, state = limiter(**options)
        for again in range(2):
            assert (state.tolerance, state.interval) == (-1, 0), again
            assert state.tat in (0, END), again
            rule.begin(state, 100.0)
    rule, state = limiter("1/s burst 2")
    assert (state.tolerance, state.tat, state.interval) == (2 * SECOND, 100 * SECOND, SECOND)
    state.tolerance, state.tat = 0, 77 * SECOND
    assert state.value("") == 77 * SECOND
    assert spend(state, 70 * SECOND, "", 1) == 8 * SECOND
    assert state.tat == 77 * SECOND


def test_an_episode_of_overflow_ends_at_seven_eighths_exactly_when_below() -> None:
    """Seven of eight keys are not below seven eighths; six are."""
    for most, keys, over in ((8, 7, True), (8, 6, False), (16, 14, True), (16, 13, False)):
        _, state = limiter("1/s", max_keys=most)
        for number in range(keys):
            state.table.put(f"k{number}", 100 * SECOND)
        state.overflowing = True
        scope_of(state, 0, "k0")
        assert state.overflowing is over, (most, keys)
