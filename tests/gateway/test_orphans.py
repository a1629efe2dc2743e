"""An Envoy that outlived its gateway gives way to the next one; a process that only has its number is left alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.gateway.kit import backend, free_port, load, services_file, until
from tests.gateway.test_real_envoy import config, get

from seawall.core.events import Event
from seawall.gateway import EnvoyBroken, Gateway
from seawall.gateway.envoy import BOOTSTRAP
from seawall.gateway.orphans import Home, abandoned, identity

pytestmark = pytest.mark.xdist_group("envoy")


async def _is(value: bool) -> bool:
    return value


def admin_of(status: Path) -> int | None:
    if not status.exists():
        return None
    found: int | None = json.loads(status.read_text())["admin"]
    return found


@contextmanager
def orphan(path: Path, folder: Path | None, places: Path) -> Iterator[int]:
    """The pid of an Envoy whose gateway was killed when it served. places: where temporary folders are made."""
    words = [sys.executable, "-m", "seawall", "gateway", str(path), *(() if folder is None else ("--folder", str(folder)))]
    with (places / "out").open("wb") as out:
        control = subprocess.Popen(words, stdout=out, stderr=out, env={**os.environ, "TMPDIR": str(places)})
    pid = 0
    try:
        for _ in range(600):
            found = list((folder or places).glob("status.json" if folder else "seawall-gateway-*/status.json"))
            if found and admin_of(found[0]) is not None:
                pid = int(json.loads(found[0].read_text())["pid"])
                break
            assert control.poll() is None, (places / "out").read_text()
            time.sleep(0.05)
        assert pid, "it did not start in time"
        control.kill()
        control.wait(10)
        yield pid
    finally:
        control.kill()
        control.wait(10)
        if pid and identity(pid) is not None:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("named", [True, False])
async def test_the_next_gateway_takes_over_without_a_failed_request(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever restarts a gateway that was killed wants it to serve, not to be told of a port in use."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port = free_port()
    folder = tmp_path / "envoy" if named else None
    events: list[Event] = []
    async with backend("old") as old, backend("new") as new:
        services_file(tmp_path / "services.toml", "stock", old.port)
        path = config(tmp_path, port)
        with orphan(path, folder, tmp_path) as pid:
            async with load(f"http://127.0.0.1:{port}/") as asking:
                await until(lambda: _is(asking.seen["old"] > 50))
                gateway = Gateway(path, folder=folder)
                gateway.subscribe(events.append)
                async with gateway:
                    assert identity(pid) is None
                    assert [event.data["pid"] for event in events if event.kind == "gateway.orphan_ended"] == [pid]
                    services_file(tmp_path / "services.toml", "stock", new.port)
                    await until(lambda: _is(asking.seen["new"] > 50))
                    assert not asking.failed, asking.failed
                    assert gateway.envoy is not None
                    home = gateway.envoy.folder
                    assert json.loads((home / "status.json").read_text())["pid"] == gateway.envoy.pid
    assert not (home / "status.json").exists()
    assert list(tmp_path.glob("seawall-gateway-*")) == []


async def test_an_orphan_is_ended_first_where_two_cannot_share(tmp_path: Path) -> None:
    """An admin port that is named in the file has room for one Envoy only."""
    port, admin = free_port(), free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        path.write_text(f"{path.read_text()}[admin]\nport = {admin}\n")
        with orphan(path, tmp_path / "envoy", tmp_path) as pid:
            async with Gateway(path, folder=tmp_path / "envoy"):
                assert identity(pid) is None
                assert await get(port) == (200, "one")


async def test_an_orphan_of_a_takeover_that_was_killed_itself_is_found(tmp_path: Path) -> None:
    """Between the start of the new Envoy and the end of the old one there are two; whoever is killed then leaves both."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        with orphan(path, tmp_path / "envoy", tmp_path) as pid:
            status = tmp_path / "envoy" / "status.json"
            row = json.loads(status.read_text())
            status.write_text(json.dumps({**row, "pid": 2**22 - 1, "before": [row]}))
            async with Gateway(path, folder=tmp_path / "envoy"):
                assert identity(pid) is None
                assert json.loads(status.read_text())["before"] == []
                assert await get(port) == (200, "one")


