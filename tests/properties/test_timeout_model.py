"""Timeout and AdaptiveTimeout against naive models: nested limits, a caller's deadline, and what is learned from cuts."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import seawall as sw
from seawall.core import clock as clocks
from seawall.policies.quantile import QuantileRule
from seawall.testing import VirtualClock

TICK = 5e-3  # seconds: how exactly a timer that is made once and armed per call has to keep its moment
LENGTHS = st.sampled_from([0.5, 1.5, 2.5, 3.5, 4.5, 9.5])


class TimeoutMachine(RuleBasedStateMachine):
    """Calls of any length under an outer and an inner limit and a deadline; what was left over must not leak into the next."""

    @initialize(outer=st.sampled_from([2.0, 4.0, 8.0]), inner=st.sampled_from([1.0, 3.0, 6.0]), ratio=st.booleans())
    def begin(self, outer: float, inner: float, ratio: bool) -> None:
        self.clock = VirtualClock()
        self.outer, self.inner = sw.Timeout(outer, name="outer"), sw.Timeout(inner, name="inner")
        self.breaker = sw.CircuitBreaker(consecutive_failures=None, failure_ratio=1.0, minimum_calls=10_000, window=1e6)
        self.pipeline = sw.Pipeline(self.outer, self.breaker, self.inner, clock=self.clock)
        self.expired = {"outer": 0, "inner": 0}
        self.failed = self.calls = 0

    def teardown(self) -> None:
        if hasattr(self, "clock"):
            self.clock.release()

    def limits(self, deadline: float | None) -> tuple[str, float]:
        """Whose limit is the nearest, and when."""
        limits = {"deadline": deadline or float("inf"), "outer": self.outer.seconds, "inner": self.inner.seconds}
        return min(limits.items(), key=lambda item: item[1])

    @rule(length=LENGTHS, deadline=st.sampled_from([None, 0.75, 3.25, 7.25]))
    def call_async(self, length: float, deadline: float | None) -> None:
        whose, moment = self.limits(deadline)
        before = self.clock.monotonic()
        cut = self.run(self.guarded_async(length), deadline)
        assert self.clock.monotonic() - before == pytest.approx(min(length, moment), abs=TICK)
        if length <= moment:
            assert cut is None
            self.calls += 1
            return
        assert cut == whose
        if whose != "deadline":
            self.expired[whose] += 1
            self.calls += 1  # either limit is of this pipeline, and the attempt had all of it
            self.failed += 1

    @rule(length=LENGTHS, deadline=st.sampled_from([None, 0.75, 3.25, 7.25]))
    def call_sync(self, length: float, deadline: float | None) -> None:
        """Plain functions are handed the nearest moment, and not interrupted."""
        _, moment = self.limits(deadline)
        seen: list[float | None] = []

        def body() -> None:
            seen.append(sw.remaining())
            self.clock.sleep(length)

        before = self.clock.monotonic()
        assert self.run(lambda: self.pipeline.call(body), deadline) is None
        assert seen == [pytest.approx(moment)]
        assert self.clock.monotonic() - before == pytest.approx(length)
        self.calls += 1

    @rule(length=LENGTHS, limit=st.sampled_from([1.0, 5.0]))
    def call_on_a_thread(self, length: float, limit: float) -> None:
        hop = sw.Timeout(limit, sync="thread", clock=self.clock)
        before = self.clock.monotonic()
        cut = self.run(lambda: hop.call(self.clock.sleep, length), None)
        assert cut == ("timeout" if length > limit else None)
        assert self.clock.monotonic() - before >= min(length, limit) - TICK
        while hop.snapshot().abandoned:
            self.clock.sleep(0.25)

    def guarded_async(self, length: float) -> Any:
        async def main() -> None:
            await self.pipeline.acall(self.clock.asleep, length)

        return lambda: asyncio.run(main())

    def run(self, work: Any, deadline: float | None) -> str | None:
        """Whose limit cut it, or None."""
        real = clocks.override(self.clock)
        try:
            with nullcontext() if deadline is None else sw.deadline(deadline):
                work()
        except sw.TimedOut as error:
            return error.policy
        finally:
            clocks.override(real)
        return None

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "pipeline"):
            assert self.expired == {"outer": self.outer.snapshot().expired, "inner": self.inner.snapshot().expired}
            assert (self.breaker.snapshot().calls, self.breaker.snapshot().failed) == (self.calls, self.failed)
            assert sw.remaining() is None


TimeoutMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


class TestTimeout(TimeoutMachine.TestCase):  # type: ignore[name-defined,misc]
    """The nearest limit wins, is blamed, and leaves nothing behind, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(st.tuples(st.floats(0.001, 3), st.booleans()), min_size=1, max_size=60), factor=st.sampled_from([1.0, 2.0]))
def test_an_adaptive_limit_is_what_the_latencies_say(calls: list[tuple[float, bool]], factor: float) -> None:
    """Good calls teach their length, cut ones "at least the limit", failed ones nothing; always within the bounds."""
    clock = VirtualClock()
    timeout = sw.AdaptiveTimeout("p90", factor=factor, least=0.05, most=2, clock=clock)
    rule = QuantileRule(quantile=0.9)
    model = rule.start(0.0)

    async def body(length: float, fails: bool) -> None:
        await asyncio.sleep(length)
        if fails:
            raise OSError

    async def main() -> None:
        for length, fails in calls:
            known = rule.estimate(model)
            limit = 2.0 if known is None else min(2.0, max(0.05, factor * known))
            assert timeout.limit == pytest.approx(limit, rel=1e-6)
            if abs(length - limit) < 1e-6:
                continue  # a tie may go either way
            before = clock.monotonic()
            try:
                await timeout.acall(body, length, fails)
            except sw.TimedOut:
                assert length > limit
                rule.observe(model, limit, cut=True)
            except OSError:
                assert length <= limit
            else:
                rule.observe(model, length)
            assert clock.monotonic() - before == pytest.approx(min(length, limit), abs=TICK)

    asyncio.run(main())
    clock.release()
