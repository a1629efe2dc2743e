"""The rate limiter's rule, driven by hand: bad input, edges, the queue, keys, penalties, the fast path's line."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.core.units import Limit
from seawall.policies.limiter_state import Grant, LimiterState, Pause, Turn
from seawall.policies.meter import END, nanoseconds, seconds_until
from seawall.policies.rate_limit import METERS, RateLimitRule
from seawall.policies.verdict import Note, Rejection, Wake

FOREVER = math.inf
DONE = Outcome.SUCCESS


def make(spec: Any = "10/s", **options: Any) -> tuple[RateLimitRule, LimiterState]:
    """A rule and its state at the moment 0."""
    rule = RateLimitRule(limits=spec, **options)
    return rule, rule.start(0.0)


def queue_of(rule: RateLimitRule, state: LimiterState, *costs: int, until: float = FOREVER) -> list[Turn]:
    """Waiters for the bucket without a key, which is spent first, each having looked once."""
    while rule.take(state, 0.0):
        pass
    turns = []
    for cost in costs:
        turn = rule.admit(state, 0.0, "", cost, until)
        assert isinstance(turn, Turn)
        assert isinstance(rule.poll(state, 0.0, turn), Pause)
        turns.append(turn)
    return turns


# --- bad input


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"limits": ()}, ValueError, "at least one limit"),
        ({"limits": []}, ValueError, "at least one limit"),
        ({"limits": 5}, TypeError, "spec must be text"),
        ({"limits": ["10/s", None]}, TypeError, "None"),
        ({"limits": "10 per s"}, ValueError, "10 per s"),
        ({"limits": "0/s"}, ValueError, "count must be >= 1; got 0"),
        ({"limits": "10/s burst 0"}, ValueError, "burst must be >= 1; got 0"),
        ({"limits": Limit(1, 2e9)}, ValueError, "per must be in"),
        ({"limits": Limit(1, 1e-10)}, ValueError, "per must be in"),
        ({"limits": Limit(2, 1e-9)}, ValueError, "count must leave a nanosecond for each call; got 2 in 1e-09 s"),
        ({"algorithm": "bucket"}, ValueError, "algorithm must be one of 'token_bucket'"),
        ({"algorithm": None}, TypeError, "algorithm"),
        ({"algorithm": "fixed_window", "limits": "10/s burst 5"}, ValueError, "burst must be left out"),
        ({"algorithm": "sliding_window", "limits": "10/s burst 5"}, ValueError, "'sliding_window'"),
        ({"algorithm": "sliding_log", "limits": "10/s burst 50"}, ValueError, "10/1s burst 50"),
        ({"initial": "half"}, ValueError, "initial must be one of 'full', 'empty'; got 'half'"),
        ({"initial": -1}, ValueError, "initial must be in \\[0, 10\\]; got -1"),
        ({"initial": 11}, ValueError, "got 11"),
        ({"initial": 1.5}, TypeError, "got 1.5"),
        ({"initial": True}, TypeError, "got True"),
        ({"initial": None}, TypeError, "got None"),
        ({"initial": 2, "algorithm": "leaky_bucket"}, ValueError, "\\[0, 1\\]; got 2"),
        ({"queue": -1}, ValueError, "queue must be >= 0; got -1"),
        ({"queue": math.inf}, TypeError, "queue must be a whole number >= 0; got inf"),
        ({"max_keys": 0}, ValueError, "max_keys must be >= 1; got 0"),
        ({"max_keys": "many"}, TypeError, "max_keys"),
        ({"obeys_hints": 1}, TypeError, "penalise must be True or False; got 1"),
    ],
)
def test_bad_parameters_are_named_with_range_and_value(options: Any, error: type[Exception], words: str) -> None:
    """A limiter that exists is a limiter that works: what cannot be meant is refused when it is made."""
    with pytest.raises(error, match=words):
        RateLimitRule(**{"limits": "10/s", **options})


def test_specs_are_read_once_and_kept() -> None:
    """Text, a Limit and lists of both mean the same."""
    assert RateLimitRule(limits=["10/s", Limit(3, 60)]).limits == (Limit(10), Limit(3, 60.0))  # type: ignore[arg-type]
    assert RateLimitRule(limits=Limit(3)).limits == (Limit(3),)  # type: ignore[arg-type]


# --- passing


def test_a_burst_passes_and_then_the_rate() -> None:
    """L1 in its simplest form: burst at once, one per interval after it, not a nanosecond earlier."""
    rule, state = make("100/s burst 3")
    assert [rule.take(state, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not rule.take(state, 0.009999999)
    assert rule.take(state, 0.01)
    assert not rule.take(state, 0.01)


def test_a_decision_says_what_is_left_and_when_to_come_again() -> None:
    """Callers turn these numbers into headers and sleeps, so they must be exact."""
    rule, state = make("10/s burst 5")
    limit = Limit(10, 1.0, 5)
    decision = rule.decide(state, 0.0, "k", 3)
    assert (decision.allowed, decision.remaining, decision.retry_after, decision.reset_after) == (True, 2, 0.0, 0.3)
    decision = rule.decide(state, 0.0, "k", 3)
    assert (decision.allowed, decision.remaining, decision.retry_after) == (False, 2, 0.1)
    assert decision.limit == limit
    assert rule.peek(state, 0.1, "k", 3).allowed
    assert rule.peek(state, 0.1, "k", 3).allowed  # a look spends nothing


@pytest.mark.parametrize("algorithm", METERS)
@pytest.mark.parametrize("key", ["", "k"])
def test_a_cost_above_the_burst_is_refused_for_good(algorithm: Any, key: str) -> None:
    """A finite retry_after for what can never pass makes clients come back for ever."""
    rule, state = make("5/s", algorithm=algorithm)
    assert not rule.take(state, 0.0, key, 6)
    assert rule.decide(state, 0.0, key, 6).retry_after == FOREVER
    refused = rule.admit(state, 0.0, key, 6, FOREVER)
    assert isinstance(refused, Rejection)
    assert refused.retry_after == FOREVER
    assert refused.reason == "can never pass a cost of 6: 5/1s burst 5 lets at most 5 pass at once"
    assert rule.take(state, 0.0, key, 5)  # and it burnt nothing


@pytest.mark.parametrize("algorithm", METERS)
def test_a_cost_of_nothing_always_passes_and_spends_nothing(algorithm: Any) -> None:
    """A call that costs nothing is not held up by those that do, not even behind a queue or under a penalty."""
    rule, state = make("2/s", algorithm=algorithm)
    (waiter,) = queue_of(rule, state, 1)
    before = rule.peek(state, 0.0)
    assert rule.take(state, 0.0, "", 0)
    assert rule.decide(state, 0.0, "", 0).allowed
    assert rule.peek(state, 0.0, "", 0).allowed
    assert isinstance(rule.admit(state, 0.0, "", 0, 0.0), Grant)
    assert rule.peek(state, 0.0) == before
    rule.penalise(state, 0.0, "other", 5)
    assert rule.take(state, 0.0, "other", 0)
    assert waiter.queued


@pytest.mark.parametrize(("initial", "passes"), [("full", 5), ("empty", 0), (2, 2), (0, 0), (5, 5)])
@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_window", "sliding_log", "fixed_window"])
def test_a_limiter_begins_as_full_as_it_is_told(algorithm: Any, initial: Any, passes: int) -> None:
    """A restart must not be a burst for those who say so; and keys that come later find what has filled up since."""
    rule, state = make("5/s", algorithm=algorithm, initial=initial)
    for key in ("", "k"):
        assert sum(rule.take(state, 0.0, key) for _ in range(7)) == passes
    assert sum(rule.take(state, 2.0, "late") for _ in range(7)) == 5


def test_an_empty_shaper_begins_with_one_interval() -> None:
    """It never saves anything up, so empty means that one has just left."""
    rule, state = make("10/s", algorithm="leaky_bucket", initial="empty")
    assert not rule.take(state, 0.0)
    assert rule.take(state, 0.1)


def test_a_shaper_spaces_calls_by_their_cost() -> None:
    """Evenly spaced calls are the whole point: nothing is saved up, and a large call takes its time."""
    rule, state = make("10/s burst 4", algorithm="leaky_bucket")
    assert rule.take(state, 5.0, "", 3)
    assert not rule.take(state, 5.2)
    assert rule.peek(state, 5.2).remaining == 0
    assert rule.take(state, 5.3)
    assert rule.peek(state, 9.0).remaining == 1


@pytest.mark.parametrize("algorithm", METERS)
def test_a_clock_that_reads_a_little_back_forgets_nothing(algorithm: Any) -> None:
    """Threads read the clock before they get the lock, so moments can come in the wrong order."""
    rule, state = make("2/s", algorithm=algorithm, initial="full")
    taken = 0
    for _ in range(4):
        taken += rule.take(state, 1.0, "k") + rule.take(state, 0.999, "k")
    assert taken == (1 if algorithm == "leaky_bucket" else 2)
    for verb in (rule.peek, rule.decide):
        decision = verb(state, 0.999, "k")
        assert not decision.allowed
        assert decision.remaining == 0
        assert decision.retry_after > 0.001


# --- bounds that are not those of the bucket


def test_two_bursts_may_meet_at_the_edge_of_a_fixed_window() -> None:
    """The stated bound of 2x is reached, so nobody may rely on less."""
    rule, state = make("100/s", algorithm="fixed_window")
    assert sum(rule.take(state, 0.999) for _ in range(150)) == 100
    assert sum(rule.take(state, 1.0) for _ in range(150)) == 100
    assert rule.decide(state, 1.0).retry_after == 1.0


def test_a_sliding_window_lets_a_third_more_pass_after_an_early_burst_and_more_after_a_late_one() -> None:
    """1 + a is the bound, with a = how far into its window the span begins: 1.33x is no bound for every traffic."""
    for begins, most in ((1 / 3, 1.34), (2 / 3, 1.67), (0.99, 2.0)):
        rule, state = make("300/s", algorithm="sliding_window")
        burst = sum(rule.take(state, begins) for _ in range(400))
        rest = sum(rule.take(state, begins + step / 3000) for step in range(1, 3000))
        assert burst == 300
        assert most - 0.02 <= (burst + rest) / 300 <= most


def test_a_sliding_log_is_exact_at_its_edges() -> None:
    """What was spent at t counts until just before t + per."""
    rule, state = make("2/s", algorithm="sliding_log")
    assert [rule.take(state, at) for at in (0.25, 0.5, 0.75, 1.249999999, 1.25, 1.25)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert len(state.value("").entries) == 2
    assert rule.decide(state, 1.25).retry_after == 0.25


def test_a_sliding_log_keeps_one_entry_per_moment_in_order() -> None:
    """Its memory is bounded by moments, and a clock that reads back must not put an old entry behind a new one."""
    rule, state = make("9/10s", algorithm="sliding_log")
    for at in (1.0, 1.0, 2.0, 1.5):
        assert rule.take(state, at)
    assert list(state.value("").entries) == [(10**9, 2), (2 * 10**9, 2)]


# --- several limits


def test_several_limits_are_spent_together_or_not_at_all() -> None:
    """Charging the first limit when the second refuses is what everybody else does, and starves honest callers."""
    rule, state = make(["3/s", "4/min"])
    assert [rule.take(state, 0.0) for _ in range(4)] == [True, True, True, False]
    assert rule.decide(state, 0.0).limit == Limit(3)
    assert rule.take(state, 1.0)
    decision = rule.decide(state, 1.0)
    assert not decision.allowed
    assert decision.limit == Limit(4, 60.0)  # the binding one is named
    assert decision.remaining == 0
    assert rule.peek(state, 30.0).limit == Limit(4, 60.0)  # the tightest one, when it passes
    refused = rule.admit(state, 1.0, "", 1, 2.0)
    assert isinstance(refused, Rejection)
    assert "has spent 4/60s burst 4; the call could pass in" in refused.reason


def test_several_limits_begin_and_pause_together() -> None:
    """What is said of a limiter holds for each of its limits."""
    rule, state = make(["5/s", "6/min"], initial=2)
    assert [rule.take(state, 0.0) for _ in range(3)] == [True, True, False]
    rule.penalise(state, 0.0, "k", 30.0)
    assert not rule.take(state, 29.9, "k")
    assert rule.take(state, 30.0, "k")
    rule, state = make(["5/s", "6/min"], algorithm="sliding_log")
    (turn,) = queue_of(rule, state, 1)
    assert turn.due == 10**9
    assert rule.peek(state, 0.0, "k").remaining == 5


def test_the_smallest_burst_of_several_limits_decides_what_can_never_pass() -> None:
    """A cost that one of them can never let pass must not wait for the others."""
    rule, state = make(["10/s", "100/min burst 2"])
    refused = rule.admit(state, 0.0, "", 3, FOREVER)
    assert isinstance(refused, Rejection)
    assert refused.retry_after == FOREVER
    assert "100/60s burst 2" in refused.reason


# --- waiting


def test_waiters_are_served_in_order_of_arrival_each_at_its_moment() -> None:
    """Fair means first come, first served; on time means at the interval, not at the next poll."""
    rule, state = make("10/s burst 2")
    first, second, third = queue_of(rule, state, 1, 2, 1)
    assert rule.poll(state, 0.0, first) == 0.1
    assert rule.poll(state, 0.0, second) == pytest.approx(0.35)  # it will be woken before
    assert rule.poll(state, 0.0, third) == pytest.approx(0.45)
    granted = rule.poll(state, 0.1, first)
    assert isinstance(granted, Grant)
    assert granted.events == (Wake(second),)  # it stands first now
    assert isinstance(rule.poll(state, 0.1, second), Pause)
    assert rule.poll(state, 0.3, second).events == (Wake(third),)
    assert isinstance(rule.poll(state, 0.4, third), Grant)
    assert state.waiting == 0


def test_newcomers_queue_behind_waiters_even_when_their_cost_would_fit() -> None:
    """No barging: else small calls starve a large one for ever."""
    rule, state = make("10/s burst 5")
    assert rule.take(state, 0.0, "", 3)
    big = rule.admit(state, 0.0, "", 5, FOREVER)
    assert isinstance(big, Turn)
    assert not rule.take(state, 0.0)
    decision = rule.decide(state, 0.0)
    assert (decision.allowed, decision.remaining, decision.retry_after) == (False, 0, 0.4)
    assert isinstance(rule.admit(state, 0.0, "", 1, FOREVER), Turn)
    assert rule.take(state, 0.0, "another key", 3)
    assert isinstance(rule.admit(state, 0.0, "another key", 5, FOREVER), Turn)
    assert not rule.take(state, 0.0, "another key")
    assert rule.take(state, 0.0, "a third")


def test_a_wait_that_cannot_fit_is_refused_at_once_with_the_queue_counted_in() -> None:
    """Sleeping first and failing then is the worst of both."""
    rule, state = make("10/s burst 1")
    queue_of(rule, state, 1, 1)
    refused = rule.admit(state, 0.0, "", 1, 0.29)
    assert isinstance(refused, Rejection)
    assert refused.retry_after == pytest.approx(0.3)
    assert refused.reason == "has spent 10/1s burst 1; the call could pass in 0.3 s, with 2 waiting before it"
    assert isinstance(rule.admit(state, 0.0, "", 1, 0.3), Turn)


def test_a_late_queue_is_counted_from_now() -> None:
    """When nobody looked for a while, what filled up meanwhile is the burst and no more."""
    rule, state = make("10/s burst 2")
    queue_of(rule, state, 2, 2, 2)
    refused = rule.admit(state, 60.0, "", 2, 60.0)
    assert isinstance(refused, Rejection)
    assert refused.retry_after == pytest.approx(0.6)


def test_a_full_queue_and_no_queue_refuse() -> None:
    """What is unbounded kills the process; 0 means that nobody waits."""
    rule, state = make("10/s burst 1", queue=1)
    queue_of(rule, state, 1)
    refused = rule.admit(state, 0.0, "", 1, FOREVER)
    assert isinstance(refused, Rejection)
    assert refused.reason == "has its queue of 1 full"
    rule, state = make("10/s burst 1", queue=0)
    rule.take(state, 0.0)
    assert isinstance(rule.admit(state, 0.0, "", 1, FOREVER), Rejection)


def test_who_leaves_owes_nothing_and_those_behind_move_up() -> None:
    """Abandoned waiters that eat tokens were a bug of four libraries."""
    rule, state = make("10/s burst 5")
    big, small, last = queue_of(rule, state, 5, 1, 1)
    assert rule.leave(state, 0.0, big) == (Wake(small),)
    assert rule.poll(state, 0.0, small) == 0.1
    assert rule.leave(state, 0.05, last) == ()  # nobody stands behind it
    assert isinstance(rule.poll(state, 0.1, small), Grant)
    assert rule.peek(state, 0.1).remaining == 0
    assert rule.peek(state, 0.2).remaining == 1


def test_who_leaves_after_its_grant_gives_it_back() -> None:
    """Cancelled at the very moment of its turn: the unit goes to the next, not into the void."""
    rule, state = make("10/s burst 1")
    first, second = queue_of(rule, state, 1, 1)
    assert rule.poll(state, 0.1, second).events == (Wake(first),)
    assert first.permit is not None
    assert rule.leave(state, 0.1, first) == (Wake(second),)
    assert isinstance(rule.poll(state, 0.1, second), Grant)
    refused = rule.poll(state, 0.1, first)
    assert isinstance(refused, Rejection)


def test_a_stuck_waiter_holds_up_nobody() -> None:
    """Whoever looks serves all whose turn has come, so a blocked loop at the head costs only itself."""
    rule, state = make("10/s burst 2")
    stuck, second = queue_of(rule, state, 1, 1)
    granted = rule.poll(state, 0.2, second)
    assert isinstance(granted, Grant)
    assert granted.events == (Wake(stuck),)
    assert rule.poll(state, 9.0, stuck) is stuck.permit


def test_a_waiter_that_was_overtaken_by_a_penalty_is_refused_when_it_looks() -> None:
    """Its time can no more be met, so waiting on would only waste it."""
    rule, state = make("10/s burst 1")
    first, second = queue_of(rule, state, 1, 1, until=0.25)
    assert rule.penalise(state, 0.0, "", 5.0) == (Note("limiter.penalised", {"key": "", "seconds": 5.0}), Wake(first))
    refused = rule.poll(state, 0.05, first)
    assert isinstance(refused, Rejection)
    assert refused.reason == "had no room for the call within 0.05 s"
    assert refused.retry_after == pytest.approx(4.95)
    assert refused.events == (Wake(second),)


def test_a_penalty_reaches_those_behind_when_their_old_moment_comes() -> None:
    """Only the first one is woken by it; the others find out at the moment they had been told."""
    rule, state = make("10/s burst 1")
    _, second = queue_of(rule, state, 1, 1)
    rule.penalise(state, 0.0, "", 5.0)
    assert rule.poll(state, 0.2, second) == pytest.approx(4.95)


# --- afterwards


@pytest.mark.parametrize("key", ["", "k"])
def test_what_is_given_back_wakes_the_first_and_never_overfills(key: str) -> None:
    """Refund law: tat = max(now, tat - n * T)."""
    rule, state = make("10/s burst 4")
    grant = rule.admit(state, 0.0, key, 4, 0.0)
    assert isinstance(grant, Grant)
    turn = rule.admit(state, 0.0, key, 2, FOREVER)
    assert isinstance(turn, Turn)
    events = rule.refund(state, 0.0, grant, 1)
    assert events == (Wake(turn),)
    assert rule.poll(state, 0.0, turn) == 0.1
    assert rule.refund(state, 0.0, grant, 3) == (Wake(turn),)
    assert isinstance(rule.poll(state, 0.0, turn), Grant)
    rule.refund(state, 0.0, grant, 4)
    assert rule.peek(state, 0.0, key).remaining == 4


@pytest.mark.parametrize("algorithm", METERS)
@pytest.mark.parametrize("key", ["", "k"])
def test_what_was_missing_is_charged_into_debt(algorithm: Any, key: str) -> None:
    """Post-paid calls: the estimate was too low, and the next caller waits for it."""
    rule, state = make("10/s", algorithm=algorithm)
    grant = rule.admit(state, 0.0, key, 10, 0.0)
    assert isinstance(grant, Grant)
    before = rule.peek(state, 0.0, key).retry_after
    rule.refund(state, 0.0, grant, -5)
    decision = rule.peek(state, 0.0, key)
    assert decision.remaining == 0
    assert decision.retry_after > before or algorithm in ("fixed_window", "sliding_log")


def test_windows_take_back_only_what_still_counts() -> None:
    """A refund into a window that is over would be a gift."""
    for algorithm, late in (("fixed_window", 1.0), ("sliding_window", 2.0), ("sliding_log", 1.0)):
        rule, state = make("4/s", algorithm=algorithm)
        grant = rule.admit(state, 0.0, "", 3, 0.0)
        assert isinstance(grant, Grant)
        assert rule.take(state, late)
        rule.refund(state, late, grant, 3)
        assert rule.peek(state, late).remaining == 3
    rule, state = make("4/s", algorithm="sliding_window")
    grant = rule.admit(state, 0.5, "", 4, 0.0)
    assert isinstance(grant, Grant)
    assert not rule.take(state, 1.0)
    rule.refund(state, 1.0, grant, 2)
    assert rule.peek(state, 1.0).remaining == 2


def test_a_refund_to_a_key_that_was_dropped_gives_nothing() -> None:
    """A dropped key was full: there is nothing to give back."""
    rule, state = make("10/s burst 2")
    grant = rule.admit(state, 0.0, "k", 2, 0.0)
    assert isinstance(grant, Grant)
    for step in range(4):
        rule.take(state, 20.0 + step / 100, "other")
    assert "k" not in state.table.values
    assert rule.refund(state, 21.0, grant, 2) == ()
    assert "k" not in state.table.values
    rule.refund(state, 21.0, grant, -3)  # but a late charge counts
    assert rule.peek(state, 21.0, "k").remaining == 0


@pytest.mark.parametrize("algorithm", METERS)
@pytest.mark.parametrize("key", ["", "k"])
def test_a_penalty_pauses_a_key_and_a_reset_lifts_it(algorithm: Any, key: str) -> None:
    """A 429 from the other side, or an abuser: nothing passes until then, and exactly from then on."""
    rule, state = make("5/s", algorithm=algorithm)
    rule.penalise(state, 0.0, key, 3.0)
    assert not rule.take(state, 2.999999998, key)
    assert rule.decide(state, 0.5, key).retry_after == 2.5
    assert rule.peek(state, 0.5, key).remaining == 0
    assert rule.peek(state, 0.0, key).reset_after >= 3.0
    assert rule.take(state, 3.0, key)
    rule.penalise(state, 3.0, key, 9.0)
    rule.penalise(state, 3.0, key, 1.0)  # the longer one holds
    assert not rule.take(state, 11.0, key)
    assert rule.reset(state, 11.0, key) == ()
    assert rule.take(state, 11.0, key)


def test_settling_obeys_a_hint_only_when_told_to_and_only_up_to_a_minute() -> None:
    """A callee that says "in three days" must not switch us off for three days."""
    grant = Grant("k", 1, 0)
    rule, state = make("10/s")
    assert rule.settle(state, 0.0, grant, Outcome.IGNORED, 5.0) == ()
    rule, state = make("10/s", obeys_hints=True)
    assert rule.settle(state, 0.0, grant, DONE) == ()
    assert rule.settle(state, 0.0, grant, Outcome.IGNORED, 0.0) == ()
    assert rule.settle(state, 0.0, grant, Outcome.IGNORED, math.nan) == ()
    rule.settle(state, 0.0, grant, Outcome.IGNORED, 3 * 86400.0)
    assert rule.decide(state, 0.0, "k").retry_after == 60.0


def test_a_reset_serves_those_who_wait() -> None:
    """Whoever resets a key wants its callers to go on at once."""
    rule, state = make("1/min")
    first, second = queue_of(rule, state, 1, 1)
    assert rule.reset(state, 0.0, "") == (Wake(first), Wake(second))
    assert isinstance(rule.poll(state, 0.0, first), Grant)
    assert isinstance(rule.poll(state, 0.0, second), Pause)


@pytest.mark.parametrize("algorithm", METERS)
def test_limits_change_live_and_keep_what_is_owed(algorithm: Any) -> None:
    """A raised limit must be felt at once; a lowered one must not hand out a burst."""
    rule, state = make("2/min", algorithm=algorithm)
    for key in ("", "k"):
        while rule.take(state, 0.0, key):
            pass
    longer = RateLimitRule(limits="4/min", algorithm=algorithm)  # type: ignore[arg-type]
    (note,) = longer.retune(state, 0.0)
    assert note == Note("limiter.retuned", {"limits": ["4/60s burst 4"]})
    shorter = RateLimitRule(limits="2/s", algorithm=algorithm)  # type: ignore[arg-type]
    shorter.retune(state, 0.0)
    for key in ("", "k"):
        assert not shorter.take(state, 0.0, key) or algorithm == "sliding_log"
        assert shorter.take(state, 2.0, key)


def test_limits_cannot_change_in_number_or_kind() -> None:
    """Which of two counts belongs to which of three limits cannot be known."""
    _, state = make(["1/s", "2/min"])
    for other in ("1/s", ["1/s", "2/min", "3/h"]):
        with pytest.raises(ValueError, match="spec must have as many limits as before, 2; got"):
            RateLimitRule(limits=other).retune(state, 0.0)  # type: ignore[arg-type]
    RateLimitRule(limits=["2/s", "2/min"]).retune(state, 0.0)  # type: ignore[arg-type]
    _, single = make("1/s")
    with pytest.raises(ValueError, match="as many limits"):
        RateLimitRule(limits="1/s", algorithm="fixed_window").retune(single, 0.0)  # type: ignore[arg-type]


def test_waiters_whose_cost_can_never_pass_any_more_are_told_so() -> None:
    """A lowered burst must not leave somebody waiting for ever, nor those behind."""
    rule, state = make("10/s burst 5")
    big, small = queue_of(rule, state, 5, 1)
    lower = RateLimitRule(limits="10/s burst 2")  # type: ignore[arg-type]
    events = lower.retune(state, 0.0)
    assert events[1:] == (Wake(big), Wake(small))
    refused = lower.poll(state, 0.0, big)
    assert isinstance(refused, Rejection)
    assert refused.retry_after == FOREVER
    assert lower.poll(state, 0.0, small) == 0.1


def test_beginning_anew_wakes_and_refuses_those_who_wait() -> None:
    """A test's fixture that starts over must not leave a thread of the last test asleep."""
    rule, state = make("1/min")
    (waiter,) = queue_of(rule, state, 1)
    keyed = rule.admit(state, 0.0, "k", 1, FOREVER)
    assert isinstance(keyed, Grant)
    line = state.queue
    assert rule.begin(state, 5.0) == (Wake(waiter),)
    assert state.queue is line  # compiled code binds it
    refused = rule.poll(state, 5.0, waiter)
    assert isinstance(refused, Rejection)
    assert refused.reason == "began anew while the call waited"
    assert rule.leave(state, 5.0, waiter) == ()
    assert rule.take(state, 5.0, "k")


