"""The saga's rules: what is in the journal goes in, what to do next comes out. Nothing is replayed, nothing is remembered.

An action has three outcomes, not two. `rejected` proves that nothing happened, `unknown` proves nothing, so the undo set is all
that is `ok`, `unknown`, or may have been started (after Garcia-Molina and Salem, "Sagas", SIGMOD 1987, and the three outcomes of
oxidecomputer/steno#66). Before the pivot a failure goes backward, or to the last save-point; after it only forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Outcome = Literal["ok", "rejected", "unknown", "skipped"]
Phase = Literal["do", "undo", "intent", "turn", "clear", "alternate"]
Status = Literal[
    "pending", "running", "waiting", "compensating", "completed", "compensated", "compensated_partially", "failed", "stuck"
]
Kind = Literal["step", "sleep", "signal", "saga"]
Durability = Literal["strict", "edges", "relaxed"]

TERMINAL: Final = ("completed", "compensated", "compensated_partially", "failed")
PASSED: Final = ("ok", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One step of the graph, as the rules see it.

    after: the steps that must have passed before. undo: whether there is something to run to take it back. pivot: the go or
    no-go.
    retriable: it is tried until it succeeds. at_most_once: an intent is written before it starts, and it is never repeated
    blindly. probe: somebody can be asked whether it happened. savepoint: a failure goes back no further than to it.
    """

    name: str
    after: tuple[str, ...] = ()
    undo: bool = False
    pivot: bool = False
    retriable: bool = False
    at_most_once: bool = False
    probe: bool = False
    savepoint: bool = False
    kind: Kind = "step"


@dataclass(frozen=True, slots=True)
class Graph:
    """A definition as data: nodes in an order in which each comes after those it waits for.

    returns: how often a failure may go back to a save-point and try again before everything is taken back, >= 0.
    """

    nodes: tuple[Node, ...]
    returns: int = 3
    by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)
    dependents: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    ancestors: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    pivot: Node | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        above: dict[str, frozenset[str]] = {}
        for node in self.nodes:
            above[node.name] = frozenset(node.after).union(*(above[name] for name in node.after))
        below = {name: frozenset(other for other, over in above.items() if name in over) for name in above}
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})
        object.__setattr__(self, "ancestors", above)
        object.__setattr__(self, "dependents", below)
        object.__setattr__(self, "pivot", next((node for node in self.nodes if node.pivot), None))


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal.

    phase: "do" and "undo" end a step and its undo with an outcome; "intent" says that a step is about to start, or until when it
    sleeps; "turn" changes the direction ("backward", "forward"); "clear" forgets an intent, on a human's word; "alternate" names
    another undo. round: how often the step began anew after a save-point, from 0. result, error: as written, or None.
    """

    seq: int
    step: str
    phase: Phase
    outcome: str
    round: int = 0
    attempt: int = 1
    result: str | None = None
    error: str | None = None
    started: float = 0.0
    ended: float = 0.0

    def numbered(self, seq: int) -> Record:
        """The same line in its place of the journal."""
        return Record(
            seq, self.step, self.phase, self.outcome, self.round, self.attempt, self.result, self.error, self.started, self.ended
        )


@dataclass(slots=True)
class Facts:
    """What the journal of one saga says, folded. Only `add` changes it."""

    done: dict[str, Record] = field(default_factory=dict)
    undone: dict[str, Record] = field(default_factory=dict)
    intents: dict[str, Record] = field(default_factory=dict)
    alternates: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    backward: bool = False
    whole: bool = False
    cause: str | None = None
    returned: int = 0
    partly: bool = False
    undos: int = 0
    last: int = 0

    def plus(self, lines: Iterable[Record]) -> Facts:
        """What these facts would be with some more lines; these stay as they are."""
        more = Facts(
            dict(self.done), dict(self.undone), dict(self.intents), dict(self.alternates), dict(self.rounds), list(self.order),
            self.backward, self.whole, self.cause, self.returned, self.partly, self.undos, self.last,
        )  # fmt: skip
        for line in lines:
            more.add(line)
        return more

    def add(self, record: Record) -> None:
        """Take in the next line of the journal."""
        self.last = record.seq
        name = record.step
        if record.phase == "do":
            self.done[name] = record
            self.order.append(name)
            self.intents.pop(name, None)
            if record.outcome not in PASSED:
                self.backward = True
                self.cause = self.cause or f"{name}: {record.error or record.outcome}"
        elif record.phase == "undo":
            self.undone[name] = record
            self.undos += 1
            self.partly = self.partly or record.outcome != "ok"
        elif record.phase == "intent":
            self.intents[name] = record
        elif record.phase == "clear":
            self.intents.pop(name, None)
        elif record.phase == "alternate":
            self.alternates[name] = record.outcome
        elif record.outcome == "backward":
            self.backward = self.whole = True
            self.cause = self.cause or record.error
        else:
            self._forward(counted=record.outcome == "again")

    def _forward(self, *, counted: bool) -> None:
        """Begin again with all that did not pass or was taken back, in a new round and so with new keys."""
        self.returned += counted
        self.backward = self.whole = False
        self.cause = None
        again = set(self.undone) | {name for name, record in self.done.items() if record.outcome not in PASSED}
        for name in again:
            self.rounds[name] = self.rounds.get(name, 0) + 1
            self.done.pop(name, None)
            self.undone.pop(name, None)
            self.intents.pop(name, None)
        self.order = [name for name in self.order if name not in again]

    def round(self, step: str) -> int:
        """Which round the step is in, from 0."""
        return self.rounds.get(step, 0)

    def passed(self, step: str) -> bool:
        """Whether the step is behind us and was not taken back."""
        record = self.done.get(step)
        return record is not None and record.outcome in PASSED and step not in self.undone


@dataclass(frozen=True, slots=True)
class Do:
    """Run a step. doubtful: it may have been started before, so a rejection proves nothing. ask: ask the probe first.
    intend: write the intent before."""

    step: str
    round: int = 0
    doubtful: bool = False
    ask: bool = False
    intend: bool = False


@dataclass(frozen=True, slots=True)
class Undo:
    """Take a step back. record: how it ended, or None when it may only have been started."""

    step: str
    round: int = 0
    record: Record | None = None
    alternate: str | None = None

    @property
    def doubtful(self) -> bool:
        """Whether it is not known that the step took effect."""
        return self.record is None or self.record.outcome != "ok"


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes next. All `actions` may run at once. finish: the saga ends so. turn: write this turn, then ask again.
    stuck: nobody but a human can go on, and why. Nothing of all that: wait for what is busy."""

    actions: tuple[Do | Undo, ...] = ()
    finish: Status | None = None
    turn: str | None = None
    stuck: str | None = None
    backward: bool = False


