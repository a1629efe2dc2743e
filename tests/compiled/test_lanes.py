"""Shared sorted timers: exact as single ones, however calls end, nest, hang, or change loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

import seawall as sw
from seawall.core import lanes as lanes_module
from seawall.core.lanes import Lanes
from seawall.pipeline import compiler
from seawall.testing import VirtualClock

pytestmark = pytest.mark.skipif(not compiler.enabled(), reason="SEAWALL_COMPILE=0: no timer is shared")


def guard(seconds: float, clock: sw.Clock | None = None) -> tuple[Any, Lanes]:
    """A guarded sleep, and the lanes of its limit."""
    pipeline = sw.Pipeline(sw.Timeout(seconds), name="p", clock=clock)

    @pipeline
    async def sleep(length: float) -> float:
        await asyncio.sleep(length)
        return length

    return sleep, sleep.__seawall__.names["_sw_lanes0"]


def in_virtual_time(main: Any) -> VirtualClock:
    """Run a coroutine function of the clock in its time."""
    clock = VirtualClock()

    async def wrapped() -> None:
        clock.adopt(asyncio.get_running_loop())
        await main(clock)

    asyncio.run(wrapped())
    clock.release()
    return clock


def test_each_call_is_cut_at_its_own_moment() -> None:
    """One timer of the loop serves them all, and none is early or late."""

    async def main(clock: VirtualClock) -> None:
        sleep, _ = guard(1.0, clock)
        ends: list[tuple[int, float]] = []

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            try:
                await sleep(5 if number % 3 else 0.5)
            except sw.TimedOut:
                ends.append((number, round(clock.monotonic() - 1000, 9)))

        await asyncio.gather(*(one(number) for number in range(300)))
        assert ends == [(number, pytest.approx(1 + number * 0.01)) for number in range(300) if number % 3]

    in_virtual_time(main)


def test_a_hung_call_at_the_head_keeps_nobodys_entry_alive() -> None:
    """Twenty thousand short calls behind a long one: what is over goes, though the first one still runs."""

    async def main(clock: VirtualClock) -> None:
        sleep, lanes = guard(1000.0, clock)
        hung = asyncio.create_task(sleep(500))
        await asyncio.sleep(0.001)
        most = 0
        for _ in range(100):
            await asyncio.gather(*(sleep(0.001 * (n % 3)) for n in range(200)))
            most = max(most, len(lanes.lane.entries))
        assert most <= 300
        assert await hung == 500
        assert not lanes.lane.entries

    in_virtual_time(main)


def test_a_body_that_swallows_the_cut_leaves_the_task_as_it_was() -> None:
    """A task that stays counted as cancelling breaks the next timeout around it."""

    async def main(clock: VirtualClock) -> None:
        pipeline = sw.Pipeline(sw.Timeout(1), name="p", clock=clock)

        @pipeline
        async def stubborn() -> str:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                return "swallowed"
            return "slept"

        assert await stubborn() == "swallowed"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    in_virtual_time(main)


def test_a_cancellation_from_outside_stays_one() -> None:
    """Whoever cancels a task sees it cancelled, not timed out."""

    async def main(clock: VirtualClock) -> None:
        sleep, lanes = guard(1.0, clock)
        task = asyncio.create_task(sleep(5))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not lanes.lane.entries

    in_virtual_time(main)


def test_limits_nest_and_the_nearest_one_cuts() -> None:
    """Total and attempt in one function, and a pipeline inside another's."""

    async def main(clock: VirtualClock) -> None:
        both = sw.Pipeline(
            sw.Timeout(2.5, name="total"),
            sw.Retry(5, on=sw.TimedOut, backoff=sw.Backoff(base=0.1, jitter="none"), budget=None),
            sw.Timeout(1, name="attempt"),
            name="both",
            clock=clock,
        )
        with pytest.raises(sw.TimedOut, match=r"2\.5 s of total"):
            await both.acall(asyncio.sleep, 60)
        assert clock.monotonic() == pytest.approx(1002.5)
        inner, _ = guard(9, clock)
        outer = sw.Pipeline(sw.Timeout(1), name="outer", clock=clock)
        with pytest.raises(sw.TimedOut, match="1 s of"):
            await outer.acall(inner, 60)
        assert clock.monotonic() == pytest.approx(1003.5)
        assert sw.core.context.DEADLINE.get() is None

    in_virtual_time(main)


