"""The boxes in one SQLite file. Transactions of a process are queued here, those of several processes by SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seawall.choreography.errors import ChoreographyError
from seawall.choreography.outbox import run
from seawall.choreography.stores.port import finish
from seawall.choreography.tables import tables

T = TypeVar("T")


class SqliteSession:
    """One transaction. A statement is quicker than a thread, so all but BEGIN and COMMIT run where they are called."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    async def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        return run(self.connection, sql, values)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a plain function."""
        return function(*args)


class SqliteStore:
    """A SQLite file in WAL mode, every commit synced. url: "sqlite:///orders.db" (a relative path) or "sqlite:////abs/path"."""

    kind = "sqlite"

    def __init__(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        if path == url or not path or ":memory:" in path:
            raise ChoreographyError(f"store must be sqlite:///FILE, with a file that outlives the process; got {url!r}")
        self.path = Path(path)
        self._turn = asyncio.Lock()
        self._leader: int | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file and make the tables that are missing. Raises ChoreographyError."""
        try:
            self._connection = connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            for statement in tables("sqlite").values():
                connection.execute(statement)
        except sqlite3.Error as error:
            raise ChoreographyError(f"the store {self.path} cannot be used: {error}") from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteSession]:
        """The only writer of the file, until the block ends."""
        connection = self._connection
        if connection is None:
            raise ChoreographyError(f"the store {self.path} is not open")
        async with self._turn:
            try:
                await finish(lambda: connection.execute("BEGIN IMMEDIATE"))
                yield SqliteSession(connection)
                await finish(lambda: connection.execute("COMMIT"))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    async def lead(self) -> bool:
        """One process holds a lock on a file beside the database, for as long as it lives."""
        if self._leader is None:
            file = os.open(f"{self.path}.relay", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            self._leader = file
        return True

    async def close(self) -> None:
        """Close the file; another relay may lead from now on."""
        async with self._turn:
            if self._leader is not None:
                os.close(self._leader)
                self._leader = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None
