"""Keeps the newest list of one service at hand: follows the registry, doubts it, and outlives it.

The list is swapped, never changed, so reading it needs no lock and no await. All work is done in one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from seawall.discovery.backend import Backend, Listing
from seawall.discovery.brake import BrakeState
from seawall.discovery.disk import LastKnown, believable
from seawall.discovery.errors import Outdated, RegistryError
from seawall.discovery.instance import Instance, Snapshot, ordered
from seawall.discovery.probing import silent_ones
from seawall.discovery.settings import TICK

if TYPE_CHECKING:
    from seawall.core.clock import Clock
    from seawall.discovery.registry import Registry

MOST_INSTANCES: Final = 10_000
MOST_REPORTS: Final = 1000
MOST_WAITING: Final = 256
SAVE_EVERY: Final = 1.0
STEADY: Final = 1.0  # seconds after which a watch that broke counts as one that had worked


class Watcher:
    """One service of one registry, watched in one event loop. Made by `Registry.watch`, and shared by all who watch there."""

    def __init__(self, registry: Registry, service: str, backend: Backend) -> None:
        self.service = service
        self.snapshot = Snapshot(service)
        self._registry = registry.name
        self._backend = backend
        self._settings = settings = registry.settings
        self._clock = registry.clock
        self._tell = registry.tell
        self._callbacks: tuple[Callable[[Snapshot], object], ...] = ()
        self._listing: Listing | None = None
        self._told: tuple[Instance, ...] = ()  # what the registry names, without those that are held
        self._brake = BrakeState()
        self._reports: deque[str] = deque(maxlen=MOST_REPORTS)
        self._denied: set[str] = set()
        self._tasks: list[Any] = []
        self._disk = None if settings.cache_dir is None else LastKnown(settings.cache_dir)
        self._saved_at = -math.inf
        self._unsaved = False
        self._next_probe = math.inf

    # --- for those who read

    def subscribe(self, callback: Callable[[Snapshot], object]) -> Callable[[], None]:
        """Call `callback` with each new snapshot, in the watcher's loop; the result ends it. It must not raise."""
        self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            remaining = list(self._callbacks)
            if callback in remaining:
                remaining.remove(callback)
            self._callbacks = tuple(remaining)

        return unsubscribe

    def unreachable(self, id: str) -> None:
        """Somebody could not connect to this instance; if it is only held back, it is let go. From any thread."""
        if id in self.snapshot.held and self._tasks:
            self._reports.append(id)
            self._wake.set()

    # --- life

    def start(self) -> None:
        """Begin to follow, in the running loop."""
        port = self._clock.tasks
        self._wake = port.event()
        bare = contextvars.Context().run  # what is done here belongs to no call: no deadline, no attempt
        self._tasks = [bare(port.spawn, self._follow_for_ever), bare(port.spawn, self._tend)]

    async def stop(self) -> None:
        """End it; the last snapshot stays readable."""
        tasks, self._tasks = self._tasks, []
        await self._clock.tasks.reap(tasks)
        if self._disk is not None and self._unsaved:
            await self._save()

    # --- following

    async def _follow_for_ever(self) -> None:
        port, failures = self._clock.tasks, 0
        while True:
            began = port.now()
            try:
                await self._follow_once()
            except Outdated as error:
                self._tell("registry.relisted", service=self.service, reason=str(error))
            except Exception as error:
                self._tell("registry.failed", service=self.service, error=f"{type(error).__name__}: {error}")
            else:
                self._tell("registry.relisted", service=self.service, reason="the watch ended")
            answered = self.snapshot.source == "live"
            failures = 0 if answered and port.now() - began > STEADY else failures + 1
            pause = self._settings.backoff.wait(max(0, failures - 1), port.random())
            # a registry that answers and cannot be followed is asked about once a second instead
            await port.sleep(min(pause, STEADY) if answered else pause)

    async def _follow_once(self) -> None:
        """List, then follow until that breaks or is seen to be frozen."""
        listing = await self._list()
        self._accept(listing)
        feed = Feed(self._clock, self._backend, self.service, listing)
        try:
            while True:
                heard = await feed.next(self._settings.watchdog)
                if heard is None:
                    listing = await self._list()
                    frozen = listing.instances != (self._listing.instances if self._listing else ())
                    self._accept(listing)
                    if frozen:
                        self._tell("registry.frozen", service=self.service, silent_for=self._settings.watchdog)
                        return
                else:
                    self._accept(heard)
        finally:
            await feed.close()

    async def _list(self) -> Listing:
        try:
            async with asyncio.timeout(self._settings.limit()):
                return await self._backend.list(self.service)
        except Outdated:
            raise
        except Exception:
            await self._away()
            raise

    def _accept(self, listing: Listing) -> None:
        """What the registry says is heard; it becomes the next snapshot unless the brake doubts it."""
        now = self._clock.monotonic()
        was = self.snapshot.source
        if listing is not self._listing or was != "live":
            if len(listing.instances) > MOST_INSTANCES:
                raise RegistryError(f"{self.service} has {len(listing.instances)} instances; {MOST_INSTANCES} are the most")
            if self._listing is not None and listing.revision < self._listing.revision:
                self._tell("registry.went_back", service=self.service, revision=listing.revision)
            if listing.complaint is not None:
                self._tell("registry.failed", service=self.service, error=listing.complaint)
            if was in ("stale", "disk"):  # records may have died meanwhile; their owners have one ttl to write them again
                self._brake.doubt(now + max(self._settings.ttl, self._settings.brake.hold))
            told = self._allowed(listing.instances, listing.skipped)
            held = self._brake.heed(self._settings.brake, now, self._told, told)
            self._listing, self._told = listing, told
            if held:
                self._tell("registry.held", service=self.service, ids=held, named=len(told))
            self._unsaved = True
        self._publish(source="live", at=now)
        if was != "live":
            self._tell("registry.live", service=self.service, instances=len(self.snapshot.instances), before=was)
        if self._brake.held or self._unsaved:
            self._wake.set()

    def _allowed(self, instances: tuple[Instance, ...], skipped: tuple[str, ...] = ()) -> tuple[Instance, ...]:
        """Those that may be called, told of once per id where they may not."""
        refusals = {one.id: self._settings.addresses.refusal(one.host) for one in instances}
        denied = {f"{one.id} at {one.host}": refusals[one.id] for one in instances if refusals[one.id] is not None}
        denied |= dict.fromkeys(skipped, "the record cannot be read")
        for which, reason in denied.items():
            if which not in self._denied and len(self._denied) < MOST_REPORTS:
                self._denied.add(which)
                self._tell("registry.denied", service=self.service, which=which, reason=reason)
        return ordered(one for one in instances if refusals[one.id] is None)

    async def _away(self) -> None:
        """The registry is away: what is known stays, and says that it is stale."""
        if self.snapshot.source == "none":
            await self._from_disk()
        elif self.snapshot.source == "live":
            self._publish(source="stale")
            self._wake.set()

    def _publish(self, *, source: str | None = None, at: float | None = None) -> None:
        """Swap the snapshot; tell of it when more than its age changed."""
        before = self.snapshot
        held = tuple(each.instance for each in self._brake.held.values())
        instances = ordered((*self._told, *held)) if held else self._told
        fields: dict[str, Any] = {"source": source or before.source, "at": before.at if at is None else at}
        if instances == before.instances and fields["source"] == before.source:
            self.snapshot = replace(before, at=fields["at"], held=frozenset(self._brake.held))
            return
        fields |= {"instances": instances, "held": frozenset(self._brake.held), "revision": before.revision + 1}
        self.snapshot = replace(before, **fields)
        self._tell("registry.changed", service=self.service, instances=len(instances), source=fields["source"])
        for callback in self._callbacks:
            callback(self.snapshot)

    # --- tending what is held, stale and unsaved

    async def _tend(self) -> None:
        while True:
            now = self._clock.monotonic()
            await self._wake.wait(None if (moment := self._next_look(now)) == math.inf else max(0.0, moment - now))
            try:
                await self._tend_once(self._clock.monotonic() + TICK)
            except Exception as error:
                self._tell("registry.failed", service=self.service, error=f"{type(error).__name__}: {error}")
                await self._clock.tasks.sleep(self._settings.backoff.cap)

    async def _tend_once(self, now: float) -> None:
        gone = self._brake.let_go([self._reports.popleft() for _ in range(len(self._reports))])
        gone += self._brake.expire(now)
        gone += self._brake.let_go(await self._unanswering(now))
        if gone:
            self._tell("registry.released", service=self.service, ids=gone)
            self._publish()
        if self.snapshot.source in ("stale", "disk") and self.snapshot.age(now) >= self._settings.stale_for:
            self._expire()
        if self._disk is not None and self._unsaved and now >= self._saved_at + SAVE_EVERY:
            await self._save()

    def _next_look(self, now: float) -> float:
        moments = [self._brake.next_look()]
        if self._brake.held:
            self._next_probe = min(self._next_probe, now + self._settings.brake.probe_every)
            moments.append(self._next_probe)
        if self.snapshot.source in ("stale", "disk"):
            moments.append(self.snapshot.at + self._settings.stale_for)
        if self._disk is not None and self._unsaved and self.snapshot.source == "live":
            moments.append(max(now, self._saved_at + SAVE_EVERY))
        return min(moments)

    async def _unanswering(self, now: float) -> list[str]:
        """Which of those held do not answer a probe that is due."""
        if not self._brake.held or now < self._next_probe:
            return []
        self._next_probe = math.inf
        suspects = [each.instance for each in self._brake.held.values()]
        return await silent_ones(suspects, self._settings.probe, self._settings.brake.probe_every)

    def _expire(self) -> None:
        """What was known is too old to be of use."""
        self._told, self._listing, self._brake = (), None, BrakeState()
        self._tell("registry.expired", service=self.service, age=self._settings.stale_for)
        self._publish(source="none")

    # --- the last known list on disk

    async def _from_disk(self) -> None:
        if self._disk is None:
            return
        try:
            found = self._disk.load(self._registry, self.service)
        except RegistryError as error:
            self._tell("registry.disk_failed", service=self.service, error=str(error))
            return
        if found is None:
            return
        settings, age = self._settings, self._clock.wall() - found[0]
        proves = settings.identity is not None
        kept = believable(found[1], age=age, ttl=settings.ttl, stale_for=settings.stale_for, proves=lambda _: proves)
        kept = self._allowed(kept)
        if proves and kept:
            strangers = await silent_ones(kept, settings.identity, settings.limit())
            kept = tuple(one for one in kept if one.id not in strangers)
        if kept and self.snapshot.source == "none":
            self._told = kept
            self._publish(source="disk", at=self._clock.monotonic() - max(0.0, age))
            self._wake.set()

    async def _save(self) -> None:
        """Write what the registry names now; a disk that fails is told of and tried again at the next change."""
        assert self._disk is not None
        self._saved_at, self._unsaved = self._clock.monotonic(), False
        if not self._told:  # an empty list is no help to anybody who starts
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self._disk.save, self._registry, self.service, self._told, self._clock.wall())
        except OSError as error:
            self._tell("registry.disk_failed", service=self.service, error=str(error))


