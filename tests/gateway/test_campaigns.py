"""Traffic through a real Envoy while instances are killed and rolled, and while the control plane is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.gateway.kit import free_port, load, services_file, until

from seawall.gateway import Gateway

pytestmark = pytest.mark.xdist_group("envoy")
SERVE = Path(__file__).with_name("serve.py")


class Fleet:
    """Instances that are processes."""

    def __init__(self) -> None:
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self) -> int:
        port = free_port()
        self.running[port] = subprocess.Popen([sys.executable, str(SERVE), str(port)])
        await until(lambda: self._listens(port))
        return port

    async def _listens(self, port: int) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    def end(self, port: int, number: int) -> None:
        child = self.running.pop(port)
        child.send_signal(number)
        child.wait(20)


@contextmanager
def fleet() -> Iterator[Fleet]:
    found = Fleet()
    try:
        yield found
    finally:
        for port in list(found.running):
            found.end(port, signal.SIGKILL)


def gateway_file(folder: Path, port: int) -> Path:
    path = folder / "gateway.toml"
    path.write_text(
        f'registry = "static:services.toml?poll=50ms"\n[listeners.web]\nport = {port}\n[services.stock]\n'
        '[[routes]]\nto = "stock"\npipeline = "stock"\n'
        '[pipelines.stock]\npolicies = [{ timeout = "10s" }, { retry = { attempts = 3, backoff = { base = "10ms" } } }]\n'
    )
    return path


async def roll(tmp_path: Path, least: int) -> load:
    port = free_port()
    with fleet() as there:
        ports = [await there.start() for _ in range(3)]
        services_file(tmp_path / "services.toml", "stock", *ports)
        async with Gateway(gateway_file(tmp_path, port)), load(f"http://127.0.0.1:{port}/", callers=16) as asking:
            while asking.asked < least:
                for old in list(ports):
                    fresh = await there.start()
                    services_file(tmp_path / "services.toml", "stock", *ports, fresh, state={old: "draining"})
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(there.end, old, signal.SIGTERM)
                    ports = [*(each for each in ports if each != old), fresh]
                    services_file(tmp_path / "services.toml", "stock", *ports)
    return asking


async def test_rolling_three_instances_fails_no_request(tmp_path: Path) -> None:
    """Every release rolls every instance; each failed request would be one per release and customer."""
    asking = await roll(tmp_path, 500)
    print(f"rolled: {asking.asked} asked, failed {dict(asking.failed)}")
    assert not asking.failed


@pytest.mark.soak
async def test_rolling_under_ten_thousand_requests_fails_none(tmp_path: Path) -> None:
    """The same in the number that the goal names."""
    asking = await roll(tmp_path, 10_000)
    print(f"rolled: {asking.asked} asked, failed {dict(asking.failed)}")
    assert asking.asked >= 10_000
    assert not asking.failed


async def test_killing_one_of_three_fails_at_most_one_in_a_thousand(tmp_path: Path) -> None:
    """A killed instance stays in the registry until its time is over; ejection and retries have to bridge that."""
    port = free_port()
    with fleet() as there:
        ports = [await there.start() for _ in range(3)]
        services_file(tmp_path / "services.toml", "stock", *ports)
        async with Gateway(gateway_file(tmp_path, port)), load(f"http://127.0.0.1:{port}/", callers=16) as asking:
            await until(lambda: more(asking, 300))
            there.end(ports[0], signal.SIGKILL)
            await until(lambda: more(asking, 3000), 60)
    print(f"killed: {asking.asked} asked, failed {dict(asking.failed)}")
    assert asking.failed.total() <= asking.asked / 1000


async def more(asking: load, than: int) -> bool:
    return asking.asked > than


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.soak)])
@pytest.mark.parametrize("control", ["file", "ads"])
async def test_envoy_goes_on_while_the_control_plane_is_killed(
    tmp_path: Path, control: str, seconds: int, request: pytest.FixtureRequest
) -> None:
    """The gateway must not be one more thing whose death takes the service down."""
    if seconds > float(request.config.getoption("--seconds")):
        pytest.skip(f"a control plane that is away for {seconds} s needs --seconds {seconds}")
    port = free_port()
    with fleet() as there:
        services_file(tmp_path / "services.toml", "stock", await there.start())
        path = gateway_file(tmp_path, port)
        path.write_text(path.read_text() + f'[envoy]\ncontrol = "{control}"\n')
        words = [sys.executable, "-m", "seawall", "gateway", str(path), "--folder", str(tmp_path / "envoy")]
        with (tmp_path / "out").open("wb") as out:
            control_plane = subprocess.Popen(words, stdout=out, stderr=out)
        status = tmp_path / "envoy" / "status.json"
        await until(lambda: ready(status), 30)
        pid = json.loads(status.read_text())["pid"]
        try:
            async with load(f"http://127.0.0.1:{port}/") as asking:
                await until(lambda: more(asking, 50))
                control_plane.kill()
                control_plane.wait(10)
                before = asking.asked
                await asyncio.sleep(seconds)
                assert asking.asked > before + 7 * seconds
                print(
                    f"{control}: {seconds} s without control plane, {asking.asked - before} asked, {asking.failed.total()} failed"
                )
            assert not asking.failed, asking.failed
        finally:
            control_plane.kill()
            control_plane.wait(10)
            os.kill(pid, signal.SIGKILL)


async def ready(path: Path) -> bool:
    return path.exists() and json.loads(path.read_text())["admin"] is not None
