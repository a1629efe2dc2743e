"""The transports over httpx."""

from __future__ import annotations

import httpx

from seawall.balancing.clients.httpx_family import AsyncFamily, SyncFamily
from seawall.balancing.clients.port import Wiring


class AsyncTransport(AsyncFamily):
    """One `httpx.AsyncClient`. client: one made elsewhere, which is then closed elsewhere; default None = one of our own."""

    def __init__(self, wiring: Wiring | None = None, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(httpx, wiring, client)


class SyncTransport(SyncFamily):
    """One `httpx.Client`. client: one made elsewhere, which is then closed elsewhere; default None = one of our own."""

    def __init__(self, wiring: Wiring | None = None, client: httpx.Client | None = None) -> None:
        super().__init__(httpx, wiring, client)
