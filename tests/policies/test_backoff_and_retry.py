"""Back-off formulas, the retry's rule and its budget."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.policies.backoff import Backoff
from seawall.policies.retry import RetryRule
from seawall.policies.retry_budget import ShareRule, rule_of


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Backoff(base=1, cap=10, jitter="none"), [1, 2, 4, 8, 10, 10]),
        (Backoff(base=1, cap=10, growth="fixed", jitter="none"), [1, 1, 1]),
        (Backoff(base=1, cap=2.5, growth="linear", jitter="none"), [1, 2, 2.5]),
        (Backoff(base=1, cap=10), [0.5, 1, 2, 4, 5]),
        (Backoff(base=1, cap=10, jitter="equal"), [0.75, 1.5, 3, 6, 7.5]),
        (Backoff(base=1, cap=10, jitter="proportional"), [1, 2, 4, 8, 10]),
    ],
)
def test_waits_follow_their_formula_when_drawn_in_the_middle(backoff: Backoff, waits: list[float]) -> None:
    """The docstring's formulas are the contract."""
    assert [backoff.wait(n, 0.5) for n in range(len(waits))] == pytest.approx(waits)


@given(
    growth=st.sampled_from(["exponential", "fixed", "linear", "decorrelated"]),
    jitter=st.sampled_from(["full", "equal", "proportional", "none"]),
    n=st.integers(0, 200_000),
    u=st.floats(0, 1, exclude_max=True),
    previous=st.none() | st.floats(0, 100),
)
def test_no_wait_leaves_its_bounds(growth: str, jitter: str, n: int, u: float, previous: float | None) -> None:
    """Attempt 100 000 must neither overflow nor exceed the cap."""
    backoff = Backoff(base=0.2, cap=7.0, growth=growth, jitter=jitter)  # type: ignore[arg-type]
    assert 0 <= backoff.wait(n, u, previous) <= 7.0
    assert backoff.wait(n, u, previous) <= backoff.longest(n) + 1e-12


def test_decorrelated_waits_draw_between_base_and_three_times_the_last() -> None:
    """The AWS formula: min(cap, U(base, 3 * previous))."""
    backoff = Backoff(base=1, cap=20, growth="decorrelated")
    assert backoff.wait(0, 0.0) == 1
    assert backoff.wait(0, 0.5) == 2
    assert backoff.wait(3, 0.5, previous=5) == 8
    assert backoff.wait(3, 0.99, previous=19) == 20
    assert backoff.length(3) == 20


@pytest.mark.parametrize(
    "bad", [{"base": 0}, {"base": math.nan}, {"cap": math.inf}, {"base": 6}, {"growth": "x"}, {"jitter": "x"}]
)
def test_a_backoff_that_cannot_work_is_refused_when_made(bad: dict[str, object]) -> None:
    """A cap below the base was a typing mistake."""
    with pytest.raises(ValueError, match=r"base|cap|growth|jitter"):
        Backoff(**bad)  # type: ignore[arg-type]


def test_a_hint_only_lengthens_and_only_up_to_its_cap() -> None:
    """A hostile Retry-After can neither make us hammer nor sleep for a day."""
    rule = RetryRule(attempts=3, backoff=Backoff(base=1, cap=1, jitter="none"), retry_after_cap=30)
    assert rule.wait(1, 0.5, None, None) == 1
    assert rule.wait(1, 0.5, None, 0.0) == 1
    assert rule.wait(1, 0.5, None, 12) == 12
    assert rule.wait(1, 0.5, None, 86400) == 30
    assert rule.longest_wait() == 2
    assert rule.fits(10, 1, None)
    assert rule.fits(10, 1, 11.5)
    assert not rule.fits(10, 1, 11)
    with pytest.raises(TypeError, match="backoff"):
        RetryRule(backoff=1)  # type: ignore[arg-type]


def test_a_budget_allows_its_share_of_the_traffic_over_a_long_outage() -> None:
    """RT2: attempts per call stay at 1 + ratio once the reserve is spent."""
    rule = ShareRule(ratio=0.1, floor_per_s=0.0, ttl=10)
    state = rule.start(0.0)
    calls = retries = 0
    for tick in range(60 * 200):
        rule.enter(state)
        calls += 1
        retries += rule.withdraw(state, tick / 200)
    assert 1 + retries / calls == pytest.approx(1.1, abs=0.01)


def test_a_quiet_service_may_retry_at_its_floor() -> None:
    """One call a minute must not be left without any retry."""
    rule = ShareRule(ratio=0.1, floor_per_s=1, ttl=10)
    state = rule.start(0.0)
    assert sum(rule.withdraw(state, 0.0) for _ in range(20)) == 10
    assert not rule.withdraw(state, 0.5)
    assert rule.withdraw(state, 1.6)


def test_deposits_expire_after_their_ttl() -> None:
    """Yesterday's traffic must not pay for today's storm."""
    rule = ShareRule(ratio=0.5, floor_per_s=0, ttl=10)
    state = rule.start(0.0)
    for _ in range(1000):
        rule.enter(state)
    assert rule.refresh(state, 100.0) == pytest.approx(0.5 * 1000 * 0.1)
    assert rule.refresh(state, 105.0) == pytest.approx(25)
    assert rule.refresh(state, 200.0) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200))
