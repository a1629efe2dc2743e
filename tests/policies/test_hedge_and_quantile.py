"""The hedge's rule, the streaming quantile and the budgets at their edges. Found by mutation testing."""

from __future__ import annotations

from typing import Any

import pytest

from seawall.policies.hedge import HedgeRule
from seawall.policies.quantile import QuantileRule, read_quantile
from seawall.policies.retry_budget import rule_of
from seawall.policies.throttle import ThrottleRule


def test_the_defaults_are_those_of_the_front_door() -> None:
    """A default that drifts changes every policy that trusted it."""
    hedge = HedgeRule()
    assert (hedge.after, hedge.copies, hedge.least) == (0.05, 1, 20)
    quantile = QuantileRule(quantile=0.5)
    assert (quantile.least, quantile.gain) == (20, 0.1)
    throttle = ThrottleRule()
    assert (throttle.k, throttle.window, throttle.most, throttle.minimum_calls) == (2.0, 120.0, 0.9, 20)


def test_an_estimate_is_known_from_the_twentieth_sample_on() -> None:
    """Fewer say nothing about a tail."""
    rule = QuantileRule(quantile=0.9)
    state = rule.start(0.0)
    for _ in range(19):
        rule.observe(state, 1.0)
        assert rule.estimate(state) is None
    rule.observe(state, 1.0)
    assert rule.estimate(state) == pytest.approx(1.0, abs=0.3)


def test_a_cut_at_the_estimate_says_nothing_and_a_sample_at_it_counts_as_below() -> None:
    """ "At least so long" is news only above what is known."""
    rule = QuantileRule(quantile=0.9, least=1)
    state = rule.start(0.0)
    rule.observe(state, 5.0, cut=True)
    assert state.count == 0
    for sample in (1.0, 2.0):
        rule.observe(state, sample)
    assert (state.value, state.count) == (1.5, 2)
    rule.observe(state, 1.5, cut=True)
    assert (state.value, state.count) == (1.5, 2)
    spread = state.spread
    rule.observe(state, 1.5)
    assert state.value == pytest.approx(1.5 - 2 / 3 * (spread * 2 / 3) * 0.1)
    rule.observe(state, 9.0, cut=True)
    assert state.count == 4


@pytest.mark.parametrize(
    "bad", [{"quantile": 0}, {"quantile": 1}, {"quantile": -0.5}, {"quantile": "p9"}, {"quantile": 0.5, "least": 0}]
)
def test_a_quantile_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=f"^{list(bad)[-1]} must"):
        QuantileRule(**bad)


def test_quantiles_are_read_as_people_write_them() -> None:
    """Above 0, below 100, at most one point."""
    assert read_quantile("after", "p50") == 0.5
    assert read_quantile("after", "p99.9") == pytest.approx(0.999)
    assert read_quantile("after", "p0.5") == pytest.approx(0.005)
    for wrong in ("p0", "p100", "p100.5", "p9.9.9", "p", "95", "p-5", "px", "p."):
        with pytest.raises(ValueError, match=r"^after must be seconds, or a quantile"):
            read_quantile("after", wrong)


def test_tokens_are_taken_whole_and_never_fall_below_none() -> None:
    """A heavy retry empties the bucket; what was owed below nothing is forgiven."""
    rule = rule_of("tokens", ratio=0.5, floor_per_s=0, ttl=1)
    state = rule.start(0.0)
    assert rule.withdraw(state, 0.0, 12.0)
    assert state.balance == 0.0
    for _ in range(10):
        rule.leave(state, failed=False, extra=0.0)
    assert state.balance == 5.0
    assert not rule.withdraw(state, 0.0)
    rule.leave(state, failed=False, extra=0.0)
    assert rule.withdraw(state, 0.0)


def test_a_throttle_remembers_eleven_to_twelve_twelfths_of_its_window() -> None:
    """Slice by slice, of two seconds here."""
    rule = ThrottleRule(window=24, minimum_calls=1)
    state = rule.start(0.0)
    for now in (1.9, 2.0, 5.0):
        rule.admit(state, now, 0.999)
    assert [slice_.index for slice_ in state.slices] == [0, 1, 2]
    assert rule.share(state, 23.9) == 0.75
    assert rule.share(state, 24.0) == pytest.approx(2 / 3)
    assert rule.share(state, 26.0) == 0.5
    assert rule.share(state, 28.0) == 0.0
