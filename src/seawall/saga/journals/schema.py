"""The tables, the same in every database, and the steps from one version of them to the next."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from seawall.saga.errors import JournalTooNew
from seawall.saga.port import Tx

_FIRST: Final = (
    """CREATE TABLE IF NOT EXISTS saga (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL, def_hash TEXT NOT NULL, user_key TEXT NOT NULL,
        input_hash TEXT NOT NULL, input TEXT, status TEXT NOT NULL, epoch INTEGER NOT NULL, stamp INTEGER NOT NULL,
        owner TEXT, wake_at {real}, deadline {real}, parent TEXT, touched TEXT, notes TEXT, takeovers INTEGER NOT NULL DEFAULT 0,
        attention INTEGER NOT NULL DEFAULT 0, cancel TEXT, output TEXT, error TEXT, tags TEXT,
        created {real} NOT NULL, updated {real} NOT NULL, UNIQUE (user_key, name)){saga_with}""",
    "CREATE INDEX IF NOT EXISTS saga_wake ON saga (wake_at) WHERE wake_at IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS saga_owner ON saga (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS saga_stuck ON saga (updated) WHERE status = 'stuck'",
    """CREATE TABLE IF NOT EXISTS saga_step (
        saga_id TEXT NOT NULL, seq INTEGER NOT NULL, step TEXT NOT NULL, phase TEXT NOT NULL, outcome TEXT NOT NULL,
        round INTEGER NOT NULL, attempt INTEGER NOT NULL, result TEXT, error TEXT, worker TEXT, epoch INTEGER NOT NULL,
        started {real}, ended {real}, PRIMARY KEY (saga_id, seq)){without}""",
    """CREATE TABLE IF NOT EXISTS saga_definition (
        hash TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL, graph TEXT NOT NULL, first_seen {real} NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS saga_signal (
        saga_id TEXT NOT NULL, signal_id TEXT NOT NULL, name TEXT NOT NULL, payload TEXT, at {real} NOT NULL,
        PRIMARY KEY (saga_id, signal_id))""",
    """CREATE TABLE IF NOT EXISTS saga_worker (
        id TEXT PRIMARY KEY, boot TEXT, until {real}, host TEXT, pid INTEGER, hashes TEXT, since {real} NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS saga_lock (target TEXT PRIMARY KEY, saga_id TEXT NOT NULL, since {real} NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS saga_lock_saga ON saga_lock (saga_id)",
    """CREATE TABLE IF NOT EXISTS saga_lock_wait (
        target TEXT NOT NULL, saga_id TEXT NOT NULL, since {real} NOT NULL, PRIMARY KEY (target, saga_id))""",
    """CREATE TABLE IF NOT EXISTS saga_operator (
        id {serial}, at {real} NOT NULL, saga_id TEXT NOT NULL, verb TEXT NOT NULL, step TEXT, actor TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT, token TEXT UNIQUE)""",
    """CREATE TABLE IF NOT EXISTS saga_archive (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, user_key TEXT NOT NULL, status TEXT NOT NULL, created {real} NOT NULL,
        updated {real} NOT NULL, saga TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS saga_outbox (
        id TEXT PRIMARY KEY, aggregatetype TEXT NOT NULL, aggregateid TEXT NOT NULL, type TEXT NOT NULL, payload TEXT,
        created {real} NOT NULL, published {real})""",
    "CREATE TABLE IF NOT EXISTS saga_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)  # the step to version n stands at n - 1, and never changes once released
WORDS: Final = {
    "sqlite": {"real": "REAL", "without": " WITHOUT ROWID", "saga_with": "", "serial": "INTEGER PRIMARY KEY AUTOINCREMENT"},
    "postgres": {
        "real": "DOUBLE PRECISION",
        "without": "",
        "saga_with": " WITH (fillfactor = 60)",
        "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    },
}
MIGRATING: Final = 0x5EA_5A6A  # PostgreSQL's advisory lock while tables change
KNOWN: Final = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name='saga_meta'",
    "postgres": "SELECT count(*) FROM pg_tables WHERE tablename='saga_meta' AND schemaname=current_schema()",
}
COLUMNS: Final = (
    "id, name, version, def_hash, user_key, input, status, epoch, owner, wake_at, deadline, parent, notes, takeovers, cancel, "
    "output, error, created, updated, tags, input_hash, touched"
)
RECORD: Final = "seq, step, phase, outcome, round, attempt, result, error, started, ended"


def migrate(execute: Callable[..., Sequence[Any]], kind: str, place: str) -> None:
    """Bring the tables to the newest version, in the transaction that `execute` runs statements of.

    Raises JournalTooNew when they are newer than that.
    """
    rows = execute("SELECT value FROM saga_meta WHERE key='version'") if execute(KNOWN[kind])[0][0] else []
    found, newest = int(rows[0][0]) if rows else 0, len(MIGRATIONS)
    if found > newest:
        raise JournalTooNew(
            f"the journal {place} has tables of version {found}, this Seawall knows {newest}: "
            "upgrade Seawall, or use another journal"
        )
    for step in MIGRATIONS[found:]:
        for statement in step:
            execute(statement.format(**WORDS[kind]))
    if found < newest:
        execute("DELETE FROM saga_meta WHERE key='version'")
        execute("INSERT INTO saga_meta (key, value) VALUES ('version', ?)", (str(newest),))


def outbox(tx: Tx, topic: str, key: str, kind: str, payload: Any) -> str:
    """Put an event into the outbox; its id."""
    event = uuid.uuid4().hex
    tx.execute(
        "INSERT INTO saga_outbox (id, aggregatetype, aggregateid, type, payload, created) VALUES (?,?,?,?,?,?)",
        (event, topic, key, kind, json.dumps(payload), tx.now()),
    )
    return event
