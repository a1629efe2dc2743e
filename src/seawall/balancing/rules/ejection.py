"""When an instance is left alone because it fails, for how long, and how it comes back.

An ejected instance gets nothing. After its time it is on probation: one request at a time finds out whether it is well; a good
answer brings it back with a slow start, a bad one ejects it for longer. Results of requests that were sent before the ejection or
the readmission come from another epoch: they neither prolong nor end anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from seawall.balancing.rules.host import Host
from seawall.core import units


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """When to eject one instance of several.

    consecutive_failures: failures of one instance in a row that eject it at once, >= 1; None = not by this. Default 3.
    refused: refused connections in a row that do; None = they count as any failure. Default 1: nobody listens there.
    success_below: share of good results, as a moving average over about the last 5, in (0, 1], below which it is ejected; None =
        not by this. Default 0.5. minimum_calls: results before that is judged, >= 1. Default 5.
    eject_for: seconds of the first ejection, > 0. Default 5. The n-th in a row lasts n times as long, at most `cap` seconds.
        Default 300.
    forgive: seconds in service without an ejection that take one off the count, > 0. Default 10.
    most: the share of all instances that may be ejected at once, in [0, 1]; of two or more at least one may and one stays, unless
        it is 0, which ejects nobody. Default 0.5.

    Raises TypeError or ValueError naming the parameter. Sources: Envoy's outlier detection, gRFC A50, Finagle's failure accrual,
    with shorter times: those are made for fleets of hundreds.
    """

    consecutive_failures: int | None = 3
    refused: int | None = 1
    success_below: float | None = 0.5
    minimum_calls: int = 5
    eject_for: float = 5.0
    cap: float = 300.0
    forgive: float = 10.0
    most: float = 0.5

    def __post_init__(self) -> None:
        for name in ("consecutive_failures", "refused"):
            if getattr(self, name) is not None:
                units.whole(name, getattr(self, name))
        if self.success_below is not None:
            units.ratio("success_below", self.success_below)
        units.whole("minimum_calls", self.minimum_calls)
        put = object.__setattr__
        put(self, "eject_for", units.seconds("eject_for", self.eject_for))
        put(self, "cap", units.seconds("cap", self.cap, above=self.eject_for))
        put(self, "forgive", units.seconds("forgive", self.forgive))
        units.ratio("most", self.most, zero=True)

    def room(self, total: int) -> int:
        """How many of `total` instances may be ejected at once."""
        if total < 2 or self.most == 0:
            return 0
        return min(total - 1, max(1, int(total * self.most)))

    def reason(self, host: Host, *, refused: bool) -> str | None:
        """Why the host is to be ejected now, in words, or None."""
        row = host.consecutive
        if refused and self.refused is not None and row >= self.refused:
            return "nobody listens there" if row == 1 else f"{row} failures in a row, the last a refused connection"
        if self.consecutive_failures is not None and row >= self.consecutive_failures:
            return f"{row} failures in a row"
        enough = self.success_below is not None and host.seen >= self.minimum_calls
        if enough and row and host.success < (self.success_below or 0.0):
            return f"only {host.success:.0%} of its last results were good"
        return None

    def eject(self, host: Host, now: float) -> float:
        """Take it out of service; for how many seconds."""
        forgiven = int(max(0.0, now - host.calm_at) / self.forgive)
        host.ejections = max(0, host.ejections - forgiven) + 1
        length = min(self.cap, self.eject_for * host.ejections)
        host.status, host.until, host.probe = "ejected", now + length, None
        host.epoch += 1
        return length

    def readmit(self, host: Host, now: float) -> None:
        """Put it back into service, with a clean record but for the number of its ejections."""
        host.status, host.probe = "ready", None
        host.success, host.seen, host.consecutive = 1.0, 0, 0
        host.calm_at = host.born = now
        host.epoch += 1
