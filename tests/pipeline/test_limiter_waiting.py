"""Waiting for the limiter's turn: threads and tasks in one queue, cancellation, closed loops, storms."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable

import pytest

import seawall as sw
from seawall.testing import VirtualClock


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until something is so."""
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.0005)
    raise AssertionError("it never came about")


class Loop:
    """An event loop in a thread of its own, living on a virtual clock."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def test_threads_and_tasks_are_served_in_one_order_of_arrival() -> None:
    """One queue: a task must not overtake a thread because its loop is quicker, nor the other way round."""
    clock = VirtualClock(autojump=False)
    limiter = sw.RateLimiter("10/s burst 1", clock=clock)
    assert limiter.try_acquire()
    served: list[tuple[int, float]] = []
    start = clock.monotonic()
    loop = Loop()

    async def task(number: int) -> None:
        await limiter.aacquire()
        served.append((number, clock.monotonic() - start))

    def thread(number: int) -> None:
        limiter.acquire()
        served.append((number, clock.monotonic() - start))

    threads = []
    for number in range(12):
        if number % 2:
            asyncio.run_coroutine_threadsafe(task(number), loop.loop)
        else:
            threads.append(threading.Thread(target=thread, args=(number,)))
            threads[-1].start()
        until(lambda number=number: limiter.snapshot().waiting == number + 1)  # type: ignore[misc]
    for step in range(12):
        clock.advance(0.1)
        until(lambda step=step: len(served) == step + 1)  # type: ignore[misc]
    for each in threads:
        each.join()
    loop.stop()
    clock.release()
    assert [number for number, _ in served] == list(range(12))
    assert [moment for _, moment in served] == pytest.approx([0.1 * (step + 1) for step in range(12)])


def test_cancelled_waiters_leave_no_debt_and_those_behind_move_up() -> None:
    """Five libraries let abandoned waiters eat tokens; survivors then kept their late places."""
    clock = VirtualClock()
    limiter = sw.RateLimiter("10/s burst 1", clock=clock)
    served: list[tuple[int, float]] = []

    async def work(number: int) -> None:
        await limiter.aacquire()
        served.append((number, clock.monotonic() - start))

    async def main() -> None:
        await limiter.aacquire()
        tasks = [asyncio.create_task(work(number)) for number in range(6)]
        await asyncio.sleep(0.05)
        for gone in (0, 2, 3):
            tasks[gone].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    start = clock.monotonic()
    asyncio.run(main())
    assert [number for number, _ in served] == [1, 4, 5]
    assert [moment for _, moment in served] == pytest.approx([0.1, 0.2, 0.3])
    assert limiter.snapshot().waiting == 0
    clock.advance(0.1)
    assert limiter.snapshot().remaining == 1


def test_a_waiter_whose_loop_is_closed_is_passed_over() -> None:
    """Its event can never be set again; the others must not wait for it."""
    clock = VirtualClock(autojump=False)
    limiter = sw.RateLimiter("10/s burst 1", clock=clock)
    assert limiter.try_acquire()
    loop = asyncio.new_event_loop()
    dead = loop.create_task(limiter.aacquire())
    loop.run_until_complete(asyncio.sleep(0))
    done: list[float] = []

    def wait() -> None:
        limiter.acquire()
        done.append(clock.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: limiter.snapshot().waiting == 2)
    dead._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    clock.release()
    for _ in range(3):
        clock.advance(0.1)
    thread.join(timeout=10)
    assert done
    assert limiter.snapshot().waiting == 0
    with contextlib.suppress(RuntimeError, GeneratorExit):
        dead.get_coro().close()


def test_reopening_empties_the_queues_and_keeps_the_debt() -> None:
    """What a forked child does: those who waited are not there, what was spent is."""
    clock = VirtualClock(autojump=False)
    limiter = sw.RateLimiter("1/h", clock=clock)
    assert limiter.try_acquire()

    def wait() -> None:
        with contextlib.suppress(sw.RateLimited):
            limiter.acquire(timeout=7200)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: limiter.snapshot().waiting == 1)
    limiter.reopen()
    assert limiter.snapshot().waiting == 0
    assert not limiter.try_acquire()
    clock.advance(7200)
    thread.join(timeout=10)
    assert limiter.try_acquire()


def test_a_reset_wakes_those_who_sleep() -> None:
    """An operator lifts a limit: nobody should sleep on until the old moment."""
    clock = VirtualClock(autojump=False)
    limiter = sw.RateLimiter("1/h", clock=clock)
    assert limiter.try_acquire()
    thread = threading.Thread(target=limiter.acquire)
    thread.start()
    until(lambda: limiter.snapshot().waiting == 1)
    limiter.reset()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_starting_anew_refuses_those_who_sleep() -> None:
    """What a test left waiting must not be served in the next one."""
    clock = VirtualClock(autojump=False)
    limiter = sw.RateLimiter("1/h", clock=clock)
    assert limiter.try_acquire()
    errors: list[sw.RateLimited] = []

    def wait() -> None:
        try:
            limiter.acquire("")
        except sw.RateLimited as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: limiter.snapshot().waiting == 1)
    limiter.restart()
    thread.join(timeout=10)
    assert "began anew" in str(errors[0])
    assert limiter.snapshot().rejected == 1


@pytest.mark.parametrize("algorithm", ["token_bucket", "leaky_bucket", "sliding_window", "sliding_log", "fixed_window"])
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_cancellations_loses_and_doubles_nothing(algorithm: str, seed: int) -> None:
    """Whatever is cancelled when, the survivors pass in order, within the rate, and nobody is left behind."""
    draw = random.Random(seed)
    clock = VirtualClock(seed=seed)
    limiter = sw.RateLimiter("20/s", algorithm=algorithm, wait=None, clock=clock)  # type: ignore[arg-type]
    passed: list[tuple[float, int]] = []

    @limiter
    async def work(number: int) -> None:
        passed.append((clock.monotonic(), number))

    async def main() -> None:
        tasks = []
        for number in range(150):
            tasks.append(asyncio.create_task(work(number)))
            if draw.random() < 0.5:
                draw.choice(tasks).cancel()
            await asyncio.sleep(draw.choice([0, 0, 0.01, 0.08]))
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert [moment for moment, _ in passed] == sorted(moment for moment, _ in passed)
    in_order = [number for _, number in sorted(passed)]  # who passes in one moment runs in the order the loop likes
    assert in_order == sorted(in_order)
    assert 60 <= len(passed) <= 150
    most = {"token_bucket": 40, "leaky_bucket": 21, "sliding_log": 20}.get(algorithm, 40)
    for index, (start, _) in enumerate(passed):
        assert sum(1 for moment, _ in passed[index:] if moment < start + 1.0 - 1e-9) <= most
    assert limiter.snapshot().waiting == 0
    clock.advance(10)
    assert limiter.at_rest


def test_observing_counts_and_lets_pass() -> None:
    """Shadow mode: the numbers of a limit before it hurts anybody."""
    clock = VirtualClock()
    limiter = sw.RateLimiter("2/min", clock=clock)
    shadow = sw.Pipeline(limiter, observe=True)
    assert [shadow.call(int) for _ in range(5)] == [0] * 5
    assert limiter.snapshot().rejected == 3
