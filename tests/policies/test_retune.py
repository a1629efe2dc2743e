"""New numbers for a state that has a past: what each rule keeps, what it drops, and when."""

from __future__ import annotations

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, Slot, Waiter
from seawall.policies.cache import CacheRule, Entry, Follow, Found, Landed, Lead
from seawall.policies.circuit_breaker import BreakerRule
from seawall.policies.throttle import ThrottleRule
from seawall.policies.verdict import Wake
from seawall.policies.windows import FAILED, OK, CountWindow, TimeWindow, resized


@pytest.mark.parametrize(("window", "last"), [(24.0, 124.0), (6.0, 106.0), (12.0, 112.0)])
def test_calls_of_a_throttle_leave_when_the_new_window_has_passed(window: float, last: float) -> None:
    """A slice that leaves too early forgets a storm; one that stays too long sheds calls of a callee that is well."""
    old, new = ThrottleRule(window=12.0), ThrottleRule(window=window)
    state = old.start(0)
    for _ in range(30):
        old.admit(state, 100.0, 0.999)
    new.retune(state, old.window)
    assert new.share(state, 100.0) == 0.9
    new.share(state, last - window / 12 - 0.01)
    assert sum(one.requests for one in state.slices) == 30
    new.share(state, last + 0.01)
    assert sum(one.requests for one in state.slices) == 0


def test_a_call_that_runs_counts_in_the_slice_of_its_beginning() -> None:
    """Its permit holds the slice: a slice that was made anew would never learn that the call was accepted."""
    old, new = ThrottleRule(window=12.0), ThrottleRule(window=60.0)
    state = old.start(0)
    permit = old.admit(state, 100.0, 0.999)
    new.retune(state, old.window)
    new.settle(state, 100.0, permit, accepted=True)  # type: ignore[arg-type]
    assert [one.accepts for one in state.slices] == [1]


def test_answers_and_errors_that_are_kept_get_the_new_times() -> None:
    """Who lowers a ttl because answers were too old does not want to wait for the old ttl."""
    old, new = CacheRule(ttl=60, negative_ttl=30), CacheRule(ttl=10, negative_ttl=5, size=2, stale_if_error=1)
    state = old.start(0)
    for key in "abc":
        assert isinstance(old.look(state, 0.0, key), Lead)
        old.land(state, 0.0, key, Entry(key, 0.0, old.ttl, weight=7))
    old.look(state, 0.0, "d")
    old.land(state, 0.0, "d", Entry(None, 0.0, old.negative_ttl, error=OSError()))
    old.look(state, 0.0, "e")
    follower = old.look(state, 0.0, "e")
    assert new.retune(state) == ()
    assert (list(state.entries), state.weight) == (["c", "d"], 7)
    assert isinstance(new.look(state, 4.9, "d"), Found)
    assert isinstance(new.look(state, 5.0, "d"), Lead)
    assert isinstance(new.look(state, 9.9, "c"), Found)
    assert isinstance(new.look(state, 10.0, "c"), Lead)
    assert new.land(state, 10.0, "e", Entry(5, 10.0, new.ttl)) == (Wake(follower),)  # type: ignore[arg-type]
    assert isinstance(follower, Follow)
    assert isinstance(follower.permit, Landed)


def test_an_adaptive_limit_that_grows_serves_those_who_wait() -> None:
    """They would otherwise stand in line before empty places."""
    old, new = AdaptiveLimitRule(initial=1, most=1, queue=5), AdaptiveLimitRule(initial=3, least=3, most=10, queue=5)
    state = old.start(0)
    held = old.admit(state, 0.0, 9.0)
    waiters = [old.admit(state, 0.0, 9.0) for _ in range(3)]
    assert isinstance(held, Slot)
    woken = new.retune(state, 1.0, old)
    assert [event.ticket for event in woken if isinstance(event, Wake)] == waiters[:2]
    assert (state.limit, state.taken, state.waiting) == (3, 3, 1)
    new.settle(state, 1.0, held, Outcome.SUCCESS, 0.5)
    assert isinstance(waiters[2], Waiter)
    assert waiters[2].permit is not None


def test_an_adaptive_limit_forgets_only_what_another_algorithm_had_learned() -> None:
    """A limit within the bounds is worth keeping; a memory of another kind would be misread."""
    old = AdaptiveLimitRule(initial=50, most=100)
    state = old.start(0)
    memory = state.memory
    AdaptiveLimitRule(initial=5, most=40).retune(state, 0.0, old)
    assert (state.limit, state.memory is memory) == (40, True)
    AdaptiveLimitRule(initial=5, most=40, algorithm="vegas").retune(state, 0.0, old)
    assert (state.limit, state.memory is memory) == (40, False)


def test_a_window_of_time_stays_itself_and_keeps_what_is_young_enough() -> None:
    """It is the permit of the calls that run: another object would lose their results."""
    window = TimeWindow(1, 30.0, 0.0)
    for moment in (0.0, 10.0, 20.0):
        window.record(moment, FAILED)
    assert resized(window, 60.0, None, 20.0) is window
    assert (window.counts(40.0).failed, window.counts(40.0).streak) == (3, 3)
    assert resized(window, 25.0, None, 40.0) is window
    assert window.counts(40.0).failed == 1
    window.record(41.0, OK)
    assert (window.counts(41.0).streak, window.span, window.width) == (0, 25.0, 2.5)


def test_a_window_of_calls_keeps_the_newest_and_one_of_another_kind_is_empty() -> None:
    """Calls and seconds cannot be turned into each other."""
    window = CountWindow(3, 4)
    for code in (OK, FAILED, FAILED):
        window.record(0.0, code)
    assert resized(window, 30.0, 4, 0.0) is window
    shorter = resized(window, 30.0, 2, 0.0)
    assert (list(shorter), shorter.epoch) == ([FAILED, FAILED], 3)  # type: ignore[call-overload]
    longer = resized(window, 30.0, 9, 0.0)
    assert (longer.counts(0.0).calls, longer.counts(0.0).streak) == (3, 2)
    other = resized(window, 30.0, None, 5.0)
    assert (type(other), other.epoch, other.counts(5.0).calls) == (TimeWindow, 3, 0)
    assert type(resized(other, 30.0, 5, 5.0)) is CountWindow


def test_a_circuit_that_is_open_stays_open_whatever_its_window_becomes() -> None:
    """A reload is no reason to call what is broken."""
    old, new = BreakerRule(consecutive_failures=1, open_for=5.0), BreakerRule(consecutive_failures=1, window_calls=20)
    state = old.start(0)
    old.settle(state, 0.0, old.admit(state, 0.0), Outcome.FAILURE)  # type: ignore[arg-type]
    assert new.retune(state, 1.0) == ()
    assert (new.state(state), state.open_until, state.window) == ("open", 5.0, None)


def test_a_closed_circuit_publishes_its_new_window() -> None:
    """Compiled code admits by what is published; an old window there would take results that nobody looks at."""
    old, new = BreakerRule(window_calls=5), BreakerRule(window_calls=9)
    state = old.start(0)
    old.settle(state, 0.0, old.admit(state, 0.0), Outcome.FAILURE)  # type: ignore[arg-type]
    new.retune(state, 1.0)
    assert state.window is state.current
    assert state.current is not None
    assert state.current.counts(1.0).failed == 1
    assert state.record == state.current.append  # type: ignore[union-attr]
