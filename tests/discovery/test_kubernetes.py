"""EndpointSlices by list and watch. A real cluster cannot be had here: a server of ours speaks the documented protocol, and is
ruder than a real one."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import eventually, ids, silent
from tests.discovery.kube import ApiServer, endpoint, slice_of
from tests.discovery.servers import certificate

from seawall.discovery import Instance, ReadOnlyRegistry, Registry, RegistryUnavailable
from seawall.discovery.registries import kubernetes


def opened(server: ApiServer, query: str = "", **options: Any) -> Registry:
    """A registry on it."""
    settings: dict[str, Any] = {"watchdog": 1, "call_timeout": 1, "probe": silent} | options
    return Registry.open(f"kubernetes://default?api=127.0.0.1:{server.port}&tls=false{query}", **settings)


def test_endpoints_that_come_terminate_and_go_are_seen(tmp_path: Path) -> None:
    """What the readiness probes say must reach the callers, the state of leaving included."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=False)))
            await server.put(slice_of("stock", "s-1", endpoint("10.0.9.9")))
            registry = opened(server)
            assert await registry.services() == ("payments", "stock")
            async with registry.watch("payments") as watch:
                first = await watch.first(5)
                assert [(one.id, one.state, one.zone) for one in first.instances] == [
                    ("10.0.0.1:8001", "ready", "a"),
                    ("10.0.0.2:8001", "starting", "a"),
                ]
                assert first.instances[0].metadata == {"pod": "pod-10-0-0-1", "pod_uid": "uid-10.0.0.1", "node": "n1"}
                leaving = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
                await server.put(slice_of("payments", "p-1", leaving, endpoint("10.0.0.2")))
                await eventually(lambda: [one.state for one in watch.snapshot.instances] == ["draining", "ready"], 5)
                await server.put(slice_of("payments", "p-1", endpoint("10.0.0.2")))
                await eventually(lambda: ids(watch.snapshot) == ["10.0.0.2:8001"] and not watch.snapshot.held, 5)
            assert (server.lists, server.watches) == (2, 1)

    asyncio.run(scenario())


def test_slices_are_merged_and_endpoints_counted_once() -> None:
    """A service with 101 pods has two slices; while they are balanced, and with two address families, some are named twice."""

    async def scenario() -> None:
        async with ApiServer(page=1) as server:
            six = endpoint("10.0.0.1") | {"addresses": ["fd00::1"]}
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2")))
            await server.put(slice_of("payments", "p-2", endpoint("10.0.0.1"), endpoint("10.0.0.3")))
            await server.put(slice_of("payments", "p-6", six, kind="IPv6"))
            await server.put(slice_of("payments", "p-7", endpoint("10.0.0.7"), port=None))
            snapshot = await opened(server).list("payments")
            assert ids(snapshot) == ["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001"]
            assert (await opened(server, "&port=grpc").list("payments")).instances == ()
            assert server.lists == 8

    asyncio.run(scenario())


def test_a_version_that_is_too_old_leads_to_a_new_list() -> None:
    """410 is normal business of the API: whoever retries it watches nothing for ever."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            async with opened(server, watchdog=60).watch("payments") as watch:
                await eventually(lambda: server.watches == 1)
                await server.put(slice_of("other", "o-1", endpoint("10.0.0.8")))
                await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
                await server.compact()
                await server.put(slice_of("payments", "p-1", endpoint("10.0.0.2"), endpoint("10.0.0.3")))
                await server.cut()
                await eventually(lambda: ids(watch.snapshot) == ["10.0.0.2:8001", "10.0.0.3:8001"], 10)
                await server.compact()
                server.version += 50
                await server.compact()
                await server.cut()
                await eventually(lambda: server.watches >= 3, 10)
                await server.put(slice_of("payments", "p-1", endpoint("10.0.0.3")))
                await eventually(lambda: ids(watch.snapshot) == ["10.0.0.3:8001"], 10)

    asyncio.run(scenario())


def test_bookmarks_move_the_place_on_so_that_a_new_watch_need_not_list() -> None:
    """Without them a quiet service would be listed anew after every pause."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            registry = opened(server)
            backend = registry._kind(registry._place, registry.clock)
            listing = await backend.list("payments")
            follow = backend.follow("payments", listing)
            waiting = asyncio.ensure_future(anext(follow))
            await eventually(lambda: server.watches == 1)
            await server.bookmark()
            assert await asyncio.wait_for(waiting, 5) is listing
            assert listing.cursor.version == str(server.version)
            await follow.aclose()
            await backend.close()

    asyncio.run(scenario())


