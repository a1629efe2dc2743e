"""The published simulation of jittered back-off: one row, optimistic writers, who wait and try again.

The figures are those of AWS's open simulator (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015), mean of 100 runs:
milliseconds until the last client has written, and writes in all. Its first wait has exponent 1.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from typing import Any

import pytest

from seawall.policies.backoff import Backoff

BACKOFFS = {
    "none": None,
    "exponential": Backoff(base=0.005, cap=2, jitter="none"),
    "equal": Backoff(base=0.005, cap=2, jitter="equal"),
    "full": Backoff(base=0.005, cap=2, jitter="full"),
    "decorrelated": Backoff(base=0.005, cap=2, growth="decorrelated"),
}
PUBLISHED = {
    ("none", 10): (384, 51.6), ("exponential", 10): (3371, 50.4), ("equal", 10): (714, 42.4),
    ("full", 10): (473, 39.2), ("decorrelated", 10): (440, 37.7),
    ("none", 50): (1147, 690.7), ("exponential", 50): (36278, 621.8), ("equal", 50): (4173, 346.7),
    ("full", 50): (2849, 332.2), ("decorrelated", 50): (2240, 375.1),
}  # fmt: skip
RUNS = 60


def contend(clients: int, backoff: Backoff | None, draw: random.Random) -> tuple[float, int]:
    """Milliseconds until all have written, and how many writes that took."""
    serial = itertools.count()
    events: list[tuple[float, int, str, int, Any]] = []
    version = writes = 0
    ended = 0.0

    def send(now: float, kind: str, tries: int, what: Any) -> None:
        heapq.heappush(events, (now + abs(draw.gauss(10, 2)), next(serial), kind, tries, what))

    for _ in range(clients):
        send(0.0, "read", 0, None)
    while events:
        now, _, kind, tries, what = heapq.heappop(events)
        if kind == "read":
            send(now, "write at", tries, (version, what))
        elif kind == "write at":
            send(now, "write", tries, what)
        elif kind == "write":
            writes += 1
            seen, waited = what
            written = seen == version
            version += written
            send(now, "answer", tries, (written, waited))
        else:
            written, waited = what
            if written:
                ended = max(ended, now)
                continue
            wait = 0.0 if backoff is None else backoff.wait(tries + 1, draw.random(), waited)
            send(now + wait * 1000, "read", tries + 1, wait or None)
    return ended, writes


def measure(name: str, clients: int) -> list[tuple[float, int]]:
    """Many seeded runs."""
    draw = random.Random(clients)
    return [contend(clients, BACKOFFS[name], draw) for _ in range(RUNS)]


@pytest.mark.parametrize(("name", "clients"), PUBLISHED, ids=lambda value: str(value))
def test_our_backoff_reproduces_the_published_simulation(name: str, clients: int) -> None:
    """Within three standard errors of both: our formulas are the ones that were measured."""
    runs = measure(name, clients)
    for ours, published in zip(zip(*runs, strict=True), PUBLISHED[name, clients], strict=True):
        spread = statistics.stdev(ours)
        error = math.hypot(spread / math.sqrt(RUNS), spread / math.sqrt(100))
        assert statistics.mean(ours) == pytest.approx(published, abs=3 * error)


def test_full_jitter_makes_the_fewest_calls() -> None:
    """Why it is the default."""
    writes = {name: statistics.mean(calls for _, calls in measure(name, 50)) for name in BACKOFFS}
    assert min(writes, key=lambda name: writes[name]) == "full"
    assert writes["full"] < writes["equal"] < writes["decorrelated"] < writes["exponential"] < writes["none"]
