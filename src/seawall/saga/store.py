"""What is rare, in SQL that every journal understands: claiming, loading, signals, locks, what follows an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from seawall.saga.errors import LeaseLost, UnknownSaga
from seawall.saga.journals.schema import COLUMNS, RECORD
from seawall.saga.plan import TERMINAL, Record
from seawall.saga.port import RUNNING, Append, Row, Tx

CRASHES: Final = 3


def marks(values: Sequence[Any]) -> str:
    """As many `?` as there are values."""
    return ",".join("?" * len(values)) or "NULL"


def row_of(columns: Sequence[Any]) -> Row:
    """A saga from its columns."""
    (id_, name, version, hash_, user, input_, status, epoch, owner, wake, deadline, parent, notes, takeovers, cancel, output,
     error, created, updated, tags, input_hash, touched) = columns  # fmt: skip
    return Row(
        id=id_, name=name, version=version, hash=hash_, user_id=user, input=input_, status=status, epoch=epoch, owner=owner,
        wake_at=wake, deadline=deadline, parent=parent, notes=notes, takeovers=takeovers, cancel=cancel, output=output,
        error=error, created=created, updated=updated, tags=tags, input_hash=input_hash, before=touched,
    )  # fmt: skip


def record_of(columns: Sequence[Any]) -> Record:
    """A line of the journal from its columns."""
    seq, step, phase, outcome, round_, attempt, result, error, started, ended = columns
    return Record(seq, step, phase, outcome, round_, attempt, result, error, started or 0.0, ended or 0.0)


def runnable(tx: Tx, hashes: Sequence[str], limit: int, *, columns: str = "id") -> list[tuple[Any, ...]]:
    """Sagas that a worker may take: their time has come, and nobody who lives owns them."""
    living = tx.living()
    sql = (
        f"SELECT {columns} FROM saga WHERE wake_at <= ? AND def_hash IN ({marks(hashes)}) "
        f"AND (owner IS NULL OR owner NOT IN ({marks(living)})) ORDER BY wake_at LIMIT ?"
    )
    if not living:
        sql = sql.replace(" AND (owner IS NULL OR owner NOT IN (NULL))", "")
    return tx.execute(sql + tx.lock_rows(skip=True), (tx.now(), *hashes, *living, limit))


def claim(tx: Tx, worker: str, hashes: Sequence[str], limit: int) -> list[Row]:
    """Take up to `limit` sagas, with their journals. What three owners in a row died over without a record is stuck instead."""
    if worker not in tx.living():
        raise LeaseLost(f"the lease of worker {worker} is over")
    found = [row_of(columns) for columns in runnable(tx, hashes, limit, columns=COLUMNS)]
    living = tx.living()  # again: a worker that came meanwhile may have taken what we saw as a dead one's
    found = [row for row in found if row.owner not in living]
    taken = []
    for row in found:
        if row.owner is not None and row.takeovers >= CRASHES:
            why = f"crash_loop: {CRASHES + 1} workers in a row died over it without getting a step further"
            sql = "UPDATE saga SET status='stuck', error=?, owner=NULL, epoch=epoch+1, wake_at=NULL, updated=? WHERE id=?"
            tx.execute(sql, (why, tx.now(), row.id))
        else:
            taken.append(row)
    if not taken:
        return []
    ids = [row.id for row in taken]
    tx.execute(
        "UPDATE saga SET takeovers=takeovers+CASE WHEN owner IS NULL THEN 0 ELSE 1 END, owner=?, epoch=epoch+1, stamp=0, "
        "attention=0, touched=NULL, status=CASE WHEN status IN ('pending','waiting') THEN 'running' ELSE status END "
        f"WHERE id IN ({marks(ids)})",
        (worker, *ids),
    )
    journals = records(tx, ids)
    for row in taken:
        row.clean = row.owner is None
        row.takeovers += row.owner is not None
        row.before = "[]" if row.epoch == 0 else row.before
        row.owner, row.epoch = worker, row.epoch + 1
        row.records = journals.get(row.id, [])
    return taken


def records(tx: Tx, ids: Sequence[str]) -> dict[str, list[Record]]:
    """The journals of some sagas."""
    found: dict[str, list[Record]] = {}
    rows = tx.execute(
        f"SELECT saga_id, {RECORD} FROM saga_step WHERE saga_id IN ({marks(ids)}) ORDER BY saga_id, seq", tuple(ids)
    )
    for saga, *columns in rows:
        found.setdefault(saga, []).append(record_of(columns))
    return found


def find(tx: Tx, user_id: str, name: str | None = None) -> Row:
    """One saga by the user's id, or by its own. Raises UnknownSaga, also when the id belongs to several names."""
    rows = tx.execute(f"SELECT {COLUMNS} FROM saga WHERE user_key=? OR id=?" + tx.lock_rows(), (user_id, user_id))
    found = [row for row in map(row_of, rows) if name is None or row.name == name]
    if not found:
        raise UnknownSaga(f"there is no saga {user_id!r}{f' of the name {name!r}' if name else ''} in this journal")
    if len(found) > 1:
        names = ", ".join(sorted(row.name for row in found))
        raise UnknownSaga(f"{user_id!r} is the id of several sagas: {names}; say which by NAME")
    found[0].records = records(tx, [found[0].id]).get(found[0].id, [])
    return found[0]


