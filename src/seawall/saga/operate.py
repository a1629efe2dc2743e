"""What a human can say about a saga: each word is fenced, audited, and refused where it would lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from seawall.saga import store
from seawall.saga.definition import graph_of
from seawall.saga.errors import NotAllowed, UnknownSaga
from seawall.saga.plan import TERMINAL, Facts, Graph, Record, decide, fold, possibly_started
from seawall.saga.port import Row, Tx

DYNAMIC: Final = "dynamic"  # stands where sagas with a definition have the fingerprint of their input
BY_EVENTS: Final = ""  # stands there for sagas that a choreography's tracker writes down
OPEN_END: Final = "UPDATE saga SET epoch=epoch+1, owner=NULL, stamp=0, takeovers=0, wake_at=?, updated=?"


@dataclass(frozen=True, slots=True)
class Word:
    """One operator's word. verb: retry, skip, resolve, alternate, forward, move, cancel. step: which step, where one is meant.
    value: a result as JSON text, an undo's name, or a version."""

    verb: Literal["retry", "skip", "resolve", "alternate", "forward", "move", "cancel"]
    actor: str
    reason: str
    step: str | None = None
    value: str | None = None

    def __post_init__(self) -> None:
        for name in ("actor", "reason"):
            said = getattr(self, name)
            if not isinstance(said, str) or not 1 <= len(said.strip()) <= 1000:
                raise NotAllowed(
                    f"{name} must be text of 1 to 1000 characters, because it is kept for those who ask later; got {said!r}"
                )


def graph_for(tx: Tx, row: Row) -> Graph:
    """The graph that a saga runs by, as it was declared."""
    found = tx.execute("SELECT graph FROM saga_definition WHERE hash=?", (row.hash,))
    if not found:
        raise UnknownSaga(f"no worker has declared the definition {row.hash} of {row.name} v{row.version} yet")
    return graph_of(found[0][0])


def write(
    tx: Tx, row: Row, phase: str, outcome: str, *, step: str = "", result: str | None = None, error: str | None = None
) -> None:
    """A line of the journal by a human's hand, in the saga's present round."""
    now, facts = tx.now(), fold(row.records)
    line = Record(facts.last + 1, step, phase, outcome, facts.round(step), 1, result, error, now, now)  # type: ignore[arg-type]
    row.records.append(line)
    tx.execute(
        "INSERT INTO saga_step (saga_id, seq, step, phase, outcome, round, attempt, result, error, worker, epoch, started, "
        "ended) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (row.id, line.seq, step, phase, outcome, line.round, 1, result, error, "operator", row.epoch + 1, now, now),
    )


def reopen(tx: Tx, row: Row, status: str, *, notes: dict[str, Any] | None = None) -> None:
    """Shut out whoever owns the saga, and let a worker take it at once."""
    now = tx.now()
    touched = row.before if row.owner is None else None
    kept = json.dumps(notes) if notes else None
    tx.execute(f"{OPEN_END}, status=?, error=NULL, notes=?, touched=? WHERE id=?", (now, now, status, kept, touched, row.id))
    tx.wake(row.id)


def turn(tx: Tx, row: Row, outcome: str, why: str) -> None:
    """Change a saga's direction."""
    write(tx, row, "turn", outcome, error=why)
    reopen(tx, row, "compensating" if outcome == "backward" else "running")


def apply(tx: Tx, user_id: str, word: Word, name: str | None = None, token: str | None = None) -> Row:
    """Carry out an operator's word, and keep who said it and why. Raises NotAllowed or UnknownSaga, and then nothing happened.

    token: of this word, so that it counts once when a lost answer makes it be sent again.
    """
    row = store.find(tx, user_id, name)
    if token is not None and tx.execute("SELECT 1 FROM saga_operator WHERE token=?", (token,)):
        return row
    if row.input_hash == DYNAMIC:
        raise NotAllowed(
            f"{row.name} {row.user_id} goes as its block says, so nobody else can say how; open it again with its id"
        )
    if row.input_hash == BY_EVENTS:
        raise NotAllowed(
            f"{row.name} {row.user_id} goes as its events say; publish the event that it lacks, or replay a dead letter"
        )
    graph = graph_for(tx, row)
    facts = fold(row.records)
    notes: dict[str, Any] = json.loads(row.notes) if row.notes else {}
    if word.step is not None and word.step not in graph.by_name:
        raise NotAllowed(f"{row.name} has no step {word.step!r}; its steps are {', '.join(graph.by_name)}")
    if row.status in TERMINAL and word.verb != "forward":
        raise NotAllowed(f"{row.name} {row.user_id} is {row.status}; nothing more can be done about it")
    _VERBS[word.verb](tx, row, graph, facts, notes, word)
    tx.execute(
        "INSERT INTO saga_operator (at, saga_id, verb, step, actor, reason, detail, token) VALUES (?,?,?,?,?,?,?,?)",
        (tx.now(), row.id, word.verb, word.step, word.actor.strip(), word.reason.strip(), word.value, token),
    )
    return store.find(tx, row.id)


