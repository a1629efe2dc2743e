"""Leaving: not ready, deregistered, still serving until all callers know, then closed, then gone.

    serving ──signal──> draining ──deregistered, delay over──> closing ──in flight finished──> done

Draining: /readyz says 503 and /livez 200, answers ask for their connection to be closed, the registration says "draining" and
is taken out, and every request is served as ever. Closing: the server hears the signal, closes its listeners and finishes what
is in flight; what is still under way when the time is over is cut.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from seawall.core import units
from seawall.health import doors
from seawall.health.propagation import Propagation

if TYPE_CHECKING:
    from types import TracebackType

    from seawall.health.health import Health

State = Literal["serving", "draining", "closing", "done"]
REGISTRY_STEP: Final = 3.0  # seconds that a registry may take for each of two words
RESERVE: Final = 2.0  # seconds of the grace that are left for the process to end
_logger = logging.getLogger("seawall.health")


class Registration(Protocol):
    """What a drain needs of a registration. One that has `propagation`, in seconds, lets the delay be computed."""

    async def draining(self) -> None:
        """Announce that this instance takes no new work."""
        ...

    async def deregister(self) -> None:
        """Take this instance out."""
        ...


class Exiting(Protocol):
    """A server that ends by a flag, such as a uvicorn.Server that you run yourself, with its signals switched off."""

    should_exit: bool


class Stoppable(Protocol):
    """A server that no signal ends, such as a grpc or grpc.aio one: `stop` takes the seconds that requests in flight may take."""

    def stop(self, grace: float | None) -> Any:
        """Close the listeners, finish what is in flight, and cut what takes longer."""
        ...


@dataclass(frozen=True, slots=True)
class DrainSnapshot:
    """Where a drain is. delay: seconds of serving on, and reason: what they were computed from. in_flight: requests at the
    doors.
    """

    state: State
    delay: float
    reason: str
    in_flight: int


class DrainPlan:
    """The lengths of one drain, checked; shared by the drain of the event loop and that of threads."""

    def __init__(
        self, health: Health, registration: Any, *, delay: float | Propagation | None, timeout: float, grace: float
    ) -> None:
        self.health = health
        self.registrations = _several(registration)
        self.timeout = units.seconds("timeout", timeout)
        self.grace = units.seconds("grace", grace)
        self._propagation = delay if isinstance(delay, Propagation) else None
        self._given = None if delay is None or isinstance(delay, Propagation) else units.seconds("delay", delay, zero=True)
        whole = self.timeout + RESERVE + (self._given or 0.0)
        if whole > self.grace:
            raise ValueError(
                f"delay + timeout + {RESERVE:g} s to end must fit into grace, {self.grace:g} s; got {whole:g} s. "
                "Shorten them, or raise grace here and terminationGracePeriodSeconds there"
            )

    def delay(self) -> tuple[float, str]:
        """Seconds to go on serving, and why as many: as given, or as computed from what is known now, within the grace."""
        if self._given is not None:
            return self._given, "as given"
        known = self._propagation or self._known()
        longest = self.grace - self.timeout - RESERVE
        if known.delay <= longest:
            return known.delay, known.reason
        return longest, f"{known.reason}; cut from {known.delay:g} s by grace"

    def left(self, since: float) -> float:
        """Seconds for what is in flight when the listeners close: the timeout, or less when a slow registry took of the grace."""
        return max(0.0, min(self.timeout, self.grace - RESERVE - (self.health.clock.monotonic() - since)))

    def _known(self) -> Propagation:
        told = [getattr(registration, "propagation", None) for registration in self.registrations]
        lengths = [float(length) for length in told if isinstance(length, (int, float))]
        return Propagation(registry=max(lengths, default=None), probe_period=self.health.traffic.probe_period())


class Drain:
    """One way out, for `async with` in the lifespan. SIGTERM and SIGINT begin it.

    registration: what to take out of the registry: one, a list, or None. delay: seconds to go on serving after that; 0 = none; a
        `Propagation` says what is known; default None = computed from the registration, the probes that were seen, and the
        platform.
    timeout: seconds that requests in flight may take once the listeners are closed, > 0. Default 20.
    grace: seconds after which the platform kills, > 0. Default 30, as in Kubernetes. delay + timeout + 2 must fit into it.
    server: one that no signal ends: grpc, grpc.aio, or a uvicorn.Server that you run yourself; default None = whoever handled the
        signal before us.

    A second SIGINT ends the delay at once; a second SIGTERM changes nothing. Leaving the block without a signal takes the
    instance out without any delay: nobody sends us traffic after the lifespan. Off the main thread no signal can be held: then
    this is all it does, unless `begin` is called.

    Raises TypeError or ValueError naming the parameter, its range and the value.
    """

    def __init__(
        self,
        health: Health,
        registration: Registration | Sequence[Registration] | None = None,
        *,
        delay: float | Propagation | None = None,
        timeout: float = 20.0,
        grace: float = 30.0,
        server: Stoppable | Exiting | None = None,
    ) -> None:
        if server is not None and not callable(getattr(server, "stop", None)) and not hasattr(server, "should_exit"):
            raise TypeError(f"server must have stop(grace), or should_exit; got {server!r}")
        self.plan = DrainPlan(health, registration, delay=delay, timeout=timeout, grace=grace)
        self.state: State = "serving"
        self._health = health
        self._server = server
        self._delay: tuple[float, str] | None = None
        self._doors: list[doors.Door] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._closed = asyncio.Event()
        self._waiters = 0
        self._signal: int | None = None
        self._begun_at = 0.0

    # --- the block

    async def __aenter__(self) -> Drain:
        if self._loop is not None:
            raise RuntimeError("a drain leads out once; make another one with health.drain(...)")
        self._loop = asyncio.get_running_loop()
        self._health.start()
        self._doors = doors.hold(self._loop, self._asked)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for door in self._doors:
            door.release()
        before, task = self.state, self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if before in ("serving", "draining"):
            self._health.drain_begins()
            await self._take_out()
        self._pass("done")
        self._closed.set()

    async def wait(self) -> None:
        """Wait, in a program that no server keeps alive, until it is time to close: `async with health.drain(): await
        drain.wait()`.
        """
        self._waiters += 1
        try:
            await self._closed.wait()
        finally:
            self._waiters -= 1

    # --- from outside

    def begin(self, reason: str = "asked to") -> None:
        """Begin to leave, as a signal would. From any thread; nothing happens when it began already.

        Raises RuntimeError before the block was entered.
        """
        if self._loop is None:
            raise RuntimeError("the drain was not entered yet: use `async with health.drain(...)`")
        self._loop.call_soon_threadsafe(self._begin, reason)

    def snapshot(self) -> DrainSnapshot:
        """Where it is."""
        delay, reason = self._delay or self.plan.delay()
        return DrainSnapshot(self.state, delay, reason, self._health.traffic.in_flight)

    # --- the way

    def _asked(self, number: int) -> None:
        if self.state == "serving":
            self._signal = number
            self._begin(signal.Signals(number).name)
        elif number == signal.SIGINT:
            self._hurry.set()

    def _begin(self, reason: str) -> None:
        if self.state != "serving":
            return
        self._delay = self.plan.delay()
        self._begun_at = self._health.clock.monotonic()
        self._pass("draining", reason=reason, delay=self._delay[0], computed_from=self._delay[1])
        self._health.drain_begins()
        self._task = contextvars.Context().run(asyncio.ensure_future, self._leave(self._delay[0]))

    async def _leave(self, delay: float) -> None:
        await self._take_out()
        timer = self._health.clock.tasks.call_later(delay, self._hurry.set)
        try:
            await self._hurry.wait()
        finally:
            timer.cancel()
        self._pass("closing", in_flight=self._health.traffic.in_flight)
        self._health.closes()
        self._closed.set()
        if self._server is not None:
            await _stop(self._server, self.plan.left(self._begun_at))
        self._open()
        await self._health.clock.tasks.sleep(self.plan.left(self._begun_at))
        self._cut_the_rest()

    async def _take_out(self) -> None:
        for registration in self.plan.registrations:
            for verb in ("draining", "deregister"):
                try:
                    async with asyncio.timeout(REGISTRY_STEP):
                        await getattr(registration, verb)()
                except Exception as error:
                    self._health.emit("drain.step_failed", step=verb, error=repr(error))
                    _logger.warning("the registration could not be told %s: %r; going on", verb, error)
        if self.plan.registrations:
            self._health.emit("drain.deregistered")

    def _open(self) -> None:
        """Let the server hear it. Without any server, and with nobody in `wait`, the signal does what it does by default."""
        number = self._signal or signal.SIGTERM
        ends_elsewhere = self._server is not None or self._waiters > 0
        for door in self._doors:
            if isinstance(door, doors.HypercornDoor):
                ends_elsewhere = door.pass_on() or ends_elsewhere
        heard = ends_elsewhere
        for door in self._doors:
            if door.handled or not ends_elsewhere:  # by default a second signal would kill what is still in flight
                door.release()
        for door in self._doors:
            if door.number == number:
                heard = door.pass_on() or heard
        if not heard and self._signal is not None:
            signal.raise_signal(number)

    def _cut_the_rest(self) -> None:
        tasks = [task for task in self._health.traffic.tasks if task is not None and not task.done()]
        if tasks:
            self._health.emit("drain.timed_out", in_flight=len(tasks), timeout=self.plan.timeout)
            _logger.warning("%d requests did not end in time and are cut", len(tasks))
        for task in tasks:
            task.cancel("the drain's timeout is over")

    def _pass(self, state: State, **data: Any) -> None:
        self.state = state
        self._health.emit(f"drain.{state}", **data)


async def _stop(server: Any, seconds: float) -> None:
    if not hasattr(server, "stop"):
        server.should_exit = True
        return
    stopping = server.stop(seconds)
    if inspect.isawaitable(stopping):
        await stopping
    elif hasattr(stopping, "wait"):
        await asyncio.to_thread(stopping.wait, seconds + 1)


def _several(registration: Any) -> tuple[Any, ...]:
    if registration is None:
        return ()
    found = tuple(registration) if isinstance(registration, (list, tuple)) else (registration,)
    for one in found:
        for verb in ("draining", "deregister"):
            if not callable(getattr(one, verb, None)) and not callable(getattr(one, f"{verb}_sync", None)):
                raise TypeError(f"registration must have draining() and deregister(); got {one!r}")
    return found
