"""The ASGI door: five paths are answered from memory, everything else passes, counted; while draining, answers close
connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from seawall.health.check import Group

if TYPE_CHECKING:
    from seawall.health.health import Health

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PATHS: Final[dict[str, Group]] = {
    "/livez": "live",
    "/readyz": "ready",
    "/startupz": "startup",
    "/health": "live",
    "/ready": "ready",
}


def paths_under(prefix: str) -> dict[str, Group]:
    """The five paths, under a prefix. Raises ValueError when it is not empty, and does not begin with a slash or ends with
    one.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(f'prefix must be empty or like "/internal"; got {prefix!r}')
    return {prefix + path: group for path, group in PATHS.items()}


class HealthAsgi:
    """An ASGI application before another one. paths: what it answers, by path, with the group.

    own: gives the paths that the application behind it serves itself; those pass. None = not known.
    """

    def __init__(
        self, app: AsgiApp, health: Health, paths: dict[str, Group] | None = None, own: Callable[[], Iterable[str]] | None = None
    ) -> None:
        self.app = app
        self._health = health
        self._paths = dict(PATHS) if paths is None else paths
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, connection or lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        health = self._health
        if not health.running:
            health.start()
        if kind == "http" and scope["method"] in ("GET", "HEAD"):
            group = self._group(scope)
            if group is not None:
                await self._answer(group, scope, send)
                return
        traffic = health.traffic
        traffic.enter(health.clock.monotonic())
        task = asyncio.current_task()
        traffic.tasks.add(task)
        try:
            await self.app(scope, receive, self._closing(scope, send) if kind == "http" else send)
        finally:
            traffic.tasks.discard(task)
            traffic.leave()

    def _group(self, scope: Scope) -> Group | None:
        path = scope["path"]
        group = self._paths.get(path)
        root = scope.get("root_path") or ""
        if group is None and root and path.startswith(root):
            path = path[len(root) :]
            group = self._paths.get(path)
        if group is not None and self._own is not None:
            for owned in self._own():
                self._paths.pop(owned, None)
            self._own = None
            group = self._paths.get(path)
        return group

    async def _answer(self, group: Group, scope: Scope, send: Send) -> None:
        health = self._health
        if group == "ready":
            agent = next((value for name, value in scope.get("headers") or () if name == b"user-agent"), b"")
            health.traffic.probed(health.clock.monotonic(), bytes(agent).decode("latin-1"))
        report = health.report(group)
        body = report.body(detail=health.detail)
        headers = [(name.encode(), value.encode()) for name, value in report.headers(body)]
        send = self._closing(scope, send)
        await send({"type": "http.response.start", "status": report.http_status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _closing(self, scope: Scope, send: Send) -> Send:
        """`send`, which asks for the connection to be closed while we drain. HTTP/2 has no such header: its servers say
        GOAWAY.
        """
        health = self._health
        if scope.get("http_version", "1.1") not in ("1.0", "1.1"):
            return send

        async def sending(message: Message) -> None:
            if health.draining and message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers") or () if bytes(pair[0]).lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        return sending

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The checks live as long as the application."""

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._health.start()
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._health.stop()
            await send(message)

        await self.app(scope, receive, sending)