def _retry(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Try again now. On a step that may run once only, it is the human who knows that it did not run."""
    for name in [word.step] if word.step else list(facts.intents):
        node = graph.by_name.get(name)
        if name in facts.intents and node is not None and node.at_most_once:
            write(tx, row, "clear", "operator", step=name, error=word.reason)
    reopen(tx, row, "compensating" if facts.backward else "running")


def _skip(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Go on as if the step, or its undo, had been done."""
    action = _pending(row, graph, facts, word)
    write(tx, row, action, "skipped", step=word.step or "", error=f"skipped by {word.actor}: {word.reason}")
    reopen(tx, row, "compensating" if action == "undo" else "running", notes=_without(notes, word.step))


def _resolve(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Say what the step's result is."""
    if _pending(row, graph, facts, word) != "do":
        raise NotAllowed(f"{row.name} goes backward, so {word.step} needs no result; skip its undo, or name an alternate")
    try:
        json.loads(word.value or "null")
    except ValueError as error:
        raise NotAllowed(f"the result must be JSON: {error}; got {word.value!r}") from error
    write(tx, row, "do", "ok", step=word.step or "", result=word.value, error=f"given by {word.actor}: {word.reason}")
    reopen(tx, row, "running", notes=_without(notes, word.step))


def _alternate(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Take the step back by another undo."""
    if _pending(row, graph, facts, word) != "undo":
        raise NotAllowed(f"{row.name} goes forward; an alternate undo is for a saga that goes back")
    write(tx, row, "alternate", str(word.value), step=word.step or "", error=word.reason)
    reopen(tx, row, "compensating", notes=_without(notes, word.step))


def _forward(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Go forward again: what failed or was taken back begins anew."""
    if not facts.backward:
        raise NotAllowed(f"{row.name} {row.user_id} goes forward already; retry the step instead")
    turn(tx, row, "forward", word.reason)


def _move(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Go on by another version's graph."""
    from seawall.saga.diff import unsafe

    rows = tx.execute(
        "SELECT hash, version, graph FROM saga_definition WHERE name=? AND version=? ORDER BY first_seen DESC",
        (row.name, int(word.value or 0)),
    )
    if not rows:
        raise NotAllowed(f"no worker has declared version {word.value} of {row.name}; start one first")
    hash_, version, text = rows[0]
    why = unsafe(graph, graph_of(text), facts)
    if why is not None:
        raise NotAllowed(f"{row.name} {row.user_id} cannot move to version {version}: {why}")
    tx.execute("UPDATE saga SET version=?, def_hash=? WHERE id=?", (version, hash_, row.id))
    reopen(tx, row, "running", notes=notes)


def _cancel(tx: Tx, row: Row, graph: Graph, facts: Facts, notes: dict[str, Any], word: Word) -> None:
    """Take everything back."""
    pivot = graph.pivot
    if pivot is not None and facts.passed(pivot.name):
        raise NotAllowed(f"{row.name} {row.user_id} has passed its pivot {pivot.name}; there is no way back")
    if not facts.whole:
        turn(tx, row, "backward", f"cancelled by {word.actor}: {word.reason}")


_VERBS: Final = {
    "retry": _retry, "skip": _skip, "resolve": _resolve, "alternate": _alternate, "forward": _forward, "move": _move,
    "cancel": _cancel,
}  # fmt: skip


def _pending(row: Row, graph: Graph, facts: Facts, word: Word) -> Literal["do", "undo"]:
    """Whether the step named waits to be done or to be undone. Raises NotAllowed when it does neither."""
    if word.step is None:
        raise NotAllowed(f"{word.verb} needs a step; its steps are {', '.join(graph.by_name)}")
    from seawall.saga.plan import Undo, ready

    decision = decide(graph, facts, possibly_started(graph, facts))
    for action in decision.actions:
        if action.step == word.step:
            return "undo" if isinstance(action, Undo) else "do"
    if any(node.name == word.step for node in ready(graph, facts)) and not decision.backward:
        return "do"
    waiting = ", ".join(action.step for action in decision.actions) or "none"
    raise NotAllowed(f"step {word.step!r} of {row.name} {row.user_id} does not wait for anything now; those that do: {waiting}")


def _without(notes: dict[str, Any], step: str | None) -> dict[str, Any]:
    return {key: note for key, note in notes.items() if key not in (step, f"{step}.undo")}
