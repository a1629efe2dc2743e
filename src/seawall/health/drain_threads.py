"""Leaving, in programs without an event loop: gunicorn's sync and threaded workers, a sync gRPC server.

The signal's handler only wakes a thread, because a handler must not wait. The thread does what a drain does, and at the end
raises the signal again, which the main thread now hands to whoever handled it before us.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from seawall.health.doors import SIGNALS, ProcessDoor
from seawall.health.drain import DrainPlan, DrainSnapshot, State, Stoppable
from seawall.health.threads import ensure_running

if TYPE_CHECKING:
    from types import TracebackType

    from seawall.health.health import Health
    from seawall.health.propagation import Propagation

_logger = logging.getLogger("seawall.health")


class SyncRegistration(Protocol):
    """What it needs of a registration: the sync twins. One that has only async verbs is spoken with on a loop of its own."""

    def draining_sync(self) -> None:
        """Announce that this instance takes no new work."""
        ...

    def deregister_sync(self) -> None:
        """Take this instance out."""
        ...


class DrainThreads:
    """One way out without an event loop, for `with` around the serving, or `start()` where a server calls us.

    Parameters and signals as for `Drain`. `start` must be called in the main thread to hold signals, after the server has set
    its own
    handlers: in gunicorn from the hook `post_worker_init`. Off the main thread it is harmless: `begin` still works.
    """

    def __init__(
        self,
        health: Health,
        registration: SyncRegistration | Sequence[SyncRegistration] | None = None,
        *,
        delay: float | Propagation | None = None,
        timeout: float = 20.0,
        grace: float = 30.0,
        server: Stoppable | None = None,
    ) -> None:
        if server is not None and not callable(getattr(server, "stop", None)):
            raise TypeError(f"server must have stop(grace); got {server!r}")
        self.plan = DrainPlan(health, registration, delay=delay, timeout=timeout, grace=grace)
        self.state: State = "serving"
        self._health = health
        self._server = server
        self._delay: tuple[float, str] | None = None
        self._doors: list[ProcessDoor] = []
        self._hurry = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._signal: int | None = None
        self._waiters = 0
        self._elsewhere = False
        self._ending = threading.Lock()
        self._left = False

    def start(self) -> DrainThreads:
        """Hold the signals from now on, and let the checks run. Returns itself."""
        ensure_running(self._health)
        if threading.current_thread() is threading.main_thread() and not self._doors:
            self._doors = [ProcessDoor(number, self._asked) for number in SIGNALS]
        return self

    def __enter__(self) -> DrainThreads:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._ending:  # from here on nothing is raised any more: it would meet the handlers of before
            self._left = True
            for door in self._doors:
                door.release()
        self._hurry.set()
        if self.state == "serving":
            self._health.drain_begins()
            self._take_out()
        self._pass("done")
        self._closed.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is time to close, at most `timeout` seconds (None = for ever); whether it is."""
        self._waiters += 1
        try:
            return self._closed.wait(timeout)
        finally:
            self._waiters -= 1

    def begin(self, reason: str = "asked to") -> None:
        """Begin to leave, as a signal would. From any thread; nothing happens when it began already."""
        if not self._lock.acquire(blocking=False):
            return  # taken once, for ever: a drain begins once
        self._delay = self.plan.delay()
        threading.Thread(target=self._leave, args=(reason, *self._delay), name="seawall-drain", daemon=True).start()

    def snapshot(self) -> DrainSnapshot:
        """Where it is."""
        delay, reason = self._delay or self.plan.delay()
        return DrainSnapshot(self.state, delay, reason, self._health.traffic.in_flight)

    # --- the way

    def _asked(self, number: int) -> None:
        if self._signal is None:
            self._signal = number
            self.begin(signal.Signals(number).name)
        elif self.state == "closing":
            self._pass_on(number)
        elif number == signal.SIGINT:
            self._hurry.set()

    def _leave(self, reason: str, delay: float, computed_from: str) -> None:
        since = self._health.clock.monotonic()
        self._pass("draining", reason=reason, delay=delay, computed_from=computed_from)
        self._health.drain_begins()
        self._take_out()
        self._health.clock.wait(self._hurry, delay)
        self._pass("closing", in_flight=self._health.traffic.in_flight)
        self._health.closes()
        self._elsewhere = self._server is not None or self._waiters > 0
        self._closed.set()
        if self._server is not None:
            stopping = self._server.stop(self.plan.left(since))
            if hasattr(stopping, "wait"):
                stopping.wait(self.plan.timeout + 1)
        self._raise(self._signal or signal.SIGTERM)

    def _raise(self, number: int) -> None:
        """Let the main thread hear the signal (again), if anybody there is to do something about it."""
        heard = any(door.handled for door in self._doors if door.number == number)
        if not self._doors or (self._elsewhere and not heard):
            return
        self._signal = number
        with self._ending:
            if self._left:
                return
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                os.kill(os.getpid(), number)

    def _pass_on(self, number: int) -> None:
        """In the main thread: our own signal came back. Whoever handled it before us hears it, or the system does as it does."""
        heard = False
        for door in self._doors:
            if door.handled or not self._elsewhere:
                door.release()
            heard = (door.number == number and door.pass_on()) or heard
        if not heard and not self._elsewhere:
            signal.raise_signal(number)

    def _take_out(self) -> None:
        for registration in self.plan.registrations:
            for verb in ("draining", "deregister"):
                try:
                    _spoken(registration, verb)
                except Exception as error:
                    self._health.emit("drain.step_failed", step=verb, error=repr(error))
                    _logger.warning("the registration could not be told %s: %r; going on", verb, error)
        if self.plan.registrations:
            self._health.emit("drain.deregistered")

    def _pass(self, state: State, **data: Any) -> None:
        self.state = state
        self._health.emit(f"drain.{state}", **data)


def _spoken(registration: Any, verb: str) -> None:
    twin = getattr(registration, f"{verb}_sync", None)
    answer = twin() if twin is not None else getattr(registration, verb)()
    if inspect.isawaitable(answer):

        async def waiting() -> None:
            async with asyncio.timeout(3.0):
                await answer

        asyncio.run(waiting())
