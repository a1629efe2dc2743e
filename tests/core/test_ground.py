"""Clock, events, context and registrars: the words that every other room stands on."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import seawall as sw
from seawall.core import clock as clocks
from seawall.core import context, registrars
from seawall.core.events import Event, Sinks
from seawall.core.runtime import loop_is_running
from seawall.testing import VirtualClock


def test_a_broken_sink_never_breaks_the_call_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """Telemetry that fails must not take the service along, nor be silent."""
    sinks, seen = Sinks(), []

    def broken(event: Event) -> None:
        raise RuntimeError("no disk")

    sinks.add(broken)
    end = sinks.add(seen.append)
    event = Event("call.started", "p", 1.0)
    with caplog.at_level(logging.ERROR, "seawall.events"):
        sinks.emit(event)
        sinks.emit(event)
    assert seen == [event, event]
    assert len(caplog.records) == 1
    end()
    end()
    sinks.emit(event)
    assert len(seen) == 2
    with pytest.raises(TypeError, match="callable"):
        sinks.add(None)  # type: ignore[arg-type]


def test_the_nearest_deadline_wins_when_nested(seawall_time: VirtualClock) -> None:
    """An inner limit may only shrink what the caller has left."""
    assert sw.remaining() is None
    with sw.deadline(10) as outer:
        with sw.deadline("2s"):
            assert sw.remaining() == pytest.approx(2)
        with sw.deadline(60) as inner:
            assert inner == outer
        seawall_time.advance(11)
        assert sw.remaining() == 0
    assert sw.remaining() is None
    with pytest.raises(ValueError, match="seconds"), sw.deadline(0):
        pass


def test_context_is_carried_to_other_threads_when_bound() -> None:
    """A thread pool loses context variables unless the function carries them."""
    with sw.priority("critical"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(sw.current).result().priority == "default"
        carried = sw.carry(sw.current)
        assert pool.submit(carried).result().priority == "critical"
    assert carried().priority == "critical"
    with pytest.raises(ValueError, match="critical"), sw.priority("urgent"):  # type: ignore[arg-type]
        pass


def test_detached_work_sees_nothing_of_its_caller() -> None:
    """Fire-and-forget work must not die of its caller's deadline."""
    with sw.deadline(1), sw.detached():
        assert sw.current() == context.EMPTY


def test_context_follows_tasks_by_itself() -> None:
    """A task made inside a deadline lives under it."""

    async def main() -> float | None:
        with sw.deadline(5):
            return await asyncio.create_task(_remaining())

    async def _remaining() -> float | None:
        return sw.remaining()

    assert asyncio.run(main()) == pytest.approx(5, abs=1)


def test_functions_are_known_while_a_registrar_holds_them() -> None:
    """A guard on top of a registrar would never run."""

    def check() -> None: ...

    assert registrars.held_by(check) is None
    registrars.hold(check, "@health.ready")
    assert registrars.held_by(check) == "@health.ready"
    assert registrars.held_by(5) is None  # type: ignore[arg-type]


def test_the_system_clock_is_the_machines() -> None:
    """The default must be real time, and its seed must make jitter repeatable."""
    clock = sw.SystemClock(seed=7)
    assert clock.random.random() == sw.SystemClock(seed=7).random.random()
    before = clock.monotonic()
    clock.sleep(0)
    asyncio.run(clock.asleep(0))
    assert clock.monotonic() >= before
    assert clock.wall() > 1_600_000_000
    assert clock.threads is clock.threads
    assert clock.tasks is clock.tasks
    assert clock.tasks.kind == "asyncio"
    flag = threading.Event()
    flag.set()
    assert clock.wait(flag, None)
    with clock.job():
        pass


def test_a_tests_clock_takes_the_place_of_the_systems_only() -> None:
    """Somebody's own clock stays their own."""
    virtual, own = VirtualClock(), VirtualClock()
    before = clocks.override(virtual)
    try:
        assert clocks.default() is virtual
        assert clocks.resolve(None) is virtual
        assert clocks.resolve(sw.SystemClock()) is virtual
        assert clocks.resolve(own) is own
    finally:
        clocks.override(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forked_children_draw_their_own_numbers_and_hold_no_locks() -> None:
    """Pre-forked workers must neither jitter in step nor inherit a lock or a seat held by a thread they do not have."""
    program = """
import os, sys, threading
import seawall as sw
from seawall.core import clock as clocks
bulkhead = sw.Bulkhead(2, queue=1)
breaker = sw.CircuitBreaker()
budget = sw.RetryBudget()
pool = sw.Bulkhead.threads(1)
keyed = sw.Keyed("x", lambda key: sw.CircuitBreaker())
assert pool.call(lambda: 1) == 1
bulkhead.permit().__enter__()
bulkhead.cell._lock.acquire()
breaker.cell._lock.acquire()
budget.cell._lock.acquire()
keyed._lock.acquire()
numbers = []
for _ in range(2):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        ok = bulkhead.snapshot().taken == 0 and breaker.call(lambda: 5) == 5 and pool.call(lambda: 2) == 2
        budget.snapshot(), keyed.snapshot()
        with bulkhead.permit(), bulkhead.permit():
            os.write(write, f"{ok} {clocks.default().random.random()}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    numbers.append(os.read(read, 100).decode())
assert all(number.startswith("True ") for number in numbers), numbers
assert len(set(numbers)) == 2, numbers
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_importing_seawall_loads_no_asyncio_and_no_driver() -> None:
    """The import is paid by every command line tool and every worker."""
    program = "import sys, seawall; seawall.Pipeline; print('asyncio' in sys.modules, 'concurrent.futures' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert not loop_is_running()
    assert "Pipeline" in dir(sw)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = sw.Nothing
    with pytest.raises(AttributeError, match="Nothing"):
        _ = sw.testing.Nothing


def test_shared_details_of_events_cannot_be_changed_but_travel() -> None:
    """One object stands in every event of a call that ended well: a sink must not be able to spoil it for all others."""
    import copy
    import pickle

    from seawall.core.events import ENDED_WELL

    with pytest.raises(TypeError, match="cannot be changed"):
        ENDED_WELL["outcome"] = "spoilt"  # type: ignore[index]
    event = Event("call.ended", "p", 1.0, "p", ENDED_WELL, 0.5)
    assert copy.deepcopy(event) == event
    assert pickle.loads(pickle.dumps(event)) == event  # our own bytes
