"""The graph of events: which handler makes which event of which, whether that can work, and its picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from seawall.choreography.envelope import kind_of


@dataclass(frozen=True, slots=True)
class Handler:
    """One reaction. undoes: the name of the handler that it compensates. undo: False when there is nothing to undo."""

    name: str
    service: str
    trigger: type
    makes: tuple[type, ...]
    function: Callable[..., Any]
    undoes: str | None = None
    undo: bool = True


class Graph:
    """The handlers of one choreography. starts, ends: events that come from outside, and that nobody needs to handle."""

    def __init__(self, handlers: Iterable[Handler], starts: Iterable[type], ends: Iterable[type]) -> None:
        self.handlers, self.starts, self.ends = tuple(handlers), frozenset(starts), frozenset(ends)
        self.events = {kind for h in self.handlers for kind in (h.trigger, *h.makes)} | self.starts | self.ends

    def problems(self) -> tuple[str, ...]:
        """What cannot work, in words; () when all is well."""
        return (*self._orphans(), *self._traps(), *self._uncompensated())

    def _orphans(self) -> Iterable[str]:
        handled, made = {h.trigger for h in self.handlers}, {kind for h in self.handlers for kind in h.makes}
        for kind in self._sorted(self.events):
            if kind in made | self.starts and kind not in handled | self.ends:
                yield f"{self.name(kind)} is published and nobody handles it: add a handler, or name it in ends="
            if kind not in made | self.starts:
                yield f"{self.name(kind)} is handled and nobody publishes it: add a publisher, or name it in starts="

    def _traps(self) -> Iterable[str]:
        for kind in self._sorted(self.events):
            later = self.after(kind)
            if kind in later and not (later & self.ends) and all(self.after(other) & {kind} for other in later):
                yield f"{self.name(kind)} is in a cycle without an exit: no event of the cycle leads to an end"

    def _uncompensated(self) -> Iterable[str]:
        for h in self.handlers:
            for failure in (kind for kind in h.makes if kind_of(kind).failure):
                cures = {other.undoes for other in self.handlers if other.trigger in self.after(failure) | {failure}}
                for earlier in self.before(h):
                    if earlier.undo and earlier.undoes is None and earlier.name not in cures:
                        what = f"{self.name(failure)} of {h.name} does not undo {earlier.name}"
                        yield f"{what}: add a handler that compensates it, or undo=False there"

    def after(self, kind: type) -> set[type]:
        """The events that one can lead to."""
        found: set[type] = set()
        todo = [kind]
        while todo:
            here = todo.pop()
            fresh = {made for h in self.handlers if h.trigger is here for made in h.makes} - found
            found |= fresh
            todo += fresh
        return found

    def before(self, handler: Handler) -> list[Handler]:
        """The handlers that must have run when one runs."""
        return [
            h
            for h in self.handlers
            if h is not handler and any(k is handler.trigger or handler.trigger in self.after(k) for k in h.makes)
        ]

    def failures(self) -> set[str]:
        """The names of the events that say that something failed."""
        return {self.name(kind) for kind in self.events if kind_of(kind).failure}

    def mermaid(self) -> str:
        """The picture, for any Markdown that knows Mermaid. Failures are dashed, compensations dotted."""
        lines = ["flowchart LR"]
        for kind in self._sorted(self.events):
            shape = f"(({self.name(kind)}))" if kind in self.starts | self.ends else f"({self.name(kind)})"
            lines.append(f"    {self.name(kind)}{shape}" + (":::failure" if kind_of(kind).failure else ""))
        for h in self.handlers:
            arrow = "-.->" if h.undoes else "-->"
            lines.append(f"    {self.name(h.trigger)} {arrow} {h.service}.{h.name}[{h.service}: {h.name}]")
            lines += [f"    {h.service}.{h.name} {arrow} {self.name(kind)}" for kind in h.makes]
        return "\n".join([*lines, "    classDef failure stroke-dasharray: 4 3"]) + "\n"

    def text(self) -> str:
        """The graph as JSON, for the definition table."""
        steps = [
            {
                "name": h.name,
                "service": h.service,
                "on": self.name(h.trigger),
                "makes": [self.name(k) for k in h.makes],
                "undoes": h.undoes,
            }
            for h in self.handlers
        ]
        return json.dumps(
            {"choreography": steps, "starts": [self.name(k) for k in self._sorted(self.starts)]}, separators=(",", ":")
        )

    def hash(self) -> str:
        """What tells this graph from another."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    @staticmethod
    def name(kind: type) -> str:
        """An event's name on the wire."""
        return kind_of(kind).name

    def _sorted(self, kinds: Iterable[type]) -> list[type]:
        return sorted(kinds, key=self.name)
