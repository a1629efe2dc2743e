"""The front of discovery: open a registry by URL, register in it, watch it.

A registry object holds no connection. Whoever registers or watches in an event loop gets a backend of that loop, which is
shared there and closed after the last of them; code without a loop gets one on a background thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeVar

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import MissingExtra
from seawall.core.events import Event, Sink, Sinks, everywhere
from seawall.discovery.addresses import AddressRules
from seawall.discovery.backend import Backend
from seawall.discovery.background import Background
from seawall.discovery.brake import Brake
from seawall.discovery.instance import STATES, Instance, Snapshot, State, ordered, service_name
from seawall.discovery.place import Place, Token, read_place
from seawall.discovery.registrar import Registration, RegistrationSnapshot
from seawall.discovery.settings import SHORTEST_TTL, Probe, Settings
from seawall.discovery.watcher import Watcher
from seawall.discovery.watching import Watching

T = TypeVar("T")
BACKENDS: Final = {
    "memory": "seawall.discovery.registries.memory:MemoryBackend",
    "static": "seawall.discovery.registries.static:StaticBackend",
    "sqlite": "seawall.discovery.registries.sqlite:SqliteBackend",
    "etcd": "seawall.discovery.registries.etcd:EtcdBackend",
    "consul": "seawall.discovery.registries.consul:ConsulBackend",
    "dns": "seawall.discovery.registries.dns:DnsBackend",
    "kubernetes": "seawall.discovery.registries.kubernetes:KubernetesBackend",
}
EXTRAS: Final = {"etcd": "httpx2", "consul": "httpx2", "kubernetes": "httpx2", "dns": "dns"}
PACKAGES: Final = {"dns": "dnspython"}
"""The top-level module that a registry needs; the extra that brings it has the name of the registry."""
GROUP: Final = "seawall.registries"


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """What a registry object does at one moment. name: the URL without secrets; watches: what is watched; registrations: how
    each of ours goes."""

    name: str
    watches: tuple[Snapshot, ...]
    registrations: tuple[RegistrationSnapshot, ...]


@dataclass(slots=True)
class _Loop:
    """What one event loop has open."""

    backend: Backend
    users: set[object] = field(default_factory=set)
    watchers: dict[str, tuple[Watcher, set[object]]] = field(default_factory=dict)


class Registry:
    """Who is there. Made by `Registry.open`.

    >>> registry = Registry.open("memory:")
    >>> registry.name
    'memory:'
    """

    def __init__(self, place: Place, kind: type[Backend], settings: Settings, *, clock: Clock | None = None) -> None:
        self.name = place.name
        self.settings = settings
        self.background = Background()
        self._place = place
        self._kind = kind
        self._clock = clock
        self._sinks = Sinks()
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        kind(place, self.clock)  # what the URL says wrong is told here, not in a background task

    @classmethod
    def open(
        cls,
        url: str,
        *,
        ttl: float | str = 10.0,
        stale_for: float | str = 600.0,
        watchdog: float | str = 15.0,
        call_timeout: float | str = 2.0,
        brake: Brake | None = None,
        allow_loopback: bool | None = None,
        allow_link_local: bool | None = None,
        probe: Probe | None = None,
        identity: Probe | None = None,
        cache_dir: str | Path | None = None,
        token: Token | None = None,
        clock: Clock | None = None,
    ) -> Registry:
        """Open a registry.

        url: `memory:`, `static:services.toml`, `sqlite:///registry.db`, `etcd://host:2379`, `consul://host:8500`,
            `dns://server/zone` or `kubernetes://namespace`; each page of docs/integrations says more.
        ttl: seconds that a registration outlives its last heartbeat, >= 0.2; three heartbeats fit into it. Default 10.
        stale_for: seconds that the last known list is used while the registry does not answer, `inf` allowed. Default 600.
        watchdog: seconds of silence after which a watch that should be pushed to is checked by asking. Default 15.
        call_timeout: seconds that one question to the registry may take; heartbeats at most ttl / 3. Default 2.
        brake: when to doubt a list that shrank at once; default None = `Brake()`.
        allow_loopback: let loopback addresses pass, also by `?allow_loopback=true`; default None = only for memory:, static: and
            sqlite:. allow_link_local: the same for link-local and metadata addresses; default None = no.
        probe: async function that tells whether an instance which the brake holds still answers; default None = a TCP
            connection. identity: async function that tells whether an instance is the service it should be; without one, lists
            from disk older than the ttl are used for TLS instances only.
        cache_dir: folder in which the last known lists are kept for the next start; default None = nowhere.
        token: a text, or a function asked before each use, for registries that want one (also `?token_file=PATH`).
        clock: default None = the system's.

        Raises TypeError or ValueError naming the parameter; MissingExtra when the registry's driver is not installed.
        """
        place = read_place(url, token=token)
        kind = backend_of(place.scheme)
        loopback = place.flag("allow_loopback", default=kind.local) if allow_loopback is None else allow_loopback
        link_local = place.flag("allow_link_local") if allow_link_local is None else allow_link_local
        settings = Settings(
            ttl=ttl,  # type: ignore[arg-type]  # read as a duration there
            stale_for=stale_for,  # type: ignore[arg-type]
            watchdog=watchdog,  # type: ignore[arg-type]
            call_timeout=call_timeout,  # type: ignore[arg-type]
            brake=brake or Brake(),
            addresses=AddressRules(allow_loopback=loopback, allow_link_local=link_local),
            probe=probe,
            identity=identity,
            cache_dir=cache_dir,
        )
        return cls(place, kind, settings, clock=clock)

    # --- verbs

    def register(self, instance: Instance, *, ttl: float | str | None = None, wait: float | str = 5.0) -> Registration:
        """Announce an instance for as long as the block lasts: `async with` in an event loop, `with` elsewhere.

        ttl: default None = that of the registry. wait: seconds that entering the block waits for the registry; after that the
        block runs and the registration goes on in the background, as it does whenever it is lost. Default 5, 0 allowed.

        Raises TypeError for no instance, ValueError for an address that watchers would refuse, ReadOnlyRegistry where others
        do the registering.
        """
        if not isinstance(instance, Instance):
            raise TypeError(f"instance must be an Instance; got {instance!r}")
        if self._kind.filled_by is not None:
            raise self._kind(self._place, self.clock).read_only()
        refusal = self.settings.addresses.refusal(instance.host)
        if refusal is not None:
            raise ValueError(f"host must be an address that others can call; got {instance.host!r}: {refusal}")
        length = self.settings.ttl if ttl is None else units.seconds("ttl", ttl, above=SHORTEST_TTL)
        return Registration(self, instance, length, units.seconds("wait", wait, zero=True))

    def watch(self, service: str) -> Watching:
        """Keep the newest list of a service at hand for as long as the block lasts: `async with` or `with`.

        Raises TypeError or ValueError for what is no name of a service.
        """
        return Watching(self, service_name(service))

    async def services(self) -> tuple[str, ...]:
        """The names of all services, asked now. Raises RegistryUnavailable or TimeoutError when there is no answer."""
        return await self._once(lambda backend: backend.services())

    async def list(self, service: str) -> Snapshot:
        """All of a service whose addresses pass, asked now and not kept. Raises RegistryUnavailable or TimeoutError when there is
        no answer."""
        name = service_name(service)
        listing = await self._once(lambda backend: backend.list(name))
        refusals = {one.id: self.settings.addresses.refusal(one.host) for one in listing.instances}
        for one in listing.instances:
            if refusals[one.id] is not None:
                self.tell("registry.denied", service=name, which=f"{one.id} at {one.host}", reason=refusals[one.id])
        passed = ordered(one for one in listing.instances if refusals[one.id] is None)
        return Snapshot(name, passed, 1, self.clock.monotonic(), "live")

    async def set_state(self, service: str, id: str, state: State) -> bool:
        """Change the state of anybody's record, as an operator does: "draining" takes it out of service, "ready" back in. Its
        owner takes the order over within one ttl. Whether there is such a record.

        Raises ValueError for another word, ReadOnlyRegistry where others fill the registry, RegistryUnavailable or
        TimeoutError when there is no answer.
        """
        units.one_of("state", state, STATES)
        return await self._once(lambda backend: backend.mark(service_name(service), id, state))

    def set_state_sync(self, service: str, id: str, state: State) -> bool:
        """`set_state` for code without an event loop."""
        return self._once_sync("set_state", self.set_state, service, id, state)

    def services_sync(self) -> tuple[str, ...]:
        """`services` for code without an event loop."""
        return self._once_sync("services", self.services)

    def list_sync(self, service: str) -> Snapshot:
        """`list` for code without an event loop."""
        return self._once_sync("list", self.list, service)

    # --- what it says

    @property
    def clock(self) -> Clock:
        """The clock that holds now."""
        return clocks.resolve(self._clock)

    @property
    def propagation(self) -> float:
        """Seconds within which watchers usually have seen a change."""
        return self._kind.propagation

    @property
    def writable(self) -> bool:
        """Whether `register` works here, or somebody else fills this registry."""
        return self._kind.filled_by is None

    def snapshot(self) -> RegistrySnapshot:
        """What is watched and registered now."""
        loops = list(self._loops.values())
        watches = tuple(watcher.snapshot for loop in loops for watcher, _ in list(loop.watchers.values()))
        users = [user for loop in loops for user in list(loop.users)]
        return RegistrySnapshot(self.name, watches, tuple(one.snapshot() for one in users if isinstance(one, Registration)))

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Send the events of everything made by this registry to `sink`; the result ends it."""
        return self._sinks.add(sink)

    def tell(self, kind: str, **data: Any) -> None:
        """Emit one event."""
        if self._sinks or everywhere:
            event = Event(kind, self.name, self.clock.monotonic(), None, data)
            self._sinks.emit(event)
            everywhere.emit(event)

    # --- one backend per loop

    async def _acquire(self, user: object) -> Backend:
        return self._here(user).backend

    async def _release(self, user: object) -> None:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            return
        here.users.discard(user)
        if not here.users:
            del self._loops[loop]
            await here.backend.close()

    def _here(self, user: object) -> _Loop:
        for closed in [loop for loop in list(self._loops) if loop.is_closed()]:
            del self._loops[closed]
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            here = self._loops[loop] = _Loop(self._kind(self._place, self.clock))
        here.users.add(user)
        return here

    async def _watcher(self, service: str, user: object) -> Watcher:
        here = self._here(user)
        if service not in here.watchers:
            watcher = Watcher(self, service, here.backend)
            here.watchers[service] = (watcher, set())
            watcher.start()
        watcher, users = here.watchers[service]
        users.add(user)
        return watcher

    async def _unwatch(self, service: str, user: object) -> None:
        here = self._loops.get(asyncio.get_running_loop())
        if here is None or service not in here.watchers:
            return
        watcher, users = here.watchers[service]
        users.discard(user)
        if not users:
            del here.watchers[service]
            await watcher.stop()
        await self._release(user)

    async def _once(self, question: Callable[[Backend], Awaitable[T]]) -> T:
        user = object()
        backend = await self._acquire(user)
        try:
            async with asyncio.timeout(self.settings.call_timeout):
                return await question(backend)
        finally:
            await self._release(user)

    def _once_sync(self, verb: str, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        self.background.enter()
        try:
            return self.background.run(f"{verb}_sync", verb, function, *args)
        finally:
            self.background.leave()


def backend_of(scheme: str) -> type[Backend]:
    """The backend of a scheme: ours, or one that another distribution brings by the entry-point group "seawall.registries".

    Raises ValueError for an unknown scheme, MissingExtra when its driver is not installed.
    """
    home = BACKENDS.get(scheme)
    if home is None:
        for point in entry_points(group=GROUP, name=scheme):
            return point.load()  # type: ignore[no-any-return]
        raise ValueError(f"url must begin with one of {', '.join(f'{each}:' for each in BACKENDS)}; got {scheme!r}")
    module, _, name = home.partition(":")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if scheme not in EXTRAS or (error.name or "").partition(".")[0] != EXTRAS[scheme]:
            raise
        package = PACKAGES.get(EXTRAS[scheme], EXTRAS[scheme])
        raise MissingExtra(f'{scheme}: needs {package}: pip install "seawall[{scheme}]"', name=error.name) from error
