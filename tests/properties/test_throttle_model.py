"""The throttle against a naive model: every call of the history, counted again each time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from seawall.policies.throttle import Counted, ThrottleRule
from seawall.policies.verdict import Rejection


class ThrottleMachine(RuleBasedStateMachine):
    """Calls that are let through or shed, ends of all kinds, late ones too, and time."""

    @initialize(k=st.sampled_from([1, 2, 3]), most=st.sampled_from([0.5, 0.9]), minimum=st.integers(1, 6))
    def begin(self, k: int, most: float, minimum: int) -> None:
        self.rule = ThrottleRule(k=float(k), window=12.0, most=most, minimum_calls=minimum)  # slices of one second
        self.state = self.rule.start(0.0)
        self.k, self.now = k, 0
        self.history: list[list[int]] = []  # [second, requests, accepts]
        self.running: list[tuple[Counted, list[int]]] = []

    def share(self) -> Fraction:
        lately = [call for call in self.history if call[0] > self.now - 12]
        requests, accepts = sum(call[1] for call in lately), sum(call[2] for call in lately)
        if requests < self.rule.minimum_calls:
            return Fraction(0)
        return min(Fraction(self.rule.most), max(Fraction(0), Fraction(requests - self.k * accepts, requests + 1)))

    @rule(u=st.floats(0, 1, exclude_max=True))
    def call(self, u: float) -> None:
        expected = self.share()
        assert self.rule.share(self.state, float(self.now)) == pytest.approx(float(expected))
        answer = self.rule.admit(self.state, float(self.now), u)
        self.history.append([self.now, 1, 0])
        if abs(u - expected) > 1e-9:
            assert isinstance(answer, Rejection) is (u < expected)
        if isinstance(answer, Counted):
            self.running.append((answer, self.history[-1]))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), accepted=st.sampled_from([True, False, None]))
    def end(self, data: st.DataObject, accepted: bool | None) -> None:
        permit, call = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.rule.settle(self.state, float(self.now), permit, accepted=accepted)
        if accepted is None:
            call[1] = 0
        call[2] = int(accepted is True)

    @rule(seconds=st.integers(1, 15))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        assert self.rule.share(self.state, float(self.now)) == pytest.approx(float(self.share()))
        assert len(self.state.slices) <= 13


ThrottleMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


class TestThrottle(ThrottleMachine.TestCase):  # type: ignore[name-defined,misc]
    """The published formula over the published window, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
