"""How good the choice of an instance is, against an oracle in virtual time, and what a choice costs.

The worlds are those of `seawall.simulator.fleet`: hosts with 4 workers and one queue each, exponential work of 10 ms on average,
Poisson arrivals from 20 clients. Each client has a balancer of its own, the very rule that services run with, and knows only its
own requests. The oracle knows all work of all requests and joins the host where this one is done first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.measure import Row, best_of
from seawall.balancing.rules.balance import BalanceRule
from seawall.balancing.rules.ejection import Outliers
from seawall.balancing.rules.host import Told
from seawall.discovery.instance import Instance
from seawall.simulator.fleet import EQUAL, MIXED, ONE_SLOW, Fleet
from seawall.simulator.kernel import Kernel

SECONDS = 15.0


def rows(*, quick: bool = False) -> list[Row]:
    """The rows of the balance area."""
    seeds = (1, 2) if quick else (1, 2, 3, 4, 5)
    found = [*against_oracle(seeds), *black_hole(seeds), *recovery(seeds)]
    return [*found, *costs(quick=quick)]


def against_oracle(seeds: Sequence[int]) -> list[Row]:
    """p99 over the oracle's, with all requests of all seeds together."""
    found = []
    for name, speeds, goals in (("1 of 10 hosts 5x slow", ONE_SLOW, (1.15, 1.25)), ("mixed hosts 0.5-2x", MIXED, (1.5, 1.7))):
        for load, goal in zip((0.7, 0.9), goals, strict=True):
            best = pooled(speeds, load, None, seeds)
            ours = pooled(speeds, load, BalanceRule(), seeds)
            p2c = pooled(speeds, load, BalanceRule(picker="least_outstanding"), seeds)
            versus = f"oracle {best * 1e3:.1f} ms; P2C least outstanding {p2c / best:.2f}"
            found.append(Row(f"p99 over the oracle, {name}, load {load:.0%}", ours / best, "x", f"<= {goal}", versus))
    return found


def pooled(speeds: Sequence[float], load: float, rule: BalanceRule | None, seeds: Sequence[int]) -> float:
    """The p99 over several worlds that differ by their seed alone."""
    latencies: list[float] = []
    for seed in seeds:
        latencies += Fleet(speeds, load, rule, seed=seed, measure_from=3.0).run(SECONDS).latencies
    return sorted(latencies)[int(len(latencies) * 0.99)]


def black_hole(seeds: Sequence[int]) -> list[Row]:
    """How much goes to a host that answers errors in a millisecond, from one second on."""

    def share(rule: BalanceRule) -> float:
        total = 0.0
        for seed in seeds:
            world = Fleet(EQUAL, 0.7, rule, seed=seed, measure_from=1.0)
            world.hosts[0].fails = True
            total += world.run(10.0).share(0)
        return total / len(seeds) * 100

    p2c = share(BalanceRule(picker="least_outstanding", outliers=None))
    rows = [Row("share sent to a host that fails in 1 ms, after 1 s", share(BalanceRule()), "%", "<= 1", "")]
    unaided = share(BalanceRule(outliers=None))
    return [*rows, Row("the same without ejection", unaided, "%", None, f"P2C least outstanding without it {p2c:.1f}")]


def recovery(seeds: Sequence[int]) -> list[Row]:
    """The share of a host that was 5x slow for 10 s, from 10 s after it is well again on, over its fair share."""
    total = 0.0
    for seed in seeds:
        world = Fleet(EQUAL, 0.7, BalanceRule(), seed=seed, measure_from=25.0)
        world.hosts[0].speed = 0.2
        world.rate *= 9.2 / 10  # 70 % of what is there
        world.kernel.call_at(15.0, world.hosts[0].heal)
        total += world.run(30.0).share(0)
    fair = total / len(seeds) * 10 * 100
    return [Row("share of a recovered host after 10 s, of fair", fair, "%", ">= 50", "5x slow for 15 s before")]


def costs(*, quick: bool) -> list[Row]:
    """What one choice and the lesson from its answer cost, with answers outstanding as in life."""
    rounds, calls = (20, 2000) if quick else (60, 5000)
    cases = {str(count): choice(count) for count in (10, 1000)}
    times = best_of(cases, rounds=rounds, calls=calls)
    versus = "Peak EWMA with ejection and slow start, minimum of rounds"
    return [
        Row(f"pick + observe, {count} hosts", times[count] / 1e3, "us", f"<= {goal}", versus)
        for count, goal in (("10", 5), ("1000", 10))
    ]


def choice(count: int) -> Callable[[], object]:
    """A function that ends the oldest of a few requests and sends another one."""
    rule = BalanceRule(outliers=Outliers())
    state = rule.start(0.0)
    rule.update(state, 0.0, [Instance("stock", id=str(number), port=1 + number) for number in range(count)])
    kernel = Kernel()
    now, step = 100.0, 0.0001
    for host in state.hosts.values():
        rule.latency.observe(host, now, 0.01)
    out = [rule.admit(state, now, kernel.random()) for _ in range(8)]
    place = 0

    def turn() -> None:
        nonlocal now, place
        now += step
        rule.settle(state, now, out[place], Told.OK)  # type: ignore[arg-type]
        out[place] = rule.admit(state, now, kernel.random())
        place = (place + 1) & 7

    return turn
