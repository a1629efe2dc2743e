"""A rate limit as a FastAPI dependency, for single routes. Needs `fastapi`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

from fastapi import HTTPException, Request, Response

from seawall.adapters.client_ip import client_ip
from seawall.adapters.ratelimit_fields import fields
from seawall.pipeline.limiter import Decision, RateLimiter


class RateLimited:
    """A dependency that asks a limiter: `@app.get("/", dependencies=[Depends(RateLimited(limiter))])`.

    limiter: a `sw.RateLimiter`, in memory or with a store. key: from the request to the key; None as its answer lets it pass
    uncounted. Default the peer's address. cost: units, or a function of the request. Default 1. name, legacy, spread: as for the
    middleware. As a parameter it gives the `Decision`, or None for what is not counted.
    A refused request gets status 429 with Retry-After, RateLimit and RateLimit-Policy.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        key: Callable[[Request], Hashable | None] | None = None,
        cost: int | Callable[[Request], int] = 1,
        name: str = "default",
        legacy: bool = False,
        spread: float = 0.1,
    ) -> None:
        self.limiter = limiter
        self._key: Callable[[Any], Hashable | None] = key or client_ip()
        self._cost = cost
        self._name = name
        self._legacy = legacy
        self._spread = spread

    async def __call__(self, request: Request, response: Response) -> Decision | None:
        """One request."""
        key = self._key(request)
        if key is None:
            return None
        decision = await self.limiter.adecide(key, self._cost(request) if callable(self._cost) else self._cost)
        spread = decision.retry_after * self._spread * self.limiter.clock.random.random()
        later = spread if math.isfinite(spread) else 0.0
        told = fields(decision, self.limiter.snapshot().limits, name=self._name, legacy=self._legacy, later=later)
        if not decision.allowed:
            raise HTTPException(429, f"the limit of {decision.limit} is spent", headers=told)
        response.headers.update(told)
        return decision
