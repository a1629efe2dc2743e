"""The kit that our users test with: virtual time, modes, scripts, the pytest fixture."""

from __future__ import annotations

import asyncio
import selectors
import threading
from typing import Any

import pytest

import seawall as sw
from seawall.core import clock as clocks
from seawall.testing import Script, VirtualClock, takes

AT_IMPORT = sw.Pipeline(sw.CircuitBreaker(consecutive_failures=1), name="at import")


def test_time_passes_only_when_told_or_when_everything_waits() -> None:
    """A test of sixty seconds takes no time, and exactly sixty seconds."""
    clock = VirtualClock(start=5, wall=100)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.wall()) == (6.5, 101.5)
    clock.sleep(60)
    clock.sleep(0)
    assert clock.monotonic() == 66.5
    assert not clock.wait(threading.Event(), 3)
    assert clock.monotonic() == 69.5
    flag = threading.Event()
    flag.set()
    assert clock.wait(flag, None)
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="seconds"):
            clock.advance(bad)


def test_an_event_loop_lives_in_virtual_time_from_its_first_guarded_call() -> None:
    """asyncio's own sleeps and timeouts follow, in order, exactly; and the loop gets its own time back."""
    clock = VirtualClock()

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        await clock.asleep(0)
        began, seen = clock.monotonic(), []

        async def note(after: float) -> None:
            await asyncio.sleep(after)
            seen.append(clock.monotonic() - began)

        await asyncio.gather(note(3), note(1), note(2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(1000)
        seen.append(clock.monotonic() - began)
        assert await loop.run_in_executor(None, lambda: 5) == 5
        assert clock.monotonic() - began == pytest.approx(13)
        virtual = loop.time()
        clock.release()
        assert abs(loop.time() - virtual) > 1e-6
        clock.release()
        return seen

    assert asyncio.run(main()) == pytest.approx([1, 2, 3, 13])


def test_without_autojump_time_stands_still_until_it_is_moved() -> None:
    """A test can hold time, look, and let it go on."""
    clock = VirtualClock(autojump=False)
    done = threading.Event()

    def sleeper() -> None:
        clock.sleep(10)
        done.set()

    thread = threading.Thread(target=sleeper, daemon=True)
    thread.start()
    assert not done.wait(0.02)
    clock.advance(10)
    assert done.wait(10)

    async def main() -> None:
        task = asyncio.create_task(clock.asleep(5))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        threading.Thread(target=clock.advance, args=[5], daemon=True).start()
        await task
        assert loop.time() > 0

    asyncio.run(main())


def test_work_in_an_executor_holds_time_still() -> None:
    """A timeout must not fire because a worker thread does honest work."""
    clock, release = VirtualClock(), threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await clock.asleep(0)
        before = clock.monotonic()
        working = loop.run_in_executor(None, release.wait, 10)
        sleeping = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        threading.Timer(0.02, release.set).start()
        await working
        assert clock.monotonic() == before
        await sleeping
        assert clock.monotonic() == pytest.approx(before + 100)

    asyncio.run(main())


def test_a_loop_that_is_not_asyncios_is_refused_with_a_reason() -> None:
    """Silent real time would make a test lie."""

    class Foreign(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            super().__init__(selectors.DefaultSelector())
            self._kept, self._selector = self._selector, None  # type: ignore[has-type]

    loop = Foreign()
    try:
        with pytest.raises(RuntimeError, match="asyncio's own event loop; Foreign"):
            VirtualClock().adopt(loop)
    finally:
        loop._selector = loop._kept
        loop.close()


def test_closed_loops_are_forgotten() -> None:
    """A clock shared by a whole session must not keep every loop alive."""
    clock = VirtualClock()
    for _ in range(5):
        asyncio.run(clock.asleep(1))
    assert len(clock._loops) == 1
    clock.advance(1)


def test_two_threads_take_turns_in_virtual_time() -> None:
    """Time jumps moment by moment, and ends at the latest that anybody waited for."""
    clock = VirtualClock()
    order: list[str] = []
    both = threading.Barrier(2)

    def sleeper(name: str, length: float) -> None:
        both.wait(10)
        clock.wait(threading.Event(), length)
        order.append(name)

    with clock.job():
        threads = [threading.Thread(target=sleeper, args=pair) for pair in (("late", 20.0), ("soon", 10.0))]
        for thread in threads:
            thread.start()
        while len(clock._moments) < 2:
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join(10)
    assert sorted(order) == ["late", "soon"]
    assert clock.monotonic() == 1020


def test_the_fixture_starts_pipelines_of_import_afresh(seawall_time: VirtualClock) -> None:
    """State of one test must never reach the next, and time is virtual for pipelines built long before."""
    assert AT_IMPORT.policies[0].snapshot().state == "closed"
    with pytest.raises(OSError):
        AT_IMPORT.call(Script(OSError()))
    assert AT_IMPORT.policies[0].snapshot().state == "open"
    assert AT_IMPORT.clock is seawall_time
    seawall_time.advance(5)
    assert AT_IMPORT.call(lambda: 1) == 1


def test_the_fixture_leaves_nothing_behind() -> None:
    """The test before this one opened the circuit; nobody must notice."""
    assert AT_IMPORT.policies[0].snapshot().opened == 0
    assert AT_IMPORT.clock is clocks.default()


def test_restarting_keeps_state_objects_in_place() -> None:
    """Compiled functions hold the state object itself; a new one would be another circuit."""
    breaker, bulkhead, limiter = sw.CircuitBreaker(), sw.Bulkhead(2), sw.RateLimiter("5/s")
    before = breaker.cell.state, bulkhead.cell.state, limiter.cell.state
    free = bulkhead.cell.state.free
    with bulkhead.permit():
        for policy in (breaker, bulkhead, limiter):
            policy.restart()
    assert (breaker.cell.state, bulkhead.cell.state, limiter.cell.state) == before
    assert bulkhead.cell.state.free is free
    assert bulkhead.snapshot().taken == 0


def test_instant_mode_waits_for_nothing_and_lists_the_waits() -> None:
    """The waits of a retry are worth an assertion of their own."""
    retry = sw.Retry(3, on=OSError, backoff=sw.Backoff(base=2, jitter="none"))
    with sw.testing.instant() as waits:
        assert retry.call(Script(OSError(), OSError(), 1)) == 1
        assert asyncio.run(retry.acall(Script(OSError(), 1).acall)) == 1
    assert waits == [2, 4, 2]


def test_a_script_plays_its_outcomes_and_repeats_the_last(seawall_time: VirtualClock) -> None:
    """A scripted callee says what it was asked."""
    script = Script(1, takes(2, OSError()))
    assert script("a", b=2) == 1
    before = seawall_time.monotonic()
    for _ in range(2):
        with pytest.raises(OSError):
            script()
    assert seawall_time.monotonic() - before == 4
    assert script.calls[0] == (("a",), {"b": 2})

    async def main() -> Any:
        return await Script(takes(3, "x")).acall()

    assert asyncio.run(main()) == "x"
    with pytest.raises(ValueError, match="at least one outcome"):
        Script()
    with pytest.raises(ValueError, match="seconds"):
        takes(-1)


def test_the_ports_do_what_guards_expect_of_them(seawall_time: VirtualClock) -> None:
    """spawn, call_later and random, in both worlds, on any clock."""
    threads, seen = seawall_time.threads, threading.Event()
    threads.spawn(seen.set)
    assert seen.wait(10)
    seen.clear()
    threads.call_later(5, seen.set)
    assert seen.wait(10)
    never = threads.call_later(1e9, seen.clear)
    never.cancel()
    assert 0 <= threads.random() < 1
    timer = threads.timer(3)
    armed = timer.arm("owner")
    assert (armed[4].owner, armed[4].limit, timer.fired(armed, OSError())) == ("owner", 3, False)
    timer.disarm(armed)

    async def main() -> None:
        port = seawall_time.tasks
        assert 0 <= port.random() < 1
        called = asyncio.Event()
        port.call_later(5, called.set)
        await called.wait()
        assert await port.spawn(asyncio.sleep, 0, "x") == "x"
        event = port.event()
        assert not await event.wait(1)
        event.set()
        assert await event.wait()
        outcome: list[BaseException] = []

        def outside() -> None:
            try:
                port.timer(1).arm()
            except RuntimeError as error:
                outcome.append(error)

        asyncio.get_running_loop().call_soon(outside)
        await asyncio.sleep(0)
        assert "needs a task" in str(outcome[0])

    asyncio.run(main())
