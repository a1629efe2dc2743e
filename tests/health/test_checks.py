"""The ready-made checks against the real thing: databases, Redis, sockets, files; and what they say when it is gone."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import seawall as sw
from seawall.health import Health, Status, checks
from seawall.health import extras as health_extras
from seawall.health.check import Check, Group
from seawall.health.checks.machine import memory_share
from seawall.health.standing import CheckRule, Finding
from seawall.testing import VirtualClock

READY: Group = "ready"


def look(probe: Any, timeout: float = 5.0) -> Finding:
    """One run, as Health does it."""
    check = Check("it", probe, CheckRule(every=10, timeout=timeout), group=READY, critical=True)
    return asyncio.run(check.run(sw.SystemClock()))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- servers, each ended by its own pid


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on the PATH: install Debian's redis-server")
    port = closed_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL) as process:
        try:
            connectable(port)
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="seawall-postgres-") as home:  # beneath folders that the server's user may enter
        yield from run_postgres(Path(home))


def run_postgres(home: Path) -> Iterator[str]:
    homes = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    search = os.pathsep.join([*homes, os.environ.get("PATH", "")])
    initdb, postgres = shutil.which("initdb", path=search), shutil.which("postgres", path=search)
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL server programs: install Debian's postgresql")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            someone = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("running as root, and there is no user postgres to run the server as")
        user = {"user": someone.pw_uid, "group": someone.pw_gid, "extra_groups": []}
        os.chown(home, someone.pw_uid, someone.pw_gid)
    data = home / "data"
    subprocess.run(
        [initdb, "-D", str(data), "-U", "shop", "-A", "trust", "-N"], check=True, capture_output=True, cwd=home, **user
    )
    port = closed_port()
    command = [postgres, "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(home), "-c", "fsync=off"]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user) as process:
        try:
            connectable(port)
            yield f"postgresql://shop:hunter2@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()


def connectable(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < until, "the server did not start in time"
            time.sleep(0.05)


@pytest.fixture
def web() -> Iterator[Any]:
    """A little HTTP server: /ok, /moved, /broken, and a path that is no HTTP."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers.get('X-Key', '')}")
            status = {"/ok": 200, "/moved": 302, "/broken": 500}.get(self.path.partition("?")[0])
            if status is None:
                self.wfile.write(b"what?\r\n")
                return
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/ok")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_address[1]}", port=server.server_address[1], seen=seen)
        server.shutdown()
        thread.join()


# --- stores


def test_sqlite_passes_for_a_database_and_fails_without_making_one(tmp_path: Path) -> None:
    """A check that creates the missing file would report a lost volume as well."""
    path = tmp_path / "orders.db"
    probe = checks.sql(f"sqlite:///{path}")
    assert look(probe).status is Status.FAIL
    assert not path.exists()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id)")
    connection.close()
    assert look(probe).status is Status.PASS
    path.write_bytes(b"this is no database, and long enough to be read as a header of one" * 20)
    assert look(probe).status is Status.FAIL


def test_postgresql_passes_and_fails_without_telling_the_password(postgres_url: str) -> None:
    """Health bodies are public to whoever may probe; the URL holds the password."""
    assert look(checks.sql(postgres_url)).status is Status.PASS
    gone = look(checks.sql(f"postgresql://shop:hunter2@127.0.0.1:{closed_port()}/postgres"))
    assert gone.status is Status.FAIL
    assert "hunter2" not in (gone.output or "")
    with pytest.raises(ValueError, match="no PostgreSQL URL") as unreadable:
        checks.sql("postgresql://shop:hunter2@[")
    assert "hunter2" not in str(unreadable.value)


def test_sqlalchemy_engines_are_asked_sync_and_async(tmp_path: Path, postgres_url: str) -> None:
    """Most services already have an engine; its pool is what must work."""
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/orders.db")
    assert look(checks.sql(engine)).status is Status.PASS
    engine.dispose()

    async def scene() -> None:
        asynchronous = create_async_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
        await checks.sql(asynchronous)()
        await asynchronous.dispose()

    asyncio.run(scene())
    broken = sqlalchemy.create_engine(f"postgresql+psycopg://shop:hunter2@127.0.0.1:{closed_port()}/postgres")
    found = look(checks.sql(broken))
    assert found.status is Status.FAIL
    assert "hunter2" not in (found.output or "")


