"""Each request through a real Envoy becomes an event, and the file that tells of them stays small."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.kit import backend, free_port, load, services_file, until
from tests.gateway.test_real_envoy import config, get

from seawall.core.events import Event
from seawall.gateway import Gateway
from seawall.gateway import access_log as module
from seawall.gateway.access_log import AccessLog, read

pytestmark = pytest.mark.xdist_group("envoy")
LINE = b'{"status":200,"took_ms":12,"attempts":2,"flags":"UF,URX","cluster":"stock|slow","route":"route-0"}\n'


async def _is(value: bool) -> bool:
    return value


def requests(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind == "gateway.request"]


async def test_a_request_is_an_event_with_all_that_envoy_knows_of_it(tmp_path: Path) -> None:
    """Who looks for a slow or repeated request looks where all other events are, not into a file on some machine."""
    port = free_port()
    events: list[Event] = []
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port, 'pipeline = "stock"')
        retry = "[pipelines.stock]\npolicies = [{ retry = { attempts = 3, backoff = { base = '10ms' } } }]\n"
        path.write_text(f"{path.read_text()}[access_log]\n{retry}")
        async with Gateway(path, folder=tmp_path / "envoy") as gateway:
            gateway.subscribe(events.append)
            one.statuses, one.takes = [503], 0.05
            assert (await get(port, "/first"))[0] == 200
            one.statuses = [503] * 3
            assert (await get(port, "/second"))[0] == 503
            await until(lambda: _is(len(requests(events)) == 2))
            one.takes = 0.0
            assert (await get(port, "/last"))[0] == 200
    first, second, last = requests(events)
    assert {**first.data} == {
        "listener": "web",
        "route": "route-0",
        "method": "GET",
        "status": 200,
        "flags": (),
        "service": "stock",
        "upstream": f"127.0.0.1:{one.port}",
        "retries": 1,
    }
    assert first.took is not None
    assert 0.1 <= first.took < 5
    assert (second.data["status"], second.data["flags"], second.data["retries"]) == (503, ("URX",), 2)
    assert last.data["status"] == 200


async def test_the_log_is_put_away_under_load_and_no_request_is_told_twice_or_never(tmp_path: Path) -> None:
    """A log that fills the disk takes the machine with it, and one that loses requests proves nothing."""
    port = free_port()
    events: list[Event] = []
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        path.write_text(f"{path.read_text()}[access_log]\nsize_bytes = 65536\n")
        folder = tmp_path / "envoy"
        async with Gateway(path, folder=folder) as gateway:
            gateway.subscribe(events.append)
            async with load(f"http://127.0.0.1:{port}/") as asking:
                await until(lambda: _is((folder / "access.log.1").exists()), 60)
                first = (folder / "access.log.1").stat().st_ino
                await until(lambda: _is((folder / "access.log.1").stat().st_ino != first), 60)
    assert asking.seen.total() <= len(requests(events)) <= asking.seen.total() + asking.callers  # cut ones are told as well
    assert sum(each.stat().st_size for each in folder.glob("access.log*")) < 4 * 65536


async def test_an_envoy_that_nobody_minds_stops_writing_and_goes_on_serving(tmp_path: Path) -> None:
    """When the gateway was killed nobody puts the log away; the disk must not fill, nor the service end."""
    port = free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = config(tmp_path, port)
        path.write_text(f"{path.read_text()}[access_log]\nsize_bytes = 65536\n")
        log = tmp_path / "envoy" / "access.log"
        async with Gateway(path, folder=tmp_path / "envoy") as gateway:
            assert gateway.envoy is not None
            assert gateway.envoy.pid is not None
            for task in gateway._tasks:
                task.cancel()
            resource.prlimit(gateway.envoy.pid, resource.RLIMIT_FSIZE, (65536, 65536))
            async with load(f"http://127.0.0.1:{port}/") as asking:
                await until(lambda: _is(log.exists() and log.stat().st_size == 65536), 60)
                before = asking.asked
                await until(lambda: _is(asking.asked > before + 500), 60)
            assert log.stat().st_size == 65536
            assert not asking.failed
            assert gateway.envoy.restarts == 0


async def test_envoy_is_started_with_a_limit_of_its_files(tmp_path: Path) -> None:
    """The limit must hold from the start: nobody can set it once the gateway was killed."""
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        async with Gateway(config(tmp_path, free_port()), access_log=True) as gateway:
            assert gateway.envoy is not None
            assert gateway.envoy.pid is not None
            most = module.DRAINS * gateway.config.log_bytes
            assert resource.prlimit(gateway.envoy.pid, resource.RLIMIT_FSIZE) == (most, most)
            ignored = int(Path(f"/proc/{gateway.envoy.pid}/status").read_text().split("SigIgn:")[1].split()[0], 16)
            assert ignored & (1 << (signal.SIGXFSZ - 1))


def told(path: Path, size_bytes: int = 1 << 20) -> tuple[AccessLog, list[tuple[str, dict[str, Any]]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    return AccessLog(path, lambda kind, **data: found.append((kind, data)), size_bytes), found


async def test_what_an_earlier_gateway_logged_is_not_told_again(tmp_path: Path) -> None:
    """A restart must not look like a burst of requests."""
    path = tmp_path / "access.log"
    path.write_bytes(LINE * 3)
    log, found = told(path)
    await log.look()
    assert found == []
    with path.open("ab") as file:
        file.write(LINE + LINE[:20])
        file.flush()
        await log.look()
        assert len(found) == 1
        file.write(LINE[20:])
        file.flush()
        await log.look()
    assert len(found) == 2
    log.close()
    told(path, size_bytes=100)
    assert not path.exists()
    assert (tmp_path / "access.log.1").exists()


async def test_a_log_that_grows_faster_than_it_is_read_is_skipped_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a backlog line by line would take the time that the newest requests need; a silent gap would be a lie."""
    monkeypatch.setattr(module, "MOST_BEHIND", 10 * module.CHUNK)
    path = tmp_path / "access.log"
    path.touch()
    log, found = told(path)
    path.write_bytes(LINE * (20 * module.CHUNK // len(LINE)))
    await log.look()
    log.close()
    assert found[0][0] == "gateway.requests_skipped"
    assert found[0][1]["bytes"] >= 18 * module.CHUNK
    assert {kind for kind, _ in found[1:]} == {"gateway.request"}
    assert len(found) - 1 >= module.CHUNK // len(LINE) - 1


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'"x"', b'{"status":"x"}', b'{"attempts":[]}', b"\xff\xfe"])
def test_a_line_that_is_not_whole_is_left_out(line: bytes) -> None:
    """A disk that was full leaves half a line, which must not end the reading of the next."""
    assert read(line) in (None, read(b"{}"))


