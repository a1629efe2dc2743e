"""The fault proxy on real sockets: each fault, alone and changed while connections live."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.core.errors import WrongTwin
from seawall.testing.fault_proxy import FaultProxy
from seawall.testing.faults import Draws, Faults

SHORT = 0.3  # seconds within which nothing arrives, where nothing may arrive


class Echo:
    """An upstream that says back what it hears, and counts."""

    def __init__(self) -> None:
        self.heard = 0
        self.open = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while chunk := await reader.read(65536):
                self.heard += len(chunk)
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            self.heard += 0  # reset by the proxy: what these tests are about
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def wire(**options: Any) -> AsyncIterator[tuple[Echo, FaultProxy]]:
    """An echo server behind a fault proxy."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    async with server, FaultProxy("127.0.0.1", echo.port, **options) as proxy:
        yield echo, proxy
        server.close()


@asynccontextmanager
async def client(proxy: FaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def said_back(line: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes = b"ping") -> float:
    """Say something, hear it again; the seconds between."""
    reader, writer = line
    began = time.monotonic()
    writer.write(data)
    await writer.drain()
    assert await reader.readexactly(len(data)) == data
    return time.monotonic() - began


async def silent(line: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    """Whether nothing comes, not even the end."""
    try:
        async with asyncio.timeout(SHORT):
            await line[0].read(1)
    except TimeoutError:
        return True
    return False


async def became(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true soon."""
    for _ in range(300):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Run one story, and see that it leaves no task behind."""

    async def whole() -> None:
        before = asyncio.all_tasks()
        await story()
        assert await became(lambda: asyncio.all_tasks() == before)

    asyncio.run(whole())


def test_bytes_arrive_unchanged_and_are_counted_when_nothing_is_wrong() -> None:
    """A proxy that changes healthy traffic would make every test through it a lie."""

    async def story() -> None:
        data = bytes(range(256)) * 4096
        async with wire() as (_, proxy), client(proxy) as line:
            sending = asyncio.create_task(said_back(line, data))
            await sending
            await said_back(line)
            shot = proxy.snapshot()
            assert (shot.up_bytes, shot.down_bytes) == (len(data) + 4, len(data) + 4)
            assert (shot.connections, shot.open, shot.resets, shot.refused) == (1, 1, 0, 0)

    run(story)


def test_turns_count_requests_however_many_share_a_connection() -> None:
    """The demo counts calls that hit a broken service; keep-alive would hide them from a count of connections."""

    async def story() -> None:
        async with wire() as (_, proxy):
            for _ in range(2):
                async with client(proxy) as line:
                    for _ in range(3):
                        await said_back(line)
            assert (proxy.snapshot().connections, proxy.snapshot().turns) == (2, 6)

    run(story)


def test_the_end_of_one_side_reaches_the_other_after_all_its_bytes() -> None:
    """A close that overtook the last bytes would cut answers short."""

    async def story() -> None:
        async with wire(faults=Faults(latency=0.1)) as (echo, proxy), client(proxy) as (reader, writer):
            writer.write(b"x" * 50_000)
            writer.write_eof()
            assert await reader.read(-1) == b"x" * 50_000
            assert await became(lambda: echo.open == 0 and proxy.snapshot().open == 0)
            assert proxy.snapshot().resets == 0

    run(story)


def test_latency_lengthens_a_round_trip_and_goes_with_the_fault() -> None:
    """A slow network is the commonest fault; it must act on connections that are open already."""

    async def story() -> None:
        async with wire() as (_, proxy), client(proxy) as line:
            quick = await said_back(line)
            proxy.set(Faults(latency=0.25))
            assert await said_back(line) >= max(0.25, quick)
            proxy.clear()
            assert min([await said_back(line) for _ in range(3)]) < 0.25

    run(story)


def test_latency_is_no_bandwidth_limit_when_many_chunks_are_on_the_way() -> None:
    """A proxy that sleeps per chunk would turn 0.2 s of latency into a throughput of 5 chunks a second."""

    async def story() -> None:
        async with wire(faults=Faults(latency=0.2)) as (_, proxy), client(proxy) as (reader, writer):
            began = time.monotonic()
            for _ in range(20):
                writer.write(b"x")
                await asyncio.sleep(0.01)
            await reader.readexactly(20)
            assert time.monotonic() - began < 20 * 0.2 / 2

    run(story)


def test_bandwidth_bounds_bytes_per_second_and_slices_bound_each_piece() -> None:
    """A slow body is another fault than a late one: clients with only a read time-out never notice it."""

    async def story() -> None:
        async with wire() as (_, proxy), client(proxy) as line:
            data = b"x" * 20_000
            proxy.set(Faults(bandwidth=100_000))
            slow = await said_back(line, data)
            proxy.set(Faults(slice_bytes=1000))
            quick = await said_back(line, data)
            assert slow >= 0.2
            assert quick < slow
            assert proxy.snapshot().down_bytes == 40_000

    run(story)


def test_reset_connections_see_a_reset_and_the_upstream_hears_nothing() -> None:
    """A reset must be a reset: an orderly close is another error in every client."""

    async def story() -> None:
        async with wire(faults=Faults(reset=1.0)) as (echo, proxy), client(proxy) as (reader, writer):
            writer.write(b"ping")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(4)
            assert await became(lambda: proxy.snapshot().open == 0)
            assert (proxy.snapshot().resets, echo.heard) == (1, 0)

    run(story)


async def _fates(seed: int) -> list[bool]:
    fates = []
    async with wire(seed=seed, faults=Faults(reset=0.5)) as (_, proxy):
        for _ in range(20):
            async with client(proxy) as line:
                try:
                    await said_back(line)
                    fates.append(True)
                except ConnectionError:
                    fates.append(False)
    return fates


def test_the_same_seed_resets_the_same_connections() -> None:
    """A failure found with a seed must come back with that seed."""

    async def story() -> None:
        first = await _fates(seed=7)
        assert first == await _fates(seed=7)
        assert first != await _fates(seed=8)
        assert 0 < sum(first) < 20

    run(story)


@given(st.integers(0, 2**32), st.integers(1, 10**6))
def test_draws_depend_on_seed_and_number_alone(seed: int, number: int) -> None:
    """Connections race; what each of them meets must not depend on who came first."""
    faults = Faults(latency=1, jitter=0.5)
    one, other = Draws(seed, number), Draws(seed, number)
    delays = [one.delay(faults) for _ in range(5)]
    assert one.reset == other.reset
    assert delays == [other.delay(faults) for _ in range(5)]
    assert all(1 <= delay <= 1.5 for delay in delays)


def test_a_black_hole_swallows_everything_and_what_it_swallowed_stays_lost() -> None:
    """A dead host neither answers nor closes; only a time-out of the client's own gets it out."""

    async def story() -> None:
        async with wire() as (echo, proxy), client(proxy) as old:
            await said_back(old)
            proxy.set(Faults(black_hole=True))
            async with client(proxy) as new:
                for line in (old, new):
                    line[1].write(b"lost")
                    assert await silent(line)
                assert (echo.heard, proxy.snapshot().swallowed_bytes, proxy.snapshot().turns) == (4, 8, 3)
                proxy.clear()
                new[1].write(b"again")
                assert await silent(new)
            async with client(proxy) as fresh:
                await said_back(fresh)
        assert proxy.snapshot().open == 0

    run(story)


def test_an_upstream_that_closes_in_a_black_hole_is_not_heard() -> None:
    """A close that came through would save the client from the very wait that is tested."""

    async def story() -> None:
        async with wire() as (_, proxy), client(proxy) as line:
            await said_back(line)
            proxy.set(Faults(black_hole=True))
            line[1].write(b"lost")
            assert await silent(line)
            line[1].close()
            assert await became(lambda: proxy.snapshot().open == 0)
            assert proxy.snapshot().resets == 0

    run(story)


def test_half_open_keeps_the_upstream_working_while_the_client_hears_nothing() -> None:
    """This is how a payment is taken and the shop never learns of it."""

    async def story() -> None:
        async with wire() as (echo, proxy):
            async with client(proxy) as line:
                await said_back(line)
                proxy.set(Faults(half_open=True))
                line[1].write(b"charge")
                assert await silent(line)
                assert echo.heard == 10
            await asyncio.sleep(SHORT)
            assert (echo.open, proxy.snapshot().open) == (1, 1)
            proxy.clear()
            assert await became(lambda: echo.open == 0 and proxy.snapshot().open == 0)
            assert proxy.snapshot().resets == 1

    run(story)


def test_refuse_turns_new_connections_away_and_cut_ends_the_old_ones() -> None:
    """Together they are a process that died: nobody gets in, and whoever was in is thrown out."""

    async def story() -> None:
        async with wire() as (_, proxy), client(proxy) as old:
            await said_back(old)
            proxy.set(Faults(refuse=True))
            await said_back(old)
            with pytest.raises(ConnectionError):
                async with client(proxy) as new:
                    await said_back(new)
            assert proxy.cut() == 1
            with pytest.raises(ConnectionError):
                await said_back(old)
            assert await became(lambda: proxy.snapshot().open == 0)
            assert (proxy.snapshot().refused, proxy.snapshot().resets, proxy.snapshot().connections) == (1, 1, 2)

    run(story)


def test_connections_are_refused_beyond_the_bound() -> None:
    """Everything is bounded, a test tool too: a leak in the code under test must not take the machine."""

    async def story() -> None:
        async with wire(max_connections=1) as (_, proxy), client(proxy) as first:
            await said_back(first)
            with pytest.raises(ConnectionError):
                async with client(proxy) as second:
                    await said_back(second)
            assert proxy.snapshot().refused == 1

    run(story)


def test_a_missing_upstream_is_a_reset_for_the_client() -> None:
    """A proxy in front of nothing must look like a service that is down, and recover with it."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        async with FaultProxy("127.0.0.1", port) as proxy, client(proxy) as line:
            with pytest.raises(ConnectionError):
                await said_back(line)
            assert await became(lambda: proxy.snapshot().open == 0)

    run(story)


@pytest.mark.parametrize(
    "faults",
    [Faults(), Faults(latency=30), Faults(bandwidth=1), Faults(black_hole=True), Faults(half_open=True)],
    ids=["healthy", "latency", "bandwidth", "black hole", "half-open"],
)
def test_leaving_ends_every_connection_at_once_whatever_is_on_the_way(faults: Faults) -> None:
    """A test that has to wait for its own tool is a slow test; one that leaks its tasks breaks the next one."""

    async def story() -> None:
        began = time.monotonic()
        async with wire() as (_, proxy):
            lines = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(5)]
            for line in lines:
                await said_back(line)
            proxy.set(faults)
            for _, writer in lines:
                writer.write(b"x" * 1000)
            await asyncio.sleep(0.05)
        assert proxy.snapshot().open == 0
        assert time.monotonic() - began < 5
        for _, writer in lines:
            writer.transport.abort()

    run(story)


def test_sync_code_uses_the_same_proxy_on_a_thread() -> None:
    """Half of our users' tests are not async."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        with FaultProxy.in_thread("127.0.0.1", upstream.getsockname()[1]) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as here:
                there, _ = upstream.accept()
                with there:
                    here.sendall(b"ping")
                    assert there.recv(4) == b"ping"
                    proxy.set(Faults(refuse=True))
                    assert proxy.snapshot().faults.refuse
                    assert proxy.cut() == 1
                    with pytest.raises(ConnectionError):
                        here.recv(1)
            proxy.clear()
        assert proxy.snapshot().open == 0


def test_the_thread_form_refuses_to_block_a_running_loop() -> None:
    """It would wait for a loop that waits for it."""

    async def story() -> None:
        with pytest.raises(WrongTwin, match="async with FaultProxy"):
            FaultProxy.in_thread("127.0.0.1", 1).__enter__()

    run(story)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("latency", -1, ValueError),
        ("latency", float("nan"), ValueError),
        ("latency", float("inf"), ValueError),
        ("jitter", True, TypeError),
        ("jitter", -0.1, ValueError),
        ("bandwidth", 0, ValueError),
        ("bandwidth", "fast", TypeError),
        ("slice_bytes", 0, ValueError),
        ("slice_bytes", 1.5, TypeError),
        ("reset", 1.1, ValueError),
        ("reset", None, TypeError),
        ("black_hole", 1, TypeError),
        ("half_open", "yes", TypeError),
        ("refuse", None, TypeError),
    ],
)
def test_a_fault_out_of_range_is_refused_by_name_and_value(name: str, value: Any, error: type[Exception]) -> None:
    """A fault that silently means nothing proves nothing."""
    with pytest.raises(error, match=name) as caught:
        Faults(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"upstream_port": 0}, ValueError),
        ({"upstream_port": 70000}, ValueError),
        ({"upstream_host": ""}, TypeError),
        ({"seed": -1}, ValueError),
        ({"faults": {"latency": 1}}, TypeError),
        ({"max_connections": 0}, ValueError),
        ({"host": None}, TypeError),
    ],
)
def test_a_proxy_that_cannot_work_is_refused_when_it_is_made(options: dict[str, Any], error: type[Exception]) -> None:
    """Bad input is found where it is written, not at the first connection."""
    with pytest.raises(error):
        FaultProxy(**{"upstream_host": "127.0.0.1", "upstream_port": 80, **options})


def test_a_proxy_says_so_when_it_does_not_listen() -> None:
    """A forgotten `with` must not look like a fault of the network."""
    proxy = FaultProxy("127.0.0.1", 80)
    with pytest.raises(RuntimeError, match="with"):
        _ = proxy.port
    with pytest.raises(TypeError, match="Faults"):
        proxy.set(None)  # type: ignore[arg-type]
