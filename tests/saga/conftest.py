"""Fixtures of the saga tests: a ledger, worker processes, and both journals behind one URL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from postgres_server import Server  # noqa: E402  # found by the line above

from seawall.saga import Saga, Sagas  # noqa: E402


class Workers:
    """Worker processes of this test; all of them are gone when it ends."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(self, url: str, ledger: Path, *options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "fault_worker.py"), url, str(ledger), *map(str, options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.all.append(process)
        return process

    def started(self, url: str, ledger: Path, *options: Any) -> subprocess.Popen[str]:
        """One that says that it is ready."""
        process = self.start(url, ledger, *options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready"), line
        return process

    def close(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A way to start worker processes."""
    made = Workers()
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One real server for all tests of this run."""
    try:
        server = Server()
    except LookupError as error:
        pytest.skip(str(error))
    yield server
    server.close()


class Place:
    """Where a test's journal lies. kind: "sqlite" or "postgres"."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url

    def connect(self) -> Any:
        """The driver's own connection, as a user's program would open one."""
        if self.kind == "postgres":
            return psycopg.connect(self.url)
        return sqlite3.connect(self.url.removeprefix("sqlite:///"))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask or tell the database."""
        connection = self.connect()
        cursor = connection.execute(sql)
        found = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        connection.commit()
        connection.close()
        return found


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A fresh, empty journal, of each kind."""
    if request.param == "sqlite":
        yield Place("sqlite", f"sqlite:///{tmp_path}/sagas.db")
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.database()
    yield Place("postgres", url)
    server.drop(url)


@pytest.fixture
def url(place: Place) -> str:
    """The URL of this test's journal."""
    return place.url


@pytest.fixture
def fresh(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], str]:
    """A way to get further empty journals of the same kind."""

    def made() -> str:
        if place.kind == "sqlite":
            return f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db"
        return str(request.getfixturevalue("postgres").database())

    return made


@pytest.fixture
def conduct(place: Place) -> Callable[..., Sagas]:
    """A way to open `Sagas` over this test's journal."""

    def made(*sagas: Saga[Any, Any], **options: Any) -> Sagas:
        return Sagas(place.url, sagas, **{"poll": 0.05, **options})

    return made
