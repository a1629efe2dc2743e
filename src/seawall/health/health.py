"""Health: what this instance says of itself, from memory, in three groups. The checks run in the background."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from seawall.core import clock as clocks
from seawall.core import registrars, units
from seawall.core.clock import Clock
from seawall.core.events import Event, Sink, Sinks, everywhere
from seawall.health.answers import Answers
from seawall.health.check import Check, Group
from seawall.health.fate import SharedFate
from seawall.health.pulse import BEAT, Pulse
from seawall.health.report import Report
from seawall.health.standing import CheckRule, Finding, Status
from seawall.health.traffic import Traffic

if TYPE_CHECKING:
    from types import TracebackType

    from seawall.health.drain import Drain, Exiting, Registration, Stoppable
    from seawall.health.drain_threads import DrainThreads, SyncRegistration
    from seawall.health.own_port import OwnPort
    from seawall.health.propagation import Propagation

F = TypeVar("F", bound=Callable[[], Any])
GROUPS: Final[tuple[Group, ...]] = ("live", "ready", "startup")
MOST_CHECKS: Final = 200
_logger = logging.getLogger("seawall.health")


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """What it holds now. lag: seconds that the event loop is late. in_flight, served: requests at the doors."""

    name: str
    running: bool
    draining: bool
    live: Report
    ready: Report
    startup: Report
    lag: float
    in_flight: int
    served: int


class Health:
    """How this instance is: live, ready and startup, answered from memory in microseconds.

    name: what bodies and events call the service. Default "service". version: its version, in bodies; default None.
    max_lag: seconds that the event loop may be late before liveness fails, > 0. Default 10. Nothing else decides liveness: a
        dependency that is down is no reason to restart those who use it.
    detail: whether bodies show what failing checks say (with what looks like a secret left out). Default True.
    fate: the shared-fate rule, see `SharedFate`; default None = who fails a critical check is not ready.
    clock: where time comes from; default None = the system's.

    Raises TypeError or ValueError naming the parameter, its range and the value.
    """

    def __init__(
        self,
        name: str = "service",
        *,
        version: str | None = None,
        max_lag: float = 10.0,
        detail: bool = True,
        fate: SharedFate | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a text that is not empty; got {name!r}")
        self.name = name
        self.version = version
        self.max_lag = units.seconds("max_lag", max_lag)
        self.detail = detail
        self.fate = fate
        self.draining = False
        self.closing = False
        self.pulse = Pulse()
        self.traffic = Traffic()
        self.sinks = Sinks()
        self._own_clock = clock
        self._checks: dict[tuple[Group, str], Check] = {}
        self._answers = Answers(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beat: asyncio.Task[None] | None = None
        self._watches: dict[Check, asyncio.Task[None]] = {}
        self._peers: asyncio.Task[None] | None = None
        self._told: dict[Group, Status] = {}
        self._told_failing: frozenset[str] = frozenset()
        self._listeners: list[Callable[[], object]] = []

    @property
    def clock(self) -> Clock:
        """Where its time comes from."""
        return clocks.resolve(self._own_clock)

    # --- what to check

    @overload
    def ready(self, name: str, /, **options: Any) -> Callable[[F], F]: ...
    @overload
    def ready(self, name: str, function: F, /, **options: Any) -> F: ...
    def ready(self, name: str, function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Let readiness depend on a function without arguments, sync or async: None or True pass, False or an exception fail; a
        `Status` or `Finding` says it itself. Sync ones run in a thread of their own.

        every: seconds between runs, default 5. timeout: of one run, default 1. rise: good results in a row that make it pass,
            default 1. fall: failures in a row that make it fail, default 3 (a first result settles at once). expires: seconds for
            which a result counts, default fall * (every + timeout) + every. critical: whether its failure takes the instance
            out of traffic (503) or degrades it ("warn", 200). Default: what the ready-made check says, else True.

        Raises TypeError or ValueError for options out of range, and ValueError for a name that is taken, or after 200 checks.
        """
        return self._register("ready", name, function, options)

    @overload
    def startup(self, name: str, /, **options: Any) -> Callable[[F], F]: ...
    @overload
    def startup(self, name: str, function: F, /, **options: Any) -> F: ...
    def startup(self, name: str, function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Let the start wait for a function: it runs until it passed once, and never again. Options as for `ready`."""
        return self._register("startup", name, function, options)

    def _register(self, group: Group, name: str, function: F | None, options: dict[str, Any]) -> F | Callable[[F], F]:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a text that is not empty; got {name!r}")
        critical = options.pop("critical", None)
        if critical is not None and not isinstance(critical, bool):
            raise TypeError(f"critical must be True or False; got {critical!r}")
        rule = CheckRule(**options)

        def add(checked: F) -> F:
            if not callable(checked):
                raise TypeError(f"the check {name!r} must be callable without arguments; got {checked!r}")
            if (group, name) in self._checks:
                raise ValueError(f"name must be unique in {group}; {name!r} is taken")
            if len(self._checks) >= MOST_CHECKS:
                raise ValueError(f"one Health holds at most {MOST_CHECKS} checks; {name!r} is one too many")
            weight = getattr(checked, "critical", True) if critical is None else critical
            self._checks[group, name] = Check(name, checked, rule, group=group, critical=weight)
            registrars.hold(checked, f"@health.{group}")
            return checked

        return add if function is None else add(function)

    def checks(self, group: Group | None = None) -> list[Check]:
        """The registered checks, of one group or all, in order of registration."""
        return [check for check in self._checks.values() if group in (None, check.group)]

    # --- running

    @property
    def running(self) -> bool:
        """Whether the checks run, on a loop that is open."""
        return self._beat is not None and not self._beat.done() and self._loop is not None and not self._loop.is_closed()

    def start(self) -> None:
        """Run the checks as tasks of the running event loop; nothing happens when they run in it already.

        Raises RuntimeError without a running loop; `start_thread` is for programs that have none.
        """
        loop = asyncio.get_running_loop()
        if self.running and self._loop is loop:
            return
        self._loop = loop
        self._watches.clear()
        self._peers = None
        now = self.clock.monotonic()
        for check in self.checks():
            check.rule.begin(check.standing, now)
        self._tend()
        self._beat = contextvars.Context().run(self.clock.tasks.spawn, self._beating)

    async def stop(self) -> None:
        """End the background tasks; the last results stay, and expire."""
        tasks = [task for task in (self._beat, self._peers, *self._watches.values()) if task is not None and not task.done()]
        self._beat = self._peers = None
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Health:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _beating(self) -> None:
        port = self.clock.tasks
        self.pulse.begin(port.now())
        try:
            while True:
                await port.sleep(BEAT)
                self.pulse.beat(port.now())
                self._tend()
        except asyncio.CancelledError:
            self.pulse.end()
            raise

    def _tend(self) -> None:
        """See to it that every check is looked at, and tell who listens what has changed."""
        for check in self.checks():
            task = self._watches.get(check)
            if task is None or (task.done() and not check.over):
                check.rule.begin(check.standing, self.clock.monotonic())
                self._watches[check] = contextvars.Context().run(self.clock.tasks.spawn, self._watching, check)
        self._look_at_peers()
        self.publish()

    def _look_at_peers(self) -> None:
        """While a critical check fails, let the peers be asked, if they are known by asking."""
        look = getattr(self.fate and self.fate.peers, "look", None)
        task = self._peers
        if look is None or not self.failing or (task is not None and not task.done()):
            return
        self._peers = contextvars.Context().run(self.clock.tasks.spawn, self._looking, look)

    async def _looking(self, look: Callable[[], Any]) -> None:
        try:
            await look()
        except Exception:
            _logger.exception("the peers could not be asked")
        await self.clock.tasks.sleep(getattr(self.fate and self.fate.peers, "every", 2.0))

    async def _watching(self, check: Check) -> None:
        port = self.clock.tasks
        while True:
            self._settle(check, await check.run(self.clock))
            if check.over:
                return
            await port.sleep(check.rule.every * (0.9 + 0.2 * port.random()))

    def _settle(self, check: Check, finding: Finding) -> None:
        changed = check.rule.settle(check.standing, self.clock.monotonic(), finding)
        check.wall = self.clock.wall()
        check.passed_once = check.passed_once or check.standing.settled in (Status.PASS, Status.WARN)
        if changed:
            self.emit(
                "health.check", check=check.name, group=check.group, status=str(check.standing.settled), output=finding.output
            )
            self.publish()

    # --- what it says

    def report(self, group: Group) -> Report:
        """What one group ("live", "ready", "startup") says now, from memory. Any thread may ask."""
        units.one_of("group", group, GROUPS)
        return self._answers.report(group)

    @property
    def failing(self) -> frozenset[str]:
        """The names of the critical ready checks that fail: what peers need to know for the shared-fate rule."""
        return self._answers.failing()

    def drain_begins(self) -> None:
        """From now on this instance is not ready, whatever its checks say, and its answers ask for the connection to be
        closed.
        """
        self.draining = True
        self.publish()

    def closes(self) -> None:
        """From now on the listeners close: whoever holds a stream of statuses open ends it."""
        self.closing = True
        for listener in list(self._listeners):
            guarded("a listener", listener)

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call `listener` whenever a group's status changed; calling the result ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def publish(self) -> None:
        """Tell sinks, listeners and peers what has changed since the last time."""
        changed = False
        for group in GROUPS:
            report = self._answers.report(group)
            if self._told.get(group) is not report.status:
                changed = True
                before, self._told[group] = self._told.get(group), report.status
                self.emit(
                    "health.changed", group=group, status=str(report.status), before=before and str(before), reason=report.reason
                )
        failing = self.failing
        if self.fate is not None and self.fate.tell is not None and failing != self._told_failing:
            self._told_failing = failing
            guarded("tell", self.fate.tell, failing)
        for listener in list(self._listeners) if changed else ():
            guarded("a listener", listener)

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Hand every event of health and drain to `sink`; calling the result ends it."""
        return self.sinks.add(sink)

    def emit(self, kind: str, /, **data: Any) -> None:
        """Tell everybody who listens."""
        if self.sinks or everywhere:
            event = Event(kind, self.name, self.clock.monotonic(), None, data)
            self.sinks.emit(event)
            everywhere.emit(event)

    def snapshot(self) -> HealthSnapshot:
        """Everything at once, frozen."""
        live, ready, startup = (self._answers.report(group) for group in GROUPS)
        lag = self.pulse.worst(self.clock.monotonic())
        traffic = self.traffic
        return HealthSnapshot(
            self.name, self.running, self.draining, live, ready, startup, lag, traffic.in_flight, traffic.served
        )

    # --- doors

    def install(self, app: Any, *, prefix: str = "") -> Any:
        """Answer /livez, /readyz, /startupz, /health (alive) and /ready in front of an application, and return what to serve.

        Starlette, FastAPI and Flask are changed in place and returned; any other ASGI or WSGI callable (Django's too) is
        wrapped, so serve what this returns. Only GET and HEAD of those very paths are answered, and a route of the
        application's own goes first; everything else passes. The checks start with the application's lifespan, or with its
        first request.
        prefix: put before the paths, such as "/internal". Default "".

        Raises TypeError for what is neither an ASGI nor a WSGI application, ValueError for a prefix without its slash.
        """
        from seawall.health.install import install

        return install(self, app, prefix=prefix)

    def install_grpc(self, server: Any, *, services: Sequence[str] = ()) -> None:
        """Add grpc.health.v1 (Check and Watch) to a grpc or grpc.aio server, before it starts.

        The service "" and "ready" say whether this instance is ready, "live" and "startup" what those groups say. services:
        the full names of your services, such as "shop.Orders", which are as ready as the instance. Raises MissingExtra without
        grpcio.
        """
        from seawall.health.extras import load

        load("grpc").install(self, server, services)

    def listen(self, port: int, *, host: str = "127.0.0.1", prefix: str = "") -> OwnPort:
        """Answer on a port of its own, from a thread of its own, so that probes are heard when the application is overloaded,
        and see it when its event loop is stuck. See `OwnPort`; use it in `with`, or call `start()`."""
        from seawall.health.own_port import OwnPort

        return OwnPort(self, port, host=host, prefix=prefix)

    def drain(
        self,
        registration: Registration | None = None,
        *,
        delay: float | Propagation | None = None,
        timeout: float = 20.0,
        grace: float = 30.0,
        server: Stoppable | Exiting | None = None,
    ) -> Drain:
        """Leave gracefully: an async context for the lifespan. See `Drain` for what each parameter means."""
        from seawall.health.drain import Drain

        return Drain(self, registration, delay=delay, timeout=timeout, grace=grace, server=server)

    def drain_threads(
        self,
        registration: SyncRegistration | None = None,
        *,
        delay: float | Propagation | None = None,
        timeout: float = 20.0,
        grace: float = 30.0,
        server: Stoppable | None = None,
    ) -> DrainThreads:
        """Leave gracefully without an event loop: `with` around the serving, or `.start()` in gunicorn's `post_worker_init`."""
        from seawall.health.drain_threads import DrainThreads

        return DrainThreads(self, registration, delay=delay, timeout=timeout, grace=grace, server=server)


def guarded(who: str, function: Callable[..., object], *args: Any) -> None:
    """Call somebody else's function; its error is logged and ends nothing of ours."""
    try:
        function(*args)
    except Exception:
        _logger.exception("%s of health failed", who)
