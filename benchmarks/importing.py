"""What `import seawall` costs over bare Python, cold, in a process of its own; and what policies take in memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import tracemalloc

import seawall as sw
from benchmarks.measure import Row


def rows(*, quick: bool = False) -> list[Row]:
    """The import row."""
    rounds = 5 if quick else 20
    programs = {"bare": "pass", "import": "import seawall", "pipeline": "import seawall; seawall.Pipeline"}
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            best[name] = min(best[name], time.perf_counter() - began)
    bare = best["bare"]
    return [
        Row("import seawall, cold", (best["import"] - bare) * 1e3, "ms", "<= 30", "over bare Python"),
        Row("first use of Pipeline", (best["pipeline"] - bare) * 1e3, "ms", None, "over bare Python"),
        *_memory(),
    ]


def _memory(count: int = 200) -> list[Row]:
    """What one of each takes in memory, as the mean of many."""
    makers = {
        "circuit breaker": lambda: sw.CircuitBreaker(window_calls=100),
        "retry, with its budget": lambda: sw.Retry(3),
        "bulkhead of 10": lambda: sw.Bulkhead(10, queue=10),
        "rate limiter": lambda: sw.RateLimiter("10/s"),
        "decorated function": lambda: PIPELINE(lambda: None),
    }
    found = []
    for name, make in makers.items():
        make()
        gc.collect()
        tracemalloc.start()
        kept = [make() for _ in range(count)]
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found.append(Row(f"memory of a {name}", size / len(kept), "bytes", None, f"mean of {count}"))
    return found


PIPELINE = sw.Pipeline(sw.Retry(3), sw.CircuitBreaker(), sw.Bulkhead(10), name="measured")
