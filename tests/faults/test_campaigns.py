"""Seeded campaigns: real threads, real loops, cancellations at random. Small in `make test`, as long as asked in `make soak`."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from typing import Any

import pytest

import seawall as sw

pytestmark = pytest.mark.soak


def test_one_bulkhead_between_threads_and_tasks_loses_no_seat(soak_seconds: float, soak_seed: int) -> None:
    """BH1 for as long as asked: threads and tasks, timeouts and cancellations over one queue; at the end all seats are back."""
    bulkhead = sw.Bulkhead(3, queue=200)
    until = time.monotonic() + soak_seconds
    lock, inside, peak, done = threading.Lock(), [0], [0], [0]

    def enter() -> None:
        with lock:
            inside[0] += 1
            peak[0] = max(peak[0], inside[0])

    def leave() -> None:
        with lock:
            inside[0] -= 1
            done[0] += 1

    def thread(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < until:
            try:
                with sw.deadline(draw.uniform(0.0001, 0.02)), bulkhead.permit():
                    enter()
                    if draw.random() < 0.2:
                        time.sleep(0)
                    leave()
            except (sw.Rejected, sw.TimedOut):
                continue

    async def task(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < until:
            work = asyncio.create_task(one(draw.random()))
            await asyncio.sleep(draw.random() * 0.003)
            if draw.random() < 0.3:
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def one(length: float) -> None:
        async with bulkhead.permit():
            enter()
            try:
                await asyncio.sleep(length * 0.002)
            finally:
                leave()

    async def loop(seed: int) -> None:
        await asyncio.gather(*(task(seed * 100 + number) for number in range(20)))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        crew = [threading.Thread(target=thread, args=[soak_seed + n]) for n in range(6)]
        crew += [threading.Thread(target=lambda n=n: asyncio.run(loop(soak_seed + n))) for n in range(2)]
        for worker in crew:
            worker.start()
        for worker in crew:
            worker.join(soak_seconds + 60)
    finally:
        sys.setswitchinterval(before)
    assert not any(worker.is_alive() for worker in crew), "a waiter is stuck"
    shot = bulkhead.snapshot()
    assert (shot.taken, shot.waiting, inside[0]) == (0, 0, 0)
    assert peak[0] <= 3
    assert done[0] > 100
    print(f"{done[0]} calls, peak {peak[0]}")


def test_an_open_circuit_lets_nothing_through_for_as_long_as_asked(soak_seconds: float, soak_seed: int) -> None:
    """B1, B2 over many openings in real time: no call begins while it is open, no more probes than allowed."""
    breaker = sw.CircuitBreaker(consecutive_failures=3, open_for=0.01, probes=2, probes_at_once=2)
    until = time.monotonic() + soak_seconds
    lock, inside, worst = threading.Lock(), [0], [0]
    leaks: list[str] = []

    def callee(fails: bool) -> None:
        with lock:
            inside[0] += 1
            if breaker.state == "half_open":
                worst[0] = max(worst[0], breaker.snapshot().probes_out)
        try:
            if fails:
                raise ConnectionResetError
        finally:
            with lock:
                inside[0] -= 1

    def work(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < until:
            opened, shot = breaker.snapshot().opened, breaker.snapshot()
            result = breaker.try_call(callee, draw.random() < 0.5)
            after = breaker.snapshot()
            still_open = shot.state == after.state == "open" and opened == after.opened and after.retry_after > 0
            if still_open and result.rejection is None:
                leaks.append(f"{shot} {after}")

    crew = [threading.Thread(target=work, args=[soak_seed + n]) for n in range(8)]
    for worker in crew:
        worker.start()
    for worker in crew:
        worker.join(soak_seconds + 60)
    assert not leaks
    assert worst[0] <= 2
    assert breaker.snapshot().opened > 3
    print(f"opened {breaker.snapshot().opened} times, refused {breaker.snapshot().rejected} calls")


def test_whole_pipelines_survive_random_storms(soak_seconds: float, soak_seed: int) -> None:
    """Every policy at once under failures, stalls and cancellations, storm after storm; each ends as it began."""
    until, storm = time.monotonic() + soak_seconds, 0

    async def body(draw: random.Random) -> int:
        await asyncio.sleep(draw.random() * 0.01)
        if draw.random() < 0.3:
            raise draw.choice([ConnectionRefusedError, ConnectionResetError, ValueError])
        return 1

    async def one_storm(seed: int) -> None:
        draw = random.Random(seed)
        pipeline = sw.Pipeline(
            sw.Fallback(0, on=ValueError),
            sw.Timeout(0.05),
            sw.Retry(3, backoff=sw.Backoff(base=0.0005, cap=0.005)),
            sw.CircuitBreaker(consecutive_failures=8, open_for=0.005),
            sw.RateLimiter("20000/s burst 500", wait=0.01),
            sw.Bulkhead(10, queue=100, wait=0.02),
            sw.Timeout(0.008, name="attempt"),
        )
        calls: list[asyncio.Task[Any]] = []
        for _ in range(300):
            calls.append(asyncio.create_task(pipeline(idempotent=True).acall(body, draw)))
            if draw.random() < 0.2:
                asyncio.get_running_loop().call_later(draw.random() * 0.02, calls[-1].cancel)
        await asyncio.wait(calls)
        shot = pipeline.policy(sw.Bulkhead).snapshot()
        assert (shot.taken, shot.waiting) == (0, 0), seed
        assert pipeline.policy(sw.CircuitBreaker).snapshot().probes_out == 0, seed
        assert len(asyncio.all_tasks()) == 1, seed
        for call in calls:
            if not call.cancelled() and call.exception() is not None:
                assert isinstance(call.exception(), sw.SeawallError | ConnectionError), repr(call.exception())

    while time.monotonic() < until or storm == 0:
        asyncio.run(one_storm(soak_seed * 1_000_003 + storm))
        storm += 1
    print(f"{storm} storms of 300 calls")


def test_no_window_of_any_length_holds_more_than_the_limit_allows(soak_seconds: float, soak_seed: int) -> None:
    """L1 in real time with 16 threads: in every window at most rate * length + burst, judged by the times around each call."""
    rate, burst = 20_000, 300
    limiter = sw.RateLimiter(f"{rate}/s burst {burst}")
    until = time.monotonic() + soak_seconds
    logs: list[list[tuple[float, float]]] = [[] for _ in range(16)]

    def work(log: list[tuple[float, float]], seed: int) -> None:
        draw = random.Random(seed)
        while True:
            before = time.monotonic()
            if before > until:
                return
            if limiter.try_acquire():
                log.append((before, time.monotonic()))
            elif draw.random() < 0.3:
                time.sleep(draw.random() * 0.001)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        crew = [threading.Thread(target=work, args=[log, soak_seed + number]) for number, log in enumerate(logs)]
        for worker in crew:
            worker.start()
        for worker in crew:
            worker.join(soak_seconds + 60)
    finally:
        sys.setswitchinterval(before)
    admitted = sorted(entry for log in logs for entry in log)
    assert len(admitted) > rate * soak_seconds * 0.05
    latest = [after for _, after in admitted]
    for size in {burst + 1, burst * 2, burst * 5, len(admitted) // 2, len(admitted) - 1}:
        for first in range(0, len(admitted) - size, max(1, size // 50)):
            length = max(latest[first : first + size]) - admitted[first][0]
            assert size <= rate * length + burst + 1, (size, length)
    print(f"{len(admitted)} admissions in {soak_seconds:g} s")
