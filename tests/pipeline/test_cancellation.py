"""No permit is lost, whoever is cancelled, and wherever."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.testing import VirtualClock


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads change places as often as Python allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def suspend(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.mark.parametrize("probing", [False, True])
def test_every_await_point_can_be_cancelled_without_losing_a_permit(probing: bool) -> None:
    """B2, BH1: the call is cancelled after its first step, its second, and so on to its end; each time all comes back."""

    async def body() -> int:
        await suspend(2)
        return 1

    async def failing(state: list[int]) -> int:
        await suspend(1)
        state.append(1)
        if len(state) == 1:
            raise ConnectionRefusedError
        return 1

    async def attempt(steps: int) -> bool:
        bulkhead = sw.Bulkhead(1, queue=2)
        breaker = sw.CircuitBreaker(consecutive_failures=1, open_for=1e-6, probes=5)
        if probing:
            with pytest.raises(OSError):
                breaker.call(_fail)
            await asyncio.sleep(0.001)
        pipeline = sw.Pipeline(
            sw.Timeout(60), sw.Retry(2, budget=None, backoff=sw.Backoff(base=1e-6, cap=1e-6)), bulkhead, breaker,
            sw.Timeout(30),
        )  # fmt: skip
        holder = asyncio.create_task(bulkhead.acall(body))
        await asyncio.sleep(0)
        state: list[int] = [0] if probing else []
        task = asyncio.create_task(pipeline.acall(failing, state))
        await suspend(steps)
        ended = task.done()
        task.cancel()
        await asyncio.wait([task, holder])
        await suspend(3)
        shot = bulkhead.snapshot()
        assert (shot.taken, shot.waiting) == (0, 0), steps
        assert breaker.snapshot().probes_out == 0, steps
        assert await bulkhead.acall(body) == 1
        assert len(asyncio.all_tasks()) == 1
        return ended

    def every_step() -> int:
        for steps in range(200):
            if asyncio.run(attempt(steps)):
                return steps
        raise AssertionError("the call never ended")

    assert every_step() >= 4


def _fail() -> None:
    raise OSError


def test_a_waiter_whose_loop_is_closed_passes_its_seat_on() -> None:
    """A seat granted to a dead event loop must reach the next who waits."""
    bulkhead = sw.Bulkhead(1, queue=5)
    loop = asyncio.new_event_loop()
    holding = bulkhead.permit()
    holding.__enter__()
    task = loop.create_task(bulkhead.acall(asyncio.sleep, 0))
    loop.run_until_complete(asyncio.sleep(0))
    got = threading.Event()

    def wait_too() -> None:
        with bulkhead.permit():
            got.set()

    thread = threading.Thread(target=wait_too, daemon=True)
    thread.start()
    while bulkhead.snapshot().waiting < 2:
        got.wait(0.001)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    holding.__exit__(None, None, None)
    assert got.wait(10)
    thread.join(10)
    assert bulkhead.snapshot().taken == 0
    task.get_coro().close()  # type: ignore[union-attr]


def test_a_task_cancelled_after_its_grant_passes_the_seat_on() -> None:
    """The grant and the cancellation meet in the same turn of the loop."""

    async def main() -> None:
        bulkhead = sw.Bulkhead(1, queue=5)
        order: list[str] = []

        async def work(name: str) -> None:
            order.append(name)

        async with bulkhead.permit():
            first = asyncio.create_task(bulkhead.acall(work, "first"))
            second = asyncio.create_task(bulkhead.acall(work, "second"))
            await suspend(2)
        first.cancel()
        await asyncio.wait([first, second])
        assert first.cancelled()
        assert order == ["second"]
        assert bulkhead.snapshot().taken == 0

    asyncio.run(main())


def test_threads_and_tasks_share_one_queue_in_order_of_arrival() -> None:
    """One true limit: whoever came first is served first, in whichever world."""
    bulkhead = sw.Bulkhead(1, queue=50)
    served: list[int] = []

    def from_thread(number: int) -> None:
        with bulkhead.permit():
            served.append(number)

    async def from_task(number: int) -> None:
        async with bulkhead.permit():
            served.append(number)

    async def main() -> None:
        tasks: list[Any] = []
        async with bulkhead.permit():
            for number in range(20):
                if number % 2:
                    tasks.append(asyncio.create_task(from_task(number)))
                else:
                    threads.append(threading.Thread(target=from_thread, args=[number], daemon=True))
                    threads[-1].start()
                while bulkhead.snapshot().waiting <= number:
                    await asyncio.sleep(0.0005)
        await asyncio.gather(*tasks)

    threads: list[threading.Thread] = []
    asyncio.run(main())
    for thread in threads:
        thread.join(10)
    assert served == list(range(20))


def test_a_storm_of_cancellations_loses_no_seat_and_strands_no_waiter(seawall_time: VirtualClock, soak_seed: int) -> None:
    """3000 tasks, one in six cancelled at random, over six policies; at the end everything is as in the beginning."""
    draw = random.Random(soak_seed)
    bulkhead = sw.Bulkhead(20, queue=4000)
    breaker = sw.CircuitBreaker(failure_ratio=0.95)
    pipeline = sw.Pipeline(sw.Timeout(600), sw.Retry(3), sw.RateLimiter("1000000/s"), breaker, bulkhead, sw.Timeout(30))

    async def body(length: float, fails: bool) -> None:
        await asyncio.sleep(length)
        if fails:
            raise ConnectionRefusedError

    async def main() -> None:
        tasks = []
        for _ in range(3000):
            task = asyncio.create_task(pipeline.acall(body, draw.random(), draw.random() < 0.1))
            tasks.append(task)
            if draw.random() < 1 / 6:
                asyncio.get_running_loop().call_later(draw.random() * 60, task.cancel)
        done, pending = await asyncio.wait(tasks)
        assert not pending
        assert all(isinstance(task.exception(), OSError | sw.Rejected | None) for task in done if not task.cancelled())
        assert sum(task.cancelled() for task in done) > 100
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    shot = bulkhead.snapshot()
    assert (shot.taken, shot.waiting) == (0, 0)
    assert breaker.snapshot().probes_out == 0


def hammer(work: Any, threads: int = 16) -> None:
    """Run `work` in many threads at once and raise what any of them raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            raise

    crew = [threading.Thread(target=run) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(60)
    assert not errors
    assert not any(thread.is_alive() for thread in crew)


def test_sixteen_threads_never_exceed_the_bulkhead_and_lose_no_seat(frequent_switches: None) -> None:
    """BH1 under contention: the peak is the limit, and every seat comes back."""
    bulkhead = sw.Bulkhead(4, queue=100)
    lock, inside, peak, done = threading.Lock(), [0], [0], [0]

    def body() -> None:
        with lock:
            inside[0] += 1
            peak[0] = max(peak[0], inside[0])
        with lock:
            inside[0] -= 1
            done[0] += 1

    hammer(lambda: [bulkhead.call(body) for _ in range(250)])
    assert (done[0], bulkhead.snapshot().taken, bulkhead.snapshot().waiting) == (4000, 0, 0)
    assert peak[0] <= 4


def test_sixteen_threads_count_exactly_and_no_call_passes_an_open_circuit(frequent_switches: None) -> None:
    """B1: after the transition not one call is admitted until the open time is over; every result is counted once."""
    clock = VirtualClock()
    counting = sw.CircuitBreaker(clock=clock, window=1000)
    hammer(lambda: [counting.call(int) for _ in range(500)])
    assert counting.snapshot().calls == 8000
    breaker = sw.CircuitBreaker(clock=clock, consecutive_failures=5)
    reached, opened, lock = [0], threading.Event(), threading.Lock()

    def failing() -> None:
        began_after = opened.is_set()
        with lock:
            reached[0] += began_after
        raise OSError

    breaker.subscribe(lambda event: opened.set() if event.kind == "breaker.opened" else None)

    def work() -> None:
        for _ in range(500):
            before = opened.is_set()
            result = breaker.try_call(failing)
            if before:
                assert isinstance(result.rejection, sw.CircuitOpen)

    hammer(work)
    assert breaker.state == "open"
    assert breaker.snapshot().opened == 1


def test_half_open_under_contention_admits_its_probes_only(frequent_switches: None) -> None:
    """B2 with sixteen threads at the door."""
    clock = VirtualClock()
    breaker = sw.CircuitBreaker(clock=clock, consecutive_failures=1, probes=6, probes_at_once=2, failure_ratio=1.0)
    with pytest.raises(OSError):
        breaker.call(_fail)
    clock.advance(5)
    lock, inside, peak, total = threading.Lock(), [0], [0], [0]

    def probe() -> None:
        with lock:
            inside[0] += 1
            total[0] += 1
            peak[0] = max(peak[0], inside[0])
        flag.wait(0.001)
        with lock:
            inside[0] -= 1
        raise OSError

    flag = threading.Event()
    hammer(lambda: [breaker.try_call(probe) for _ in range(50)])
    assert peak[0] <= 2
    assert total[0] == 6
    assert breaker.state == "open"


def test_the_retry_budget_counts_every_call_of_sixteen_threads(frequent_switches: None) -> None:
    """A deposit lost is a retry lost; one counted twice is a storm."""
    clock = VirtualClock()
    retry = sw.Retry(2, clock=clock)
    hammer(lambda: [retry.call(int) for _ in range(500)])
    assert retry.budget is not None
    assert retry.budget.snapshot().calls == 8000
