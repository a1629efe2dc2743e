"""Keeps one instance in a registry, for as long as it wants to be there: it never gives up, and it checks.

Lost registrations are the most frequent complaint about every client of every registry: a process that is healthy and
invisible. So each failure leads to another attempt, heartbeats are checked by reading the record back, and whatever the
registry has forgotten is written again. The heartbeat ends before the record is taken out, or it could come back.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from seawall.core import units
from seawall.core.runtime import AsyncEvent
from seawall.discovery.backend import Backend, Hold
from seawall.discovery.errors import Lost
from seawall.discovery.instance import LEAVING, STATES, Instance, State
from seawall.discovery.settings import BEATS_PER_CHECK, BEATS_PER_TTL, TICK

if TYPE_CHECKING:
    from seawall.discovery.registry import Registry

T = TypeVar("T")
REMOVALS: Final = 3


@dataclass(frozen=True, slots=True)
class RegistrationSnapshot:
    """One registration at one moment. failures: attempts in a row that failed; error: what the last one said; losses: how
    often the registry had forgotten the record; beats: heartbeats that were answered."""

    instance: Instance
    registered: bool
    failures: int
    losses: int
    beats: int
    error: str | None


class Registration:
    """One instance announced, for `async with` or `with`. Made by `Registry.register`."""

    def __init__(self, registry: Registry, instance: Instance, ttl: float, wait: float) -> None:
        self._registry = registry
        self._instance = instance
        self._ttl = ttl
        self._patience = wait
        self._hold: Hold | None = None
        self._announced: Instance | None = None
        self._ordered = False  # whether an operator took it out of service
        self._registered = False
        self._leaving = False
        self._failures = self._losses = self._beats = 0
        self._error: str | None = None
        self._task: Any = None
        self._waiting: list[AsyncEvent] = []
        self._backend: Backend | None = None

    # --- what it says

    @property
    def instance(self) -> Instance:
        """The instance as it is announced, with the state it has now."""
        return self._instance

    @property
    def registered(self) -> bool:
        """Whether the registry holds the record, as far as is known."""
        return self._registered

    @property
    def propagation(self) -> float:
        """Seconds within which watchers of this registry usually have seen a change."""
        return self._registry.propagation

    def snapshot(self) -> RegistrationSnapshot:
        """How it goes, as a frozen value."""
        counts = (self._failures, self._losses, self._beats)
        return RegistrationSnapshot(self._instance, self._registered, *counts, self._error)

    # --- verbs, each with its twin

    async def set_state(self, state: State) -> None:
        """Announce "starting", "ready", "draining" or "down". Returns once the registry has it, or the attempt failed and goes
        on in the background. Raises ValueError for another word."""
        units.one_of("state", state, STATES)
        self._instance = self._instance.with_state(state)
        if self._task is None or self._leaving:
            return
        port, failures = self._registry.clock.tasks, self._failures
        until = port.now() + self._registry.settings.limit(self._ttl) * 2
        self._wake.set()
        while self._announced is not self._instance and self._failures == failures and port.now() + TICK < until:
            await self._turn(until - port.now())

    async def ready(self) -> None:
        """Announce that it takes work."""
        await self.set_state("ready")

    async def draining(self) -> None:
        """Announce that it finishes what it has and wants no more."""
        await self.set_state("draining")

    async def deregister(self) -> None:
        """End the heartbeat, then take the record out. When the registry does not answer it goes with its ttl. Harmless when
        done twice."""
        task, self._task = self._task, None
        if task is None or self._backend is None:
            return
        self._leaving = True
        self._wake.set()
        await self._turn(self._registry.settings.limit(self._ttl), over=task.done)
        await self._registry.clock.tasks.reap([task])
        try:
            await self._remove(self._backend)
        finally:
            self._registered = False
            self._instance = self._instance.with_state("down")
            await self._registry._release(self)
            self._backend = None

    def set_state_sync(self, state: State) -> None:
        """`set_state` for code without an event loop."""
        self._registry.background.run("set_state_sync", "set_state", self.set_state, state)

    def ready_sync(self) -> None:
        """`ready` for code without an event loop."""
        self.set_state_sync("ready")

    def draining_sync(self) -> None:
        """`draining` for code without an event loop."""
        self.set_state_sync("draining")

    def deregister_sync(self) -> None:
        """`deregister` for code without an event loop."""
        self._registry.background.run("deregister_sync", "deregister", self.deregister)

    # --- life

    async def start(self) -> None:
        """Begin to register, and wait for the first success for a while; then go on without."""
        if self._backend is not None or self._leaving:
            raise RuntimeError(f"this registration of {self._instance.id} was begun before; make another one")
        self._backend = await self._registry._acquire(self)
        port = self._registry.clock.tasks
        self._wake = port.event()
        self._task = contextvars.Context().run(port.spawn, self._run)
        until = port.now() + self._patience
        while not self._registered and port.now() + TICK < until:
            await self._turn(until - port.now())

    async def __aenter__(self) -> Registration:
        try:
            await self.start()
        except BaseException:  # cancelled while it waited: nobody will leave the block
            await self.deregister()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.deregister()

    def __enter__(self) -> Registration:
        background = self._registry.background
        background.enter()
        try:
            background.run("with registry.register()", "async with registry.register()", self.start)
        except BaseException:
            try:
                self.deregister_sync()
            finally:
                background.leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.deregister_sync()
        finally:
            self._registry.background.leave()

    # --- the loop

    async def _run(self) -> None:
        port, backoff = self._registry.clock.tasks, self._registry.settings.backoff
        while not self._leaving:
            try:
                await self._announce()
                await self._keep()
            except Lost as lost:
                self._losses += 1
                self._missed("registry.lost", lost)
            except Exception as error:
                self._missed("registry.register_failed", error)
            else:
                continue
            # never longer than a heartbeat: whatever was away, one ttl after its return the record is there again
            await self._wake.wait(min(self._ttl / BEATS_PER_TTL, backoff.wait(self._failures - 1, port.random())))
        self._told()

    async def _announce(self) -> None:
        """Write the record as it should be now."""
        hold = self._hold
        if hold is None:
            hold = self._hold = Hold(self._instance, self._ttl)
        wanted = hold.instance = self._instance
        await self._ask(self._need().put, hold)
        self._announced, hold.fresh = wanted, False
        first = not self._registered
        self._registered, self._failures, self._error = True, 0, None
        if first:
            self._registry.tell("registry.registered", service=self._instance.service, id=self._instance.id)
        self._told()

    async def _keep(self) -> None:
        """Beat until there is something else to announce, or the end; every third beat reads the record back."""
        assert self._hold is not None
        port, backend, period = self._registry.clock.tasks, self._need(), self._ttl / BEATS_PER_TTL
        due = port.now() + period
        while True:
            await self._wake.wait(max(0.0, due - port.now()))
            if self._leaving or self._instance is not self._hold.instance:
                return
            if port.now() + TICK < due:
                continue
            due = port.now() + period
            await self._ask(backend.beat, self._hold)
            self._beats += 1
            if self._beats % BEATS_PER_CHECK == 0:
                self._compare(await self._ask(backend.check, self._hold))

    def _compare(self, found: Instance) -> None:
        """The record that was read back: an operator's word about the state is taken, any other change is put right."""
        assert self._hold is not None
        written = self._hold.instance
        if found == written:
            return
        taken = found.state in LEAVING or (self._ordered and found.state == "ready")
        if found.with_state(written.state) != written or not taken:
            raise Lost(f"the record of {written.id} was changed by somebody else")
        self._ordered = found.state in LEAVING
        if self._instance is written:
            self._instance = self._announced = self._hold.instance = found
        self._registry.tell("registry.ordered", service=found.service, id=found.id, state=found.state)

    async def _ask(self, question: Callable[[Hold], Awaitable[T]], hold: Hold) -> T:
        async with asyncio.timeout(self._registry.settings.limit(self._ttl)):
            return await question(hold)

    def _missed(self, kind: str, error: Exception) -> None:
        self._registered = False
        self._failures += 1
        self._error = f"{type(error).__name__}: {error}"
        told = {"service": self._instance.service, "id": self._instance.id, "failures": self._failures, "error": self._error}
        self._registry.tell(kind, **told)
        self._told()

    async def _remove(self, backend: Backend) -> None:
        """Take the record out; backends leave word that it went by itself."""
        if self._hold is None:
            return
        settings, port, error = self._registry.settings, self._registry.clock.tasks, None
        for attempt in range(REMOVALS if self._registered else 1):
            try:
                await self._ask(backend.remove, self._hold)
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
                await port.sleep(settings.backoff.wait(attempt, port.random()))
            else:
                self._registry.tell("registry.deregistered", service=self._instance.service, id=self._instance.id)
                return
        self._registry.tell("registry.deregister_failed", service=self._instance.service, id=self._instance.id, error=error)

    # --- those who wait for the next attempt

    async def _turn(self, seconds: float, *, over: Callable[[], bool] = lambda: False) -> None:
        if over():
            return
        event = self._registry.clock.tasks.event()
        self._waiting.append(event)
        try:
            await event.wait(seconds)
        finally:
            self._waiting.remove(event)

    def _told(self) -> None:
        for event in self._waiting:
            event.set()

    def _need(self) -> Backend:
        assert self._backend is not None
        return self._backend
