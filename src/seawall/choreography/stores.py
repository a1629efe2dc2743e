"""Where the two boxes are: one SQLite file. Transactions of a process are queued here, those of several processes by SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from seawall.choreography.errors import ChoreographyError
from seawall.choreography.outbox import TABLES

T = TypeVar("T")


class Store(Protocol):
    """What the rest of the room needs of a database."""

    def transaction(self) -> contextlib.AbstractAsyncContextManager[Any]:
        """One transaction: committed at the end, rolled back on any error."""
        ...

    async def lead(self) -> bool:
        """Whether this process is the one that relays; asks again each time."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class SqliteStore:
    """A SQLite file in WAL mode, every commit synced. url: "sqlite:///orders.db" (a relative path) or "sqlite:////abs/path"."""

    def __init__(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        if path == url or not path or ":memory:" in path:
            raise ChoreographyError(f"store must be sqlite:///FILE, with a file that outlives the process; got {url!r}")
        self.path = Path(path)
        self._turn = asyncio.Lock()
        self._leader: int | None = None
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        for statement in TABLES:
            self._connection.execute(statement)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[sqlite3.Connection]:
        """The only writer of the file, until the block ends."""
        async with self._turn:
            try:
                await finish(lambda: self._connection.execute("BEGIN IMMEDIATE"))
                yield self._connection
                await finish(lambda: self._connection.execute("COMMIT"))
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

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
            self._connection.close()


async def finish(work: Callable[[], T]) -> T:
    """Run in a thread and wait for its end even when cancelled: a half-known BEGIN or COMMIT would poison the connection."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def open_store(url: str) -> Store:
    """The store of a URL. Raises ChoreographyError for a scheme that is not known."""
    if url.startswith("sqlite:"):
        return SqliteStore(url)
    raise ChoreographyError(f"store must be sqlite:///FILE; got {url.partition(':')[0]!r} as its scheme")


now = time.time
