"""What the tests of balancing share: instances by name, and a rule driven by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seawall.balancing.rules.balance import BalanceRule
from seawall.balancing.rules.host import Pick, Told
from seawall.discovery.instance import Instance
from seawall.policies.verdict import Note


def instances(names: str, **fields: Any) -> list[Instance]:
    """Instances "a", "b", ... of the service "stock", each on a port of its own."""
    return [Instance("stock", id=name, port=1000 + ord(name[0]) % 100 + 100 * len(name), **fields) for name in names.split()]


class Driven:
    """A rule with its state and a time that only the test moves. events: kinds of all that was told."""

    def __init__(self, names: str = "a b c", **settings: Any) -> None:
        self.rule = BalanceRule(**settings)
        self.state = self.rule.start(0.0)
        self.now = 0.0
        self.events: list[Note] = []
        self._chance = 0.5
        self.update(instances(names))

    def update(self, found: list[Instance]) -> None:
        self._tell(self.rule.update(self.state, self.now, found))

    def pick(self, u: float | None = None, **more: Any) -> Pick:
        if u is None:
            self._chance = (self._chance * 997 + 0.618) % 1.0
            u = self._chance
        answer = self.rule.admit(self.state, self.now, u, **more)
        self._tell(answer.events)
        assert isinstance(answer, Pick), answer
        return answer

    def end(self, pick: Pick, told: Told = Told.OK, after: float = 0.0) -> None:
        self.now += after
        self._tell(self.rule.settle(self.state, self.now, pick, told))

    def call(self, told: Told | Callable[[str], Told] = Told.OK, after: float = 0.01, **more: Any) -> str:
        """One request from its pick to its end; the id of who had it."""
        pick = self.pick(**more)
        self.end(pick, told if isinstance(told, Told) else told(pick.host.id), after)
        return pick.host.id

    def status(self, id: str) -> str:
        return self.state.hosts[id].status

    def kinds(self) -> list[str]:
        return [note.kind for note in self.events]

    def _tell(self, events: Any) -> None:
        self.events += [event for event in events if isinstance(event, Note)]
