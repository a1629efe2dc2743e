"""The transports over httpx2."""

from __future__ import annotations

import httpx2

from seawall.balancing.clients.httpx_family import AsyncFamily, SyncFamily
from seawall.balancing.clients.port import Wiring


class AsyncTransport(AsyncFamily):
    """One `httpx2.AsyncClient`. client: one made elsewhere, which is then closed elsewhere; default None = one of our own."""

    def __init__(self, wiring: Wiring | None = None, client: httpx2.AsyncClient | None = None) -> None:
        super().__init__(httpx2, wiring, client)


class SyncTransport(SyncFamily):
    """One `httpx2.Client`. client: one made elsewhere, which is then closed elsewhere; default None = one of our own."""

    def __init__(self, wiring: Wiring | None = None, client: httpx2.Client | None = None) -> None:
        super().__init__(httpx2, wiring, client)
