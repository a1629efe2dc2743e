"""Hedging: the tail is cut, the load stays bounded, and nothing is left running."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

import seawall as sw
from seawall.policies.quantile import QuantileRule, read_quantile
from seawall.testing import Script, VirtualClock, capture_events, takes


def ahedge(policy: Any, script: Script) -> Any:
    return asyncio.run(policy(idempotent=True).acall(script.acall))


def test_a_slow_call_is_overtaken_by_its_copy(seawall_time: VirtualClock) -> None:
    """The first answer wins, the loser is cancelled and awaited, and nothing runs on."""
    hedge = sw.Hedge(after=1, budget=None)
    ended: list[str] = []

    async def main() -> tuple[str, float]:
        script = Script(takes(100, "slow"), takes(0.5, "fast"))

        async def call() -> str:
            try:
                return await script.acall()  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        before = seawall_time.monotonic()
        answer = await hedge(idempotent=True).acall(call)
        assert len(asyncio.all_tasks()) == 1
        return answer, seawall_time.monotonic() - before

    with capture_events("hedge.") as events:
        assert asyncio.run(main()) == ("fast", pytest.approx(1.5))
    assert ended == ["cancelled"]
    assert [event.kind for event in events] == ["hedge.sent", "hedge.won"]
    assert (hedge.snapshot().sent, hedge.snapshot().won) == (1, 1)


def test_a_fast_call_has_no_copy(seawall_time: VirtualClock) -> None:
    """The usual case costs one call."""
    script = Script(takes(0.5, "fast"))
    assert ahedge(sw.Hedge(after=1, budget=None), script) == "fast"
    assert len(script.calls) == 1


def test_only_marked_calls_are_copied(seawall_time: VirtualClock) -> None:
    """Two charges are worse than a slow one."""
    script = Script(takes(5, "slow"))
    assert asyncio.run(sw.Hedge(after=1).acall(script.acall)) == "slow"
    assert len(script.calls) == 1


def test_a_failed_copy_sends_the_next_at_once_and_all_failures_raise_the_first(seawall_time: VirtualClock) -> None:
    """A failure tells more than a delay does."""
    before = seawall_time.monotonic()
    script = Script(ConnectionResetError("first"), "second")
    assert ahedge(sw.Hedge(after=10, budget=None), script) == "second"
    assert seawall_time.monotonic() == before
    script = Script(ConnectionResetError("first"), ConnectionResetError("other"))
    with pytest.raises(ConnectionResetError, match="first"):
        ahedge(sw.Hedge(after=10, copies=2, budget=None), script)
    assert len(script.calls) == 3
    script = Script(ValueError("ours"), "never")
    with pytest.raises(ValueError, match="ours"):
        ahedge(sw.Hedge(after=10, budget=None), script)
    assert len(script.calls) == 1


def test_a_permanent_error_of_a_copy_decides_the_race(seawall_time: VirtualClock) -> None:
    """Every other copy would get the same answer."""
    before = seawall_time.monotonic()
    with pytest.raises(ValueError, match="no such"):
        ahedge(sw.Hedge(after=1, budget=None), Script(takes(50, "slow"), takes(1, ValueError("no such"))))
    assert seawall_time.monotonic() - before == pytest.approx(2)


def test_copies_are_paid_for_by_a_shared_budget(seawall_time: VirtualClock) -> None:
    """In a brown-out everything is slow, and hedging everything would finish the callee off."""
    budget = sw.RetryBudget(0.1, floor_per_s=0, ttl=10_000)
    pipeline = sw.Pipeline(sw.Hedge(after=1, budget=budget), sw.Retry(3, budget=budget))
    script = Script(takes(5, 1))
    for _ in range(200):
        ahedge(pipeline, script)
    assert len(script.calls) / 200 <= 1.1 + 0.02
    assert len(script.calls) > 200
    with capture_events("hedge.budget_spent") as events:
        for _ in range(3):
            ahedge(pipeline, script)
    assert events


@pytest.mark.parametrize("state", ["isolated", "open", "half_open"])
def test_nothing_is_hedged_under_a_circuit_that_is_not_closed(seawall_time: VirtualClock, state: str) -> None:
    """A probe is one call, not two."""
    pipeline = sw.Pipeline(sw.Hedge(after=0.1, budget=None), sw.CircuitBreaker(consecutive_failures=1, probes=1))
    breaker = pipeline.policy(sw.CircuitBreaker)
    if state == "isolated":
        breaker.isolate()
    else:
        breaker.try_call(Script(OSError()))
        seawall_time.advance(5 if state == "half_open" else 0)
    script = Script(takes(1, 1))
    if state == "half_open":
        assert breaker.state == "open"
        script = Script(takes(1, 1))
    try:
        ahedge(pipeline, script)
    except sw.CircuitOpen:
        assert state != "half_open"
    assert len(script.calls) <= 1


def test_a_quantile_hedges_the_tail_only(seawall_time: VirtualClock) -> None:
    """Nothing before twenty latencies are known; then about one in twenty, and the tail is gone."""
    hedge = sw.Hedge(after="p95", budget=None)
    draw = random.Random(3)
    asked: list[int] = []

    async def call() -> None:
        asked.append(1)
        await asyncio.sleep(30 if draw.random() < 0.02 else draw.uniform(0.1, 0.2))

    async def main() -> list[float]:
        took = []
        for _ in range(800):
            before = seawall_time.monotonic()
            await hedge(idempotent=True).acall(call)
            took.append(seawall_time.monotonic() - before)
        return took

    took = asyncio.run(main())
    assert hedge.snapshot().delay == pytest.approx(0.2, abs=0.05)
    assert len(asked) / 800 == pytest.approx(1.06, abs=0.05)
    assert sorted(took[100:])[int(700 * 0.99)] < 1


def test_a_cut_race_cancels_its_copies_and_hands_on_whose_limit_it_was(seawall_time: VirtualClock) -> None:
    """The outer limit's verdict reaches the breaker inside every copy; permits come back."""
    bulkhead, breaker = sw.Bulkhead(5), sw.CircuitBreaker()
    pipeline = sw.Pipeline(sw.Timeout(2), sw.Hedge(after=0.5, budget=None), bulkhead, breaker)
    with pytest.raises(sw.TimedOut):
        ahedge(pipeline, Script(takes(60, 1)))
    assert bulkhead.snapshot().taken == 0
    assert breaker.snapshot().failed == 2

    async def main() -> None:
        task = asyncio.create_task(pipeline(idempotent=True).acall(Script(takes(60, 1)).acall))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert bulkhead.snapshot().taken == 0
    assert breaker.snapshot().failed == 2


