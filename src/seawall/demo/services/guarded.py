"""The same calls of the order service through Seawall: the two pipelines below are all that differs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx2

import seawall as sw
from seawall.demo.story import PAYMENT_RATE, SEATS

PENDING = "pending"  # the order is taken, the customer is told that payment follows; never counted as good


def payment_pipeline(open_for: float, store: str | None = None) -> sw.Pipeline:
    """What stands between us and payment, first = outermost. open_for: seconds that the breaker stays open. store: where the
    rate is counted; None = in this process."""
    promised = f"{PAYMENT_RATE}/s burst {PAYMENT_RATE // 5}"  # what payment's owners promise
    return sw.Pipeline(
        sw.Fallback(PENDING, on=(sw.Rejected, sw.TimedOut, httpx2.HTTPError)),  # a lesser answer instead of none
        sw.Timeout(0.9, name="total"),  # the customer waits one second: everything after that is wasted work
        sw.Retry(3, backoff=sw.Backoff(base=0.05)),  # with a budget: retries are a tenth of the traffic at most
        sw.CircuitBreaker(failure_ratio=0.5, window=10, open_for=open_for),
        sw.RateLimiter(promised, store=store, name=store and "payment's rate", budget=0.1),
        sw.Bulkhead(SEATS, queue=10, wait=0.3),  # more at once would only wait over there
        sw.Timeout(0.6, name="attempt"),
        name="payment",
    )


def inventory_pipeline(open_for: float) -> sw.Pipeline:
    """What stands between us and inventory. open_for: seconds that the breaker stays open."""
    return sw.Pipeline(
        sw.Timeout(0.6, name="total"),
        sw.Retry(3, backoff=sw.Backoff(base=0.05)),
        sw.CircuitBreaker(open_for=open_for),
        sw.Bulkhead(40),
        sw.Timeout(0.3, name="attempt"),
        name="inventory",
    )


class GuardedShop:
    """Order behind Seawall.

    open_for: seconds that the breakers stay open. store: where payment's rate is counted.
    """

    def __init__(self, payment: str, inventory: str, open_for: float, store: str | None = None) -> None:
        self._client = httpx2.AsyncClient(timeout=None, trust_env=False)  # the pipelines hold all the limits
        self._urls = payment, inventory
        self._pipeline = payment_pipeline(open_for, store)
        self._events: Counter[str] = Counter()
        self._pipeline.subscribe(self._count)
        self._charge = self._pipeline(idempotency_key=lambda order: order)(self._charge_once)
        self._reserve = inventory_pipeline(open_for)(idempotency_key=lambda order: order)(self._reserve_once)

    async def place(self, order: str) -> str:
        """Place an order; "paid" or "pending". Raises what inventory's pipeline raises."""
        await self._reserve(order)
        return await self._charge(order)

    async def _reserve_once(self, order: str) -> None:
        await self._post(f"{self._urls[1]}/reserve", order)

    async def _charge_once(self, order: str) -> str:
        await self._post(f"{self._urls[0]}/charge", order)
        return "paid"

    async def _post(self, url: str, order: str) -> None:
        headers = {"idempotency-key": sw.call_key() or order}  # the same for every attempt: one charge, however often we ask
        response = await self._client.post(url, json={"order": order}, headers=headers)
        response.raise_for_status()

    def _count(self, event: sw.Event) -> None:
        if not event.kind.startswith("call."):
            self._events[event.kind] += 1

    def report(self) -> dict[str, Any]:
        """What the guards of payment did so far, and how its breaker stands."""
        return {"events": dict(self._events), "breaker": self._pipeline.policy(sw.CircuitBreaker).snapshot().state}
