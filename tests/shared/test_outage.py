"""The store is down, hangs, restarts or loses its scripts: what decisions cost then, and what they admit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.shared.bulkhead import SharedBulkhead
from seawall.shared.fleet import Fleet
from seawall.shared.redis import RedisStore
from seawall.testing import FaultProxy, Faults, capture_events
from seawall.testing.servers import RedisServer, free_port

BUDGET = 0.2


@pytest.fixture
def down() -> str:
    """Where nobody listens."""
    return f"redis://127.0.0.1:{free_port()}/0"


def until(true: Any, seconds: float = 20) -> None:
    """Poll until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_decides_without_the_store_is_what_was_said(down: str) -> None:
    """An outage of the store takes neither the service down nor the gate away, unless somebody said so."""
    with capture_events() as events:
        opened = sw.RateLimiter("3/h", store=down, outage="open", name="o")
        assert all(opened.try_acquire("k") for _ in range(9))
        closed = sw.RateLimiter("3/h", store=down, outage="closed", name="c")
        refused = closed.decide("k")
        assert (refused.allowed, refused.degraded) == (False, True)
        assert refused.retry_after > 0
        alone = sw.RateLimiter("4/h", store=down, replicas=2, name="l")
        decisions = [alone.decide("k") for _ in range(4)]
        assert [decision.allowed for decision in decisions] == [True, True, False, False]
        assert all(decision.degraded for decision in decisions)
        assert alone.snapshot().degraded
    told = [event for event in events if event.kind == "limiter.degraded"]
    assert len(told) == 3  # once for each limiter, not for each decision
    assert {event.data["outage"] for event in told} == {"open", "closed", "local"}


@pytest.mark.parametrize("algorithm", ["leaky_bucket", "sliding_window", "sliding_log", "fixed_window"])
def test_every_algorithm_has_a_local_share(down: str, algorithm: Any) -> None:
    """A share of the rate for those that count, too."""
    limiter = sw.RateLimiter("8/h", store=down, replicas=4, algorithm=algorithm)
    assert sum(limiter.try_acquire("k") for _ in range(9)) == (1 if algorithm == "leaky_bucket" else 2)


def test_a_store_that_hangs_costs_one_budget_and_then_nothing(own_server: RedisServer) -> None:
    """A hang is no error: without a budget every call would stall for as long as the socket does."""
    limiter = sw.RateLimiter("1000/s", store=own_server.url, budget=BUDGET, name="hang")
    assert not limiter.decide("k").degraded
    own_server.pause()
    try:
        took = []
        for _ in range(6):
            began = time.monotonic()
            assert limiter.decide("k").degraded
            took.append(time.monotonic() - began)
        assert max(took) < BUDGET * 3
        began = time.monotonic()
        for _ in range(200):
            limiter.decide("k")
        assert time.monotonic() - began < 1.0  # the circuit is open: nobody waits any more
    finally:
        own_server.resume()
    until(lambda: not limiter.decide("k").degraded)


async def test_tasks_wait_no_longer_than_the_budget_for_a_store_that_hangs(own_server: RedisServer) -> None:
    """The same in a loop, for fifty tasks at once."""
    limiter = sw.RateLimiter("1000/s", store=own_server.url, budget=BUDGET, name="hang a")
    assert not (await limiter.adecide("k")).degraded
    own_server.pause()
    try:
        began = time.monotonic()
        decisions = await asyncio.gather(*(limiter.adecide("k") for _ in range(50)))
        assert all(decision.degraded for decision in decisions)
        assert time.monotonic() - began < BUDGET * 3
    finally:
        own_server.resume()


def test_a_server_that_was_killed_is_found_again_with_its_scripts_gone(own_server: RedisServer) -> None:
    """SIGKILL, a new server on the same port: NOSCRIPT heals by itself, and what was spent alone is owed."""
    limiter = sw.RateLimiter("10/h", store=own_server.url, budget=1, replicas=1, name="killed")
    assert limiter.try_acquire("k", 2)
    own_server.kill()
    with capture_events() as events:
        assert limiter.decide("k", 3).degraded
        assert limiter.peek("k", 0).remaining == 5  # the share was warm: what the store granted counts here, too
        own_server.start()
        until(lambda: not limiter.peek("other").degraded)
    assert "limiter.recovered" in [event.kind for event in events]
    until(lambda: limiter.peek("k", 0).remaining == 7)  # the server forgot the first two; the three spent alone were paid


async def test_tasks_pay_what_they_owe_as_well(own_server: RedisServer) -> None:
    """The same in a loop."""
    limiter = sw.RateLimiter("10/h", store=own_server.url, budget=1, replicas=1, name="killed a")
    assert await limiter.atry_acquire("k", 2)
    own_server.kill()
    assert (await limiter.adecide("k", 3)).degraded
    own_server.start()
    deadline = time.monotonic() + 20
    while (await limiter.apeek("other")).degraded or (await limiter.apeek("k", 0)).remaining != 7:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", ["valkey", "oldest"])
