"""The fault against a naive model: counts, the cap, and the error budget that ends it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seawall.policies.fault import NOTHING, FaultRule
from seawall.policies.verdict import Note


class FaultMachine(RuleBasedStateMachine):
    """Calls that may be broken, and calls that fail."""

    @initialize(
        share=st.sampled_from([0.0, 0.3, 1.0]),
        most=st.sampled_from([None, 1, 4]),
        budget=st.sampled_from([None, 1, 3]),
        cut=st.sampled_from([None, 0, 2]),
        breaks=st.booleans(),
    )
    def begin(self, share: float, most: int | None, budget: int | None, cut: int | None, breaks: bool) -> None:
        self.rule = FaultRule(
            share=share, latency=1, jitter=2, item_latency=0.5, at_most=most, error_budget=budget, cut_after=cut, breaks=breaks
        )
        self.state = self.rule.start(0.0)
        self.seen = self.broken = self.failed = 0

    @property
    def over(self) -> bool:
        return self.rule.error_budget is not None and self.failed >= self.rule.error_budget

    @rule(u=st.floats(0, 1, exclude_max=True), v=st.floats(0, 1, exclude_max=True))
    def call(self, u: float, v: float) -> None:
        plan = self.rule.plan(self.state, u, v)
        if self.over:
            assert plan is NOTHING
            return
        self.seen += 1
        if u >= self.rule.share or (self.rule.at_most is not None and self.broken >= self.rule.at_most):
            assert plan is NOTHING
            return
        self.broken += 1
        assert plan.delay == 1 + 2 * v
        assert (plan.item_delay, plan.cut_after) == (0.5, self.rule.cut_after)
        assert plan.fails is (self.rule.breaks and self.rule.cut_after is None)

    @rule()
    def fail(self) -> None:
        was_over = self.over
        self.failed += 1
        events = self.rule.fail(self.state)
        told = (Note("fault.stopped", {"failed": self.failed, "broken": self.broken}),)
        assert events == (told if self.over and not was_over else ())

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "state"):
            counts = (self.state.seen, self.state.broken, self.state.failed, self.state.stopped)
            assert counts == (self.seen, self.broken, self.failed, self.over)


FaultMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


class TestFault(FaultMachine.TestCase):  # type: ignore[name-defined,misc]
    """The blast radius is what was said, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
