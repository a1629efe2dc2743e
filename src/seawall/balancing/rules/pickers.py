"""Whom to ask next: the ways to choose one of the hosts that may be asked. Each is frozen; what it remembers is on the hosts.

`pick(hosts, now, u)` gets at least one host; u is a number in [0, 1). `load` is what pickers compare, where they compare; it is
asked for hosts of another zone too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp
from typing import Protocol

from seawall.balancing.rules.draws import draws
from seawall.balancing.rules.host import Host
from seawall.core import units

Hosts = Sequence[Host]
UNKNOWN = 1e6
"""Load of a host whose latency is not known while its first answer is awaited: one request at a time finds out."""


class Picker(Protocol):
    """A way to choose."""

    @property
    def compares(self) -> bool:
        """Whether `load` says something."""
        ...

    def pick(self, hosts: Hosts, now: float, u: float) -> Host:
        """One of the hosts."""
        ...

    def load(self, host: Host, now: float) -> float:
        """How loaded a host is, for comparing it with others."""
        ...


@dataclass(frozen=True, kw_only=True)
class PeakEwma:
    """The host with the least (latency, as a peak-sensitive moving average) * (requests out + 1) / weight.

    decay: seconds in which what was learnt of an idle host fades to a third, > 0. Default 10. Fading is what sends a host that
        was slow a request again.
    scan: up to so many hosts are all compared, >= 1; of more of them `sample` random ones, >= 2. Default 16 and 5.

    A slower answer than the average counts at once, a faster one by and by. A request that is out for longer than the average
    raises it before it is answered: a hung host is noticed while it hangs. A host of which nothing is known gets one request at a
    time until it has answered. Source: Finagle's Peak EWMA, here with an error penalty (see `BalanceRule`), ages and wider
    samples.
    """

    decay: float = 10.0
    scan: int = 16
    sample: int = 5
    compares = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", units.seconds("decay", self.decay))
        units.whole("scan", self.scan)
        units.whole("sample", self.sample, least=2)

    def pick(self, hosts: Hosts, now: float, u: float) -> Host:
        """The least loaded of all, or of a sample; the first of several in an order drawn by u."""
        count = len(hosts)
        if count > self.scan:
            hosts = [hosts[index] for index in islice(draws(u, count), self.sample)]
        elif count > 1:
            first = int(u * count)
            hosts = (*hosts[first:], *hosts[:first])
        per_second = 1.0 / self.decay
        best, least = hosts[0], _INFINITE
        for host in hosts:
            cost = host.cost
            if cost:  # what follows is `load`, written out: this loop is most of what a pick costs
                cost *= exp((host.stamp - now) * per_second)
                pending = host.pending
                if pending:
                    if (age := now - host.oldest) > cost:
                        cost = age
                    cost *= pending + 1
                cost *= host.handicap
            elif host.pending:
                cost = UNKNOWN * host.pending * host.handicap
            if cost < least:
                best, least = host, cost
        return best

    def load(self, host: Host, now: float) -> float:
        """Expected seconds, in a queue of its requests out, over its weight."""
        if not host.cost:
            return UNKNOWN * host.pending * host.handicap
        cost = host.cost * exp((host.stamp - now) / self.decay)
        if host.pending:
            cost = max(cost, now - host.oldest)
        return cost * (host.pending + 1) * host.handicap

    def observe(self, host: Host, now: float, rtt: float) -> None:
        """Take an answer's latency into the average: a peak at once, anything faster by its share."""
        left = exp((host.stamp - now) / self.decay)
        faded = host.cost * left
        host.cost = rtt if rtt >= faded else rtt * (1.0 - left) + faded
        host.stamp = now

    def at_least(self, host: Host, now: float, age: float) -> None:
        """Take into account that an answer takes longer than `age`."""
        if age > host.cost * exp((host.stamp - now) / self.decay):
            host.cost, host.stamp = age, now


@dataclass(frozen=True, kw_only=True)
class LeastOutstanding:
    """Of `choices` random hosts the one with the fewest requests out, by its weight ("power of two choices").

    choices: >= 2. Default 2. It knows nothing of latency: a host that fails fast looks idle to it.
    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    """

    choices: int = 2
    compares = True

    def __post_init__(self) -> None:
        units.whole("choices", self.choices, least=2)

    def pick(self, hosts: Hosts, now: float, u: float) -> Host:
        """The least loaded of a few different ones."""
        return min(sample(hosts, self.choices, u), key=lambda host: (host.pending + 1) * host.handicap)

    def load(self, host: Host, now: float) -> float:
        """Requests out and this one, over its weight."""
        return (host.pending + 1) * host.handicap


@dataclass(frozen=True)
class RoundRobin:
    """One after the other, whatever their weights; the one that was asked least recently is next."""

    compares = False

    def pick(self, hosts: Hosts, now: float, u: float) -> Host:
        """The host whose turn it is."""
        host = min(hosts, key=_credit)
        host.credit = max(hosts, key=_credit).credit + 1.0
        return host

    def load(self, host: Host, now: float) -> float:
        """It compares nothing."""
        return 0.0


@dataclass(frozen=True)
class Weighted:
    """One after the other in proportion to their weights, evenly interleaved ("smooth weighted round robin", from nginx)."""

    compares = False

    def pick(self, hosts: Hosts, now: float, u: float) -> Host:
        """The host that is most behind its share."""
        total = 0.0
        for host in hosts:
            share = 1.0 / host.handicap
            host.credit += share
            total += share
        best = max(hosts, key=_credit)
        best.credit -= total
        return best

    def load(self, host: Host, now: float) -> float:
        """It compares nothing."""
        return 0.0


@dataclass(frozen=True)
class Random:
    """Anyone, in proportion to the weights."""

    compares = False

    def pick(self, hosts: Hosts, now: float, u: float) -> Host:
        """The host on whose stretch u falls."""
        left = u * sum(1.0 / host.handicap for host in hosts)
        for host in hosts:
            left -= 1.0 / host.handicap
            if left < 0:
                return host
        return hosts[-1]

    def load(self, host: Host, now: float) -> float:
        """It compares nothing."""
        return 0.0


def sample(hosts: Hosts, size: int, u: float) -> Hosts:
    """So many different hosts, drawn by u; all of them when there are no more."""
    count = len(hosts)
    if count <= size:
        return hosts
    places: dict[int, None] = {}
    for index in draws(u, count):
        places[index] = None
        if len(places) == size:
            break
    return [hosts[index] for index in places]


def _credit(host: Host) -> float:
    return host.credit


_INFINITE = float("inf")

PICKERS: dict[str, Picker] = {
    "peak_ewma": PeakEwma(),
    "least_outstanding": LeastOutstanding(),
    "round_robin": RoundRobin(),
    "weighted": Weighted(),
    "random": Random(),
}
"""The pickers by name. "maglev" is none of them: whom it asks hangs on the key of the request."""
