"""The hedge against naive models: the streaming quantile replayed from its whole history, and races worked out by hand."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import seawall as sw
from seawall.policies.hedge import HedgeRule
from seawall.testing import VirtualClock


class HedgeMachine(RuleBasedStateMachine):
    """Latencies that are seen, and copies that were cut."""

    @initialize(after=st.sampled_from([0.25, "p50", "p95"]), least=st.integers(1, 30))
    def begin(self, after: float | str, least: int) -> None:
        self.rule = HedgeRule(after=after, copies=2, least=least)
        self.state = self.rule.start(0.0)
        self.q = None if isinstance(after, float) else int(after[1:]) / 100
        self.samples: list[float] = []
        self.before: float | None = None

    def replay(self) -> tuple[float, float]:
        """Estimate and spread after the whole history, by the published recursion."""
        value = spread = 0.0
        for count, sample in enumerate(self.samples, 1):
            weight = 1 / count if count < 50 else 0.02
            spread = (1 - weight) * spread + weight * abs(sample - value)
            if count <= 2:
                value = sum(self.samples[:count]) / count
            else:
                step = spread * (2 / count if count < 20 else 0.1)
                value = max(0.0, value + step * ((self.q or 0) - (sample <= value)))
        return value, spread

    @rule(sample=st.floats(0, 100))
    def see(self, sample: float) -> None:
        known = self.state.value
        self.rule.observe(self.state, sample, cut=False)
        if self.q is None:
            return
        self.samples.append(sample)
        if len(self.samples) > 2 and sample != known:
            assert (self.state.value >= known) if sample > known else (self.state.value <= known)

    @rule(sample=st.floats(0, 100))
    def cut(self, sample: float) -> None:
        """A copy that was ended says "at least so long": below the estimate that is no news."""
        known = self.state.value
        self.rule.observe(self.state, sample, cut=True)
        if self.q is not None and self.samples and sample > known:
            self.samples.append(sample)
        else:
            assert self.state.value == known

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "rule"):
            return
        delay = self.rule.delay(self.state)
        if self.q is None:
            assert delay == 0.25
            assert self.state.count == 0
        elif len(self.samples) < self.rule.least:
            assert delay is None
        else:
            assert delay is not None
            assert math.isfinite(delay)
            assert delay == pytest.approx(self.replay()[0], rel=1e-6, abs=1e-9)


HedgeMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


class TestHedge(HedgeMachine.TestCase):  # type: ignore[name-defined,misc]
    """The delay is what the history says, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)


def race(plans: list[tuple[int, str]], after: int, copies: int) -> tuple[str | int, int, int]:
    """By hand: the result, the moment, and how many copies were sent. All times are whole milliseconds."""
    sent = [0]
    while True:
        ends = [start + plans[index][0] for index, start in enumerate(sent)]
        due = sent[-1] + after if len(sent) <= copies else None
        decided = [
            (end, {"ok": 0, "permanent": 1, "error": 2}[plans[index][1]], index)
            for index, end in enumerate(ends)
            if plans[index][1] != "error"
        ]
        first = min(decided, default=None)
        all_failed = max(ends) if all(plans[index][1] == "error" for index in range(len(sent))) else None
        moment = min(moment for moment in (due, None if first is None else first[0], all_failed) if moment is not None)
        if first is not None and moment == first[0]:
            outcome = plans[first[2]][1]
            return (first[2] if outcome == "ok" else "permanent"), moment, len(sent)
        if len(sent) <= copies:
            sent.append(moment)  # the delay is over, or all that were sent have failed
        else:
            return "error", moment, len(sent)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    after=st.integers(1, 40),
    copies=st.integers(1, 3),
)
def test_every_race_ends_as_worked_out_by_hand(data: st.DataObject, after: int, copies: int) -> None:
    """The first good answer wins, a failure sends the next copy at once, a permanent error ends it, and losers are ended."""
    lengths = data.draw(st.lists(st.integers(1, 100), min_size=4, max_size=4, unique=True))
    plans = [(length * 3 + 1, data.draw(st.sampled_from(["ok", "ok", "error", "permanent"]))) for length in lengths]
    clock = VirtualClock()
    hedge = sw.Hedge(after * 3 / 1000, copies=copies, budget=None, clock=clock)
    begun: list[int] = []
    ended: list[int] = []

    @hedge(idempotent=True)
    async def body() -> int:
        index = len(begun)
        begun.append(index)
        try:
            await asyncio.sleep(plans[index][0] / 1000)
        finally:
            ended.append(index)
        if plans[index][1] == "error":
            raise ConnectionResetError
        if plans[index][1] == "permanent":
            raise ValueError
        return index

    async def main() -> tuple[str | int, float, int]:
        before = clock.monotonic()
        try:
            result: str | int = await body()
        except ConnectionResetError:
            result = "error"
        except ValueError:
            result = "permanent"
        assert sorted(ended) == begun
        assert len(asyncio.all_tasks()) == 1
        return result, clock.monotonic() - before, len(begun)

    expected = race(plans, after * 3, copies)
    result, took, sent = asyncio.run(main())
    assert (result, sent) == (expected[0], expected[2])
    assert took * 1000 == pytest.approx(expected[1], abs=1e-3)
    clock.release()
