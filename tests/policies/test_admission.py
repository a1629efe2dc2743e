"""The door of a server: who is let in under overload, by the rule alone and against a simulated server."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from itertools import pairwise
from typing import Any

import pytest

from seawall.policies.admission import CLASSES, LOTS, RANKS, AdmissionRule, AdmissionState, Admitted
from seawall.policies.verdict import Note, Rejection


def window(rule: AdmissionRule, state: AdmissionState, now: float, delay: float, calls: int = 300) -> list[bool]:
    """One window of calls of all classes, evenly spread over their lots; which of them were let in."""
    passed = []
    for index in range(calls):
        answer = rule.admit(state, now, CLASSES[index % 3], (index // 3) / (calls / 3))
        passed.append(isinstance(answer, Admitted))
        if isinstance(answer, Admitted):
            rule.settle(state, now, answer, delay, refused=False)
    return passed


def test_everybody_passes_while_nobody_waits() -> None:
    """A door that is narrower than the house costs customers."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    for second in range(5):
        assert all(window(rule, state, float(second), 0.02))
    assert (state.door, state.overloaded) == (RANKS, False)
    assert rule.admitted(state) == {"critical": 1.0, "default": 1.0, "sheddable": 1.0}


def test_the_least_important_are_shed_first_by_a_share_of_what_was_let_in() -> None:
    """5 % of what was let in goes per window, from the bottom."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    shares = []
    for second in range(40):
        passed = window(rule, state, float(second), 0.0201, calls=3 * LOTS)
        shares.append(sum(passed) / len(passed))
    for before, after in pairwise(shares[1:]):
        assert after == pytest.approx(before * 0.95, abs=0.01)
    admitted = rule.admitted(state)
    assert admitted["critical"] == pytest.approx(3 * shares[-1], abs=0.05)
    assert (admitted["default"], admitted["sheddable"]) == (0.0, 0.0)
    assert state.mean_delay == pytest.approx(0.0201)


def test_it_opens_by_a_share_of_what_came_and_says_how_long_that_takes() -> None:
    """A refused caller that comes back when it was told must have a chance."""
    rule = AdmissionRule(regain=0.1)
    state = rule.start(0.0)
    for second in range(30):
        window(rule, state, float(second), 1.0, calls=3 * LOTS)
    rule.admit(state, 30.0, "critical", 0.0)
    refused = rule.admit(state, 30.0, "sheddable", 0.999)
    assert isinstance(refused, Rejection)
    assert "sheds sheddable calls: those let in waited 1 s on average" in refused.reason
    steps = refused.retry_after
    assert steps is not None
    assert steps == pytest.approx((1 - rule.admitted(state)["critical"] / 3) / 0.1, abs=1)
    nearest = rule.admit(state, 30.0, "critical", state.door / LOTS + 0.01)
    assert isinstance(nearest, Rejection)
    assert nearest.retry_after == 1.0
    opened = 30.0
    while state.door < RANKS:
        opened += 1.0
        window(rule, state, opened, 0.0, calls=3 * LOTS)
    assert opened - 30 == pytest.approx(steps, abs=1)


def test_a_window_ends_after_its_time_or_its_calls() -> None:
    """A busy server must not wait a second to notice."""
    rule = AdmissionRule(calls=100)
    state = rule.start(0.0)
    window(rule, state, 0.0, 1.0, calls=100)
    assert state.door == RANKS
    rule.admit(state, 0.0, "critical", 0.0)
    assert state.door < RANKS
    slow = AdmissionRule()
    later = slow.start(0.0)
    window(slow, later, 0.0, 1.0, calls=30)
    slow.admit(later, 0.999, "critical", 0.0)
    assert later.door == RANKS
    moved = slow.admit(later, 1.0, "critical", 0.0)
    assert later.door < RANKS
    (note,) = moved.events
    assert isinstance(note, Note)
    assert note.kind == "admission_control.moved"
    assert note.data["admitted"]["critical"] == 1.0


def test_refusals_of_limits_inside_count_as_overload() -> None:
    """A limit without a queue makes nobody wait: it refuses."""
    rule = AdmissionRule()
    for refused, closes in ((5, False), (6, True)):
        state = rule.start(0.0)
        for index in range(100):
            answer = rule.admit(state, 0.0, "default", index / 100)
            assert isinstance(answer, Admitted)
            rule.settle(state, 0.0, answer, 0.0, refused=index < refused)
        rule.admit(state, 1.0, "default", 0.0)
        assert state.overloaded is closes


def test_the_wait_before_the_door_counts_too() -> None:
    """The queue of a proxy is a queue."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    for _ in range(10):
        answer = rule.admit(state, 0.0, "default", 0.5, 0.03)
        assert isinstance(answer, Admitted)
        rule.settle(state, 0.0, answer, 0.02, refused=False)
    rule.admit(state, 1.0, "default", 0.5)
    assert state.mean_delay == pytest.approx(0.05)
    assert state.overloaded


