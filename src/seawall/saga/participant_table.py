"""Where a participant keeps what it knows: one table, in a SQLite file of its own or in the service's own transaction."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from seawall.saga.driver import driver_of
from seawall.saga.journals.alive import Alive
from seawall.saga.lease import Fence
from seawall.saga.tombstone import Effect

T = TypeVar("T")
FOREVER: Final = 1e9  # seconds of a lease that only the end of the process ends
SWEPT: Final = 1000  # rows taken away at once
_COLUMNS: Final = "mark, timeline, epoch, fingerprint, holder, doubtful, answer"
TABLE: Final = """CREATE TABLE IF NOT EXISTS seawall_effect (key TEXT PRIMARY KEY, mark TEXT NOT NULL, timeline BIGINT NOT NULL,
    epoch BIGINT NOT NULL, fingerprint TEXT, holder TEXT, doubtful INTEGER NOT NULL, answer TEXT, updated DOUBLE PRECISION
    NOT NULL)"""
INDEX: Final = "CREATE INDEX IF NOT EXISTS seawall_effect_updated ON seawall_effect (updated)"


class Busy(Exception):
    """Another transaction works on the key right now."""


class Rows:
    """The table over one connection of sqlite3, psycopg or SQLAlchemy, which somebody else commits."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection = driver_of(connection)
        self.postgres = not isinstance(connection, sqlite3.Connection)
        if self.postgres and not _is_psycopg(connection):
            raise TypeError(
                f"tx must be a connection of sqlite3, psycopg (not async) or SQLAlchemy; got {type(connection).__name__}"
            )

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values; its rows."""
        cursor = self.connection.execute(sql.replace("?", "%s") if self.postgres else sql, values)
        return [] if cursor.description is None else list(cursor.fetchall())

    def make(self) -> None:
        """Make the table where it is missing. On PostgreSQL to make an index that is there would wait for all who write."""
        if self.postgres and self.execute("SELECT to_regclass('seawall_effect_updated')")[0][0] is not None:
            return
        self.execute(TABLE)
        self.execute(INDEX)

    def lock(self, key: str) -> None:
        """Be the only transaction that works on the key, until it ends. Raises Busy when another one does."""
        if self.postgres:
            if not self.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(?, 7531))", (key,))[0][0]:
                raise Busy(key)
        elif not self.connection.in_transaction:
            self._begin(key)
        else:
            self._begin_writing(key)

    def _begin(self, key: str) -> None:
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise _busy(error, key) from error

    def _begin_writing(self, key: str) -> None:
        """A transaction of the caller that only has read so far must become the file's writer before anything is looked up."""
        try:
            self.connection.execute("UPDATE seawall_effect SET updated=updated WHERE key=?", (key,))
        except sqlite3.OperationalError as error:
            raise _busy(error, key) from error

    def load(self, key: str) -> tuple[Effect, str | None]:
        """What is known of a key, and the stored answer."""
        found = self.execute(f"SELECT {_COLUMNS} FROM seawall_effect WHERE key=?", (key,))
        if not found:
            return Effect(), None
        mark, timeline, epoch, fingerprint, holder, doubtful, answer = found[0]
        return Effect(mark, Fence(timeline, epoch), fingerprint, holder, bool(doubtful)), answer

    def save(self, key: str, effect: Effect, answer: str | None, now: float) -> None:
        """Write it."""
        values = (*_values(effect), answer, now)
        self.execute(
            f"INSERT INTO seawall_effect (key, {_COLUMNS}, updated) VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (key) DO UPDATE SET "
            "mark=excluded.mark, timeline=excluded.timeline, epoch=excluded.epoch, fingerprint=excluded.fingerprint, "
            "holder=excluded.holder, doubtful=excluded.doubtful, answer=excluded.answer, updated=excluded.updated",
            (key, *values),
        )

    def sweep(self, before: float) -> int:
        """Take away what ended before a moment, at most a thousand rows; how many. What is in doubt stays."""
        old = "SELECT key FROM seawall_effect WHERE updated < ? AND mark NOT IN ('started', 'undoing') LIMIT ?"
        return len(self.execute(f"DELETE FROM seawall_effect WHERE key IN ({old}) RETURNING key", (before, SWEPT)))


class EffectFile:
    """The table in a SQLite file of its own, used by all threads and processes of one machine.

    An attempt is held by its process, which proves that it lives by a lock that the system lets go when it dies: an effect
    that was `started` by a process that is gone is in doubt, at once and without a clock.
    """

    def __init__(self, path: str | Path, *, busy: float = 10.0) -> None:
        self.path = Path(path)
        self._busy = busy
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._alive = Alive(Path(f"{path}-holders"))
        self._process = ""
        self._held: set[str] = set()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        self._pid = os.getpid()
        self._alive = Alive(Path(f"{self.path}-holders"))
        self._process, self._held = uuid.uuid4().hex[:12], set()
        self._alive.begin(self._process, FOREVER)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=self._busy)
        with Path(f"{self.path}-holders", "opening").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # two that switch a new file to a write-ahead log at once would fail
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            Rows(connection).make()
        self._connection = connection
        return connection

    def holder(self) -> str:
        """A name for an attempt of this process, which counts as living until `let_go`."""
        with self._lock:
            self._open()
            name = f"{self._process}:{uuid.uuid4().hex[:12]}"
            self._held.add(name)
            return name

    def let_go(self, holder: str) -> None:
        """The attempt is over."""
        self._held.discard(holder)

    def lives(self, holder: str | None) -> bool:
        """Whether an attempt may still be under way."""
        if holder is None:
            return False
        process = holder.partition(":")[0]
        return holder in self._held if process == self._process else self._alive.lives(process)

    def write(self, work: Callable[[Rows], T]) -> T:
        """Run `work` in a transaction and commit it, synced."""
        with self._lock:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = work(Rows(connection))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return found

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
                self._alive.end()


def _is_psycopg(connection: Any) -> bool:
    kind = type(connection)
    return kind.__module__.startswith("psycopg") and not kind.__name__.startswith("Async")


@contextlib.contextmanager
def savepoint(rows: Rows) -> Iterator[None]:
    """What is done inside is taken back when it raises, whatever the caller does with his transaction then."""
    rows.connection.execute("SAVEPOINT seawall_effect")
    try:
        yield
    except BaseException:
        rows.connection.execute("ROLLBACK TO SAVEPOINT seawall_effect")
        rows.connection.execute("RELEASE SAVEPOINT seawall_effect")
        raise
    rows.connection.execute("RELEASE SAVEPOINT seawall_effect")


def _values(effect: Effect) -> tuple[Any, ...]:
    return (effect.mark, *effect.fence, effect.fingerprint, effect.holder, int(effect.doubtful))


def _busy(error: sqlite3.OperationalError, key: str) -> BaseException:
    return Busy(key) if getattr(error, "sqlite_errorcode", 0) & 255 in (5, 6) else error
