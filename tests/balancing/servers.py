"""Real HTTP servers for the tests: uvicorn on loopback, each in a thread of its own, with a behaviour that the test sets."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from seawall.discovery.instance import Instance


@dataclass
class Backend:
    """One instance. delay, status: of its answers; hangs: it never answers; breaks: it hangs up in the middle of a body; chunks:
    of a streamed body, each after `pause` seconds; certificate: files of it and its key; seen: what was asked of it."""

    name: str
    port: int = 0
    delay: float = 0.0
    status: int = 200
    hangs: bool = False
    breaks: bool = False
    chunks: int = 1
    pause: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    certificate: tuple[str, str] | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    def behave(self) -> None:
        """Be as it was when it was made, and forget what was asked."""
        fresh = Backend(self.name)
        for name in ("delay", "status", "hangs", "breaks", "chunks", "pause", "headers"):
            setattr(self, name, getattr(fresh, name))
        self.seen.clear()

    @property
    def instance(self) -> Instance:
        """As a registry would name it."""
        return Instance("stock", id=self.name, port=self.port, scheme="http" if self.certificate is None else "https")

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.seen.append({"method": scope["method"], "path": scope["path"], "query": query, "headers": headers, "body": body})
        if self.hangs:
            await receive()
            return
        await asyncio.sleep(self.delay)
        named = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send(
            {"type": "http.response.start", "status": self.status, "headers": [(b"x-instance", self.name.encode()), *named]}
        )
        if self.chunks == 1 and not self.breaks:
            await send({"type": "http.response.body", "body": json.dumps({"from": self.name}).encode()})
            return
        for _ in range(self.chunks):
            await send({"type": "http.response.body", "body": b"piece;", "more_body": True})
            await asyncio.sleep(self.pause)
        if self.breaks:
            raise ConnectionAbortedError("the server breaks off, as asked")
        await send({"type": "http.response.body", "body": b""})

    def start(self) -> None:
        """Listen, on the port it had before if it had one."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: else asyncio leaves Nagle on
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.app,
            interface="asgi3",
            proxy_headers=False,
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            ssl_certfile=self.certificate and self.certificate[0],
            ssl_keyfile=self.certificate and self.certificate[1],
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        until(lambda: server.started)

    def stop(self) -> None:
        """Close the listener and all connections, at once."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._server = None


@contextmanager
def backends(names: str) -> Iterator[dict[str, Backend]]:
    """Running instances by name. Threads take turns more often than usual: a server of ours waits for the client's otherwise."""
    found = {name: Backend(name) for name in names.split()}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        for backend in found.values():
            backend.start()
        yield found
    finally:
        for backend in found.values():
            backend.stop()
        sys.setswitchinterval(interval)


class ListedWatch:
    """A watch whose list the test says; the same protocol as discovery's."""

    def __init__(self, *listed: Instance) -> None:
        from seawall.discovery.instance import Snapshot

        self.service = "stock"
        self.snapshot = Snapshot("stock", listed, 1, source="live")
        self.reported: list[str] = []
        self._callbacks: list[Callable[..., object]] = []

    def subscribe(self, callback: Callable[..., object]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def unreachable(self, id: str) -> None:
        self.reported.append(id)

    def say(self, *listed: Instance) -> None:
        """The list is another one now."""
        from dataclasses import replace

        self.snapshot = replace(self.snapshot, instances=listed, revision=self.snapshot.revision + 1)
        for callback in list(self._callbacks):
            callback(self.snapshot)


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.005)
