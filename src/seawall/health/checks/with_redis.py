"""The look at Redis: the only file of health that imports redis-py."""

from __future__ import annotations

import inspect
from typing import Any

import redis
import redis.asyncio

from seawall.health.checks.probe import AsyncProbe, Probe

_ANSWERS_WITHIN = 10.0  # seconds; the check's own timeout is shorter


def probe(target: Any) -> Probe | AsyncProbe:
    """PING, by URL or client."""
    if isinstance(target, str):
        redis.asyncio.ConnectionPool.from_url(target)  # opens nothing; a URL that cannot be read is told now, as a ValueError
        return AsyncProbe(lambda: _by_url(target), kind="datastore")
    if isinstance(target, (redis.Redis, redis.RedisCluster)):
        return Probe(lambda: bool(target.ping()), kind="datastore")
    if callable(getattr(target, "ping", None)):
        return AsyncProbe(lambda: _by_client(target), kind="datastore")
    raise TypeError(f"target must be a redis:// URL or a client; got {type(target).__name__}")


async def _by_url(url: str) -> bool:
    client = redis.asyncio.Redis.from_url(url, socket_timeout=_ANSWERS_WITHIN, socket_connect_timeout=_ANSWERS_WITHIN)
    try:
        return await _by_client(client)
    finally:
        await client.aclose()


async def _by_client(client: Any) -> bool:
    answer = client.ping()
    return bool(await answer if inspect.isawaitable(answer) else answer)
