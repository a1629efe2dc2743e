"""L2 and the bounds of every algorithm, from the store's log of eight real processes; wrong clocks do not matter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seawall.testing.fleet import Found, run_fleet, worst_window
from seawall.testing.servers import RedisServer

FORKING = """
import os, sys
import seawall as sw
from seawall.shared.bulkhead import SharedBulkhead
limiter = sw.RateLimiter("6/h", store=sys.argv[1], name=sys.argv[2], budget=5)
bulkhead = SharedBulkhead(1, name=sys.argv[2], store=sys.argv[1], budget=5)
assert limiter.try_acquire("k", 2)
permit = bulkhead.permit()
permit.__enter__()
child = os.fork()
passed = [limiter.decide("k").allowed for _ in range(4)]
if child == 0:
    full = bulkhead.try_call(print).rejection is not None
    os._exit(sum(passed) + 100 * full)
_, status = os.waitpid(child, 0)
permit.__exit__(None, None, None)
print(sum(passed), os.waitstatus_to_exitcode(status), limiter.snapshot().degraded, bulkhead.try_call(lambda: 1).value)
"""
LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr/lib").glob("faketime/libfaketime.so.1")]


@pytest.mark.parametrize(
    ("algorithm", "spec", "most"),
    [
        ("token_bucket", "400/s burst 40", 440),
        ("leaky_bucket", "400/s burst 1", 401),
        ("sliding_log", "400/s", 400),
        ("sliding_window", "400/s", 800),
        ("fixed_window", "400/s", 800),
    ],
)
def test_eight_processes_stay_within_the_bound_of_their_algorithm(
    valkey: RedisServer, unique: str, algorithm: str, spec: str, most: int
) -> None:
    """L2: in every window of the log, with eight processes on one key, nobody passes too much; and what may pass, does."""
    seconds = 2.0
    found = run_fleet(8, valkey.url, unique, spec, "exact", seconds, algorithm=algorithm)
    assert not any(each.degraded for each in found)
    moments = [moment for each in found for moment in each.stamps]
    worst = worst_window(moments, 1.0)
    print(f"{algorithm}: passed {len(moments)} in {seconds:g} s, at most {worst} of {most} in a second")
    assert worst <= most
    floor = 0.9 * 400 * seconds if algorithm != "leaky_bucket" else 0.5 * 400 * seconds
    assert len(moments) >= floor


@pytest.mark.skipif(not LIBRARIES or shutil.which("env") is None, reason="libfaketime is not installed")
def test_clocks_that_are_five_seconds_off_change_nothing(valkey: RedisServer, unique: str) -> None:
    """The server's time decides: a skewed client would over-issue with its own."""
    wrapper = ("env", f"LD_PRELOAD={LIBRARIES[0]}", "FAKETIME_DONT_FAKE_MONOTONIC=1")
    found: list[Found] = []

    def half(offset: str) -> None:
        found.extend(run_fleet(4, valkey.url, unique, "400/s burst 40", "exact", 2.0, wrapper=(*wrapper, f"FAKETIME={offset}")))

    threads = [threading.Thread(target=half, args=(offset,)) for offset in ("+5s", "-5s")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    moments = [moment for each in found for moment in each.stamps]
    worst = worst_window(moments, 1.0)
    print(f"passed {len(moments)}, at most {worst} in a second")
    assert len(found) == 8
    assert len(moments) >= 700
    assert worst <= 440


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_shares_the_limit_on_a_connection_of_its_own(valkey: RedisServer, unique: str) -> None:
    """Two processes on one socket would read each other's answers; and the parent's seat is not the child's."""
    command = [sys.executable, "-c", FORKING, valkey.url, unique]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    mine, childs = int(told[0]), int(told[1])
    assert childs >= 100
    assert mine + childs - 100 == 4
    assert told[2:] == ["False", "1"]