def test_redis_is_asked_by_url_and_by_client(redis_port: int) -> None:
    """A fresh connection tests the server; a client's own tests the pool that requests use."""
    import redis
    import redis.asyncio

    assert look(checks.redis(f"redis://127.0.0.1:{redis_port}")).status is Status.PASS
    client = redis.Redis(port=redis_port)
    assert look(checks.redis(client)).status is Status.PASS
    client.close()

    async def scene() -> None:
        asynchronous = redis.asyncio.Redis(port=redis_port)
        assert await checks.redis(asynchronous)() is True
        await asynchronous.aclose()

    asyncio.run(scene())
    gone = look(checks.redis(f"redis://:hunter2@127.0.0.1:{closed_port()}"))
    assert gone.status is Status.FAIL
    assert "hunter2" not in (gone.output or "")


def test_targets_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in a URL must show at the import, not as a failing database at night."""
    for bad in ("mysql://x", "sqlite://", "sqlite:///:memory:", "nonsense"):
        with pytest.raises(ValueError, match="target must"):
            checks.sql(bad)
    with pytest.raises(TypeError, match="target must"):
        checks.sql(3)
    with pytest.raises(ValueError, match="scheme"):
        checks.redis("http://localhost")
    with pytest.raises(TypeError, match="target must"):
        checks.redis(3)


@pytest.mark.parametrize(
    ("part", "driver"), [("redis", "redis"), ("postgresql", "psycopg"), ("sqlalchemy", "sqlalchemy"), ("grpc", "grpc")]
)
def test_a_missing_driver_is_told_with_the_line_that_installs_it(part: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from deep inside tells nobody what to do."""
    place = health_extras.PARTS[part][0]
    monkeypatch.delitem(sys.modules, place, raising=False)
    for name in [name for name in sys.modules if name == driver or name.startswith(f"{driver}.")]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == driver:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(sw.MissingExtra, match=r"pip install \"seawall\["):
        health_extras.load(part)


# --- network


def test_tcp_passes_where_somebody_listens(web: Any) -> None:
    """The plainest question that there is."""
    assert look(checks.tcp("127.0.0.1", web.port)).status is Status.PASS
    assert look(checks.tcp("127.0.0.1", closed_port())).status is Status.FAIL
    with pytest.raises(ValueError, match="port"):
        checks.tcp("db", 0)


def test_http_passes_by_status_and_follows_no_redirect(web: Any) -> None:
    """A redirect that is followed reports on somebody else, and can be led to addresses inside."""
    assert look(checks.http(f"{web.url}/ok")).status is Status.PASS
    moved = look(checks.http(f"{web.url}/moved"))
    assert (moved.status, moved.value, moved.output) == (Status.FAIL, 302, "answered 302")
    assert look(checks.http(f"{web.url}/broken")).value == 500
    assert look(checks.http(f"{web.url}/broken", expect=[500])).status is Status.PASS
    assert look(checks.http(f"{web.url}/what")).output == "the answer is no HTTP/1"
    assert look(checks.http(f"{web.url}/ok?deep=1", headers={"X-Key": "k"})).status is Status.PASS
    assert web.seen[-1] == "/ok?deep=1 k"
    assert web.seen.count("/ok ") == 1, "the redirect was not followed"
    assert look(checks.http(f"https://127.0.0.1:{web.port}/ok")).status is Status.FAIL


@pytest.mark.parametrize(
    ("url", "headers"),
    [("ftp://x/", {}), ("http://", {}), ("http://u:p@host/", {}), ("http://host/a b", {}), ("http://host/", {"X": "a\r\nY: b"})],
)
def test_requests_that_must_not_be_sent_are_refused(url: str, headers: dict[str, str]) -> None:
    """A line break in a header is a second request of somebody else's making."""
    with pytest.raises(ValueError, match="must"):
        checks.http(url, headers=headers)


def test_https_checks_names_with_the_context_that_it_is_given() -> None:
    """The default must be the safe one."""
    default = ssl.create_default_context()
    assert default.check_hostname
    checks.http("https://localhost/", tls=default)


def test_dns_counts_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A headless service that lost all but one of its pods still resolves."""
    assert look(checks.dns("localhost")).status is Status.PASS
    found = look(checks.dns("localhost", least=50))
    assert found.status is Status.FAIL
    assert "50 are needed" in (found.output or "")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert look(checks.dns("nowhere.invalid")).status is Status.FAIL


# --- machine


def test_disk_warns_and_fails_by_the_share_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is found by the write that fails, or by this, an hour before."""
    for free, expected in ((50, Status.PASS), (5, Status.WARN), (1, Status.FAIL)):
        usage = SimpleNamespace(free=free, used=100 - free, total=120)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        found = look(checks.disk(tmp_path))
        assert (found.status, found.value) == (expected, free / 100)
    with pytest.raises(ValueError, match="fail_below"):
        checks.disk(warn_below=0.1, fail_below=0.2)