def test_a_line_is_read_as_people_and_tools_need_it() -> None:
    """Attempts are counted as retries, milliseconds as seconds, and the cluster as the service that the file names."""
    found = read(LINE)
    assert found is not None
    assert (found["retries"], found["took"], found["service"], found["flags"]) == (1, 0.012, "stock", ("UF", "URX"))
    assert read(json.dumps({"status": 0, "flags": "DC", "upstream": None, "attempts": 0}).encode()) is not None


async def test_a_file_that_nobody_opened_again_is_asked_for_again(tmp_path: Path) -> None:
    """The admin port may be silent in the very moment of the change; the old file must be read on until there is a new one."""
    path = tmp_path / "access.log"
    path.touch()
    log, found = told(path, size_bytes=len(LINE))
    asked: list[str] = []

    class Silent:
        async def ask(self, path: str, _method: str) -> None:
            asked.append(path)
            if len(asked) == 1:
                raise OSError("nobody there")

    with path.open("ab") as file:
        file.write(LINE)
        file.flush()
        reader = asyncio.create_task(log.follow(Silent))  # type: ignore[arg-type]
        await until(lambda: _is(len(asked) >= 2))
        file.write(LINE)
    await until(lambda: _is(len(found) == 2))
    path.write_bytes(LINE[: -len(LINE) // 2])
    os.utime(path)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await log.look()
    log.close()
    assert len(found) == 2
