"""Seats that processes share: a true limit, seats that come back when a process dies, and what holds without the store."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import seawall as sw
from seawall.shared.bulkhead import SharedBulkhead
from seawall.shared.redis import RedisStore
from seawall.testing import capture_events
from seawall.testing.servers import RedisServer, free_port

HOLDER = """
import sys, time
from seawall.shared.bulkhead import SharedBulkhead
bulkhead = SharedBulkhead(2, name=sys.argv[2], store=sys.argv[1], lease=1, budget=5)
with bulkhead.permit():
    print("held", flush=True)
    time.sleep(60)
"""


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free(bulkhead: SharedBulkhead) -> bool:
    """Whether a seat can be had now."""
    return bulkhead.try_call(lambda: 1).rejection is None


def test_objects_of_one_name_share_the_seats(valkey: RedisServer, unique: str) -> None:
    """Two processes are two objects on two connections."""
    stores = [RedisStore(valkey.url, budget=5) for _ in range(2)]
    one, two = (SharedBulkhead(2, name=unique, store=store, budget=5) for store in stores)
    with one.permit(), two.permit():
        with pytest.raises(sw.BulkheadFull), one.permit():
            pytest.fail("a third seat of two")
        assert not free(two)
        assert one.snapshot().taken == 1
    assert free(one)
    assert free(two)
    for store in stores:
        store.close()


def test_threads_never_hold_more_than_there_are(valkey: RedisServer, unique: str) -> None:
    """BH1 over two objects: the most that ran at once is the limit, and at the end all seats are free."""
    bulkheads = [SharedBulkhead(3, name=unique, store=valkey.url, budget=5, queue=50, wait=30) for _ in range(2)]
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    threads = [threading.Thread(target=lambda b=bulkhead: [b.call(work) for _ in range(8)]) for bulkhead in bulkheads * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most <= 3
    assert all(bulkhead.at_rest for bulkhead in bulkheads)
    assert free(bulkheads[0])


async def test_tasks_share_seats_and_the_cancelled_keep_none(valkey: RedisServer, unique: str) -> None:
    """A task that is cancelled at any moment must not take a seat with it."""
    bulkhead = SharedBulkhead(2, name=unique, store=valkey.url, budget=5, queue=50, wait=30)
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.002)
        finally:
            running -= 1

    tasks = [asyncio.ensure_future(bulkhead.acall(work)) for _ in range(30)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            asyncio.get_running_loop().call_later(number * 0.001, task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= 2
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    async with asyncio.timeout(20):
        await asyncio.gather(bulkhead.acall(work), bulkhead.acall(work))
        while not bulkhead.at_rest or bulkhead._tasks:
            await asyncio.sleep(0.01)


def test_the_seats_of_a_process_that_was_killed_come_back(valkey: RedisServer, unique: str) -> None:
    """SIGKILL runs no finally: only a lease gives the seat back, and a living process keeps its own."""
    mine = SharedBulkhead(2, name=unique, store=valkey.url, lease=1, budget=5)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, valkey.url, unique], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with mine.permit():
        assert not free(mine)
        time.sleep(1.5)  # longer than the lease: both are renewed
        assert not free(mine)
        holder.kill()
        holder.wait(10)
        began = time.monotonic()
        until(lambda: free(mine))
        assert time.monotonic() - began < 3
    holder.stdout.close()


@pytest.mark.parametrize(("outage", "seats"), [("local", 2), ("closed", 0), ("open", 9)])
def test_without_the_store_the_share_of_one_process_holds(outage: Any, seats: int) -> None:
    """An outage of the store is told, once, and does what was said."""
    down = f"redis://127.0.0.1:{free_port()}/0"
    bulkhead = SharedBulkhead(4, name="alone", store=down, replicas=2, outage=outage, budget=0.5)
    taken = 0
    with capture_events() as events:
        blocks = [bulkhead.permit() for _ in range(9)]
        for block in blocks:
            try:
                block.__enter__()
            except sw.BulkheadFull:
                continue
            taken += 1
        assert taken == seats
        assert bulkhead.snapshot().degraded
        for block in blocks[:taken]:
            block.__exit__(None, None, None)
    assert [event.kind for event in events].count("bulkhead.degraded") == 1
    assert bulkhead.at_rest


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"limit": 0}, ValueError, "limit"),
        ({"lease": 0.01}, ValueError, "lease"),
        ({"replicas": 0}, ValueError, "replicas"),
        ({"outage": "x"}, ValueError, "outage"),
        ({"store": "memory:"}, TypeError, "processes share"),
        ({"name": ""}, TypeError, "name"),
    ],
)
def test_bad_parameters_are_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """A bulkhead that exists works."""
    with pytest.raises(error, match=words):
        SharedBulkhead(**{"limit": 2, "name": "b", "store": "redis://127.0.0.1:1", **options})