def owned(tx: Tx, worker: str) -> list[tuple[Any, ...]]:
    """The sagas that a worker owns, as (id, epoch, attention, hash)."""
    return tx.execute("SELECT id, epoch, attention, def_hash FROM saga WHERE owner=?", (worker,))


def written(tx: Tx, op: Append) -> LeaseLost | None:
    """Whether a write was not for us to make, or was made already and only its answer was lost: then its lines are there."""
    found = tx.execute("SELECT epoch, stamp, owner FROM saga WHERE id=?", (op.id,))
    epoch, stamp, owner = found[0] if found else (None, 0, None)
    if op.tries and epoch == op.epoch and stamp >= op.stamp:
        seqs = [record.seq for record in op.records]
        sql = f"SELECT seq, step, phase, outcome FROM saga_step WHERE saga_id=? AND epoch=? AND seq IN ({marks(seqs)})"
        if set(tx.execute(sql, (op.id, op.epoch, *seqs))) == {(r.seq, r.step, r.phase, r.outcome) for r in op.records}:
            return None
    return LeaseLost(
        f"saga {op.id} is owned by {owner} under epoch {epoch}, not by {op.owner} under {op.epoch}, or that lease is over"
    )


def adopt(tx: Tx, worker: str, sagas: dict[str, int]) -> None:
    """Let go of sagas that a worker owns without running them, because an answer was lost: they can be claimed."""
    for saga, epoch in sagas.items():
        tx.execute(
            "UPDATE saga SET owner=NULL, epoch=epoch+1, stamp=0, wake_at=? WHERE id=? AND owner=? AND epoch=?",
            (tx.now(), saga, worker, epoch),
        )


def epochs(tx: Tx, sagas: Sequence[str]) -> dict[str, int]:
    """The epochs of some sagas."""
    return dict(tx.execute(f"SELECT id, epoch FROM saga WHERE id IN ({marks(sagas)})", tuple(sagas)))


def notice(tx: Tx, saga: str, epoch: int) -> None:
    """The owner has seen that something came."""
    tx.execute("UPDATE saga SET attention=0 WHERE id=? AND epoch=?", (saga, epoch))


def signals(tx: Tx, saga: str) -> dict[str, str | None]:
    """The first payload of each signal that a saga got."""
    rows = tx.execute("SELECT name, payload FROM saga_signal WHERE saga_id=? ORDER BY at DESC, signal_id DESC", (saga,))
    return {name: payload for name, payload in rows}  # noqa: C416  # the first in time comes last, and stays


def send_signal(tx: Tx, user_id: str, name: str, payload: str | None, signal_id: str) -> bool:
    """Keep a signal and wake its saga; False when this signal id came before. Raises UnknownSaga."""
    row = find(tx, user_id)
    fresh = tx.execute(
        "INSERT INTO saga_signal (saga_id, signal_id, name, payload, at) VALUES (?,?,?,?,?) "
        "ON CONFLICT DO NOTHING RETURNING name",
        (row.id, signal_id, name, payload, tx.now()),
    )
    nudge(tx, row.id)
    return bool(fresh)


def nudge(tx: Tx, saga: str) -> None:
    """Let a saga look again: its owner if it has one, else whoever claims it."""
    tx.execute(
        "UPDATE saga SET attention=1, wake_at=CASE WHEN owner IS NULL THEN ? ELSE wake_at END "
        f"WHERE id=? AND status IN ({marks(RUNNING)})",
        (tx.now(), saga, *RUNNING),
    )
    tx.wake(saga)


