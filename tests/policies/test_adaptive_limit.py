"""The adaptive limit's rule and its algorithms, driven by hand."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, LimitState, Slot, Waiter
from seawall.policies.limit_algorithms import Aimd, Correlation, Gradient2, Vegas, Window, gain
from seawall.policies.limit_window import KEPT, Filling
from seawall.policies.verdict import Note, Rejection, Wake

FOREVER = math.inf


def window(rtt: float | None = 0.1, **changes: Any) -> Window:
    """A full window of a hundred calls at once."""
    seen = {"p90": rtt, "in_flight": 100, "load": 100.0, "throughput": 1000.0, "dropped": 0.0, "full": True}
    return Window(rtt=rtt, **{**seen, **changes})


def fill(rule: AdaptiveLimitRule, state: LimitState, now: float, level: str = "default") -> list[Slot]:
    """Take every place there is."""
    slots = []
    while isinstance(answer := rule.admit(state, now, now, level), Slot):
        slots.append(answer)
    return slots


def teach(rule: AdaptiveLimitRule, state: LimitState, now: float, *, took: float = 0.1, dropped: bool = False) -> tuple[Any, ...]:
    """One full window that is over at `now`; the events of its end."""
    events: tuple[Any, ...] = ()
    for _ in range(10):
        slots = fill(rule, state, now)
        outcome = Outcome.FAILURE if dropped else Outcome.SUCCESS
        events += rule.settle(state, now, slots.pop(), outcome, took, dropped)
        for slot in slots:
            rule.settle(state, now, slot, Outcome.IGNORED, 0.0)
    slot = fill(rule, state, now + 2)
    events += rule.settle(state, now + 2, slot.pop(), Outcome.FAILURE if dropped else Outcome.SUCCESS, took, dropped)
    for one in slot:
        rule.settle(state, now + 2, one, Outcome.IGNORED, 0.0)
    return events


# --- the seats


def test_calls_are_admitted_up_to_the_limit_and_a_permit_counts_once() -> None:
    """A result reported twice must not make room twice."""
    rule = AdaptiveLimitRule(initial=3)
    state = rule.start(0)
    slots = fill(rule, state, 0)
    assert len(slots) == state.taken == 3
    rejection = rule.admit(state, 0, FOREVER)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "has its limit of 3 calls at once reached"
    for _ in range(2):
        assert rule.settle(state, 0, slots[0], Outcome.SUCCESS, 0.1) == ()
    assert state.taken == 2


@pytest.mark.parametrize(("level", "places"), [("critical", 110), ("default", 100), ("sheddable", 70)])
def test_priorities_have_shares_of_the_limit(level: str, places: int) -> None:
    """What can be done later is refused first, and the last tenth is kept for what cannot."""
    rule = AdaptiveLimitRule(initial=100)
    state = rule.start(0)
    assert len(fill(rule, state, 0, level)) == places
    assert len(fill(rule, state, 0, "critical")) == 110 - places


def test_the_upper_bound_holds_for_critical_calls_and_the_lowest_limit_admits_everybody() -> None:
    """`most` is a promise to the callee, and a share of one is still one."""
    rule = AdaptiveLimitRule(initial=10, most=10)
    assert len(fill(rule, rule.start(0), 0, "critical")) == 10
    rule = AdaptiveLimitRule(initial=1)
    assert len(fill(rule, rule.start(0), 0, "sheddable")) == 1


def test_waiters_are_served_by_importance_then_by_arrival() -> None:
    """Who matters most goes first, and newcomers do not overtake their equals."""
    rule = AdaptiveLimitRule(initial=1, most=1, queue=4)
    state = rule.start(0)
    (slot,) = fill(rule, state, 0)
    waiters = [rule.admit(state, 0, FOREVER, level) for level in ("sheddable", "default", "default", "critical")]
    order = []
    for _ in waiters:
        (wake,) = rule.settle(state, 0, slot, Outcome.SUCCESS, 0.0)
        assert isinstance(wake, Wake)
        order.append(waiters.index(wake.ticket))  # type: ignore[arg-type]
        slot = rule.poll(state, 0, wake.ticket)  # type: ignore[assignment,arg-type]
    assert order == [3, 1, 2, 0]
    assert state.waiting == 0


def test_a_full_queue_gives_the_place_of_the_least_important_to_the_more_important() -> None:
    """A queue full of batch work must not keep a customer out."""
    rule = AdaptiveLimitRule(initial=1, queue=2)
    state = rule.start(0)
    fill(rule, state, 0)
    first, second = (rule.admit(state, 0, FOREVER, "sheddable") for _ in range(2))
    assert isinstance(first, Waiter)
    assert isinstance(second, Waiter)
    assert isinstance(rule.admit(state, 0, FOREVER, "sheddable"), Rejection)
    critical = rule.admit(state, 0, FOREVER, "critical")
    assert isinstance(critical, Waiter)
    assert critical.events == (Wake(second),)
    put_out = rule.poll(state, 0, second)
    assert isinstance(put_out, Rejection)
    assert "more important" in put_out.reason
    assert rule.leave(state, 0, second) == ()
    assert rule.poll(state, 0, first) == FOREVER
    assert (state.waiting, state.shed) == (2, 1)


def test_a_waiter_gives_up_in_time_and_a_granted_place_passes_on() -> None:
    """Nobody waits for ever, and a cancelled waiter takes no place with it."""
    rule = AdaptiveLimitRule(initial=1, queue=3)
    state = rule.start(0)
    (slot,) = fill(rule, state, 0)
    late, first, second = (rule.admit(state, 0, until) for until in (2.0, FOREVER, FOREVER))
    assert rule.poll(state, 0.5, late) == 1.5  # type: ignore[arg-type]
    over = rule.poll(state, 2.0, late)  # type: ignore[arg-type]
    assert over == Rejection("had no room within 2 s")
    assert rule.settle(state, 2, slot, Outcome.SUCCESS, 0.0) == (Wake(first),)  # type: ignore[arg-type]
    assert rule.leave(state, 2, first) == (Wake(second),)  # type: ignore[arg-type]
    rule.leave(state, 2, second)  # type: ignore[arg-type]
    assert (state.taken, state.waiting) == (0, 0)
    fill(rule, state, 2)
    waiting = rule.admit(state, 2, FOREVER)
    for _ in range(2):
        assert rule.leave(state, 2, waiting) == ()  # type: ignore[arg-type]


def test_a_standing_queue_sheds_its_old_waiters() -> None:
    """CoDel: serving those who waited longest serves nobody in time."""
    rule = AdaptiveLimitRule(initial=1, queue=50)
    state = rule.start(0)
    (slot,) = fill(rule, state, 0)
    old = [rule.admit(state, step * 0.01, FOREVER) for step in range(30)]
    (wake,) = rule.settle(state, 0.3, slot, Outcome.SUCCESS, 0.0)
    assert wake == Wake(old[0])  # type: ignore[arg-type]  # one long wait alone says nothing
    fresh = rule.admit(state, 0.395, FOREVER)
    assert isinstance(fresh, Waiter)
    events = rule.settle(state, 0.401, wake.ticket.permit, Outcome.SUCCESS, 0.0)  # type: ignore[union-attr]
    assert events == tuple(map(Wake, [*old[1:], fresh]))  # type: ignore[arg-type]
    assert fresh.permit is not None
    assert state.overloaded
    assert (state.shed, state.waiting, state.taken) == (29, 0, 1)
    answer = rule.poll(state, 0.401, old[1])  # type: ignore[arg-type]
    assert answer == Rejection("is overloaded: shed after 0.391 s in its queue")


def test_a_queue_that_empties_in_between_is_not_overloaded() -> None:
    """A burst is not an overload: only a queue that never empties is."""
    rule = AdaptiveLimitRule(initial=1, queue=50)
    state = rule.start(0)
    for step in range(20):
        now = step * 0.05
        (slot,) = fill(rule, state, now)
        waiter = rule.admit(state, now, FOREVER)
        assert rule.settle(state, now + 0.04, slot, Outcome.SUCCESS, 0.0) == (Wake(waiter),)  # type: ignore[arg-type]
        assert isinstance(waiter, Waiter)
        rule.settle(state, now + 0.04, waiter.permit, Outcome.SUCCESS, 0.0)
    assert not state.overloaded
    assert state.shed == 0


def test_permits_of_an_earlier_epoch_are_void() -> None:
    """After a fork, what the parent's threads held does not exist here."""
    rule = AdaptiveLimitRule(initial=2, queue=1)
    state = rule.start(0)
    slots, waiting = fill(rule, state, 0), rule.admit(state, 0, 5.0)
    rule.restart(state)
    assert rule.poll(state, 9.0, waiting) == Rejection("began anew while it waited")  # type: ignore[arg-type]
    assert rule.settle(state, 0, slots[0], Outcome.SUCCESS, 0.1) == ()
    assert (state.taken, state.waiting, state.limit) == (0, 0, 2)


