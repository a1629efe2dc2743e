"""What a guarded call costs, as a multiple of the bare call. This release runs the plain guards; nothing is compiled yet."""

from __future__ import annotations

import asyncio

import seawall as sw
from benchmarks.measure import Row, abest_of, best_of

LOOP = "x bare call, loop included on both sides"


def rows(*, quick: bool = False) -> list[Row]:
    """The guard area of the performance goals, as far as this release measures it."""
    rounds, calls = (10, 500) if quick else (40, 2000)
    return [*_sync(rounds, calls), *asyncio.run(_async(rounds, calls))]


def _sync(rounds: int, calls: int) -> list[Row]:
    def bare() -> None: ...

    open_breaker = sw.CircuitBreaker(name="open")
    open_breaker.isolate()
    four = sw.Pipeline(
        sw.RateLimiter("1000000000/s"), sw.Retry(3), sw.CircuitBreaker(window_calls=100), sw.Bulkhead(10, queue=10)
    )
    times = best_of(
        {
            "bare": bare,
            "count": sw.CircuitBreaker(window_calls=100)(bare),
            "time": sw.CircuitBreaker()(bare),
            "slow": sw.CircuitBreaker(slow_call=1)(bare),
            "retry": sw.Retry(3, budget=None)(bare),
            "budget": sw.Retry(3)(bare),
            "four": four(bare),
            "deadline": sw.Timeout(1)(bare),
            "value": lambda: open_breaker.try_call(bare),
        },
        rounds=rounds,
        calls=calls,
    )
    unit = times.pop("bare")
    goals = {
        "count": ("sync breaker, count window", "<= 3.5"),
        "time": ("sync breaker, time window", "<= 6.3"),
        "slow": ("sync breaker, time window and slow calls", "<= 10"),
        "retry": ("sync retry, no budget", "<= 2.7"),
        "budget": ("sync retry, budget", "<= 3.6"),
        "four": ("sync 4 policies", "<= 12"),
        "deadline": ("sync deadline Timeout", "<= 16"),
        "value": ("refused call, as a value", None),
    }
    return [Row(goals[name][0], time / unit, "x bare", goals[name][1], LOOP) for name, time in times.items()]


async def _async(rounds: int, calls: int) -> list[Row]:
    async def bare() -> None: ...

    async def with_timeout() -> None:
        async with asyncio.timeout(10):
            await bare()

    five = sw.Pipeline(
        sw.RateLimiter("1000000000/s"),
        sw.Retry(3),
        sw.CircuitBreaker(window_calls=100),
        sw.Bulkhead(10, queue=10),
        sw.Timeout(10),
    )
    cases = {
        "bare": bare,
        "breaker": sw.CircuitBreaker(window_calls=100)(bare),
        "five": five(bare),
        "timeout": sw.Timeout(10)(bare),
        "asyncio.timeout": with_timeout,
    }
    times = await abest_of(cases, rounds=rounds, calls=calls)
    unit = times["bare"]
    added = times["asyncio.timeout"] - unit
    return [
        Row("async breaker", times["breaker"] / unit, "x bare await", "<= 2.8", LOOP),
        Row("async 5 policies, no-op", times["five"] / unit, "x bare await", "<= 13", LOOP),
        Row(
            "timeout alone, added cost",
            added / (times["timeout"] - unit),
            "x cheaper",
            ">= 5",
            "asyncio.timeout's added cost",
        ),
    ]
