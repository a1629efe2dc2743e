"""Looking at sagas from outside: lists, one saga whole, and in words what it waits for and what a human can do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seawall.saga import store
from seawall.saga.definition import graph_of
from seawall.saga.diff import Change, changes, unsafe
from seawall.saga.journals.schema import COLUMNS
from seawall.saga.operate import BY_EVENTS, DYNAMIC, graph_for
from seawall.saga.plan import TERMINAL, Decision, Facts, Graph, Undo, decide, fold, possibly_started
from seawall.saga.port import Row, Tx

STATUSES = ("pending", "running", "waiting", "compensating", "stuck", *TERMINAL)


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker of the journal. hashes: of the definitions that it can run; lives: whether its lease holds."""

    id: str
    host: str
    pid: int
    lives: bool
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """One operator's word, as it was kept. at: seconds since 1970."""

    at: float
    verb: str
    step: str | None
    actor: str
    reason: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Look:
    """One saga whole, at the moment `now`. graph: None for one whose steps are only known as it goes, or that goes by events.
    workers: None where an engine of others hands out the work and knows who lives."""

    row: Row
    graph: Graph | None
    facts: Facts
    workers: tuple[WorkerSeen, ...] | None
    said: tuple[Said, ...]
    blocked_by: dict[str, str]
    now: float


def listed(tx: Tx, *, statuses: Sequence[str] = (), name: str | None = None, limit: int = 50) -> list[Row]:
    """The newest sagas first, without their journals."""
    where, values = [], []
    if statuses:
        where.append(f"status IN ({store.marks(statuses)})")
        values += list(statuses)
    if name is not None:
        where.append("name=?")
        values.append(name)
    sql = f"SELECT {COLUMNS} FROM saga{' WHERE ' if where else ''}{' AND '.join(where)} ORDER BY created DESC, id LIMIT ?"
    return [store.row_of(columns) for columns in tx.execute(sql, (*values, limit))]


def workers(tx: Tx) -> tuple[WorkerSeen, ...]:
    """All workers that the journal knows."""
    living = set(tx.living())
    rows = tx.execute("SELECT id, host, pid, hashes FROM saga_worker ORDER BY id")
    return tuple(
        WorkerSeen(id, host or "", pid or 0, id in living, tuple(json.loads(text or "[]"))) for id, host, pid, text in rows
    )


def look(tx: Tx, user_id: str, name: str | None = None) -> Look:
    """Everything about one saga. Raises UnknownSaga."""
    row = store.find(tx, user_id, name)
    graph = None if row.input_hash in (DYNAMIC, BY_EVENTS) else graph_for(tx, row)
    said = tx.execute("SELECT at, verb, step, actor, reason, detail FROM saga_operator WHERE saga_id=? ORDER BY id", (row.id,))
    blocked = tx.execute(
        "SELECT w.target, s.name, s.user_key FROM saga_lock_wait w JOIN saga_lock l ON l.target=w.target "
        "JOIN saga s ON s.id=l.saga_id WHERE w.saga_id=?",
        (row.id,),
    )
    return Look(
        row, graph, fold(row.records), workers(tx), tuple(Said(*line) for line in said),
        {target: f"{holder} {key}" for target, holder, key in blocked}, tx.now(),
    )  # fmt: skip


def look_of(row: Row, now: float) -> Look:
    """The same of a saga on an engine, as far as its row tells. Operators' words are in the engine's own history."""
    graph = None if row.graph is None else graph_of(row.graph)
    return Look(row, graph, fold(row.records), None, (), {}, now)


def why(seen: Look) -> list[str]:
    """What a saga waits for, what happens next, and what a human can do, each as a sentence."""
    row = seen.row
    if row.status in TERMINAL:
        return list(_ended(seen))
    return [*_state(seen), *_waits(seen), *_next(seen), *_owner(seen), *_limits(seen), *_human(seen)]


def _ended(seen: Look) -> Iterator[str]:
    row, facts = seen.row, seen.facts
    if row.status == "completed":
        yield f"It completed {_ago(seen, row.updated)}, after {len(facts.done)} steps."
        return
    words = {
        "compensated": "It was taken back",
        "compensated_partially": "It was taken back but for what a human skipped",
        "failed": "It was refused before it had any effect",
    }
    yield f"{words[row.status]} {_ago(seen, row.updated)}, because of {facts.cause or row.error}."
    undone = [name for name, record in facts.undone.items() if record.outcome == "ok"]
    if undone:
        yield f"Undone were {', '.join(undone)}."


def _state(seen: Look) -> Iterator[str]:
    row, facts = seen.row, seen.facts
    if row.status == "stuck":
        yield f"It is stuck, and nobody but a human can go on: {row.error}."
    elif facts.backward:
        yield f"It goes backward, because of {facts.cause or row.cancel or row.error}."
    elif row.status == "pending":
        yield "It has not begun."
    else:
        yield f"It goes forward; {len(facts.done)} steps have passed."