# --- the windows


def test_the_limit_moves_once_per_window_of_at_least_ten_results() -> None:
    """A limit that follows single calls follows noise."""
    rule = AdaptiveLimitRule(algorithm="aimd", initial=20)
    state = rule.start(0)
    (moved,) = teach(rule, state, 0)
    assert moved == Note("adaptive_limit.moved", {"limit": 21, "before": 20, "rtt": pytest.approx(0.1)})
    assert (state.windows, state.rtt) == (1, pytest.approx(0.1))
    (slot, *rest) = fill(rule, state, 100)
    assert rule.settle(state, 200, slot, Outcome.SUCCESS, 0.1) == ()
    assert len(rest) == 20


def test_a_limit_that_is_not_in_use_is_not_raised() -> None:
    """Ten calls at once prove nothing about a hundred."""
    rule = AdaptiveLimitRule(algorithm="aimd", initial=20)
    state = rule.start(0)
    for now in range(0, 60, 2):
        slots = [rule.admit(state, now, now) for _ in range(9)]
        for slot in slots:
            assert isinstance(slot, Slot)
            rule.settle(state, now, slot, Outcome.SUCCESS, 0.1)
    assert state.windows > 5
    assert state.limit == 20


def test_failures_cancellations_and_answers_too_fast_teach_nothing() -> None:
    """A callee that fails at once would look like a fast one."""
    rule = AdaptiveLimitRule(initial=20)
    state = rule.start(0)
    for outcome, took, dropped in [
        (Outcome.FAILURE, 1.0, False),
        (Outcome.IGNORED, 1.0, True),
        (Outcome.IGNORED, 1.0, False),
        (Outcome.SUCCESS, 1e-6, False),
    ]:
        slot = rule.admit(state, 0, 0)
        assert isinstance(slot, Slot)
        rule.settle(state, 0, slot, outcome, took, dropped)
    assert state.filling.seen == 0
    assert state.taken == 0


