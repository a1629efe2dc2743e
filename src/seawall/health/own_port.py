"""A port of health's own, served by a thread of its own: small, bounded, and deaf to everything but five paths.

It answers when the application's server has no free connection, and when its event loop is stuck: then liveness says so, which
the application itself no longer can.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from seawall.core import units
from seawall.health.asgi import paths_under

if TYPE_CHECKING:
    from types import TracebackType

    from seawall.health.health import Health

MOST_CONNECTIONS: Final = 64
MOST_HEAD: Final = 8 * 1024  # bytes of a request
HEAD_WITHIN: Final = 2.0  # seconds for a request to be read and answered
ENDS_WITHIN: Final = 5.0
_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class OwnPort:
    """HTTP/1.1 for probes: one request per connection, 64 connections at once, 2 s and 8 KiB per request.

    port: 0 to 65535; 0 = any free one, then `port` says which. host: what to listen on. Default "127.0.0.1": a kubelet asks
    the pod's address, so say "0.0.0.0" in a container, and publish the port nowhere. prefix: as for `install`.
    """

    def __init__(self, health: Health, port: int, *, host: str = "127.0.0.1", prefix: str = "") -> None:
        self.port = units.whole("port", port, least=0, most=65535)
        self.host = host
        self._health = health
        self._paths = paths_under(prefix)
        self._open = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None

    def start(self) -> OwnPort:
        """Listen from now on. Returns itself. Raises OSError when the port is taken."""
        if self._thread is not None:
            return self
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.create_server((self.host, self.port), family=family, backlog=MOST_CONNECTIONS)
        self.port = int(listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        begun = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listening, begun), name="seawall-health-port", daemon=True)
        self._thread.start()
        begun.wait(ENDS_WITHIN)
        return self

    def close(self) -> None:
        """Stop listening. Harmless when done twice."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(ENDS_WITHIN)
            self._thread = None

    def __enter__(self) -> OwnPort:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _serve(self, listening: socket.socket, begun: threading.Event) -> None:
        loop = self._loop
        assert loop is not None
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            server = runner.run(asyncio.start_server(self._connection, sock=listening, limit=MOST_HEAD))
            begun.set()
            loop.run_forever()
            server.close()
            runner.run(_settled())

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS:
                async with asyncio.timeout(HEAD_WITHIN):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            writer.transport.abort()  # who does not ask in time, or asks for too much, gets no answer
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400, [], b"")
        group = self._paths.get(words[1].partition("?")[0])
        if group is None:
            return _response(404, [], b"")
        if words[0] not in ("GET", "HEAD"):
            return _response(405, [("allow", "GET, HEAD")], b"")
        health = self._health
        if group == "ready":
            health.traffic.probed(health.clock.monotonic(), _agent(head))
        report = health.report(group)
        body = report.body(detail=health.detail)
        return _response(report.http_status, report.headers(body), b"" if words[0] == "HEAD" else body)


def _agent(head: bytes) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "user-agent":
            return value.strip()
    return ""


def _response(status: int, headers: list[tuple[str, str]], body: bytes) -> bytes:
    sized = headers if any(name == "content-length" for name, _ in headers) else [*headers, ("content-length", str(len(body)))]
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in sized), "connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


async def _settled() -> None:
    """Let what was open end."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
