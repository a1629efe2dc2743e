"""The adaptive limit's edges: exact windows, exact CoDel, who steps out and who is put out. Found by mutation testing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, LimitState, Slot, Waiter
from seawall.policies.limit_shares import ShareRule
from seawall.policies.verdict import Rejection, Wake

FOREVER = math.inf


def limit(**options: Any) -> tuple[AdaptiveLimitRule, LimitState]:
    """A limit of one, with a queue."""
    rule = AdaptiveLimitRule(**{"initial": 1, "most": 1, "queue": 9} | options)
    return rule, rule.start(0.0)


def come(rule: AdaptiveLimitRule, state: LimitState, now: float = 0.0, level: str = "default", **who: Any) -> Any:
    """One call."""
    return rule.admit(state, now, FOREVER, level, who.get("partition"), who.get("tenant"))


def end(rule: AdaptiveLimitRule, state: LimitState, slot: Any, now: float, took: float = 0.0) -> Any:
    """A call that succeeds."""
    return rule.settle(state, now, slot, Outcome.SUCCESS, took)


def test_the_defaults_are_those_of_the_front_door() -> None:
    """A default that drifts changes every limit that trusted it."""
    rule = AdaptiveLimitRule()
    assert (rule.initial, rule.least, rule.most, rule.queue, rule.wait) == (20, 1, 200, 0, None)
    assert (rule.algorithm, rule.interval, rule.target) == ("correlation", 0.1, 0.005)


@pytest.mark.parametrize(("took", "length"), [(0.01, 0.1), (0.2, 0.4), (5.0, 1.0)])
def test_a_window_lasts_two_rtts_within_its_bounds(took: float, length: float) -> None:
    """A tenth of a second at least, a second at most."""
    rule, state = limit()
    end(rule, state, come(rule, state), 7.0, took)
    assert state.filling.ends_at == pytest.approx(7.0 + length)
    state.rtt = took
    state.filling = type(state.filling)()
    end(rule, state, come(rule, state), 9.0, 77.0)
    assert state.filling.ends_at == pytest.approx(9.0 + length)


def test_a_call_of_a_tenth_of_a_millisecond_has_done_its_work() -> None:
    """Faster ones have not, and teach nothing."""
    rule, state = limit()
    end(rule, state, come(rule, state), 1.0, 0.99e-4)
    assert state.filling.seen == 0
    end(rule, state, come(rule, state), 1.0, 1e-4)
    assert state.filling.seen == 1


def test_a_limit_of_which_half_is_in_use_may_grow() -> None:
    """Less proves nothing."""
    for busy, grows in ((10, True), (9, False)):
        rule, state = limit(initial=20, most=100, queue=0)
        for now in (1.0, 3.0):
            for _ in range(10):
                slots = [come(rule, state) for _ in range(busy)]
                for slot in slots:
                    end(rule, state, slot, now, 0.1)
        assert (state.limit > 20) is grows


def test_a_permit_that_was_used_stays_void_through_restarts() -> None:
    """No number of an epoch may be the mark of a used permit."""
    rule, state = limit()
    slot = come(rule, state)
    end(rule, state, slot, 0.0)
    for _ in range(3):
        rule.restart(state)
        end(rule, state, slot, 0.0)
        assert state.taken == 0


def test_who_leaves_the_queue_stands_nowhere_and_who_was_granted_gives_it_back() -> None:
    """Once, however often it says so."""
    rule, state = limit()
    slot = come(rule, state)
    first, second, third = (come(rule, state) for _ in range(3))
    for _ in range(2):
        assert rule.leave(state, 1.0, second) == ()
        assert state.waiting == 2
    assert end(rule, state, slot, 1.0) == (Wake(first),)
    assert rule.leave(state, 1.0, first) == (Wake(third),)
    assert rule.leave(state, 1.0, first) == ()
    assert (state.taken, state.waiting) == (1, 0)


def test_codel_looks_at_whole_intervals_and_sheds_beyond_twice_the_target() -> None:
    """At the target is not above it; at twice the target is still in time; the end of an interval is in the next."""
    rule, state = limit(target=0.5, interval=4.0)
    rule._observe(state, 0.0, 9.0)
    rule._observe(state, 3.9, 0.5)
    rule._observe(state, 4.0, 2.0)
    assert (state.overloaded, state.check_at, state.least_delay) == (False, 8.0, 2.0)
    rule._observe(state, 8.0, 3.0)
    assert state.overloaded
    slot = come(rule, state, 8.5)
    late, in_time = come(rule, state, 8.5), come(rule, state, 8.75)
    end(rule, state, slot, 9.75)
    assert late.shed == "is overloaded: shed after 1.25 s in its queue"
    assert (in_time.shed, isinstance(in_time.permit, Slot), state.shed) == (None, True, 1)


def test_a_critical_call_takes_the_place_of_a_default_one() -> None:
    """Also when nothing less important waits."""
    rule, state = limit(queue=2)
    come(rule, state)
    first, second = come(rule, state), come(rule, state)
    assert isinstance(come(rule, state), Rejection)
    critical = come(rule, state, level="critical")
    assert isinstance(critical, Waiter)
    assert (first.shed, second.shed is not None) == (None, True)
    assert state.shed == 1


def test_a_tenant_with_one_waiter_less_crowds_nobody() -> None:
    """Two against one is as even as three can be."""
    rule, state = limit(queue=3, shares=ShareRule(fair=True))
    come(rule, state, tenant="a")
    for tenant in ("loud", "loud", "quiet"):
        assert isinstance(come(rule, state, tenant=tenant), Waiter)
    assert isinstance(come(rule, state, tenant="quiet"), Rejection)
    assert isinstance(come(rule, state, tenant="new"), Waiter)
    assert state.accounts.tenants["loud"].waiting == 1


def test_a_waiter_is_served_from_its_own_share_as_far_as_its_class_may_use_it() -> None:
    """Seven tenths of the partition's share are for the sheddable, waiting or not."""
    rule, state = limit(initial=10, most=20, shares=ShareRule(partitions={"live": 0.5, "batch": 0.5}))
    for _ in range(10):
        assert isinstance(come(rule, state, partition="batch"), Slot)
    for _ in range(3):
        assert isinstance(come(rule, state, level="sheddable", partition="live"), Slot)
    fourth = come(rule, state, level="sheddable", partition="live")
    assert isinstance(fourth, Waiter)
    assert fourth.permit is None
    assert isinstance(come(rule, state, partition="live"), Slot)