@pytest.mark.parametrize("algorithm", ["aimd", "vegas", "gradient2", "correlation"])
def test_drops_lower_every_limit_down_to_its_bound_and_not_below(algorithm: Any) -> None:
    """Timeouts and refusals are the callee's own word for too many."""
    rule = AdaptiveLimitRule(algorithm=algorithm, initial=20, least=3)
    state = rule.start(0)
    teach(rule, state, 0)
    before = state.limit
    teach(rule, state, 10, dropped=True)
    assert state.limit < before
    for step in range(100):
        teach(rule, state, 20.0 + 10 * step, dropped=True)
    assert state.limit == 3


def test_a_window_keeps_a_bounded_sample_of_its_rtts() -> None:
    """A busy second must not hold a million numbers."""
    filling = Filling()
    filling.begin(0, 1)
    for index in range(20_000):
        filling.add((index % 1000) / 1000 + 0.001, 5, 10, dropped=index % 4 == 0)
    assert len(filling._rtts) <= KEPT
    closed = filling.close(2.0)
    assert closed.p90 == pytest.approx(0.9, abs=0.03)
    assert closed.rtt == pytest.approx(0.5, abs=0.01)
    assert (closed.dropped, closed.throughput, closed.full, closed.load) == (0.25, 7500.0, False, 5.0)


# --- the algorithms


def test_aimd_takes_a_slow_window_for_a_drop() -> None:
    """Whoever waits for seconds is queueing."""
    rule = Aimd(slow=0.5)
    assert rule.next(None, 100, window(0.4)) == 101
    assert rule.next(None, 100, window(0.6)) == 90
    assert rule.next(None, 100, window(0.1, dropped=0.01)) == 90
    assert rule.next(None, 100, window(None, dropped=1.0)) == 90


def test_vegas_keeps_a_small_queue() -> None:
    """Up fast without a queue, up slowly with a small one, held with a fair one, down with a long one."""
    rule = Vegas()
    memory = rule.start()
    assert rule.next(memory, 100, window(0.1)) == 112
    for queue, change in [(4, 2), (6, 0), (12, 0), (14, -2)]:
        assert rule.next(memory, 100, window(0.1 / (1 - queue / 100) - 1e-9)) - 100 == pytest.approx(change)
    assert rule.next(memory, 100, window(None, dropped=1.0)) == 98


def test_vegas_measures_the_empty_callee_at_half_its_limit() -> None:
    """Measured under load, its own queue would count as the callee's time and the limit would creep."""
    rule = Vegas(probe=1)
    memory = rule.start()
    limits = [10.0]
    for _ in range(12):
        limits.append(rule.next(memory, limits[-1], window(0.1 if limits[-1] <= 10 else 0.11)))
    half = next(index for index in range(1, 13) if limits[index] == limits[index - 1] / 2)
    assert limits[half : half + 3] == [limits[half], limits[half], limits[half - 1]]
    memory.before, memory.settling, memory.noload = 40.0, False, 0.5
    assert rule.next(memory, 20.0, window(None, dropped=1.0)) == 40.0
    assert memory.noload == 0.5


