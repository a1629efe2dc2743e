"""Real servers as subprocesses on loopback, and a client that keeps connections alive and follows a list of instances."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
SRC = HERE.parent.parent / "src"
PYTHON = sys.executable
COMMANDS: dict[str, list[str]] = {
    "uvicorn": ["uvicorn", "served:app", "--port", "{port}", "--loop", "asyncio"],
    "uvicorn-uvloop": ["uvicorn", "served:app", "--port", "{port}", "--loop", "uvloop"],
    "uvicorn-workers": ["uvicorn", "served:app", "--port", "{port}", "--workers", "2"],
    "hypercorn": ["hypercorn", "served:app", "--bind", "127.0.0.1:{port}", "--workers", "0", "--graceful-timeout", "10"],
    "hypercorn-workers": ["hypercorn", "served:app", "--bind", "127.0.0.1:{port}", "--workers", "2", "--graceful-timeout", "10"],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", "--loop", "asyncio", "served:app"],
    "granian-uvloop": ["granian", "--interface", "asgi", "--port", "{port}", "--loop", "uvloop", "served:app"],
    "gunicorn-uvicorn": ["gunicorn", "served:app", "-b", "127.0.0.1:{port}", "-k", "uvicorn_worker.UvicornWorker", "-w", "2"],
    "gunicorn-asgi": ["gunicorn", "served:app", "-b", "127.0.0.1:{port}", "-k", "asgi", "-w", "1"],
    "gunicorn-sync": ["gunicorn", "served:wsgi", "-c", "served.py", "-b", "127.0.0.1:{port}", "-k", "sync", "-w", "1"],
    "grpc-aio": ["served_grpc", "aio", "{port}"],
    "grpc-sync": ["served_grpc", "sync", "{port}"],
    "gunicorn-gthread": [
        "gunicorn",
        "served:wsgi",
        "-c",
        "served.py",
        "-b",
        "127.0.0.1:{port}",
        "-k",
        "gthread",
        "--threads",
        "8",
    ],
}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process of a test, its port, and what its application said."""

    def __init__(self, kind: str, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.kind = kind
        self.process = process
        self.port = port
        self.log = log
        self.words: list[dict[str, Any]] = []
        self.heard: list[Callable[[dict[str, Any]], object]] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            with suppress(ValueError):  # servers print lines of their own
                word = json.loads(line)
                word["at"] = time.monotonic()
                self.words.append(word)
                for listener in self.heard:
                    listener(word)

    def said(self, word: str) -> int:
        """How many times its processes said this."""
        return sum(each["word"] == word for each in self.words)

    async def ready(self, within: float = 30.0) -> None:
        """Until it answers 200 on /readyz."""
        until = time.monotonic() + within
        status = 0
        while status != 200:
            assert self.process.returncode is None, f"it ended with {self.process.returncode}: {self.log.read_text()}"
            assert time.monotonic() < until, f"not ready within {within} s: {self.log.read_text()}"
            await asyncio.sleep(0.05)
            if self.kind.startswith("grpc"):
                status = 200 if self.said("started") else 0
                continue
            with suppress(OSError, EOFError):
                status = (await get(self.port, "/readyz"))[0]

    async def ended(self, within: float = 25.0) -> int:
        """Its exit status. Fails the test when it does not end."""
        try:
            async with asyncio.timeout(within):
                status = await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"it did not end within {within} s: {self.words}, {self.log.read_text()}") from None
        await self._reader
        return status

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end."""
        self.process.send_signal(number)


async def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.get(path)
    finally:
        connection.close()


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.requests = 0

    async def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Ask and read the whole answer; closes when the server asks for it."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        self.requests += 1
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, headers, body

    @property
    def open(self) -> bool:
        """Whether it may be used again."""
        return self._streams is not None and not self._streams[0].at_eof()

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


class Client:
    """Sends requests at a steady rate to the instances in its list, on kept-alive connections, and retries nothing."""

    def __init__(self, ports: list[int], *, rate: float, lag: float = 0.0) -> None:
        self.ports = ports
        self.rate = rate
        self.lag = lag  # seconds between a word of the registry and the list
        self.answers: Counter[str] = Counter()
        self.by_port: Counter[int] = Counter()
        self.reused = 0
        self.failures: list[str] = []
        self._idle: dict[int, list[Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._running: asyncio.Task[None] | None = None

    def follow(self, server: Server) -> None:
        """Take the instance out of the list once it says that it is deregistered, and `lag` has passed."""

        def hear(word: dict[str, Any]) -> None:
            if word["word"] == "deregistered":  # the lag counts from when it was said: a test that is late hears it late as well
                rest = max(0.0, word["said_at"] + self.lag - time.monotonic())
                asyncio.get_running_loop().call_later(rest, self.forget, server.port)

        server.heard.append(hear)

    def forget(self, port: int) -> None:
        """This instance gets nothing new; idle connections to it are closed."""
        if port in self.ports:
            self.ports.remove(port)
        for connection in self._idle.pop(port, []):
            connection.close()

    async def __aenter__(self) -> Client:
        self._running = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await asyncio.gather(*self._tasks)
        for idle in self._idle.values():
            for connection in idle:
                connection.close()

    async def _send(self) -> None:
        begun, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begun) * self.rate)
            while sent < due:
                sent += 1
                if self.ports:
                    self._turn += 1
                    task = asyncio.create_task(self._one(self.ports[self._turn % len(self.ports)]))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(1 / self.rate)

    async def _one(self, port: int) -> None:
        idle = self._idle.setdefault(port, [])
        connection = None
        while idle and connection is None:
            candidate = idle.pop()
            if candidate.open:
                connection = candidate
            else:
                candidate.close()
        connection = connection or Connection(port)
        self.reused += connection.requests > 0
        try:
            async with asyncio.timeout(20):
                status, _, body = await connection.get("/work")
            self.answers[str(status)] += 1
            self.by_port[port] += 1
            if status != 200 or body != b"done":
                self.failures.append(f"{port}: {status} {body!r}")
        except (OSError, EOFError, TimeoutError) as error:
            self.failures.append(f"{port}: {error!r} after {connection.requests} requests on its connection")
            connection.close()
        if connection.open and port in self.ports:
            self._idle.setdefault(port, []).append(connection)
        else:
            connection.close()


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Gives `async with start(kind, **settings) as server`: a server process, never left behind."""

    @asynccontextmanager
    async def starting(kind: str, port: int | None = None, **settings: object) -> AsyncIterator[Server]:
        port = free_port() if port is None else port
        log = tmp_path / f"{kind}-{port}-{time.monotonic_ns()}.log"
        command = [PYTHON, "-m", *(part.format(port=port) for part in COMMANDS[kind])]
        environment = {**os.environ, "SERVED": json.dumps(settings), "PYTHONPATH": os.pathsep.join((str(SRC), str(HERE)))}
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=HERE, env=environment, stdout=asyncio.subprocess.PIPE, stderr=errors, start_new_session=True
            )
        server = Server(kind, process, port, log)
        try:
            await server.ready()
            yield server
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its own session: the server and its workers, nobody else
                await process.wait()
            await asyncio.gather(server._reader, return_exceptions=True)

    return starting


@pytest.fixture
def client() -> type[Client]:
    """The client of the tests."""
    return Client


@pytest.fixture
def ask() -> Any:
    """One request on a connection of its own: `await ask(port, path)`."""
    return get


@pytest.fixture
def connect() -> type[Connection]:
    """A kept-alive connection."""
    return Connection
