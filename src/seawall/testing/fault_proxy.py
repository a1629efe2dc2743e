"""A TCP proxy that breaks the network on purpose: seeded, changeable while it runs, for tests on real sockets.

It stands between a client and a real server, on the loopback interface unless told otherwise, and knows no protocol.
Whatever it draws comes from its seed and the number of the connection, so a run can be repeated.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, TypeVar

from seawall.core import units
from seawall.core.errors import WrongTwin
from seawall.core.runtime import loop_is_running
from seawall.testing.faults import Draws, FaultProxySnapshot, Faults

__all__ = ["FaultProxy", "FaultProxySnapshot", "Faults", "ThreadedFaultProxy"]

T = TypeVar("T")
CHUNK_BYTES: Final = 16 * 1024
QUEUED_CHUNKS: Final = 64  # at most 1 MiB on its way per direction; then the sender has to wait, as on a real wire
FLUSHES_FOR: Final = 2.0  # seconds that the last bytes of a connection have to leave
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # SO_LINGER of 0: close sends RST


class FaultProxy:
    """A TCP proxy with faults, for `async with`; from sync code see `FaultProxy.in_thread`.

    upstream_host, upstream_port: the real server; asked for at each connection, so it may start later.
    seed: whole number >= 0 from which resets and jitter are drawn. Default 0.
    faults: what is wrong from the start. Default nothing.
    host, port: where to listen. Default the loopback interface, at a port that is free (0).
    max_connections: alive at the same time, >= 1; further ones are refused. Default 1000.

    Raises ValueError or TypeError for a parameter out of range; OSError when the port is taken.

    >>> async def outage() -> None:
    ...     async with FaultProxy("127.0.0.1", 8000) as proxy:
    ...         proxy.set(Faults(latency=0.2, jitter=0.1))  # clients connect to proxy.port
    ...         proxy.clear()
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        max_connections: int = 1000,
    ) -> None:
        for name, value in (("upstream_host", upstream_host), ("host", host)):
            if not isinstance(value, str) or not value:
                raise TypeError(f"{name} must be a text that is not empty; got {value!r}")
        self.upstream = (upstream_host, units.whole("upstream_port", upstream_port, most=65535))
        self.host = host
        self._wanted_port = units.whole("port", port, least=0, most=65535)
        self._seed = units.whole("seed", seed, least=0)
        self._most = units.whole("max_connections", max_connections)
        self.faults = _checked(Faults() if faults is None else faults)
        self.counts = _Counts()
        self._live: dict[_Connection, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    @classmethod
    def in_thread(
        cls, upstream_host: str, upstream_port: int, *, seed: int = 0, faults: Faults | None = None
    ) -> ThreadedFaultProxy:
        """The same proxy on a thread of its own, for `with` in sync code."""
        return ThreadedFaultProxy(cls(upstream_host, upstream_port, seed=seed, faults=faults))

    @property
    def port(self) -> int:
        """Where it listens. Raises RuntimeError while it does not."""
        if self._server is None:
            raise RuntimeError("the proxy does not listen; use it in a `with` or `async with` block")
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> FaultProxy:
        if self._server is not None:
            raise RuntimeError("the proxy listens already")
        self._server = await asyncio.start_server(self._accept, self.host, self._wanted_port, limit=CHUNK_BYTES)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = list(self._live.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def set(self, faults: Faults) -> None:
        """Change what is wrong, for live connections too, from their next chunk on. Raises TypeError for no `Faults`."""
        self.faults = _checked(faults)
        if not faults.half_open:
            self._end(connection for connection in self._live if connection.half_open)
        for connection in self._live:
            connection.half_open = connection.half_open or faults.half_open

    def clear(self) -> None:
        """Nothing is wrong any more."""
        self.set(Faults())

    def cut(self) -> int:
        """Reset every live connection now, as when the process behind it dies; how many those were."""
        return self._end(self._live)

    def snapshot(self) -> FaultProxySnapshot:
        """What it has counted so far."""
        counts = self.counts
        return FaultProxySnapshot(
            faults=self.faults,
            connections=counts.connections,
            open=len(self._live),
            turns=counts.turns,
            refused=counts.refused,
            resets=counts.resets,
            up_bytes=counts.up_bytes,
            down_bytes=counts.down_bytes,
            swallowed_bytes=counts.swallowed_bytes,
        )

    def _end(self, connections: Iterable[_Connection]) -> int:
        ended = list(connections)
        for connection in ended:
            connection.resetting = True
            self._live[connection].cancel()
        return len(ended)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Plain, not async: tasks that asyncio makes for an async callback complain when they are cancelled (Python 3.11)."""
        self.counts.connections += 1
        if self.faults.refuse or self._server is None or len(self._live) >= self._most:
            self.counts.refused += 1
            _abort(writer, resetting=True)
            return
        connection = _Connection(self, Draws(self._seed, self.counts.connections), reader, writer)
        task = asyncio.get_running_loop().create_task(connection.run())
        self._live[connection] = task
        task.add_done_callback(lambda _: self._live.pop(connection, None))


class _GaveUp(Exception):
    """The client closed a connection that was dead."""


class _Counts:
    """What the proxy counts."""

    def __init__(self) -> None:
        self.connections = self.turns = self.refused = self.resets = 0
        self.up_bytes = self.down_bytes = self.swallowed_bytes = 0

    def passed(self, size: int, *, down: bool) -> None:
        self.down_bytes += size if down else 0
        self.up_bytes += 0 if down else size


class _Connection:
    """One client, and its connection to the upstream unless the wire was dead from the start.

    lost: bytes were swallowed in both directions, so nothing can pass any more. half_open: answers are kept back.
    resetting: the client is to get an RST when this ends.
    """

    def __init__(self, proxy: FaultProxy, draws: Draws, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._draws = draws
        self._reader = reader
        self._writer = writer
        self._upstream: asyncio.StreamWriter | None = None
        self._asking = False
        self.lost = proxy.faults.black_hole
        self.half_open = proxy.faults.half_open
        self.resetting = False

    async def run(self) -> None:
        """Pass bytes on until both sides are done, one breaks, or the proxy ends it."""
        try:
            if self.lost:
                await self._swallow_all()
            else:
                await self._join(*await asyncio.open_connection(*self._proxy.upstream, limit=CHUNK_BYTES))
            await self._close(gently=True)
        except OSError:
            self.resetting = True  # one side is gone (or never was there): the other hears it as a reset
        except ExceptionGroup as group:
            broken, rest = group.split((OSError, _GaveUp))
            if rest is not None:
                raise
            self.resetting = broken is not None and broken.subgroup(OSError) is not None
        finally:
            self._proxy.counts.resets += self.resetting
            await self._close(gently=False)

    async def _close(self, *, gently: bool) -> None:
        """Gently: what is written still leaves, if the other side takes it soon."""
        for writer in (self._writer, self._upstream):
            if writer is not None and gently:
                await _flush(writer)
            elif writer is not None:
                _abort(writer, resetting=self.resetting)

    async def _join(self, answers: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        self._upstream = upstream
        up, down = _Wire(self._proxy, upstream), _Wire(self._proxy, self._writer, down=True)
        async with asyncio.TaskGroup() as group:
            for part in (self._listen(up), self._answer(answers, down), up.deliver(), down.deliver()):
                group.create_task(part)

    async def _listen(self, up: _Wire) -> None:
        """What the client sends."""
        while chunk := await self._reader.read(CHUNK_BYTES):
            self._count_turn()
            faults = self._proxy.faults
            if self._draws.reset < faults.reset:
                raise ConnectionResetError("reset by the fault proxy")
            self.lost = self.lost or faults.black_hole
            if self.lost:
                self._proxy.counts.swallowed_bytes += len(chunk)
            else:
                await up.put(chunk)
        if self.lost:
            raise _GaveUp
        await self._hold_if_half_open()
        await up.put(b"")

    async def _answer(self, answers: asyncio.StreamReader, down: _Wire) -> None:
        """What the upstream sends."""
        while chunk := await answers.read(CHUNK_BYTES):
            faults = self._proxy.faults
            self.lost = self.lost or faults.black_hole
            if self.lost or self.half_open:
                self._proxy.counts.swallowed_bytes += len(chunk)
                continue
            self._asking = False
            await down.put(chunk, self._draws.delay(faults))
        if not self.lost:  # a dead wire does not tell of a close either
            await self._hold_if_half_open()
            await down.put(b"")

    async def _swallow_all(self) -> None:
        while chunk := await self._reader.read(CHUNK_BYTES):
            self._count_turn()
            self._proxy.counts.swallowed_bytes += len(chunk)

    async def _hold_if_half_open(self) -> None:
        """Neither side learns that the other closed; the proxy resets what waits here when the fault is over."""
        if self.half_open:
            await asyncio.Event().wait()

    def _count_turn(self) -> None:
        if not self._asking:
            self._asking = True
            self._proxy.counts.turns += 1


class _Wire:
    """One direction: chunks in order, each due at its own moment, so that latency does not become a bandwidth limit."""

    def __init__(self, proxy: FaultProxy, writer: asyncio.StreamWriter, *, down: bool = False) -> None:
        self._proxy = proxy
        self._writer = writer
        self._down = down
        self._chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        self._now: Callable[[], float] = asyncio.get_running_loop().time

    async def put(self, chunk: bytes, delay: float = 0.0) -> None:
        """Send a chunk on its way; an empty one ends this direction."""
        await self._chunks.put((self._now() + delay, chunk))

    async def deliver(self) -> None:
        """Hand over what is due, until this direction ends."""
        while True:
            due, chunk = await self._chunks.get()
            await asyncio.sleep(max(0.0, due - self._now()))
            if not chunk:
                self._writer.write_eof()
                return
            await self._write(chunk)

    async def _write(self, chunk: bytes) -> None:
        faults = self._proxy.faults
        size = faults.slice_bytes or len(chunk)
        if faults.bandwidth is not None:
            size = min(size, max(1, int(faults.bandwidth / 20)))  # pieces of 50 ms, so that a change of faults is felt soon
        for begin in range(0, len(chunk), size):
            piece = chunk[begin : begin + size]
            if faults.bandwidth is not None:
                await asyncio.sleep(len(piece) / faults.bandwidth)
            self._writer.write(piece)
            await self._writer.drain()
            self._proxy.counts.passed(len(piece), down=self._down)
            if faults.slice_bytes is not None:
                await asyncio.sleep(0)  # lets the piece leave by itself


class ThreadedFaultProxy:
    """A fault proxy on a thread of its own; made by `FaultProxy.in_thread`. The verbs are those of `FaultProxy`."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._runner: asyncio.Runner | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._proxy.port

    def set(self, faults: Faults) -> None:
        """Change what is wrong."""
        self._ask(lambda: self._proxy.set(faults))

    def clear(self) -> None:
        """Nothing is wrong any more."""
        self._ask(self._proxy.clear)

    def cut(self) -> int:
        """Reset every live connection now; how many those were."""
        return self._ask(self._proxy.cut)

    def snapshot(self) -> FaultProxySnapshot:
        """What it has counted so far."""
        return self._ask(self._proxy.snapshot)

    def __enter__(self) -> ThreadedFaultProxy:
        if loop_is_running():
            raise WrongTwin("FaultProxy.in_thread would block the running event loop; use `async with FaultProxy(...)` here")
        runner = asyncio.Runner()
        try:
            runner.run(self._proxy.__aenter__())
        except BaseException:
            runner.close()
            raise
        self._thread = threading.Thread(target=runner.get_loop().run_forever, name="seawall fault proxy", daemon=True)
        self._thread.start()
        self._runner = runner
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        runner, self._runner = self._runner, None
        assert runner is not None
        assert self._thread is not None
        loop = runner.get_loop()
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(10)
        runner.close()

    def _ask(self, verb: Callable[[], T]) -> T:
        """Run a verb on the proxy's own thread, where its connections live."""
        if self._runner is None:
            return verb()  # before and after its life there is no other thread

        async def call() -> T:
            return verb()

        return asyncio.run_coroutine_threadsafe(call(), self._runner.get_loop()).result(10)


def _checked(faults: object) -> Faults:
    if not isinstance(faults, Faults):
        raise TypeError(f"faults must be Faults(...); got {faults!r}")
    return faults


def _abort(writer: asyncio.StreamWriter, *, resetting: bool) -> None:
    line = writer.get_extra_info("socket")
    if resetting and line is not None:
        with suppress(OSError):  # it is closed already
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def _flush(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):  # it is gone, or does not read: then it is cut
        async with asyncio.timeout(FLUSHES_FOR):
            await writer.wait_closed()