def test_after_a_fork_queues_are_empty_and_debt_is_kept() -> None:
    """Those who waited live in the parent; what was spent was spent."""
    rule, state = make("1/min")
    queue_of(rule, state, 1)
    assert rule.take(state, 0.0, "k")
    assert isinstance(rule.admit(state, 0.0, "k", 1, FOREVER), Turn)
    rule.disband(state)
    assert state.waiting == 0
    assert not rule.take(state, 0.0)
    assert not rule.take(state, 0.0, "k")


# --- time


def test_moments_are_rounded_so_that_coming_back_is_never_too_early() -> None:
    """One nanosecond too early and a client is sent away a second time."""
    assert nanoseconds(FOREVER) == END
    assert seconds_until(5.0, END) == FOREVER
    assert seconds_until(5.0, 1) == 0.0
    for now in (0.1, 12345.678, 1e7 + 0.1, 1e9 + 0.3):
        for ahead in (1, 7, 999, 10**9 + 1):
            target = nanoseconds(now) + ahead
            assert nanoseconds(now + seconds_until(now, target)) >= target


# --- the fast path


def fast(state: LimiterState, at: int) -> bool:
    """The line that compiled code will run, as the rule's docstring gives it."""
    if state.queue:
        return False
    state.tat = new if (new := (tat if (tat := state.tat) > at else at) + state.interval) <= at + state.tolerance else tat
    return new <= at + state.tolerance


