"""The registry in etcd, against a real one: leases, watches, compaction, frozen and dead servers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import Listener, children, eventually, ids, python
from tests.discovery.servers import Server, etcd

from seawall.core.events import Event
from seawall.discovery import Brake, Instance, Registry, RegistryUnavailable

pytestmark = pytest.mark.xdist_group("etcd")

MEMBER = """
    import sys, time
    from seawall.discovery import Instance, Registry
    url, port = sys.argv[1:]
    with Registry.open(url).register(Instance("payments", port=int(port)), ttl=2):
        time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real etcd."""
    with etcd(tmp_path) as running:
        yield running


def opened(server: Server, **options: Any) -> Registry:
    """A registry on it."""
    settings: dict[str, Any] = {"allow_loopback": True, "ttl": 3, "watchdog": 1, "call_timeout": 1} | options
    return Registry.open(f"etcd://127.0.0.1:{server.port}", **settings)


def tell(server: Server, path: str, body: dict[str, Any]) -> Any:
    """Speak to etcd behind the registry's back."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read())


def wipe(server: Server) -> None:
    """Take out every key."""
    tell(server, "/v3/kv/deleterange", {"key": base64.b64encode(b"/").decode(), "range_end": base64.b64encode(b"0").decode()})


def heard(registry: Registry) -> list[Event]:
    """Its events."""
    events: list[Event] = []
    registry.subscribe(events.append)
    return events


def test_instances_come_change_and_go_at_once(server: Server) -> None:
    """The life of an instance, seen through a watch and not through polling."""

    async def scenario() -> None:
        registry = opened(server)
        events = heard(registry)
        async with registry.watch("payments") as watch:
            assert (await watch.first(5)).instances == ()
            async with registry.register(Instance("payments", port=1, zone="a", metadata={"rack": "4"})) as one:
                assert await eventually(lambda: ids(watch.snapshot) == ["127.0.0.1:1"]) < 1
                assert watch.snapshot.instances == (one.instance,)
                assert await registry.services() == ("payments",)
                await one.draining()
                assert await eventually(lambda: watch.snapshot.instances[0].state == "draining") < 1
            assert await eventually(lambda: watch.snapshot.instances == ()) < 1
            async with registry.register(Instance("payments", port=1)):
                await eventually(lambda: len(ids(watch.snapshot)) == 1)
            assert await eventually(lambda: watch.snapshot.instances == ()) < 1
        assert "registry.held" not in {event.kind for event in events}

    asyncio.run(scenario())


def test_a_lease_and_a_key_that_vanished_are_made_anew(server: Server) -> None:
    """etcd answers the keep-alive of a dead lease with 200: whoever does not read closely stays invisible for ever."""

    async def scenario() -> None:
        registry = opened(server)
        async with registry.register(Instance("payments", port=1)) as one:
            assert one._hold is not None
            tell(server, "/v3/lease/revoke", {"ID": one._hold.lease})
            began = time.monotonic()
            while not (await registry.list("payments")).instances:
                await asyncio.sleep(0.02)
            assert time.monotonic() - began <= 3
            assert one.snapshot().losses == 1
            wipe(server)  # the lease lives on, only the key is gone: seen by reading it back
            while not (await registry.list("payments")).instances:
                await asyncio.sleep(0.02)
            assert one.snapshot().losses == 2

    asyncio.run(scenario())


def test_who_was_killed_is_gone_after_its_ttl(server: Server) -> None:
    """kill -9 leaves nobody to say goodbye."""

    async def scenario() -> None:
        with children(
            *(python(MEMBER, f"etcd://127.0.0.1:{server.port}?allow_loopback=true", str(p)) for p in (1, 2, 3))
        ) as members:
            async with opened(server).watch("payments") as watch:
                await eventually(lambda: len(ids(watch.snapshot)) == 3)
                members[1].kill()
                took = await eventually(lambda: ids(watch.snapshot) == ["127.0.0.1:1", "127.0.0.1:3"])
                assert took <= 2 + 2, took  # etcd itself ends leases up to half a second late

    asyncio.run(scenario())