def test_a_callers_deadline_cuts_compiled_calls_too() -> None:
    """`sw.deadline` arms nothing by itself, so the first guard inside does."""

    async def main(clock: VirtualClock) -> None:
        sleep, _ = guard(9, clock)
        token = sw.core.context.DEADLINE.set(clock.monotonic() + 2)
        with pytest.raises(sw.TimedOut, match="caller's deadline"):
            await sleep(60)
        assert clock.monotonic() == pytest.approx(1002)
        with pytest.raises(sw.TimedOut, match="before the call began"):
            await sleep(60)
        sw.core.context.DEADLINE.reset(token)

    in_virtual_time(main)


def test_one_function_runs_on_many_loops_in_turn_and_at_once() -> None:
    """asyncio.run makes a loop each time, and threads run loops of their own."""
    sleep, lanes = guard(30.0)
    for _ in range(3):
        assert asyncio.run(sleep(0)) == 0
    assert len(lanes._known) <= 2, "lanes of closed loops go"
    errors: list[BaseException] = []

    def work() -> None:
        async def many() -> None:
            for _ in range(200):
                assert await sleep(0) == 0

        try:
            asyncio.run(many())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_timer_in_real_time_cuts_and_rests() -> None:
    """No virtual clock: a real loop, a real limit."""
    sleep, lanes = guard(0.02)

    async def main() -> None:
        with pytest.raises(sw.TimedOut):
            await sleep(30)
        assert await sleep(0) == 0
        assert not lanes.lane.entries

    asyncio.run(main())


def test_a_waiting_timer_keeps_no_callers_context_alive() -> None:
    """The loop's timer outlives the call that set it; what that call had in its context must not."""

    class Precious:
        """Something large in a context variable."""

    async def main() -> None:
        import contextvars

        variable: contextvars.ContextVar[Any] = contextvars.ContextVar("precious")
        sleep, _ = guard(60.0)

        async def with_context() -> weakref.ref[Precious]:
            precious = Precious()
            variable.set(precious)
            await sleep(0)
            return weakref.ref(precious)

        reference = await asyncio.create_task(with_context())
        await asyncio.sleep(0)  # the loop itself keeps the context of what it runs now
        gc.collect()
        assert reference() is None

    asyncio.run(main())


def test_outside_a_task_a_limit_says_what_it_needs() -> None:
    """A coroutine that is stepped by hand has no task that could be cut."""
    sleep, _ = guard(1.0)
    coroutine = sleep(0)
    with pytest.raises(RuntimeError, match=r"no running event loop|needs a task"):
        coroutine.send(None)


def test_lanes_do_what_compiled_code_does_by_itself() -> None:
    """`arm` and `disarm` are the readable form of the lines in the template."""

    async def main(clock: VirtualClock) -> None:
        lane = Lanes("owner", 1.0, clock.monotonic).find()
        first, second, third = lane.arm(), lane.arm(), lane.arm()
        lane.disarm(second)
        assert [entry[1] is None for entry in lane.entries] == [False, True, False]
        lane.disarm(third)
        lane.disarm(first)
        assert not lane.entries
        lane.tidy()
        assert lane.idle
        armed = lane.arm()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.sleep(5)
        assert lanes_module.HIT == 3
        assert armed[3] is True
        lane.disarm(armed)
        assert armed[3] is False
        assert caught.value.args[0].owner == "owner"

    in_virtual_time(main)


def test_loops_that_do_not_tell_their_thread_are_asked_otherwise() -> None:
    """uvloop keeps its thread to itself."""

    async def main() -> None:
        life = lanes_module._Life(asyncio.get_running_loop())
        assert life._thread_id == threading.get_ident()
        assert await asyncio.to_thread(lambda: life._thread_id) is None

    asyncio.run(main())