def test_a_budget_never_allows_more_than_everything_that_was_deposited(steps: list[tuple[bool, float]]) -> None:
    """Whatever the pattern, retries are bounded by reserve, floor and share together."""
    rule = ShareRule(ratio=0.2, floor_per_s=0.5, ttl=5)
    state = rule.start(0.0)
    now, calls, retries = 0.0, 0, 0
    for is_call, pause in steps:
        now += pause
        if is_call:
            rule.enter(state)
            calls += 1
        elif rule.withdraw(state, now):
            retries += 1
        assert retries <= 0.5 * 5 + 0.5 * now + 0.2 * calls + 1e-6


@pytest.mark.parametrize("bad", [{"ratio": 2}, {"ratio": -1}, {"floor_per_s": -1}, {"floor_per_s": math.nan}, {"ttl": 0}])
def test_a_budget_out_of_range_is_refused_when_made(bad: dict[str, float]) -> None:
    """A negative budget is no budget."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        ShareRule(**bad)


def test_full_jitter_is_uniform() -> None:
    """Clients that fail together must not come back together."""
    backoff, draw = Backoff(base=1, cap=1), random.Random(0)
    waits = [backoff.wait(0, draw.random()) for _ in range(2000)]
    assert sum(waits) / 2000 == pytest.approx(0.5, abs=0.03)


def test_tokens_allow_retries_while_more_than_half_are_there() -> None:
    """gRPC's way: a callee that fails every call is soon not retried, and one that recovers is, after a while."""
    rule = rule_of("tokens", ratio=0.1, floor_per_s=0, ttl=1)
    state = rule.start(0.0)
    allowed = 0
    while rule.withdraw(state, 0.0):
        allowed += 1
        rule.leave(state, failed=False, extra=0)
    assert allowed == 6
    for _ in range(60):
        rule.leave(state, failed=False, extra=0)
    assert rule.withdraw(state, 0.0)
    for _ in range(30):
        rule.leave(state, failed=True, extra=0)
    assert state.balance == 0
    assert not rule.withdraw(state, 0.0)


def test_in_flight_retries_are_a_share_of_what_runs() -> None:
    """Envoy's way, but paid when scheduled: retries that still wait count as well."""
    rule = rule_of("in_flight", ratio=0.2, floor_per_s=0, ttl=1)
    state = rule.start(0.0)
    for _ in range(50):
        rule.enter(state)
    assert sum(rule.withdraw(state, 0.0) for _ in range(30)) == 10
    rule.leave(state, failed=True, extra=2.0)
    assert rule.withdraw(state, 0.0)
    for _ in range(49):
        rule.leave(state, failed=True, extra=0.0)
    state.extra = 0.0
    assert sum(rule.withdraw(state, 0.0) for _ in range(30)) == 3


def test_heavy_retries_cost_more() -> None:
    """A retry of ten thousand tokens is not a retry of one."""
    rule = ShareRule(ratio=0.1, floor_per_s=1, ttl=10)
    state = rule.start(0.0)
    assert rule.withdraw(state, 0.0, 8.0)
    assert not rule.withdraw(state, 0.0, 8.0)
    assert rule.withdraw(state, 0.0, 2.0)


def test_jitters_differ_at_the_edges_of_the_draw() -> None:
    """In the middle of the draw some of them look alike."""
    proportional, none = Backoff(base=1, cap=10, jitter="proportional"), Backoff(base=1, cap=10, jitter="none")
    assert (proportional.wait(0, 0.0), proportional.wait(0, 1.0)) == (0.75, 1.25)
    assert (none.wait(0, 0.0), none.wait(0, 1.0)) == (1, 1)
    assert (Backoff().length(0), Backoff().length(100)) == (0.1, 5.0)
    assert Backoff(base=1, cap=10).longest(2) == 4
    assert Backoff(base=1, cap=10, jitter="equal").wait(0, 0.0) == 0.5


def test_the_defaults_are_the_documented_ones() -> None:
    """A default that drifts changes every service at once."""
    rule, share = RetryRule(), ShareRule()
    assert (rule.attempts, rule.retry_after_cap, rule.backoff) == (3, 60.0, Backoff())
    assert (share.ratio, share.floor_per_s, share.ttl) == (0.1, 1.0, 10.0)
    doubling = RetryRule(backoff=Backoff(base=1, cap=10, jitter="none"))
    assert [doubling.wait(attempt, 0.5, None, None) for attempt in (1, 2, 3)] == [1, 2, 4]
    assert RetryRule(attempts=4, backoff=Backoff(base=1, cap=10, jitter="none")).longest_wait() == 7


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RetryRule(attempts=0), "attempts"),
        (lambda: RetryRule(retry_after_cap=-1), "retry_after_cap"),
        (lambda: rule_of("none", ratio=0.1, floor_per_s=1, ttl=1), "mode"),
        (lambda: rule_of("tokens", ratio=0, floor_per_s=1, ttl=1), "ratio"),
        (lambda: rule_of("in_flight", ratio=2, floor_per_s=1, ttl=1), "ratio"),
    ],
)
def test_rules_out_of_range_are_refused_when_made(make: Callable[[], object], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match=named):
        make()


def test_calls_are_counted_in_every_mode() -> None:
    """Snapshots show them, whatever the budget is made of."""
    for mode in ("share", "tokens", "in_flight"):
        rule = rule_of(mode, ratio=0.5, floor_per_s=0, ttl=1)
        state = rule.start(0.0)
        for _ in range(3):
            rule.enter(state)
        assert state.calls == 3
        assert state.active == (3 if mode == "in_flight" else 0)
