"""Operators' words on an engine: the same seven as on a journal, refused for the same reasons, carried out by the interpreter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from seawall.saga.definition import graph_of
from seawall.saga.diff import unsafe
from seawall.saga.errors import NotAllowed
from seawall.saga.plan import Undo, decide, ready

if TYPE_CHECKING:
    from seawall.saga.engines.interpret import Interpreter


def alert(notes: dict[str, dict[str, Any]]) -> str | None:
    """What goes on trying after too many failures, in words."""
    for key in sorted(notes):
        if notes[key].get("alert"):
            return f"{key} has failed {notes[key].get('n')} times and goes on trying: {notes[key].get('error')}"
    return None


def carry_out(saga: Interpreter, word: dict[str, Any]) -> str | None:
    """Do what an operator said; why not, if it cannot be done. The word stays in the engine's history, which is its audit."""
    step = word.get("step")
    try:
        if step is not None and step not in saga.graph.by_name:
            raise NotAllowed(f"{saga.brief['name']} has no step {step!r}; its steps are {', '.join(saga.graph.by_name)}")
        verb = _VERBS.get(word["verb"])
        if verb is None:
            raise NotAllowed(f"verb must be one of {', '.join(_VERBS)}; got {word['verb']!r}")
        verb(saga, word)
    except NotAllowed as error:
        return str(error)
    saga.halted, saga.crashes = None, 0
    saga.epoch += 1
    return None


def _wake(saga: Interpreter, step: str | None = None) -> None:
    """Let waits end now, and forget what was counted for one step."""
    for key in [step, f"{step}.undo"] if step else list(saga.notes):
        note = saga.notes.get(str(key))
        if note is not None and not note.get("outside") and saga.graph.by_name[str(key).removesuffix(".undo")].kind != "sleep":
            saga.notes.pop(str(key))


def _retry(saga: Interpreter, word: dict[str, Any]) -> None:
    for name in [word["step"]] if word.get("step") else list(saga.facts.intents):
        if name in saga.facts.intents and saga.graph.by_name[name].at_most_once:
            saga.record(name, "clear", "operator", error=word["reason"])
            saga.started.discard(name)
    _wake(saga, word.get("step"))


def _skip(saga: Interpreter, word: dict[str, Any]) -> None:
    phase = _pending(saga, word)
    saga.record(word["step"], phase, "skipped", error=f"skipped by {word['actor']}: {word['reason']}")
    _settled(saga, word["step"])


def _resolve(saga: Interpreter, word: dict[str, Any]) -> None:
    if _pending(saga, word) != "do":
        raise NotAllowed(
            f"{saga.brief['name']} goes backward, so {word['step']} needs no result; skip its undo, or name an alternate"
        )
    try:
        json.loads(word["value"] or "null")
    except ValueError as error:
        raise NotAllowed(f"the result must be JSON: {error}; got {word['value']!r}") from error
    saga.record(word["step"], "do", "ok", result=word["value"], error=f"given by {word['actor']}: {word['reason']}")
    _settled(saga, word["step"])


def _alternate(saga: Interpreter, word: dict[str, Any]) -> None:
    if _pending(saga, word) != "undo":
        raise NotAllowed(f"{saga.brief['name']} goes forward; an alternate undo is for a saga that goes back")
    saga.record(word["step"], "alternate", str(word["value"]), error=word["reason"])
    _wake(saga, word["step"])


def _forward(saga: Interpreter, word: dict[str, Any]) -> None:
    if not saga.facts.backward:
        raise NotAllowed(f"{saga.brief['name']} {saga.brief['id']} goes forward already; retry the step instead")
    saga.record("", "turn", "forward", error=word["reason"])
    _wake(saga)


def _move(saga: Interpreter, word: dict[str, Any]) -> None:
    plan = word.get("plan")
    if plan is None:
        raise NotAllowed(f"version {word['value']} of {saga.brief['name']} was not given to this Sagas; give it an instance")
    why = unsafe(saga.graph, graph_of(plan["graph"]), saga.facts)
    if why is not None:
        raise NotAllowed(f"{saga.brief['name']} {saga.brief['id']} cannot move to version {plan['version']}: {why}")
    saga.moved = plan


def _cancel(saga: Interpreter, word: dict[str, Any]) -> None:
    pivot = saga.graph.pivot
    if pivot is not None and saga.facts.passed(pivot.name):
        raise NotAllowed(f"{saga.brief['name']} {saga.brief['id']} has passed its pivot {pivot.name}; there is no way back")
    if not saga.facts.whole:
        saga.record("", "turn", "backward", error=f"cancelled by {word['actor']}: {word['reason']}")
    _wake(saga)
    for work in saga.busy.values():
        work.cancel()


def _settled(saga: Interpreter, step: str) -> None:
    saga.started.discard(step)
    saga.notes.pop(step, None)
    saga.notes.pop(f"{step}.undo", None)


def _pending(saga: Interpreter, word: dict[str, Any]) -> str:
    """Whether the step named waits to be done or to be undone. Raises NotAllowed when it does neither."""
    step = word.get("step")
    if step is None:
        raise NotAllowed(f"{word['verb']} needs a step; its steps are {', '.join(saga.graph.by_name)}")
    decision = decide(saga.graph, saga.facts, frozenset(saga.started), set(saga.busy))
    for action in decision.actions:
        if action.step == step:
            return "undo" if isinstance(action, Undo) else "do"
    if step not in saga.busy and not decision.backward and any(node.name == step for node in ready(saga.graph, saga.facts)):
        return "do"
    waiting = ", ".join(action.step for action in decision.actions) or "none"
    raise NotAllowed(
        f"step {step!r} of {saga.brief['name']} {saga.brief['id']} does not wait for anything now; those that do: {waiting}"
    )


_VERBS: Final = {
    "retry": _retry, "skip": _skip, "resolve": _resolve, "alternate": _alternate, "forward": _forward, "move": _move,
    "cancel": _cancel,
}  # fmt: skip
