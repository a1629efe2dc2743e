"""Real servers, real signals, kept-alive connections: who leaves loses nobody's request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from typing import Any

import pytest

ASGI = [
    "uvicorn",
    "uvicorn-uvloop",
    "uvicorn-workers",
    "hypercorn",
    "hypercorn-workers",
    "granian",
    "granian-uvloop",
    "gunicorn-uvicorn",
    "gunicorn-asgi",
]
EVERY = [*ASGI, "gunicorn-gthread", "gunicorn-sync"]
WORKERS = {"uvicorn-workers": 2, "hypercorn-workers": 2, "gunicorn-uvicorn": 2}


async def eventually(true: Any, within: float = 15.0) -> None:
    until = time.monotonic() + within
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", EVERY)
def test_no_request_fails_when_a_server_is_terminated_under_traffic(kind: str, start: Any, client: Any) -> None:
    """A deploy ends every instance once; a refused or reset request is a user who saw an error."""

    async def scene() -> None:
        async with start(kind, propagation=0.6) as leaving, start("uvicorn") as staying:
            async with client([leaving.port, staying.port], rate=100, lag=0.15) as calls:
                calls.follow(leaving)
                await eventually(lambda: calls.by_port[leaving.port] > 50 and leaving.said("started") == WORKERS.get(kind, 1))
                leaving.terminate()
                await leaving.ended()
                await asyncio.sleep(0.3)
            assert calls.failures == []
            assert calls.reused > 20 or kind == "gunicorn-sync", "kept-alive connections are the point"
            assert leaving.said("deregistered") == WORKERS.get(kind, 1)
            assert leaving.said("drain.closing") == WORKERS.get(kind, 1)
            if kind in ASGI:
                assert leaving.said("ended") == WORKERS.get(kind, 1), "the lifespan must end in order"

    asyncio.run(scene())


def test_requests_do_fail_when_the_instance_deregisters_at_the_end_of_its_lifespan(start: Any, client: Any) -> None:
    """What is usually done loses requests, under this very client: a test that cannot fail would prove nothing."""

    async def scene() -> None:
        async with start("uvicorn", usual=True) as leaving, start("uvicorn") as staying:
            async with client([leaving.port, staying.port], rate=200, lag=0.15) as calls:
                calls.follow(leaving)
                await eventually(lambda: calls.by_port[leaving.port] > 50)
                leaving.terminate()
                await leaving.ended()
                await asyncio.sleep(0.3)
            assert leaving.said("deregistered") == 1
            assert len(calls.failures) > 5

    asyncio.run(scene())


@pytest.mark.parametrize("kind", EVERY)
def test_a_draining_server_is_alive_not_ready_and_serves_on(kind: str, start: Any, ask: Any) -> None:
    """A liveness probe that fails during a drain has the instance killed; a closed listener is a 502."""

    async def scene() -> None:
        async with start(kind, propagation=2.0) as server:
            workers = WORKERS.get(kind, 1)
            await eventually(lambda: server.said("started") == workers)
            assert (await ask(server.port, "/readyz"))[0] == 200
            server.terminate()
            await eventually(lambda: server.said("deregistered") == workers)
            status, headers, body = await ask(server.port, "/readyz")
            assert (status, headers["content-type"]) == (503, "application/health+json")
            assert json.loads(body)["output"] == "draining"
            assert (await ask(server.port, "/livez"))[0] == 200
            status, headers, body = await ask(server.port, "/work")
            assert (status, body) == (200, b"done")
            if kind in ASGI:
                assert headers["connection"] == "close"
            await server.ended()
            taken = {word["word"]: word["at"] for word in server.words}
            assert taken["drain.closing"] - taken["deregistered"] >= 1.9, "it must go on serving while callers learn of it"

    asyncio.run(scene())


@pytest.mark.parametrize("kind", ASGI)
def test_what_is_in_flight_is_finished_when_the_listeners_close(kind: str, start: Any, ask: Any) -> None:
    """An order that is half done when the deploy begins must be answered."""

    async def scene() -> None:
        async with start(kind) as server:
            slow = asyncio.create_task(ask(server.port, "/work?for=2.5"))
            streamed = asyncio.create_task(ask(server.port, "/stream"))
            await asyncio.sleep(0.3)
            server.terminate()
            status, _, body = await slow
            assert (status, body) == (200, b"done")
            status, _, body = await streamed
            assert (status, body) == (200, b"part " * 10)
            await server.ended()

    asyncio.run(scene())


def test_what_outlasts_the_timeout_is_cut_when_the_time_is_over(start: Any, ask: Any) -> None:
    """A request that hangs must not keep the process until the platform kills it, with all that its end had to do."""

    async def scene() -> None:
        async with start("uvicorn", timeout=0.5) as server:
            hanging = asyncio.create_task(ask(server.port, "/work?for=60"))
            await asyncio.sleep(0.3)
            server.terminate()
            await server.ended(within=10)
            assert server.said("drain.timed_out") == 1
            assert server.said("ended") == 1
            with contextlib.suppress(OSError, EOFError):
                assert (await hanging)[0] == 500

    asyncio.run(scene())


def test_a_second_interrupt_ends_the_delay_at_once(start: Any, ask: Any) -> None:
    """Who presses Ctrl-C twice at a terminal means it."""

    async def scene() -> None:
        async with start("uvicorn", propagation=8.0) as server:
            server.terminate(signal.SIGINT)
            await eventually(lambda: server.said("deregistered") == 1)
            begun = time.monotonic()
            server.terminate(signal.SIGINT)
            await server.ended()
            assert time.monotonic() - begun < 6
            assert server.said("ended") == 1

    asyncio.run(scene())
