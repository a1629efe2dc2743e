"""The adaptive limit's seats against a naive model: a number of calls that run and a list of who waits, by importance."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, Slot, Waiter
from seawall.policies.verdict import Rejection

LEVELS = ["critical", "default", "sheddable"]
SHARES = {"critical": 110, "default": 100, "sheddable": 70}
MOST = 40


class AdaptiveLimitMachine(RuleBasedStateMachine):
    """Arrivals, ends, cancellations, time and moves of the limit, applied to both. CoDel is off: it has tests of its own."""

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 5))
    def begin(self, limit: int, queue: int) -> None:
        self.rule = AdaptiveLimitRule(initial=limit, queue=queue, most=MOST, target=1e9)
        self.state = self.rule.start(0.0)
        self.limit = limit
        self.now = 0.0
        self.running: list[Slot] = []
        self.spent: list[Slot] = []
        self.granted: list[Waiter] = []
        self.waiting: list[tuple[str, Waiter]] = []

    def free(self, level: str) -> bool:
        share = max(1, min(MOST, self.limit * SHARES[level] // 100))
        return len(self.running) + len(self.granted) < share

    @rule(level=st.sampled_from(LEVELS), patience=st.sampled_from([1.0, 3.0, math.inf]))
    def arrive(self, level: str, patience: float) -> None:
        answer = self.rule.admit(self.state, self.now, self.now + patience, level)
        behind = any(LEVELS.index(other) <= LEVELS.index(level) for other, _ in self.waiting)
        if not behind and self.free(level):
            assert isinstance(answer, Slot)
            self.running.append(answer)
            return
        if len(self.waiting) >= self.rule.queue:
            lower = [item for item in self.waiting if LEVELS.index(item[0]) > LEVELS.index(level)]
            if not lower or self.rule.queue == 0:
                assert isinstance(answer, Rejection)
                return
            victim = max(reversed(lower), key=lambda item: LEVELS.index(item[0]))
            self.waiting.remove(victim)
            assert isinstance(self.rule.poll(self.state, self.now, victim[1]), Rejection)
        assert isinstance(answer, Waiter)
        self.waiting.append((level, answer))
        self.serve()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), dropped=st.booleans())
    def end(self, data: st.DataObject, outcome: Outcome, dropped: bool) -> None:
        slot = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.rule.settle(self.state, self.now, slot, outcome, 0.1, dropped)
        self.limit = int(self.state.limit)
        self.spent.append(slot)
        self.serve()

    @precondition(lambda self: self.spent)
    @rule()
    def end_twice(self) -> None:
        self.rule.settle(self.state, self.now, self.spent[-1], Outcome.SUCCESS, 0.1)

    @precondition(lambda self: self.waiting or self.granted)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*(waiter for _, waiter in self.waiting), *self.granted]))
        answer = self.rule.poll(self.state, self.now, ticket)
        if ticket in self.granted:
            assert isinstance(answer, Slot)
            self.granted.remove(ticket)
            self.running.append(answer)
        elif self.now >= ticket.until:
            assert isinstance(answer, Rejection)
            self.forget(ticket)
            self.serve()
        else:
            assert answer == ticket.until - self.now

    @precondition(lambda self: self.waiting or self.granted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*(waiter for _, waiter in self.waiting), *self.granted]))
        self.rule.leave(self.state, self.now, ticket)
        self.forget(ticket)
        self.serve()

    @rule(limit=st.integers(1, 45))
    def move(self, limit: int) -> None:
        self.limit = limit
        self.state.limit = float(limit)
        self.rule.match(self.state, self.now)
        self.serve()

    @rule()
    def pass_time(self) -> None:
        self.now += 1.0

    def forget(self, ticket: Waiter) -> None:
        self.waiting = [item for item in self.waiting if item[1] is not ticket]
        self.granted = [other for other in self.granted if other is not ticket]

    def serve(self) -> None:
        while self.waiting:
            first = min(self.waiting, key=lambda item: LEVELS.index(item[0]))
            if not self.free(first[0]):
                return
            self.waiting.remove(first)
            self.granted.append(first[1])

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "state"):
            return
        assert self.state.waiting == len(self.waiting)
        assert self.state.taken == len(self.running) + len(self.granted)
        assert all(isinstance(waiter.permit, Slot) for waiter in self.granted)
        assert all(waiter.permit is None for _, waiter in self.waiting)
        assert 1 <= self.state.limit <= max(MOST, self.limit)


AdaptiveLimitMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


class TestAdaptiveLimit(AdaptiveLimitMachine.TestCase):  # type: ignore[name-defined,misc]
    """No place is lost or invented, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
