"""Who may write: leases, fences and tombstones as small tables without time, chance or storage. The databases follow these rules,
and tests walk through every order in which three workers can meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple


class Fence(NamedTuple):
    """A number that only grows with each owner of a saga, to hand to participants that can compare it.

    timeline: grows when the database itself was replaced by an older copy, such as a promoted replica. epoch: grows with each
    owner.
    """

    timeline: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Lease:
    """One worker's promise to be alive until a moment."""

    worker: str
    until: float

    def extend(self, now: float, length: float) -> Lease | None:
        """The longer lease, or None when it is over: an expired worker has lost its sagas and must not come back under its
        name."""
        return replace(self, until=now + length) if now < self.until else None

    def holds(self, now: float) -> bool:
        """Whether the worker counts as alive."""
        return now < self.until


@dataclass(frozen=True, slots=True)
class Owned:
    """Who owns one saga, under which epoch, and how many records it has."""

    owner: str | None = None
    epoch: int = 0
    records: tuple[str, ...] = ()
    takeovers: int = 0

    def claim(self, worker: str, *, owner_lives: bool) -> Owned | None:
        """The saga in new hands, or None: what a living worker owns is not to be had."""
        if self.owner is not None and owner_lives:
            return None
        return replace(self, owner=worker, epoch=self.epoch + 1, takeovers=self.takeovers + (self.owner is not None))

    def append(self, worker: str, epoch: int, record: str) -> Owned | None:
        """The saga with one more record, or None when the writer is not its owner any more."""
        if (worker, epoch) != (self.owner, self.epoch):
            return None
        return replace(self, records=(*self.records, record), takeovers=0)

    def release(self, worker: str, epoch: int) -> Owned | None:
        """The saga in nobody's hands, or None when it was not the worker's."""
        return replace(self, owner=None) if (worker, epoch) == (self.owner, self.epoch) else None

    def bump(self) -> Owned:
        """A human's word: whoever owned it is shut out."""
        return replace(self, owner=None, epoch=self.epoch + 1)


Mark = Literal["started", "done", "undone", "tombstone"]
Verdict = Literal["run", "repeat", "wait", "refuse", "stale", "changed"]


_NONE: Final = Fence(0, 0)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a participant knows of one idempotency key. fence: the highest it has seen. fingerprint: of the request."""

    mark: Mark | None = None
    fence: Fence = _NONE
    fingerprint: str | None = None

    def do(self, fence: Fence, fingerprint: str) -> tuple[Verdict, Effect]:
        """A request to take effect: "run" it; "repeat" the stored answer; "wait", somebody runs it; "refuse", it was undone;
        "stale", from an owner that lost the saga; "changed", the same key with another request."""
        if fence < self.fence:
            return "stale", self
        seen = replace(self, fence=fence)
        if self.mark in ("tombstone", "undone"):
            return "refuse", seen
        if self.mark is None:
            return "run", replace(seen, mark="started", fingerprint=fingerprint)
        if fingerprint != self.fingerprint:
            return "changed", self
        return ("repeat" if self.mark == "done" else "wait"), seen

    def finish(self) -> Effect:
        """The effect has been made."""
        return replace(self, mark="done") if self.mark == "started" else self

    def abandon(self) -> Effect:
        """The attempt proved that it had no effect: the key is free again."""
        return replace(self, mark=None, fingerprint=None) if self.mark == "started" else self

    def undo(self, fence: Fence) -> tuple[Verdict, Effect]:
        """A request to take the effect back: "run" it; "repeat", nothing is left to do; "wait", the effect is being made right
        now; "stale". An undo that comes before its do leaves a tombstone, which refuses that do for ever."""
        if fence < self.fence:
            return "stale", self
        seen = replace(self, fence=fence)
        if self.mark is None:
            return "repeat", replace(seen, mark="tombstone")
        if self.mark == "started":
            return "wait", seen
        return ("run" if self.mark == "done" else "repeat"), seen

    def undone(self) -> Effect:
        """The effect has been taken back."""
        return replace(self, mark="undone") if self.mark == "done" else self
