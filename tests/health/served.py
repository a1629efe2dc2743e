"""What the servers of the tests serve: an application that registers with its parent by words on stdout, and takes its time."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from seawall.core.events import Event
from seawall.health import Health

SETTINGS = json.loads(os.environ.get("SERVED", "{}"))


def say(word: str, **more: object) -> None:
    """Tell the parent."""
    os.write(1, (json.dumps({"word": word, "pid": os.getpid(), "said_at": time.monotonic(), **more}) + "\n").encode())


class Spoken:
    """A registration that the parent hears."""

    propagation = float(SETTINGS.get("propagation", 0.3))

    async def draining(self) -> None:
        say("draining")

    async def deregister(self) -> None:
        say("deregistered")


def tell(event: Event) -> None:
    if event.kind.startswith("drain."):
        say(event.kind, **{name: str(value) for name, value in event.data.items()})


health = Health("served")
health.subscribe(tell)


@health.ready("itself", every=0.2)
async def itself() -> None:
    """Always well."""


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    if SETTINGS.get("usual"):  # as it is usually done: out of the registry at the end of the lifespan
        say("started")
        yield
        await Spoken().deregister()
        return
    async with health.drain(Spoken(), timeout=float(SETTINGS.get("timeout", 5))):
        say("started")
        yield
    say("ended")


async def work(request: Request) -> PlainTextResponse:
    await asyncio.sleep(float(request.query_params.get("for", 0.01)))
    return PlainTextResponse("done")


async def stream(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"part "
            await asyncio.sleep(0.15)

    return StreamingResponse(parts())


app = Starlette(routes=[Route("/work", work), Route("/stream", stream)], lifespan=lifespan)
health.install(app)


# --- the same for WSGI servers

wsgi_health = Health("served")
wsgi_health.subscribe(tell)


class SpokenSync:
    """A registration for code without an event loop."""

    propagation = Spoken.propagation

    def draining_sync(self) -> None:
        say("draining")

    def deregister_sync(self) -> None:
        say("deregistered")


def plain(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    time.sleep(0.01)
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", "4")])
    return [b"done"]


wsgi = wsgi_health.install(plain)


def post_worker_init(worker: object) -> None:
    """gunicorn calls this in each worker: its signal handlers stand, and the application is loaded.

    Read as a configuration file this is not the module that serves, so the module is asked for its own health."""
    import served

    served.wsgi_health.drain_threads(SpokenSync(), timeout=5).start()
    say("started")
