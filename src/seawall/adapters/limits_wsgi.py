"""Limits at the door of a WSGI application (Flask, Django): 429 for too many."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from seawall.adapters.client_ip import client_ip
from seawall.adapters.limits_asgi import HEALTH
from seawall.adapters.ratelimit_fields import fields
from seawall.pipeline.limiter import RateLimiter

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class RateLimitMiddleware:
    """Asks a limiter before each request, and tells every caller how much is left. Parameters: as for ASGI, with the WSGI environ
    in the place of the scope."""

    def __init__(
        self,
        app: App,
        limiter: RateLimiter,
        *,
        key: Callable[[Environ], Hashable | None] | None = None,
        cost: int | Callable[[Environ], int] = 1,
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

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        key = None if environ.get("PATH_INFO", "") in self._exempt else self._key(environ)
        if key is None:
            return self.app(environ, start_response)
        decision = self.limiter.decide(key, self._cost(environ) if callable(self._cost) else self._cost)
        spread = decision.retry_after * self._spread * self.limiter.clock.random.random()
        later = spread if math.isfinite(spread) else 0.0
        told = fields(decision, self.limiter.snapshot().limits, name=self._name, legacy=self._legacy, later=later)
        if decision.allowed:

            def starting(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
                return start_response(status, [*headers, *told.items()], *rest)

            return self.app(environ, starting)
        problem = {"type": "about:blank", "title": "Too Many Requests", "status": 429}
        body = json.dumps({**problem, "detail": f"the limit of {decision.limit} is spent"}).encode()
        told = {"Content-Type": "application/problem+json", "Content-Length": str(len(body)), **told}
        start_response("429 Too Many Requests", list(told.items()))
        return [body]
