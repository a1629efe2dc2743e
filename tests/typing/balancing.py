"""What type checkers must accept of the service client: never run, only checked."""

from __future__ import annotations

from typing import assert_type

import seawall as sw
from seawall.balancing import Balancer, HostSnapshot, Outliers, PeakEwma, Pick, ServiceClient, SyncServiceClient, Told
from seawall.balancing.clients.port import Response, Streamed, SyncStreamed
from seawall.discovery import Instance, Registry, Watch


async def call(registry: Registry, stock: sw.Pipeline) -> None:
    async with ServiceClient("payments", registry, pipeline=stock) as client:
        response = await client.post("/charge", json={"total": 3}, idempotency_key="order-42")
        assert_type(response, Response)
        assert_type(response.status_code, int)
        assert_type(await client.get("/x", key="u", params={"a": 1}), Response)
        async with client.stream("GET", "/feed", headers={"A": "b"}) as streamed:
            assert_type(streamed, Streamed)
            async for piece in streamed.aiter_bytes():
                assert_type(piece, bytes)


def call_sync(watch: Watch, url: str) -> None:
    with SyncServiceClient("payments", url, picker=PeakEwma(decay=5), zone="a") as client:
        assert_type(client.delete("/x", idempotent=True), Response)
        with client.stream("GET", "/feed") as streamed:
            assert_type(streamed, SyncStreamed)
            assert_type(streamed.read(), bytes)
    SyncServiceClient("payments", watch, balancer=Balancer(outliers=Outliers(refused=None)))


def balance(instances: list[Instance]) -> None:
    balancer = Balancer("maglev", slow_start="5s", outliers=None, clock=sw.SystemClock())
    balancer.update(instances)
    pick = balancer.pick("key", tried=["a"])
    assert_type(pick, Pick)
    balancer.settle(pick, Told.OK)
    assert_type(balancer.snapshot().hosts, tuple[HostSnapshot, ...])
