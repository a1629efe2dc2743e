"""The front door as type checkers see it. Not run: mypy --strict and pyright must accept it, and must refuse what is marked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

import seawall as sw
from seawall.testing import Script, VirtualClock

stock = sw.Pipeline(
    sw.Timeout(10, name="total"),
    sw.Retry(4, on=(OSError, sw.BulkheadFull), backoff=sw.Backoff(base=0.2, jitter="equal"), budget=sw.RetryBudget(0.2)),
    sw.CircuitBreaker(failure_ratio=0.5, window="30s", open_for=sw.Backoff(base=5, cap=60)),
    sw.RateLimiter("100/s burst 20", key=lambda sku: sku, wait="1s"),
    sw.Bulkhead(20, queue=50, wait=1, order="lifo"),
    sw.Timeout("2s", connect=0.5, sync="thread", name="attempt"),
    name="stock",
    clock=sw.SystemClock(seed=1),
    observe=True,
)

server = sw.Pipeline(
    sw.AdmissionControl(target="20ms", key="tenant", delay=lambda tenant: 0.0),
    sw.AdaptiveLimit(queue=5, partitions={"batch": 0.1, "live": 0.9}, partition=lambda tenant: "live", tenant="tenant"),
    sw.Fault("drill", item_latency="100ms", cut_after=3, error=OSError, error_budget=10),
    observe=["admission_control"],
)


@stock
async def levels(sku: str) -> dict[str, int]:
    return {sku: 1}


@stock(idempotent=True)
def charge(amount: int, *, currency: str = "EUR") -> str:
    return f"{amount}{currency}"


@stock(idempotency_key=lambda order: order)
async def order(order: str) -> int:
    return 1


@stock
def items(n: int) -> Iterator[int]:
    yield n


@stock
async def later(n: int) -> AsyncIterator[str]:
    yield str(n)


class Stock:
    @stock
    def level(self, sku: str) -> int:
        return 1

    @stock
    @staticmethod
    def still(n: int) -> int:
        return n

    @stock
    @classmethod
    def named(cls, n: int) -> str:
        return cls.__name__


async def use() -> None:
    assert_type(await levels("a"), dict[str, int])
    assert_type(charge(1, currency="x"), str)
    assert_type(await order("o"), int)
    assert_type(Stock().level("a"), int)
    assert_type(Stock.still(1), int)
    assert_type(Stock.named(1), str)
    for item in items(1):
        assert_type(item, int)
    async for text in later(1):
        assert_type(text, str)
    charge("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(stock.call(charge, 1), str)
    assert_type(await stock.acall(levels, "a"), dict[str, int])
    stock.call(charge, 1, money=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(stock.try_call(charge, 1), sw.Result[str])
    assert_type(await stock.atry_call(levels, "a"), sw.Result[dict[str, int]])
    assert_type(stock.policy(sw.CircuitBreaker), sw.CircuitBreaker)
    assert_type(stock.policy(sw.Retry).attempts is not None, bool)
    with sw.CircuitBreaker().permit() as permit:
        permit.settle(3)
    async with sw.Bulkhead(1).permit() as permit:
        permit.settle(3)
    for attempt in sw.Retry(3, on=OSError).attempts():
        with attempt:
            assert_type(attempt.number, int)
    async for attempt in sw.Retry(3).attempts():
        with attempt:
            ...
    with sw.deadline(1.5) as moment:
        assert_type(moment, float)
    limiter = sw.RateLimiter(["100/s", sw.Limit(1000, 60.0)], algorithm="sliding_window")
    assert_type(limiter.try_acquire("tenant", 2), bool)
    assert_type(limiter.decide("tenant"), sw.Decision)
    await limiter.aacquire("tenant", timeout=2)
    try:
        charge(1)
    except (sw.Rejected, sw.TimedOut) as error:
        assert_type(error, sw.Rejected | sw.TimedOut)
    end: Callable[[], None] = stock.subscribe(print)
    end()
    sw.Keyed("host", lambda host: sw.CircuitBreaker(), max_keys=10)
    sw.CircuitBreaker(failures=lambda result: bool(result))
    sw.CircuitBreaker(failures=(OSError, KeyError))
    sw.Fallback([], on=OSError)
    assert_type(sw.Bulkhead.threads(3).call(charge, 1), str)
    with sw.testing.instant() as waits:
        assert_type(waits, list[float])
    with sw.testing.capture_events("breaker.") as events:
        assert_type(events, list[sw.Event])
    VirtualClock(seed=0).advance(1.5)
    script: Callable[..., Coroutine[Any, Any, Any]] = Script(1, OSError()).acall
    await script()
    print(stock.explain(), stock.snapshot())


shared = sw.RateLimiter(
    {"all": "1000/s", "tenant": ["100/s", sw.Limit(5)]},
    store="redis://127.0.0.1:6379",
    headroom={"sheddable": 0.5},
    observe=True,
    mode="exact",
    outage="closed",
    budget="20ms",
    replicas=3,
)


async def sharing() -> None:
    assert_type(await shared.adecide(("a",)), sw.Decision)
    assert_type((await shared.apeek(("a",))).degraded, bool)
    assert_type((await shared.apeek(("a",))).level, str | None)
    await shared.areset(("a",))
    await shared.apenalise(("a",), "5s")