@pytest.mark.parametrize("spec", ["5000/h", ["5000/h", "6000/h"]])
@pytest.mark.parametrize("algorithm", METERS)
def test_the_fast_line_admits_only_for_a_single_token_bucket(algorithm: Any, spec: Any) -> None:
    """Whatever it cannot decide it must refuse, so that the rule is asked."""
    _, state = make(spec, algorithm=algorithm)
    assert fast(state, 0) is (algorithm == "token_bucket" and spec == "5000/h")


def test_threads_with_and_without_the_lock_never_pass_one_too_many() -> None:
    """L1 under contention: the lock does not protect from the fast line, so each write of tat is one line itself."""
    rule, state = make("4000/h")
    lock = threading.Lock()
    counts = [0] * 16

    def locked(index: int) -> None:
        for _ in range(600):
            with lock:
                counts[index] += rule.take(state, 0.0)

    def admitted(index: int) -> None:
        for _ in range(600):
            with lock:
                counts[index] += isinstance(rule.admit(state, 0.0, "", 1, 0.0), Grant)

    def compiled(index: int) -> None:
        for _ in range(600):
            counts[index] += fast(state, 0)

    jobs = [locked, admitted, compiled, compiled] * 4
    hammer([threading.Thread(target=job, args=(index,)) for index, job in enumerate(jobs)])
    assert sum(counts) == 4000


def test_refunds_and_resets_beside_the_fast_line_lose_nothing() -> None:
    """Every unit that passed is spent, and every unit given back can be spent again, exactly once."""
    rule, state = make("1000000/h")
    lock = threading.Lock()
    passed = [0] * 8

    def spend_and_return(index: int) -> None:
        for _ in range(1500):
            with lock:
                grant = rule.admit(state, 0.0, "", 3, 0.0)
                assert isinstance(grant, Grant)
                rule.refund(state, 0.0, grant, 2)
            passed[index] += 1

    def compiled(index: int) -> None:
        for _ in range(3000):
            passed[index] += fast(state, 0)

    hammer([threading.Thread(target=(spend_and_return, compiled)[n % 2], args=(n,)) for n in range(8)])
    assert rule.peek(state, 0.0).remaining == 1_000_000 - sum(passed)


def hammer(threads: list[threading.Thread]) -> None:
    """Run threads to their end, switching between them as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
