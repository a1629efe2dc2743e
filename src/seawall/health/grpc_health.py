"""grpc.health.v1 from memory, for grpc and grpc.aio servers: the only file of health that imports grpcio.

Check answers at once. Watch tells the status now and every change of it, and ends when the listeners close, so that no watcher
holds up the drain of the server that it watches.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from seawall.health.check import Group
from seawall.health.threads import ensure_running

if TYPE_CHECKING:
    from seawall.health.health import Health

MOST_WATCHERS: Final = 1000  # of an async server
MOST_WATCHING_THREADS: Final = 4  # of a sync server, where each watcher holds one of its workers
LOOKS_EVERY: Final = 1.0  # seconds: a result that expires is no event
_Response: Any = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING, SERVICE_UNKNOWN = _Response.SERVING, _Response.NOT_SERVING, _Response.SERVICE_UNKNOWN


def install(health: Health, server: Any, services: Sequence[str]) -> None:
    """Add the service to a server. Raises TypeError for what is no gRPC server."""
    names = Names(health, services)
    if isinstance(server, grpc.aio.Server):
        health_pb2_grpc.add_HealthServicer_to_server(AsyncServicer(names), server)
    elif isinstance(server, grpc.Server):
        health_pb2_grpc.add_HealthServicer_to_server(Servicer(names), server)
    else:
        raise TypeError(f"server must be a grpc.Server or a grpc.aio.Server; got {server!r}")


class Names:
    """Which service stands for which group."""

    def __init__(self, health: Health, services: Sequence[str]) -> None:
        if isinstance(services, str):
            raise TypeError(f"services must be a list of names; got {services!r}")
        self.health = health
        self._groups: dict[str, Group] = {"": "ready", "ready": "ready", "live": "live", "startup": "startup"}
        self._groups.update(dict.fromkeys(services, "ready"))

    def status(self, service: str) -> int | None:
        """The status of a service, or None when there is no such one."""
        group = self._groups.get(service)
        if group is None:
            return None
        return int(SERVING if self.health.report(group).http_status == 200 else NOT_SERVING)

    def everything(self) -> Any:
        """The status of every service, as the protocol's List wants it (grpcio-health-checking 1.72 and later)."""
        statuses = {service: _Response(status=self.status(service)) for service in self._groups}
        return health_pb2.HealthListResponse(statuses=statuses)


class AsyncServicer:
    """The service on grpc.aio."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._watchers = 0

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        """The status of one service, or NOT_FOUND."""
        if not self._names.health.running:
            self._names.health.start()
        status = self._names.status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Response(status=status)

    async def List(self, _: Any, __: Any) -> Any:  # noqa: N802
        """The status of every service."""
        return self._names.everything()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The status now and whenever it changes. RESOURCE_EXHAUSTED for the 1001st watcher."""
        health = self._names.health
        if not health.running:
            health.start()
        if self._watchers >= MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watchers")
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        end = health.on_change(lambda: loop.call_soon_threadsafe(changed.set))
        self._watchers += 1
        told = None
        try:
            while not (health.closing and told is not None):
                changed.clear()
                status = self._names.status(request.service)
                status = SERVICE_UNKNOWN if status is None else status
                if status != told:
                    told = status
                    yield _Response(status=status)
                await _within(changed, LOOKS_EVERY)
        finally:
            self._watchers -= 1
            end()


class Servicer:
    """The service on a sync server."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._watching = threading.BoundedSemaphore(MOST_WATCHING_THREADS)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The status of one service, or NOT_FOUND."""
        ensure_running(self._names.health)
        status = self._names.status(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Response(status=status)

    def List(self, _: Any, __: Any) -> Any:  # noqa: N802
        """The status of every service."""
        return self._names.everything()

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """The status now and whenever it changes. RESOURCE_EXHAUSTED for the fifth watcher: each holds a worker thread."""
        health = self._names.health
        ensure_running(health)
        if not self._watching.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watchers")
        changed = threading.Event()
        end = health.on_change(changed.set)
        told = None
        try:
            while context.is_active() and not (health.closing and told is not None):
                changed.clear()
                status = self._names.status(request.service)
                status = SERVICE_UNKNOWN if status is None else status
                if status != told:
                    told = status
                    yield _Response(status=status)
                changed.wait(LOOKS_EVERY)
        finally:
            self._watching.release()
            end()


async def _within(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
