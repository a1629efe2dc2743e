"""Chaos on purpose: only when called by name, as much as was said, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import seawall as sw
from seawall.policies.fault import NOTHING, FaultRule, Plan
from seawall.testing import Script, VirtualClock, capture_events


def test_the_defaults_are_those_of_the_front_door() -> None:
    """A drill that breaks more than was thought is an outage."""
    rule = FaultRule()
    assert (rule.share, rule.latency, rule.jitter, rule.item_latency) == (0.1, 0.0, 0.0, 0.0)
    assert (rule.cut_after, rule.at_most, rule.error_budget, rule.breaks) == (None, 1000, None, False)
    assert not rule.does_something
    assert Plan() == NOTHING == Plan(delay=0.0, fails=False, late=False, item_delay=0.0, cut_after=None, events=())


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


class Streams:
    """A stream of five items in either world, and whether it was closed."""

    def __init__(self, fault: sw.Policy | sw.Pipeline, kind: str) -> None:
        self.closed = 0
        self.kind = kind
        self._sync, self._async = fault(self._items), fault(self._later)

    def _items(self) -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            self.closed += 1

    async def _later(self) -> AsyncIterator[int]:
        try:
            for number in range(5):
                yield number
        finally:
            self.closed += 1

    def read(self, into: list[int] | None = None) -> list[int]:
        """All items, or those that came before the error."""
        seen: list[int] = [] if into is None else into

        async def collect() -> None:
            async for item in self._async():
                seen.append(item)

        if self.kind == "async":
            asyncio.run(collect())
        else:
            for item in self._sync():
                seen.append(item)
        return seen


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_slow_stream_holds_up_each_item(seawall_time: VirtualClock, kind: str) -> None:
    """A body that drips is the fault that no connect timeout sees."""
    fault = sw.Fault("drip", share=1, latency=1, item_latency="250ms")
    streams = Streams(fault, kind)
    with sw.faults("drip"), capture_events("fault.injected") as events:
        before = seawall_time.monotonic()
        assert streams.read() == [0, 1, 2, 3, 4]
        assert seawall_time.monotonic() - before == pytest.approx(1 + 5 * 0.25)  # the end of the stream drips as well
    assert [event.data["item_delay"] for event in events] == [0.25]
    before = seawall_time.monotonic()
    assert streams.read() == [0, 1, 2, 3, 4]
    assert seawall_time.monotonic() == before


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("arrive", "expected"), [(0, []), (1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])])
def test_a_stream_is_cut_short_without_a_word(kind: str, arrive: int, expected: list[int]) -> None:
    """The nastiest partial body: it looks complete."""
    streams = Streams(sw.Fault("cut", share=1, cut_after=arrive), kind)
    with sw.faults("cut"):
        assert streams.read() == expected
    assert streams.closed == (1 if arrive else 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_breaks_off_with_an_error_that_the_guards_around_it_see(kind: str) -> None:
    """A breaker that counts opened streams as well must hear that this one died."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    pipeline = sw.Pipeline(breaker, sw.Fault("cut", share=1, cut_after=2, error=ConnectionResetError))
    streams, seen = Streams(pipeline, kind), []
    with sw.faults("cut"), pytest.raises(ConnectionResetError):
        streams.read(seen)
    assert (seen, streams.closed, breaker.state) == ([0, 1], 1, "open")
    assert pipeline.policy(sw.Fault).snapshot().failed == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_only_the_drawn_streams_are_broken_and_two_faults_do_not_mix(kind: str) -> None:
    """Each stream has a plan of its own, also when a retry opens it anew."""
    fault = sw.Fault("cut", share=0.5, cut_after=1, clock=VirtualClock(seed=3))
    other = sw.Fault("late", share=0.5, cut_after=3, clock=fault.own_clock)
    streams = Streams(sw.Pipeline(other, fault), kind)
    with sw.faults("cut", "late"):
        lengths = [len(streams.read()) for _ in range(60)]
    assert set(lengths) == {1, 3, 5}
    assert fault.snapshot().broken == lengths.count(1)
    retried = sw.Fault("cut", share=1, cut_after=1, at_most=1)
    failing = Script(OSError(), 7)

    @sw.Pipeline(sw.Retry(2, on=OSError, backoff=sw.Backoff(base=1e-6, cap=1e-5)), retried)
    def items() -> Iterator[int]:
        yield failing()
        yield 8

    with sw.faults("cut"):
        assert list(items()) == [7, 8]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_drill_that_is_called_off_leaves_open_streams_alone(seawall_time: VirtualClock, kind: str) -> None:
    """The end of the drill is the end of the drill."""
    fault = sw.Fault("cut", share=1, cut_after=2, item_latency=1)
    streams = Streams(fault, kind)
    if kind == "sync":
        with sw.faults("cut"):
            source = streams._sync()
            first = next(source)
        assert [first, *source] == [0, 1, 2, 3, 4]
        return

    async def main() -> list[int]:
        with sw.faults("cut"):
            source = streams._async()
            first = await anext(source)
        return [first, *[item async for item in source]]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("body", [b"abcdef", bytearray(b"abcdef"), memoryview(b"abcdef"), "abcdef"])
