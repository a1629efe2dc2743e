"""The tables of both ends, and writing an event in the transaction of the business: columns as Debezium's outbox router names them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from seawall.choreography.envelope import Envelope, wrap
from seawall.choreography.errors import ChoreographyError

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS outbox (
        position {serial}, id TEXT NOT NULL UNIQUE, aggregatetype TEXT NOT NULL, aggregateid TEXT NOT NULL, type TEXT NOT NULL,
        payload TEXT NOT NULL, created {real} NOT NULL, published {real}, attempts INTEGER NOT NULL DEFAULT 0,
        due {real} NOT NULL DEFAULT 0, error TEXT{xid})""",
    "CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (position) WHERE published IS NULL",
    """CREATE TABLE IF NOT EXISTS inbox (
        consumer TEXT NOT NULL, message_id TEXT NOT NULL, received {real} NOT NULL, done {real},
        receive_count INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (consumer, message_id))""",
    """CREATE TABLE IF NOT EXISTS dead_letter (
        id {serial}, side TEXT NOT NULL, consumer TEXT NOT NULL, message_id TEXT NOT NULL, payload TEXT NOT NULL,
        error TEXT NOT NULL, died {real} NOT NULL, replayed {real})""",
)
WORDS: Final = {
    "sqlite": {"serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "real": "REAL", "xid": ""},
    "postgres": {
        "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "real": "DOUBLE PRECISION",
        "xid": ", xid xid8 NOT NULL DEFAULT pg_current_xact_id()",
    },
}
INSERT: Final = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, created) VALUES (?,?,?,?,?,?)"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))"


def tables(kind: str) -> list[str]:
    """The statements that make the tables, for "sqlite" or "postgres"."""
    return [text.format(**WORDS[kind]) for text in TABLES]


def run(connection: Any, sql: str, values: Sequence[Any] = ()) -> Any:
    """Run one statement on a sqlite3 or psycopg connection, or a SQLAlchemy session or connection, in its open transaction."""
    if hasattr(connection, "exec_driver_sql") or hasattr(connection, "get_bind"):
        real = connection.connection() if hasattr(connection, "get_bind") else connection
        return real.exec_driver_sql(sql if real.dialect.name == "sqlite" else sql.replace("?", "%s"), tuple(values))
    module = type(connection).__module__.partition(".")[0]
    if module == "sqlite3":
        return connection.execute(sql, values)
    if module == "psycopg":
        return connection.execute(sql.replace("?", "%s"), values)
    raise ChoreographyError(f"connection must be of sqlite3, psycopg or SQLAlchemy; got {type(connection).__qualname__}")


def dialect(connection: Any) -> str:
    """ "sqlite" or "postgres", whichever a connection speaks."""
    if hasattr(connection, "get_bind"):
        return "sqlite" if connection.get_bind().dialect.name == "sqlite" else "postgres"
    if hasattr(connection, "exec_driver_sql"):
        return "sqlite" if connection.dialect.name == "sqlite" else "postgres"
    return "sqlite" if type(connection).__module__.startswith("sqlite3") else "postgres"


def put(connection: Any, topic: str, envelope: Envelope, *, ordered: bool = False) -> None:
    """Write one envelope into the outbox, in the transaction that is open on `connection`."""
    if ordered and dialect(connection) == "postgres":
        run(connection, _LOCK, (f"{topic}:{envelope.subject}",))
    values = (envelope.id, topic, envelope.subject, envelope.type, envelope.text(), time.time())
    run(connection, INSERT, values)


def write(connection: Any, topic: str, value: Any, *, correlation: str, ordered: bool = False) -> Envelope:
    """Write an event beside your own rows: sent if your transaction commits, and never if it does not.

    connection: sqlite3, psycopg, or a SQLAlchemy session or connection, with your transaction open. topic: the name of the
    choreography. correlation: the saga it belongs to, and the key within which order holds. ordered: on PostgreSQL, take the
    key's lock until you commit, so that events of one key are sent in the order of their commits; SQLite has one writer anyway.
    """
    envelope = wrap(value, source=topic, correlation=correlation)
    put(connection, topic, envelope, ordered=ordered)
    return envelope


class Tx:
    """The transaction of one handler: its inbox row, your rows, and what it publishes are one commit."""

    __slots__ = ("_nth", "_source", "_step", "_topic", "connection", "envelope", "ordered")

    def __init__(self, connection: Any, envelope: Envelope, topic: str, source: str, step: str, *, ordered: bool) -> None:
        self.connection = connection
        self.envelope = envelope
        self.ordered = ordered
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
            value, source=self._source, correlation=self.envelope.correlationid, cause=self.envelope, step=self._step, nth=self._nth
        )
        self._nth += 1
        put(self.connection, self._topic, made, ordered=self.ordered)
        return made
