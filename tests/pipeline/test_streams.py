"""Streams: retried only until the first item, held to the end, neutral when closed early, limited per item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.testing import VirtualClock

Collect = Callable[..., list[Any]]


def plain(pipeline: Any, script: list[Any], opened: list[int] | None = None) -> Callable[[], Generator[Any, Any, Any]]:
    """A guarded generator that plays a script: exceptions are raised, numbers below 0 are waited for, the rest yielded."""
    clock = pipeline.clock
    runs = opened if opened is not None else []

    @pipeline(idempotent=True)
    def items() -> Iterator[Any]:
        runs.append(1)
        for step in script[len(runs) - 1] if isinstance(script[0], list) else script:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, float):
                clock.sleep(step)
                continue
            yield step

    return items  # type: ignore[return-value]


def later(pipeline: Any, script: list[Any], opened: list[int] | None = None) -> Callable[[], AsyncGenerator[Any, Any]]:
    """The async form of `plain`."""
    runs = opened if opened is not None else []

    @pipeline(idempotent=True)
    async def items() -> AsyncIterator[Any]:
        runs.append(1)
        for step in script[len(runs) - 1] if isinstance(script[0], list) else script:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, float):
                await pipeline.clock.asleep(step)
                continue
            yield step

    return items  # type: ignore[return-value]


async def _gather(stream: AsyncIterator[Any], into: list[Any]) -> None:
    async for item in stream:
        into.append(item)


@pytest.fixture(params=["sync", "async"])
def collect(request: pytest.FixtureRequest) -> Collect:
    """Run a guarded stream in either world; the items, or what was got before the error (kept in `into`)."""

    def run(pipeline: Any, script: list[Any], into: list[Any] | None = None, opened: list[int] | None = None) -> list[Any]:
        got = into if into is not None else []
        if request.param == "sync":
            for item in plain(pipeline, script, opened)():
                got.append(item)
        else:
            asyncio.run(_gather(later(pipeline, script, opened)(), got))
        return got

    return run


def test_a_stream_is_retried_until_its_first_item_only(seawall_time: VirtualClock, collect: Collect) -> None:
    """Items that the consumer has seen must never come again."""
    opened: list[int] = []
    pipeline = sw.Pipeline(sw.Retry(3, budget=None), sw.CircuitBreaker())
    assert collect(pipeline, [[ConnectionResetError()], [ConnectionResetError()], [1, 2]], opened=opened) == [1, 2]
    assert len(opened) == 3
    got: list[int] = []
    opened.clear()
    with pytest.raises(ConnectionResetError):
        collect(pipeline, [[1, 2, ConnectionResetError()], [1]], into=got, opened=opened)
    assert (got, len(opened)) == ([1, 2], 1)
    assert pipeline.policy(sw.CircuitBreaker).snapshot().failed == 3


def test_an_empty_stream_is_a_success(collect: Collect) -> None:
    """Nothing to say is an answer."""
    breaker = sw.CircuitBreaker()
    assert collect(sw.Pipeline(breaker), [0.0]) == []
    assert breaker.snapshot().calls == 1


def test_a_permit_is_held_to_the_end_of_the_stream(seawall_time: VirtualClock) -> None:
    """A download takes its seat for as long as it runs."""
    bulkhead = sw.Bulkhead(1)
    stream = plain(sw.Pipeline(bulkhead), [1, 2])()
    assert next(stream) == 1
    assert bulkhead.snapshot().taken == 1
    assert list(stream) == [2]
    assert bulkhead.snapshot().taken == 0

    async def main() -> None:
        stream = later(sw.Pipeline(bulkhead), [1, 2])()
        assert await anext(stream) == 1
        assert bulkhead.snapshot().taken == 1
        assert [item async for item in stream] == [2]
        assert bulkhead.snapshot().taken == 0

    asyncio.run(main())


def test_closing_a_stream_early_is_neutral_and_gives_back_what_it_held(seawall_time: VirtualClock) -> None:
    """A reader that has seen enough is no sign of a sick callee."""
    bulkhead, breaker = sw.Bulkhead(1), sw.CircuitBreaker()
    pipeline = sw.Pipeline(bulkhead, breaker)
    stream = plain(pipeline, [1, 2])()
    next(stream)
    stream.close()

    async def main() -> None:
        stream = later(pipeline, [1, 2])()
        await anext(stream)
        await stream.aclose()

    asyncio.run(main())
    assert bulkhead.snapshot().taken == 0
    assert breaker.snapshot().calls == 0
    unopened = plain(pipeline, [1])()
    unopened.close()


def test_an_error_in_the_middle_of_a_stream_counts_as_a_failure(collect: Collect) -> None:
    """A callee that breaks off half-way is broken."""
    breaker, bulkhead = sw.CircuitBreaker(consecutive_failures=1), sw.Bulkhead(1)
    with pytest.raises(OSError):
        collect(sw.Pipeline(breaker, bulkhead), [1, OSError()])
    assert breaker.state == "open"
    assert bulkhead.snapshot().taken == 0


def test_each_item_has_its_own_limit_and_the_consumers_time_is_not_counted(seawall_time: VirtualClock) -> None:
    """A slow reader must not time out its own stream; a stalled source must."""
    pipeline = sw.Pipeline(sw.CircuitBreaker(), sw.Timeout(5, first_item=20, item=2))

    async def main() -> None:
        stream = later(pipeline, [10.0, 1, 1.0, 2, 3.0, 3])()
        before = seawall_time.monotonic()
        assert await anext(stream) == 1
        await asyncio.sleep(100)
        assert await anext(stream) == 2
        with pytest.raises(sw.TimedOut, match="2 s"):
            await anext(stream)
        assert seawall_time.monotonic() - before == pytest.approx(10 + 100 + 1 + 2)
        with pytest.raises(sw.TimedOut, match="20 s"):
            await anext(later(pipeline, [30.0, 1])())

    asyncio.run(main())
    assert pipeline.policy(sw.CircuitBreaker).snapshot().failed == 2


def test_a_sync_streams_items_are_handed_their_deadline_and_none_leaks_to_the_consumer(seawall_time: VirtualClock) -> None:
    """The context of a step must be gone between steps."""
    pipeline = sw.Pipeline(sw.Timeout(5, item=2))
    seen: list[Any] = []

    @pipeline(idempotency_key=lambda: "k")
    def items() -> Iterator[int]:
        for number in range(2):
            seen.append((sw.remaining(), sw.call_key()))
            yield number

    for _ in items():
        assert sw.remaining() is None
        assert sw.call_key() is None
    assert seen == [(pytest.approx(5), "k"), (pytest.approx(2), "k")]


def test_what_a_consumer_sends_and_throws_reaches_the_generator(seawall_time: VirtualClock) -> None:
    """A guarded generator is still a generator, with its protocol and its return value."""
    pipeline = sw.Pipeline(sw.Bulkhead(1))

    @pipeline
    def echo() -> Generator[Any, Any, str]:
        sent = yield "ready"
        try:
            yield sent
        except KeyError:
            yield "caught"
        return "returned"

    stream = echo()
    assert (next(stream), stream.send("hello"), stream.throw(KeyError())) == ("ready", "hello", "caught")
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == "returned"
    ended = echo()
    next(ended)
    with pytest.raises(OSError):
        ended.throw(OSError())

    @pipeline
    def short() -> Generator[int, Any, None]:
        try:
            yield 1
        except KeyError:
            return

    quiet = short()
    next(quiet)
    with pytest.raises(StopIteration):
        quiet.throw(KeyError())

    @pipeline
    async def aecho() -> AsyncGenerator[Any, Any]:
        sent = yield "ready"
        try:
            yield sent
        except KeyError:
            yield "caught"
            return

    @pipeline
    async def ashort() -> AsyncGenerator[Any, Any]:
        try:
            yield 1
        except KeyError:
            return

    async def main() -> None:
        stream = aecho()
        assert await anext(stream) == "ready"
        assert await stream.asend("hello") == "hello"
        assert await stream.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        quiet = ashort()
        await anext(quiet)
        with pytest.raises(StopAsyncIteration):
            await quiet.athrow(KeyError())
        failed = aecho()
        await anext(failed)
        with pytest.raises(OSError):
            await failed.athrow(OSError())

    asyncio.run(main())
    assert pipeline.policy(sw.Bulkhead).snapshot().taken == 0


def test_a_fallback_for_a_stream_is_another_stream(collect: Collect) -> None:
    """What replaces items must be items."""
    assert collect(sw.Pipeline(sw.Fallback([7, 8])), [OSError()]) == [7, 8]


def test_an_async_fallback_stream_is_iterated() -> None:
    """The other source may itself be async."""

    async def other() -> AsyncIterator[int]:
        yield 9

    async def main() -> list[int]:
        return [item async for item in later(sw.Pipeline(sw.Fallback(lambda error: other())), [OSError()])()]

    assert asyncio.run(main()) == [9]


def test_a_stream_under_the_callers_deadline_ends_with_it(seawall_time: VirtualClock) -> None:
    """The first item must come before the caller's moment."""

    async def main() -> None:
        with sw.deadline(1), pytest.raises(sw.TimedOut):
            await anext(later(sw.Pipeline(sw.Bulkhead(1)), [5.0, 1])())

    asyncio.run(main())