def test_plain_functions_race_on_threads_and_losers_keep_their_seats() -> None:
    """A thread cannot be ended; pretending that its seat is free would break the limit."""
    slow, bulkhead = threading.Event(), sw.Bulkhead(2)
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) == 1:
            slow.wait(10)
            return "slow"
        return "fast"

    pipeline = sw.Pipeline(bulkhead, sw.Hedge(after=0.01, budget=None))
    assert pipeline(idempotent=True).call(call) == "fast"
    assert bulkhead.snapshot().taken == 1
    slow.set()
    for _ in range(1000):
        if not bulkhead.snapshot().taken:
            break
        threading.Event().wait(0.005)
    assert bulkhead.snapshot().taken == 0
    with pytest.raises(OSError):
        pipeline(idempotent=True).call(Script(OSError()))
    with pytest.raises(OSError):
        pipeline.call(Script(OSError()))


def test_a_hedge_that_cannot_work_is_refused_when_made() -> None:
    """The error names the parameter."""
    for bad in ({"after": -1}, {"after": "p0"}, {"after": "p100"}, {"after": "px"}, {"copies": 0}, {"copies": 11}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            sw.Hedge(**bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="budget"):
        sw.Hedge(budget=1)  # type: ignore[arg-type]
    with pytest.raises(sw.Misplaced):
        sw.Hedge().permit()
    assert sw.Hedge("50ms").snapshot().delay == 0.05
    with pytest.raises(ValueError, match="quantile"):
        QuantileRule(quantile=1.0)
    assert read_quantile("after", "p99.9") == pytest.approx(0.999)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95, 0.99])
def test_a_streaming_quantile_comes_to_rest_near_the_true_one(quantile: float) -> None:
    """The share of samples below the estimate is what was asked for."""
    rule, draw = QuantileRule(quantile=quantile), random.Random(1)
    state = rule.start(0)
    below = 0
    for number in range(20_000):
        sample = draw.lognormvariate(0, 1)
        if number >= 10_000:
            below += sample <= state.value
        rule.observe(state, sample)
    assert below / 10_000 == pytest.approx(quantile, abs=0.03)
    assert rule.estimate(rule.start(0)) is None


def test_cut_samples_do_not_pull_a_quantile_down() -> None:
    """Cancelled losers took at least so long: below the estimate they say nothing."""
    rule = QuantileRule(quantile=0.9)
    state = rule.start(0)
    rule.observe(state, 5.0, cut=True)
    assert state.count == 0
    for _ in range(100):
        rule.observe(state, 1.0)
    before = state.value
    rule.observe(state, 0.1, cut=True)
    assert state.value == before
    rule.observe(state, 50.0, cut=True)
    assert state.value > before
