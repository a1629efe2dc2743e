"""`memory:` a registry inside this process, for tests and for programs that are one process.

`memory:` alone is new each time; `memory:name` is the same one for everybody in the process who says that name.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from seawall.core.clock import Clock
from seawall.core.runtime import AsyncEvent
from seawall.discovery.backend import Backend, Hold, Listing
from seawall.discovery.errors import Lost, RegistryError, Taken
from seawall.discovery.instance import Instance, State, ordered
from seawall.discovery.place import Place
from seawall.discovery.settings import TICK

MOST_ROWS = 10_000
LINGER = 2.0  # seconds that a record stays as "down" after it was removed, so that every watcher sees that it left by itself


@dataclass(slots=True)
class Row:
    """One record: who wrote it, and until when it lives."""

    instance: Instance
    owner: str
    until: float


@dataclass(slots=True)
class Store:
    """The rows of one registry, for any number of threads and loops."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    revision: int = 0
    waiting: set[AsyncEvent] = field(default_factory=set)

    def changed(self) -> None:
        """Count the change and wake whoever follows. Called with the lock held."""
        self.revision += 1
        for event in tuple(self.waiting):
            try:
                event.set()
            except RuntimeError:  # its loop is closed: nobody waits any more
                self.waiting.discard(event)

    def clear(self) -> None:
        """Forget everything, as a registry does that lost its disk."""
        with self.lock:
            self.rows.clear()
            self.changed()


_named: dict[str, Store] = {}
_private: weakref.WeakKeyDictionary[Place, Store] = weakref.WeakKeyDictionary()


class MemoryBackend(Backend):
    """Rows in a dict; followers are woken."""

    propagation = 0.05
    local = True

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known()
        super().__init__(place, clock)
        self.store = store_of(place)

    async def list(self, service: str) -> Listing:
        """The rows that live now."""
        with self.store.lock:
            self._sweep(service)
            rows = self.store.rows.get(service, {})
            return Listing(ordered(row.instance for row in rows.values()), self.store.revision)

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """A new list whenever rows changed or one of them died."""
        event = self.clock.tasks.event()
        self.store.waiting.add(event)
        try:
            while True:
                with self.store.lock:
                    untils = [row.until for row in self.store.rows.get(service, {}).values()]
                    same = self.store.revision == listing.revision
                if same:
                    await event.wait(max(TICK, min(untils) - self.clock.monotonic()) if untils else None)
                listing = await self.list(service)
                yield listing
        finally:
            self.store.waiting.discard(event)

    async def services(self) -> tuple[str, ...]:
        """The services that have rows."""
        with self.store.lock:
            for service in tuple(self.store.rows):
                self._sweep(service)
            return tuple(sorted(self.store.rows))

    async def put(self, hold: Hold) -> None:
        """Write the row over whatever is there."""
        one = hold.instance
        with self.store.lock:
            rows = self.store.rows.setdefault(one.service, {})
            if one.id not in rows and len(rows) >= MOST_ROWS:
                raise RegistryError(f"memory: holds at most {MOST_ROWS} instances of one service")
            known = rows.get(one.id)
            if not hold.fresh and known is not None and known.owner != hold.owner and known.until > self.clock.monotonic():
                raise Taken(f"{one.id} was registered anew by another process")
            rows[one.id] = Row(one, hold.owner, self.clock.monotonic() + hold.ttl)
            self.store.changed()

    async def beat(self, hold: Hold) -> None:
        """Let the own row live on."""
        with self.store.lock:
            self._own(hold).until = self.clock.monotonic() + hold.ttl

    async def check(self, hold: Hold) -> Instance:
        """The own row, as it is."""
        with self.store.lock:
            return self._own(hold).instance

    async def mark(self, service: str, id: str, state: State) -> bool:
        """Change the state in a row that lives."""
        with self.store.lock:
            self._sweep(service)
            row = self.store.rows.get(service, {}).get(id)
            if row is not None:
                row.instance = row.instance.with_state(state)
                self.store.changed()
            return row is not None

    async def remove(self, hold: Hold) -> None:
        """Leave the row as "down" for a moment; then it is gone."""
        with self.store.lock:
            row = self.store.rows.get(hold.instance.service, {}).get(hold.instance.id)
            if row is not None and row.owner == hold.owner:
                row.instance = row.instance.with_state("down")
                row.until = self.clock.monotonic() + LINGER
                self.store.changed()

    def _own(self, hold: Hold) -> Row:
        row = self.store.rows.get(hold.instance.service, {}).get(hold.instance.id)
        if row is None or row.owner != hold.owner or row.until <= self.clock.monotonic():
            raise Lost(f"memory: no longer holds {hold.instance.id}, or somebody else registered it")
        return row

    def _sweep(self, service: str) -> None:
        rows, now = self.store.rows.get(service, {}), self.clock.monotonic()
        dead = [id for id, row in rows.items() if row.until <= now]
        for id in dead:
            del rows[id]
        if not rows:
            self.store.rows.pop(service, None)
        if dead:
            self.store.changed()


def store_of(place: Place) -> Store:
    """The store of a place: shared by name, or kept by the place itself. `Registry` keeps its place for life."""
    if place.path:
        return _named.setdefault(place.path, Store())
    return _private.setdefault(place, Store())
