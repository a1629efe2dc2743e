"""What a guarded call costs, as a multiple of the bare call and against other libraries, in interleaved runs."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Any

import seawall as sw
from benchmarks import guard_peers as peers
from benchmarks.measure import Row, abest_of, best_of, cpu_of

GOOD = sw.SUCCEEDED
LOOP = "x bare call, loop included on both sides"
TIMEOUT_GOAL = ">= 3.5" if sys.version_info >= (3, 12) else ">= 5"
GOALS = {
    "count": ("sync breaker, count window", "<= 3.5"),
    "time": ("sync breaker, time window", "<= 6.3"),
    "slow": ("sync breaker, time window and slow calls", "<= 10"),
    "judge": ("sync breaker, count window and result classifier", "<= 4.1"),
    "retry": ("sync retry, no budget", "<= 2.7"),
    "budget": ("sync retry, budget", "<= 3.6"),
    "four": ("sync 4 policies", "<= 12"),
    "told": ("sync 4 policies, call events subscribed", "<= 21"),
    "deadline": ("sync deadline Timeout", "<= 16"),
    "raised": ("refused call, raised and caught", None),
    "value": ("refused call, as a value", None),
}


def rows(*, quick: bool = False) -> list[Row]:
    """The guard area of the performance goals."""
    rounds, calls = (12, 500) if quick else (60, 2000)
    return [
        *_sync(rounds, calls),
        *_with_arguments(rounds, calls),
        *_sync_peers(rounds, calls),
        *asyncio.run(_async(rounds, calls)),
        *asyncio.run(_suspending(rounds, calls // 4)),
    ]


class Lenient:
    """A classifier that looks at results."""

    judges_results = True

    def error(self, _error: BaseException) -> sw.Verdict:
        """Every error is one."""
        return sw.Verdict(sw.Kind.ERROR)

    def result(self, _value: Any) -> sw.Verdict:
        """Every result is good."""
        return GOOD


def four_policies() -> sw.Pipeline:
    """Rate limit, retry, breaker, bulkhead."""
    return sw.Pipeline(
        sw.RateLimiter("1000000000/s"), sw.Retry(3), sw.CircuitBreaker(window_calls=100), sw.Bulkhead(10, queue=10)
    )


def five_policies() -> sw.Pipeline:
    """The same, and a limit for each attempt."""
    return sw.Pipeline(*four_policies().policies, sw.Timeout(10))


def _sync(rounds: int, calls: int) -> list[Row]:
    def bare() -> None: ...

    isolated = sw.CircuitBreaker(name="open")
    isolated.isolate()
    refused = isolated(bare)

    def raised() -> None:
        try:
            refused()
        except sw.CircuitOpen:
            return

    told = four_policies()
    told.subscribe(deque(maxlen=1000).append)
    cases = {
        "bare": bare,
        "count": sw.CircuitBreaker(window_calls=100)(bare),
        "time": sw.CircuitBreaker()(bare),
        "slow": sw.CircuitBreaker(slow_call=1)(bare),
        "judge": sw.Pipeline(sw.CircuitBreaker(window_calls=100), classifier=Lenient())(bare),
        "retry": sw.Retry(3, budget=None)(bare),
        "budget": sw.Retry(3)(bare),
        "four": four_policies()(bare),
        "told": told(bare),
        "deadline": sw.Timeout(1)(bare),
        "raised": raised,
        "value": lambda: isolated.try_call(bare),
    }
    times = best_of(cases, rounds=rounds, calls=calls)
    found = [Row(name, times[case] / times["bare"], "x bare", goal, LOOP) for case, (name, goal) in GOALS.items()]
    return [*found, Row("call events subscribed", times["told"] / times["four"], "x silent", "<= 2", "the silent build")]


def _with_arguments(rounds: int, calls: int) -> list[Row]:
    def bare(a: int, b: int, c: int) -> tuple[int, int, int]:
        return a, b, c

    guarded = sw.CircuitBreaker(window_calls=100)(bare)
    times = best_of({"bare": lambda: bare(1, 2, c=4), "guarded": lambda: guarded(1, 2, c=4)}, rounds=rounds, calls=calls)
    return [Row("sync breaker f(1, 2, c=4)", times["guarded"] / times["bare"], "x bare", "<= 2.2", LOOP)]


def _sync_peers(rounds: int, calls: int) -> list[Row]:
    def bare() -> None: ...

    areas = [
        ("sync breaker", sw.CircuitBreaker(window_calls=100)(bare), peers.sync_breakers(), ">= 7"),
        ("sync retry", sw.Retry(3, budget=None)(bare), peers.sync_retries(), None),
        ("sync 4 policies", four_policies()(bare), peers.sync_stacks(), ">= 8"),
    ]
    found: list[Row] = []
    for name, ours, makers, goal in areas:
        others = peers.made(makers, bare)
        times = best_of({"ours": ours, **others}, rounds=max(5, rounds // 3), calls=max(100, calls // 4))
        found += _against(name, times, goal)
    return found


def _against(name: str, times: dict[str, float], goal: str | None) -> list[Row]:
    """How many times dearer the best peer is; all of them are named."""
    ours = times.pop("ours")
    if not times:
        return []
    best = min(times, key=lambda peer: times[peer])
    others = ", ".join(f"{peer} {time / ours:.0f}" for peer, time in sorted(times.items(), key=lambda pair: pair[1]))
    return [Row(f"{name} vs best peer", times[best] / ours, "x cheaper", goal, f"{best} (all: {others})")]


async def _async(rounds: int, calls: int) -> list[Row]:
    async def bare() -> None: ...

    async def with_timeout() -> None:
        async with asyncio.timeout(10):
            await bare()

    cases = {
        "bare": bare,
        "breaker": sw.CircuitBreaker(window_calls=100)(bare),
        "five": five_policies()(bare),
        "timeout": sw.Timeout(10)(bare),
        "asyncio.timeout": with_timeout,
    }
    times = await abest_of(cases, rounds=rounds, calls=calls)
    unit = times["bare"]
    added = times["asyncio.timeout"] - unit
    found = [
        Row("async breaker", times["breaker"] / unit, "x bare await", "<= 2.8", LOOP),
        Row("async 5 policies, no-op", times["five"] / unit, "x bare await", "<= 13", LOOP),
        Row(
            "timeout alone, added cost",
            added / (times["timeout"] - unit),
            "x cheaper",
            TIMEOUT_GOAL,
            "asyncio.timeout's added cost",
        ),
    ]
    for name, ours, makers, goal in (
        ("async breaker", cases["breaker"], peers.async_breakers(), None),
        ("async 5 policies", cases["five"], peers.async_stacks(), ">= 10"),
    ):
        measured = await abest_of(
            {"ours": ours, **peers.made(makers, bare)}, rounds=max(5, rounds // 3), calls=max(100, calls // 4)
        )
        found += _against(name, measured, goal)
    return found


async def _suspending(rounds: int, calls: int) -> list[Row]:
    async def bare() -> None:
        await asyncio.sleep(0)

    port_sleep = sw.SystemClock().tasks.sleep
    cases = {
        "bare": bare,
        "five": five_policies()(bare),
        "direct": lambda: asyncio.sleep(0),
        "port": lambda: port_sleep(0),
        **peers.made(peers.async_stacks(), bare),
    }
    times = await cpu_of(cases, rounds=max(8, rounds // 3), calls=calls)
    others = {name: times[name] for name in times if name not in ("bare", "five", "direct", "port")}
    found = [
        Row("async 5 policies, body suspends once", times["five"] / times["bare"], "x bare CPU", "<= 1.65", "CPU time"),
        Row("async sleep through the runtime port", times["port"] / times["direct"], "x direct", "<= 1.03", "CPU time"),
    ]
    return found + _against("async 5 policies, suspending", {"ours": times["five"], **others}, ">= 4")
