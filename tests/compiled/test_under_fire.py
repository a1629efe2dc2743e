"""Compiled and plain calls on the same policies, from many threads, under tracing, and cancelled at every step."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import seawall as sw
from seawall.pipeline import compiler

THREADS, CALLS = 16, 150
pytestmark = pytest.mark.skipif(not compiler.enabled(), reason="SEAWALL_COMPILE=0: nothing is compiled")


@contextmanager
def fast_switches() -> Iterator[None]:
    """A thread may be switched after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def line_tracing() -> Iterator[None]:
    """A debugger's view: a call between any two lines, so that a switch can come there too."""

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return trace

    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


def hammer(work: Callable[[int], None]) -> None:
    """Let 16 threads work at once; their errors come out here."""
    errors: list[BaseException] = []
    ready = threading.Barrier(THREADS)

    def run() -> None:
        try:
            ready.wait()
            for number in range(CALLS):
                work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def both(pipeline: sw.Pipeline, function: Callable[[], Any]) -> Callable[[int], Any]:
    """Every third call plain, the others compiled."""
    compiled = pipeline(function)
    assert compiled.__code__.co_filename.startswith("<seawall")
    return lambda number: compiled() if number % 3 else pipeline.plain_sync(function, (), {}, compiler.UNMARKED)


@pytest.mark.parametrize("traced", [False, True])
def test_a_limiter_stays_exact(traced: bool) -> None:
    """L1: not one call more than the limit, whichever way calls come."""
    passed: list[int] = []
    pipeline = sw.Pipeline(sw.RateLimiter("1000/h"), name="exact")
    call = both(pipeline, lambda: passed.append(1))

    def work(number: int) -> None:
        try:
            call(number)
        except sw.RateLimited:
            return

    with fast_switches(), line_tracing() if traced else fast_switches():
        hammer(work)
    assert len(passed) == 1000


@pytest.mark.parametrize("traced", [False, True])
def test_a_bulkhead_never_lets_one_too_many_in(traced: bool) -> None:
    """BH1: peak = limit, and every seat is back."""
    lock, inside, peak = threading.Lock(), 0, 0

    def body() -> None:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        with lock:
            inside -= 1

    bulkhead = sw.Bulkhead(4, queue=THREADS)
    call = both(sw.Pipeline(bulkhead, name="seats"), body)
    with fast_switches(), line_tracing() if traced else fast_switches():
        hammer(lambda number: call(number))
    state = bulkhead.cell.state
    assert peak <= 4
    assert (len(state.free), len(state.queue), bulkhead.snapshot().taken) == (4, 0, 0)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("window", [{"window_calls": 100_000}, {"window": 3600}])
def test_a_breaker_records_every_success(traced: bool, window: dict[str, Any]) -> None:
    """B2: no success is lost between threads."""
    breaker = sw.CircuitBreaker(consecutive_failures=None, **window)
    call = both(sw.Pipeline(breaker, name="counts"), lambda: 1)
    with fast_switches(), line_tracing() if traced else fast_switches():
        hammer(lambda number: call(number))
    assert breaker.snapshot().calls == THREADS * CALLS


def test_all_together_come_out_even() -> None:
    """The whole pipeline, with failures: seats back, budget counted, circuit consistent."""
    turns = iter(range(10**9))

    def body() -> int:
        if next(turns) % 7 == 0:
            raise OSError("down")
        return 1

    pipeline = sw.Pipeline(
        sw.RateLimiter("1000000/s"),
        sw.Retry(2, on=OSError, backoff=sw.Backoff(base=1e-6)),
        sw.CircuitBreaker(consecutive_failures=None, window_calls=50, failure_ratio=0.9),
        sw.Bulkhead(3, queue=64),
        name="all",
    )
    call = both(pipeline, body)

    def work(number: int) -> None:
        try:
            call(number)
        except (OSError, sw.Rejected):
            return

    with fast_switches():
        hammer(work)
    assert pipeline.policy(sw.Bulkhead).snapshot().taken == 0
    budget = pipeline.policy(sw.Retry).budget
    assert budget is not None
    assert budget.snapshot().calls == THREADS * CALLS


class Cut(Exception):
    """Thrown where a task is suspended."""


def test_a_cancellation_at_any_await_loses_nothing() -> None:
    """Whichever step a compiled call is in, its seat comes back, its limit is disarmed and its context is as before."""

    async def main() -> int:
        pipeline = sw.Pipeline(
            sw.Timeout(30, name="total"),
            sw.Retry(3, on=OSError, backoff=sw.Backoff(base=1e-4)),
            sw.CircuitBreaker(window_calls=10, consecutive_failures=None, failure_ratio=None, slow_call=60),
            sw.Bulkhead(1, queue=2),
            sw.Timeout(20, name="attempt"),
            name="steps",
        )
        tries = 0

        @pipeline(idempotent=True)
        async def call() -> int:
            nonlocal tries
            tries += 1
            await asyncio.sleep(0)
            if tries % 2:
                raise OSError("down")
            await asyncio.sleep(0)
            return 1

        steps = 0
        for step in range(1, 60):
            task = asyncio.create_task(call())
            for _ in range(step):
                await asyncio.sleep(0)
            ended = task.done()
            task.cancel()
            await asyncio.wait([task])
            bulkhead = pipeline.policy(sw.Bulkhead).cell.state
            assert (len(bulkhead.free), len(bulkhead.queue)) == (1, 0)
            for number in (0, 4):
                assert not call.__seawall__.names[f"_sw_lanes{number}"].lane.entries
            assert sw.call_key() is None
            assert sw.remaining() is None
            steps += 1
            if ended:
                break
        return steps

    assert asyncio.run(main()) > 3
