"""What must hold for a saga, however a case of a `SagaLab` went."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from seawall.saga.definition import Definition
from seawall.saga.plan import Record
from seawall.saga.port import Row
from seawall.testing.saga_stage import Called, Ran

BACK = ("compensated", "failed")


def check(definition: Definition, ran: Ran, before: Any, state: Any, wanted: Any) -> list[str]:
    """What is wrong. before: the world's state at the beginning. wanted: after a run without faults that completed, or None."""
    if ran.problem is not None:
        return [ran.problem]
    if not ran.rows:
        return ["it was never started"]
    row = ran.rows[0]
    found = list(_end(definition, row))
    if row.status == "completed" and wanted is not None and state != wanted:
        found.append(f"it completed, but the world is {state!r}; a run without faults leaves {wanted!r}")
    if row.status in BACK and state != before:
        found.append(f"it was taken back ({row.error}), but the world is {state!r}; it was {before!r}")
    mine = [call for call in ran.calls if call.saga == row.id]
    found += _keys(mine, row.records)
    found += _fences(mine)
    found += _after_undo(ran.calls)
    found += _journal(row.records)
    if row.status in BACK:
        found += _taken_back(definition, mine)
        found += _order(definition, mine, row.records)
    return list(dict.fromkeys(found))


def _end(definition: Definition, row: Row) -> Iterator[str]:
    if row.status in ("completed", *BACK):
        return
    blind = any(step.traits.get("at_most_once") and step.probe_fn is None for step in definition.steps.values())
    if row.status == "stuck" and blind and (row.error or "").startswith("at_most_once"):
        return  # that is what such a step asks for: a human, never a blind repetition
    yield f"it ended {row.status}: {row.error}"


def _keys(calls: list[Called], records: list[Record]) -> Iterator[str]:
    """One key per step and round, and none for two steps."""
    rounds = max((record.round for record in records), default=0)
    rounds += any(record.phase == "turn" and record.outcome != "backward" for record in records)
    steps: dict[str, set[str]] = {}
    owners: dict[str, set[str]] = {}
    for call in calls:
        steps.setdefault(call.step, set()).add(call.key)
        owners.setdefault(call.key, set()).add(call.step)
    for step, keys in steps.items():
        if len(keys) > rounds + 1:
            yield f"{step} was called with {len(keys)} keys; an attempt that is repeated must have the key of the first"
    for key, names in owners.items():
        if len(names) > 1:
            yield f"steps {', '.join(sorted(names))} share the key {key}"


def _fences(calls: list[Called]) -> Iterator[str]:
    """A later owner has the higher fence."""
    for earlier, later in itertools.pairwise(calls):
        if later.how == "entered" and later.fence < earlier.fence:
            yield f"{later.step} was called with fence {tuple(later.fence)} after {tuple(earlier.fence)} had been seen"


def _after_undo(calls: list[Called]) -> Iterator[str]:
    """No step begins under a key that was taken back."""
    undone: set[str] = set()
    for call in calls:
        if call.verb == "undo" and call.how == "ended":
            undone.add(call.key)
        elif call.verb == "do" and call.how == "entered" and call.key in undone:
            yield f"{call.step} was called after its undo had succeeded"


def _journal(records: list[Record]) -> Iterator[str]:
    if [record.seq for record in records] != list(range(1, len(records) + 1)):
        yield f"the journal's numbers have a gap: {[record.seq for record in records]}"
    seen: set[tuple[str, str, int]] = set()
    for record in records:
        mark = (record.step, record.phase, record.round)
        if record.phase in ("do", "undo") and mark in seen:
            yield f"the journal has two ends of {record.step}'s {record.phase}"
        seen.add(mark)


def _taken_back(definition: Definition, calls: list[Called]) -> Iterator[str]:
    """Whatever ended well, or nobody knows how, was undone."""
    undone = {call.key for call in calls if call.verb == "undo" and call.how == "ended"}
    for call in calls:
        step = definition.steps[call.step]
        did = call.verb == "do" and call.how == "ended" and step.undo_fn is not None and not step.options.tx
        if did and call.key not in undone:
            yield f"{call.step} took effect, the saga was taken back, and its undo never ran to its end"


def _order(definition: Definition, calls: list[Called], records: list[Record]) -> Iterator[str]:
    """What stands on a step is taken back before it."""
    if any(record.phase == "turn" and record.outcome != "backward" for record in records):
        return
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, call in enumerate(calls):
        if call.verb == "undo" and call.how == "entered":
            first.setdefault(call.step, place)
        elif call.verb == "undo" and call.how == "ended":
            last.setdefault(call.step, place)
    for step, begun in first.items():
        for upper in definition.graph.dependents[step]:
            if upper in last and last[upper] > begun:
                yield f"{step} was taken back before {upper}, which stands on it"