def fold(records: Iterable[Record]) -> Facts:
    """Read a whole journal. Raises ValueError when its numbers have a gap."""
    facts = Facts()
    for record in records:
        if record.seq != facts.last + 1:
            raise ValueError(f"the journal jumps from record {facts.last} to {record.seq}")
        facts.add(record)
    return facts


def decide(
    graph: Graph, facts: Facts, started: frozenset[str] = frozenset(), busy: frozenset[str] | set[str] = frozenset()
) -> Decision:
    """What to do next.

    started: steps without an outcome that may have been started, here or by an owner before. busy: what runs right now, which
    is never started again and whose end is awaited before anything is taken back.
    """
    pivot = graph.pivot
    over = pivot is not None and facts.passed(pivot.name)
    if not facts.backward or over:
        return _forward(graph, facts, started, busy)
    if pivot is not None and not pivot.undo and _in_doubt(pivot, facts, started):
        return _settle_pivot(pivot, facts, busy)
    return _backward(graph, facts, started, busy)


def ready(graph: Graph, facts: Facts) -> list[Node]:
    """The steps whose turn has come: no outcome yet, and everything before them passed."""
    return [node for node in graph.nodes if node.name not in facts.done and all(facts.passed(above) for above in node.after)]


def must_sync(graph: Graph, before: Facts, after: Facts, lines: Iterable[Record]) -> bool:
    """Whether some lines must be on disk before anything else happens, in every durability: what brings the pivot's turn, for a
    pivot that may have been started is settled by running it, and that needs all that stands before it; and an intent."""
    pivot = graph.pivot
    turn = pivot is not None and pivot in ready(graph, after) and pivot not in ready(graph, before)
    return turn or any(line.phase == "intent" and graph.by_name[line.step].at_most_once for line in lines)


