"""The tables of both ends, and writing an event in the transaction of the business. The columns of the outbox have the names
that Debezium's outbox router looks for. SQLite only."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final

from seawall.choreography.envelope import Envelope, wrap
from seawall.choreography.errors import ChoreographyError

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS outbox (
        position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, aggregatetype TEXT NOT NULL,
        aggregateid TEXT NOT NULL, type TEXT NOT NULL,
        payload TEXT NOT NULL, created REAL NOT NULL, published REAL, attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0, error TEXT)""",
    "CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (position) WHERE published IS NULL",
    """CREATE TABLE IF NOT EXISTS inbox (
        consumer TEXT NOT NULL, message_id TEXT NOT NULL, received REAL NOT NULL, done REAL,
        receive_count INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (consumer, message_id))""",
    """CREATE TABLE IF NOT EXISTS dead_letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT, side TEXT NOT NULL, consumer TEXT NOT NULL,
        message_id TEXT NOT NULL, payload TEXT NOT NULL,
        error TEXT NOT NULL, died REAL NOT NULL, replayed REAL)""",
)
INSERT: Final = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, created) VALUES (?,?,?,?,?,?)"


def run(connection: Any, sql: str, values: Sequence[Any] = ()) -> Any:
    """Run one statement on a sqlite3 connection, or a SQLAlchemy session or connection on SQLite, in its open transaction."""
    if isinstance(connection, sqlite3.Connection):
        return connection.execute(sql, values)
    real = connection.connection() if hasattr(connection, "get_bind") else connection
    if not hasattr(real, "exec_driver_sql") or real.dialect.name != "sqlite":
        raise ChoreographyError(f"connection must be of sqlite3, or of SQLAlchemy on SQLite; got {connection!r}")
    return real.exec_driver_sql(sql, tuple(values))


def put(connection: Any, topic: str, envelope: Envelope) -> None:
    """Write one envelope into the outbox, in the transaction that is open on `connection`."""
    values = (envelope.id, topic, envelope.subject, envelope.type, envelope.text(), time.time())
    run(connection, INSERT, values)


def write(connection: Any, topic: str, value: Any, *, correlation: str) -> Envelope:
    """Write an event beside your own rows: sent if your transaction commits, and never if it does not.

    connection: sqlite3, or a SQLAlchemy session or connection on SQLite, with your transaction open. topic: the name of the
    choreography. correlation: the saga it belongs to, and the key within which events are sent in the order of their commits.
    Raises ChoreographyError for a connection of any other kind.
    """
    envelope = wrap(value, source=topic, correlation=correlation)
    put(connection, topic, envelope)
    return envelope


class Tx:
    """The transaction of one handler: its inbox row, your rows, and what it publishes are one commit."""

    __slots__ = ("_nth", "_source", "_step", "_topic", "connection", "envelope")

    def __init__(self, connection: Any, envelope: Envelope, topic: str, source: str, step: str) -> None:
        self.connection = connection
        self.envelope = envelope
        self._topic, self._source, self._step, self._nth = topic, source, step, 0

    @property
    def key(self) -> str:
        """The idempotency key for calls to others: the same each time this event is handled by this handler."""
        return f"{self.envelope.id}:{self._step}"

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values; its rows."""
        done = run(self.connection, sql, values)
        return [tuple(row) for row in done.fetchall()] if done.description else []

    def publish(self, value: Any) -> Envelope:
        """Write an event that this handler causes; it is sent after the commit."""
        made = wrap(
            value,
            source=self._source,
            correlation=self.envelope.correlationid,
            cause=self.envelope,
            step=self._step,
            nth=self._nth,
        )
        self._nth += 1
        put(self.connection, self._topic, made)
        return made
