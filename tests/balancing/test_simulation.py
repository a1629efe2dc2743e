"""The rule in virtual time, against theory and an oracle: small versions of what the benchmark measures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seawall.balancing.rules.balance import BalanceRule
from seawall.balancing.rules.pickers import LeastOutstanding
from seawall.simulator.fleet import EQUAL, MIXED, ONE_SLOW, WORK, Fleet

MITZENMACHER = {0.5: 1.2657, 0.9: 2.6141}
"""Mean time in system over mean work, two choices of very many queues: the sum over i >= 1 of load ** (2 ** i - 2)."""


def mean_stay(choices: int, load: float, seconds: float) -> float:
    """Mean time in system over mean work, with one client that sees every queue of a hundred hosts with one worker."""
    rule = BalanceRule(picker="random" if choices == 1 else LeastOutstanding(choices=choices), outliers=None)
    world = Fleet((1.0,) * 100, load, rule, seed=3, measure_from=0.2 * seconds, clients=1, workers=1).run(seconds)
    return sum(world.latencies) / len(world.latencies) / WORK


@pytest.mark.parametrize(("load", "seconds"), [(0.5, 6.0), (0.9, 8.0)])
def test_two_choices_wait_as_long_as_theory_says(load: float, seconds: float) -> None:
    """A simulator that is wrong about the one case with a formula is wrong about all others."""
    assert mean_stay(2, load, seconds) == pytest.approx(MITZENMACHER[load], rel=0.05)


def test_one_choice_waits_as_long_as_theory_says() -> None:
    """The single queue, M/M/1, is the check of the model itself: 1 / (1 - load)."""
    assert mean_stay(1, 0.5, 8.0) == pytest.approx(2.0, rel=0.05)


def over_the_oracle(speeds: tuple[float, ...], load: float, make: Callable[[], BalanceRule]) -> float:
    worlds = (Fleet(speeds, load, rule, seed=5, measure_from=3.0).run(10.0) for rule in (make(), None))
    ours, best = (world.p99() for world in worlds)
    return ours / best


@pytest.mark.parametrize(
    ("speeds", "load", "most"), [(ONE_SLOW, 0.7, 1.25), (ONE_SLOW, 0.9, 1.4), (MIXED, 0.7, 1.6), (MIXED, 0.9, 1.85)]
)
def test_slow_and_unlike_hosts_are_handled_nearly_as_by_an_oracle(speeds: tuple[float, ...], load: float, most: float) -> None:
    """This is what the default picker is for; the benchmark holds it to tighter figures over more seeds."""
    assert over_the_oracle(speeds, load, BalanceRule) < most


def test_counting_requests_alone_is_far_from_the_oracle() -> None:
    """The reason for the default: a client that sees only its own requests learns nothing from counting them."""
    assert over_the_oracle(ONE_SLOW, 0.7, lambda: BalanceRule(picker="least_outstanding")) > 3


def test_a_host_that_fails_fast_gets_next_to_nothing() -> None:
    """By latency alone it would look like the quickest of all."""
    for rule in (BalanceRule(), BalanceRule(outliers=None), BalanceRule(picker="least_outstanding")):
        world = Fleet(EQUAL, 0.7, rule, seed=5, measure_from=1.0)
        world.hosts[0].fails = True
        assert world.run(8.0).share(0) < 0.01


def test_a_host_that_recovered_is_found_out() -> None:
    """Without fading memory it would be shunned for ever."""
    world = Fleet(EQUAL, 0.7, BalanceRule(), seed=5, measure_from=20.0)
    world.hosts[0].speed = 0.2
    world.kernel.call_at(10.0, world.hosts[0].heal)
    assert world.run(24.0).share(0) > 0.05


def test_the_same_seed_gives_the_same_world() -> None:
    """A figure that cannot be had again cannot be trusted."""
    first, second = (Fleet(MIXED, 0.7, BalanceRule(), seed=9, measure_from=0.0).run(1.0) for _ in range(2))
    assert first.latencies == second.latencies
    assert len(first.latencies) > 2000
