"""Time that passes only when a test says so, or when everything waits: then it jumps to the next moment of interest."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.runtime_asyncio import AsyncioPort

if TYPE_CHECKING:
    import asyncio

    from seawall.core.runtime import AsyncPort

_GLANCE = 0.001  # real seconds between looks at what another thread may have done
_TRUST = 5000  # glances that a worker thread gives whoever handed it its work to begin to wait for it, on a busy machine
_PATIENCE = 50  # glances that it gives anybody else, while it is alone


class VirtualClock(Clock):
    """A clock for tests: nothing really waits, and every wait takes exactly as long as it should.

    seed: of its random numbers. Default 0.
    start: the first monotonic moment, in seconds. Default 1000.
    wall: the first time of day, in seconds since 1970. Default 1 000 000 000 (2001-09-09).
    autojump: when everything that this clock knows of waits, jump to the next moment that somebody waits for. Default True;
        with False time passes only by `advance`.

    Async code runs in virtual time from its first guarded call or `asleep` on: the event loop's own timers
    (`asyncio.sleep`, `asyncio.timeout`) follow this clock too. It needs asyncio's own loops. Work in executors and in our
    worker threads holds time still while it runs; threads that nobody told it about are not waited for.
    Raises ValueError or TypeError for a parameter out of range.
    """

    def __init__(self, *, seed: int = 0, start: float = 1000.0, wall: float = 1_000_000_000.0, autojump: bool = True) -> None:
        self.random = random.Random(seed)
        self.autojump = autojump
        self._now = units.number("start", start)
        self._wall = units.number("wall", wall) - self._now
        self._changed = threading.Condition()
        self._moments: list[float] = []
        self._busy = 0
        self._worker = threading.local()
        self._handing: set[int] = set()
        self._loops: dict[asyncio.AbstractEventLoop, Callable[[], None]] = {}

    # --- reading and moving it

    def monotonic(self) -> float:
        """The virtual moment."""
        return self._now

    def wall(self) -> float:
        """The virtual time of day."""
        return self._wall + self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` >= 0 pass; everything that was due in between may run. Raises ValueError for a bad length."""
        self._move(self._now + units.seconds("seconds", seconds, zero=True))

    def release(self) -> None:
        """Give the event loops that ran on it their own time back."""
        for restore in self._loops.values():
            restore()
        self._loops.clear()

    # --- waiting

    def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        if seconds > 0:
            self.wait(threading.Event(), seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        import asyncio

        self.adopt(asyncio.get_running_loop())
        await asyncio.sleep(seconds)

    def wait(self, flag: threading.Event, seconds: float | None) -> bool:
        """Wait in virtual time until `flag` is set or `seconds` have passed; whether it is set."""
        moment = float("inf") if seconds is None else self._now + seconds
        with self._changed:
            self._moments.append(moment)
            self._busy -= self._is_worker
        self._handed()
        glances = 0
        try:
            while not flag.is_set() and self._now < moment:
                if self._expects_company(glances) or not self._jump_to_next():
                    flag.wait(_GLANCE)
                    glances += 1
            return flag.is_set()
        finally:
            with self._changed:
                self._moments.remove(moment)
                self._busy += self._is_worker

    def job(self) -> AbstractContextManager[object]:
        """Work of a thread that this clock must not jump over."""
        with self._changed:
            self._busy += 1
            self._handing.add(threading.get_ident())
        return _Job(self)

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let an event loop live in this time. Raises RuntimeError for a loop that is not asyncio's own."""
        if loop not in self._loops:
            for closed in [known for known in self._loops if known.is_closed()]:
                del self._loops[closed]
            self._loops[loop] = _virtualise(self, loop)

    @property
    def tasks(self) -> AsyncPort:
        """The runtime port of async code; whoever asks for it inside a loop lives in this time from then on."""
        import asyncio

        loop = asyncio._get_running_loop()
        if loop is not None:
            self.adopt(loop)
        return super().tasks

    def _make_tasks(self) -> AsyncioPort:
        return _VirtualPort(self)

    # --- jumping

    @property
    def _is_worker(self) -> int:
        return getattr(self._worker, "count", 0)

    def _handed(self) -> None:
        """This thread waits now: the work that it handed out may take its time."""
        self._handing.discard(threading.get_ident())

    def _expects_company(self, glances: int) -> bool:
        """Whether a worker thread that waits alone should look so many times before time jumps for it alone."""
        if not self._is_worker or len(self._moments) > 1:
            return False
        return glances < (_TRUST if self._worker.owner in self._handing else _PATIENCE)

    def may_jump(self) -> bool:
        """Whether everything that this clock knows of waits."""
        return self.autojump and self._busy <= 0

    def jump(self, moment: float) -> None:
        """Go to `moment`, or to an earlier one that somebody else waits for."""
        with self._changed:
            self._now = max(self._now, min([moment, *self._moments]))

    def _jump_to_next(self) -> bool:
        with self._changed:
            moment = min(self._moments)
            if not self.may_jump() or moment == float("inf") or self._loops_have_timers(moment):
                return False
            self._now = max(self._now, moment)
        return True

    def _loops_have_timers(self, moment: float) -> bool:
        """A loop of another thread that has something to do before `moment` goes first."""
        for loop in list(self._loops):
            handles = getattr(loop, "_scheduled", ())
            offset = getattr(loop, "_seawall_offset", 0.0)
            if loop.is_running() and any(handle.when() - offset < moment for handle in list(handles)):
                return True
        return False

    def _move(self, moment: float) -> None:
        with self._changed:
            self._now = max(self._now, moment)
        for loop in list(self._loops):
            if not loop.is_closed():
                loop.call_soon_threadsafe(_nothing)


class _VirtualPort(AsyncioPort):
    """asyncio, in virtual time from the first use on."""

    _clock: VirtualClock

    def loop(self) -> asyncio.AbstractEventLoop:
        loop = super().loop()
        self._clock.adopt(loop)
        return loop


class _Job:
    """One piece of work of a worker thread; while the thread waits on the clock itself, it does not hold time still."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._owner = threading.get_ident()

    def __enter__(self) -> None:
        self._clock._worker.count = 1
        self._clock._worker.owner = self._owner

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._clock._worker.count = 0
        with self._clock._changed:
            self._clock._busy -= 1


class _Delivery:
    """The answer of a worker thread on its way to the loop: time holds still until it has arrived."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._travels = self._arrived = False

    def begin(self) -> None:
        with self._clock._changed:
            if not self._arrived:
                self._travels = True
                self._clock._busy += 1

    def end(self, _: object) -> None:
        with self._clock._changed:
            self._arrived = True
            self._clock._busy -= self._travels


class _Work:
    """A call in a thread on behalf of a loop: time holds still while it runs. If it is cancelled in its queue it never
    begins, and must not hold time still for ever."""

    def __init__(self, clock: VirtualClock, function: Any, args: tuple[Any, ...]) -> None:
        self._clock = clock
        self._function, self._args = function, args
        self._job, self._delivery = clock.job(), _Delivery(clock)
        self._counted = False

    def __call__(self) -> Any:
        with self._clock._changed:
            late, self._counted = self._counted, True
        if late:
            return self._function(*self._args)
        with self._job:
            try:
                return self._function(*self._args)
            finally:
                self._delivery.begin()

    def arrived(self, future: asyncio.Future[Any]) -> None:
        """The loop knows how it ended."""
        self._delivery.end(future)
        with self._clock._changed:
            if future.cancelled() and not self._counted:
                self._counted = True
                self._clock._busy -= 1


def _virtualise(clock: VirtualClock, loop: Any) -> Callable[[], None]:
    """Give a loop the clock's time: where it would block for a timer, time jumps instead. The result undoes it."""
    selector = getattr(loop, "_selector", None)
    if selector is None:
        raise RuntimeError(f"virtual time needs asyncio's own event loop; {type(loop).__name__} keeps its timers elsewhere")
    offset = loop.time() - clock.monotonic()
    real_select, real_executor = selector.select, loop.run_in_executor

    def select(timeout: float | None = None) -> Any:
        clock._handed()
        if timeout is not None and timeout > 0 and _tidied(getattr(loop, "_seawall_lanes", ())):
            timeout = 0  # a timer was set that nobody waits for any more; the loop looks again
        if timeout is None or timeout <= 0:
            return real_select(timeout)
        if not clock.may_jump():
            return real_select(_GLANCE)
        ready = real_select(0)  # after that question: work that has ended since has woken the loop before it ended
        if ready:
            return ready
        clock.jump(clock.monotonic() + timeout)
        return []

    def run_in_executor(executor: Any, function: Any, *args: Any) -> Any:
        work = _Work(clock, function, args)
        future = real_executor(executor, work)
        future.add_done_callback(work.arrived)
        return future

    async def shutdown_default_executor(*args: Any, **kwargs: Any) -> None:
        restore()  # the end of a loop waits for its threads with a limit of its own, in real time
        await loop.shutdown_default_executor(*args, **kwargs)

    def restore() -> None:
        for name in ("time", "run_in_executor", "shutdown_default_executor", "_seawall_offset", "_seawall_lanes"):
            vars(loop).pop(name, None)
        vars(selector).pop("select", None)

    loop.time = lambda: clock.monotonic() + offset
    loop._seawall_offset = offset
    loop._seawall_lanes = []
    loop.run_in_executor = run_in_executor
    loop.shutdown_default_executor = shutdown_default_executor
    selector.select = select
    return restore


def _tidied(lanes: Iterable[Any]) -> bool:
    """Take back the timers that nobody waits for; whether there were any."""
    changed = [lane.tidy() for lane in lanes]
    return any(changed)


def _nothing() -> None:
    """Wakes a loop."""
