"""The registry in Consul, against a real agent: TTL checks, blocking queries, maintenance, an agent that forgets."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import Listener, children, eventually, ids, python
from tests.discovery.servers import Server, consul

from seawall.core.events import Event
from seawall.discovery import Brake, Instance, Registry

pytestmark = pytest.mark.xdist_group("consul")

MEMBER = """
    import sys, time
    from seawall.discovery import Instance, Registry
    url, port = sys.argv[1:]
    with Registry.open(url).register(Instance("payments", port=int(port)), ttl=2):
        time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real Consul."""
    with consul(tmp_path) as running:
        yield running


def opened(server: Server, **options: Any) -> Registry:
    """A registry on it."""
    settings: dict[str, Any] = {"allow_loopback": True, "ttl": 3, "watchdog": 1, "call_timeout": 1} | options
    return Registry.open(f"consul://127.0.0.1:{server.port}", **settings)


def tell(server: Server, method: str, path: str, body: Any = None) -> Any:
    """Speak to the agent behind the registry's back."""
    said = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", said, method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def test_instances_come_change_and_go_at_once(server: Server) -> None:
    """The life of an instance, seen through a blocking query; what others see of it too."""

    async def scenario() -> None:
        registry = opened(server)
        events: list[Event] = []
        registry.subscribe(events.append)
        async with registry.watch("payments") as watch:
            assert (await watch.first(5)).instances == ()
            one = Instance("payments", port=1, zone="a", weight=2.5, version="7", tags=("x",), metadata={"rack": "4"})
            async with registry.register(one) as registration:
                await eventually(lambda: ids(watch.snapshot) == ["127.0.0.1:1"], 5)
                assert watch.snapshot.instances == (one,)
                assert await registry.services() == ("consul", "payments")
                await registration.draining()
                await eventually(lambda: watch.snapshot.instances[0].state == "draining", 5)
                passing = tell(server, "GET", "/v1/health/service/payments?passing=true")
                assert passing == []
                await registration.ready()
                await eventually(lambda: ids(watch.snapshot) == ["127.0.0.1:1"], 5)
            await eventually(lambda: watch.snapshot.instances == (), 5)
        assert "registry.held" not in {event.kind for event in events}
        assert tell(server, "GET", "/v1/agent/services") == {}

    asyncio.run(scenario())


def test_an_agent_that_forgot_a_service_or_its_check_is_told_again(server: Server) -> None:
    """ "Does not have associated TTL" is answered for ever: repeating the heartbeat never helps."""

    async def scenario() -> None:
        registry = opened(server)
        async with registry.register(Instance("payments", port=1)) as one:
            service = "payments-127.0.0.1:1"
            for number, path in enumerate((f"check/deregister/service:{service}", f"service/deregister/{service}")):
                tell(server, "PUT", f"/v1/agent/{path}")
                began = time.monotonic()
                await eventually(lambda wanted=number + 1: one.snapshot().losses == wanted and one.registered, 10)
                assert time.monotonic() - began <= 3 + 1
                assert "service:payments-127.0.0.1:1" in tell(server, "GET", "/v1/agent/checks")
                assert len((await registry.list("payments")).ready) == 1

    asyncio.run(scenario())


def test_who_was_killed_is_gone_after_its_ttl(server: Server) -> None:
    """kill -9 leaves nobody to say goodbye."""

    async def scenario() -> None:
        url = f"consul://127.0.0.1:{server.port}?allow_loopback=true"
        with children(*(python(MEMBER, url, str(port)) for port in (1, 2, 3))) as members:
            async with opened(server).watch("payments") as watch:
                await eventually(lambda: len(ids(watch.snapshot)) == 3)
                members[1].kill()
                took = await eventually(lambda: ids(watch.snapshot) == ["127.0.0.1:1", "127.0.0.1:3"])
                assert took <= 2 + 2, took

    asyncio.run(scenario())


def test_maintenance_counts_as_draining(server: Server) -> None:
    """An operator who takes one out by hand wants no doubt about it."""

    async def scenario() -> None:
        registry = opened(server)
        async with registry.register(Instance("payments", port=1)), registry.watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 1)
            tell(server, "PUT", "/v1/agent/service/maintenance/payments-127.0.0.1:1?enable=true&reason=disk")
            await eventually(lambda: [one.state for one in watch.snapshot.instances] == ["draining"])
            tell(server, "PUT", "/v1/agent/service/maintenance/payments-127.0.0.1:1?enable=false")
            await eventually(lambda: len(ids(watch.snapshot)) == 1)

    asyncio.run(scenario())


