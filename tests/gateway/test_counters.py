"""What Envoy counts becomes events: by the names that a real Envoy uses, and only what is new."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway.kit import backend, free_port, services_file, until

from seawall.gateway import Gateway
from seawall.gateway.counters import Counters, by_service, read

pytestmark = pytest.mark.xdist_group("envoy")


def test_only_what_is_new_is_told_and_a_new_envoy_counts_from_zero() -> None:
    """An alert on a counter that jumps back must not see a storm."""
    told: list[tuple[str, Any]] = []
    counters = Counters(lambda kind, **data: told.append((kind, data)))
    for value in (0, 3, 3, 5, 2):
        counters.compare(read({"cluster.stock.upstream_rq_retry": value, "cluster.stock.lb_healthy_panic": 9}))
    assert [data["count"] for _, data in told] == [3, 2, 2]
    assert {(kind, data["service"]) for kind, data in told} == {("gateway.retried", "stock")}


def test_names_are_read_as_envoy_writes_them() -> None:
    """A service may have dots in its name, and a local limit belongs to no cluster."""
    found = read(
        {
            "cluster.a.b.upstream_rq_pending_overflow": 2,
            "cluster.a.b.outlier_detection.ejections_enforced_total": 1,
            "cluster.a.b.ratelimit.over_limit": 4,
            "limited.http_local_rate_limit.rate_limited": 5,
            "cluster.a.b.upstream_rq_retry_success": 7,
        }
    )
    assert by_service(found) == {"(no service)": {"limited": 5}, "a.b": {"ejected": 1, "limited": 4, "overflowed": 2}}


async def test_retries_and_limits_of_a_real_envoy_are_told(tmp_path: Path) -> None:
    """What the data plane does for us must be seen where everything else is seen."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'registry = "static:services.toml"\n[listeners.web]\nport = {port}\n[services.stock]\n'
            '[[routes]]\nexact_path = "/limited"\nto = "stock"\npipeline = "limited"\n'
            '[[routes]]\nto = "stock"\npipeline = "stock"\n'
            '[pipelines.stock]\npolicies = [{ retry = { attempts = 3, backoff = { base = "10ms" } } }]\n'
            '[pipelines.limited]\npolicies = [{ rate_limiter = { spec = "1/h" } }]\n'
        )
        seen: Counter[str] = Counter()
        async with Gateway(path, folder=tmp_path / "envoy") as gateway, aiohttp.ClientSession() as session:
            gateway.subscribe(lambda event: seen.update({event.kind: event.data.get("count", 1)}))
            one.statuses = [503]
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                assert answer.status == 200
            for _ in range(3):
                async with session.get(f"http://127.0.0.1:{port}/limited") as answer:
                    await answer.read()
            await until(lambda: _has(seen, "gateway.retried", "gateway.limited"))
            await asyncio.sleep(0)
        assert seen["gateway.retried"] == 1
        assert seen["gateway.limited"] == 2


async def _has(seen: Counter[str], *kinds: str) -> bool:
    return all(seen[kind] for kind in kinds)