def test_a_body_arrives_in_part(body: Any) -> None:
    """Short, of the same type, and without a word; or with an error where the rest should come."""
    cut = sw.Fault("cut", share=1, cut_after=4)
    with sw.faults("cut"):
        short = cut.call(lambda: body)
        assert short == body[:4]
        assert type(short) is type(body)
        assert asyncio.run(cut.acall(Script(body).acall)) == body[:4]
        assert sw.Fault("cut", share=1, cut_after=0).call(lambda: body) == body[:0]
        assert sw.Fault("cut", share=1, cut_after=6, error=EOFError).call(lambda: body) == body
        script = Script(body)
        with pytest.raises(EOFError):
            sw.Fault("cut", share=1, cut_after=5, error=EOFError).call(script)
        assert len(script.calls) == 1
        with pytest.raises(sw.Misplaced, match="returned dict"):
            cut.call(dict)
    assert cut.call(lambda: body) == body


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_it_stops_for_good_once_the_error_budget_is_spent(seawall_time: VirtualClock, kind: str) -> None:
    """Own faults, the callee's errors and cuts by our limits all cost; a bug of the caller's does not."""
    fault = sw.Fault("drill", share=1, error=OSError, error_budget=4, when=lambda broken=True: broken)
    pipeline = sw.Pipeline(sw.Timeout(1), fault, classifier=sw.DefaultClassifier(responses=True))

    def call(script: Script, *arguments: Any) -> sw.Result[Any]:
        if kind == "sync":
            return pipeline.try_call(script, *arguments)
        return asyncio.run(pipeline.atry_call(script.acall, *arguments))

    with sw.faults("drill"), capture_events("fault.stopped") as events:
        assert isinstance(call(Script(1)).error, OSError)
        assert isinstance(call(Script(RuntimeError()), False).error, RuntimeError)
        assert isinstance(call(Script(ValueError()), False).error, ValueError)
        assert fault.snapshot().failed == 2
        assert call(Script(SimpleNamespace(status_code=500)), False).ok
        assert fault.snapshot().active
        assert isinstance(call(Script(1)).error, OSError)
        assert [event.data for event in events] == [{"failed": 4, "broken": 2}]
        assert not fault.snapshot().active
        assert call(Script(1)).value == 1
        fault.restart()
        assert fault.snapshot() == type(fault.snapshot())("fault", "drill", active=True, seen=0, broken=0, failed=0)


def test_calls_that_a_limit_cuts_because_of_the_drill_spend_the_budget(seawall_time: VirtualClock) -> None:
    """A latency drill raises no errors of its own, and breaks calls all the same."""
    fault = sw.Fault("slow", share=1, latency=5, error_budget=2)
    pipeline = sw.Pipeline(sw.CircuitBreaker(), sw.Timeout(1), fault)
    with sw.faults("slow"):
        for _ in range(2):
            with pytest.raises(sw.TimedOut):
                asyncio.run(pipeline.acall(Script(1).acall))
        assert not fault.snapshot().active
        assert asyncio.run(pipeline.acall(Script(1).acall)) == 1
    assert pipeline.policy(sw.CircuitBreaker).snapshot().failed == 2


def test_on_plain_functions_a_fault_ends_at_the_deadline_as_a_good_callee_would(seawall_time: VirtualClock) -> None:
    """A drill must not hold threads longer than anybody waits for them."""
    pipeline = sw.Pipeline(sw.CircuitBreaker(), sw.Timeout(2), sw.Fault("slow", share=1, latency=30))
    script = Script(1)
    with sw.faults("slow"), pytest.raises(sw.TimedOut, match="held it up") as caught:
        before = seawall_time.monotonic()
        pipeline.call(script)
    assert seawall_time.monotonic() - before == pytest.approx(2)
    assert (caught.value.policy, len(script.calls)) == ("slow", 0)
    assert pipeline.policy(sw.CircuitBreaker).snapshot().failed == 1
    drip = sw.Pipeline(sw.Timeout(9, item=2), sw.Fault("drip", share=1, item_latency=30))

    @drip
    def items() -> Iterator[int]:
        yield from range(3)

    with sw.faults("drip"), pytest.raises(sw.TimedOut, match="held it up"):
        before = seawall_time.monotonic()
        list(items())
    assert seawall_time.monotonic() - before == pytest.approx(2)


def test_it_is_targeted_by_what_travels_with_the_call() -> None:
    """A drill on the traffic that may be shed harms nobody who pays."""
    fault = sw.Fault("drill", share=1, error=OSError, when=lambda: sw.current().priority == "sheddable")
    with sw.faults("drill"):
        assert fault.call(lambda: 1) == 1
        with sw.priority("sheddable"):
            assert not fault.try_call(lambda: 1).ok


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"share": 2, "latency": 1}, "share"),
        ({"latency": -1}, "latency"),
        ({"jitter": -1}, "jitter"),
        ({"error": 5}, "error"),
        ({"error": OSError, "result": 1}, "error and result"),
        ({"cut_after": 1, "result": 1}, "result stands alone"),
        ({"item_latency": -1}, "item_latency"),
        ({"cut_after": -1}, "cut_after"),
        ({"cut_after": 0.5}, "cut_after"),
        ({"latency": 1, "error_budget": 0}, "error_budget"),
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