def possibly_started(graph: Graph, facts: Facts, durability: Durability = "strict") -> frozenset[str]:
    """What an owner that is gone may have started: the ready steps when every record was synced; where records may be lost,
    also all that could follow them up to the next record that is always synced (the pivot's, and an intent's).

    Steps that write an intent are in it only if it was written; sleeps and signals have no effect to doubt.
    """
    first = [node for node in ready(graph, facts) if _may_start(node, facts)]
    if durability == "strict":
        return frozenset(node.name for node in first)
    found = {node.name for node in first}
    for node in graph.nodes:
        free = node.name not in facts.done and not node.at_most_once
        barred = any(graph.by_name[above].pivot and above not in facts.done for above in graph.ancestors[node.name])
        if free and not barred and not node.pivot and all(facts.passed(above) or above in found for above in node.after):
            found.add(node.name)
    return frozenset(found)


def _may_start(node: Node, facts: Facts) -> bool:
    return node.name in facts.intents if node.at_most_once else node.kind in ("step", "saga")


def _in_doubt(node: Node, facts: Facts, started: frozenset[str]) -> bool:
    """Whether a step may have taken effect without our knowing."""
    record = facts.done.get(node.name)
    if record is None:
        return node.name in started or (node.at_most_once and node.name in facts.intents)
    return record.outcome == "unknown"


def _settle_pivot(pivot: Node, facts: Facts, busy: frozenset[str] | set[str]) -> Decision:
    """Nothing may be taken back until it is known whether the pivot happened; it cannot be undone, so it is asked for, or run."""
    if pivot.name in busy:
        return Decision(backward=True)
    if pivot.at_most_once and not pivot.probe:
        return Decision(
            stuck=f"at_most_once: {pivot.name} may have been started, and has no probe that could tell", backward=True
        )
    return Decision((Do(pivot.name, facts.round(pivot.name), doubtful=True, ask=pivot.probe),))


def _forward(graph: Graph, facts: Facts, started: frozenset[str], busy: frozenset[str] | set[str]) -> Decision:
    actions = []
    stuck = None
    waiting = False
    for node in ready(graph, facts):
        if node.name in busy:
            waiting = True
            continue
        intended = node.name in facts.intents
        if node.at_most_once and intended and not node.probe:
            stuck = f"at_most_once: {node.name} may have been started, and has no probe that could tell"
            continue
        doubtful = node.name in started or (node.at_most_once and intended)
        intend = node.at_most_once and not intended
        actions.append(Do(node.name, facts.round(node.name), doubtful, doubtful and node.probe, intend))
    if actions or waiting or stuck:
        return Decision(tuple(actions), stuck=stuck if not actions and not waiting else None)
    if all(facts.passed(node.name) for node in graph.nodes):
        return Decision(finish="completed")
    return Decision(stuck="definition_mismatch: the journal holds no way from here to the end")


def _backward(graph: Graph, facts: Facts, started: frozenset[str], busy: frozenset[str] | set[str]) -> Decision:
    kept, again = _kept(graph, facts)
    armed = [node for node in graph.nodes if node.name not in kept and _armed(node, facts, started)]
    names = {node.name for node in armed}
    actions = [
        Undo(node.name, facts.round(node.name), facts.done.get(node.name), facts.alternates.get(node.name))
        for node in reversed(armed)
        if not graph.dependents[node.name] & (names | set(busy)) and node.name not in busy
    ]
    if actions or busy or armed:
        return Decision(tuple(actions), backward=True)
    if again:
        return Decision(turn="again", backward=True)
    if facts.partly:
        return Decision(finish="compensated_partially", backward=True)
    clean = not facts.undos and not any(record.outcome == "ok" for record in facts.done.values())
    return Decision(finish="failed" if clean else "compensated", backward=True)


def _armed(node: Node, facts: Facts, started: frozenset[str]) -> bool:
    """Whether the step's undo must run."""
    if not node.undo or node.name in facts.undone:
        return False
    record = facts.done.get(node.name)
    if record is None:
        return node.name in started or (node.at_most_once and node.name in facts.intents)
    return record.outcome in ("ok", "unknown")


def _kept(graph: Graph, facts: Facts) -> tuple[frozenset[str], bool]:
    """What stays as it is because of a save-point, and whether to go forward again from there."""
    if facts.whole or facts.returned >= graph.returns:
        return frozenset(), False
    for name in reversed(facts.order):
        if name in graph.by_name and graph.by_name[name].savepoint and facts.passed(name):
            return graph.ancestors[name] | {name}, True
    return frozenset(), False
