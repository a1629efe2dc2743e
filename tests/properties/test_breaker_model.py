"""The circuit breaker and its windows against a naive model that was written apart from it: lists, and no cleverness."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.core.outcome import Outcome
from seawall.policies.circuit_breaker import BreakerRule, Probe
from seawall.policies.verdict import Rejection

WIDTH = 1.0  # of a bucket: all times below are whole and half seconds, so no float dust decides


class Naive:
    """A breaker as one would write it on a napkin: every call of the epoch in a list, recounted each time."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.o = options
        self.phase = "closed"
        self.open_until = 0.0
        self.epoch = 0
        self.began = 0.0
        self.log: list[tuple[float, bool, bool]] = []
        self.probes: list[tuple[int, float]] = []
        self.good = self.bad = self.slow = self.neutral = 0

    def open(self, now: float) -> None:
        self.phase, self.open_until, self.probes = "open", now + self.o["open_for"], []
        self.epoch += 1

    def close(self, now: float) -> None:
        self.phase, self.log, self.probes, self.began = "closed", [], [], now
        self.epoch += 1

    def visible(self, now: float) -> list[tuple[float, bool, bool]]:
        if self.o.get("window_calls"):
            return self.log[-self.o["window_calls"] :]
        bucket = (now - self.began) // WIDTH
        return [entry for entry in self.log if (entry[0] - self.began) // WIDTH > bucket - 10]

    def judge(self, now: float) -> None:
        streak = 0
        for _, failed, _ in reversed(self.log):
            if not failed:
                break
            streak += 1
        seen = self.visible(now)
        failed = sum(entry[1] for entry in seen)
        slow = sum(entry[2] for entry in seen)
        enough = len(seen) >= min(self.o["minimum_calls"], self.o.get("window_calls") or 10**9)
        trips = streak >= self.o["consecutive_failures"] or (enough and failed / len(seen) >= self.o["failure_ratio"])
        if self.o["slow_call"] and enough and slow / len(seen) >= self.o["slow_ratio"]:
            trips = True
        if trips:
            self.open(now)

    def verdict(self, now: float) -> None:
        left = self.o["probes"] - self.good - self.bad

        def reaches(count: int, ratio: float) -> bool:
            return count >= ratio * self.o["probes"] - 1e-9 and count >= 1

        if reaches(self.bad, self.o["failure_ratio"]) or (self.o["slow_call"] and reaches(self.slow, self.o["slow_ratio"])):
            self.open(now)
        elif not reaches(self.bad + left, self.o["failure_ratio"]) and not (
            self.o["slow_call"] and reaches(self.slow + left, self.o["slow_ratio"])
        ):
            self.close(now)


class BreakerMachine(RuleBasedStateMachine):
    """Admissions, results in any order, and time, applied to both."""

    @initialize(
        count=st.booleans(),
        consecutive=st.integers(2, 6),
        ratio=st.sampled_from([0.3, 0.5, 1.0]),
        slow=st.booleans(),
        probes=st.integers(1, 4),
        data=st.data(),
    )
    def begin(self, count: bool, consecutive: int, ratio: float, slow: bool, probes: int, data: st.DataObject) -> None:
        self.options: dict[str, Any] = {
            "consecutive_failures": consecutive,
            "failure_ratio": ratio,
            "minimum_calls": data.draw(st.integers(1, 8)),
            "slow_call": 1.0 if slow else None,
            "slow_ratio": 0.6,
            "open_for": 4.0,
            "probes": probes,
            "probes_at_once": data.draw(st.integers(1, probes)),
            "probe_lease": 3.0,
            "window": 10 * WIDTH,
        }
        if count:
            self.options["window_calls"] = data.draw(st.integers(consecutive, 12))
        self.real = BreakerRule(**self.options)
        self.state = self.real.start(0.0)
        self.naive = Naive(self.options)
        self.now = 0.0
        self.out: list[tuple[Any, int]] = []

    @rule(steps=st.integers(0, 8))
    def pass_time(self, steps: int) -> None:
        self.now += steps * 0.5

    @rule()
    def admit(self) -> None:
        answer = self.real.admit(self.state, self.now)
        expected = self._model_admit()
        assert isinstance(answer, Rejection) == (expected is None)
        if not isinstance(answer, Rejection):
            assert isinstance(answer, Probe) == (self.naive.phase == "half_open")
            self.out.append((answer, expected))  # type: ignore[arg-type]

    def _model_admit(self) -> int | None:
        naive, now = self.naive, self.now
        if naive.phase == "open":
            if now < naive.open_until:
                return None
            naive.phase, naive.probes = "half_open", []
            naive.good = naive.bad = naive.slow = naive.neutral = 0
            naive.epoch += 1
        if naive.phase == "closed":
            return naive.epoch
        expired = [probe for probe in naive.probes if now >= probe[1]]
        naive.probes = [probe for probe in naive.probes if now < probe[1]]
        naive.bad += len(expired)
        naive.slow += len(expired) if self.options["slow_call"] else 0
        if expired:
            naive.verdict(now)
            if naive.phase != "half_open":
                return None
        full = len(naive.probes) >= self.options["probes_at_once"]
        if full or naive.good + naive.bad + len(naive.probes) >= self.options["probes"]:
            return None
        self.serial = getattr(self, "serial", 0) + 1
        naive.probes.append((self.serial, now + 3.0))
        return -self.serial

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)), slow=st.booleans())
    def settle(self, data: st.DataObject, outcome: Outcome, slow: bool) -> None:
        permit, mark = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.real.settle(self.state, self.now, permit, outcome, took=2.0 if slow else 0.5)
        slow = slow and self.options["slow_call"] is not None and outcome is not Outcome.IGNORED
        naive = self.naive
        if mark < 0:
            self._model_settle_probe(-mark, outcome, slow)
        elif naive.phase == "closed" and mark == naive.epoch and outcome is not Outcome.IGNORED:
            naive.log.append((self.now, outcome is Outcome.FAILURE, slow))
            if outcome is Outcome.FAILURE or slow:
                naive.judge(self.now)

    def _model_settle_probe(self, serial: int, outcome: Outcome, slow: bool) -> None:
        naive = self.naive
        mine = [probe for probe in naive.probes if probe[0] == serial]
        if naive.phase != "half_open" or not mine:
            return
        naive.probes.remove(mine[0])
        if outcome is Outcome.IGNORED:
            naive.neutral += 1
            if naive.neutral >= self.options["probes"] and not naive.probes:
                naive.open(self.now)
            return
        naive.good += outcome is Outcome.SUCCESS
        naive.bad += outcome is Outcome.FAILURE
        naive.slow += slow
        naive.verdict(self.now)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "state"):
            return
        assert self.state.phase == self.naive.phase
        assert len(self.state.out) == len(self.naive.probes) <= self.options["probes_at_once"]
        assert (self.state.window is not None) == (self.naive.phase == "closed")
        if self.naive.phase == "closed":
            assert self.state.current is not None
            counts = self.state.current.counts(self.now)
            seen = self.naive.visible(self.now)
            assert counts.calls == len(seen)
            assert counts.failed == sum(entry[1] for entry in seen)
            assert counts.slow == sum(entry[2] for entry in seen)


BreakerMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)


class TestBreaker(BreakerMachine.TestCase):  # type: ignore[name-defined,misc]
    """B1 to B4 in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
