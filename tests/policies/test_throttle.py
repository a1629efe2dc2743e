"""Client-side throttling: the formula, its cap, and its way back."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import seawall as sw
from seawall.policies.throttle import ThrottleRule
from seawall.policies.verdict import Rejection
from seawall.testing import Script, VirtualClock


class TooBusy(Exception):
    response = SimpleNamespace(status_code=503, headers={})


def test_nothing_is_shed_while_the_callee_accepts_half() -> None:
    """K = 2: a few refusals are normal."""
    throttle = ThrottleRule()
    state = throttle.start(0)
    for number in range(200):
        permit = throttle.admit(state, 0.0, 0.0)
        assert not isinstance(permit, Rejection)
        throttle.settle(state, 0.0, permit, accepted=number % 2 == 0)
    assert throttle.share(state, 0.0) == 0


def test_a_callee_that_refuses_everything_gets_a_tenth_of_the_calls() -> None:
    """The cap: what is left finds out when the callee is back."""
    throttle, draw = ThrottleRule(), random.Random(1)
    state = throttle.start(0)
    sent = 0
    for number in range(3000):
        permit = throttle.admit(state, number / 100, draw.random())
        if not isinstance(permit, Rejection):
            sent += number >= 1000
            throttle.settle(state, number / 100, permit, accepted=False)
    assert sent / 2000 == pytest.approx(0.1, abs=0.03)
    assert throttle.share(state, 30.0) == 0.9


def test_it_opens_up_again_as_calls_are_accepted_and_old_slices_leave() -> None:
    """A throttle that never lets go is an outage of its own."""
    throttle = ThrottleRule(window=12)
    state = throttle.start(0)
    for _ in range(100):
        permit = throttle.admit(state, 0.0, 0.999)
        assert not isinstance(permit, Rejection)
        throttle.settle(state, 0.0, permit, accepted=False)
    assert throttle.share(state, 11.9) == 0.9
    assert throttle.share(state, 12.0) == 0
    assert throttle.share(state, 500.0) == 0


def test_the_defaults_are_the_documented_ones() -> None:
    """A default that drifts changes every service at once."""
    rule = ThrottleRule()
    assert (rule.k, rule.window, rule.most, rule.minimum_calls) == (2.0, 120.0, 0.9, 20)


def test_unknown_results_were_never_attempted() -> None:
    """A cancelled call says nothing about the callee."""
    throttle = ThrottleRule(minimum_calls=1)
    state = throttle.start(0)
    for _ in range(50):
        permit = throttle.admit(state, 0.0, 0.5)
        assert not isinstance(permit, Rejection)
        throttle.settle(state, 0.0, permit, accepted=None)
    assert throttle.share(state, 0.0) == 0


class ThrottleMachine(RuleBasedStateMachine):
    """The rule against a list of everything that happened, recounted each time."""

    @initialize(k=st.sampled_from([1.0, 2.0, 3.5]), least=st.integers(1, 10))
    def begin(self, k: float, least: int) -> None:
        self.throttle = ThrottleRule(k=k, window=12, minimum_calls=least)
        self.state = self.throttle.start(0)
        self.now = 0.0
        self.log: deque[list[Any]] = deque()
        self.out: list[tuple[Any, list[Any]]] = []

    @rule(u=st.floats(0, 1, exclude_max=True))
    def call(self, u: float) -> None:
        shed = self._share()
        entry: list[Any] = [self.now, False]
        self.log.append(entry)
        permit = self.throttle.admit(self.state, self.now, u)
        assert isinstance(permit, Rejection) == (u < shed)
        if not isinstance(permit, Rejection):
            self.out.append((permit, entry))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), accepted=st.sampled_from([True, False, None]))
    def end(self, data: st.DataObject, accepted: bool | None) -> None:
        permit, entry = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.throttle.settle(self.state, self.now, permit, accepted=accepted)
        if accepted is None:
            self.log = deque(other for other in self.log if other is not entry)
        else:
            entry[1] = accepted

    @rule(steps=st.integers(1, 8))
    def pass_time(self, steps: int) -> None:
        self.now += steps * 0.5

    def _share(self) -> float:
        seen = [entry for entry in self.log if int(entry[0]) > int(self.now) - 12]
        accepts = sum(entry[1] for entry in seen)
        if len(seen) < self.throttle.minimum_calls:
            return 0.0
        return min(0.9, max(0.0, (len(seen) - self.throttle.k * accepts) / (len(seen) + 1)))

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "state"):
            assert self.throttle.share(self.state, self.now) == pytest.approx(self._share())


ThrottleMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


class TestThrottle(ThrottleMachine.TestCase):  # type: ignore[name-defined,misc]
    """The formula in every order that Hypothesis finds."""


def test_a_pipeline_sheds_what_a_busy_callee_would_refuse(seawall_time: VirtualClock) -> None:
    """End to end, sync and async, with the verdicts of the classifier."""
    throttle = sw.Throttle(minimum_calls=10)
    for _ in range(200):
        throttle.try_call(Script(TooBusy()))
        asyncio.run(throttle.atry_call(Script(TooBusy()).acall))
    shot = throttle.snapshot()
    assert shot.share == 0.9
    assert 250 < shot.rejected < 400
    assert shot.accepted == 0
    with pytest.raises(sw.Overloaded, match="sheds 90% of calls"):
        for _ in range(100):
            throttle.try_call(Script(1)).unwrap()
    seawall_time.advance(200)
    for _ in range(50):
        with pytest.raises(ValueError, match="bad"):
            throttle.call(Script(ValueError("bad")))
    assert throttle.snapshot().accepted == 50


@pytest.mark.parametrize("bad", [{"k": 0.5}, {"window": 0}, {"most": 1.0}, {"most": 0}, {"minimum_calls": 0}])
def test_a_throttle_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        sw.Throttle(**bad)
