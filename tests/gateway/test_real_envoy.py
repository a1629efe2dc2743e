"""The gateway with a real Envoy out of its wheel: routed, re-routed, restarted, rejected."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from tests.gateway.kit import backend, free_port, load, services_file, until

from seawall.core.errors import ConfigError
from seawall.core.events import Event
from seawall.gateway import EnvoyBroken, Gateway, retry_headers

pytestmark = pytest.mark.xdist_group("envoy")


def config(folder: Path, port: int, route: str = "", more: str = "") -> Path:
    """A gateway of one service of a registry file."""
    path = folder / "gateway.toml"
    path.write_text(
        f'registry = "static:services.toml?poll=50ms"\n[listeners.web]\nport = {port}\n[services.stock]\n{more}\n'
        f'[[routes]]\nto = "stock"\n{route}\n'
    )
    return path


async def get(port: int, path: str = "/", **more: object) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}", **more) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("control", ["file", "ads"])
async def test_a_change_of_the_registry_reaches_envoy_without_a_failed_request(tmp_path: Path, control: str) -> None:
    """This is what the gateway is for: whoever the registry names gets the requests, and nobody notices the change."""
    port = free_port()
    async with backend("old") as old, backend("new") as new:
        services_file(tmp_path / "services.toml", "stock", old.port)
        path = config(tmp_path, port)
        path.write_text(path.read_text() + f'[envoy]\ncontrol = "{control}"\n')
        async with Gateway(path) as gateway, load(f"http://127.0.0.1:{port}/") as asking:
            await until(lambda: _is(asking.seen["old"] > 20))
            published = asyncio.Event()
            gateway.subscribe(lambda event: published.set() if event.kind == "gateway.published" else None)
            for number in range(6):
                name, one = (("new", new), ("old", old))[number % 2]
                published.clear()
                services_file(tmp_path / "services.toml", "stock", one.port)
                await published.wait()
                before = asking.seen[name]
                took = await until(lambda before=before, name=name: _is(asking.seen[name] > before))
                print(f"re-routed in {took * 1000:.0f} ms")
                assert took < 2
                await until(lambda before=before, name=name: _is(asking.seen[name] > before + 40))  # none of before is under way
    assert not asking.failed, asking.failed


async def _is(value: bool) -> bool:
    return value


async def test_an_envoy_that_is_killed_comes_back(tmp_path: Path) -> None:
    """A data plane that stays dead after one crash would take every service with it."""
    port = free_port()
    events: list[Event] = []
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        async with Gateway(config(tmp_path, port)) as gateway:
            gateway.subscribe(events.append)
            assert gateway.envoy is not None
            assert gateway.envoy.pid is not None
            os.kill(gateway.envoy.pid, signal.SIGKILL)
            await until(lambda: _is(any(event.kind == "gateway.envoy_restarted" for event in events)), 40)
            assert await get(port) == (200, "one")


async def test_a_bad_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    """An operator's slip at night must not take a running gateway down."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        async with Gateway(path) as gateway:
            path.write_text("[listeners.web]\nport = 'x'\n")
            with pytest.raises(ConfigError, match=r"gateway\.toml:2: .*port must be"):
                await gateway.reload()
            assert await get(port) == (200, "one")
            config(tmp_path, port, route='path = "/moved"')
            await gateway.reload()
            await until(lambda: _answers(port, "/", 404))
            assert await get(port, "/moved/x") == (200, "one")


