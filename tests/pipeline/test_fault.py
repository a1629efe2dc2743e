"""Chaos on purpose: only when called by name, as much as was said, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock, capture_events


def test_a_fault_does_nothing_until_its_name_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault left in the code must not be an outage in the night."""
    fault = sw.Fault("drill", share=1, error=ConnectionResetError)
    for _ in range(100):
        assert fault.call(lambda: 1) == 1
    with sw.faults("another"):
        assert fault.call(lambda: 1) == 1
    assert fault.snapshot() == type(fault.snapshot())("fault", "drill", active=False, seen=0, broken=0)
    with sw.faults("drill"), pytest.raises(ConnectionResetError):
        fault.call(lambda: 1)
    assert fault.call(lambda: 1) == 1
    monkeypatch.setenv("SEAWALL_FAULTS", "x,drill")
    assert fault.snapshot().active
    with pytest.raises(ConnectionResetError):
        asyncio.run(fault.acall(Script(1).acall))


def test_a_share_of_calls_is_broken_and_a_seed_repeats_the_run() -> None:
    """A drill that cannot be repeated explains nothing."""

    def drill(seed: int) -> list[bool]:
        fault = sw.Fault("drill", share=0.3, error=OSError("drill"), clock=VirtualClock(seed=seed))
        with sw.faults("drill"):
            return [fault.try_call(lambda: 1).ok for _ in range(1000)]

    assert drill(1) == drill(1) != drill(2)
    assert drill(1).count(False) == pytest.approx(300, abs=50)


def test_latency_holds_calls_up_and_the_limits_around_it_see_it(seawall_time: VirtualClock) -> None:
    """It looks like the callee to everything outside: timeouts cut it, the breaker counts it."""
    pipeline = sw.Pipeline(sw.CircuitBreaker(), sw.Timeout(2), sw.Fault("slow", share=1, latency=1, jitter="500ms"))
    with sw.faults("slow"):
        before = seawall_time.monotonic()
        assert asyncio.run(pipeline.acall(Script(1).acall)) == 1
        assert pipeline.call(lambda: 1) == 1
        assert 2 <= seawall_time.monotonic() - before <= 3
    worse = sw.Pipeline(sw.CircuitBreaker(), sw.Timeout(2), sw.Fault("slow", share=1, latency=30))
    with sw.faults("slow"), pytest.raises(sw.TimedOut):
        asyncio.run(worse.acall(Script(1).acall))
    assert worse.policy(sw.CircuitBreaker).snapshot().failed == 1


def test_a_result_takes_the_place_of_the_call() -> None:
    """Wrong answers are worth a drill as well; streams get another stream."""
    fault = sw.Fault("wrong", share=1, result=[])
    script = Script("right")

    @fault
    def items() -> Iterator[int]:
        yield 1

    @fault
    async def later() -> AsyncIterator[int]:
        yield 1

    async def collect() -> list[int]:
        return [item async for item in later()]

    with sw.faults("wrong"), capture_events("fault.") as events:
        assert fault.call(script) == []
        assert list(items()) == []
        assert asyncio.run(collect()) == []
    assert len(events) == 3
    assert not script.calls
    with sw.faults("none"), pytest.raises(sw.Misplaced, match="iterable"):
        list(sw.Fault("none", share=1, result=5)(items)())


def test_it_is_targeted_capped_and_stops_itself() -> None:
    """The blast radius is what was said."""
    fault = sw.Fault("drill", share=1, error=OSError, when=lambda tenant: tenant == "test", at_most=3)
    with sw.faults("drill"):
        assert all(fault.try_call(lambda tenant: 1, "real").ok for _ in range(10))
        assert [fault.try_call(lambda tenant: 1, "test").ok for _ in range(5)] == [False, False, False, True, True]
    assert (fault.snapshot().broken, fault.snapshot().seen) == (3, 5)
    fault.restart()
    fault.reopen()
    assert fault.snapshot().broken == 0
    breaker = sw.CircuitBreaker(consecutive_failures=2)
    drill = sw.Pipeline(breaker, sw.Fault("drill", share=1, error=OSError, stop_when=lambda: breaker.snapshot().opened > 0))
    with sw.faults("drill"):
        assert [drill.try_call(lambda: 1).ok for _ in range(2)] == [False, False]
        breaker.reset()
        assert drill.call(lambda: 1) == 1


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"share": 2, "latency": 1}, "share"),
        ({"latency": -1}, "latency"),
        ({"jitter": -1}, "jitter"),
        ({"error": 5}, "error"),
        ({"error": OSError, "result": 1}, "error and result"),
        ({}, "nothing would be broken"),
        ({"latency": 1, "when": 5}, "when"),
        ({"latency": 1, "stop_when": 5}, "stop_when"),
        ({"latency": 1, "at_most": 0}, "at_most"),
    ],
)
def test_a_fault_that_cannot_work_is_refused_when_made(bad: dict[str, Any], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=named):
        sw.Fault("drill", **bad)
    with pytest.raises(TypeError, match="names"), sw.faults(""):
        pass
