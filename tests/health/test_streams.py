"""Protocols that carry many requests on one connection: gRPC and HTTP/2 leave as gracefully as HTTP/1.1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import hpack
import pytest
from hyperframe import frame as frames


async def eventually(true: Callable[[], bool], within: float = 15.0) -> None:
    until = time.monotonic() + within
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["grpc-aio", "grpc-sync"])
def test_no_call_fails_when_a_grpc_server_is_terminated_under_traffic(kind: str, start: Any) -> None:
    """One HTTP/2 connection carries everything: a server that ends without GOAWAY fails all of it at once."""

    async def scene() -> None:
        async with start(kind, propagation=0.6) as leaving, start(kind) as staying:
            servers = {leaving.port: leaving, staying.port: staying}
            ports, failures, answers = list(servers), [], dict.fromkeys(servers, 0)

            def hear(word: dict[str, Any]) -> None:
                if word["word"] == "deregistered":
                    asyncio.get_running_loop().call_later(0.15, ports.remove, leaving.port)

            leaving.heard.append(hear)
            channels = {port: grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in servers}
            calls = {port: channel.unary_unary("/shop.Prices/Get") for port, channel in channels.items()}

            async def one(port: int, takes: bytes = b"") -> None:
                try:
                    assert await calls[port](takes, timeout=20) == b"done"
                    answers[port] += 1
                except grpc.aio.AioRpcError as error:
                    failures.append(f"{port}: {error.code()} {error.details()}")

            tasks = [asyncio.create_task(one(leaving.port, b"2.5"))]
            ending = None
            for number in range(100_000):
                tasks.append(asyncio.create_task(one(ports[number % len(ports)])))
                await asyncio.sleep(0.01)
                if ending is None and answers[leaving.port] > 30:
                    leaving.terminate()
                    ending = asyncio.create_task(leaving.ended())
                if ending is not None and ending.done():
                    break
            await asyncio.gather(*tasks)
            assert failures == []
            assert await ending == 0, leaving.log.read_text()
            assert leaving.said("ended") == 1
            assert answers[leaving.port] > 30
            for channel in channels.values():
                await channel.close()

    asyncio.run(scene())


class Http2:
    """One HTTP/2 connection by prior knowledge, frame by frame: it goes on to read after a GOAWAY, as a client must."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.goodbye = False
        self.closed = False
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._next = 1

    async def open(self, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.SettingsFrame(0).serialize())
        self._reading = asyncio.create_task(self._read())

    def get(self, path: str) -> int:
        number, self._next = self._next, self._next + 2
        headers = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        sent = frames.HeadersFrame(number, data=self._encoder.encode(headers), flags=["END_HEADERS", "END_STREAM"])
        self._writer.write(sent.serialize())
        return number

    async def _read(self) -> None:
        try:
            while True:
                frame, length = frames.Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._take(frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True

    def _take(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.HeadersFrame):
            self.answers[frame.stream_id] = dict(self._decoder.decode(bytes(frame.data)))
        elif isinstance(frame, frames.GoAwayFrame):
            self.goodbye = True
        elif isinstance(frame, frames.SettingsFrame) and "ACK" not in frame.flags:
            self._writer.write(frames.SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(frame, frames.PingFrame) and "ACK" not in frame.flags:
            self._writer.write(frames.PingFrame(0, bytes(frame.opaque_data), flags=["ACK"]).serialize())
        if "END_STREAM" in frame.flags:
            self.ended.add(frame.stream_id)

    async def close(self) -> None:
        self._writer.transport.abort()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


@pytest.mark.parametrize("kind", ["hypercorn", "granian"])
def test_http_2_gets_no_connection_header_and_a_goaway_when_the_listeners_close(kind: str, start: Any) -> None:
    """`Connection: close` is a protocol error on HTTP/2, and a connection that ends without GOAWAY loses the requests on it."""

    async def scene() -> None:
        async with start(kind, propagation=1.0) as server:
            client = Http2()
            await client.open(server.port)
            first = client.get("/work")
            await eventually(lambda: first in client.ended)
            slow = client.get("/work?for=2.5")
            await asyncio.sleep(0.2)
            server.terminate()
            await eventually(lambda: server.said("deregistered") == 1)
            during = client.get("/work")
            await eventually(lambda: during in client.ended)
            assert client.answers[during][":status"] == "200"
            assert "connection" not in client.answers[during]
            assert not client.goodbye, "as long as it serves, requests are welcome"
            await eventually(lambda: slow in client.ended)
            assert client.answers[slow][":status"] == "200", "what was in flight is finished"
            await server.ended()
            await eventually(lambda: client.closed)
            assert client.goodbye
            await client.close()

    asyncio.run(scene())