def test_the_most_important_that_come_are_always_let_in() -> None:
    """A server that refuses everybody never learns that it is well."""
    rule = AdmissionRule(shed=1.0)
    state = rule.start(0.0)
    for second in range(5):
        for u in (0.3, 0.9):
            answer = rule.admit(state, float(second), "sheddable", u)
            if isinstance(answer, Admitted):
                rule.settle(state, float(second), answer, 9.0, refused=False)
        assert state.door == (2 * LOTS + int(0.3 * LOTS) + 1 if second else RANKS)


def test_a_second_without_sheddable_calls_does_not_open_the_door_to_them() -> None:
    """One lull must not cost a minute of closing again: the mix is remembered for some windows."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    for second in range(60):
        window(rule, state, float(second), 1.0)
    share = rule.admitted(state)["critical"]
    rule.admit(state, 60.0, "critical", 0.0)
    rule.admit(state, 61.0, "critical", 0.0)
    assert rule.admitted(state)["critical"] == pytest.approx(share, abs=0.04)
    for second in range(62, 162):
        rule.admit(state, float(second), "critical", 0.0)
    assert state.door == RANKS


def test_a_quiet_door_opens_by_itself() -> None:
    """After a night without calls the first ones in the morning are not refused for yesterday's overload."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    for second in range(30):
        window(rule, state, float(second), 1.0, calls=3 * LOTS)
    rule.admit(state, 30.0, "critical", 0.0)
    share = sum(rule.admitted(state).values()) / 3
    rule.admit(state, 50.0, "critical", 0.0)
    assert sum(rule.admitted(state).values()) / 3 == pytest.approx(share + 0.2, abs=0.01)
    assert isinstance(rule.admit(state, 1e6, "sheddable", 0.99), Admitted)
    assert state.door == RANKS


