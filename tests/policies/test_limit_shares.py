"""Partitions and tenants of one limit: what is idle is lent, what is one's own is had, and nobody takes it all."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, LimitState, Slot, Waiter
from seawall.policies.limit_shares import ShareRule, fair_share
from seawall.policies.verdict import Rejection

HALVES = {"batch": 0.2, "live": 0.5}


def limit(**options: Any) -> tuple[AdaptiveLimitRule, LimitState]:
    """A limit of 10 that does not move, up to 20."""
    shares = {name: options.pop(name) for name in ("partitions", "fair", "max_tenants") if name in options}
    rule = AdaptiveLimitRule(**{"initial": 10, "most": 20, "target": 1e9} | options, shares=ShareRule(**shares))
    return rule, rule.start(0.0)


def come(rule: AdaptiveLimitRule, state: LimitState, *, now: float = 0.0, times: int = 1, **who: Any) -> list[Any]:
    """So many calls of one kind."""
    words = (who.get("priority", "default"), who.get("partition"), who.get("tenant"))
    return [rule.admit(state, now, math.inf, *words) for _ in range(times)]


def ran(answers: list[Any]) -> int:
    """How many of the calls run."""
    return sum(isinstance(answer, Slot) for answer in answers)


def end(rule: AdaptiveLimitRule, state: LimitState, slot: Any, now: float = 0.0) -> None:
    """A call ends and teaches nothing."""
    rule.settle(state, now, slot, Outcome.IGNORED, 0.0)


# --- partitions


def test_an_idle_share_is_lent_and_comes_back_as_borrowed_calls_end() -> None:
    """Isolation that wastes what nobody uses would be turned off by the first who looks at the bill."""
    rule, state = limit(partitions=HALVES)
    batch = come(rule, state, partition="batch", times=12)
    assert ran(batch) == 10
    live = come(rule, state, partition="live", times=7)
    assert ran(live) == 5
    assert state.taken == 15
    for slot in batch[:6]:
        end(rule, state, slot)
    assert state.taken == 9
    assert ran(come(rule, state, partition="batch", times=3)) == 1
    assert {name: account.taken for name, account in state.accounts.partitions.items()} == {"batch": 5, "live": 5, "others": 0}


def test_a_share_is_at_least_one_call_and_is_never_lent_beyond_most() -> None:
    """A tenth of five places is half a call; a share of nothing would be no share."""
    wide, state = limit(initial=5, partitions={"batch": 0.1, "live": 0.9})
    assert ran(come(wide, state, partition="live", times=9)) == 5
    assert ran(come(wide, state, partition="batch", times=3)) == 1
    rule, state = limit(initial=5, most=6, partitions={"batch": 0.1, "live": 0.9})
    assert ran(come(rule, state, partition="live", times=9)) == 5
    assert ran(come(rule, state, partition="batch", times=2)) == 1
    assert state.taken == 6
    full, filled = limit(initial=5, most=5, partitions={"batch": 0.1, "live": 0.9})
    assert ran(come(full, filled, partition="live", times=5)) == 5
    assert ran(come(full, filled, partition="batch")) == 0


def test_calls_of_no_known_partition_use_what_the_shares_leave_over() -> None:
    """A misspelt partition must neither crash nor be privileged."""
    rule, state = limit(partitions=HALVES)
    assert ran(come(rule, state, partition="live", times=10)) == 10
    assert ran(come(rule, state, partition="typo", times=4)) == 3
    assert ran(come(rule, state, partition=None)) == 0
    assert state.accounts.partitions["others"].taken == 3
    whole, filled = limit(partitions={"live": 1.0})
    assert ran(come(whole, filled, partition="live", times=10)) == 10
    assert ran(come(whole, filled, partition="typo")) == 0


def test_the_share_of_a_partition_shrinks_with_priority_as_the_limit_does() -> None:
    """Within its share as well, the sheddable go first."""
    rule, state = limit(partitions={"live": 0.5, "batch": 0.5})
    assert ran(come(rule, state, partition="batch", times=10)) == 10
    assert ran(come(rule, state, partition="live", priority="sheddable", times=9)) == 3
    assert ran(come(rule, state, partition="live", times=9)) == 2


def test_a_waiter_of_a_partition_below_its_share_is_served_before_more_important_borrowers() -> None:
    """What is one's own is not asked for."""
    rule, state = limit(initial=10, most=10, queue=10, partitions=HALVES)
    batch = come(rule, state, partition="batch", times=10)
    (urgent,) = come(rule, state, partition="batch", priority="critical")
    (live,) = come(rule, state, partition="live")
    assert [urgent.permit, live.permit] == [None, None]
    end(rule, state, batch[0])
    assert (urgent.permit, isinstance(live.permit, Slot)) == (None, True)
    end(rule, state, batch[1])
    assert isinstance(urgent.permit, Slot)


