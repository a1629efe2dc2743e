"""The limiter in memory beside its peers: the same keys, the same limit, all of which passes, interleaved."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import aiolimiter
import limits
import pyrate_limiter
import throttled

import seawall as sw
from benchmarks.measure import Row, abest_of, best_of

KEYS = [f"tenant-{number}" for number in range(2000)]
HOUR = 3600


def rows(*, quick: bool = False) -> list[Row]:
    """Sync against limits, throttled-py and pyrate-limiter; async against aiolimiter."""
    rounds, calls = (6, 2000) if quick else (20, 10_000)
    cases = {"seawall": _seawall(), "limits": _limits(), "throttled-py": _throttled(), "pyrate-limiter": _pyrate()}
    for case in cases.values():
        for _ in KEYS:
            case()  # keys are made outside the measurement
    times = best_of(cases, rounds=rounds, calls=calls)
    goals = {"limits": ">= 7", "throttled-py": ">= 8", "pyrate-limiter": ">= 15"}
    found = [
        Row(f"in-memory, faster than {peer}", times[peer] / times["seawall"], "x", goal, f"{times['seawall']:.0f} ns, 2000 keys")
        for peer, goal in goals.items()
    ]
    return [*found, asyncio.run(_async_row(quick=quick))]


async def _async_row(*, quick: bool) -> Row:
    rounds, calls = (6, 1000) if quick else (20, 5000)
    ours = sw.RateLimiter("1000000000/s")
    theirs = aiolimiter.AsyncLimiter(1e9, 1)
    times = await abest_of({"seawall": ours.aacquire, "aiolimiter": theirs.acquire}, rounds=rounds, calls=calls)
    ratio = times["aiolimiter"] / times["seawall"]
    return Row("async acquire, faster than aiolimiter", ratio, "x", ">= 3", f"{times['seawall']:.0f} ns, with its queue")


def _seawall() -> Callable[[], object]:
    limiter = sw.RateLimiter("100000/h")
    keys = itertools.cycle(KEYS)
    return lambda: limiter.try_acquire(next(keys))


def _limits() -> Callable[[], object]:
    strategy = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    item = limits.RateLimitItemPerHour(100_000)
    keys = itertools.cycle(KEYS)
    return lambda: strategy.hit(item, next(keys))


def _throttled() -> Callable[[], object]:
    store = throttled.MemoryStore(options={"MAX_SIZE": 10_000})
    quota = throttled.rate_limiter.per_hour(100_000)
    limiter = throttled.Throttled(using=throttled.RateLimiterType.GCRA.value, quota=quota, store=store)
    keys = itertools.cycle(KEYS)
    return lambda: limiter.limit(next(keys))


def _pyrate() -> Callable[[], object]:
    buckets: dict[str, Any] = {}
    clock = pyrate_limiter.MonotonicClock()

    class PerKey(pyrate_limiter.BucketFactory):
        """One bucket for each name."""

        def wrap_item(self, name: str, weight: int = 1) -> Any:
            """Stamp it."""
            return pyrate_limiter.RateItem(name, clock.now(), weight=weight)

        def get(self, item: Any) -> Any:
            """Its bucket."""
            bucket = buckets.get(item.name)
            if bucket is None:
                rate = pyrate_limiter.Rate(100_000, HOUR * 1000)
                bucket = buckets[item.name] = self.create(pyrate_limiter.InMemoryBucket, [rate])
            return bucket

    limiter = pyrate_limiter.Limiter(PerKey())
    keys = itertools.cycle(KEYS)
    return lambda: limiter.try_acquire(next(keys), blocking=False)