def test_watches_that_end_abruptly_over_and_over_lose_nothing() -> None:
    """API servers are rolled; each roll ends all watches, some in the middle of a line."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            seen: set[int] = set()
            async with opened(server, watchdog=60).watch("payments") as watch:
                await watch.first(5)
                watch.subscribe(lambda snapshot: seen.add(len(snapshot.ready)))
                for number in range(2, 8):
                    await server.cut()
                    await server.put(slice_of("payments", "p-1", *(endpoint(f"10.0.0.{n}") for n in range(1, number + 1))))
                    await eventually(lambda wanted=number: len(ids(watch.snapshot)) == wanted, 15)
            assert min(seen) >= 1

    asyncio.run(scenario())


def test_a_frozen_api_server_is_noticed() -> None:
    """A load balancer before the API server can hold a dead connection open for ever."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            async with opened(server).watch("payments") as watch:
                await eventually(lambda: server.watches == 1)
                server.frozen = True
                await eventually(lambda: watch.snapshot.source == "stale", 10)
                assert len(ids(watch.snapshot)) == 1
                server.frozen = False
                await server.put(slice_of("payments", "p-1", endpoint("10.0.0.2"), endpoint("10.0.0.3")))
                await eventually(lambda: watch.snapshot.source == "live" and len(ids(watch.snapshot)) == 2, 10)

    asyncio.run(scenario())


def test_a_watch_that_says_nothing_though_things_change_is_replaced() -> None:
    """The worst watch is one that lives and tells nothing: only asking beside it finds out."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            registry = opened(server)
            kinds: list[str] = []
            registry.subscribe(lambda event: kinds.append(event.kind))
            async with registry.watch("payments") as watch:
                await eventually(lambda: server.watches == 1)
                server.slices["p-1"] = slice_of("payments", "p-1", endpoint("10.0.0.1"), endpoint("10.0.0.2"))  # without an event
                await eventually(lambda: len(ids(watch.snapshot)) == 2, 10)
                await eventually(lambda: server.watches == 2, 10)
            assert "registry.frozen" in kinds

    asyncio.run(scenario())


def test_token_and_ca_are_used_and_the_token_is_read_anew(tmp_path: Path) -> None:
    """Tokens of service accounts are renewed about hourly; a client that keeps the first one is locked out."""
    certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")

    async def scenario() -> None:
        async with ApiServer(token="one", context=context) as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            (tmp_path / "token").write_text("one\n")
            url = f"kubernetes://default?api=127.0.0.1:{server.port}&ca={tmp_path}/ca.pem&token_file={tmp_path}/token"
            registry = Registry.open(url)
            assert len((await registry.list("payments")).ready) == 1
            server.token = "two"
            with pytest.raises(RegistryUnavailable, match="Unauthorized"):
                await registry.list("payments")
            (tmp_path / "token").write_text("two\n")
            assert len((await registry.list("payments")).ready) == 1
            stranger = Registry.open(f"kubernetes://default?api=127.0.0.1:{server.port}", token="two")
            with pytest.raises(RegistryUnavailable, match="CERTIFICATE"):
                await stranger.list("payments")

    asyncio.run(scenario())


def test_a_watch_that_ended_in_time_goes_on_without_a_list() -> None:
    """Every watch ends after some minutes; to list ten thousand slices each time would be a storm made by clients."""

    async def scenario() -> None:
        async with ApiServer() as server:
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            async with opened(server, watchdog=60).watch("payments") as watch:
                await eventually(lambda: server.watches == 1)
                await server.finish()
                await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
                await eventually(lambda: len(ids(watch.snapshot)) == 2, 10)
                assert (server.lists, server.watches) == (1, 2)

    asyncio.run(scenario())


def test_in_a_pod_everything_is_found_where_kubernetes_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kubernetes://` alone must do inside a cluster."""
    ca, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca, key)
    for name, text in (("ca.crt", ca.read_text()), ("token", "t\n"), ("namespace", "default\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kubernetes, "SECRETS", tmp_path)

    async def scenario() -> None:
        async with ApiServer(token="t", context=context) as server:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
            await server.put(slice_of("payments", "p-1", endpoint("10.0.0.1")))
            assert ids(await Registry.open("kubernetes://").list("payments")) == ["10.0.0.1:8001"]

    asyncio.run(scenario())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a pod, or without the role, the message must name the remedy."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(RegistryUnavailable, match="api=HOST:PORT"):
        Registry.open("kubernetes://default").list_sync("payments")
    with pytest.raises(ValueError, match="names a namespace"):
        Registry.open("kubernetes://default:6443")
    with pytest.raises(ReadOnlyRegistry, match="readiness probes"):
        Registry.open("kubernetes://default").register(Instance("payments", host="10.0.0.1", port=1))

    async def forbidden() -> None:
        async with ApiServer() as server:
            registry = Registry.open(f"kubernetes://elsewhere?api=127.0.0.1:{server.port}&tls=false")
            with pytest.raises(RegistryUnavailable, match="endpointslices is forbidden"):
                await registry.list("payments")

    asyncio.run(forbidden())
