"""The limiter on a real Valkey server: against one EVALSHA per call with the same client, and on leases."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import redis
import redis.asyncio

import seawall as sw
from benchmarks.measure import Row
from seawall.shared.redis import RedisStore
from seawall.testing.fleet import run_fleet, worst_window
from seawall.testing.servers import RedisServer

GCRA = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local new = tat + tonumber(ARGV[1])
if new - now > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', new), 'PX', math.ceil((new - now) / 1000))
return 1
"""
"""The least that a limiter can do: what others run, one call for each decision."""
PLENTY = "10000000/s"


def rows(*, quick: bool = False) -> list[Row]:
    """Exact, sync and async; leases; a fleet on leases."""
    with RedisServer() as server:
        found = [*exact(server.url, quick=quick), *asyncio.run(exact_async(server.url, quick=quick))]
        return [*found, lease(server.url, quick=quick), *fleet(server.url, quick=quick)]


def limiter(url: str, mode: str = "exact") -> sw.RateLimiter:
    """One whose limit is never reached, on a connection of its own."""
    return sw.RateLimiter(PLENTY, store=RedisStore(url, budget=5), budget=5, name=f"bench {mode}", mode=mode, replicas=1)  # type: ignore[arg-type]


def exact(url: str, *, quick: bool) -> list[Row]:
    """One thread, and sixteen, against EVALSHA by redis-py."""
    rounds, calls = (5, 400) if quick else (12, 1500)
    client = redis.Redis.from_url(url)
    sha = client.script_load(GCRA)
    ours = limiter(url)

    def direct() -> None:
        client.evalsha(sha, 1, "bench", "1", "1000000")

    def mine() -> None:
        ours.decide("k")

    found = []
    for threads, goal in ((1, None), (16, ">= 3")):
        best = {"direct": 0.0, "mine": 0.0}
        for _ in range(rounds):
            for name, case in (("direct", direct), ("mine", mine)):
                best[name] = max(best[name], per_second(case, threads, calls // threads))
        told = f"one EVALSHA per call; {best['mine']:.0f}/s against {best['direct']:.0f}/s"
        found.append(Row(f"Redis exact, sync, {threads} threads", best["mine"] / best["direct"], "x", goal, told))
    client.close()
    return found


def per_second(case: Callable[[], object], threads: int, calls: int) -> float:
    """Calls per second of so many threads at once."""
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(calls):
            case()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return threads * calls / (time.perf_counter() - began)


async def exact_async(url: str, *, quick: bool) -> list[Row]:
    """Fifty tasks, against EVALSHA by redis-py's asyncio client with a pool of fifty."""
    rounds, calls, tasks = (4, 20, 50) if quick else (10, 60, 50)
    client = redis.asyncio.Redis.from_url(url, max_connections=tasks)
    sha = await client.script_load(GCRA)
    ours = limiter(url)
    best = {"direct": 0.0, "mine": 0.0}

    async def direct() -> None:
        for _ in range(calls):
            await client.evalsha(sha, 1, "bench", "1", "1000000")

    async def mine() -> None:
        for _ in range(calls):
            await ours.adecide("k")

    for _ in range(rounds):
        for name, case in (("direct", direct), ("mine", mine)):
            began = time.perf_counter()
            await asyncio.gather(*(case() for _ in range(tasks)))
            best[name] = max(best[name], tasks * calls / (time.perf_counter() - began))
    await client.aclose()
    told = f"redis-py asyncio, one EVALSHA per call; {best['mine']:.0f}/s against {best['direct']:.0f}/s"
    return [Row("Redis exact, asyncio, 50 tasks", best["mine"] / best["direct"], "x", ">= 3", told)]


def lease(url: str, *, quick: bool) -> Row:
    """A hot key on leases, against the same limiter asking each time."""
    rounds, calls = (4, 2000) if quick else (10, 20_000)
    leased, asking = limiter(url, "lease"), limiter(url)
    for _ in range(2000):
        leased.try_acquire("hot")
    best = {"lease": 0.0, "exact": 0.0}
    for _ in range(rounds):
        best["lease"] = max(best["lease"], per_second(lambda: leased.try_acquire("hot"), 1, calls))
        best["exact"] = max(best["exact"], per_second(lambda: asking.try_acquire("hot"), 1, calls // 20))
    told = f"exact, sync; {best['lease']:.0f}/s against {best['exact']:.0f}/s"
    return Row("Redis lease, hot key", best["lease"] / best["exact"], "x", ">= 50", told)


def fleet(url: str, *, quick: bool) -> list[Row]:
    """Four processes at saturation on one key of 2000/s: calls, use, and what passed by the store's account."""
    seconds = 2.0 if quick else 4.0
    client = redis.Redis.from_url(url)
    before = _scripts(client)
    found = run_fleet(4, url, "bench fleet", "2000/s burst 400", "lease", seconds)
    calls = _scripts(client) - before
    client.close()
    passed = sum(len(each.moments) for each in found)
    most = 2000 * seconds + 400
    worst = worst_window([moment for each in found for moment in each.moments], 1.0)
    return [
        Row("lease, store calls per admission", calls / passed, "", "<= 0.1", f"4 processes, 2000/s, {calls} script calls"),
        Row("lease, utilisation", passed / most, "", ">= 0.97", f"{passed} of {most:.0f}"),
        Row("lease, over in any second", max(0, worst - 2400), "calls", "<= 200", f"most {worst}; stated: burst/2 outstanding"),
    ]


def _scripts(client: redis.Redis) -> int:
    """How many scripts the server has run."""
    stats = client.info("commandstats")
    return sum(int(stats.get(name, {}).get("calls", 0)) for name in ("cmdstat_evalsha", "cmdstat_eval"))