def test_settling_twice_or_after_a_restart_changes_nothing() -> None:
    """A permit is used once."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    first, second = rule.admit(state, 0.0, "default", 0.0), rule.admit(state, 0.0, "default", 0.0)
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    rule.settle(state, 0.0, first, 5.0, refused=True)
    rule.settle(state, 0.0, first, 5.0, refused=True)
    assert (state.delays, state.delay, state.refused_inside) == (1, 5.0, 1)
    rule.restart(state)
    rule.settle(state, 0.0, second, 5.0, refused=True)
    assert (state.delays, state.refused_inside, state.door, state.total) == (0, 0, RANKS, 0)


def test_the_defaults_are_those_of_the_paper() -> None:
    """A default that drifts changes every server that trusted it."""
    rule = AdmissionRule()
    assert (rule.target, rule.window, rule.calls, rule.shed, rule.regain) == (0.02, 1.0, 2000, 0.05, 0.01)
    state = rule.start(0.0)
    assert (state.mean_delay, state.door, state.overloaded) == (0.0, RANKS, False)


def test_a_mean_at_the_target_is_no_overload() -> None:
    """Above the target means above."""
    rule = AdmissionRule(target=1)
    state = rule.start(0.0)
    assert all(window(rule, state, float(second), 1.0) for second in range(3))
    assert (state.mean_delay, state.overloaded, state.door) == (1.0, False, RANKS)


def test_the_door_moves_by_exact_shares_of_ten_even_ranks() -> None:
    """Ten ranks with a tenth of the calls each: every share is a whole number of them."""
    rule = AdmissionRule(target=1, shed=0.2, regain=0.25)
    state = rule.start(0.0)
    lots = [number / 16 for number in range(10)]  # ranks 0, 8, 16 ... 72 of the critical class

    def pass_window(now: float, delay: float) -> list[float | None]:
        hints: list[float | None] = []
        for u in lots:
            answer = rule.admit(state, now, "critical", u)
            hints.append(answer.retry_after if isinstance(answer, Rejection) else None)
            if isinstance(answer, Admitted):
                rule.settle(state, now, answer, delay, refused=False)
        return hints

    pass_window(0.0, 2.0)
    hints = pass_window(1.0, 2.0)  # 8 of 10 may pass: those of rank 0 to 56, up to the next one that came
    assert state.door == 64
    assert hints == [None] * 8 + [1.0, 1.0]
    hints = pass_window(2.0, 2.0)  # 0.8 * 0.8 = 0.64: 6 of 10; 7 to 10 are 1, 2, 3 and 4 tenths away, at a quarter per window
    assert state.door == 48
    assert hints == [None] * 6 + [1.0, 1.0, 2.0, 2.0]
    pass_window(3.0, 0.0)  # 0.8 * 0.6 = 0.48: 4 of 10
    assert state.door == 32
    pass_window(4.0, 0.0)  # 0.4 + 0.25 = 0.65: at least so many are 7 of 10, exactly up to that rank
    assert state.door == 49
    pass_window(5.0, 0.0)
    assert state.door == 73  # 0.95: all ten that came, and no rank more
    pass_window(6.0, 0.0)
    assert state.door == RANKS


def test_neighbouring_ranks_open_one_by_one_as_they_were_told() -> None:
    """Four ranks side by side with a quarter each, and a quarter more per window."""
    rule = AdmissionRule(target=1, shed=0.75, regain=0.25)
    state = rule.start(0.0)

    def pass_window(now: float, delay: float) -> list[float | None]:
        answers = [rule.admit(state, now, "critical", rank / LOTS) for rank in range(4)]
        for answer in answers:
            if isinstance(answer, Admitted):
                rule.settle(state, now, answer, delay, refused=False)
        return [answer.retry_after if isinstance(answer, Rejection) else None for answer in answers]

    assert pass_window(0.0, 2.0) == [None] * 4
    assert pass_window(1.0, 0.0) == [None, 1.0, 2.0, 3.0]
    assert pass_window(2.0, 0.0) == [None, None, 1.0, 2.0]
    assert pass_window(3.0, 0.0) == [None, None, None, 1.0]
    assert pass_window(4.0, 0.0) == [None] * 4
    assert state.door == RANKS


def test_a_quarter_of_four_neighbours_is_the_last_one() -> None:
    """The widest door that sheds enough, whether its number is even or odd."""
    rule = AdmissionRule(target=1, shed=0.25, window=10, regain=0.1)
    state = rule.start(0.0)
    for now in (0.0, 10.0):
        answers = [rule.admit(state, now, "critical", rank / LOTS) for rank in range(4)]
        for answer in answers:
            if isinstance(answer, Admitted):
                rule.settle(state, now, answer, 2.0, refused=False)
    assert state.door == 3
    rule.admit(state, 20.0, "critical", 0.0)
    assert state.door == 2  # 0.75 * 0.75 = 0.5625
    rule.admit(state, 49.0, "critical", 0.0)
    assert state.door == 3  # 29 s are two windows, a fifth of what came; 0.57 with the call of now and then were in already


def test_the_histogram_forgets_a_fifth_per_window() -> None:
    """A mix of an hour ago says nothing; that of the last seconds does."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    for second, expected in enumerate((1.0, 1.8, 2.44, 2.952)):
        rule.admit(state, float(second), "critical", 0.0)
        assert state.came[0] == pytest.approx(expected)


