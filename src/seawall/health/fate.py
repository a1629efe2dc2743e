"""The shared-fate rule: a dependency that fails for everybody must not take everybody out.

An instance whose check fails leaves the traffic to those for whom it passes. When there are none, leaving helps nobody:
callers get refused connections instead of an honest error, a fallback or a cached answer, and the rest of the service is gone
as well. So a floor of instances stays: those that come first in a rendezvous hash of the check's name and the instances' ids,
which all compute alike without a word (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998). When
nobody knows who the peers are, all stay.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from seawall.core import units

LARGEST_FLEET: Final = 10_000  # peers that are looked at


@dataclass(frozen=True, slots=True)
class Peer:
    """One instance of this service as others see it. failing: the names of its critical ready checks that fail."""

    id: str
    failing: frozenset[str] = frozenset()


class SharedFate:
    """Which instances stay ready when a critical check fails for all of them.

    me: this instance's id, as in the registry. peers: gives all instances of the service, with what fails for each, or None
        when that is not known; asked when a check of ours fails, so it must answer from memory, as a watcher's snapshot does.
    floor: how many stay: a share in (0, 1] of the instances, rounded up, or a whole number >= 1. Default 0.5.
    tell: called with the frozenset of our failing critical checks whenever it changes, so that our peers hear of it; default
        None.

    Raises TypeError or ValueError naming the parameter, its range and the value.
    """

    def __init__(
        self,
        me: str,
        peers: Callable[[], Iterable[Peer] | None],
        *,
        floor: float = 0.5,
        tell: Callable[[frozenset[str]], Any] | None = None,
    ) -> None:
        if not isinstance(me, str) or not me:
            raise TypeError(f"me must be the id of this instance; got {me!r}")
        if not callable(peers):
            raise TypeError(f"peers must be callable without arguments; got {peers!r}")
        self.me = me
        self.peers = peers
        self.floor = units.whole("floor", floor) if isinstance(floor, int) else _share(floor)
        self.tell = tell

    def stays(self, check: str) -> str | None:
        """Why this instance stays ready although `check` fails, or None when it does not."""
        peers = self.peers()
        if peers is None:
            return "the peers are not known"
        others = [peer for peer, _ in zip(peers, range(LARGEST_FLEET), strict=False) if peer.id != self.me]
        if any(check not in peer.failing for peer in others):
            return None
        ids = {self.me, *(peer.id for peer in others)}
        place = rank(check, self.me, ids)
        if place >= self.places(len(ids)):
            return None
        return (
            f"it fails for all {len(ids)} instances, and this one is number {place + 1} of the {self.places(len(ids))} that stay"
        )

    def places(self, instances: int) -> int:
        """How many of so many instances stay."""
        floor = self.floor if isinstance(self.floor, int) else math.ceil(self.floor * instances)
        return max(1, min(instances, floor))


def rank(key: str, me: str, ids: Iterable[str]) -> int:
    """The place of `me` among `ids` in the order of the rendezvous hash of `key`; 0 is first."""
    mine = _weight(key, me)
    return sum(1 for other in ids if other != me and (_weight(key, other), other) > (mine, me))


def _weight(key: str, id: str) -> bytes:
    return hashlib.blake2b(f"{len(key)}:{key}{id}".encode(), digest_size=8).digest()


def _share(floor: object) -> float:
    if isinstance(floor, float) and 0 < floor <= 1:
        return floor
    raise ValueError(f"floor must be a share in (0, 1] or a whole number >= 1; got {floor!r}")
