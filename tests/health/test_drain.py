"""The drain, step by step, in virtual time and with real signals to this very process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seawall.core.events import Event
from seawall.health import Health, Propagation, doors
from seawall.health import threads as health_threads
from seawall.testing import VirtualClock

SRC = Path(__file__).resolve().parent.parent.parent / "src"


class Steps:
    """A registration that writes down when it was told what, and may fail or hang."""

    def __init__(self, clock: Any, *, broken: bool = False, hangs: bool = False, propagation: float | None = None) -> None:
        self.clock = clock
        self.told: list[tuple[str, float]] = []
        self.broken = broken
        self.hangs = hangs
        if propagation is not None:
            self.propagation = propagation

    async def draining(self) -> None:
        await self._tell("draining")

    async def deregister(self) -> None:
        await self._tell("deregister")

    async def _tell(self, word: str) -> None:
        self.told.append((word, round(self.clock.monotonic(), 3)))
        if self.broken:
            raise OSError("registry")
        if self.hangs:
            await asyncio.sleep(3600)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test does, the handlers of this process are as they were."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before, "a drain must put back what it found"


def scene_of(health: Health) -> tuple[list[str], list[Event]]:
    events: list[Event] = []
    health.subscribe(events.append)
    kinds: list[str] = []
    health.subscribe(lambda event: kinds.append(event.kind) if event.kind.startswith("drain.") else None)
    return kinds, events


def test_the_steps_come_in_their_order_and_the_delay_is_kept() -> None:
    """Closed before deregistered, or deregistered before not ready, is a refused request each time."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    registration = Steps(clock)
    kinds, events = scene_of(health)
    heard: list[int] = []

    async def scene() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        async with health.drain(registration, delay=5, timeout=20) as drain:
            assert drain.snapshot().state == "serving"
            os.kill(os.getpid(), signal.SIGTERM)
            await clock.asleep(1)
            assert (drain.state, health.report("ready").reason, health.report("live").http_status) == (
                "draining",
                "draining",
                200,
            )
            assert [word for word, _ in registration.told] == ["draining", "deregister"]
            os.kill(os.getpid(), signal.SIGTERM)
            await clock.asleep(3.5)
            assert heard == [], "a second SIGTERM changes nothing"
            await clock.asleep(1)
            assert drain.state == "closing"
            assert heard == [signal.SIGTERM], "now the server hears it"
        assert drain.snapshot().state == "done"
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        await health.stop()

    asyncio.run(scene())
    assert kinds == ["drain.draining", "drain.deregistered", "drain.closing", "drain.done"]
    begun = next(event for event in events if event.kind == "drain.draining")
    assert begun.data == {"reason": "SIGTERM", "delay": 5.0, "computed_from": "as given"}


@pytest.mark.parametrize("fault", ["broken", "hangs"])
def test_a_registry_that_fails_or_hangs_does_not_hold_up_the_way_out(fault: str) -> None:
    """The registry is often what is down when everything is restarted; the platform kills after 30 s whatever it says."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    registration = Steps(clock, **{fault: True})
    _, events = scene_of(health)

    async def scene() -> None:
        async with health.drain(registration, delay=1) as drain:
            drain.begin("test")
            await clock.asleep(8)
            assert drain.state == "closing"
        await health.stop()

    asyncio.run(scene())
    assert [event.data["step"] for event in events if event.kind == "drain.step_failed"] == ["draining", "deregister"]


def test_leaving_the_block_without_a_signal_takes_the_instance_out_at_once() -> None:
    """A test client, a reload, a programmatic stop: nobody sends us traffic any more, so nobody is waited for."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    registration = Steps(clock)

    async def scene() -> None:
        async with health.drain(registration, delay=8):
            await clock.asleep(1)
        assert registration.told == [("draining", 1.0), ("deregister", 1.0)]
        assert health.draining
        await health.stop()

    asyncio.run(scene())


def test_nothing_is_held_off_the_main_thread_and_begin_still_works() -> None:
    """Applications run in threads in tests and notebooks; a drain there must not raise."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    registration = Steps(clock)
    states: list[str] = []

    async def scene() -> None:
        async with health.drain(registration, delay=2) as drain:
            threading.Thread(target=drain.begin).start()
            await clock.asleep(5)
            states.append(drain.state)
        await health.stop()

    thread = threading.Thread(target=lambda: asyncio.run(scene()))
    thread.start()
    thread.join(20)
    assert states == ["closing"]
    assert [word for word, _ in registration.told] == ["draining", "deregister"]


def test_handlers_of_the_loop_are_held_and_come_back() -> None:
    """granian, hypercorn and many gRPC programs put their handlers into the loop, not into the process."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    heard: list[float] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: heard.append(clock.monotonic()))
        async with health.drain(delay=3):
            os.kill(os.getpid(), signal.SIGTERM)
            await clock.asleep(1)
            assert heard == []
            await clock.asleep(3)
            assert len(heard) == 1
            os.kill(os.getpid(), signal.SIGTERM)
            await clock.asleep(0.1)
            assert len(heard) == 2, "from now on signals are the server's again"
        loop.remove_signal_handler(signal.SIGTERM)
        await health.stop()

    asyncio.run(scene())


