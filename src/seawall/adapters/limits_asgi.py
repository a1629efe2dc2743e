"""Limits at the door of an ASGI application (Starlette, FastAPI, Litestar, Quart): 429 for too many, 503 for too much."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, MutableMapping
from typing import Any, Final

from seawall.adapters.client_ip import client_ip
from seawall.adapters.ratelimit_fields import fields
from seawall.core.context import PRIORITIES, Priority, priority
from seawall.core.errors import Rejected
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.limiter import Decision, RateLimiter

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HEALTH: Final = ("/livez", "/readyz", "/startupz", "/health", "/ready")


class RateLimitMiddleware:
    """Asks a limiter before each HTTP request, and tells every caller how much is left.

    app: what is guarded. limiter: a `sw.RateLimiter`, in memory or with a store.
    key: from the ASGI scope to the key; None as its answer lets the request pass uncounted. Default the peer's address; give
        `client_ip(trusted=[...])` behind a proxy.
    cost: units of a request, or a function of the scope. Default 1. name: what the fields call the limit.
    exempt: paths that are never counted. Default the health endpoints. legacy: also the X-RateLimit trio. Default False.
    spread: Retry-After is told up to this share later, so that callers do not come back at once, >= 0. Default 0.1.
    A refused request gets status 429 with Retry-After, RateLimit, RateLimit-Policy and a problem+json body.
    """

    def __init__(
        self,
        app: App,
        limiter: RateLimiter,
        *,
        key: Callable[[Scope], Hashable | None] | None = None,
        cost: int | Callable[[Scope], int] = 1,
        name: str = "default",
        exempt: Iterable[str] = HEALTH,
        legacy: bool = False,
        spread: float = 0.1,
    ) -> None:
        self.app = app
        self.limiter = limiter
        self._key = key or client_ip()
        self._cost = cost
        self._name = name
        self._exempt = frozenset(exempt)
        self._legacy = legacy
        self._spread = spread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        key = None if scope["type"] != "http" or scope["path"] in self._exempt else self._key(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        decision = await self.limiter.adecide(key, self._cost(scope) if callable(self._cost) else self._cost)
        told = self._told(decision)
        if decision.allowed:
            await self.app(scope, receive, _with(send, told))
        else:
            await _refuse(send, 429, "Too Many Requests", f"the limit of {decision.limit} is spent", told)

    def _told(self, decision: Decision) -> dict[str, str]:
        spread = decision.retry_after * self._spread * self.limiter.clock.random.random()
        later = spread if math.isfinite(spread) else 0.0
        limits = self.limiter.snapshot().limits
        return fields(decision, limits, name=self._name, legacy=self._legacy, later=later)


class ShedMiddleware:
    """Runs each HTTP request under a limit of what the process can do at once; what finds no place gets 503 and Retry-After.

    app: what is guarded. limit: an `sw.AdaptiveLimit(queue=...)` sheds by priority and by how long its queue stands (CoDel); an
    `sw.Bulkhead` only by number. priority: from the scope to "critical", "default" or "sheddable"; what else it answers counts
    as "default". Default None = "default"; believe a header only from peers that you trust. exempt: paths that are never shed.
    Default the health endpoints. retry_after: seconds that the shed are told to wait, >= 1. Default 1.
    """

    def __init__(
        self,
        app: App,
        limit: Guarding[Any],
        *,
        priority: Callable[[Scope], Priority] | None = None,
        exempt: Iterable[str] = HEALTH,
        retry_after: int = 1,
    ) -> None:
        self.app = app
        self.limit = limit
        self._priority = priority
        self._exempt = frozenset(exempt)
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self.app(scope, receive, send)
            return
        level: Any = "default" if self._priority is None else self._priority(scope)
        begun = False

        async def run() -> None:
            nonlocal begun
            begun = True
            await self.app(scope, receive, send)

        with priority(level if level in PRIORITIES else "default"):
            try:
                await self.limit.acall(run)
            except Rejected as error:
                if begun:
                    raise  # of something that the application asked
                wait = error.retry_after if error.retry_after and math.isfinite(error.retry_after) else 0
                told = {"Retry-After": str(max(self._retry_after, math.ceil(wait)))}
                await _refuse(send, 503, "Service Unavailable", "the service is overloaded", told)


def _with(send: Send, headers: dict[str, str]) -> Send:
    """`send`, with further headers on the response."""
    more = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sending


async def _refuse(send: Send, status: int, title: str, detail: str, headers: dict[str, str]) -> None:
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    told = {"content-type": "application/problem+json", "content-length": str(len(body)), **headers}
    start = {"type": "http.response.start", "status": status, "headers": []}
    await _with(send, told)(start)
    await send({"type": "http.response.body", "body": body})
