"""The story of the fleet: three instances of one service are killed, replaced and rolled while customers go on asking.

`seawall demo --fleet`. Instances are processes of their own that register in a SQLite file; the caller is a `ServiceClient` that
watches it. What counts is what the caller's customers see: a request either has its answer, or it failed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import seawall as sw
from seawall.balancing import ServiceClient
from seawall.demo.process import Child, Children
from seawall.demo.services.stock import TTL
from seawall.discovery import Registry

INSTANCES: Final = 3
STOCK: Final = "seawall.demo.services.stock"
ENDS_WITHIN: Final = 30.0  # seconds that an instance may take to drain

Say = Callable[[str], None]


@dataclass
class Scene:
    """What the customers saw while one thing happened. slowest: seconds of the slowest answer."""

    name: str
    asked: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    retries: int = 0

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(self.failures.values())

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "name": self.name,
            "asked": self.asked,
            "answered": self.answered,
            "failed": self.failed,
            "failures": dict(self.failures),
            "slowest": round(self.slowest, 4),
            "retries": self.retries,
        }


class Fleet:
    """The instances: started, killed, drained."""

    def __init__(self, children: Children, registry: str) -> None:
        self._children = children
        self._registry = registry
        self.running: list[Child] = []

    async def add(self) -> Child:
        """One more instance; it is registered when this returns."""
        child = await self._children.start(STOCK, lambda _report: None, registry=self._registry)
        await child.ready()
        self.running.append(child)
        return child

    async def kill(self) -> None:
        """Kill the oldest one: no goodbye, its record stays until its ttl has passed."""
        child = self.running.pop(0)
        os.kill(child.pid, signal.SIGKILL)
        await child.ended()

    async def drain(self) -> None:
        """Tell the oldest one to leave, as a deploy does, and wait until it has."""
        child = self.running.pop(0)
        os.kill(child.pid, signal.SIGTERM)
        async with asyncio.timeout(ENDS_WITHIN):
            await child.ended()


class Customers:
    """They ask at a steady rate, whether or not they are answered (open loop)."""

    def __init__(self, client: Any, rate: float) -> None:
        self._client = client
        self._rate = rate
        self._tasks: set[asyncio.Task[None]] = set()
        self.scene = Scene("before")

    async def ask(self) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = loop.create_task(self._one(self.scene))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, scene: Scene) -> None:
        began = time.monotonic()
        scene.asked += 1
        try:
            response = await self._client.get("/stock/a")
        except Exception as error:
            scene.failures[type(error).__name__] += 1
        else:
            if response.status_code == 200:
                scene.answered += 1
            else:
                scene.failures[str(response.status_code)] += 1
        scene.slowest = max(scene.slowest, time.monotonic() - began)

    async def settle(self) -> None:
        """Wait until everybody who asked has been answered."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))


@dataclass
class Way:
    """How customers reach the service. client: has `get`; retried: how many requests went to another instance so far."""

    client: Any
    retried: Callable[[], Awaitable[int]]


@asynccontextmanager
async def by_client(registry: Registry, folder: Path) -> AsyncIterator[Way]:  # noqa: ARG001  # the other way needs files
    """They choose the instance themselves."""
    pipeline = sw.Pipeline(
        sw.Timeout(5, name="total"),
        sw.Retry(3, backoff=sw.Backoff(base=0.02, cap=0.2)),
        sw.Timeout(1, name="attempt"),
        name="stock",
    )

    async def retried() -> int:
        return pipeline.policy(sw.Retry).retried

    async with ServiceClient("stock", registry, pipeline=pipeline) as client:
        yield Way(client, retried)


Door = Callable[[Registry, Path], AbstractAsyncContextManager[Way]]


async def tell(*, seconds: float, rate: float, rolls: int, say: Say, door: Door = by_client) -> list[Scene]:
    """Tell the story: about `seconds` of it calm and killed, then `rolls` rolling restarts of all instances."""
    with tempfile.TemporaryDirectory(prefix="seawall-fleet-") as folder:
        registry = f"sqlite:///{Path(folder) / 'registry.db'}"
        there = Registry.open(registry, ttl=TTL)
        async with Children() as children:
            fleet = Fleet(children, registry)
            await asyncio.gather(*(fleet.add() for _ in range(INSTANCES)))
            async with door(there, Path(folder)) as way, _asking(way.client, rate) as customers:
                teller = _Teller(customers, way, say)
                await teller.play("calm: three instances", lambda: asyncio.sleep(seconds / 4))
                await teller.play("one is killed, and replaced after a while", lambda: _replace_killed(fleet, seconds / 2))
                for turn in range(1, rolls + 1):
                    await teller.play(f"rolling restart {turn} of {rolls}", lambda: _roll(fleet))
                await teller.play("calm again", lambda: asyncio.sleep(seconds / 4))
            return teller.scenes


class _Teller:
    def __init__(self, customers: Customers, way: Way, say: Say) -> None:
        self._customers = customers
        self._way = way
        self._say = say
        self.scenes: list[Scene] = []

    async def play(self, name: str, scene: Callable[[], Awaitable[object]]) -> None:
        before = await self._way.retried()
        self._customers.scene = now = Scene(name)
        self.scenes.append(now)
        began = time.monotonic()
        await scene()
        now.retries = await self._way.retried() - before
        took = time.monotonic() - began
        self._say(
            f"{took:5.1f} s  {name:<42} {now.asked:5} asked {now.failed:4} failed {now.retries:4} tried again"
            f"  slowest {now.slowest * 1000:4.0f} ms"
        )


async def _replace_killed(fleet: Fleet, seconds: float) -> None:
    await fleet.kill()
    await asyncio.sleep(seconds / 2)
    await fleet.add()
    await asyncio.sleep(seconds / 2)


async def _roll(fleet: Fleet) -> None:
    for _ in range(INSTANCES):
        await fleet.add()
        await fleet.drain()


@asynccontextmanager
async def _asking(client: Any, rate: float) -> AsyncIterator[Customers]:
    customers = Customers(client, rate)
    task = asyncio.create_task(customers.ask())
    try:
        yield customers
    finally:
        task.cancel()
        await asyncio.wait([task])
        await customers.settle()
