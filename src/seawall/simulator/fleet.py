"""A service of several instances and the clients that choose among them, in virtual time, with an oracle to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Any, Final

from seawall.balancing.rules.balance import BalanceRule
from seawall.balancing.rules.host import Pick, Told
from seawall.discovery.instance import Instance
from seawall.simulator.kernel import Kernel

WORK: Final = 0.010
"""Mean work of a request in seconds, on a host of speed 1; exponentially distributed."""
ONE_SLOW: Final = (0.2, *(1.0,) * 9)
MIXED: Final = (*(0.5,) * 3, *(1.0,) * 4, *(2.0,) * 3)
EQUAL: Final = (1.0,) * 10


@dataclass
class FleetHost:
    """A modelled instance: workers behind one queue, first come first served.

    speed: of its workers, 1 = usual; it holds for requests that arrive from now on. free: when each worker is free, a heap.
    fails: it answers nothing but errors, in a millisecond.
    """

    speed: float
    free: list[float]
    fails: bool = False

    def done(self, now: float, work: float) -> float:
        """When a request that arrives now would be done."""
        if self.fails:
            return now + 0.001
        return max(now, self.free[0]) + work / self.speed

    def take(self, now: float, work: float) -> float:
        """Take a request; when it is done."""
        end = self.done(now, work)
        if not self.fails:
            heapreplace(self.free, end)
        return end

    def heal(self) -> None:
        """From now on it is as quick as the others, and answers well."""
        self.speed, self.fails = 1.0, False


class Fleet:
    """Clients, hosts and time.

    speeds: of the hosts. load: offered work over what all hosts can do, > 0. rule: how each client chooses, with a state of its
    own; None = an oracle that knows the work of all requests and joins the host where this one is done first.
    seed: of its chance. measure_from: the moment from which on requests are counted in `latencies` and `asked`.
    clients: default 20. workers: of each host, default 4.
    """

    def __init__(
        self,
        speeds: Sequence[float],
        load: float,
        rule: BalanceRule | None,
        *,
        seed: int,
        measure_from: float = 0.0,
        clients: int = 20,
        workers: int = 4,
    ) -> None:
        self.kernel = Kernel(seed=seed)
        self.hosts = [FleetHost(speed, [0.0] * workers) for speed in speeds]
        self.rate = load * workers * sum(speeds) / WORK
        self.rule = rule
        self.clients = clients
        self.measure_from = measure_from
        self.latencies: list[float] = []
        self.asked = [0] * len(speeds)
        found = [Instance("stock", id=str(number), port=1 + number) for number in range(len(speeds))]
        self.states = [] if rule is None else [rule.start(0.0) for _ in range(clients)]
        for state in self.states:
            assert rule is not None
            rule.update(state, 0.0, found)

    def run(self, seconds: float) -> Fleet:
        """Let requests arrive for so long, and wait for all answers."""
        self.until = seconds
        self.kernel.call_later(0.0, self._arrive)
        self.kernel.run()
        return self

    def _arrive(self) -> None:
        kernel, chance = self.kernel, self.kernel.chance
        now = kernel.now()
        work = chance.expovariate(1.0 / WORK)
        if self.rule is None:
            index = min(range(len(self.hosts)), key=lambda number: self.hosts[number].done(now, work))
            end = self.hosts[index].take(now, work)
        else:
            state = self.states[int(kernel.random() * self.clients)]
            pick = self.rule.admit(state, now, kernel.random())
            assert isinstance(pick, Pick)
            index = int(pick.host.id)
            host = self.hosts[index]
            end = host.take(now, work)
            kernel.call_at(end, self._answer, state, pick, Told.BAD if host.fails else Told.OK)
        if now >= self.measure_from:
            self.latencies.append(end - now)
            self.asked[index] += 1
        after = chance.expovariate(self.rate)
        if now + after < self.until:
            kernel.call_later(after, self._arrive)

    def _answer(self, state: Any, pick: Pick, told: Told) -> None:
        assert self.rule is not None
        self.rule.settle(state, self.kernel.now(), pick, told)

    def p99(self) -> float:
        """The 99th percentile of latency, in seconds."""
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)]

    def share(self, index: int) -> float:
        """The share of requests that a host had."""
        return self.asked[index] / sum(self.asked)
