"""The tables of both ends. The columns of the outbox have the names that Debezium's outbox router looks for."""

from __future__ import annotations

from typing import Final

_OUTBOX: Final = """CREATE TABLE IF NOT EXISTS outbox (
    position {serial}, id TEXT NOT NULL UNIQUE, aggregatetype TEXT NOT NULL, aggregateid TEXT NOT NULL, type TEXT NOT NULL,
    payload TEXT NOT NULL, created {real} NOT NULL, published {real}, attempts INTEGER NOT NULL DEFAULT 0,
    due {real} NOT NULL DEFAULT 0, error TEXT{more})"""
_REST: Final = (
    "CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (position) WHERE published IS NULL",
    "CREATE INDEX IF NOT EXISTS outbox_sent ON outbox (published) WHERE published IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS inbox (
        consumer TEXT NOT NULL, message_id TEXT NOT NULL, received {real} NOT NULL, done {real},
        receive_count INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (consumer, message_id))""",
    "CREATE INDEX IF NOT EXISTS inbox_done ON inbox (done) WHERE done IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS dead_letter (
        id {serial}, side TEXT NOT NULL, consumer TEXT NOT NULL, message_id TEXT NOT NULL, payload TEXT NOT NULL,
        error TEXT NOT NULL, died {real} NOT NULL, replayed {real})""",
)
_WORDS: Final = {
    "sqlite": {"real": "REAL", "serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "more": ""},
    "postgresql": {
        "real": "DOUBLE PRECISION",
        "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "more": ", xid xid8 NOT NULL DEFAULT pg_current_xact_id()",
    },
}


def tables(kind: str) -> dict[str, str]:
    """The statements that make tables and indexes, by their names. kind: "sqlite" or "postgresql"."""
    return {statement.split()[5]: statement.format(**_WORDS[kind]) for statement in (_OUTBOX, *_REST)}
