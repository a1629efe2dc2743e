"""What a participant knows of one idempotency key, and what may happen to it next: a small table without time or storage.

The two orders that break hand-written participants are both in it: an undo that overtakes its do (it leaves a tombstone, so
the late do is refused), and an undo that meets its do half-way (it waits, and never claims success).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from seawall.saga.lease import Fence

Mark = Literal["free", "started", "done", "undoing", "undone", "tombstone"]
Verdict = Literal["run", "repeat", "wait", "refuse", "stale", "changed"]
NO_FENCE: Final = Fence(0, 0)


@dataclass(frozen=True, slots=True)
class Effect:
    """One key. mark: "free" before anything and after an attempt that proved to have had no effect; "started", a do was begun and
    its end is not known; "done"; "undoing", the same for its undo; "undone"; "tombstone", undone before it was ever done.

    fence: the highest that was seen. fingerprint: of the request. holder: which attempt works on it, None when none does.
    doubtful: an earlier attempt of the do may have taken effect, so that a later one's rejection proves nothing.
    """

    mark: Mark = "free"
    fence: Fence = NO_FENCE
    fingerprint: str | None = None
    holder: str | None = None
    doubtful: bool = False

    def do(self, holder: str, fence: Fence, fingerprint: str, *, holder_lives: bool) -> tuple[Verdict, Effect]:
        """A request to take effect: "run" it; "repeat" the stored answer; "wait", somebody is at it; "refuse", it was undone;
        "stale", from an owner that lost the saga; "changed", the same key with another request."""
        if fence < self.fence:
            return "stale", self
        seen = replace(self, fence=fence)
        if self.mark in ("undoing", "undone", "tombstone"):
            return "refuse", seen
        if self.mark == "free":
            return "run", replace(seen, mark="started", fingerprint=fingerprint, holder=holder)
        if fingerprint != self.fingerprint:
            return "changed", self
        if self.mark == "done":
            return "repeat", seen
        if holder_lives:
            return "wait", seen
        return "run", replace(seen, holder=holder, doubtful=True)

    def undo(self, holder: str, fence: Fence, *, holder_lives: bool) -> tuple[Verdict, Effect]:
        """A request to take the effect back: "run" the undo; "repeat", nothing is left to do; "wait", somebody is at it
        right now; "stale". An undo that comes before its do leaves a tombstone, which refuses that do from then on."""
        if fence < self.fence:
            return "stale", self
        seen = replace(self, fence=fence)
        if self.mark == "free":
            return "repeat", replace(seen, mark="tombstone")
        if self.mark in ("undone", "tombstone"):
            return "repeat", seen
        if self.mark != "done" and holder_lives:
            return "wait", seen
        doubtful = self.doubtful or self.mark == "started"
        return "run", replace(seen, mark="undoing", holder=holder, doubtful=doubtful)

    def finish(self, holder: str) -> Effect:
        """The attempt took effect. An attempt that was declared over meanwhile changes nothing."""
        return replace(self, mark="done", holder=None, doubtful=False) if self._held("started", holder) else self

    def reject(self, holder: str) -> Effect:
        """The attempt proved that it had no effect: the key is free again, unless an earlier attempt is in doubt."""
        if not self._held("started", holder):
            return self
        if self.doubtful:
            return replace(self, holder=None)
        return replace(self, mark="free", fingerprint=None, holder=None)

    def lose(self, holder: str) -> Effect:
        """The attempt, of a do or an undo, ended and nobody knows how. Whoever comes next may try again."""
        if self._held("undoing", holder):
            return replace(self, holder=None)
        return replace(self, holder=None, doubtful=True) if self._held("started", holder) else self

    def undone(self, holder: str) -> Effect:
        """The effect was taken back."""
        return replace(self, mark="undone", holder=None) if self._held("undoing", holder) else self

    def _held(self, mark: Mark, holder: str) -> bool:
        return self.mark == mark and self.holder == holder


def too_old(issued: float, now: float, retention: float, skew: float) -> bool:
    """Whether a do is so old that the tombstone which would refuse it may be gone.

    Tombstones live for `retention` seconds of the participant's clock. A do that was issued `retention - skew` ago or earlier is
    refused, so that none slips through while the two clocks differ by at most `skew` seconds.
    """
    return now - issued >= retention - skew
