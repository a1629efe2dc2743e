"""What a decision of the limiter costs in memory: time against the floor of a lock, and bytes per key."""

from __future__ import annotations

import threading
import tracemalloc

import seawall as sw
from benchmarks.measure import Row, best_of


def rows(*, quick: bool = False) -> list[Row]:
    """The in-memory part of the limit area, as far as this release measures it."""
    rounds, calls = (10, 500) if quick else (40, 2000)
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            pass

    limiter = sw.RateLimiter("1000000000/s")
    times = best_of({"lock": locked, "try_acquire": limiter.try_acquire}, rounds=rounds, calls=calls)
    found = [Row("in-memory try_acquire", times["try_acquire"] / times["lock"], "x", None, "an empty `with lock`")]
    return [
        *found,
        Row("memory per key", bytes_per_key(100_000 if quick else 1_000_000), "bytes", "<= 80", "keys themselves left out"),
    ]


def bytes_per_key(keys: int) -> float:
    """Bytes that one more live key takes, the key itself not counted."""
    names = [f"tenant-{number}" for number in range(keys)]
    limiter = sw.RateLimiter("1/h burst 10", max_keys=keys)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for name in names:
        limiter.try_acquire(name)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / keys