def test_a_waiter_that_leaves_gives_its_granted_place_back_to_its_partition() -> None:
    """A leaked account is a share that is lost for good."""
    rule, state = limit(initial=1, most=1, queue=5, partitions={"a": 1.0})
    (slot,) = come(rule, state, partition="a")
    first, second = come(rule, state, partition="a", times=2)
    end(rule, state, slot)
    rule.leave(state, 0.0, first)
    assert isinstance(second.permit, Slot)
    rule.leave(state, 0.0, second)
    assert (state.taken, state.accounts.partitions["a"].taken, state.waiting) == (0, 0, 0)


# --- tenants


def test_a_tenant_that_is_alone_may_have_it_all() -> None:
    """Fairness that idles is worse than none."""
    rule, state = limit(fair=True)
    assert ran(come(rule, state, tenant="a", times=12)) == 10


def test_a_free_place_is_left_to_a_tenant_that_holds_less_and_was_turned_away() -> None:
    """Without a queue the loudest caller would win every race for a free place."""
    rule, state = limit(fair=True)
    loud = come(rule, state, tenant="loud", times=10)
    assert ran(come(rule, state, tenant="quiet")) == 0
    end(rule, state, loud[0])
    assert ran(come(rule, state, tenant="loud", times=5)) == 0
    assert ran(come(rule, state, tenant="quiet")) == 1
    end(rule, state, loud[1])
    assert ran(come(rule, state, tenant="loud", times=5)) == 1


def test_as_many_places_are_kept_as_were_missed_and_only_for_a_second() -> None:
    """A caller that went home must not keep places empty."""
    rule, state = limit(fair=True)
    loud = come(rule, state, tenant="loud", times=10)
    come(rule, state, tenant="quiet", times=2)
    for slot in loud[:4]:
        end(rule, state, slot)
    assert ran(come(rule, state, tenant="loud", times=5)) == 2
    assert ran(come(rule, state, now=0.999, tenant="loud")) == 0
    assert ran(come(rule, state, now=1.0, tenant="loud", times=3)) == 2
    assert set(state.accounts.tenants) == {"loud"}


def test_no_more_than_a_fair_share_is_kept_however_much_was_missed() -> None:
    """Who asks a thousand times is owed no more than who asks politely."""
    rule, state = limit(fair=True)
    loud = come(rule, state, tenant="loud", times=10)
    come(rule, state, tenant="rude", times=1000)
    for slot in loud[:7]:
        end(rule, state, slot)
    assert fair_share(state.accounts, 10) == 5
    assert ran(come(rule, state, tenant="loud", times=5)) == 2
    assert ran(come(rule, state, tenant="rude", times=9)) == 5


def test_a_place_goes_first_to_who_holds_less() -> None:
    """Below their fair share as well, the poorer come first."""
    rule, state = limit(fair=True)
    first = come(rule, state, tenant="a", times=5)
    come(rule, state, tenant="b", times=5)
    assert ran(come(rule, state, tenant="c")) == 0
    for slot in first[:2]:
        end(rule, state, slot)
    assert fair_share(state.accounts, 10) == 4
    assert ran(come(rule, state, tenant="b")) == 1
    assert ran(come(rule, state, tenant="a")) == 0
    assert ran(come(rule, state, tenant="c")) == 1


def test_places_are_kept_for_the_poorer_only_and_up_to_their_fair_share() -> None:
    """One that holds one place leaves the free one to who holds none, and owes its equals nothing."""
    rule, state = limit(initial=2, fair=True)
    come(rule, state, tenant="a")
    (held,) = come(rule, state, tenant="b")
    assert ran(come(rule, state, tenant="c")) == 0
    end(rule, state, held)
    assert ran(come(rule, state, tenant="a")) == 0
    assert ran(come(rule, state, tenant="c")) == 1
    even, equal = limit(initial=4, fair=True)
    first = come(even, equal, tenant="a", times=2)
    come(even, equal, tenant="b")
    come(even, equal, tenant="c")
    assert ran(come(even, equal, tenant="b")) == 0
    end(even, equal, first[0])
    assert ran(come(even, equal, tenant="a")) == 1
    rich, owed = limit(initial=12, fair=True)
    many = come(rich, owed, tenant="a", times=8)
    come(rich, owed, tenant="rude", times=1000)
    for slot in many[:3]:
        end(rich, owed, slot)
    assert ran(come(rich, owed, tenant="a", times=5)) == 1


