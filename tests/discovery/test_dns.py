"""Services in a zone, asked of a real name server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import eventually, free_port, ids, silent
from tests.discovery.servers import Server, nsd, write_zone

from seawall.discovery import Brake, Instance, ReadOnlyRegistry, Registry, RegistryError, RegistryUnavailable

pytestmark = pytest.mark.xdist_group("nsd")

ZONE = "default.svc.cluster.local"
TWO = (
    "_http._tcp.payments SRV 0 0 8001 pod-1.payments\n_http._tcp.payments SRV 0 0 8001 pod-2.payments\n"
    "pod-1.payments A 10.0.0.1\npod-2.payments A 10.0.0.2\npayments A 10.0.0.1\npayments A 10.0.0.2\n"
    "_http._tcp.weighted SRV 0 30 80 pod-1.payments\n_http._tcp.weighted SRV 0 10 81 pod-2.payments\n"
    "_http._tcp.weighted SRV 5 10 82 pod-2.payments\n_http._tcp.closed SRV 0 0 0 .\n"
    "plain A 10.0.1.1\nplain AAAA fd00::1\n"
)
ONE = "_http._tcp.payments SRV 0 0 8001 pod-2.payments\npod-2.payments A 10.0.0.2\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real NSD with the zone of a cluster."""
    with nsd(tmp_path, ZONE, TWO) as running:
        yield running


def opened(server: Server, query: str = "", **options: Any) -> Registry:
    """A registry on it."""
    return Registry.open(f"dns://127.0.0.1:{server.port}/{ZONE}{query}", **{"probe": silent, **options})


def test_srv_records_name_addresses_ports_and_weights(server: Server) -> None:
    """A headless service has one SRV record for each pod that is ready."""
    registry = opened(server)
    assert ids(registry.list_sync("payments")) == ["10.0.0.1:8001", "10.0.0.2:8001"]
    weighted = registry.list_sync("weighted").instances
    assert [(one.id, one.weight) for one in weighted] == [("10.0.0.1:80", 30.0), ("10.0.0.2:81", 10.0)]
    assert registry.list_sync("closed").instances == ()
    assert registry.list_sync("nowhere").instances == ()


def test_addresses_alone_need_a_port(server: Server) -> None:
    """Unnamed ports have no SRV record; then the user must say which port it is."""
    with pytest.raises(RegistryError, match="default_port"):
        opened(server).list_sync("plain")
    assert ids(opened(server, "?default_port=8080").list_sync("plain")) == ["10.0.1.1:8080", "[fd00::1]:8080"]
    assert ids(opened(server, "?default_port=8080&family=4").list_sync("plain")) == ["10.0.1.1:8080"]
    with pytest.raises(ValueError, match="family must be one of"):
        opened(server, "?family=5")


def test_pods_that_come_and_go_are_seen_while_the_process_lives(server: Server, tmp_path: Path) -> None:
    """Clients that resolve once per connection never see a new pod."""

    async def scenario() -> None:
        async with opened(server).watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 2)
            write_zone(tmp_path, ZONE, ONE, serial=2)
            server.child.process.send_signal(signal.SIGHUP)
            await eventually(lambda: ids(watch.snapshot) == ["10.0.0.2:8001"], 15)
            write_zone(tmp_path, ZONE, TWO, serial=3)
            server.child.process.send_signal(signal.SIGHUP)
            await eventually(lambda: len(ids(watch.snapshot)) == 2, 15)

    asyncio.run(scenario())


def test_a_name_that_vanished_is_doubted_and_a_frozen_server_is_outlived(server: Server, tmp_path: Path) -> None:
    """NXDOMAIN during a rollout of the name server itself must not empty every client."""

    async def answers(instance: Instance) -> bool:
        return True

    async def scenario() -> None:
        registry = opened(server, call_timeout=1, watchdog=3, probe=answers, brake=Brake(hold=2, empty_hold=60))
        async with registry.watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 2)
            write_zone(tmp_path, ZONE, "", serial=2)
            server.child.process.send_signal(signal.SIGHUP)
            await eventually(lambda: len(watch.snapshot.held) == 2, 15)
            assert len(ids(watch.snapshot)) == 2
            write_zone(tmp_path, ZONE, TWO, serial=3)
            server.child.process.send_signal(signal.SIGHUP)
            await eventually(lambda: not watch.snapshot.held, 15)
            server.child.kill()
            await eventually(lambda: watch.snapshot.source == "stale", 20)
            assert len(ids(watch.snapshot)) == 2
            server.again()
            await eventually(lambda: watch.snapshot.source == "live", 20)

    asyncio.run(scenario())


def test_a_zone_is_neither_written_nor_listed(server: Server) -> None:
    """Both would need rights that a name server does not give."""
    registry = opened(server)
    with pytest.raises(ReadOnlyRegistry, match="whoever keeps the zone"):
        registry.register(Instance("payments", host="10.0.0.1", port=1))
    with pytest.raises(RegistryError, match="cannot list"):
        registry.services_sync()
    with pytest.raises((RegistryUnavailable, TimeoutError)):
        Registry.open(f"dns://127.0.0.1:{free_port()}/{ZONE}", call_timeout=1).list_sync("payments")
