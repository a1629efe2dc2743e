"""A real Envoy while what tells it goes, comes back, or is told nonsense."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.gateway.kit import Backend, backend, certificates, free_port, load, services_file, until
from tests.gateway.test_ads_tls import XDS
from tests.gateway.test_orphans import orphan
from tests.gateway.test_real_envoy import config, get

from seawall.cli import main as command
from seawall.gateway import EnvoyBroken, Gateway
from seawall.gateway.envoy import Envoy, binary
from seawall.testing.servers import RedisServer

pytestmark = pytest.mark.xdist_group("envoy")


async def _is(value: bool) -> bool:
    return value


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
async def test_an_envoy_elsewhere_comes_back_to_a_control_plane_that_was_started_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet that must be restarted after each release of its control plane is worse off than without one."""
    monkeypatch.setattr("seawall.gateway.gateway.check_ports", lambda *_: None)  # the two play two machines: both have the door
    certificates(tmp_path, "gateway", "envoy")
    async with backend("old") as old, backend("new") as new:
        services_file(tmp_path / "services.toml", "stock", old.port)
        path = config(tmp_path, free_port())
        path.write_text(path.read_text() + XDS.format(xds=free_port()))
        assert command(["gateway", "bootstrap", str(path), "localhost"]) == 0
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        told = json.loads(capsys.readouterr().out)
        other = Envoy(binary(), told, folder, drain=1.0, workers=1, tell=lambda *_, **__: None, file_bytes=1 << 26)

        async def routes_to(one: Backend) -> bool:
            return f"stock::127.0.0.1:{one.port}::" in (await other.admin.ask("/clusters"))[1]

        try:
            async with Gateway(path):
                await other.start()
                assert await routes_to(old)
            assert await routes_to(old)
            services_file(tmp_path / "services.toml", "stock", new.port)
            async with Gateway(path):
                await until(lambda: routes_to(new), 45)
                assert not await routes_to(old)
                services_file(tmp_path / "services.toml", "stock", new.port, old.port)
                await until(lambda: routes_to(old))
        finally:
            await other.stop()


@contextmanager
def running(path: Path, places: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`seawall gateway` as a process; its output is in `out`."""
    words = [sys.executable, "-m", "seawall", "gateway", str(path), "--folder", str(places / "envoy")]
    with (places / "out").open("wb") as out:
        control = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        yield control
        control.send_signal(signal.SIGTERM)
        assert control.wait(30) == 0
    finally:
        control.kill()
        control.wait(10)


async def test_a_bad_file_on_sighup_changes_nothing_and_a_good_one_does(tmp_path: Path) -> None:
    """Operators send SIGHUP at night; a slip of theirs must cost them a message, not the service."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        good = path.read_text()

        async def says(text: str) -> bool:
            return text in (tmp_path / "out").read_text()

        with running(path, tmp_path) as control:
            await until(lambda: says("gateway.started"), 40)
            async with load(f"http://127.0.0.1:{port}/") as asking:
                for bad, told in (
                    ("[[routes", "it is no TOML"),
                    (good.replace('to = "stock"', 'to = "stok"'), "did you mean 'stock'"),
                ):
                    path.write_text(bad)
                    control.send_signal(signal.SIGHUP)
                    await until(lambda told=told: says(told))
                    before = asking.asked
                    await until(lambda before=before: _is(asking.asked > before + 50))
                assert await says("the last good configuration holds")
                assert not asking.failed, asking.failed
                path.write_text(good + '[[routes]]\npath = "/gone"\nto = "stock"\nfault = { abort = 1.0, status = 410 }\n')
                path.write_text(path.read_text().replace('[[routes]]\nto = "stock"\n', "", 1))
                control.send_signal(signal.SIGHUP)
                await until(lambda: _answers(port, "/gone", 410))


async def _answers(port: int, path: str, status: int) -> bool:
    return (await get(port, path))[0] == status


@pytest.mark.parametrize(("outage", "status"), [("open", 200), ("closed", 500)])
async def test_without_the_answer_of_the_limiter_requests_pass_or_not_as_the_file_says(
    tmp_path: Path, outage: str, status: int
) -> None:
    """Whether a limit protects a service or only shares it fairly decides what its outage should do."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port, route='limits = ["all"]')
        limit = f'[rate_limits]\noutage = "{outage}"\ntimeout = "2s"\n[rate_limits.limits.all]\nlimit = "2/h"\n'
        path.write_text(path.read_text() + limit)
        with orphan(path, tmp_path / "envoy", tmp_path):
            assert [(await get(port))[0] for _ in range(3)] == [status] * 3  # its limiter died with the gateway


async def test_gateways_on_one_store_count_together(tmp_path: Path) -> None:
    """A limit of a user is one limit, through whichever door the requests come."""
    with RedisServer() as server:
        ports = [free_port(), free_port()]
        async with backend("one") as one:
            gateways = []
            for number, port in enumerate(ports):
                folder = tmp_path / str(number)
                folder.mkdir()
                services_file(folder / "services.toml", "stock", one.port)
                path = config(folder, port, route='limits = ["user"]')
                limits = f'[rate_limits]\nstore = "{server.url}"\ntimeout = "10s"\n'
                path.write_text(f'{path.read_text()}{limits}[rate_limits.limits.user]\nlimit = "4/h"\nby = "header:x-user"\n')
                gateways.append(Gateway(path))
            async with gateways[0], gateways[1]:
                codes = [(await get(ports[number % 2], headers={"x-user": "ann"}))[0] for number in range(6)]
                assert codes == [200] * 4 + [429] * 2
                assert (await get(ports[0], headers={"x-user": "bob"}))[0] == 200


async def test_a_store_that_hangs_is_answered_for_in_time(tmp_path: Path) -> None:
    """Envoy waits only so long; a limiter that spends all of it on its store turns each outage of the store into one of all."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port, route='limits = ["all"]')
        with RedisServer() as server:
            limits = f'[rate_limits]\nstore = "{server.url}"\noutage = "closed"\ntimeout = "4s"\n'
            path.write_text(f'{path.read_text()}{limits}[rate_limits.limits.all]\nlimit = "1000/h"\n')
            async with Gateway(path):
                assert (await get(port))[0] == 200
                server.pause()
                assert [(await get(port))[0] for _ in range(5)] == [200] * 5
                server.resume()


def test_an_envoy_of_another_machine_is_told_before_it_is_started(tmp_path: Path) -> None:
    """ "Exec format error" is what the system would say, and nobody would know of what."""
    ours = platform.machine().lower()
    other, code = ("aarch64", 0xB7) if ours in ("x86_64", "amd64") else ("x86_64", 0x3E)
    wrong = tmp_path / "envoy"
    wrong.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + code.to_bytes(2, "little") + bytes(44))
    wrong.chmod(0o755)
    path = config(tmp_path, free_port())
    path.write_text(f'{path.read_text()}[envoy]\nbinary = "{wrong}"\n')

    async def enter() -> None:
        async with Gateway(path, folder=tmp_path / "folder"):
            pass

    with pytest.raises(EnvoyBroken, match=rf"envoy is made for {other}; this machine is {platform.machine()}"):
        asyncio.run(enter())
    with open(binary(), "rb") as real:
        wrong.write_bytes(real.read(64))
    wrong.chmod(0o644)
    if os.geteuid() != 0 or not os.access(wrong, os.X_OK):
        with pytest.raises(EnvoyBroken, match="may not be executed"):
            asyncio.run(enter())
