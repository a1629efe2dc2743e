"""What a decision of the limiter costs: in memory against its peers, on a real store against its client, and on leases."""

from __future__ import annotations

import sys
import threading
import tracemalloc

import seawall as sw
from benchmarks.measure import Row, best_of


def rows(*, quick: bool = False) -> list[Row]:
    """The limit area. Peers and the store come with the bench packages; what is not installed is left out, and said."""
    found = in_memory(quick=quick)
    found += [Row("memory per key", bytes_per_key(100_000 if quick else 1_000_000), "bytes", "<= 80", "keys themselves left out")]
    for module in ("benchmarks.limit_peers", "benchmarks.limit_redis"):
        try:
            area = __import__(module, fromlist=["rows"])
        except ModuleNotFoundError as error:
            print(f"{module} left out: no module {error.name}; see requirements/bench.in", file=sys.stderr)
            continue
        found += area.rows(quick=quick)
    return found


def in_memory(*, quick: bool) -> list[Row]:
    """The floor: a lock."""
    rounds, calls = (10, 500) if quick else (40, 2000)
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            pass

    limiter = sw.RateLimiter("1000000000/s")
    times = best_of({"lock": locked, "try_acquire": limiter.try_acquire}, rounds=rounds, calls=calls)
    return [Row("in-memory try_acquire", times["try_acquire"] / times["lock"], "x", None, "an empty `with lock`")]


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
