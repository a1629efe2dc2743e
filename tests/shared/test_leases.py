"""Leases: a round trip for many decisions, with the bound that is stated for them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import seawall as sw
from seawall.shared.limiter import SharedRateLimiter
from seawall.shared.memory import MemoryStore
from seawall.shared.port import LEASE, TAKE, Answer, Ask
from seawall.shared.redis import RedisStore
from seawall.testing import VirtualClock
from seawall.testing.fleet import run_fleet, worst_window
from seawall.testing.servers import RedisServer


class Counting(MemoryStore):
    """A store that remembers what it was asked."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.asks: list[int] = []
        self.granted = 0

    def ask(self, ask: Ask) -> Answer:
        """Count it."""
        self.asks.append(ask.verb)
        answer = super().ask(ask)
        if ask.verb in (TAKE, LEASE):
            self.granted += answer.granted * (ask.cost if ask.verb == TAKE else 1) - ask.y
        return answer


def make(spec: str, mode: Any, **options: Any) -> tuple[sw.RateLimiter, Counting, VirtualClock]:
    """A limiter on virtual time."""
    clock = VirtualClock(seed=0)
    store = Counting(clock)
    limiter = sw.RateLimiter(spec, store=store, mode=mode, clock=clock, name="leased", **options)
    assert isinstance(limiter, SharedRateLimiter)
    return limiter, store, clock


def drive(limiter: sw.RateLimiter, clock: VirtualClock, rate: float, seconds: float) -> list[float]:
    """Ask evenly; the moments of what passed."""
    passed = []
    for _ in range(int(rate * seconds)):
        if limiter.try_acquire("k"):
            passed.append(clock.monotonic())
        clock.advance(1 / rate)
    return passed


@pytest.mark.parametrize("mode", ["lease", "auto"])
def test_a_saturated_limit_is_used_up_with_few_round_trips(mode: Any) -> None:
    """A naive lease asks four times for each admission when the bucket is empty, and wastes what it holds."""
    limiter, store, clock = make("1000/s burst 200", mode)
    passed = drive(limiter, clock, 4000, 4)
    assert store.granted == pytest.approx(len(passed), abs=100)  # what was paid was used
    assert store.granted <= 1000 * 4 + 200 + 1  # never over, by the store's account
    assert worst_window(passed, 1.0) <= 1000 + 200 + 100  # and what was outstanding
    assert len(passed) >= 0.97 * (1000 * 4 + 200)
    assert len(store.asks) / len(passed) <= 0.1


def test_below_the_limit_nobody_is_refused_and_nothing_is_wasted() -> None:
    """At demand below the rate a lease must be invisible."""
    limiter, store, clock = make("1000/s burst 200", "lease")
    passed = drive(limiter, clock, 600, 3)
    assert len(passed) == 1800
    assert store.granted - len(passed) < 400
    assert len(store.asks) < 0.1 * len(passed) + 20


def test_auto_asks_for_each_decision_while_a_key_is_quiet() -> None:
    """A lease on a quiet key only takes units away from others."""
    limiter, store, clock = make("1000/s burst 200", "auto")
    assert len(drive(limiter, clock, 20, 3)) == 60
    assert set(store.asks) == {TAKE}
    drive(limiter, clock, 500, 3)
    assert LEASE in store.asks


def test_a_burst_too_small_to_share_is_never_leased() -> None:
    """With two units for four processes a lease would be everything."""
    limiter, store, clock = make("1000/s burst 4", "lease", replicas=4)
    drive(limiter, clock, 2000, 1)
    assert LEASE not in store.asks


def test_a_refusal_holds_until_its_moment_without_asking_again() -> None:
    """A client that hammers must cost nothing."""
    limiter, store, clock = make("10/s burst 10", "lease")
    while limiter.try_acquire("k"):
        pass
    asks = len(store.asks)
    refused = [limiter.decide("k") for _ in range(50)]
    assert not any(decision.allowed for decision in refused)
    assert len(store.asks) == asks
    clock.advance(refused[-1].retry_after)
    assert limiter.decide("k").allowed


def test_a_refund_ends_a_refusal_that_was_kept_and_never_stays_never() -> None:
    """A refusal holds until its moment unless somebody gives back; and what can never pass is not told to come again."""
    limiter, _, clock = make("10/min burst 10", "lease")
    with limiter.reserve("k", 10) as reservation:
        clock.advance(0.01)
        assert not limiter.try_acquire("k")
        assert not limiter.try_acquire("k")
        assert limiter.decide("k", 11).retry_after == math.inf
        reservation.settle(4)
    assert limiter.decide("k", 2).allowed


def test_penalties_and_resets_reach_what_is_leased() -> None:
    """An order of a person must not wait for a lease to end."""
    limiter, _, clock = make("1000/s burst 200", "lease")
    drive(limiter, clock, 600, 1)
    assert limiter.try_acquire("k")
    limiter.penalise("k", 5)
    assert not limiter.try_acquire("k")
    limiter.reset("k")
    assert limiter.try_acquire("k")


def test_a_fork_does_not_spend_what_its_parent_leased() -> None:
    """Two processes on one lease would be a limit twice as high."""
    limiter, _, clock = make("1000/s burst 200", "lease")
    drive(limiter, clock, 600, 1)
    assert limiter.snapshot().keys == 1
    limiter.reopen()
    assert limiter.snapshot().keys == 0


async def test_tasks_lease_in_the_background(valkey: RedisServer, unique: str) -> None:
    """Nobody waits for a round trip while units remain."""
    limiter = sw.RateLimiter("100000/s burst 20000", store=valkey.url, budget=5, mode="lease", name=unique)
    assert isinstance(limiter, SharedRateLimiter)

    async def work() -> int:
        passed = 0
        for _ in range(400):
            passed += await limiter.atry_acquire("k")
            await asyncio.sleep(0)
        return passed

    passed = sum(await asyncio.gather(*(work() for _ in range(10))))
    assert passed == 4000
    assert limiter.snapshot().keys == 1
    await limiter.aacquire("k", timeout=5)


def test_processes_that_lease_stay_within_the_stated_bound(valkey: RedisServer, unique: str) -> None:
    """Leases: at most rate x window + burst plus what is outstanding, with four processes on one key."""
    seconds = 2.0
    found = run_fleet(4, valkey.url, unique, "1000/s burst 200", "lease", seconds)
    assert not any(each.degraded for each in found)
    moments = sorted(moment for each in found for moment in each.moments)
    most = worst_window(moments, 1.0)
    print(f"passed {len(moments)} of {1000 * seconds + 200:g}, at most {most} in a second")
    assert most <= 1000 + 200 + 4 * 25
    assert len(moments) <= 1000 * seconds + 200 + 4 * 25
    assert len(moments) >= 0.85 * (1000 * seconds + 200)


def test_who_shares_a_limit_is_counted(valkey: RedisServer, unique: str) -> None:
    """Shares of an outage and sizes of leases follow the fleet by themselves."""
    stores = [RedisStore(valkey.url, budget=5) for _ in range(3)]
    limiters: list[Any] = [sw.RateLimiter("10/h", store=store, budget=5, name=unique) for store in stores]
    for limiter in limiters:
        limiter.decide("k")
    assert limiters[-1].limits.replicas == 3
    for store in stores:
        store.close()