def test_gradient2_follows_the_ratio_and_forgets_a_load_that_has_gone() -> None:
    """Down in proportion to the growth of the rtt, by half at most at once; and a long rtt of an old load fades."""
    rule = Gradient2()
    memory = rule.start()
    assert rule.next(memory, 100, window(0.1)) == pytest.approx(100.8)
    for _ in range(9):
        rule.next(memory, 100, window(0.1))
    assert rule.next(memory, 100, window(0.2)) == pytest.approx(100 * (0.8 + 0.1) + 0.8, rel=0.01)
    assert rule.next(memory, 100, window(9.0)) == pytest.approx(90.8)
    assert rule.next(memory, 100, window(None, dropped=1.0)) == 90
    assert rule.next(memory, 100, window(0.1, dropped=0.1)) < 100
    memory.long = 1.0
    rule.next(memory, 100, window(0.1))
    assert memory.long < 0.96


def test_the_default_turns_back_when_more_calls_bring_no_more_throughput() -> None:
    """The guard against creep: the baseline forgets, the comparison of load and throughput does not need it."""
    rule = Correlation()
    up, flat = rule.start(), rule.start()
    for load in range(50, 60):
        rising = rule.next(up, load, window(0.1, load=float(load), in_flight=load, throughput=load * 10.0))
        held = rule.next(flat, load, window(load / 500, load=float(load), in_flight=load, throughput=500.0))
    assert rising == pytest.approx(59 + math.log10(59))
    assert held == pytest.approx(59 - math.log10(59))
    assert rule.next(flat, 59, window(59 / 500, load=59.0, in_flight=40, throughput=500.0, full=False)) >= 59


def test_the_default_reacts_to_drops_lone_drops_and_sudden_queues() -> None:
    """In proportion to the share that was dropped; by half when nothing else came back; and never far beyond its use."""
    rule = Correlation()
    memory = rule.start()
    assert rule.next(memory, 100, window(0.1)) == 102
    assert rule.next(memory, 100, window(0.1, dropped=0.1)) == 90
    assert rule.next(memory, 100, window(0.1, dropped=0.9)) == 50
    assert rule.next(memory, 100, window(None, dropped=1.0)) == 50
    assert rule.next(memory, 100, window(0.1, in_flight=10)) == 98
    assert rule.next(memory, 100, window(0.1, full=False)) == 102
    falls = [rule.next(memory, 100, window(0.5, full=False)) for _ in range(3)]
    assert falls[-1] == 98
    memory.baseline = 0.095 * memory.recent / 0.1
    assert rule.next(memory, 100, window(memory.recent, full=False)) in (98, 100, 102)


def test_the_gain_is_the_share_of_load_that_came_back_as_throughput() -> None:
    """One below the knee, nothing above it, and no verdict without evidence."""

    def of(points: list[tuple[float, float, float]]) -> float:
        return gain(deque(tuple(map(math.log, point)) for point in points))  # type: ignore[misc]

    loads = [100.0, 110.0, 120.0, 130.0]
    assert of([(load, load * 10, 0.1) for load in loads]) == pytest.approx(1)
    assert of([(load, 1000.0, load / 1000) for load in loads]) == pytest.approx(0)
    assert of([(100.0, throughput, 0.1) for throughput in (1.0, 900.0, 5.0)]) == 1
    assert of([(100.0, 1.0, 0.1), (200.0, 1.0, 0.1)]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"least": 0},
        {"most": 0},
        {"initial": 500},
        {"queue": -1},
        {"wait": -1},
        {"interval": 0},
        {"target": math.nan},
        {"algorithm": "x"},
        {"algorithm": 3},
    ],
)
def test_a_limit_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        AdaptiveLimitRule(**bad)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (Aimd, {"slow": 0}),
        (Aimd, {"factor": 2}),
        (Vegas, {"probe": 0}),
        (Gradient2, {"tolerance": 0.5}),
        (Gradient2, {"queue": -1}),
        (Gradient2, {"memory": 0}),
        (Correlation, {"points": 2}),
        (Correlation, {"least_gain": 0}),
        (Correlation, {"recent": 0}),
        (Correlation, {"baseline": 0}),
        (Correlation, {"headroom": 0}),
    ],
)
def test_an_algorithm_that_cannot_work_is_refused_when_made(kind: Any, bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        kind(**bad)
