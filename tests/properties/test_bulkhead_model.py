"""The bulkhead against a naive model: a number of free seats and a list of who waits."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.core.outcome import Outcome
from seawall.policies.bulkhead import BulkheadRule, Retire, Seat
from seawall.policies.verdict import Rejection, Ticket


class BulkheadMachine(RuleBasedStateMachine):
    """Arrivals, ends, cancellations, time and new limits, applied to both."""

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 5), lifo=st.booleans())
    def begin(self, limit: int, queue: int, lifo: bool) -> None:
        self.rule = BulkheadRule(limit=limit, queue=queue, order="lifo" if lifo else "fifo")
        self.state = self.rule.start(0.0)
        self.limit = limit
        self.lifo = lifo
        self.now = 0.0
        self.running: list[Seat] = []
        self.granted: list[Ticket] = []
        self.waiting: list[Ticket] = []

    @rule(patience=st.sampled_from([1.0, 3.0, math.inf]))
    def arrive(self, patience: float) -> None:
        answer = self.rule.admit(self.state, self.now, self.now + patience)
        busy = len(self.running) + len(self.granted) >= self.limit or self.waiting
        if not busy:
            assert isinstance(answer, Seat)
            self.running.append(answer)
        elif len(self.waiting) >= self.rule.queue:
            assert isinstance(answer, Rejection)
        else:
            assert isinstance(answer, Ticket)
            self.waiting.append(answer)
            self._serve()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        seat = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.rule.settle(self.state, self.now, seat, Outcome.SUCCESS)
        self._serve()

    @precondition(lambda self: self.waiting or self.granted)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*self.waiting, *self.granted]))
        answer = self.rule.poll(self.state, self.now, ticket)
        if any(ticket is other for other in self.granted):
            assert isinstance(answer, Seat)
            self.granted = [other for other in self.granted if other is not ticket]
            self.running.append(answer)
        elif self.now >= ticket.until:
            assert isinstance(answer, Rejection)
            self.waiting = [other for other in self.waiting if other is not ticket]
        else:
            assert answer == ticket.until - self.now

    @precondition(lambda self: self.waiting or self.granted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*self.waiting, *self.granted]))
        self.rule.leave(self.state, self.now, ticket)
        self.waiting = [other for other in self.waiting if other is not ticket]
        self.granted = [other for other in self.granted if other is not ticket]
        self._serve()

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.limit = limit
        self.rule.resize(self.state, self.now, limit)
        self._serve()

    @rule()
    def pass_time(self) -> None:
        self.now += 1.0

    def _serve(self) -> None:
        while self.waiting and len(self.running) + len(self.granted) < self.limit:
            self.granted.append(self.waiting.pop(-1 if self.lifo else 0))

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "state"):
            return
        retirees = sum(isinstance(ticket, Retire) for ticket in self.state.queue)
        assert self.state.waiting == len(self.waiting)
        assert self.state.taken == len(self.running) + len(self.granted)
        assert len(self.state.free) + self.state.taken == self.limit + retirees
        granted: list[Any] = [ticket.permit for ticket in self.granted]
        assert all(isinstance(seat, Seat) for seat in granted)
        held = [*self.running, *granted, *self.state.free]
        assert len({id(seat) for seat in held}) == len(held)


BulkheadMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)


class TestBulkhead(BulkheadMachine.TestCase):  # type: ignore[name-defined,misc]
    """BH1 in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