def test_memory_is_measured_against_the_containers_limit(tmp_path: Path) -> None:
    """A pod of 100 MB on a machine of 64 GB is killed at 100 MB; pages of the cache are given back before."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert memory_share(tmp_path) is None
    assert look(checks.memory(root=tmp_path)).status is Status.WARN
    write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 750 kB\n")
    assert memory_share(tmp_path) == 0.25
    write("sys/fs/cgroup/memory.max", "1000\n")
    write("sys/fs/cgroup/memory.current", "990\n")
    write("sys/fs/cgroup/memory.stat", "anon 900\ninactive_file 40\n")
    assert memory_share(tmp_path) == 0.95
    assert look(checks.memory(root=tmp_path)).status is Status.WARN
    assert look(checks.memory(root=tmp_path, fail_above=0.93)).status is Status.FAIL
    write("sys/fs/cgroup/memory.max", "max\n")
    assert memory_share(tmp_path) == 0.25
    assert look(checks.memory(root=tmp_path)).status is Status.PASS
    assert checks.memory().critical is False


def test_loop_lag_warns_when_the_loop_was_late() -> None:
    """A loop that is late by 100 ms makes every request of this instance late by as much."""
    health = Health(clock=VirtualClock(start=0))
    health.pulse.begin(-1.0)
    health.pulse.beat(-0.75)
    assert look(checks.loop_lag(health, warn_above=0.6)).status is Status.PASS
    health.pulse.beat(0.0)
    found = look(checks.loop_lag(health))
    assert (found.status, found.value, found.unit) == (Status.WARN, 0.5, "s")
    assert look(checks.loop_lag(health, fail_above=0.4)).status is Status.FAIL


# --- what is ours


def test_breakers_that_are_open_degrade_and_are_named() -> None:
    """An open breaker is a protection that works: people should see it, and traffic should stay."""
    stock, prices = sw.CircuitBreaker(name="stock"), sw.CircuitBreaker(name="prices")
    probe = checks.breakers(stock, prices)
    assert look(probe).status is Status.PASS
    prices.isolate()
    found = look(probe)
    assert (found.status, found.output, found.value) == (Status.WARN, "open: prices", 1)
    assert probe.critical is False
    with pytest.raises(TypeError, match="state"):
        checks.breakers(3)  # type: ignore[arg-type]


def test_brokers_are_pinged_sync_or_async() -> None:
    """Every broker client has its own way to ask; a ping is the one that all share."""

    class Fine:
        async def ping(self, timeout: float) -> bool:
            return timeout == 1

    class Gone:
        def ping(self) -> bool:
            return False

    assert look(checks.broker(Fine(), timeout=1)).status is Status.PASS
    assert look(checks.broker(Gone())).status is Status.FAIL
    with pytest.raises(TypeError, match="ping"):
        checks.broker(3)  # type: ignore[arg-type]


def test_a_registry_that_is_stale_degrades_and_never_fails() -> None:
    """Who loses the registry goes on with what he knows; leaving the traffic for it would turn its outage into ours."""

    def watch(source: str, age: float) -> Any:
        return SimpleNamespace(snapshot=SimpleNamespace(source=source, age=lambda now: age))

    assert look(checks.registry(watch("live", 1))).status is Status.PASS
    assert look(checks.registry(watch("stale", 1))).status is Status.WARN
    assert look(checks.registry(watch("live", 31))).output == "last heard 31 s ago"
    assert look(checks.registry(watch("none", 0))).output == "the registry was never heard"
    assert look(checks.registry(SimpleNamespace(registered=True))).status is Status.PASS
    assert look(checks.registry(SimpleNamespace(registered=False, snapshot=lambda: None))).status is Status.WARN
    with pytest.raises(TypeError, match="watch or a registration"):
        checks.registry(3)


def test_a_ready_made_check_brings_its_own_weight_into_health() -> None:
    """Not critical is the right default for a breaker and the wrong one for a database; who registers can overrule both."""
    health = Health()
    breaker = sw.CircuitBreaker(name="stock")
    health.ready("breakers", checks.breakers(breaker))
    health.ready("strict", checks.breakers(breaker), critical=True)
    health.ready("db", checks.tcp("127.0.0.1", 1))
    weights = {check.name: (check.critical, check.kind) for check in health.checks("ready")}
    assert weights == {"breakers": (False, "component"), "strict": (True, "component"), "db": (True, "component")}