def test_a_frozen_server_is_noticed_and_the_list_is_kept(server: Server) -> None:
    """A frozen etcd breaks no connection: the watch is silent for ever, and looks healthy."""

    async def scenario() -> None:
        registry = opened(server)
        async with registry.register(Instance("payments", port=1)) as one, registry.watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 1)
            server.child.freeze()
            await eventually(lambda: watch.snapshot.source == "stale", 10)
            await asyncio.sleep(4)
            assert len(ids(watch.snapshot)) == 1
            assert not one.registered
            server.child.thaw()
            thawed = time.monotonic()
            await eventually(lambda: one.registered and watch.snapshot.source == "live" and len(ids(watch.snapshot)) == 1)
            assert time.monotonic() - thawed <= 3 + 5  # one backoff at most, and a beat

    asyncio.run(scenario())


def test_a_killed_server_that_lost_its_disk_gets_everybody_back(server: Server, tmp_path: Path) -> None:
    """An emptied registry is a wrong registry, not an empty service; those who answer stay in use."""
    import shutil

    async def scenario() -> None:
        with Listener() as listener:
            registry = opened(server, brake=Brake(probe_every=0.2))
            events = heard(registry)
            instance = Instance("payments", port=listener.port)
            async with registry.register(instance) as one, registry.watch("payments") as watch:
                await eventually(lambda: len(ids(watch.snapshot)) == 1)
                seen: set[int] = set()
                watch.subscribe(lambda snapshot: seen.add(len(snapshot.ready)))
                server.child.kill()
                await eventually(lambda: watch.snapshot.source == "stale")
                shutil.rmtree(tmp_path / "data")
                server.again()
                await eventually(lambda: one.registered and watch.snapshot.source == "live" and not watch.snapshot.held)
                assert seen == {1}
            assert sum(event.kind == "registry.live" for event in events) == 2

    asyncio.run(scenario())


def test_a_compacted_revision_leads_to_a_new_list(server: Server) -> None:
    """A watch from a revision that was compacted away is told so once, in a stream that then stays open for ever."""

    async def scenario() -> None:
        registry = opened(server)
        backend = registry._kind(registry._place, registry.clock)
        async with registry.register(Instance("payments", port=1)), registry.register(Instance("payments", port=2)):
            old = await backend.list("payments")
            for number in range(5):
                body = {"key": base64.b64encode(b"/x").decode(), "value": base64.b64encode(str(number).encode()).decode()}
                revision = tell(server, "/v3/kv/put", body)["header"]["revision"]
            tell(server, "/v3/kv/compaction", {"revision": revision, "physical": True})
            from dataclasses import replace

            from seawall.discovery.errors import Outdated

            with pytest.raises(Outdated, match="compacted"):
                async for _ in backend.follow("payments", replace(old, revision=old.revision - 2)):
                    await asyncio.sleep(0)
            async with registry.watch("payments") as watch:
                assert len(ids(await watch.first(5))) == 2
        await backend.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_record_that_changes_faster_than_its_heart_beats_lives_on(server: Server) -> None:
    """Writing a key renews no lease: an instance that flaps between states would vanish for a moment once per ttl."""

    async def scenario() -> None:
        registry = opened(server, ttl=2)
        async with registry.register(Instance("payments", port=1)) as one, registry.watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 1)
            fewest = [1]
            watch.subscribe(lambda snapshot: fewest.append(len(snapshot.instances)))
            for turn in range(20):
                await asyncio.sleep(0.2)
                await one.set_state("draining" if turn % 2 == 0 else "ready")
            assert one.snapshot().losses == 0
            assert min(fewest) == 1

    asyncio.run(scenario())


def test_an_operators_order_is_kept_by_the_owner(server: Server) -> None:
    """An instance that is drained by hand must not announce itself again at its next beat; its lease goes on."""

    async def scenario() -> None:
        registry = opened(server, ttl=2)
        async with registry.register(Instance("payments", port=1)) as one:
            assert await registry.set_state("payments", one.instance.id, "draining")
            await eventually(lambda: one.instance.state == "draining")
            await asyncio.sleep(2.5)
            assert [each.state for each in (await registry.list("payments")).instances] == ["draining"]
            assert await registry.set_state("payments", one.instance.id, "ready")
            await eventually(lambda: one.instance.state == "ready")
            assert one.snapshot().losses == 0
            assert not await registry.set_state("payments", "nobody", "draining")

    asyncio.run(scenario())


