"""A registry in memory that can be broken on purpose, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from seawall.core.events import Event
from seawall.discovery import Instance, Registry, RegistryUnavailable
from seawall.discovery.backend import Hold, Listing
from seawall.discovery.place import read_place
from seawall.discovery.registries.memory import MemoryBackend
from seawall.discovery.settings import Settings
from seawall.testing import VirtualClock


class Switch:
    """How the registry behaves now, and what was asked of it.

    away: questions fail at once. cut: watches do. frozen: questions and watches say nothing. deaf: watches say nothing,
    questions are answered.
    told: a list that is told instead of the truth.
    """

    def __init__(self) -> None:
        self.away = self.frozen = self.deaf = self.cut = False
        self.told: tuple[Instance, ...] | None = None
        self.asked: list[tuple[float, str]] = []

    def of(self, verb: str) -> list[float]:
        """The moments at which a verb was used."""
        return [at for at, each in self.asked if each == verb]


class Scripted(MemoryBackend):
    """`memory:` behind a switch. Made by `kind_of`."""

    switch: Switch

    async def _pass(self, verb: str) -> None:
        self.switch.asked.append((self.clock.monotonic(), verb))
        while self.switch.frozen:
            await self.clock.tasks.sleep(0.05)
        if self.switch.away:
            raise RegistryUnavailable("scripted: away")

    async def list(self, service: str) -> Listing:
        await self._pass("list")
        listing = await super().list(service)
        return listing if self.switch.told is None else Listing(self.switch.told, listing.revision)

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        await self._pass("follow")
        while True:
            if self.switch.cut:
                raise RegistryUnavailable("scripted: cut")
            await self.clock.tasks.sleep(0.05)
            if self.switch.deaf or self.switch.frozen:
                continue
            yield await self.list(service)

    async def put(self, hold: Hold) -> None:
        await self._pass("put")
        await super().put(hold)

    async def beat(self, hold: Hold) -> None:
        await self._pass("beat")
        await super().beat(hold)

    async def check(self, hold: Hold) -> Instance:
        await self._pass("check")
        return await super().check(hold)

    async def remove(self, hold: Hold) -> None:
        await self._pass("remove")
        await super().remove(hold)


class Stage:
    """One scripted registry with its clock, switch and events."""

    def __init__(self, **settings: Any) -> None:
        self.clock = VirtualClock()
        self.switch = Switch()
        self.events: list[Event] = []
        self.place = read_place("memory:")
        self.registry = self.another(**settings)

    def another(self, **settings: Any) -> Registry:
        """One more registry object on the same store and switch, as another process would have it."""
        switch = self.switch
        kind = type("Scripted", (Scripted,), {"switch": switch})
        from seawall.discovery.addresses import AddressRules

        rules = {"addresses": AddressRules(allow_loopback=True), **settings}
        registry = Registry(self.place, kind, Settings(**rules), clock=self.clock)
        registry.subscribe(self.events.append)
        return registry

    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [event.kind for event in self.events]

    async def until(self, holds: Callable[[], Any], seconds: float = 60.0) -> float:
        """Let virtual time pass until something holds; how long it took."""
        began = self.clock.monotonic()
        while not holds():
            assert self.clock.monotonic() - began < seconds, "it never came to hold"
            await self.clock.asleep(0.05)
        return self.clock.monotonic() - began


def play(scenario: Callable[[Stage], Coroutine[Any, Any, None]], **settings: Any) -> Stage:
    """Run a scenario in virtual time."""
    stage = Stage(**settings)
    asyncio.run(scenario(stage))
    return stage