def test_scripts_that_were_flushed_are_sent_again(request: pytest.FixtureRequest, kind: str, unique: str) -> None:
    """SCRIPT FLUSH, a failover or an upgrade must not be an incident."""
    server: RedisServer = request.getfixturevalue(kind)
    limiter = sw.RateLimiter("10/h", store=server.url, budget=5, name=unique)
    for _ in range(2):
        assert not limiter.decide("k").degraded
        assert server.send(b"SCRIPT FLUSH").startswith(b"+OK")
    assert limiter.peek("k", 0).remaining == 8


def test_a_connection_that_was_cut_is_made_anew_without_a_degraded_decision(own_server: RedisServer) -> None:
    """Idle connections are closed by servers and proxies all day long."""
    limiter = sw.RateLimiter("100/h", store=own_server.url, budget=2, name="cut")
    assert not limiter.decide("k").degraded
    assert own_server.send(b"CLIENT KILL TYPE normal").startswith(b":")
    assert not limiter.decide("k").degraded


def test_a_partition_admits_no_more_than_its_side_may(own_server: RedisServer) -> None:
    """On a partition: rate x partition + burst for each side that still answers, and the shares of all are one limit."""
    with FaultProxy.in_thread("127.0.0.1", own_server.port) as proxy:
        cut_off = sw.RateLimiter("50/s burst 10", store=f"redis://127.0.0.1:{proxy.port}/0", budget=BUDGET, replicas=2, name="p")
        served = sw.RateLimiter("50/s burst 10", store=own_server.url, budget=2, replicas=2, name="p")
        while cut_off.try_acquire("k") or served.try_acquire("k"):
            pass
        proxy.set(Faults(black_hole=True))
        began = time.monotonic()
        passed = {"cut off": 0, "served": 0}
        while (elapsed := time.monotonic() - began) < 1.5:
            passed["cut off"] += cut_off.decide("k").allowed
            passed["served"] += served.decide("k").allowed
            time.sleep(0.002)
        assert cut_off.snapshot().degraded
        assert not served.snapshot().degraded
        assert 10 < passed["cut off"] <= 25 * elapsed + 5
        assert passed["served"] <= 50 * elapsed + 10
        proxy.clear()
        proxy.cut()
        until(lambda: not cut_off.decide("k").degraded)


def test_what_stands_against_the_promises_is_said(own_server: RedisServer, down: str) -> None:
    """A server that evicts counts forgets debt; nobody reads its configuration until it did."""
    store = RedisStore(own_server.url, budget=5)
    assert store.look() == []
    own_server.send(b"CONFIG SET maxmemory 100mb")
    own_server.send(b"CONFIG SET maxmemory-policy allkeys-lru")
    (warning,) = store.look()
    assert "allkeys-lru" in warning
    with capture_events() as events:
        assert sw.RateLimiter("1/s", store=store, name="looks").try_acquire()
        until(lambda: "store.warned" in [event.kind for event in events])
    assert "could not be read" in RedisStore(down, budget=1).look()[0]


def test_the_least_rights_are_enough(own_server: RedisServer) -> None:
    """The list of rights in the docs is what it takes, and no more is used."""
    rights = "resetkeys ~sw1:* resetchannels -@all +evalsha +eval +get +set +del +time +pexpire"
    rights += " +lindex +lrange +lpop +lpush +ltrim +rpush +lset +lrem +zadd +zcard +zremrangebyscore"
    assert own_server.send(f"ACL SETUSER limits on >secret {rights}".encode()).startswith(b"+OK")
    url = own_server.url.replace("redis://", "redis://limits:secret@")
    for algorithm in ("token_bucket", "leaky_bucket", "sliding_window", "sliding_log", "fixed_window"):
        limiter: Any = sw.RateLimiter("5/h", store=url, budget=5, algorithm=algorithm, name="least")
        assert not limiter.decide("k").degraded
        limiter.penalise("k", 1)
        limiter.reset("k")
        with limiter.reserve("k", 1) as reservation:
            reservation.cancel()
        assert not limiter.snapshot().degraded, algorithm


def test_the_least_rights_of_seats_and_fleets_are_enough(own_server: RedisServer) -> None:
    """The same for what stands beside the limiter in the docs."""
    rights = "resetkeys ~sw1:* resetchannels -@all +evalsha +eval +time +pexpire +zadd +zcard +zremrangebyscore"
    rights += " +zrange +zrem +zscore +hset +hgetall +hdel +hincrby"
    assert own_server.send(f"ACL SETUSER fleet on >secret {rights}".encode()).startswith(b"+OK")
    url = own_server.url.replace("redis://", "redis://fleet:secret@")
    bulkhead = SharedBulkhead(1, name="least", store=url, lease=0.3, budget=5)
    with bulkhead.permit():
        assert bulkhead.try_call(print).rejection is not None
        time.sleep(0.5)  # renewed meanwhile
    assert bulkhead.snapshot().lost == 0
    assert not bulkhead.snapshot().degraded
    fleet = Fleet(url, name="least", budget=5)
    fleet.share(sw.CircuitBreaker(name="least"))
    fleet.beat()
    fleet.order("reset", "least")
    assert fleet.ls()
    fleet.close()


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Outages are logged; here they are meant."""
    yield
    assert all("secret" not in record.getMessage() for record in caplog.records)
