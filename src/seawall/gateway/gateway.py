"""The gateway as a whole: watches the services of a `gateway.toml`, tells an Envoy, and keeps it alive."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from seawall.core import clock as clocks
from seawall.core.errors import ConfigError, MissingExtra
from seawall.core.events import Event, Sink, Sinks, everywhere
from seawall.discovery import Registry, Snapshot, Watching
from seawall.gateway.access_log import DRAINS, AccessLog
from seawall.gateway.admin import Admin
from seawall.gateway.bootstrap import ADS_SOURCE, bootstrap
from seawall.gateway.clusters import LIMITS, limits_cluster
from seawall.gateway.counters import Counters
from seawall.gateway.endpoints import ip_of, keeps
from seawall.gateway.envoy import Envoy, EnvoyBroken, binary, check_ports
from seawall.gateway.orphans import PREFIX, Home, Orphan, abandoned, give_way
from seawall.gateway.publish import FilePublisher
from seawall.gateway.resources import Resources, compute
from seawall.gateway.settings import GatewayConfig

FIRST_WITHIN: Final = 5.0
LOOKS: Final = 1.0
"""Seconds between two looks whether Envoy refused something."""


SETTLES: Final = 1.0
"""Seconds after which Envoy has taken over new routes, before the clusters of the old ones go."""
FIXED: Final = ("limits", "admin_port", "binary", "workers", "drain", "control", "log", "log_bytes")
FIXED_XDS: Final = ("xds_port", "xds_address", "xds_tls", "xds_client")


def _over_grpc() -> Any:
    """The gRPC side. Raises MissingExtra."""
    try:
        return import_module("seawall.gateway.over_grpc")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("grpc", "envoy", "google"):
            raise
        raise MissingExtra('control = "ads" and global limits need gRPC: pip install "seawall[xds]"') from error


class Gateway:
    """A real Envoy that follows a file and the registries it names, for `async with`.

    path: a `gateway.toml`. folder: where Envoy's files stand; default None = a temporary one. access_log: whether Envoy writes
    `access.log` there, one JSON object per request, and each is told as an event. Default False = if the file says [access_log].

    Entering raises ConfigError for a bad file, MissingExtra without Envoy, EnvoyBroken when it does not become ready.
    """

    def __init__(self, path: str | Path, *, folder: str | Path | None = None, access_log: bool = False) -> None:
        self.path = Path(path)
        self.config = GatewayConfig.read(self.path)
        self.resources = Resources()
        self.envoy: Envoy | None = None
        self.complaints: tuple[str, ...] = ()
        self._given = None if folder is None else Path(folder)
        self._logs = access_log or self.config.log
        self._log: AccessLog | None = None
        self._sinks = Sinks()
        self._counters = Counters(self.tell)
        self._stack = AsyncExitStack()
        self._snapshots: dict[str, Snapshot] = {}
        self._addresses: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._publisher: FilePublisher | None = None
        self.ads: Any = None
        self._xds_port = 0
        self._limits_port: int | None = None
        self._watched: dict[str, Watching] = {}
        self._registries: dict[str, Registry] = {}

    def subscribe(self, sink: Sink) -> Any:
        """Send every event of this gateway to `sink`; calling the result ends it."""
        return self._sinks.add(sink)

    def tell(self, kind: str, *, took: float | None = None, **data: Any) -> None:
        """Emit an event. took: seconds, of what has ended."""
        event = Event(kind, "gateway", clocks.resolve(None).monotonic(), data=data, took=took)
        self._sinks.emit(event)
        everywhere.emit(event)

    async def __aenter__(self) -> Gateway:
        path = binary(self.config.binary)
        try:
            home = Home(self._given or Path(tempfile.mkdtemp(prefix=PREFIX)), temporary=self._given is None)
            home.enter()
            self._stack.callback(home.leave)
            orphans = await self._orphans(home)
            await self._serve()
            self._publisher = FilePublisher(home.folder / "xds")
            await self._watch()
            await self._publish()
            if self._logs and self.config.xds_tls is None:
                self._log = AccessLog(home.folder / "access.log", self.tell, self.config.log_bytes)
                self._stack.push_async_callback(self._last_requests)
            self.envoy = Envoy(
                path,
                self._bootstrap(),
                home.folder,
                drain=self.config.drain,
                workers=self.config.workers,
                tell=self.tell,
                file_bytes=self.config.log_bytes * DRAINS,
                note=partial(home.note, self.path.resolve()),
            )
            self._stack.push_async_callback(self.envoy.stop)
            await self.envoy.start()
            self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._look())]
            if self._log is not None:
                self._tasks.append(asyncio.create_task(self._log.follow(self._admin)))
            if orphans:
                await give_way(orphans, self.config.drain, self.tell)
                self.envoy.noted()
        except BaseException:
            await self._end()
            raise
        self.tell("gateway.started", pid=self.envoy.pid, admin=self.envoy.admin.port, version=self.resources.version())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()
        self.tell("gateway.stopped")

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def reload(self) -> None:
        """Read the file again, whole or not at all; what runs goes on under the last good one.

        Raises ConfigError for a bad file, and for another [access_log], [admin], [envoy] or [rate_limits].
        """
        try:
            fresh = GatewayConfig.read(self.path)
            if any(getattr(fresh, name) != getattr(self.config, name) for name in (*FIXED, *FIXED_XDS)):
                raise ConfigError(
                    "[access_log], [admin], [envoy] and [rate_limits] cannot change while it runs; start it anew",
                    path=str(self.path),
                )
            compute(fresh, self._snapshots, self._source, addresses=self._addresses, limits_port=self._limits_port)
        except (ConfigError, ValueError) as error:
            self.tell("gateway.refused", error=str(error))
            raise
        self.config = fresh
        await self._watch()
        self._changed.set()

    # --- steps

    async def _orphans(self, home: Home) -> list[Orphan]:
        """Envoys of gateways that were killed. They serve until ours does where the system lets both have the same doors; else
        they are ended here. Raises EnvoyBroken for a door that somebody else has."""
        homes = [home]
        for other in abandoned(self.path):
            homes.append(other)
            self._stack.callback(other.leave)
        found = [each for one in homes for each in one.before]
        for each in found:
            self.tell("gateway.orphan_found", pid=each.pid, folder=str(each.home.folder))
        doors = {each: await each.doors() for each in found}
        beside = sys.platform.startswith("linux") and self.config.admin_port == 0
        alone = [each for each in found if not beside or not doors[each]]
        await give_way(alone, self.config.drain, self.tell)
        rest = [each for each in found if each not in alone]
        check_ports(self.config.listeners.values(), {door for each in rest for door in doors[each]})
        return rest

    async def _serve(self) -> None:
        """The gRPC servers: of resources, where Envoy asks for them that way, and of global limits, where there are any."""
        config = self.config
        if config.control == "ads":
            over_grpc = _over_grpc()
            self.ads = over_grpc.Ads(self.tell)
            beside: dict[str, Any] = {}
            if config.xds_tls is not None and config.limits.named:
                beside["limits"] = over_grpc.RateLimits(config.limits)
            if config.xds_tls is not None and self._logs:
                beside["logs"] = over_grpc.AccessLogs(self.tell)
            self._xds_port = await self._listen(
                over_grpc.Server(config.xds_port, address=config.xds_address, tls=config.xds_tls, ads=self.ads, **beside)
            )
        if config.limits.named and limits_cluster(config) == LIMITS:
            over_grpc = _over_grpc()
            self._limits_port = await self._listen(
                over_grpc.Server(config.limits.port, limits=over_grpc.RateLimits(config.limits))
            )

    async def _listen(self, server: Any) -> int:
        try:
            await server.start()
        except OSError as error:
            raise EnvoyBroken(str(error)) from error
        self._stack.push_async_callback(server.stop)
        return int(server.port)

    def _bootstrap(self) -> dict[str, Any]:
        return bootstrap(self.config, self._source, port=self._xds_port)

    def _source(self, kind: str, name: str) -> dict[str, Any]:
        if self.ads is not None:
            return ADS_SOURCE
        assert self._publisher is not None
        return self._publisher.source(kind, name)

    async def _watch(self) -> None:
        fresh = [name for name in self.config.services if name not in self._watched]
        for name in fresh:
            service = self.config.services[name]
            registry = self._registries.setdefault(service.registry, Registry.open(service.registry))
            watching = await self._stack.enter_async_context(registry.watch(service.service))
            self._watched[name] = watching
            self._stack.callback(watching.subscribe(partial(self._heard, name)))
        for name in fresh:
            self._heard(name, await self._watched[name].first(FIRST_WITHIN))
            if not self._snapshots.get(name, Snapshot(name)).instances:
                self.tell(
                    "gateway.no_instances", service=name, registry=self._registries[self.config.services[name].registry].name
                )

    def _heard(self, name: str, snapshot: Snapshot) -> None:
        kept = keeps(self._snapshots.get(name), snapshot)
        if kept is not None:
            self._snapshots[name] = kept
            self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._publish()
            except (OSError, ValueError) as error:
                self.tell("gateway.not_published", error=str(error))
                await asyncio.sleep(LOOKS)

    async def _publish(self) -> None:
        assert self._publisher is not None
        await self._resolve()
        log = str(self._publisher.folder.parent / "access.log") if self._logs else None
        fresh = compute(
            self.config,
            self._snapshots,
            self._source,
            addresses=self._addresses,
            limits_port=self._limits_port,
            access_log=log,
        )
        publisher = self._publisher if self.ads is None else self.ads
        old = self.resources
        if old.clusters and old.clusters.keys() != fresh.clusters.keys():
            # what comes is known and warm before a route names it; what goes stays until none does
            clusters, endpoints = {**old.clusters, **fresh.clusters}, {**old.endpoints, **fresh.endpoints}
            for step in (old, fresh):
                publisher.publish(replace(step, clusters=clusters, endpoints=endpoints))
                await asyncio.sleep(SETTLES)
        if publisher.publish(fresh):
            self.resources = fresh
            self.tell("gateway.published", version=fresh.version())

    async def _resolve(self) -> None:
        hosts = {one.host for snapshot in self._snapshots.values() for one in snapshot.instances if ip_of(one.host) is None}
        loop = asyncio.get_running_loop()
        for host in hosts - self._addresses.keys():
            try:
                found = await loop.getaddrinfo(host, None)
                self._addresses[host] = str(found[0][4][0])
            except OSError as error:
                self.tell("gateway.no_address", host=host, error=str(error))

    def _admin(self) -> Admin:
        assert self.envoy is not None
        return self.envoy.admin

    async def _last_requests(self) -> None:
        """Tell what Envoy wrote until its end."""
        assert self._log is not None
        with suppress(OSError):
            await self._log.look()
        self._log.close()

    async def _look(self) -> None:
        seen = 0
        while True:
            await asyncio.sleep(LOOKS)
            with suppress(OSError, TimeoutError, RuntimeError):
                assert self.envoy is not None
                count = await self.envoy.admin.rejections()
                if count > seen:
                    self.complaints = tuple(await self.envoy.admin.complaints() or self.envoy.rejections())
                    self.tell("gateway.rejected", complaints=self.complaints, count=count)
                seen = count
                await self._counters.look(self.envoy.admin)