def test_the_table_of_uvloop_is_found_and_no_other_is_touched() -> None:
    """uvloop keeps its handlers where only the garbage collector sees them; its table of files looks alike."""
    import uvloop

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        loop.add_reader(reader, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        table = doors._handlers_of(loop)
        assert table is not None
        assert list(table) == [signal.SIGTERM]
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


PROGRAM = """
import asyncio, sys
from seawall.health import Health
async def main():
    health = Health()
    health.subscribe(lambda event: print(event.kind, flush=True))
    async with health.drain(delay=0.3, timeout=1, grace=10) as drain:
        print("up", flush=True)
        await {wait}
    print("left in order", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("wait", "number", "status"), [("drain.wait()", signal.SIGTERM, 0), ("asyncio.sleep(60)", signal.SIGTERM, -15)]
)
def test_a_program_without_a_server_ends_by_wait_or_by_the_default(wait: str, number: int, status: int) -> None:
    """A worker that nobody stops must end as well: in order when it waits for it, else as the system does it."""
    command = [sys.executable, "-c", PROGRAM.format(wait=wait)]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if line.strip() == "up":
                process.send_signal(number)
        assert process.wait(20) == status
    assert "drain.draining" in said
    assert "drain.closing" in said
    assert ("left in order" in said) == (status == 0)


def test_a_drain_leads_out_once_and_is_entered_before_it_begins() -> None:
    """Two drains of one object would hold each other's handlers."""

    async def scene() -> None:
        health = Health()
        drain = health.drain()
        with pytest.raises(RuntimeError, match="not entered"):
            drain.begin()
        async with drain:
            pass
        with pytest.raises(RuntimeError, match="once"):
            await drain.__aenter__()
        await health.stop()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delay": 10, "timeout": 20}, "must fit into grace"),
        ({"delay": -1}, "delay"),
        ({"timeout": 0}, "timeout"),
        ({"grace": 5}, "must fit into grace"),
        ({"delay": Propagation(), "timeout": 29}, "must fit into grace"),
    ],
)
def test_lengths_that_do_not_fit_into_the_grace_are_refused(options: dict[str, Any], said: str) -> None:
    """The platform kills at the end of the grace, in the middle of somebody's request."""
    with pytest.raises(ValueError, match=said):
        Health().drain(None, **options)


def test_what_is_no_registration_or_server_is_refused() -> None:
    """A context manager handed over instead of what it yields is the likeliest mistake."""
    with pytest.raises(TypeError, match="registration must have"):
        Health().drain(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="server must have"):
        Health().drain(server=object())  # type: ignore[arg-type]


# --- how long


def test_the_delay_is_the_slowest_way_by_which_callers_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed sleep is too long for one system and too short for the next."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert Propagation().delay == 5.0
    assert Propagation(registry=0.2).delay == pytest.approx(0.7)
    assert Propagation(registry=0.2, dns_ttl=5).delay == 5.5
    assert Propagation(registry=0.2, probe_period=2, probe_failures=3).delay == 6.5
    assert Propagation(registry=0.2, platform=0).reason == "registry 0.2 s, platform 0 s, margin 0.5 s"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert Propagation(registry=0.2).delay == 5.5
    assert Propagation(registry=0.2, platform=1).delay == 1.5
    with pytest.raises(ValueError, match="dns_ttl"):
        Propagation(dns_ttl=-1)


def test_the_delay_comes_from_the_registration_and_the_probes_that_were_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to write down how often his load balancer asks: it asks us."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    drain = health.drain(Steps(clock, propagation=1.5))
    assert drain.snapshot().delay == 2.0
    for moment in (0, 1, 2, 3, 4):
        health.traffic.probed(moment)
    assert drain.snapshot().delay == 3.5
    assert drain.snapshot().reason == "registry 1.5 s, probes 3 s, margin 0.5 s"
    for moment in (10, 20, 30):
        health.traffic.probed(moment)
    assert drain.snapshot().delay == 8.0
    assert "cut from 30.5 s by grace" in drain.snapshot().reason
    assert health.drain(delay=Propagation(dns_ttl=2)).snapshot().delay == 2.5


