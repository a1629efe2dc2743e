"""The other door to the fleet: a real Envoy, driven by our gateway from the same registry. `seawall demo --gateway`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2

from seawall.demo.fleet import Way
from seawall.discovery import Registry
from seawall.gateway import Gateway
from seawall.testing.servers import free_port

FILE: Final = """registry = "sqlite:///{registry}"
[listeners.web]
port = {port}
[services.stock]
[[routes]]
to = "stock"
pipeline = "stock"
[pipelines.stock]
policies = [
    {{ timeout = "5s" }},
    {{ retry = {{ attempts = 3, backoff = {{ base = "20ms", cap = "200ms" }} }} }},
    {{ timeout = "1s" }},
]
"""


@asynccontextmanager
async def by_gateway(registry: Registry, folder: Path) -> AsyncIterator[Way]:  # noqa: ARG001  # the gateway opens its own
    """Customers know one address; Envoy chooses the instance and tries again."""
    port = free_port()
    path = folder / "gateway.toml"
    path.write_text(FILE.format(registry=folder / "registry.db", port=port))
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
    async with (
        Gateway(path) as gateway,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10.0, limits=limits, trust_env=False) as client,
    ):

        async def retried() -> int:
            if gateway.envoy is None:
                return 0
            return sum((await gateway.envoy.admin.stats("upstream_rq_retry$")).values())

        yield Way(client, retried)