async def test_a_service_that_gives_way_to_another_fails_no_request(tmp_path: Path) -> None:
    """A cluster that goes before its routes do would answer 503; and what cannot change while it runs is refused."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        text = path.read_text()
        async with Gateway(path) as gateway, load(f"http://127.0.0.1:{port}/") as asking:
            await until(lambda: _is(asking.asked > 20))
            renamed = text.replace("[services.stock]", '[services.store]\nservice = "stock"').replace(
                'to = "stock"', 'to = "store"'
            )
            path.write_text(renamed)
            await gateway.reload()
            await until(lambda: _is(set(gateway.resources.clusters) == {"store"}))
            before = asking.asked
            await until(lambda: _is(asking.asked > before + 200))
            path.write_text(renamed + "[envoy]\nworkers = 2\n")
            with pytest.raises(ConfigError, match="start it anew"):
                await gateway.reload()
        assert not asking.failed, asking.failed


async def _answers(port: int, path: str, status: int) -> bool:
    return (await get(port, path))[0] == status


async def test_what_envoy_rejects_is_told_in_its_words_and_the_last_good_holds(tmp_path: Path) -> None:
    """A resource that Envoy refuses would otherwise be a silent difference between what we say and what it does."""
    port = free_port()
    events: list[Event] = []
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        async with Gateway(config(tmp_path, port), folder=tmp_path / "envoy") as gateway:
            gateway.subscribe(events.append)
            async with load(f"http://127.0.0.1:{port}/") as asking:
                folder = tmp_path / "envoy" / "xds" / "endpoints"
                text = (folder / "stock.json").read_text().replace("127.0.0.1", "no address")
                (folder / "bad.new").write_text(text)
                (folder / "bad.new").replace(folder / "stock.json")
                await until(lambda: _is(any(event.kind == "gateway.rejected" for event in events)))
            assert not asking.failed, asking.failed
            assert asking.asked > 10
    told = next(event for event in events if event.kind == "gateway.rejected")
    assert "no address" in str(told.data["complaints"]), told


async def test_a_port_in_use_and_a_missing_envoy_are_told_at_once(tmp_path: Path) -> None:
    """These two are what people meet first."""
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        with pytest.raises(EnvoyBroken, match=rf"listeners\.web: 127\.0\.0\.1:{one.port} cannot be opened"):
            async with Gateway(config(tmp_path, one.port)):
                pass
        path = config(tmp_path, free_port())
        path.write_text(path.read_text() + '[envoy]\nbinary = "/nowhere/envoy"\n')
        with pytest.raises(EnvoyBroken, match="there is no Envoy at /nowhere/envoy"):
            async with Gateway(path):
                pass


async def test_an_ads_envoy_that_refuses_keeps_the_last_good_and_says_why(tmp_path: Path) -> None:
    """The text of a NACK is all that an operator has to go by, and traffic must not notice."""
    port = free_port()
    events: list[Event] = []
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        path.write_text(path.read_text() + '[envoy]\ncontrol = "ads"\n')
        async with Gateway(path) as gateway:
            gateway.subscribe(events.append)
            async with load(f"http://127.0.0.1:{port}/") as asking:
                await until(lambda: _is(asking.asked > 20))
                good = gateway.resources
                text = json.dumps(good.endpoints["stock"]).replace("127.0.0.1", "no address")
                gateway.ads.publish(replace(good, endpoints={"stock": json.loads(text)}))
                await until(lambda: _is(any(event.kind == "gateway.rejected" for event in events)))
                gateway.ads.publish(good)
            assert not asking.failed, asking.failed
            assert await get(port) == (200, "one")
    told = next(event for event in events if event.kind == "gateway.rejected")
    assert "no address" in str(told.data["complaints"]), told


async def test_a_global_limit_is_answered_by_our_limiter(tmp_path: Path) -> None:
    """One limit over a fleet of Envoys exists only where all of them ask the same counter."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port, route='limits = ["user"]')
        path.write_text(
            path.read_text() + '[rate_limits]\ntimeout = "2s"\n[rate_limits.limits.user]\nlimit = "3/h"\nby = "header:x-user"\n'
        )
        async with Gateway(path):
            codes = [(await get(port, headers={"x-user": "ann"}))[0] for _ in range(5)]
            assert codes == [200, 200, 200, 429, 429]
            assert (await get(port, headers={"x-user": "bob"}))[0] == 200


async def test_the_policies_of_a_pipeline_hold_in_envoy(tmp_path: Path) -> None:
    """The same table drives a pipeline and Envoy: a retry saves a GET, not a POST; trusted callers can forbid it."""
    port = free_port()
    async with backend("one") as one, backend("two") as two:
        services_file(tmp_path / "services.toml", "stock", one.port, two.port)
        path = config(tmp_path, port, route='pipeline = "stock"', more="ejection = false")
        text = path.read_text().replace(f"port = {port}", f'port = {port}\ntrusted = ["127.0.0.0/8"]')
        path.write_text(
            text + '[pipelines.stock]\npolicies = [{ timeout = "5s" }, { retry = { attempts = 3 } }, { timeout = "1s" }]\n'
        )
        async with Gateway(path), aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/"

            async def ask(method: str, headers: dict[str, str]) -> int:
                one.statuses, two.statuses = [503], [503]
                for _ in range(4):
                    async with session.request(method, url, headers=headers) as answer:
                        if answer.status != 200:
                            return answer.status
                return 200

            assert await ask("GET", {}) == 200
            assert await ask("POST", {}) == 503
            assert await ask("GET", retry_headers(retries=True)) == 503


@pytest.mark.soak
@pytest.mark.parametrize(("control", "goal"), [("file", 0.3), ("ads", 0.1)])
async def test_changes_are_routed_within_the_goal(tmp_path: Path, control: str, goal: float) -> None:
    """The goal names the 99th of a hundred changes, under load, from the publishing to the first answer of the new instance."""
    port = free_port()
    took: list[float] = []
    async with backend("old") as old, backend("new") as new:
        services_file(tmp_path / "services.toml", "stock", old.port)
        path = config(tmp_path, port)
        path.write_text(path.read_text() + f'[envoy]\ncontrol = "{control}"\n')
        async with Gateway(path) as gateway, load(f"http://127.0.0.1:{port}/") as asking:
            await until(lambda: _is(asking.seen["old"] > 20))
            published = asyncio.Event()
            gateway.subscribe(lambda event: published.set() if event.kind == "gateway.published" else None)
            for number in range(100):
                name, one = (("new", new), ("old", old))[number % 2]
                published.clear()
                services_file(tmp_path / "services.toml", "stock", one.port)
                await published.wait()
                before = asking.seen[name]
                took.append(await until(lambda before=before, name=name: _is(asking.seen[name] > before)))
                await until(lambda before=before, name=name: _is(asking.seen[name] > before + 40))
    took.sort()
    print(f"{control}: p50 {took[50] * 1000:.0f} ms, p99 {took[98] * 1000:.0f} ms, {asking.asked} asked")
    assert not asking.failed
    assert took[98] <= goal
