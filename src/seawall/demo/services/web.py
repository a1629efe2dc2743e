"""How a service of the shop serves HTTP: uvicorn on a loopback port that is free."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from seawall.demo.child import Hear, obey, tell


class _Server(uvicorn.Server):
    """Leaves signals alone: the parent decides when this process ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


async def serve(app: Starlette, hear: Hear) -> None:
    """Serve `app`, tell the parent the port, and obey its commands until it is gone."""
    # the protocol is named because asyncio turns Nagle's algorithm off (40 ms per answer) only where it is
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(512)
        config = uvicorn.Config(
            app,
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=60,  # longer than any client keeps an idle connection, so that none closes under a request
        )
        obey(hear)
        tell(ready=True, port=listening.getsockname()[1])
        await _Server(config).serve(sockets=[listening])
