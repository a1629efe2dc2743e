"""One user's handle on a watched service: what `Registry.watch` returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from seawall.core.runtime import AsyncEvent
from seawall.discovery.instance import Snapshot
from seawall.discovery.settings import TICK

if TYPE_CHECKING:
    from seawall.discovery.registry import Registry
    from seawall.discovery.watcher import Watcher


class Watching:
    """A service that is watched, for `async with` or `with`. All who watch one service in one loop share the work."""

    def __init__(self, registry: Registry, service: str) -> None:
        self._registry = registry
        self._service = service
        self._watcher: Watcher | None = None
        self._last = Snapshot(service)
        self._callbacks: tuple[Callable[[Snapshot], object], ...] = ()
        self._unsubscribe: Callable[[], None] | None = None

    # --- reading

    @property
    def service(self) -> str:
        """The service that is watched."""
        return self._service

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot: read, never awaited, from any thread."""
        watcher = self._watcher
        return self._last if watcher is None else watcher.snapshot

    def subscribe(self, callback: Callable[[Snapshot], object]) -> Callable[[], None]:
        """Call `callback` with every new snapshot, in the thread of the watch; the result ends it. Raises TypeError."""
        if not callable(callback):
            raise TypeError(f"callback must be callable with one Snapshot; got {callback!r}")
        self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            self._callbacks = tuple(each for each in self._callbacks if each is not callback)

        return unsubscribe

    def unreachable(self, id: str) -> None:
        """Tell that a connection to this instance was refused: one that is only held back is then let go at once."""
        if self._watcher is not None:
            self._watcher.unreachable(id)

    async def first(self, seconds: float | None = None) -> Snapshot:
        """The snapshot, once anything is known, or after `seconds` (default None = however long it takes) as it is then."""
        port = self._registry.clock.tasks
        until = None if seconds is None else port.now() + seconds
        while not self.snapshot.known and (until is None or port.now() + TICK < until):
            await self._next(self.snapshot.revision, None if until is None else until - port.now())
        return self.snapshot

    def first_sync(self, seconds: float | None = None) -> Snapshot:
        """`first` for code without an event loop."""
        return self._registry.background.run("first_sync", "first", self.first, seconds)

    async def changes(self) -> AsyncIterator[Snapshot]:
        """Snapshots whose revision is new, the current one first; those that come faster than they are taken are left out."""
        seen = -1
        while True:
            while (snapshot := self.snapshot).revision == seen:
                await self._next(seen, None)
            seen = snapshot.revision
            yield snapshot

    # --- life

    async def start(self) -> None:
        """Begin to watch. Raises RuntimeError when it was begun before."""
        if self._watcher is not None:
            raise RuntimeError(f"{self._service} is being watched by this handle already; make another one")
        self._watcher = await self._registry._watcher(self._service, self)
        self._unsubscribe = self._watcher.subscribe(self._heard)

    async def stop(self) -> None:
        """End it; the last snapshot stays readable. Harmless when done twice."""
        watcher, self._watcher = self._watcher, None
        if watcher is None or self._unsubscribe is None:
            return
        self._last = watcher.snapshot
        self._unsubscribe()
        await self._registry._unwatch(self._service, self)

    async def __aenter__(self) -> Watching:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def __enter__(self) -> Watching:
        background = self._registry.background
        background.enter()
        try:
            background.run("with registry.watch()", "async with registry.watch()", self.start)
        except BaseException:
            background.leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._registry.background.run("with registry.watch()", "async with registry.watch()", self.stop)
        finally:
            self._registry.background.leave()

    # --- steps

    def _heard(self, snapshot: Snapshot) -> None:
        for callback in self._callbacks:
            try:
                callback(snapshot)
            except Exception:
                from logging import getLogger

                getLogger("seawall.discovery").exception("callback %r failed on a snapshot of %s", callback, self._service)

    async def _next(self, seen: int, seconds: float | None) -> None:
        """Wait for a snapshot with another revision than `seen`."""
        event: AsyncEvent = self._registry.clock.tasks.event()
        unsubscribe = self.subscribe(lambda _: event.set())
        try:
            if self.snapshot.revision == seen:  # asked after subscribing: the watch may run in another thread
                await event.wait(seconds)
        finally:
            unsubscribe()