class Feed:
    """What a backend's `follow` says, taken by a task of its own, so that its silence can be noticed.

    Lists are kept in their order, because one that says "down" explains the next one; of too many, the oldest are dropped.
    """

    def __init__(self, clock: Clock, backend: Backend, service: str, listing: Listing) -> None:
        port = clock.tasks
        self._port = port
        self._event = port.event()
        self._lists: deque[Listing] = deque(maxlen=MOST_WAITING)
        self._end: Exception | None = None
        self._ended = False
        self._task = port.spawn(self._pump, backend.follow(service, listing))

    async def _pump(self, lists: AsyncIterator[Listing]) -> None:
        try:
            async with aclosing(lists) as told:  # type: ignore[type-var]
                async for listing in told:
                    self._lists.append(listing)
                    self._event.set()
        except Exception as error:
            self._end = error
        finally:
            self._ended = True
            self._event.set()

    async def next(self, patience: float) -> Listing | None:
        """The next list, or None after `patience` seconds of silence. Raises what broke the way to the registry, or
        Outdated when the watch just ended."""
        if not self._lists and not self._ended:
            await self._event.wait(patience)
        if self._lists:
            return self._lists.popleft()
        if self._end is not None:
            raise self._end
        if self._ended:
            raise Outdated("the watch ended")
        return None

    async def close(self) -> None:
        """End the task, whatever it waits for."""
        await self._port.reap([self._task])
