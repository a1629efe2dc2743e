"""gRPC servers of the tests, as processes: `python served_grpc.py aio|sync PORT`."""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from served import Spoken, SpokenSync, say, tell

from seawall.health import Health

health = Health("prices")
health.subscribe(tell)


def text(message: bytes) -> bytes:
    return message


async def price(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(float(request or b"0.01"))
    return b"done"


def price_sync(request: bytes, context: Any) -> bytes:
    time.sleep(float(request or b"0.01"))
    return b"done"


def handlers(function: Any) -> Any:
    method = grpc.unary_unary_rpc_method_handler(function, request_deserializer=text, response_serializer=text)
    return grpc.method_handlers_generic_handler("shop.Prices", {"Get": method})


async def serve(port: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(price),))
    health.install_grpc(server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    async with health.drain(Spoken(), timeout=5, server=server):
        say("started")
        await server.wait_for_termination()
    await health.stop()
    say("ended")


def serve_sync(port: str) -> None:
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((handlers(price_sync),))
    health.install_grpc(server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    with health.drain_threads(SpokenSync(), timeout=5, server=server):
        say("started")
        server.wait_for_termination()
    say("ended")


if __name__ == "__main__":
    if sys.argv[1] == "aio":
        asyncio.run(serve(sys.argv[2]))
    else:
        serve_sync(sys.argv[2])
