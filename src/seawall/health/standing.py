"""What a check's results mean over time: the rule of rise, fall and expiry. Pure: `now` is a number, nothing waits.

A first result settles at once, unless `rise` asks for more. From then on `fall` failures in a row turn a check to "fail", and
`rise` good results in a row turn it back. A result that is older than `expires` says nothing any more: the check is "unknown",
and after as long again it fails, because whoever should look has died.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from seawall.core import units


class Status(StrEnum):
    """How something is, in the words of application/health+json, and "unknown" while nobody has looked."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


WORST_LAST = (Status.PASS, Status.WARN, Status.UNKNOWN, Status.FAIL)
LONGEST_OUTPUT = 300  # characters of an error that are shown


@dataclass(frozen=True, slots=True)
class Finding:
    """What one run of a check found. A check may return one instead of None, True or False.

    status: pass, warn or fail. output: for people, at most 300 characters, None = nothing to say; it is shown to whoever may ask,
    so it must hold no secret. value, unit: what was measured, such as 0.93 and "ratio".
    Raises ValueError for the status "unknown": who looked knows.
    """

    status: Status = Status.PASS
    output: str | None = None
    value: float | str | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", Status(units.one_of("status", str(self.status), ("pass", "warn", "fail"))))
        if self.output is not None and len(self.output) > LONGEST_OUTPUT:
            object.__setattr__(self, "output", self.output[: LONGEST_OUTPUT - 1] + "…")


@dataclass(slots=True)
class Standing:
    """What is known of one check: the state of its rule."""

    since: float | None = None  # when looking began; None = nobody looks yet
    settled: Status = Status.UNKNOWN
    streak: int = 0  # results in a row that were as good, or as bad, as the last one
    last: Finding = field(default_factory=lambda: Finding(Status.PASS))
    at: float | None = None  # of the last result
    runs: int = 0
    failures: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckRule:
    """How often to look, and how many results make a change.

    every: seconds between the end of one run and the begin of the next, > 0. Default 5.
    timeout: seconds that one run may take, > 0. Default 1.
    rise: good results in a row that make a failing or new check pass, >= 1. Default 1.
    fall: failures in a row that make a passing check fail, >= 1. Default 3: one lost packet must not take an instance out.
    expires: seconds after which a result says nothing any more; default None = fall * (every + timeout) + every, so that a run
        which is late is not taken for one that died.

    Raises TypeError or ValueError naming the parameter, its range and the value.
    """

    every: float = 5.0
    timeout: float = 1.0
    rise: int = 1
    fall: int = 3
    expires: float | None = None

    def __post_init__(self) -> None:
        for name in ("every", "timeout"):
            object.__setattr__(self, name, units.seconds(name, getattr(self, name)))
        units.whole("rise", self.rise)
        units.whole("fall", self.fall)
        least = self.every + self.timeout
        if self.expires is None:
            object.__setattr__(self, "expires", self.fall * least + self.every)
        else:
            object.__setattr__(self, "expires", units.seconds("expires", self.expires, above=least))

    @property
    def lasts(self) -> float:
        """Seconds for which a result says something."""
        return self.every if self.expires is None else self.expires

    def start(self, now: float) -> Standing:
        """Nothing is known, and looking begins now."""
        return Standing(since=now)

    def begin(self, standing: Standing, now: float) -> None:
        """Looking begins now: what is not known yet is due from here on."""
        if standing.since is None:
            standing.since = now

    def settle(self, standing: Standing, now: float, finding: Finding) -> bool:
        """Take in what one run found; whether that changed the status."""
        before = self.status(standing, now)
        if self._expired(standing, now):
            standing.settled, standing.streak = Status.UNKNOWN, 0
        bad = finding.status is Status.FAIL
        same = standing.streak > 0 and bad == (standing.last.status is Status.FAIL)
        standing.streak = standing.streak + 1 if same else 1
        standing.last, standing.at = finding, now
        standing.runs += 1
        standing.failures += bad
        if standing.streak >= self._needed(standing.settled, bad=bad):
            standing.settled = finding.status
        return self.status(standing, now) is not before

    def status(self, standing: Standing, now: float) -> Status:
        """What the check says at `now`."""
        known_from = standing.at if standing.at is not None else standing.since
        if known_from is None:
            return Status.UNKNOWN
        age = now - known_from
        if age > 2 * self.lasts:
            return Status.FAIL
        if age > self.lasts:
            return Status.UNKNOWN
        return standing.settled

    def _expired(self, standing: Standing, now: float) -> bool:
        return standing.at is not None and now - standing.at > self.lasts

    def _needed(self, settled: Status, *, bad: bool) -> int:
        if bad:
            return self.fall if settled in (Status.PASS, Status.WARN) else 1
        return 1 if settled in (Status.PASS, Status.WARN) else self.rise


def worst(statuses: Any) -> Status:
    """The worst of several; "pass" of none."""
    return max(statuses, key=WORST_LAST.index, default=Status.PASS)