def test_a_newcomer_at_the_same_address_keeps_its_key(server: Server) -> None:
    """In a rolling restart the old process must not take the new one's record with it."""

    async def scenario() -> None:
        registry = opened(server)
        old = registry.register(Instance("payments", port=1, version="1"))
        await old.start()
        async with registry.register(Instance("payments", port=1, version="2")):
            await old.draining()
            await old.deregister()
            await asyncio.sleep(0.2)
            assert [(one.version, one.state) for one in (await registry.list("payments")).instances] == [("2", "ready")]

    asyncio.run(scenario())


def test_addresses_that_etcd_must_not_send_us_to_are_left_out(server: Server) -> None:
    """Whoever can write one key could otherwise read the credentials of every client's machine."""

    async def scenario() -> None:
        registry = opened(server)
        for host in ("169.254.169.254", "127.0.0.1", "10.0.0.9", "2852039166", "::ffff:169.254.169.254"):
            record = {"service": "payments", "id": f"i{abs(hash(host))}", "host": host, "port": 80}
            key = base64.b64encode(f"/seawall/services/payments/{record['id']}".encode()).decode()
            tell(server, "/v3/kv/put", {"key": key, "value": base64.b64encode(json.dumps(record).encode()).decode()})
        strict = Registry.open(f"etcd://127.0.0.1:{server.port}")
        events = heard(strict)
        async with strict.watch("payments") as watch:
            assert [one.host for one in (await watch.first(5)).instances] == ["10.0.0.9"]
        assert sum(event.kind == "registry.denied" for event in events) == 4
        assert [one.host for one in (await strict.list("payments")).instances] == ["10.0.0.9"]
        async with registry.watch("payments") as watch:
            assert [one.host for one in (await watch.first(5)).instances] in (
                ["127.0.0.1", "10.0.0.9"],
                ["10.0.0.9", "127.0.0.1"],
            )
        with pytest.raises(ValueError, match="allow_loopback=True"):
            strict.register(Instance("payments", port=1))

    asyncio.run(scenario())


def test_user_and_password_open_a_guarded_etcd(server: Server) -> None:
    """A registry that decides where calls go is worth a password; the token ends and is fetched anew."""
    tell(server, "/v3/auth/user/add", {"name": "root", "password": "secret"})
    tell(server, "/v3/auth/role/add", {"name": "root"})
    tell(server, "/v3/auth/user/grant", {"user": "root", "role": "root"})
    tell(server, "/v3/auth/enable", {})

    async def scenario() -> None:
        registry = Registry.open(f"etcd://root:secret@127.0.0.1:{server.port}", allow_loopback=True)
        assert "secret" not in registry.name
        assert "secret" not in repr(registry._place)
        async with registry.register(Instance("payments", port=1)) as one, registry.watch("payments") as watch:
            assert one.registered
            await eventually(lambda: len(ids(watch.snapshot)) == 1)

    asyncio.run(scenario())


def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    """Production clusters let in only who has a certificate, and are believed only with theirs."""

    async def scenario(server: Server) -> None:
        url = f"etcd://127.0.0.1:{server.port}?ca={tmp_path}/ca.pem&cert={tmp_path}/ca.pem&key={tmp_path}/key.pem"
        registry = Registry.open(url, allow_loopback=True)
        async with registry.register(Instance("payments", port=1)) as one, registry.watch("payments") as watch:
            assert one.registered
            await eventually(lambda: len(ids(watch.snapshot)) == 1)
        for wrong in (f"ca={tmp_path}/ca.pem", "tls=true", "tls=false"):
            with pytest.raises(RegistryUnavailable):
                await Registry.open(f"etcd://127.0.0.1:{server.port}?{wrong}").services()

    with etcd(tmp_path, tls=True) as server:
        asyncio.run(scenario(server))
