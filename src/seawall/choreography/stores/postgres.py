"""The boxes in a PostgreSQL database, version 13 or later, beside the business rows.

A row of the outbox carries the number of its transaction. The relay sends what stands below the oldest transaction that still
runs: whatever has not committed yet has a higher number, so nothing that commits late is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from seawall.choreography.errors import ChoreographyError
from seawall.choreography.outbox import run
from seawall.choreography.stores.port import finish
from seawall.choreography.tables import tables

T = TypeVar("T")
MOST: Final = 8
_MAKING: Final = 0x5EA_0B0C  # the advisory lock while tables are made
_LEADING: Final = 0x5EA_1EAD  # that of the relay that works
Connection = psycopg.Connection[tuple[Any, ...]]


@contextlib.contextmanager
def translated(place: str) -> Iterator[None]:
    """A server that is gone leaves as our error, which names it without its password."""
    try:
        yield
    except psycopg.OperationalError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ChoreographyError(f"the store {place} does not answer: {said}") from error


class PostgresSession:
    """One transaction. Every statement is a journey to the server, so it is made in a thread."""

    def __init__(self, connection: Connection, place: str) -> None:
        self.connection = connection
        self._place = place

    async def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows. Raises ChoreographyError when the server does not answer."""
        with translated(self._place):
            return await self.call(run, self.connection, sql, values)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a plain function in a thread. When that is cancelled, the statement that runs is ended, and its end awaited."""
        task = asyncio.ensure_future(asyncio.to_thread(function, *args))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._cut)
            await asyncio.wait([task])
            raise

    def _cut(self) -> None:
        with contextlib.suppress(psycopg.Error):  # then nothing runs that could be ended
            self.connection.cancel_safe(timeout=5.0)


class PostgresStore:
    """A PostgreSQL database. url: as the driver takes it. most: transactions of this process at once, >= 1."""

    kind = "postgresql"

    def __init__(self, url: str, *, most: int = MOST) -> None:
        try:
            parts = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise ChoreographyError(
                'store must read like "postgresql://user@host:5432/database"; the driver cannot read it'
            ) from None
        self._url = url
        self._place = f"{parts.get('host', 'the local socket')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
        self._seats = asyncio.Semaphore(most)
        self._idle: list[Connection] = []
        self._leader: Connection | None = None
        self._open = False

    def _connect(self) -> Connection:
        with translated(self._place):
            return psycopg.connect(
                self._url, connect_timeout=10, application_name="seawall-choreography", row_factory=tuple_row,
                keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
            )  # fmt: skip

    async def open(self) -> None:
        """Connect and make the tables that are missing. Raises ChoreographyError."""

        def make() -> None:
            with translated(self._place), self._connect() as connection:
                for name, statement in tables("postgresql").items():
                    with connection.transaction():  # to make an index that is there locks its table, and two tables can deadlock
                        connection.execute(f"SELECT pg_advisory_xact_lock({_MAKING})")
                        if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() == (None,):
                            connection.execute(statement)

        await finish(make)
        self._open = True

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresSession]:
        """One transaction on a connection of its own, which is kept for the next one."""
        if not self._open:
            raise ChoreographyError(f"the store {self._place} is not open")
        async with self._seats:
            while not self._idle:  # made into the list, so that a caller who is cancelled meanwhile leaves it there
                await finish(lambda: self._idle.append(self._connect()))
            connection = self._idle.pop()
            try:
                yield PostgresSession(connection, self._place)
                await finish(lambda: self._end(connection))
            finally:
                await finish(lambda: self._give_back(connection))

    def _end(self, connection: Connection) -> None:
        with translated(self._place):
            connection.commit()

    def _give_back(self, connection: Connection) -> None:
        """Keep it if it is clean or can be made so."""
        try:
            if not connection.closed:
                connection.rollback()
        except psycopg.Error:
            connection.close()
        if connection.closed:
            return
        if self._open:
            self._idle.append(connection)
        else:
            connection.close()

    async def lead(self) -> bool:
        """One process holds an advisory lock, over a connection that is asked each time whether it still stands."""
        return await finish(self._lead)

    def _lead(self) -> bool:
        leader = self._leader
        if leader is None:
            leader = self._connect()
            leader.autocommit = True
            found = leader.execute("SELECT pg_try_advisory_lock(%s)", (_LEADING,)).fetchone()
            if found != (True,):
                leader.close()
                return False
            self._leader = leader
            return True
        try:
            leader.execute("SELECT 1")
        except psycopg.Error:
            leader.close()
            self._leader = None
            return False
        return True

    async def close(self) -> None:
        """Close every connection; another relay may lead from now on."""
        self._open = False
        leader, self._leader = self._leader, None
        for connection in (*self._idle, *([leader] if leader is not None else [])):
            await finish(connection.close)
        self._idle.clear()