def _waits(seen: Look) -> Iterator[str]:
    notes: dict[str, Any] = json.loads(seen.row.notes) if seen.row.notes else {}
    for name, note in notes.items():
        if note.get("error"):
            yield f"{name} failed {note.get('n', 1)} times, the last time with {note['error']}."
        if note.get("why") and not str(note["why"]).startswith(("attempt", f"{name} failed")):
            yield f"{name} waits: {note['why']}{_until(seen, note.get('until'))}."
    for target, holder in seen.blocked_by.items():
        yield f"It waits for the lock {target}, which {holder} holds."


def _next(seen: Look) -> Iterator[str]:
    decision = _decision(seen)
    if decision is None or seen.row.status == "stuck":
        return
    undo = [action.step for action in decision.actions if isinstance(action, Undo)]
    do = [action.step for action in decision.actions if not isinstance(action, Undo)]
    if do:
        yield f"Next: {', '.join(do)}."
    if undo:
        yield f"Next to be undone: {', '.join(undo)}."
    if seen.row.wake_at is not None and seen.row.owner is None:
        yield f"A worker may take it {'now' if seen.row.wake_at <= seen.now else _when(seen, seen.row.wake_at)}."


def _owner(seen: Look) -> Iterator[str]:
    row = seen.row
    if seen.workers is None:
        return
    owner = next((worker for worker in seen.workers if worker.id == row.owner), None)
    if row.owner is not None:
        where = f" on {owner.host}, process {owner.pid}" if owner is not None else ""
        lives = owner is not None and owner.lives
        yield f"Worker {row.owner}{where} {'has it' if lives else 'had it and is gone; another one will take it over'}."
    if row.status != "stuck" and seen.graph is not None and not any(one.lives and row.hash in one.hashes for one in seen.workers):
        yield f"No worker that lives can run {row.name} version {row.version} ({row.hash}): start one that declares it."


def _limits(seen: Look) -> Iterator[str]:
    row, pivot = seen.row, seen.graph.pivot if seen.graph is not None else None
    over = pivot is not None and seen.facts.passed(pivot.name)
    if over and pivot is not None:
        yield f"It has passed its pivot {pivot.name}, so it cannot be taken back."
    elif row.deadline is not None and not seen.facts.backward:
        yield f"Its deadline is {_when(seen, row.deadline)}; then it is taken back."


def _human(seen: Look) -> Iterator[str]:
    if seen.row.input_hash == BY_EVENTS:
        yield "It goes as its events say: publish the one that it lacks, or replay a dead letter."
        return
    if seen.graph is None:
        yield "Its steps are in a block of your code: open it again with its id, and it goes on."
        return
    decision = _decision(seen)
    names = [action.step for action in decision.actions] if decision is not None else []
    if seen.row.status != "stuck" and not any(note.get("alert") for note in json.loads(seen.row.notes or "{}").values()):
        return
    step = names[0] if names else next(iter(seen.facts.intents), "STEP")
    yield f"If it may be tried again: seawall saga retry {seen.row.user_id} --step {step}."
    if seen.facts.backward:
        yield f"If the undo was done by hand, or need not be: seawall saga skip {seen.row.user_id} --step {step}."
    else:
        yield f"If you know its result: seawall saga resolve {seen.row.user_id} --step {step} --result JSON."
        yield f"If all is to be taken back: seawall saga cancel {seen.row.user_id}."
    yield "Each of them wants --actor and --reason, which are kept."


def _decision(seen: Look) -> Decision | None:
    if seen.graph is None:
        return None
    return decide(seen.graph, seen.facts, possibly_started(seen.graph, seen.facts))


@dataclass(frozen=True, slots=True)
class Moving:
    """What a definition would mean for the sagas that run by another version of it.

    changes: between the graphs. unsafe: why each saga that cannot go on by the new one cannot, by its id. safe: how many can.
    """

    name: str
    version: int
    was: int
    hash: str
    changes: list[Change]
    unsafe: dict[str, str]
    safe: int


def moving(tx: Tx, name: str, version: int, hash_: str, graph: Graph) -> list[Moving]:
    """Hold a definition against every other one of its name that has sagas in flight. Reads each such saga's journal."""
    found = []
    rows = tx.execute("SELECT hash, version, graph FROM saga_definition WHERE name=? AND hash<>? ORDER BY version", (name, hash_))
    for old_hash, old_version, text in rows:
        ids = tx.execute(
            f"SELECT id FROM saga WHERE def_hash=? AND status NOT IN ({store.marks(TERMINAL)}) ORDER BY created",
            (old_hash, *TERMINAL),
        )
        if not ids:
            continue
        old, bad = graph_of(text), {}
        for (saga,) in ids:
            row = store.find(tx, saga)
            reason = unsafe(old, graph, fold(row.records))
            if reason is not None:
                bad[row.user_id] = reason
        found.append(Moving(name, version, old_version, old_hash, changes(old, graph), bad, len(ids) - len(bad)))
    return found


def _until(seen: Look, moment: float | None) -> str:
    return "" if moment is None or moment <= seen.now else f" until {_when(seen, moment)}"


def _when(seen: Look, moment: float) -> str:
    return f"in {length(moment - seen.now)}" if moment > seen.now else f"{length(seen.now - moment)} ago"


def _ago(seen: Look, moment: float) -> str:
    return f"{length(max(0.0, seen.now - moment))} ago"


def length(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
