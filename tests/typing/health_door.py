"""Health as type checkers see it. Not run: mypy --strict and pyright must accept it, and must refuse what is marked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, assert_type

import seawall as sw
from seawall.health import CheckReport, Drain, Finding, Health, Peer, PeerHealth, Propagation, Report, SharedFate, Status, checks

health = Health("orders", version="1.4", max_lag=10, fate=SharedFate("me", lambda: [Peer("me", frozenset({"database"}))]))


@health.ready("database", every=5, timeout=1, critical=True)
async def database() -> None: ...


@health.startup("migrations")
def migrations() -> bool:
    return True


still: Callable[[], Coroutine[Any, Any, None]] = database
assert_type(migrations, Callable[[], bool])
health.ready("redis", checks.redis("redis://localhost"))
health.ready("breakers", checks.breakers(sw.CircuitBreaker(name="stock")), critical=False)
health.ready("odd", lambda: Finding(Status.WARN, "slow", 1.5, "s"))
assert_type(health.report("ready"), Report)
assert_type(health.report("ready").checks, tuple[CheckReport, ...])
health.report("readiness")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Registered:
    propagation = 0.5

    async def draining(self) -> None: ...
    async def deregister(self) -> None: ...


async def lifespan(app: object) -> AsyncIterator[None]:
    async with health.drain(Registered(), delay=Propagation(dns_ttl=5), timeout=20) as drain:
        assert_type(drain, Drain)
        yield
    health.drain(object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


with health.listen(0) as own:
    assert_type(own.port, int)
peers = PeerHealth(watch=object())
assert_type(peers(), list[Peer] | None)