def test_a_door_that_would_leave_nobody_outside_is_open_to_all() -> None:
    """Exactly all is all."""
    rule = AdmissionRule(target=1, shed=0.5, regain=0.5)
    state = rule.start(0.0)
    for now, delay in ((0.0, 2.0), (1.0, 0.0), (2.0, 0.0)):
        for u in (0.0, 0.5):
            answer = rule.admit(state, now, "critical", u)
            if isinstance(answer, Admitted):
                rule.settle(state, now, answer, delay, refused=False)
        assert state.door == (64 if now == 1.0 else RANKS)


def test_a_permit_of_before_a_restart_stays_void_even_if_it_was_used() -> None:
    """No number of an epoch may be the mark of a used permit."""
    rule = AdmissionRule()
    state = rule.start(0.0)
    used = rule.admit(state, 0.0, "default", 0.0)
    assert isinstance(used, Admitted)
    rule.settle(state, 0.0, used, 1.0, refused=True)
    for _ in range(3):
        rule.restart(state)
        rule.settle(state, 0.0, used, 1.0, refused=True)
        assert (state.delays, state.refused_inside) == (0, 0)


def serve(load: float, *, busy_for: float, calm_for: float = 0.0, seed: int = 1) -> tuple[dict[str, float], float, float]:
    """20 workers of 0.1 s (exponential), a queue of 400, asked `load` times what they stand: a fifth critical, a half default.

    The share of each class that was served and the mean wait, both after 20 s; and when the last call was refused after the load
    had fallen to a half.
    """
    draw, rule = random.Random(seed), AdmissionRule()
    state = rule.start(0.0)
    counts: Counter[tuple[str, bool]] = Counter()
    waits: list[float] = []
    queue: deque[tuple[float, Admitted]] = deque()
    working: list[tuple[float, float, Admitted, float]] = []
    now, last_refused = 0.0, 0.0
    while now < busy_for + calm_for:
        now += draw.expovariate(200 * (load if now < busy_for else 0.5))
        while working and working[0][0] <= now:
            ended, _, permit, waited = heapq.heappop(working)
            rule.settle(state, ended, permit, waited, refused=False)
            if queue:
                since, following = queue.popleft()
                waits += [ended - since] if 20 < now < busy_for else []
                heapq.heappush(working, (ended + draw.expovariate(10), draw.random(), following, ended - since))
        priority = draw.choices(CLASSES, (0.2, 0.5, 0.3))[0]
        answer = rule.admit(state, now, priority, draw.random())
        if 20 < now < busy_for:
            counts[priority, isinstance(answer, Admitted)] += 1
        if isinstance(answer, Rejection):
            last_refused = now
        elif len(working) < 20:
            heapq.heappush(working, (now + draw.expovariate(10), draw.random(), answer, 0.0))
        elif len(queue) < 400:
            queue.append((now, answer))
        else:
            rule.settle(state, now, answer, 0.0, refused=True)
    served = {name: counts[name, True] / (counts[name, True] + counts[name, False]) for name in CLASSES}
    return served, sum(waits) / len(waits), last_refused - busy_for


def test_under_twice_the_load_the_critical_are_served_and_the_sheddable_pay() -> None:
    """What the docs page promises: all critical calls, four tenths of the default ones, and short queues."""
    served, wait, recovered = serve(2.0, busy_for=80.0, calm_for=60.0)
    assert served["critical"] > 0.999
    assert 0.4 < served["default"] < 0.6
    assert served["sheddable"] < 0.01
    assert wait < 0.2
    assert 0 < recovered < 60


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"target": 0}, "target"),
        ({"window": -1}, "window"),
        ({"calls": 0}, "calls"),
        ({"shed": 0}, "shed"),
        ({"regain": 2}, "regain"),
    ],
)
def test_a_door_that_cannot_work_is_refused_when_made(bad: dict[str, Any], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=named):
        AdmissionRule(**bad)
