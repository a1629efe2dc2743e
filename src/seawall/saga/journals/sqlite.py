"""The journal in one SQLite file: WAL, synced commits, one writer at a time over all processes, in turn.

Writers queue on a lock of a file beside the database (`flock`, in order of arrival), because SQLite's own waiting is a lottery. A
worker proves that it lives by a lock on a file of its own, held as long as its process lives, and by a moment of the clock
that runs since boot, written into it; neither the database nor the time of day takes part.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from seawall.core import clock as clocks
from seawall.core.clock import Clock
from seawall.core.errors import SeawallError
from seawall.saga.errors import (
    JournalError,
    JournalFull,
    JournalLocked,
    JournalMissing,
    JournalReadOnly,
    LeaseLost,
)
from seawall.saga.journals.alive import Alive, boot_id
from seawall.saga.journals.disk import refuse_networks
from seawall.saga.journals.limit import limited
from seawall.saga.journals.schema import KNOWN, migrate, outbox
from seawall.saga.port import Append, Op, Start, Started, Tx, Verb, parks
from seawall.saga.store import after_end, written

_START: Final = """INSERT INTO saga (id, name, version, def_hash, user_key, input_hash, input, status, epoch, stamp, owner,
    wake_at, deadline, parent, tags, created, updated)
    VALUES (?,?,?,?,?,?,?,?,?,0,?,?,?,?,?,?,?) ON CONFLICT (user_key, name) DO NOTHING"""
_UPDATE: Final = """UPDATE saga SET stamp=?, status=?, wake_at=CASE WHEN ? AND attention=1 THEN ? ELSE ? END,
    owner=CASE WHEN ? THEN NULL ELSE owner END, touched=?, notes=?, output=?, error=?,
    takeovers=CASE WHEN ? THEN 0 ELSE takeovers END, updated=? WHERE id=? AND epoch=? AND owner=? AND stamp=?"""
_RECORD: Final = """INSERT INTO saga_step (saga_id, seq, step, phase, outcome, round, attempt, result, error, worker, epoch,
    started, ended) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"""
_CODES: Final = {8: JournalReadOnly, 13: JournalFull, 5: JournalLocked, 6: JournalLocked, 14: JournalMissing}
_ADVICE: Final = {
    JournalReadOnly: "it is read-only for this process: check the rights of the file and its folder",
    JournalFull: "the disk is full: free some space; sagas go on by themselves then",
    JournalLocked: "another program holds it locked: end that program, or its transaction",
    JournalMissing: "it cannot be opened: check that the folder exists and may be entered",
}


class SqliteTx:
    """One transaction, or one snapshot."""

    __slots__ = ("_journal", "connection", "woken")

    def __init__(self, journal: SqliteJournal, connection: sqlite3.Connection) -> None:
        self._journal = journal
        self.connection = connection
        self.woken: list[str] = []

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        return self.connection.execute(sql, parameters).fetchall()

    def now(self) -> float:
        """The time of day by this machine."""
        return self._journal.clock.wall()

    def wake(self, saga: str) -> None:
        """Others find it when they poll."""
        self.woken.append(saga)

    def living(self) -> list[str]:
        """Workers whose file says that they live."""
        return [name for (name,) in self.execute("SELECT id FROM saga_worker") if self._journal.lives(name)]

    def lock_rows(self, *, skip: bool = False) -> str:  # noqa: ARG002  # answers to the port
        """There is one writer at a time anyway."""
        return ""

    def lock_locks(self) -> None:
        """For the same reason."""

    def publish(self, topic: str, key: str, kind: str, payload: Any) -> str:
        """Put an event into the outbox."""
        return outbox(self, topic, key, kind, payload)


class SqliteJournal:
    """A journal in one file.

    path: of the file; made when it is missing, in a folder that exists. busy: seconds to wait for another program's lock.
    """

    timeline = 1
    skew = 0.0
    capabilities = frozenset({"tx", "locks", "edges", "start_in"})

    def __init__(self, path: str | Path, *, clock: Clock | None = None, busy: float = 10.0) -> None:
        self.path = Path(path)
        self.clock = clocks.resolve(clock)
        self._busy = busy
        self._writer: sqlite3.Connection | None = None
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._turn: int | None = None
        self._writing = threading.RLock()
        self._alive = Alive(Path(f"{path}-workers"))
        self._synced: bool | None = None

    # --- opening and closing

    def there(self) -> bool:
        """Whether the file is there and has our tables; nothing is written."""
        if not self.path.is_file():
            return False
        try:
            with contextlib.closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                return bool(connection.execute(KNOWN["sqlite"]).fetchone()[0])
        except sqlite3.DatabaseError:
            return False

    def open(self) -> None:
        """Open the file and make or check the tables. Raises JournalError, also on a network file system."""
        if not self.path.parent.is_dir():
            raise JournalMissing(f"the journal {self.path} cannot be made: there is no folder {self.path.parent}")
        refuse_networks(self.path)
        try:
            self._turn = os.open(f"{self.path}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._writer = self._connect()
            with self._my_turn():
                self._prepare(self._writer)
        except PermissionError as error:
            self.close()
            raise JournalReadOnly(f"the journal {self.path} cannot be written: {error}") from error
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self.translate(error) from error
        except JournalError:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=self._busy)
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(f"the journal {self.path} cannot use a write-ahead log (its mode stays {mode}); use a local disk")
        connection.execute("BEGIN IMMEDIATE")
        try:
            migrate(SqliteTx(self, connection).execute, "sqlite", str(self.path))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close every connection. The lease is ended by `leave`."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            while not self._readers.empty():
                self._readers.get().close()
            if self._turn is not None:
                os.close(self._turn)
                self._turn = None

    # --- writing

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        """Wait in line with the writers of all processes."""
        with self._writing:
            if self._turn is None:
                raise JournalMissing(f"the journal {self.path} is closed")
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._turn, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _transaction(self, *, sync: bool) -> Iterator[SqliteTx]:
        with self._my_turn():
            writer = self._writer
            assert writer is not None
            if self._synced != sync:
                writer.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
                self._synced = sync
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield SqliteTx(self, writer)
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise

    def apply(self, ops: list[Op], *, sync: bool) -> list[Any]:
        """Run a batch in one transaction."""
        with self._transaction(sync=sync) as tx:
            now = tx.now()
            return [self._one(tx, op, now, alone=len(ops) == 1) for op in ops]

    def _one(self, tx: SqliteTx, op: Op, now: float, *, alone: bool) -> Any:
        if isinstance(op, Append):
            return self._append(tx.connection, op, now)
        if isinstance(op, Start):
            return self._start(tx.connection, op, now)
        if alone:
            return op.run(tx)
        tx.connection.execute("SAVEPOINT verb")
        try:
            return op.run(tx)
        except SeawallError as refusal:  # it takes back what it did, and the others stand
            tx.connection.execute("ROLLBACK TO verb")
            return refusal
        finally:
            if tx.connection.in_transaction:
                tx.connection.execute("RELEASE verb")

    def _start(self, connection: sqlite3.Connection | sqlite3.Cursor, op: Start, now: float) -> Started:
        deadline = None if op.deadline is None else now + op.deadline
        status, epoch = ("running", 1) if op.owner else ("pending", 0)
        row = (op.id, op.name, op.version, op.hash, op.user_id, op.input_hash, op.input, status, epoch, op.owner, now, deadline)
        if connection.execute(_START, (*row, op.parent, op.tags, now, now)).rowcount == 1:
            return Started(op.id, op.input_hash, new=True)
        found = connection.execute(
            "SELECT id, input_hash FROM saga WHERE user_key=? AND name=?", (op.user_id, op.name)
        ).fetchone()
        return Started(found[0], found[1], new=found[0] == op.id)

    def _append(self, connection: sqlite3.Connection, op: Append, now: float) -> LeaseLost | None:
        wake = None if op.wake is None else now + op.wake
        state = (
            op.stamp,
            op.status,
            parks(op),
            now,
            wake,
            op.release,
            op.touched,
            op.notes,
            op.output,
            op.error,
            bool(op.records),
            now,
        )
        if connection.execute(_UPDATE, (*state, op.id, op.epoch, op.owner, op.after)).rowcount == 0:
            return written(SqliteTx(self, connection), op)
        if op.records:
            connection.executemany(
                _RECORD,
                [
                    (op.id, r.seq, r.step, r.phase, r.outcome, r.round, r.attempt, r.result, r.error, op.owner, op.epoch,
                     r.started, r.ended)
                    for r in op.records
                ],
            )  # fmt: skip
        if op.ends:
            after_end(SqliteTx(self, connection), op.id)
        return None

    # --- reading

    def read(self, run: Callable[[SqliteTx], Any]) -> Any:
        """Run queries in one snapshot, on a connection of a small pool."""
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            if self._turn is None:
                raise JournalMissing(f"the journal {self.path} is closed") from None
            connection = self._connect()
            connection.execute("PRAGMA query_only=ON")
        try:
            connection.execute("BEGIN")
            try:
                return run(SqliteTx(self, connection))
            finally:
                connection.execute("ROLLBACK")
        finally:
            if self._turn is None or self._readers.qsize() >= 4:
                connection.close()
            else:
                self._readers.put(connection)

    # --- errors

    def retryable(self, error: BaseException) -> bool:
        """Busy is for later; everything else stays."""
        return isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", 0) & 255 in (5, 6)

    def translate(self, error: BaseException) -> BaseException:
        """SQLite's error codes as ours, with advice."""
        if not isinstance(error, sqlite3.Error):
            return error
        kind = _CODES.get(getattr(error, "sqlite_errorcode", 0) & 255)
        if kind is None:
            return JournalError(f"the journal {self.path}: {error}") if isinstance(error, sqlite3.DatabaseError) else error
        return kind(f"the journal {self.path}: {_ADVICE[kind]} ({error})")

    # --- steps in a transaction, and starts in the caller's

    def in_transaction(self, fn: Callable[[SqliteTx], Any], append: Callable[[Any], Append], guard: Append, limit: float) -> Any:
        """Run a tx step under the writers' turn, on a connection of its own that is interrupted after `limit` seconds."""
        connection = self._connect()
        try:
            with self._my_turn():
                self._ours(connection, "BEGIN IMMEDIATE")
                held = (guard.id, guard.epoch, guard.owner, guard.after)
                if not connection.execute("SELECT 1 FROM saga WHERE id=? AND epoch=? AND owner=? AND stamp=?", held).fetchone():
                    raise LeaseLost(f"saga {guard.id} is not owned under epoch {guard.epoch} any more")
                with limited(connection.interrupt, limit):
                    result = fn(SqliteTx(self, connection))
                lost = self._append(connection, append(result), self.clock.wall())
                if lost is not None:
                    raise lost
                self._ours(connection, "COMMIT")
            return result
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()

    def _ours(self, connection: sqlite3.Connection, statement: str) -> None:
        """A statement whose failure is the journal's, not the step's."""
        try:
            connection.execute(statement)
        except sqlite3.Error as error:
            raise self.translate(error) from error

    def start_in(self, connection: Any, start: Start) -> Started:
        """Start a saga with the caller's own `sqlite3.Connection` to the same file, in its transaction."""
        if not isinstance(connection, sqlite3.Connection):
            raise TypeError(f"tx must be a sqlite3.Connection to {self.path}; got {type(connection).__name__}")
        cursor = connection.cursor()
        cursor.row_factory = None
        found = [Path(row[2]) for row in cursor.execute("PRAGMA database_list") if row[1] == "main"]
        if not found or not found[0].exists() or not found[0].samefile(self.path):
            raise TypeError(f"tx must be a connection to the journal's own file {self.path}; it is to {found and found[0]}")
        if not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        return self._start(cursor, start, self.clock.wall())

    async def astart_in(self, connection: Any, start: Start) -> Started:  # noqa: ARG002  # answers to the port
        """A file has no asynchronous driver here."""
        raise TypeError(f"tx must be a sqlite3.Connection to {self.path}; got {type(connection).__name__}")

    # --- being alive

    def register(self, worker: str, lease: float, hashes: Iterable[str]) -> None:
        """Take the lock that says that this process lives, and write the row that others find it by."""
        self._alive.begin(worker, lease)
        row = (worker, boot_id(), socket.gethostname(), os.getpid(), json.dumps(sorted(hashes)), self.clock.wall())
        sql = "INSERT INTO saga_worker (id, boot, host, pid, hashes, since) VALUES (?,?,?,?,?,?)"
        self.apply([Verb(self._bury), Verb(lambda tx: tx.execute(sql, row))], sync=False)

    def _bury(self, tx: Tx) -> None:
        """Forget dead workers that own nothing any more."""
        owners = {owner for (owner,) in tx.execute("SELECT DISTINCT owner FROM saga WHERE owner IS NOT NULL")}
        for (name,) in tx.execute("SELECT id FROM saga_worker"):
            if name not in owners and not self.lives(name):
                tx.execute("DELETE FROM saga_worker WHERE id=?", (name,))
                self._alive.forget(name)

    def beat(self) -> bool:
        """Write a later moment into the worker's own file; False when the one before has passed."""
        return self._alive.beat()

    def leave(self) -> None:
        """Let go of the lock and take the row away."""
        worker = self._alive.end()
        if worker is not None and self._writer is not None:
            self.apply([Verb(lambda tx: tx.execute("DELETE FROM saga_worker WHERE id=?", (worker,)))], sync=False)

    def lives(self, worker: str) -> bool:
        """Whether a worker's process holds its lock and its moment has not passed."""
        return self._alive.lives(worker)

    def listen(self, heard: Callable[[str], None]) -> Callable[[], None] | None:  # noqa: ARG002  # answers to the port
        """A file tells nobody; polling is the truth."""
        return None
