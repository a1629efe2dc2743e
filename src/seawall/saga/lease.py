"""Who may write: leases and fences as small tables without time, chance or storage (tombstones are in `tombstone.py`).

The databases follow these rules, and tests walk through every order in which three workers can meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


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