def take_locks(tx: Tx, saga: str, epoch: int, targets: Iterable[str], *, waits: bool) -> list[str]:
    """Take all targets or none; what is held by other sagas. Raises LeaseLost for an owner that is none any more."""
    tx.lock_locks()
    wanted = sorted(set(targets))
    if not tx.execute("SELECT 1 FROM saga WHERE id=? AND epoch=?", (saga, epoch)):
        raise LeaseLost(f"saga {saga} is not owned under epoch {epoch} any more")
    held = tx.execute(f"SELECT target FROM saga_lock WHERE target IN ({marks(wanted)}) AND saga_id<>?", (*wanted, saga))
    tx.execute("DELETE FROM saga_lock_wait WHERE saga_id=?", (saga,))
    if held:
        for (target,) in held if waits else ():
            tx.execute("INSERT INTO saga_lock_wait (target, saga_id, since) VALUES (?,?,?)", (target, saga, tx.now()))
        return [target for (target,) in held]
    for target in wanted:
        tx.execute(
            "INSERT INTO saga_lock (target, saga_id, since) VALUES (?,?,?) ON CONFLICT DO NOTHING", (target, saga, tx.now())
        )
    return []


def after_end(tx: Tx, saga: str) -> None:
    """A saga has ended: its locks are free, and who waited for them, or for it, looks again."""
    tx.lock_locks()
    freed = [target for (target,) in tx.execute("DELETE FROM saga_lock WHERE saga_id=? RETURNING target", (saga,))]
    tx.execute("DELETE FROM saga_lock_wait WHERE saga_id=?", (saga,))
    if freed:
        for (waiter,) in tx.execute(f"SELECT DISTINCT saga_id FROM saga_lock_wait WHERE target IN ({marks(freed)})", freed):
            nudge(tx, waiter)
    for (parent,) in tx.execute("SELECT parent FROM saga WHERE id=? AND parent IS NOT NULL", (saga,)):
        nudge(tx, parent)


def deadlocked(tx: Tx) -> list[str]:
    """One saga of each circle of sagas that wait for each other's locks: the youngest."""
    edges: dict[str, set[str]] = {}
    for waiter, holder in tx.execute("SELECT w.saga_id, l.saga_id FROM saga_lock_wait w JOIN saga_lock l ON l.target=w.target"):
        edges.setdefault(waiter, set()).add(holder)
    circles = circle_members(edges)
    if not circles:
        return []
    flat = [saga for circle in circles for saga in circle]
    age = dict(tx.execute(f"SELECT id, created FROM saga WHERE id IN ({marks(flat)})", flat))
    return [max(circle, key=lambda saga: (age.get(saga, 0.0), saga)) for circle in circles]


def circle_members(edges: dict[str, set[str]]) -> list[list[str]]:
    """The circles of a graph, each once: every set of nodes that can all reach each other."""
    reach = {start: _reached(edges, start) for start in edges}
    circles = {frozenset(other for other in reach if node in reach[other] and other in seen) for node, seen in reach.items()}
    return [sorted(circle) for circle in circles if circle]


def _reached(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(edges[start])
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += edges.get(node, ())
    return seen


def declare(tx: Tx, rows: Iterable[tuple[str, str, int, str]]) -> None:
    """Keep the graphs (hash, name, version, graph) beside the sagas that run by them."""
    for row in rows:
        tx.execute(
            "INSERT INTO saga_definition (hash, name, version, graph, first_seen) VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING",
            (*row, tx.now()),
        )


def archive(tx: Tx, older_than: float, limit: int) -> int:
    """Move ended sagas whose last change is older than `older_than` seconds into the archive; how many."""
    import json

    rows = tx.execute(
        f"SELECT {COLUMNS} FROM saga WHERE status IN ({marks(TERMINAL)}) AND updated < ? "
        "ORDER BY updated LIMIT ?" + tx.lock_rows(skip=True),
        (*TERMINAL, tx.now() - older_than, limit),
    )
    found = [row_of(columns) for columns in rows]
    journals = records(tx, [row.id for row in found])
    names = COLUMNS.split(", ")
    for row, columns in zip(found, rows, strict=True):
        lines = [[getattr(record, key) for key in RECORD.split(", ")] for record in journals.get(row.id, [])]
        text = json.dumps({"saga": dict(zip(names, columns, strict=True)), "steps": lines})
        tx.execute(
            "INSERT INTO saga_archive (id, name, user_key, status, created, updated, saga) VALUES (?,?,?,?,?,?,?)",
            (row.id, row.name, row.user_id, row.status, row.created, row.updated, text),
        )
        for table in ("saga_step", "saga_signal"):
            tx.execute(f"DELETE FROM {table} WHERE saga_id=?", (row.id,))
        tx.execute("DELETE FROM saga WHERE id=?", (row.id,))
    return len(found)
