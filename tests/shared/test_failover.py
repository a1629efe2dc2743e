"""Sentinel and Cluster with real servers: SIGKILL, SIGSTOP, and the bounds that hold through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.shared.redis import RedisStore
from seawall.testing.constellations import Cluster, Sentinels
from seawall.testing.fleet import worst_window

RATE, BURST = 100, 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes."""
    with Cluster() as made:
        yield made


def drive(limiter: sw.RateLimiter, seconds: float, moments: list[float]) -> None:
    """Ask as often as a millisecond allows, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if limiter.decide("k").allowed:
            moments.append(time.monotonic())
        time.sleep(0.001)


def fail_over(outage: Any, *, kill: bool) -> tuple[int, float, list[float]]:
    """One run: a limit at saturation, its primary killed or stopped, until a new one serves; how much passed, and when."""
    with Sentinels() as sentinels:
        store = RedisStore(sentinels.url, budget=0.1)
        limiter = sw.RateLimiter(f"{RATE}/s burst {BURST}", store=store, outage=outage, replicas=1, name="failover")
        moments: list[float] = []
        began = time.monotonic()
        drive(limiter, 1.0, moments)
        old = sentinels.primary()
        broke = time.monotonic()
        old.kill() if kill else old.pause()
        while limiter.snapshot().degraded or time.monotonic() - broke < 0.6:
            drive(limiter, 0.1, moments)
            assert time.monotonic() - broke < 40, "nobody serves"
        served = time.monotonic()
        assert sentinels.primary() is not old
        drive(limiter, 1.0, moments)
        elapsed = time.monotonic() - began
        print(
            f"{outage}: {'killed' if kill else 'stopped'}, back after {served - broke:.1f} s, {len(moments)} in {elapsed:.1f} s"
        )
        store.close()
        return len(moments), elapsed, moments


@pytest.mark.parametrize("kill", [True, False], ids=["SIGKILL", "SIGSTOP"])
def test_a_failover_admits_at_most_one_burst_more(kill: bool) -> None:
    """L3 with a local share: writes that the replica had not yet are one burst at most; alone, the share is the limit."""
    passed, elapsed, moments = fail_over("local", kill=kill)
    assert passed <= RATE * elapsed + 2 * BURST
    assert worst_window(moments, 1.0) <= RATE + 2 * BURST
    assert passed >= 0.7 * RATE * elapsed


def test_a_failover_that_fails_closed_admits_nothing_alone() -> None:
    """L3 closed: nothing passes without the store."""
    passed, elapsed, _ = fail_over("closed", kill=True)
    assert passed <= RATE * elapsed + BURST


@pytest.mark.soak
def test_failovers_keep_the_bound_every_time(soak_seconds: float) -> None:
    """L3, fifty runs in a full soak: no run may be the exception."""
    runs = 50 if soak_seconds >= 300 else 1
    for run in range(runs):
        passed, elapsed, _ = fail_over("local" if run % 2 else "closed", kill=run % 3 != 0)
        assert passed <= RATE * elapsed + 2 * BURST, f"run {run}"


def test_tasks_follow_a_failover_as_well() -> None:
    """The async side asks the sentinels anew, too."""

    async def scene(sentinels: Sentinels) -> None:
        limiter = sw.RateLimiter("1000/s", store=sentinels.url, budget=1, name="a")
        assert not (await limiter.adecide("k")).degraded
        sentinels.primary().kill()
        deadline = time.monotonic() + 30
        assert (await limiter.adecide("k")).degraded
        while (await limiter.adecide("k")).degraded:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    with Sentinels() as sentinels:
        asyncio.run(scene(sentinels))


def test_a_primary_that_must_have_a_replica_says_so_at_the_start() -> None:
    """min-replicas-to-write bounds what a partitioned primary goes on admitting; who has not set it is told."""
    with Sentinels() as sentinels:
        (warning,) = RedisStore(sentinels.url, budget=5).look()
        assert "min-replicas-to-write" in warning
    with Sentinels(strict=True) as sentinels:
        assert RedisStore(sentinels.url, budget=5).look() == []


# --- cluster


def test_a_cluster_keeps_each_subject_on_one_node(cluster: Cluster, unique: str) -> None:
    """Several limits of one subject are one decision, wherever it lives; batches are cut by slot."""
    limiter = sw.RateLimiter(["5/h", "3/min"], store=cluster.url, budget=5, name=unique)
    for number in range(30):
        assert [limiter.try_acquire(f"k{number}") for _ in range(4)] == [True, True, True, False]
    hierarchy = sw.RateLimiter({"all": "100/h", "user": "2/h"}, store=cluster.url, budget=5, name=unique)
    assert [hierarchy.try_acquire(("u1",)) for _ in range(3)] == [True, True, False]
    assert hierarchy.try_acquire(("u2",))
    assert not limiter.snapshot().degraded
    sizes = [node.send(b"DBSIZE") for node in cluster.nodes]
    assert all(size != b":0\r\n" for size in sizes)  # spread over all nodes


def test_tasks_are_served_by_a_cluster(cluster: Cluster, unique: str) -> None:
    """The same, with many slots in one turn of the loop."""

    async def scene() -> None:
        limiter = sw.RateLimiter("5/h", store=cluster.url, budget=5, name=unique)
        answers = await asyncio.gather(*(limiter.atry_acquire(f"k{number % 20}") for number in range(200)))
        assert sum(answers) == 100
        assert not limiter.snapshot().degraded

    asyncio.run(scene())


def test_scripts_that_a_node_lost_are_sent_again(cluster: Cluster, unique: str) -> None:
    """NOSCRIPT heals on a cluster, too."""
    limiter = sw.RateLimiter("5/h", store=cluster.url, budget=5, name=unique)
    assert limiter.try_acquire("k")
    for node in cluster.nodes:
        node.send(b"SCRIPT FLUSH")
    assert not limiter.decide("k").degraded
