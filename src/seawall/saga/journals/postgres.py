"""The journal in PostgreSQL, for many workers on many machines: every moment is the database's, every write is fenced.

A worker is a row with a moment until which it lives; the heartbeat moves it over a connection of its own. A saga's row names its
owner and epoch, and the one statement that appends a batch changes only rows whose owner and epoch still hold, and whose owner
still lives. At READ COMMITTED the row's lock makes that sound. LISTEN and NOTIFY make wake-ups quick; polling makes them certain.

What the server has answered for is as safe as the server: a failover to a replica loses nothing only where replication is
synchronous. Where it was not, epochs may repeat, and the later timeline in every fence tells old owners from new ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import SeawallError
from seawall.saga.errors import JournalError, JournalMissing, JournalReadOnly, LeaseLost
from seawall.saga.journals import postgres_sql as sql
from seawall.saga.journals.alive import boot_id
from seawall.saga.journals.postgres_steps import Ear, run_step
from seawall.saga.journals.postgres_tx import PostgresTx
from seawall.saga.journals.schema import KNOWN, MIGRATING, migrate
from seawall.saga.port import Append, Op, Start, Started, Verb
from seawall.saga.store import after_end, written

Connection = psycopg.Connection[tuple[Any, ...]]


class PostgresJournal:
    """A journal in a PostgreSQL database, version 13 or later.

    url: as the driver takes it. listen_url: where to LISTEN, when `url` leads to a pooler, which cannot; then nothing is
    prepared, and `busy` is the server's own lock_timeout. busy: seconds to wait for a lock of somebody else, default 10.
    """

    capabilities = frozenset({"tx", "locks", "edges", "start_in"})

    def __init__(self, url: str, *, clock: Clock | None = None, listen_url: str | None = None, busy: float | str = 10.0) -> None:
        self._url = url
        self._listen_url = listen_url or url
        self._pooled = listen_url is not None
        self._busy = units.seconds("busy", busy)
        self.clock = clocks.resolve(clock)
        try:
            parts = conninfo_to_dict(url)
            conninfo_to_dict(self._listen_url)
        except psycopg.ProgrammingError:
            raise ValueError('url must read like "postgresql://user@host:5432/database"; the driver cannot read it') from None
        self._target = str(parts.get("dbname") or parts.get("user") or "")
        self._place = f"{parts.get('host', 'the local socket')}:{parts.get('port', 5432)}/{self._target}"
        patience = "" if self._pooled else f"-c lock_timeout={int(self._busy * 1000)}"  # a pooler takes no options
        self._options = f"{parts.get('options') or ''} {patience}".strip()
        self.timeline = 0
        self.skew = 0.0
        self.unheard = 0
        self._sync_by_itself = True
        self._open = False
        self._writer: Connection | None = None
        self._bell: Connection | None = None
        self._heart: Connection | None = None
        self._mine: tuple[str, float] | None = None
        self._writing = threading.RLock()
        self._readers: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    # --- opening and closing

    def there(self) -> bool:
        """Whether the database has our tables; nothing is made. Raises JournalError when it cannot be reached."""
        with self.translated(), psycopg.connect(self._url, autocommit=True, connect_timeout=10, row_factory=tuple_row) as asked:
            found = asked.execute(KNOWN["postgres"]).fetchone()
        return bool(found and found[0])

    def open(self) -> None:
        """Connect and make or check the tables. Raises JournalError."""
        try:
            with self._writing:
                self._open = True
                writer = self._write_connection()
                with writer.transaction():
                    writer.execute(f"SELECT pg_advisory_xact_lock({MIGRATING})")
                    migrate(PostgresTx(writer).execute, "postgres", self._place)
        except psycopg.Error as error:
            self.close()
            raise self.translate(error) from error
        except JournalError:
            self.close()
            raise

    def connect(self, url: str | None = None) -> Connection:
        """A new connection, each statement its own transaction until it says BEGIN."""
        if not self._open:
            raise JournalMissing(f"the journal {self._place} is closed")
        return psycopg.connect(
            url or self._url, autocommit=True, prepare_threshold=None if self._pooled else 5, connect_timeout=10,
            application_name="seawall", options=self._options, keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
        )  # fmt: skip

    def _write_connection(self) -> Connection:
        if self._writer is None or self._writer.closed:
            self._writer = writer = self.connect()
            found = writer.execute(sql.TIMELINE).fetchone()
            assert found is not None
            self.timeline, self._sync_by_itself, moment = int(found[0]), bool(found[1]), float(found[2])
            self.skew = moment - self.clock.wall()
            if not self.timeline:
                raise JournalReadOnly(f"the journal {self._place}: {sql.READ_ONLY}")
        return self._writer

    def close(self) -> None:
        """Close every connection."""
        with self._writing:
            self._open = False
            connections = [self._writer, self._bell]
            self._writer = self._bell = None
            while not self._readers.empty():
                connections.append(self._readers.get())
            for connection in connections:
                if connection is not None:
                    connection.close()

    # --- writing

    @contextlib.contextmanager
    def _transaction(self, connection: Connection, *, sync: bool) -> Iterator[PostgresTx]:
        with connection.transaction():
            self.set_sync(connection, sync=sync)
            yield PostgresTx(connection)

    def set_sync(self, connection: Connection, *, sync: bool) -> None:
        """Whether this transaction's commit waits for the disk."""
        if sync != self._sync_by_itself:
            connection.execute(f"SET LOCAL synchronous_commit = {'on' if sync else 'off'}")

    def apply(self, ops: list[Op], *, sync: bool) -> list[Any]:
        """Run a batch in one transaction, which is one statement when it holds nothing but appends."""
        with self._writing:
            writer = self._write_connection()
            starts, appends, verbs = _sorted(ops)
            if sync == self._sync_by_itself and _simple(appends, verbs):
                tx = PostgresTx(writer)
                results = self._in_one(tx, starts, appends)
            else:
                with self._transaction(writer, sync=sync) as tx:
                    if any(op.ends for op in appends) or any(op.locks for op in verbs):
                        tx.lock_locks()  # first of all, so that no two of us wait for each other's rows
                    results = self._all(tx, starts, appends, verbs)
            self._ring(tx.woken)
            return [results[id(op)] for op in ops]

    def _in_one(self, tx: PostgresTx, starts: list[Start], appends: list[Append]) -> dict[int, Any]:
        """What is no more than starts and appends, in one statement, which is its own transaction."""
        if not starts or not appends:
            found = self._starts(tx, starts) if starts else self._appends(tx, appends)
            return _by_op([*starts, *appends], found)
        rows = tx.connection.execute(sql.BOTH, (*sql.starts(starts), *sql.appends(appends))).fetchall()
        kept = {row[0] for row in rows}
        return _by_op([*starts, *appends], [*self._started(tx, starts, kept), *self._kept(tx, appends, kept)])

    def _all(self, tx: PostgresTx, starts: list[Start], appends: list[Append], verbs: list[Verb]) -> dict[int, Any]:
        results = _by_op(starts, self._starts(tx, starts) if starts else [])
        for group in sql.rounds(appends):
            results |= _by_op(group, self._appends(tx, group))
        for append in appends:
            if append.ends and results[id(append)] is None:
                after_end(tx, append.id)
        alone = len(starts) + len(appends) + len(verbs) == 1
        return results | _by_op(verbs, [self._verb(tx, op, alone=alone) for op in verbs])

    def _verb(self, tx: PostgresTx, op: Verb, *, alone: bool) -> Any:
        """One that refuses takes back what it did, and the others stand."""
        if alone:
            return op.run(tx)
        try:
            with tx.connection.transaction():
                return op.run(tx)
        except SeawallError as refusal:
            return refusal

    def _starts(self, tx: PostgresTx, ops: list[Start]) -> list[Started]:
        return self._started(tx, ops, {row[0] for row in tx.connection.execute(sql.START, sql.starts(ops)).fetchall()})

    def _started(self, tx: PostgresTx, ops: list[Start], fresh: set[str]) -> list[Started]:
        tx.woken += [op.id for op in ops if op.owner is None and op.id in fresh]
        return [sql.started(op, self._row_of(tx, op, known=op.id in fresh)) for op in ops]

    def _row_of(self, tx: PostgresTx, op: Start, *, known: bool) -> tuple[Any, ...]:
        return (op.id, op.input_hash) if known else tx.connection.execute(sql.OLDER, (op.user_id, op.name)).fetchall()[0]

    def _appends(self, tx: PostgresTx, ops: list[Append]) -> list[LeaseLost | None]:
        return self._kept(tx, ops, {row[0] for row in tx.connection.execute(sql.APPEND, sql.appends(ops)).fetchall()})

    def _kept(self, tx: PostgresTx, ops: list[Append], kept: set[str]) -> list[LeaseLost | None]:
        tx.woken += [op.id for op in ops if op.release and op.wake == 0.0 and op.id in kept]  # given back: who takes it?
        return [None if op.id in kept else written(tx, op) for op in ops]

    def _ring(self, sagas: list[str]) -> None:
        """Tell the other processes, once per batch, over a connection that does nothing else: a NOTIFY makes commits queue."""
        if not sagas:
            return
        called = json.dumps(sorted(set(sagas))) if len(sagas) <= sql.LONGEST_CALL else "[]"
        try:
            if self._bell is None or self._bell.closed:
                self._bell = self.connect()
            self._bell.execute(sql.CALL, (sql.CHANNEL, called))
        except psycopg.Error:
            self.unheard += 1  # they find it when they poll

    # --- reading

    def read(self, run: Callable[[PostgresTx], Any]) -> Any:
        """Run queries in one snapshot, on a connection of a small pool."""
        for last in (False, True):
            try:
                return self._read(run)
            except psycopg.Error as error:
                if last or not self.retryable(error):
                    raise self.translate(error) from error
        raise AssertionError

    def _read(self, run: Callable[[PostgresTx], Any]) -> Any:
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = self.connect()
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                return run(PostgresTx(connection, reading=True))
            finally:
                if not connection.closed:
                    connection.execute("ROLLBACK")
        finally:
            if not self._open or connection.closed or self._readers.qsize() >= 4:
                connection.close()
            else:
                self._readers.put(connection)

    # --- errors

    def retryable(self, error: BaseException) -> bool:
        """What another try can heal: serialisation, deadlocks, and a connection that was lost."""
        return isinstance(error, psycopg.Error) and sql.can_heal(error.sqlstate, lost=isinstance(error, psycopg.OperationalError))

    def translate(self, error: BaseException) -> BaseException:
        """The server's errors as ours, with advice."""
        return sql.problem(self._place, error, error.sqlstate) if isinstance(error, psycopg.Error) else error

    # --- steps in a transaction, and starts in the caller's

    def in_transaction(
        self, fn: Callable[[PostgresTx], Any], append: Callable[[Any], Append], guard: Append, limit: float
    ) -> Any:
        """Run a tx step in a transaction of its own, whose first lock is the saga's row; it is cut off after `limit` seconds."""
        return run_step(self, fn, append, guard, limit)

    def tx(self, connection: Connection) -> PostgresTx:
        """A connection's transaction."""
        return PostgresTx(connection)

    def cut(self, connection: Connection) -> None:
        """End the statement that runs on a connection, if one does."""
        with contextlib.suppress(psycopg.Error):  # then there is nothing left to end
            connection.cancel_safe(timeout=5.0)

    def append_one(self, connection: Connection, op: Append) -> LeaseLost | None:
        """One append in a transaction that is under way."""
        tx = PostgresTx(connection)
        if op.ends:
            tx.lock_locks()
        lost = self._appends(tx, [op])[0]
        if op.ends and lost is None:
            after_end(tx, op.id)
        return lost

    def start_in(self, connection: Any, start: Start) -> Started:
        """Start a saga with the caller's own `psycopg.Connection` to the same database, in its transaction."""
        if not isinstance(connection, psycopg.Connection):
            raise TypeError(f"tx must be a psycopg.Connection to {self._place}; got {type(connection).__name__}")
        self._must_be_ours(connection)
        cursor = psycopg.Cursor(connection, row_factory=tuple_row)
        cursor.execute(sql.CALL, (sql.CHANNEL, json.dumps([start.id])))  # heard once it is committed
        fresh = cursor.execute(sql.START, sql.starts([start])).fetchone()
        return sql.started(start, fresh or cursor.execute(sql.OLDER, (start.user_id, start.name)).fetchone())

    async def astart_in(self, connection: Any, start: Start) -> Started:
        """The same with a `psycopg.AsyncConnection`."""
        if not isinstance(connection, psycopg.AsyncConnection):
            raise TypeError(f"tx must be a psycopg connection to {self._place}; got {type(connection).__name__}")
        self._must_be_ours(connection)
        cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
        await cursor.execute(sql.CALL, (sql.CHANNEL, json.dumps([start.id])))
        fresh = await (await cursor.execute(sql.START, sql.starts([start]))).fetchone()
        return sql.started(start, fresh or await (await cursor.execute(sql.OLDER, (start.user_id, start.name))).fetchone())

    def _must_be_ours(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        found = connection.info.dbname
        if found != self._target or connection.closed:
            raise TypeError(f"tx must be an open connection to the journal's own database {self._place}; it is to {found}")

    # --- being alive

    def register(self, worker: str, lease: float, hashes: Iterable[str]) -> None:
        """Become a worker, from now for `lease` seconds."""
        row = (worker, boot_id(), lease, socket.gethostname(), os.getpid(), json.dumps(sorted(hashes)))
        with self.translated(), self._writing:
            writer = self._write_connection()
            writer.execute(sql.BURY)
            writer.execute(sql.REGISTER, row)
        self._mine = (worker, lease)

    def beat(self) -> bool:
        """Extend the lease, from the heartbeat's thread and over its own connection; False when it is over."""
        if self._mine is None:
            return False
        worker, lease = self._mine
        with self.translated():
            try:
                if self._heart is None or self._heart.closed:
                    self._heart = self.connect()
                found = self._heart.execute(sql.BEAT, (lease, worker)).fetchone()
            except psycopg.Error:
                self._drop_heart()
                raise
        if found is None:
            return False
        self.skew = float(found[0]) - self.clock.wall()
        return True

    def _drop_heart(self) -> None:
        if self._heart is not None:
            self._heart.close()
            self._heart = None

    def leave(self) -> None:
        """End the lease; who was waiting for it need wait no longer."""
        mine, self._mine = self._mine, None
        self._drop_heart()
        if mine is not None and self._open:
            with self.translated(), self._writing:
                self._write_connection().execute(sql.LEAVE, (mine[0],))

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """The server's errors leave as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self.translate(error) from error

    def listen(self, heard: Callable[[str], None]) -> Callable[[], None] | None:
        """Hear of wake-ups from other processes, in a thread with a connection of its own."""
        ear = Ear(self, self._listen_url, heard)
        ear.start()
        return ear.stop


def _sorted(ops: list[Op]) -> tuple[list[Start], list[Append], list[Verb]]:
    """A batch by kinds, each in its order."""
    kinds: tuple[list[Start], list[Append], list[Verb]] = ([], [], [])
    for op in ops:
        if isinstance(op, Start):
            kinds[0].append(op)
        elif isinstance(op, Append):
            kinds[1].append(op)
        else:
            kinds[2].append(op)
    return kinds


def _simple(appends: list[Append], verbs: list[Verb]) -> bool:
    """Whether one statement can say it all: no verbs, no ends that others wait for, each saga once."""
    return not verbs and not any(op.ends for op in appends) and len({op.id for op in appends}) == len(appends)


def _by_op(ops: Sequence[Op], results: Iterable[Any]) -> dict[int, Any]:
    return {id(op): result for op, result in zip(ops, results, strict=True)}
