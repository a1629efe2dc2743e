"""What is remembered of one instance, and of one request that was sent to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from seawall.discovery.instance import Instance
from seawall.policies.verdict import Events

Status = Literal["ready", "probation", "ejected"]


class Told(Enum):
    """What the end of a request says about the instance that had it.

    OK: it answered well; a 4xx is a good answer too. BAD: it failed. REFUSED: it could not be connected to. BUSY: it asked
    to be left alone, which is no illness. CUT: the caller gave up, so it takes at least that long. VOID: nothing.
    """

    OK = "ok"
    BAD = "bad"
    REFUSED = "refused"
    BUSY = "busy"
    CUT = "cut"
    VOID = "void"


class Host:
    """One instance as the balancer sees it.

    cost: peak-sensitive moving average of its latency in seconds, as of the moment `stamp`; 0 = not known.
    pending: requests out; oldest: the moment at which the oldest of them was sent, `inf` when there is none.
    handicap: what its load is multiplied with: 1 / (weight * the share that slow start leaves it).
    success: moving average of its results, 1 = all well; seen: results since it was last readmitted.
    epoch: grows with each ejection and readmission; results of requests from another epoch do not count against it.
    until: the moment at which its ejection ends. born: the moment at which slow start began, -inf = long ago.
    """

    __slots__ = (
        "born",
        "calm_at",
        "consecutive",
        "cost",
        "credit",
        "ejections",
        "epoch",
        "gone_at",
        "handicap",
        "id",
        "instance",
        "oldest",
        "out",
        "pending",
        "picked",
        "probe",
        "seen",
        "stamp",
        "status",
        "success",
        "until",
        "zone",
    )

    def __init__(self, instance: Instance, now: float) -> None:
        self.instance = instance
        self.id = instance.id
        self.zone = instance.zone
        self.cost = 0.0
        self.stamp = now
        self.pending = 0
        self.oldest = float("inf")
        self.out: dict[Pick, bool] = {}  # in the order of their sending
        self.handicap = 1.0
        self.credit = 0.0
        self.picked = 0
        self.status: Status = "ready"
        self.success = 1.0
        self.seen = 0
        self.consecutive = 0
        self.ejections = 0
        self.until = 0.0
        self.calm_at = now
        self.epoch = 0
        self.probe: Pick | None = None
        self.born = now
        self.gone_at = 0.0

    def send(self, pick: Pick) -> None:
        """A request goes out to it."""
        if not self.pending:
            self.oldest = pick.at
        self.pending += 1
        self.picked += 1
        self.out[pick] = False

    def back(self, pick: Pick) -> bool:
        """A request came back; False when it had come back before."""
        out = self.out
        if out.pop(pick, True):  # what is out is there under False
            return False
        self.pending -= 1
        if pick.at <= self.oldest:
            self.oldest = next(iter(out)).at if out else NEVER
        return True

    def count(self, *, well: bool) -> None:
        """Take a result into the averages."""
        self.seen += 1
        self.success += NEWEST * (well - self.success)
        self.consecutive = 0 if well else self.consecutive + 1

    @property
    def ill(self) -> bool:
        """Whether most of its last results were bad."""
        return self.success < 0.5

    def forget_requests(self) -> None:
        """Nothing is out: after a fork, what the parent sent is not ours."""
        self.out.clear()
        self.pending, self.oldest, self.probe = 0, NEVER, None


NEVER: Final = float("inf")
NEWEST: Final = 0.2
"""Weight of the newest result: after 5 good ones a third of what was before is left."""


class Pick:
    """The right, and the duty, to send one request to `host`. It is settled once; `heard` says that its latency was counted.

    at: the moment at which it was given. probes: whether it finds out if an ejected instance is well again.
    """

    __slots__ = ("at", "epoch", "events", "heard", "host", "probes")

    def __init__(self, host: Host, at: float, *, probes: bool = False) -> None:
        self.host = host
        self.at = at
        self.epoch = host.epoch
        self.heard = False
        self.probes = probes
        self.events: Events = ()


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """One instance at one moment, as the balancer sees it.

    status: "ready", "probation" or "ejected". ejected_for: seconds that are left of an ejection. latency: the moving average
    in seconds with its idle decay, 0 = not known. pending: requests out; picked: requests ever sent.
    success: moving average of results. share: what is left of its weight by slow start, in (0, 1].
    """

    instance: Instance
    status: Status
    ejected_for: float
    latency: float
    pending: int
    picked: int
    success: float
    share: float