def test_what_was_missed_is_forgotten_with_its_second() -> None:
    """Else every refusal of a day would keep a place at night."""
    rule, state = limit(fair=True)
    loud = come(rule, state, tenant="loud", times=10)
    come(rule, state, tenant="quiet")
    come(rule, state, now=5.0, tenant="loud")
    come(rule, state, now=5.0, tenant="quiet")
    assert state.accounts.tenants["quiet"].missed == 1
    for slot in loud[:2]:
        end(rule, state, slot, 5.0)
    assert ran(come(rule, state, now=5.0, tenant="loud", times=5)) == 1


def test_what_was_missed_is_forgotten_by_those_who_hold_something_too() -> None:
    """A tenant that stays must not be owed more and more."""
    rule, state = limit(fair=True)
    come(rule, state, tenant="quiet")
    come(rule, state, tenant="loud", times=9)
    come(rule, state, tenant="quiet")
    assert state.accounts.tenants["quiet"].missed == 1
    come(rule, state, now=5.0, tenant="loud")
    assert state.accounts.tenants["quiet"].missed == 0
    assert set(state.accounts.wanting) == set()


def test_a_fair_share_is_the_limit_over_those_who_are_there_rounded_up() -> None:
    """A newcomer counts, and nobody's share is nothing."""
    rule, state = limit(fair=True)
    assert rule.shares.max_tenants == 1000
    assert [fair_share(state.accounts, size) for size in (0.5, 1.0, 10.9)] == [1, 1, 10]
    come(rule, state, tenant="a")
    assert fair_share(state.accounts, 10) == 10
    assert fair_share(state.accounts, 10, newcomer=True) == 5
    come(rule, state, tenant="b")
    come(rule, state, tenant="c")
    assert (fair_share(state.accounts, 10), fair_share(state.accounts, 1)) == (4, 1)


def test_of_those_who_wait_the_tenant_that_holds_least_is_served_first() -> None:
    """A queue in order of arrival belongs to whoever sends most."""
    rule, state = limit(initial=4, most=4, queue=20, fair=True)
    loud = come(rule, state, tenant="loud", times=4)
    more = come(rule, state, tenant="loud", times=3)
    quiet = come(rule, state, tenant="quiet", times=3)
    for slot in loud[:3]:
        end(rule, state, slot)
    granted = [ticket.permit is not None for ticket in [*more, *quiet]]
    assert granted == [False, False, False, True, True, False] or granted == [True, False, False, True, True, False]
    assert sum(granted) == 3


def test_a_full_queue_gives_up_a_place_of_the_tenant_that_crowds_it() -> None:
    """Else the loud tenant's waiters keep everybody else at the door."""
    rule, state = limit(initial=1, most=1, queue=4, fair=True)
    come(rule, state, tenant="loud")
    waiters = come(rule, state, tenant="loud", times=4)
    (quiet,) = come(rule, state, tenant="quiet")
    assert isinstance(quiet, Waiter)
    assert [waiter.shed is not None for waiter in waiters] == [False, False, False, True]
    assert "a tenant with fewer" in str(rule.poll(state, 0.0, waiters[3]))
    assert isinstance(come(rule, state, tenant="loud")[0], Rejection)
    assert isinstance(come(rule, state, tenant="quiet")[0], Waiter)
    assert isinstance(come(rule, state, tenant="quiet")[0], Rejection)
    assert state.accounts.tenants["quiet"].waiting == 2


def test_tenants_beyond_the_most_share_one_account() -> None:
    """An attacker who invents tenants must not own the memory."""
    rule, state = limit(initial=20, most=200, fair=True, max_tenants=3)
    slots = [come(rule, state, tenant=f"t{number}")[0] for number in range(10)]
    assert len(state.accounts.tenants) == 4
    for slot in slots:
        end(rule, state, slot)
    assert state.accounts.tenants == {}
    for number in range(5000):
        come(rule, state, now=number / 1000, tenant=f"new{number}")
    assert len(state.accounts.tenants) <= 4
    assert len(state.accounts.turned_away) <= 4


