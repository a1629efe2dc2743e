"""The port to whatever runs the code: threads here, asyncio in runtime_asyncio, the simulator's kernel later.

The guards are written against these verbs and nothing else: `now`, `random`, `sleep`, `event`, `timer`, `spawn`,
`call_later`. The sync and the async port have the same ones, so the two guards read the same but for `await`.
Each runtime has its own cancellation; guards only ever write `except Exception` and `except BaseException`.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from seawall.core.context import Armed
from seawall.core.errors import WrongTwin

if TYPE_CHECKING:
    from seawall.core.clock import Clock


@dataclass(eq=False, slots=True)
class Mark:
    """Whose limit it is that cuts a call: the message of the cancellation, so that guards can tell.

    owner: who armed it (a pipeline), or None for a deadline of the caller. limit: its length in seconds.
    """

    owner: object
    limit: float


AT, TASK, DEPTH, HIT, MARK = range(5)
"""What stands where in an armed limit (`context.Armed`)."""


CHEAP_LOOP: Final = sys.version_info >= (3, 12)
"""Whether asking for the running loop is cheap. On 3.11 that asks the kernel for the process id; compiled code asks the loop's
own thread there instead, which asyncio's loops keep for themselves."""


class Cancellable(Protocol):
    """A call that was put off and can be taken back."""

    def cancel(self) -> None:
        """Take it back; nothing happens when it already ran."""
        ...


class AsyncEvent(Protocol):
    """A flag that one task waits for and any thread may set."""

    def set(self) -> None:
        """Wake the waiter, from any thread. Raises RuntimeError when the waiter's loop is closed."""
        ...

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until set or `seconds` have passed; whether it was set. The flag is taken down again."""
        ...


class AsyncTimer(Protocol):
    """Cuts the task that armed it once its length has passed."""

    def arm(self, owner: object = None) -> Armed:
        """Start the time of the running task."""
        ...

    def fired(self, armed: Armed, error: BaseException) -> bool:
        """Whether `error` is this limit's cut, and nobody else's; takes the cancellation back if so."""
        ...

    def disarm(self, armed: Armed) -> None:
        """End the time; takes the cancellation back when the body swallowed it."""
        ...


class AsyncPort(Protocol):
    """What async guards need of a runtime."""

    kind: str

    def now(self) -> float: ...
    def random(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...
    def event(self) -> AsyncEvent: ...
    def timer(self, seconds: float) -> AsyncTimer: ...
    def cuts_here(self, held: float | Armed | None) -> bool: ...
    def spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any: ...
    async def reap(self, tasks: list[Any], message: object = None) -> None: ...
    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Cancellable: ...


class ThreadEvent:
    """A flag that one thread waits for and any thread may set."""

    __slots__ = ("_clock", "_flag")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._flag = threading.Event()

    def set(self) -> None:
        """Wake the waiter."""
        self._flag.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until set or `seconds` have passed; whether it was set. The flag is taken down again."""
        was_set = self._clock.wait(self._flag, seconds)
        self._flag.clear()
        return was_set


class ThreadTimer:
    """The timer of sync code: it cuts nothing, because a thread cannot be cut; the deadline is handed to the callee."""

    __slots__ = ("_now", "_seconds")

    def __init__(self, now: Callable[[], float], seconds: float) -> None:
        self._now = now
        self._seconds = seconds

    def arm(self, owner: object = None) -> Armed:
        """Nothing to start; what is armed says whose limit it is, and when it ends."""
        return [self._now() + self._seconds, None, 0, None, Mark(owner, self._seconds)]

    def fired(self, armed: Armed, error: BaseException) -> bool:
        """Never: sync code is not interrupted."""
        return False

    def disarm(self, armed: Armed) -> None:
        """Nothing to end."""


class ThreadPort:
    """What sync guards need of a runtime, on threads."""

    kind = "threads"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now = clock.monotonic
        self.sleep = clock.sleep

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._clock.random.random()

    def event(self) -> ThreadEvent:
        """A flag for one waiting thread."""
        return ThreadEvent(self._clock)

    def timer(self, seconds: float) -> ThreadTimer:
        """A timer that marks but cuts nothing."""
        return ThreadTimer(self.now, seconds)

    def spawn(self, function: Callable[..., object], *args: Any) -> threading.Thread:
        """Run `function` in a daemon thread of its own, in a copy of the caller's context."""
        thread = threading.Thread(target=contextvars.copy_context().run, args=(function, *args), daemon=True)
        thread.start()
        return thread

    def reap(self, tasks: list[Any], message: object = None) -> None:
        """Threads cannot be ended: they end by themselves, and keep their seats until then."""

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Cancellable:
        """Call `function` in a thread of its own once `seconds` have passed on this clock, unless it is taken back."""
        later = _Later(self._clock, seconds, function, args)
        self.spawn(later.run)
        return later


class _Later:
    """A call put off by a thread that waits on the clock."""

    def __init__(self, clock: Clock, seconds: float, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._function = function
        self._args = args
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        if not self._clock.wait(self._cancelled, self._seconds):
            self._function(*self._args)


def loop_is_running() -> bool:
    """Whether this thread runs an event loop; asks asyncio only if somebody loaded it."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def refuse_under_loop(verb: str, twin: str) -> None:
    """Raise WrongTwin when a sync verb that may wait is used under a running event loop, which it would block."""
    if loop_is_running():
        raise WrongTwin(f"{verb} may wait and would block the running event loop; use `await {twin}` here")


_HAS_GLOBAL_LOCK: Final = getattr(sys, "_is_gil_enabled", lambda: True)()


def one_line_is_one_step() -> bool:
    """Whether no other thread runs within a line that calls nothing, so that lines need no lock: on builds with the global lock,
    unless SEAWALL_COMPILE=0 in the environment asks for plain code."""
    return _HAS_GLOBAL_LOCK and os.environ.get("SEAWALL_COMPILE", "1") != "0"