async def test_an_orphan_that_hangs_is_ended_by_force(tmp_path: Path) -> None:
    """A stopped process answers no question and obeys no polite signal, and still has the port."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        with orphan(path, tmp_path / "envoy", tmp_path) as pid:
            os.kill(pid, signal.SIGSTOP)
            async with Gateway(path, folder=tmp_path / "envoy"):
                assert identity(pid) is None
                assert await get(port) == (200, "one")


async def test_an_orphan_serves_on_when_the_next_gateway_cannot_start(tmp_path: Path) -> None:
    """A bad upgrade must not take down what still works, and the one after it must find it again."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        good = path.read_text()
        bad = tmp_path / "not-envoy"
        bad.write_text("#!/bin/sh\nexit 3\n")
        bad.chmod(0o755)
        with orphan(path, tmp_path / "envoy", tmp_path) as pid:
            path.write_text(f'{good}[envoy]\nbinary = "{bad}"\n')
            with pytest.raises(EnvoyBroken, match="ended with status 3"):
                async with Gateway(path, folder=tmp_path / "envoy"):
                    pass
            assert await get(port) == (200, "one")
            assert json.loads((tmp_path / "envoy" / "status.json").read_text())["pid"] == pid
            path.write_text(good)
            async with Gateway(path, folder=tmp_path / "envoy"):
                assert identity(pid) is None
                assert await get(port) == (200, "one")


async def test_a_second_gateway_in_the_folder_of_a_living_one_is_refused(tmp_path: Path) -> None:
    """Two that write the same files would take turns in undoing each other."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        async with Gateway(path, folder=tmp_path / "envoy") as gateway:
            with pytest.raises(EnvoyBroken, match=r"another gateway runs in .*envoy; end it, or name another --folder"):
                async with Gateway(path, folder=tmp_path / "envoy"):
                    pass
            assert await get(port) == (200, "one")
            assert gateway.envoy is not None
            assert gateway.envoy.pid is not None
            assert gateway.envoy.restarts == 0


@pytest.mark.parametrize("alike", ["nothing", "the command line", "the beginning"])
async def test_a_process_that_only_has_the_number_is_never_touched(tmp_path: Path, alike: str) -> None:
    """The system gives numbers again; ending a stranger's process would be the worst thing that a restart could do."""
    folder = (tmp_path / "envoy").resolve()
    folder.mkdir()
    words = ["-c", str(folder / BOOTSTRAP), "--admin-address-path"] if alike == "the command line" else []
    stranger = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", *words], stdout=-1)
    try:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        known = identity(stranger.pid)
        assert known is not None
        began = known[0] if alike == "the beginning" else "12345"
        status = {"file": str(tmp_path / "gateway.toml"), "pid": stranger.pid, "began": began, "admin": 1, "before": [7, {}]}
        (folder / "status.json").write_text(json.dumps(status))
        port = free_port()
        async with backend("one") as one:
            services_file(tmp_path / "services.toml", "stock", one.port)
            async with Gateway(config(tmp_path, port), folder=folder):
                assert await get(port) == (200, "one")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)
        assert stranger.stdout is not None
        stranger.stdout.close()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": "x"}', '{"pid": true, "began": "1"}', '{"before": 3, "file": 4}'])
def test_a_status_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    """A machine that lost power leaves half a file; the gateway must start all the same."""
    (tmp_path / "status.json").write_text(text)
    home = Home(tmp_path)
    home.enter()
    assert home.before == ()
    home.leave()


def test_folders_of_others_are_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody may write to /tmp: what stands there is believed only if nobody else could have written it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "gateway.toml"
    for name, mode in (("mine", 0o700), ("open", 0o777)):
        folder = tmp_path / f"seawall-gateway-{name}"
        folder.mkdir()
        folder.chmod(mode)
        (folder / "status.json").write_text(json.dumps({"file": str(file)}))
    (tmp_path / "seawall-gateway-link").symlink_to(tmp_path / "seawall-gateway-mine")
    (tmp_path / "seawall-gateway-other").mkdir(mode=0o700)
    found = abandoned(file)
    assert [home.folder.name for home in found] == ["seawall-gateway-mine"]
    for home in found:
        home.leave()
    assert sorted(path.name for path in tmp_path.glob("seawall-*")) == [
        "seawall-gateway-link",
        "seawall-gateway-open",
        "seawall-gateway-other",
    ]


async def test_the_pid_of_an_envoy_that_was_started_again_is_written_down(tmp_path: Path) -> None:
    """After a crash the number of before leads to nobody, and the orphan of later would not be found."""
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        async with Gateway(config(tmp_path, free_port()), folder=tmp_path / "envoy") as gateway:
            assert gateway.envoy is not None
            assert gateway.envoy.pid is not None
            os.kill(gateway.envoy.pid, signal.SIGKILL)
            await until(lambda: _is(gateway.envoy is not None and gateway.envoy.restarts == 1), 40)
            told = json.loads((tmp_path / "envoy" / "status.json").read_text())
            assert (told["pid"], told["admin"]) == (gateway.envoy.pid, gateway.envoy.admin.port)
            await asyncio.sleep(0)