def test_the_line_of_those_turned_away_stays_short_however_often_they_come() -> None:
    """One entry per tenant, though each is turned away a thousand times."""
    rule, state = limit(initial=1, most=1, fair=True)
    come(rule, state, tenant="loud")
    for number in range(3000):
        come(rule, state, now=number / 500, tenant="quiet")
    assert len(state.accounts.turned_away) == 1
    come(rule, state, now=8.0, tenant="quiet")
    assert set(state.accounts.tenants) == {"loud", "quiet"}
    come(rule, state, now=9.5, tenant="loud")
    assert set(state.accounts.tenants) == {"loud"}
    assert not state.accounts.turned_away


@pytest.mark.parametrize(("queue", "fair", "least", "most"), [(30, True, 3.5, 4.5), (0, True, 2.8, 5.6), (0, False, 0.5, 10.5)])
def test_under_overload_tenants_of_unlike_demand_hold_even_shares(queue: int, fair: bool, least: float, most: float) -> None:
    """Nine times the demand must not be nine times the share (4 of 12 each), as it is without fairness: 60 simulated seconds."""
    draw = random.Random(7)
    rule, state = limit(initial=12, most=12, queue=queue, fair=fair)
    running: list[tuple[float, str, Slot]] = []
    waiting: list[tuple[str, Waiter]] = []
    held = {"loud": 0.0, "b": 0.0, "c": 0.0}
    for step in range(6000):
        now = step / 100
        for ended in [one for one in running if one[0] <= now]:
            running.remove(ended)
            end(rule, state, ended[2], now)
        arrivals = [tenant for tenant, rate in (("loud", 5.4), ("b", 0.6), ("c", 0.6)) for _ in range(int(rate + draw.random()))]
        for tenant in draw.sample(arrivals, len(arrivals)):
            answer = rule.admit(state, now, now + 0.5, "default", None, tenant)
            if isinstance(answer, Slot):
                running.append((now + draw.expovariate(10), tenant, answer))
            elif isinstance(answer, Waiter):
                waiting.append((tenant, answer))
        for tenant, ticket in list(waiting):
            looked = rule.poll(state, now, ticket)
            if isinstance(looked, Slot):
                running.append((now + draw.expovariate(10), tenant, looked))
            if not isinstance(looked, float):
                waiting.remove((tenant, ticket))
        if step > 500:
            for _, tenant, _ in running:
                held[tenant] += 1 / 5500
    assert sum(held.values()) > 11
    assert least < min(held.values()) <= max(held.values()) < most, held
    if not fair:
        assert held["loud"] > 9


def test_new_shares_hold_at_once_and_who_runs_is_counted_on() -> None:
    """A file that was read again must not forget the calls that run, nor the partition that is new."""
    rule, state = limit(partitions=HALVES)
    slots = come(rule, state, partition="live", times=4)
    old = come(rule, state, partition="batch", times=1)
    changed, _ = limit(partitions={"live": 0.9, "night": 0.1})
    changed.shares.retune(state.accounts)
    taken = {name: (account.share, account.taken) for name, account in state.accounts.partitions.items()}
    assert taken == {"live": (0.9, 4), "night": (0.1, 0), "others": (pytest.approx(0.0), 0)}
    for slot in [*slots, *old]:
        end(changed, state, slot)
    assert state.taken == sum(account.taken for account in state.accounts.partitions.values()) == 0
    ShareRule().retune(state.accounts)
    assert state.accounts.partitions == {}


def test_a_restart_forgets_every_account() -> None:
    """After a fork their holders do not exist here."""
    rule, state = limit(fair=True, partitions=HALVES)
    (slot,) = come(rule, state, tenant="a", partition="live")
    rule.restart(state)
    end(rule, state, slot)
    assert state.accounts.tenants == {}
    assert all(account.taken == 0 for account in state.accounts.partitions.values())
    assert ran(come(rule, state, tenant="a", partition="live")) == 1


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"partitions": {"a": 0}}, r"partitions\['a'\]"),
        ({"partitions": {"a": 1.5}}, r"partitions\['a'\]"),
        ({"partitions": {"a": 0.6, "b": 0.6}}, "add up"),
        ({"partitions": {"others": 0.5}}, "names"),
        ({"partitions": {"": 0.5}}, "names"),
        ({"partitions": [("a", 1)]}, "table"),
        ({"max_tenants": 0}, "max_tenants"),
    ],
)
def test_shares_that_cannot_work_are_refused_when_made(bad: dict[str, Any], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=named):
        ShareRule(**bad)
