"""The same key to the same instance, as long as it is there: Maglev's table, and rendezvous for choosing a few of many.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4, with weights as
turns; Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998) for `subset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from seawall.balancing.rules.draws import mix, point
from seawall.balancing.rules.host import Host
from seawall.discovery.instance import Instance

SIZES: Final = (251, 1021, 4093, 16381, 65537)
"""Primes; the table has the first that is at least a hundred times the number of hosts, so shares differ by about a hundredth."""


class Table:
    """Keys to hosts. It is built of all hosts, well or not: an ejected one keeps its places, and its keys go on to the next."""

    __slots__ = ("_slots", "_weights", "hosts")

    def __init__(self, hosts: Iterable[Host]) -> None:
        self.hosts = tuple(sorted(hosts, key=_id))
        self._weights = _weights(self.hosts)
        self._slots = _filled(self.hosts)

    def fits(self, hosts: Iterable[Host]) -> bool:
        """Whether it was built of just these hosts with just these weights."""
        return _weights(hosts) == self._weights

    @property
    def size(self) -> int:
        """Places in the table."""
        return len(self._slots)

    def walk(self, key: int) -> Iterator[Host]:
        """The hosts of a key, the one to ask first, each once."""
        slots, size, seen = self._slots, len(self._slots), set[int]()
        place = key
        for _ in range(len(self.hosts) * 8):
            index = slots[place % size]
            if index not in seen:
                seen.add(index)
                yield self.hosts[index]
            place = mix(place)
        yield from (host for index, host in enumerate(self.hosts) if index not in seen)


def _filled(hosts: tuple[Host, ...]) -> list[int]:
    """Each host takes the next free place of its own order in turn, until none is left."""
    size = next((prime for prime in SIZES if prime >= 100 * len(hosts)), SIZES[-1])
    offsets = [point(host.id) % size for host in hosts]
    skips = [point(host.id, 1) % (size - 1) + 1 for host in hosts]
    weights = [host.instance.weight for host in hosts]
    heaviest = max(weights)
    shares = [weight / heaviest if heaviest else 1.0 for weight in weights]
    credit = [0.0] * len(hosts)
    slots = [-1] * size
    left = size
    while True:
        for index in range(len(hosts)):
            credit[index] += shares[index]
            if credit[index] < 1.0:
                continue
            credit[index] -= 1.0
            place, skip = offsets[index], skips[index]
            while slots[place] >= 0:
                place = (place + skip) % size
            slots[place] = index
            offsets[index] = (place + skip) % size
            left -= 1
            if not left:
                return slots


def subset(instances: Iterable[Instance], size: int | None, client: str) -> tuple[Instance, ...]:
    """So many of the instances, the same ones for the same client: those whose points with the client's are lowest.

    Which instance goes or comes changes one place of a client's subset at most. None = all.
    """
    found = tuple(instances)
    if size is None or len(found) <= size:
        return found
    salt = point(client)
    return tuple(sorted(found, key=lambda one: point(one.id, salt))[:size])


def _weights(hosts: Iterable[Host]) -> dict[Host, float]:
    return {host: host.instance.weight for host in hosts}


def _id(host: Host) -> str:
    return host.id
