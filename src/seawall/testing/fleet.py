"""Several real processes on one limiter, for tests and benchmarks: each asks as fast as it may and says what passed, and when."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

_WORKER = "import sys; from seawall.testing.fleet import work; work(sys.argv[1])"


@dataclass(frozen=True)
class Found:
    """One process: the moments of what passed, by its own clock (monotonic seconds, the same for all on one machine) and by the
    store's (0 for what was leased); how many asks there were; whether any was decided without the store."""

    moments: list[float]
    stamps: list[float]
    asks: int
    degraded: bool


def run_fleet(  # noqa: PLR0917
    processes: int,
    url: str,
    name: str,
    spec: str,
    mode: str,
    seconds: float,
    *,
    pause: float = 0.001,
    key: str = "k",
    wrapper: tuple[str, ...] = (),
    **options: Any,
) -> list[Found]:
    """Run so many processes against one limit for so many seconds; what each of them found.

    pause: seconds between asks after a refusal. wrapper: words before the command. options: further ones of the limiter.
    """
    order = {
        "url": url,
        "name": name,
        "spec": spec,
        "mode": mode,
        "seconds": seconds,
        "pause": pause,
        "key": key,
        "options": {"budget": 5, "replicas": processes, **options},
        "start": time.monotonic() + 1.5 + processes * 0.25,
    }
    command = [*wrapper, sys.executable, "-c", _WORKER, json.dumps(order)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        return [Found(**json.loads(worker.communicate(timeout=seconds + 60)[0])) for worker in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait(10)


def work(text: str) -> None:
    """One process of a fleet: `text` says what to do; the result goes to stdout as JSON."""
    import seawall as sw

    order = json.loads(text)
    limiter = sw.RateLimiter(order["spec"], store=order["url"], name=order["name"], mode=order["mode"], **order["options"])
    limiter.peek(order["key"])
    moments, stamps, asks, degraded = [], [], 0, False
    while time.monotonic() < order["start"]:
        _sleep(0.001)
    end = time.monotonic() + order["seconds"]
    while (now := time.monotonic()) < end:
        asks += 1
        stamp = _pass(limiter, order["key"])
        if stamp is not None:
            moments.append(now)
            stamps.append(stamp)
        elif order["pause"]:
            _sleep(order["pause"])
        degraded = degraded or limiter.snapshot().degraded
    sys.stdout.write(json.dumps({"moments": moments, "stamps": stamps, "asks": asks, "degraded": degraded}))


def _pass(limiter: Any, key: str) -> float | None:
    """The store's moment if the ask passes, 0 if it passes on a lease, None if it does not pass."""
    from seawall.shared.port import TAKE

    if limiter.mode != "exact":
        return 0.0 if limiter.try_acquire(key) else None
    answer = limiter._source.ask(limiter.ask_for(TAKE, key, 1))
    return answer.at / 1e6 if answer.granted else None


def _sleep(seconds: float) -> None:
    """As time.sleep, which a library that fakes the clock makes fail."""
    select.select([], [], [], seconds)


def worst_window(moments: list[float], window: float) -> int:
    """The most moments in any span of that length."""
    ordered = sorted(moments)
    most, first = 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most