def test_an_operators_order_is_maintenance(server: Server) -> None:
    """Consul has a word of its own for it, which its other clients know too."""

    async def scenario() -> None:
        registry = opened(server)
        async with registry.register(Instance("payments", port=1)):
            assert await registry.set_state("payments", "127.0.0.1:1", "draining")
            assert [each.state for each in (await registry.list("payments")).instances] == ["draining"]
            assert await registry.set_state("payments", "127.0.0.1:1", "ready")
            assert len((await registry.list("payments")).ready) == 1
            assert not await registry.set_state("payments", "nobody", "draining")

    asyncio.run(scenario())


def test_services_that_others_registered_are_found_too(server: Server) -> None:
    """Most of a Consul was there before us."""
    others = [{"ID": "db1", "Address": "10.0.0.5", "Meta": {"a": "b"}}, {"ID": "db2", "Weights": {"Passing": 5, "Warning": 1}}]
    for other in [*others, {"ID": "bad id"}]:
        tell(server, "PUT", "/v1/agent/service/register", {"Name": "db", "Port": 5432, **other})
    found = opened(server).list_sync("db").instances
    assert [(one.id, one.host, one.weight, dict(one.metadata)) for one in found] == [
        ("db1", "10.0.0.5", 1.0, {"a": "b"}),
        ("db2", "127.0.0.1", 5.0, {}),
    ]


def test_a_frozen_agent_is_noticed_and_the_list_is_kept(server: Server) -> None:
    """A blocking query to a frozen agent waits for ever."""

    async def scenario() -> None:
        registry = opened(server)
        async with registry.register(Instance("payments", port=1)) as one, registry.watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 1)
            server.child.freeze()
            await eventually(lambda: watch.snapshot.source == "stale", 10)
            await asyncio.sleep(3)
            assert len(ids(watch.snapshot)) == 1
            server.child.thaw()
            await eventually(lambda: one.registered and watch.snapshot.source == "live" and len(ids(watch.snapshot)) == 1)

    asyncio.run(scenario())


def test_a_killed_agent_that_starts_empty_gets_everybody_back(server: Server) -> None:
    """A development agent keeps nothing; its index begins anew, far below the one that the watch waits for."""

    async def scenario() -> None:
        with Listener() as listener:
            registry = opened(server, brake=Brake(probe_every=0.2))
            async with registry.register(Instance("payments", port=listener.port)) as one, registry.watch("payments") as watch:
                await eventually(lambda: len(ids(watch.snapshot)) == 1)
                for number in range(20):  # the index of the old life must be higher than all of the new one
                    tell(server, "PUT", "/v1/kv/x", number)
                seen: set[int] = set()
                watch.subscribe(lambda snapshot: seen.add(len(snapshot.ready)))
                server.child.kill()
                await eventually(lambda: watch.snapshot.source == "stale")
                server.again()
                await eventually(lambda: one.registered and watch.snapshot.source == "live" and not watch.snapshot.held, 40)
                assert seen == {1}

    asyncio.run(scenario())


def test_a_newcomer_at_the_same_address_keeps_its_registration(server: Server) -> None:
    """In a rolling restart the old process must not take the new one's registration with it."""

    async def scenario() -> None:
        registry = opened(server)
        old = registry.register(Instance("payments", port=1, version="1"))
        await old.start()
        async with registry.register(Instance("payments", port=1, version="2")):
            await old.draining()
            await old.deregister()
            assert [(one.version, one.state) for one in (await registry.list("payments")).instances] == [("2", "ready")]

    asyncio.run(scenario())


def test_a_token_is_shown_and_read_anew(tmp_path: Path) -> None:
    """A Consul with ACLs tells strangers nothing; tokens are renewed while processes live."""

    async def scenario(server: Server) -> None:
        url = f"consul://127.0.0.1:{server.port}?allow_loopback=true"
        tokens = ["wrong"]
        asked = Registry.open(url, token=lambda: tokens[-1])
        async with asked.register(Instance("payments", port=1), wait=0.5, ttl=3) as one:
            assert not one.registered
            tokens.append("secret")
            await eventually(lambda: one.registered)
            assert len((await asked.list("payments")).ready) == 1
            assert (await Registry.open(url).list("payments")).ready == ()  # Consul shows strangers an empty list
            assert "secret" not in repr(asked.snapshot()) + asked.name + repr(asked._place)

    with consul(tmp_path, token="secret") as server:
        asyncio.run(scenario(server))
