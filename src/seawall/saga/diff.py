"""What a changed definition means for the sagas in flight: which may go on by it, and where the others stop."""

from __future__ import annotations

from dataclasses import dataclass

from seawall.saga.plan import Facts, Graph, possibly_started


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two graphs, in words, with the step it is about."""

    step: str
    what: str


def changes(old: Graph, new: Graph) -> list[Change]:
    """What differs, step by step."""
    found = [Change(name, "is gone") for name in old.by_name if name not in new.by_name]
    for node in new.nodes:
        before = old.by_name.get(node.name)
        if before is None:
            found.append(Change(node.name, "is new" + (f", after {', '.join(node.after)}" if node.after else "")))
            continue
        for key in type(node).__dataclass_fields__:
            was, now = getattr(before, key), getattr(node, key)
            if was != now:
                found.append(Change(node.name, f"{key}: {_say(was)} -> {_say(now)}"))
    return found


def unsafe(old: Graph, new: Graph, facts: Facts) -> str | None:
    """Why a saga with these facts cannot go on by the new graph, or None when it can.

    It can when every step in its journal, or that may have been started, exists in the new graph with what takes it back, when
    whatever stands before such a step has passed too, and when the pivot it has passed is still the pivot.
    """
    touched = set(facts.done) | set(facts.undone) | set(facts.intents) | possibly_started(old, facts)
    for name in sorted(touched):
        node = new.by_name.get(name)
        if node is None:
            return f"step {name} is in its journal or may have been started, and is not in the new definition"
        if old.by_name[name].undo and not node.undo and name not in facts.undone:
            return f"step {name} was done, or may have been, and the new definition cannot take it back"
        if old.by_name[name].kind != node.kind:
            return f"step {name} was a {old.by_name[name].kind} and is now a {node.kind}"
        missing = [above for above in node.after if not facts.passed(above)]
        if missing and name in facts.done and name not in facts.undone and facts.done[name].outcome != "rejected":
            return f"step {name} was done, and the new definition wants {', '.join(missing)} before it"
    was = old.pivot
    if was is not None and facts.passed(was.name) and (new.pivot is None or new.pivot.name != was.name):
        return f"it has passed the pivot {was.name}, which is none in the new definition"
    if new.pivot is not None and facts.passed(new.pivot.name) and facts.backward and (was is None or was.name != new.pivot.name):
        return f"it goes backward, and {new.pivot.name} would be behind its new pivot"
    return None


def _say(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "nothing"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
