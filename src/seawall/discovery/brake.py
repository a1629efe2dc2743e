"""The brake: when most of a service vanishes at once, the registry is more likely wrong than the service gone.

Instances that said they would leave are believed. The others are held for a while and probed; one that no longer answers is
let go. Pure: given moments and lists, it answers with lists.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from seawall.core import units
from seawall.discovery.instance import LEAVING, Instance

MOST_RECENT = 1000  # vanished instances that are remembered to see that many went


@dataclass(frozen=True, kw_only=True)
class Brake:
    """When to doubt a registry that names far fewer instances than before.

    share: of the instances that may vanish within `hold` seconds and be believed, in (0, 1]. Default 0.5; 1 believes all but
        an empty list.
    hold: seconds that instances which vanished beyond that are kept while they answer probes. Default 10.
    empty_hold: the same when nothing at all is left. Default 600 ("slightly old beats none",
        spring-cloud-commons#1215).
    probe_every: seconds between probes of those held. Default 1.

    Raises TypeError or ValueError naming the parameter.
    """

    share: float = 0.5
    hold: float = 10.0
    empty_hold: float = 600.0
    probe_every: float = 1.0

    def __post_init__(self) -> None:
        units.ratio("share", self.share)
        object.__setattr__(self, "hold", units.seconds("hold", self.hold, zero=True))
        object.__setattr__(self, "empty_hold", units.seconds("empty_hold", self.empty_hold, zero=True, infinite=True))
        object.__setattr__(self, "probe_every", units.seconds("probe_every", self.probe_every))


@dataclass(slots=True)
class Held:
    """One instance that is kept although the registry no longer names it, until a moment."""

    instance: Instance
    until: float


@dataclass(slots=True)
class BrakeState:
    """What the brake remembers of one service: whom it holds, who vanished of late, and until when every absence is doubted."""

    held: dict[str, Held] = field(default_factory=dict)
    gone: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MOST_RECENT))
    doubts_until: float = -math.inf

    def doubt(self, until: float) -> None:
        """The registry was away: until this moment who is missing may just not have come back to it yet."""
        self.doubts_until = until

    def heed(self, brake: Brake, now: float, before: Sequence[Instance], told: Sequence[Instance]) -> tuple[str, ...]:
        """Take in a new list `told` after `before` (which holds no held ones); the ids that are held from now on."""
        names = {instance.id for instance in told}
        for id in names & self.held.keys():
            del self.held[id]
        vanished = [one for one in before if one.id not in names and one.state not in LEAVING]
        self._forget(now - brake.hold, names)
        self.gone.extend((now, one.id) for one in vanished)
        serving = sum(one.state not in LEAVING for one in told)
        missing = len({id for _, id in self.gone})
        empty = serving == 0
        length = brake.empty_hold if empty else brake.hold
        doubtful = empty or now < self.doubts_until or missing > brake.share * (serving + missing)
        if vanished and doubtful:
            for one in vanished:
                self.held[one.id] = Held(one, now + length)
        if not empty:
            for each in self.held.values():
                each.until = min(each.until, now + brake.hold)
        return tuple(one.id for one in vanished if one.id in self.held)

    def let_go(self, ids: Sequence[str]) -> tuple[str, ...]:
        """These do not answer: hold them no longer. The ids that were held."""
        return tuple(id for id in ids if self.held.pop(id, None) is not None)

    def expire(self, now: float) -> tuple[str, ...]:
        """Hold no longer whose time is over; their ids."""
        return self.let_go([id for id, each in self.held.items() if each.until <= now])

    def next_look(self) -> float:
        """The moment at which the next one expires; inf when none is held."""
        return min((each.until for each in self.held.values()), default=math.inf)

    def _forget(self, before: float, returned: set[str]) -> None:
        kept = [(at, id) for at, id in self.gone if at > before and id not in returned]
        self.gone.clear()
        self.gone.extend(kept)
