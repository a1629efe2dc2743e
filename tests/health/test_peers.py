"""The shared fate between real instances, which ask each other: a dependency that is down for all, for one, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from seawall.health import Health, Peer, PeerHealth, SharedFate
from seawall.health.ask import Unanswered, fetch
from seawall.health.peers import failing


@dataclass
class Listed:
    """An instance as a registry names it."""

    id: str
    port: int
    host: str = "127.0.0.1"
    scheme: str = "http"


@dataclass
class Known:
    """A watch: what is known of the service, in memory."""

    instances: list[Listed] = field(default_factory=list)
    known: bool = True

    @property
    def snapshot(self) -> Known:
        return self


async def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 15
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        await asyncio.sleep(0.02)


def test_a_fleet_whose_database_is_down_keeps_half_of_itself_and_comes_back() -> None:
    """The whole rule over the wire: all fail, half stays; one recovers, the others leave to it; all recover, all serve."""

    async def scene() -> None:
        watch = Known()
        down = {f"orders-{number}": False for number in range(4)}
        fleet: dict[str, Health] = {}
        async with AsyncExitStack() as running:
            with ExitStack() as ports:
                for id in list(down):
                    fate = SharedFate(id, PeerHealth(watch, every=0.1, timeout=0.5), floor=0.5)
                    health = fleet[id] = Health("orders", fate=fate)
                    health.ready("database", lambda id=id: not down[id], every=0.05, fall=1)  # type: ignore[misc]
                    watch.instances.append(Listed(id, ports.enter_context(health.listen(0)).port))
                    await running.enter_async_context(health)

                def ready() -> list[str]:
                    return [id for id, health in fleet.items() if health.report("ready").http_status == 200]

                await eventually(lambda: len(ready()) == 4)
                down["orders-0"] = True
                await eventually(lambda: ready() == ["orders-1", "orders-2", "orders-3"])
                for id in down:
                    down[id] = True
                await eventually(lambda: all(health.failing for health in fleet.values()) and len(ready()) == 2)
                stayed = ready()
                watch.known = False
                await eventually(lambda: len(ready()) == 4)
                watch.known = True
                await eventually(lambda: ready() == stayed)
                down["orders-2"] = False
                await eventually(lambda: ready() == ["orders-2"])
                for id in down:
                    down[id] = False
                await eventually(lambda: len(ready()) == 4)

    asyncio.run(scene())


def test_a_peer_that_is_gone_does_not_count(start: Any) -> None:
    """A dead instance that the registry still names cannot serve: waiting for it would leave nobody."""

    async def scene() -> None:
        with Health().listen(0) as own:
            gone = own.port
        watch = Known([Listed("me", 1), Listed("gone", gone)])
        peers = PeerHealth(watch, timeout=0.5)
        assert peers() is None, "nobody was asked yet"
        await peers.look()
        assert peers() == []
        assert SharedFate("me", peers).stays("database") is not None

    asyncio.run(scene())


def test_bodies_are_read_or_refused() -> None:
    """What a peer answers is input from the network."""
    whole = b'{"checks":{"a":[{"status":"fail","critical":true}],"b":[{"status":"fail"}],'
    whole += b'"c":[{"status":"pass","critical":true}],"d":3}}'
    assert failing(whole) == {"a"}
    assert failing(b"{}") == frozenset()
    for bad in (b"[]", b"nonsense", b'{"checks":[]}', b"\xff"):
        with pytest.raises(ValueError):
            failing(bad)
    with pytest.raises(TypeError, match="snapshot"):
        PeerHealth(lambda: [Peer("a")])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok")),
        (b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;x=y\r\n!\r\n0\r\n\r\n", (503, b"ok!")),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", (200, b"to the end")),
        (b"SSH-2.0-OpenSSH\r\n", Unanswered),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", Unanswered),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(200)) + b"\r\n", Unanswered),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"20000\r\n"
            + b"x" * 0x20000
            + b"\r\n"
            + b"20000\r\n"
            + b"x" * 0x20000
            + b"\r\n0\r\n\r\n",
            Unanswered,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nshort", EOFError),
        (b"", EOFError),
    ],
    ids=["sized", "chunked", "to-the-end", "no-http", "long-head", "many-headers", "long-body", "cut", "nothing"],
)
def test_answers_are_read_whole_or_refused_within_bounds(answer: bytes, expected: Any) -> None:
    """Health asks machines that may be broken, or not what they seem; none may hang it or fill its memory."""

    async def scene() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            async with asyncio.timeout(10):
                if isinstance(expected, tuple):
                    assert await fetch(url) == expected
                else:
                    with pytest.raises(expected):
                        await fetch(url)

    asyncio.run(scene())
