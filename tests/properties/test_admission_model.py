"""Admission control against a naive model: lists of who came, window by window, sorted by rank."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.policies.admission import CLASSES, LOTS, RANKS, AdmissionRule, Admitted
from seawall.policies.verdict import Rejection

TARGET = 1.0


class AdmissionMachine(RuleBasedStateMachine):
    """Calls of all classes, ends after all waits, and time."""

    @initialize(shed=st.sampled_from([0.1, 0.5, 1.0]), regain=st.sampled_from([0.05, 0.25]), calls=st.sampled_from([6, 1000]))
    def begin(self, shed: float, regain: float, calls: int) -> None:
        self.rule = AdmissionRule(target=TARGET, window=10, calls=calls, shed=shed, regain=regain)
        self.state = self.rule.start(0.0)
        self.now, self.begun = 0, 0
        self.door = RANKS
        self.older: dict[int, float] = {}
        self.came: list[int] = []
        self.let_in = self.refused_inside = 0
        self.waits: list[float] = []
        self.inside: list[tuple[Admitted, float]] = []

    def end_window(self) -> None:
        for rank in self.came:
            self.older[rank] = self.older.get(rank, 0.0) + 1
        total = sum(self.older.values())

        def below(door: int) -> float:
            return sum(count for rank, count in self.older.items() if rank < door) / total

        mean = sum(self.waits) / len(self.waits) if self.waits else 0.0
        now_in = below(self.door)
        if mean > TARGET or self.refused_inside > self.rule.shed * self.let_in:
            fits = [door for door in range(RANKS + 1) if below(door) <= (1 - self.rule.shed) * now_in + 1e-9]
            door = max(fits)
            self.door = door if below(door) > 0 else min(self.older) + 1
        else:
            wanted = now_in + self.rule.regain * max(1, (self.now - self.begun) // 10)
            self.door = RANKS
            if wanted < 1 - 1e-9:
                self.door = min(door for door in range(RANKS + 1) if below(door) >= wanted - 1e-9)
        self.older = {rank: count * 0.8 for rank, count in self.older.items()}
        self.came, self.waits = [], []
        self.let_in = self.refused_inside = 0
        self.begun = self.now

    @rule(priority=st.sampled_from(CLASSES), lot=st.sampled_from([0, 3, 40, 80, 127]), waited=st.sampled_from([0.0, 0.25]))
    def call(self, priority: str, lot: int, waited: float) -> None:
        if not self.came:
            self.begun = self.now
        elif self.now >= self.begun + 10 or len(self.came) >= self.rule.calls:
            self.end_window()
        rank = CLASSES.index(priority) * LOTS + lot
        answer = self.rule.admit(self.state, float(self.now), priority, lot / LOTS, waited)
        self.came.append(rank)
        assert isinstance(answer, Admitted) is (rank < self.door)
        if isinstance(answer, Admitted):
            self.let_in += 1
            self.inside.append((answer, waited))
        else:
            assert isinstance(answer, Rejection)
            assert answer.retry_after is not None
            assert 10 <= answer.retry_after <= 10 * (1 / self.rule.regain + 1)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), wait=st.sampled_from([0.0, 0.5, 3.0]), refused=st.booleans())
    def end(self, data: st.DataObject, wait: float, refused: bool) -> None:
        permit, waited = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.rule.settle(self.state, float(self.now), permit, wait, refused=refused)
        self.rule.settle(self.state, float(self.now), permit, 99.0, refused=True)
        self.waits.append(wait + waited)
        self.refused_inside += refused

    @rule(seconds=st.sampled_from([1, 4, 10, 35]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "state"):
            assert self.state.door == self.door
            assert 1 <= self.door <= RANKS
            assert sum(self.rule.admitted(self.state).values()) == pytest.approx(self.door / LOTS)


AdmissionMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)


class TestAdmission(AdmissionMachine.TestCase):  # type: ignore[name-defined,misc]
    """The door stands where the lists say, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
