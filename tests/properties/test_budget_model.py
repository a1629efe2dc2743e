"""The three retry budgets against exact models: whole histories in fractions, and what no history may exceed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.policies.retry_budget import BudgetRule, rule_of

SIZE = settings(max_examples=120, stateful_step_count=60, deadline=None)


class BudgetMachine(RuleBasedStateMachine):
    """Calls that begin and end, repetitions that are paid for, and time."""

    mode = ""

    @initialize(ratio=st.integers(1, 8), floor=st.integers(0, 4), ttl=st.integers(1, 5))
    def begin(self, ratio: int, floor: int, ttl: int) -> None:
        self.ratio, self.floor, self.ttl = Fraction(ratio, 8), floor, ttl
        self.rule: BudgetRule = rule_of(self.mode, ratio=ratio / 8, floor_per_s=floor, ttl=ttl)
        self.state = self.rule.start(0.0)
        self.now = 0
        self.running: list[int] = []  # what each call that runs has had repeated
        self.calls = self.paid = 0
        self.start_model()

    def start_model(self) -> None:
        raise NotImplementedError

    def allows(self, cost: int) -> bool:
        raise NotImplementedError

    def pay(self, cost: int) -> None:
        raise NotImplementedError

    def end_model(self, failed: bool, extra: int) -> None:
        """A call is over."""

    @rule(times=st.integers(1, 20))
    def calls_begin(self, times: int) -> None:
        for _ in range(times):
            self.rule.enter(self.state)
            self.running.append(0)
            self.calls += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.booleans())
    def call_ends(self, data: st.DataObject, failed: bool) -> None:
        extra = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.rule.leave(self.state, failed, float(extra))
        self.end_model(failed, extra)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.integers(1, 3))
    def repeat(self, data: st.DataObject, cost: int) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        expected = self.allows(cost)
        assert self.rule.withdraw(self.state, float(self.now), float(cost)) is expected
        if expected:
            self.pay(cost)
            self.running[index] += cost
            self.paid += cost

    @rule(seconds=st.integers(1, 7))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def look(self) -> None:
        self.rule.refresh(self.state, float(self.now))
        self.allows(1)


class ShareMachine(BudgetMachine):
    """A share of the calls, whose deposits expire, and a floor per second."""

    mode = "share"

    def start_model(self) -> None:
        self.balance = Fraction(self.floor * self.ttl)
        self.since = self.unseen = 0

    def allows(self, cost: int) -> bool:
        fresh = self.calls - self.unseen
        elapsed = self.now - self.since
        if elapsed >= self.ttl:  # all that was there has expired, and of the calls only the last ttl's part counts
            self.balance = self.ratio * fresh * Fraction(self.ttl, elapsed) + self.floor * self.ttl
        else:
            self.balance = self.balance * (1 - Fraction(elapsed, self.ttl)) + self.ratio * fresh + self.floor * elapsed
        self.since, self.unseen = self.now, self.calls
        return self.balance >= cost

    def pay(self, cost: int) -> None:
        self.balance -= cost

    @invariant()
    def never_more_than_the_traffic_carries(self) -> None:
        if hasattr(self, "paid"):
            assert self.paid <= self.floor * self.ttl + self.ratio * self.calls + self.floor * self.now
            assert float(self.balance) == pytest.approx(self.state.balance, abs=1e-6)


class TokensMachine(BudgetMachine):
    """Ten tokens; failures take one, successes give a part of one back; repetitions while more than half are there."""

    mode = "tokens"

    def start_model(self) -> None:
        self.tokens = Fraction(10)

    def allows(self, cost: int) -> bool:
        return self.tokens > 5

    def pay(self, cost: int) -> None:
        self.tokens = max(Fraction(0), self.tokens - cost)

    def end_model(self, failed: bool, extra: int) -> None:
        self.tokens = max(Fraction(0), self.tokens - 1) if failed else min(Fraction(10), self.tokens + self.ratio)

    @invariant()
    def the_tokens_are_as_many(self) -> None:
        if hasattr(self, "paid"):
            assert float(self.tokens) == pytest.approx(self.state.balance)


class InFlightMachine(BudgetMachine):
    """A share of the calls that run, never fewer than three."""

    mode = "in_flight"

    def start_model(self) -> None:
        """It remembers nothing but who runs."""

    def allows(self, cost: int) -> bool:
        return max(Fraction(3), self.ratio * len(self.running)) - sum(self.running) >= cost

    def pay(self, cost: int) -> None:
        """The call that it is for remembers it."""

    @invariant()
    def as_many_run(self) -> None:
        if hasattr(self, "paid"):
            assert (self.state.active, self.state.extra) == (len(self.running), sum(self.running))


def _case(machine: Any) -> Any:
    machine.TestCase.settings = SIZE
    return machine.TestCase


class TestShare(_case(ShareMachine)):  # type: ignore[misc]
    """An outage cannot be multiplied by more than the ratio and the floor, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)


class TestTokens(_case(TokensMachine)):  # type: ignore[misc]
    """The count of gRPC's proposal A6."""

    pytestmark = pytest.mark.timeout(120)


class TestInFlight(_case(InFlightMachine)):  # type: ignore[misc]
    """The count of Envoy's retry budget."""

    pytestmark = pytest.mark.timeout(120)
