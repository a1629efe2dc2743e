"""What a service client promises its callers, against real processes, servers and signals: killed instances, and a registry that
freezes, dies and forgets. (One bad of two: tests/faults/test_balancing.py.)"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.balancing.servers import backends
from tests.discovery.kit import eventually
from tests.discovery.servers import Server, etcd

import seawall as sw
from seawall.balancing import ServiceClient
from seawall.balancing.clients.over_httpx2 import AsyncTransport
from seawall.demo.process import Child, Children
from seawall.demo.services.stock import TTL
from seawall.discovery import Instance, Registry

STOCK = "seawall.demo.services.stock"
WATCH = 0.5  # seconds: the watch's delay on a busy machine
PROBE = 0.5  # seconds: one request that was on its way


def with_retry() -> sw.Pipeline:
    """A limit, and one more attempt, which goes to another instance."""
    return sw.Pipeline(
        sw.Timeout(5, name="total"),
        sw.Retry(2, budget=None, backoff=sw.Backoff(base=0.001, cap=0.002)),
        sw.Timeout(1, name="attempt"),
        name="stock",
    )


class Traffic:
    """Requests at a steady rate for as long as the block lasts, and what became of them."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self.answered = 0
        self.failures: list[str] = []

    async def ask(self) -> None:
        """One request."""
        try:
            response = await self._client.get("/stock/a")
        except Exception as error:
            told = f"at {time.monotonic():.2f} of {self._known()}"
            self.failures.append(f"{told}: {error!r} after {error.__cause__ or error.__context__!r}")
        else:
            if response.status_code == 200:
                self.answered += 1
            else:
                self.failures.append(str(response.status_code))

    def _known(self) -> str:
        """Whom the client could have asked."""
        return " ".join(f"{host.instance.port}={host.status}" for host in self._client.snapshot().balancer.hosts)

    @asynccontextmanager
    async def flowing(self, rate: float) -> AsyncIterator[Traffic]:
        """In an open loop: whoever is not answered does not hold up the next."""

        async def flow(group: asyncio.TaskGroup) -> None:
            while True:
                group.create_task(self.ask())
                await asyncio.sleep(1 / rate)

        async with asyncio.TaskGroup() as group:
            flowing = asyncio.create_task(flow(group))
            try:
                yield self
            finally:
                flowing.cancel()
                await asyncio.wait([flowing])


class Visits:
    """When each port was asked last, by the moments at which requests leave the client."""

    def __init__(self) -> None:
        self.last: dict[int, float] = {}

    async def note(self, request: httpx2.Request) -> None:
        """A hook of the HTTP client."""
        self.last[request.url.port or 80] = time.monotonic()

    def after(self, port: int, moment: float) -> float:
        """Seconds after `moment` at which the port was asked last; 0 = not any more."""
        return max(0.0, self.last.get(port, 0.0) - moment)


@pytest.mark.soak
def test_nobody_is_sent_to_a_killed_instance_once_its_record_is_over(tmp_path: Path, soak_seconds: float, soak_seed: int) -> None:
    """R2: a random instance is killed with SIGKILL, 200 times in a soak of 600 s, while requests go on; none of them fails."""
    kills = max(2, min(200, round(soak_seconds / 3)))
    draw = random.Random(soak_seed)
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    latest: list[float] = []
    deaths: list[str] = []

    async def scenario() -> Traffic:
        async with Children() as children, AsyncExitStack() as open_:

            async def add() -> tuple[Child, int]:
                child = await children.start(STOCK, lambda _report: None, registry=url)
                return child, int((await child.ready())["port"])

            fleet = [await add() for _ in range(3)]
            visits = Visits()
            http = await open_.enter_async_context(httpx2.AsyncClient(trust_env=False, event_hooks={"request": [visits.note]}))
            registry = Registry.open(url, ttl=TTL)
            asked = ServiceClient("stock", registry, pipeline=with_retry(), transport=AsyncTransport(client=http))
            client = await open_.enter_async_context(asked)
            traffic = Traffic(client)
            async with traffic.flowing(50):
                for _ in range(kills):
                    child, port = fleet.pop(draw.randrange(len(fleet)))
                    os.kill(child.pid, signal.SIGKILL)
                    await child.ended()
                    died = time.monotonic()
                    deaths.append(f"{port} at {died:.2f}")
                    fleet.append(await add())
                    await asyncio.sleep(max(0.0, died + TTL + WATCH + PROBE + 0.3 - time.monotonic()))
                    latest.append(visits.after(port, died))
            return traffic

    traffic = asyncio.run(scenario())
    print(f"{kills} kills, {traffic.answered} answered, {len(traffic.failures)} failed, latest visit {max(latest):.2f} s")
    assert traffic.failures == [], deaths
    assert max(latest) <= TTL + WATCH + PROBE
    assert traffic.answered > 50 * kills


@pytest.mark.soak
@pytest.mark.xdist_group("etcd")
def test_a_registry_that_freezes_dies_and_forgets_costs_no_request(tmp_path: Path, soak_seconds: float) -> None:
    """R1: a registry is not on the path of requests. When it is back, so is everybody within one TTL."""
    ttl = 2.0
    away = max(3 * ttl, soak_seconds / 5)
    silence: list[float] = []

    def opened(server: Server) -> Registry:
        url = f"etcd://127.0.0.1:{server.port}"
        return Registry.open(url, allow_loopback=True, ttl=ttl, watchdog=1, call_timeout=1)

    async def back(server: Server, since: float) -> None:
        """Wait until a newcomer finds all three in the registry itself."""
        async with opened(server).watch("stock") as watch:
            await eventually(lambda: len(watch.snapshot.ready) == 3, 30)
        silence.append(time.monotonic() - since)

    async def scenario(server: Server, found: dict[str, Any]) -> Traffic:
        async with AsyncExitStack() as there:
            registry = opened(server)
            for name, backend in found.items():
                await there.enter_async_context(registry.register(Instance("stock", id=name, port=backend.port)))
            client = await there.enter_async_context(ServiceClient("stock", registry, pipeline=with_retry()))
            traffic = Traffic(client)
            async with traffic.flowing(50):
                await asyncio.sleep(1)
                server.child.freeze()
                await asyncio.sleep(away)
                server.child.thaw()
                await back(server, time.monotonic())
                server.child.kill()
                await asyncio.sleep(away)
                shutil.rmtree(tmp_path / "data")
                await asyncio.to_thread(server.again)
                await back(server, time.monotonic())
                await asyncio.sleep(1)
            return traffic

    with etcd(tmp_path) as server, backends("a b c") as found:
        traffic = asyncio.run(scenario(server, found))
        print(f"away 2 x {away:.0f} s, {traffic.answered} answered, back after {[round(one, 2) for one in silence]} s")
        assert traffic.failures == []
        assert all(one <= ttl + WATCH for one in silence), silence
        assert all(backend.seen for backend in found.values())