def test_requests_that_outlast_the_timeout_are_cut_and_told() -> None:
    """A request that hangs must end as an error that its caller sees, before the platform ends everything."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    _, events = scene_of(health)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await clock.asleep(3600)

    app = health.install(slow)

    async def scene() -> None:
        request = {"type": "http", "method": "GET", "path": "/work", "headers": []}
        task = asyncio.create_task(app(request, None, None))
        async with health.drain(delay=1, timeout=4) as drain:
            drain.begin()
            await clock.asleep(4.9)
            assert not task.done()
            assert drain.snapshot().in_flight == 1
            await clock.asleep(0.3)
            assert task.cancelled()
        await health.stop()

    asyncio.run(scene())
    assert next(event for event in events if event.kind == "drain.timed_out").data == {"in_flight": 1, "timeout": 4.0}


def test_what_a_slow_registry_took_is_taken_from_the_timeout_not_from_the_grace() -> None:
    """The platform does not know that the registry was slow; it kills at the end of its grace."""
    clock = VirtualClock(start=0)
    health = Health(clock=clock)
    cut: list[float] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        try:
            await clock.asleep(3600)
        finally:
            cut.append(clock.monotonic())

    app = health.install(slow)

    async def scene() -> None:
        task = asyncio.create_task(app({"type": "http", "method": "GET", "path": "/work", "headers": []}, None, None))
        async with health.drain(Steps(clock, hangs=True), delay=5, timeout=20, grace=30) as drain:
            drain.begin()
            await clock.asleep(29)
            assert cut == [pytest.approx(28)]
            assert task.cancelled()
        await health.stop()

    asyncio.run(scene())


# --- without an event loop


def test_threads_drain_in_the_same_order_and_pass_the_signal_on() -> None:
    """Flask under gunicorn loses as many requests as anybody."""
    health = Health()
    kinds, _ = scene_of(health)
    heard: list[int] = []
    told: list[str] = []

    class Plain:
        propagation = 0.05

        def draining_sync(self) -> None:
            told.append("draining")

        def deregister_sync(self) -> None:
            told.append("deregister")

    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with health.drain_threads(Plain()) as drain:
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.wait(10)
        until = threading.Event()
        for _ in range(200):
            if heard:
                break
            until.wait(0.05)
        assert heard == [signal.SIGTERM]
        assert drain.snapshot().state == "closing"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert told == ["draining", "deregister"]
    assert kinds == ["drain.draining", "drain.deregistered", "drain.closing", "drain.done"]
    health_threads.stop(health)


def test_async_registrations_are_told_from_threads_too_and_errors_pass() -> None:
    """One registration class for both worlds; a registry that is down holds up neither."""
    health = Health()
    _, events = scene_of(health)
    registration = Steps(health.clock)
    with health.drain_threads([registration, Steps(health.clock, broken=True)], delay=0):
        pass
    assert [word for word, _ in registration.told] == ["draining", "deregister"]
    assert sum(event.kind == "drain.step_failed" for event in events) == 2
    health_threads.stop(health)


def test_checks_run_again_in_a_forked_worker() -> None:
    """gunicorn forks after loading: threads of the parent do not exist in the child, and its results would be stale for ever."""
    program = """
import os, time
from seawall.health import Health
from seawall.health.threads import ensure_running
health = Health()
health.ready("a", lambda: True, every=0.05)
ensure_running(health)
while health.report("ready").status != "pass": time.sleep(0.01)
pid = os.fork()
if pid == 0:
    before = health.checks()[0].standing.runs
    ensure_running(health)
    until = time.monotonic() + 10
    while health.checks()[0].standing.runs <= before + 2 and time.monotonic() < until: time.sleep(0.01)
    os._exit(0 if health.checks()[0].standing.runs > before + 2 else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_second_interrupt_ends_the_delay_of_threads_and_a_hung_signal_is_not_raised_after_the_block() -> None:
    """Ctrl-C twice means it, here as well; and a signal raised after the block would end a program that had left in order."""
    health = Health()
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    with health.drain_threads(delay=8) as drain:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert drain.wait(5)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert drain.snapshot().state == "done"
    for _ in range(20):  # the block may end in any moment of the thread's way
        with health.drain_threads(delay=0.01, server=_Stopped()) as other:
            other.begin()
            other.begin()
    health_threads.stop(health)


class _Stopped:
    def stop(self, grace: float | None) -> threading.Event:
        done = threading.Event()
        done.set()
        return done


def test_threads_hold_nothing_off_the_main_thread() -> None:
    """A worker thread of a test server may start a drain; it must not raise."""
    health = Health()
    states: list[str] = []

    def scene() -> None:
        with health.drain_threads(delay=0) as drain:
            drain.begin()
            assert drain.wait(10)
            states.append(drain.state)

    thread = threading.Thread(target=scene)
    thread.start()
    thread.join(20)
    assert states == ["closing"]
    health_threads.stop(health)


def test_a_server_that_stops_in_a_thread_is_waited_for_by_the_async_drain() -> None:
    """A sync gRPC server beside an event loop returns an event, not an awaitable."""
    health = Health()

    async def scene() -> None:
        async with health.drain(delay=0, server=_Stopped()) as drain:
            drain.begin()
            await asyncio.wait_for(drain.wait(), 10)
        await health.stop()

    asyncio.run(scene())


def test_a_uvicorn_server_of_ones_own_is_ended_by_its_flag(ask: Any) -> None:
    """Programs that run several things in one loop switch the server's signals off, and end it themselves."""
    import contextlib

    import uvicorn

    class Quiet(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    health = Health()

    async def served(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody asks")

    async def scene() -> None:
        server = Quiet(uvicorn.Config(health.install(served), port=0, log_level="critical", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with health.drain(delay=0.3, server=server):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.1)
            assert (await ask(port, "/readyz"))[0] == 503
            await asyncio.wait_for(serving, 10)
        await health.stop()

    asyncio.run(scene())
