"""One instance of the stock service in the story of the fleet: it registers, says how it is, and leaves gracefully on SIGTERM."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from seawall.demo.child import begin, obey, tell
from seawall.discovery import Instance, Registry
from seawall.health import Health

TAKES: Final = 0.01  # seconds
TTL: Final = 2.0  # seconds after which a killed instance is gone from the registry


async def _level(request: Request) -> JSONResponse:
    await asyncio.sleep(TAKES)
    return JSONResponse({"sku": request.path_params["sku"], "level": 7})


def application(registry: str, port: int) -> Starlette:
    """The service as it would be written: registered while it runs, drained before it ends."""
    health = Health("stock")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        there = Registry.open(registry, ttl=TTL)
        async with there.register(Instance("stock", port=port)) as registration, health.drain(registration, timeout=5):
            tell(ready=True, port=port)
            yield

    app = Starlette(routes=[Route("/stock/{sku}", _level)], lifespan=lifespan)
    health.install(app)
    return app


async def _story(settings: dict[str, Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(512)
        app = application(settings["registry"], listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_keep_alive=60)
        obey(lambda _command: None)
        await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    begin(_story)
