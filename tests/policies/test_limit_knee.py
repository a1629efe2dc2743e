"""The limit algorithms against a simulated server: do they find its knee, and stay there."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, Slot


@dataclass
class Server:
    """Workers that serve in order of arrival; past `room` waiting calls it sheds at once. Callers are always waiting for us.

    The knee is at `workers` calls at once: fewer leave workers idle, more only queue. Service times are Erlang(shape).
    """

    workers: int = 100
    service: float = 0.05
    shape: float = 25
    room: float = math.inf
    seed: int = 0
    now: float = 0.0
    started: int = 0
    free: list[float] = field(default_factory=list)
    ends: list[tuple[float, int, float, Slot, bool]] = field(default_factory=list)

    def drive(self, rule: AdaptiveLimitRule, state: Any, samples: int) -> list[float]:
        """Let `samples` calls begin; the limit after every hundredth."""
        draw = random.Random(self.seed)
        self.free = self.free or [self.now] * self.workers
        limits = []
        for done in range(samples):
            while isinstance(slot := rule.admit(state, self.now, self.now), Slot):
                self._begin(slot, draw.gammavariate(self.shape, self.service / self.shape))
            self.now, _, since, slot, shed = heapq.heappop(self.ends)
            outcome = Outcome.FAILURE if shed else Outcome.SUCCESS
            rule.settle(state, self.now, slot, outcome, self.now - since, shed)
            if done % 100 == 0:
                limits.append(state.limit)
        return limits

    def resize(self, workers: int) -> None:
        """Lose workers, the busiest last, or get more."""
        self.free = sorted(self.free)[-workers:] + [self.now] * (workers - len(self.free))
        heapq.heapify(self.free)
        self.workers = workers

    def _begin(self, slot: Slot, service: float) -> None:
        self.started += 1
        if len(self.ends) >= self.workers + self.room:
            heapq.heappush(self.ends, (self.now + 0.001, self.started, self.now, slot, True))
            return
        end = max(self.now, heapq.heappop(self.free)) + service
        heapq.heappush(self.free, end)
        heapq.heappush(self.ends, (end, self.started, self.now, slot, False))


def settled(limits: list[float]) -> float:
    """The mean limit of the second half."""
    return fmean(limits[len(limits) // 2 :])


@pytest.mark.parametrize(
    ("algorithm", "room"), [("correlation", math.inf), ("vegas", math.inf), ("gradient2", math.inf), ("aimd", 5)]
)
@pytest.mark.parametrize("service", [0.05, 0.2])
def test_every_algorithm_finds_the_knee_within_a_fifth(algorithm: Any, room: float, service: float) -> None:
    """A limit that is far from the knee either wastes the callee or queues there. AIMD feels only refusals."""
    rule = AdaptiveLimitRule(algorithm=algorithm, most=400)
    knee = settled(Server(room=room, service=service).drive(rule, rule.start(0), 60_000)) / 100
    print(f"{algorithm} at {knee:.3f} of the knee")
    assert 0.8 <= knee <= 1.2


@pytest.mark.parametrize("workers", [20, 50, 100])
@pytest.mark.parametrize("shape", [1, 4])
def test_the_default_finds_the_knee_of_noisy_and_of_small_servers(workers: int, shape: float) -> None:
    """Real service times vary, up to exponentially, and real services are small."""
    rule = AdaptiveLimitRule()
    limits = Server(workers=workers, shape=shape).drive(rule, rule.start(0), 60_000)
    assert 0.8 <= settled(limits) / workers <= 1.2
    late = sorted(limits[len(limits) // 2 :])
    assert workers * (0.5 if workers < 50 else 0.7) < late[0]
    assert late[-1] < workers * (1.8 if workers < 50 else 1.4)


def test_the_default_follows_a_server_that_shrinks_and_recovers() -> None:
    """A limit that was learned yesterday must not protect yesterday's server."""
    rule = AdaptiveLimitRule()
    state, server = rule.start(0), Server(shape=4)
    assert settled(server.drive(rule, state, 40_000)) == pytest.approx(100, rel=0.2)
    server.resize(30)
    assert settled(server.drive(rule, state, 40_000)) == pytest.approx(30, rel=0.2)
    server.resize(100)
    assert settled(server.drive(rule, state, 80_000)) == pytest.approx(100, rel=0.2)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_default_does_not_creep_under_steady_overload(soak_seconds: float, soak_seed: int) -> None:
    """Creep is what ends other adaptive limits: after a million samples they admit what they were made to refuse."""
    samples = 1_000_000 if soak_seconds >= 60 else 150_000
    rule = AdaptiveLimitRule(most=1000)
    limits = Server(shape=4, seed=soak_seed).drive(rule, rule.start(0), samples)
    tenth = len(limits) // 10
    means = [fmean(limits[index * tenth : (index + 1) * tenth]) for index in range(1, 10)]
    print(f"{samples} samples: {means[0]:.1f} in the second tenth, {means[-1]:.1f} in the last, <= {max(limits[tenth:]):.0f}")
    assert all(90 <= mean <= 115 for mean in means)
    assert abs(means[-1] - means[0]) < 8
    assert max(limits[tenth:]) < 150


def test_vegas_takes_exponential_service_times_for_a_queue_as_its_page_says() -> None:
    """The fastest window is far below the mean, and the difference looks like waiting."""
    rule = AdaptiveLimitRule(algorithm="vegas")
    assert settled(Server(shape=1).drive(rule, rule.start(0), 60_000)) < 50


def test_gradient2_creeps_as_its_page_says() -> None:
    """The warning in the docs is true, and tells why it is not the default."""
    rule = AdaptiveLimitRule(algorithm="gradient2", most=400)
    state, server = rule.start(0), Server()
    early = settled(server.drive(rule, state, 40_000))
    assert settled(server.drive(rule, state, 150_000)) > 1.05 * early
