"""Writing an event in the transaction of the business: on a connection of the driver, or one or a session of SQLAlchemy."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from seawall.choreography.envelope import Envelope, wrap
from seawall.choreography.errors import ChoreographyError
from seawall.core.runtime import refuse_under_loop

if TYPE_CHECKING:
    from seawall.choreography.stores.port import Session

INSERT: Final = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, created) VALUES (?,?,?,?,?,?)"
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(?, 7321))"


def run(connection: Any, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement with `?` for values in the open transaction of a connection; its rows.

    connection: sqlite3, psycopg (not async), or a SQLAlchemy connection or session on one of these databases.
    """
    if isinstance(connection, sqlite3.Connection):
        done: Any = connection.execute(sql, values)
        return done.fetchall() if done.description else []
    if _is_psycopg(connection):
        with connection.cursor() as cursor:
            cursor.execute(placed(sql, "format"), tuple(values))
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    real = connection.connection() if hasattr(connection, "get_bind") else connection
    if not hasattr(real, "exec_driver_sql") or real.dialect.name not in ("sqlite", "postgresql"):
        raise ChoreographyError(
            f"connection must be of sqlite3, of psycopg, or of SQLAlchemy on SQLite or PostgreSQL; got {connection!r}"
        )
    done = real.exec_driver_sql(placed(sql, real.dialect.paramstyle), tuple(values))
    return [tuple(row) for row in done.fetchall()] if done.returns_rows else []


@lru_cache(maxsize=1024)
def placed(sql: str, style: str) -> str:
    """A statement with `?` for values, as a driver of that parameter style wants it; what stands in quotes stays."""
    if style == "qmark":
        return sql
    if style == "numeric_dollar":
        parts, count = [], 0
        for part in re.split(r"('(?:[^']|'')*'|\?)", sql):
            count += part == "?"
            parts.append(f"${count}" if part == "?" else part)
        return "".join(parts)
    parts = re.split(r"('(?:[^']|'')*')", sql.replace("%", "%%"))
    return "".join(part if part.startswith("'") else part.replace("?", "%s") for part in parts)


def _is_psycopg(connection: Any) -> bool:
    kind = type(connection)
    return kind.__module__.startswith("psycopg") and hasattr(connection, "pgconn") and not kind.__name__.startswith("Async")


def on_postgres(connection: Any) -> bool:
    """Whether a connection leads to PostgreSQL."""
    if isinstance(connection, sqlite3.Connection):
        return False
    bound = connection.get_bind() if hasattr(connection, "get_bind") else connection
    return _is_psycopg(connection) or (hasattr(bound, "dialect") and bound.dialect.name == "postgresql")


def row_of(topic: str, envelope: Envelope) -> tuple[Any, ...]:
    """An envelope's row of the outbox."""
    return (envelope.id, topic, envelope.subject, envelope.type, envelope.text(), time.time())


def put(connection: Any, topic: str, envelope: Envelope, *, ordered: bool = False) -> None:
    """Write one envelope into the outbox, in the transaction that is open on `connection`."""
    if ordered and on_postgres(connection):
        run(connection, LOCK, (f"{topic}/{envelope.subject}",))
    run(connection, INSERT, row_of(topic, envelope))


def write(connection: Any, topic: str, value: Any, *, correlation: str, ordered: bool = False) -> Envelope:
    """Write an event beside your own rows: sent if your transaction commits, and never if it does not.

    connection: sqlite3, psycopg, or a SQLAlchemy session or connection, with your transaction open. topic: the name of the
    choreography. correlation: the saga it belongs to, the key of all ordering. ordered: on PostgreSQL, hold the key's lock
    from here to the end of your transaction, so that events of the key are sent in the order of their commits; transactions
    that write to several keys should do so in one order of keys. SQLite has one writer, so there it is always so.
    Raises ChoreographyError for a connection of any other kind.
    """
    envelope = wrap(value, source=topic, correlation=correlation)
    put(connection, topic, envelope, ordered=ordered)
    return envelope


async def awrite(connection: Any, topic: str, value: Any, *, correlation: str, ordered: bool = False) -> Envelope:
    """As `write`, with an asynchronous connection: of psycopg, or a session or connection of SQLAlchemy."""
    envelope = wrap(value, source=topic, correlation=correlation)
    if hasattr(connection, "run_sync"):
        await connection.run_sync(lambda real: put(real, topic, envelope, ordered=ordered))
    elif type(connection).__module__.startswith("psycopg") and hasattr(connection, "pgconn"):
        if ordered:
            await connection.execute(placed(LOCK, "format"), (f"{topic}/{envelope.subject}",))
        await connection.execute(placed(INSERT, "format"), row_of(topic, envelope))
    else:
        raise ChoreographyError(f"connection must be an asynchronous one of psycopg or of SQLAlchemy; got {connection!r}")
    return envelope


class Tx:
    """The transaction of one handler: its inbox row, your rows, and what it publishes are one commit.

    connection: the database's own (sqlite3, or psycopg); do not commit, roll back or close it.
    """

    __slots__ = ("_session", "_source", "_step", "connection", "envelope", "published")

    def __init__(self, session: Session, envelope: Envelope, source: str, step: str) -> None:
        self._session = session
        self.connection = session.connection
        self.envelope = envelope
        self._source, self._step = source, step
        self.published: list[Envelope] = []

    @property
    def key(self) -> str:
        """The idempotency key for calls to others: the same each time this event is handled by this handler."""
        return f"{self.envelope.id}:{self._step}"

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values; its rows. Raises WrongTwin in an async handler on PostgreSQL: waiting there for
        a row that another handler has locked would stop both."""
        if not isinstance(self.connection, sqlite3.Connection):
            refuse_under_loop("tx.execute()", "await tx.aexecute()")
        return run(self.connection, sql, values)

    async def aexecute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `execute`, in a thread where the database is on a server."""
        return await self._session.run(sql, values)

    def publish(self, value: Any) -> Envelope:
        """Publish an event that this handler causes: written at the handler's end, sent after the commit."""
        made = wrap(
            value, source=self._source, correlation=self.envelope.correlationid, cause=self.envelope, step=self._step,
            nth=len(self.published),
        )  # fmt: skip
        self.published.append(made)
        return made
