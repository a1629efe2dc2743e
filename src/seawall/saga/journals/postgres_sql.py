"""What is said to PostgreSQL: one statement for a whole batch of starts, one for a whole batch of appends."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Final

from seawall.saga.errors import JournalError, JournalFull, JournalLocked, JournalMissing, JournalReadOnly
from seawall.saga.port import Append, Start, Started, parks

NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
CHANNEL: Final = "seawall_saga"
LONGEST_CALL: Final = 200  # ids in one NOTIFY, whose payload ends at 8000 bytes

_NEW: Final = """INSERT INTO saga (id, name, version, def_hash, user_key, input_hash, input, status, epoch, stamp, owner,
    wake_at, deadline, parent, tags, created, updated)
  SELECT o.id, o.name, o.version, o.def_hash, o.user_key, o.input_hash, o.input,
    CASE WHEN o.owner IS NULL THEN 'pending' ELSE 'running' END, CASE WHEN o.owner IS NULL THEN 0 ELSE 1 END, 0, o.owner, m.now,
    m.now + o.deadline, o.parent, o.tags, m.now, m.now
  FROM m, unnest(%s::text[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[], %s::text[],
    %s::text[], %s::text[]) AS o(id, name, version, def_hash, user_key, input_hash, input, deadline, parent, tags, owner)
  ON CONFLICT (user_key, name) DO NOTHING RETURNING id, input_hash"""

_KEPT: Final = """kept AS (
    UPDATE saga s SET stamp=o.stamp, status=o.status,
      wake_at=CASE WHEN o.parks AND s.attention=1 THEN m.now ELSE m.now + o.wake END,
      owner=CASE WHEN o.release THEN NULL ELSE s.owner END, touched=o.touched, notes=o.notes, output=o.output, error=o.error,
      takeovers=CASE WHEN o.further THEN 0 ELSE s.takeovers END, updated=m.now
    FROM m, unnest(%s::text[], %s::text[], %s::int[], %s::int[], %s::int[], %s::text[], %s::bool[], %s::float8[], %s::bool[],
      %s::text[], %s::text[], %s::text[], %s::text[], %s::bool[])
      AS o(id, owner, epoch, stamp, after, status, parks, wake, release, touched, notes, output, error, further)
    WHERE s.id=o.id AND s.epoch=o.epoch AND s.owner=o.owner AND s.stamp=o.after
      AND EXISTS (SELECT 1 FROM saga_worker w WHERE w.id=o.owner AND w.until > m.now)
    RETURNING s.id),
  put AS (
    INSERT INTO saga_step (saga_id, seq, step, phase, outcome, round, attempt, result, error, worker, epoch, started, ended)
    SELECT l.* FROM unnest(%s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::text[],
      %s::text[], %s::text[], %s::int[], %s::float8[], %s::float8[])
      AS l(saga_id, seq, step, phase, outcome, round, attempt, result, error, worker, epoch, started, ended)
    JOIN kept k ON k.id=l.saga_id)"""
_MOMENT: Final = f"WITH m AS MATERIALIZED (SELECT {NOW} AS now)"
START: Final = f"{_MOMENT} {_NEW}"
APPEND: Final = f"{_MOMENT}, {_KEPT} SELECT id FROM kept"
BOTH: Final = f"{_MOMENT}, fresh AS ({_NEW}), {_KEPT} SELECT id FROM fresh UNION ALL SELECT id FROM kept"

REGISTER: Final = f"""INSERT INTO saga_worker (id, boot, until, host, pid, hashes, since)
  VALUES (%s, %s, {NOW} + %s, %s, %s, %s, {NOW})"""
BURY: Final = (
    f"""DELETE FROM saga_worker w WHERE w.until < {NOW} - 3600 AND NOT EXISTS (SELECT 1 FROM saga s WHERE s.owner=w.id)"""
)
BEAT: Final = f"UPDATE saga_worker SET until={NOW} + %s WHERE id=%s AND until > {NOW} RETURNING {NOW}"
CALL: Final = "SELECT pg_notify(%s, %s)"
OLDER: Final = "SELECT id, input_hash FROM saga WHERE user_key=%s AND name=%s"
LEAVE: Final = "DELETE FROM saga_worker WHERE id=%s"
HOLDS: Final = f"""SELECT s.stamp FROM saga s JOIN saga_worker w ON w.id=s.owner AND w.until > {NOW}
  WHERE s.id=%s AND s.epoch=%s AND s.owner=%s AND s.stamp=%s FOR UPDATE OF s"""
TIMELINE: Final = f"""SELECT CASE WHEN pg_is_in_recovery() THEN 0
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
  current_setting('synchronous_commit') <> 'off', {NOW}"""


AGAIN: Final = ("40001", "40P01", "57P01", "57P02", "57P03", "57P05", "08000", "08001", "08003", "08004", "08006")
READ_ONLY: Final = "it takes no writes, as a standby does: connect to the primary"
_RIGHTS: Final = "this role may not use its tables: grant it the rights"
_FULL: Final = "its disk or memory is full: free some; sagas go on by themselves then"
_LOCKED: Final = "somebody else holds its rows or tables locked: end that transaction"
_AWAY: Final = (
    "it cannot be reached: check that the server runs; whether the last write was made is not known, but a start can be repeated "
    "with its id"
)
_KINDS: Final[dict[str, tuple[type[JournalError], str]]] = {
    "25006": (JournalReadOnly, READ_ONLY), "42501": (JournalReadOnly, _RIGHTS), "53100": (JournalFull, _FULL),
    "53200": (JournalFull, _FULL), "55P03": (JournalLocked, _LOCKED),
}  # fmt: skip


def can_heal(state: str | None, *, lost: bool) -> bool:
    """Whether the same batch can succeed when it is sent again. lost: the driver says that the connection is at fault."""
    return state in AGAIN or (lost and state is None)


def problem(place: str, error: BaseException, state: str | None) -> JournalError:
    """The server's error as ours, with advice."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    kind, advice = _KINDS.get(state or "", (JournalMissing, _AWAY) if can_heal(state, lost=True) else (JournalError, ""))
    return kind(f"the journal {place}: {advice} ({said})") if advice else JournalError(f"the journal {place}: {said}")


def starts(ops: list[Start]) -> tuple[str, ...]:
    """The columns of a batch of starts."""
    return (
        texts([op.id for op in ops]), texts([op.name for op in ops]), numbers([op.version for op in ops]),
        texts([op.hash for op in ops]), texts([op.user_id for op in ops]), texts([op.input_hash for op in ops]),
        texts([op.input for op in ops]), numbers([op.deadline for op in ops]), texts([op.parent for op in ops]),
        texts([op.tags for op in ops]), texts([op.owner for op in ops]),
    )  # fmt: skip


def started(op: Start, row: tuple[Any, ...] | None) -> Started:
    """What became of a start, from the row that now has its id."""
    assert row is not None
    return Started(row[0], row[1], new=row[0] == op.id)


def appends(ops: list[Append]) -> tuple[str, ...]:
    """The columns of a batch of appends, then those of their records."""
    lines = [(op, record) for op in ops for record in op.records]
    return (
        texts([op.id for op in ops]), texts([op.owner for op in ops]), numbers([op.epoch for op in ops]),
        numbers([op.stamp for op in ops]), numbers([op.after for op in ops]), texts([op.status for op in ops]),
        truths([parks(op) for op in ops]), numbers([op.wake for op in ops]), truths([op.release for op in ops]),
        texts([op.touched for op in ops]), texts([op.notes for op in ops]), texts([op.output for op in ops]),
        texts([op.error for op in ops]), truths([bool(op.records) for op in ops]),
        texts([op.id for op, _ in lines]), numbers([r.seq for _, r in lines]), texts([r.step for _, r in lines]),
        texts([r.phase for _, r in lines]), texts([r.outcome for _, r in lines]), numbers([r.round for _, r in lines]),
        numbers([r.attempt for _, r in lines]), texts([r.result for _, r in lines]), texts([r.error for _, r in lines]),
        texts([op.owner for op, _ in lines]), numbers([op.epoch for op, _ in lines]),
        numbers([r.started for _, r in lines]), numbers([r.ended for _, r in lines]),
    )  # fmt: skip


def texts(values: list[str | None]) -> str:
    """An array of text as the server reads it; the driver's own way takes three times as long."""
    told = ("NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return "{" + ",".join(told) + "}"


def numbers(values: Sequence[float | None]) -> str:
    """An array of numbers."""
    return "{" + ",".join(["NULL" if value is None else repr(value) for value in values]) + "}"


def truths(values: list[bool]) -> str:
    """An array of truth values."""
    return "{" + ",".join(["t" if value else "f" for value in values]) + "}"


def rounds(ops: list[Append]) -> list[list[Append]]:
    """The appends in as few groups as hold each saga at most once: one statement can change a row only once."""
    groups: list[list[Append]] = []
    seen: dict[str, int] = {}
    for op in ops:
        place = seen[op.id] = seen.get(op.id, -1) + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(op)
    return groups


@functools.lru_cache(maxsize=1024)
def dialect(sql: str) -> str:
    """A statement with `?` for values, as this driver wants it; what stands in quotes stays."""
    parts = re.split(r"('(?:[^']|'')*')", sql.replace("%", "%%"))
    return "".join(part if part.startswith("'") else part.replace("?", "%s") for part in parts)
