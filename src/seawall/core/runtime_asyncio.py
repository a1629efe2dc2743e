"""The runtime port on asyncio. Loaded at the first async call, so that importing seawall does not load asyncio."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from seawall.core.context import Armed
from seawall.core.runtime import DEPTH, HIT, MARK, TASK, Mark

if TYPE_CHECKING:
    from seawall.core.clock import Clock


class AsyncioEvent:
    """A flag that one task waits for; set from the same loop at once, from another thread through the loop."""

    __slots__ = ("_flag", "_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._flag = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, from any thread. Raises RuntimeError when its loop is closed: nobody would ever wake."""
        if self._loop.is_closed():
            raise RuntimeError("the waiter's event loop is closed")
        self._flag = True
        if asyncio._get_running_loop() is self._loop:
            self._resolve()
        else:
            self._loop.call_soon_threadsafe(self._resolve)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until set or `seconds` have passed; whether it was set. The flag is taken down again."""
        if not self._flag:
            self._future = self._loop.create_future()
            handle = None if seconds is None else self._loop.call_later(seconds, self._resolve)
            try:
                await self._future
            finally:
                self._future = None
                if handle is not None:
                    handle.cancel()
        was_set, self._flag = self._flag, False
        return was_set

    def _resolve(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class AsyncioTimer:
    """Cuts the task that armed it by cancelling it with the mark as the message. One timer of the loop per limit; compiled code
    shares them (`core/lanes.py`)."""

    __slots__ = ("_handle", "_loop_of", "_now", "_seconds")

    def __init__(self, loop_of: Callable[[], asyncio.AbstractEventLoop], now: Callable[[], float], seconds: float) -> None:
        self._loop_of = loop_of
        self._now = now
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, owner: object = None) -> Armed:
        """Start the time of the running task. Raises RuntimeError outside a task."""
        task = running_task()
        armed: Armed = [self._now() + self._seconds, task, task.cancelling(), None, Mark(owner, self._seconds)]
        # an empty context, so that the timer does not keep the caller's context alive
        self._handle = self._loop_of().call_later(self._seconds, cut, armed, context=contextvars.Context())
        return armed

    def fired(self, armed: Armed, error: BaseException) -> bool:
        """Whether `error` is this limit's cut alone: an outside cancellation asked for at the same time wins."""
        return was_cut(armed, error)

    def disarm(self, armed: Armed) -> None:
        """End the time; when the body swallowed the cut, the task is not left counted as cancelling."""
        assert self._handle is not None
        self._handle.cancel()
        forget_cut(armed)


def running_task() -> asyncio.Task[Any]:
    """The task that runs now. Raises RuntimeError outside one."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a timeout needs a task to cut; run the call inside one")
    return task


def cut(armed: Armed) -> None:
    """The time of a limit is over: cancel its task, with the mark as the message."""
    armed[HIT] = True
    armed[TASK].cancel(armed[MARK])


def was_cut(armed: Armed, error: BaseException) -> bool:
    """Whether `error` is what `cut` did, and nobody else cancelled the task as well; takes the cancellation back."""
    if not armed[HIT] or not isinstance(error, asyncio.CancelledError):
        return False
    armed[HIT] = False
    return bool(armed[TASK].uncancel() <= armed[DEPTH])


def forget_cut(armed: Armed) -> None:
    """The limit is over. A cut that the body swallowed is taken back."""
    if armed[HIT]:
        armed[HIT] = False
        armed[TASK].uncancel()


class AsyncioPort:
    """What async guards need of a runtime, on asyncio. One port serves any number of loops."""

    kind = "asyncio"

    def __init__(self, clock: Clock) -> None:
        from seawall.core.clock import SystemClock

        self._clock = clock
        self.now = clock.monotonic
        # bound to the library's own coroutine function: a layer of ours would cost more than the sleep's own work
        self.sleep: Callable[[float], Coroutine[Any, Any, Any]] = asyncio.sleep if type(clock) is SystemClock else clock.asleep

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs now."""
        return asyncio.get_running_loop()

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._clock.random.random()

    def event(self) -> AsyncioEvent:
        """A flag for one waiting task of the running loop."""
        return AsyncioEvent(self.loop())

    def timer(self, seconds: float) -> AsyncioTimer:
        """A timer, for one task at a time."""
        return AsyncioTimer(self.loop, self.now, seconds)

    def cuts_here(self, held: float | Armed | None) -> bool:
        """Whether a deadline of the context is a limit of ours that cuts the running task when its time is over."""
        return isinstance(held, list) and held[TASK] is not None and held[TASK] is asyncio.current_task()

    def spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> asyncio.Task[Any]:
        """Run a coroutine function as a task of the running loop; the caller keeps the reference."""
        return self.loop().create_task(function(*args))

    async def reap(self, tasks: list[asyncio.Task[Any]], message: object = None) -> None:
        """End tasks of ours and wait until they have ended. message: the mark of the timer that cut us, handed on."""
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel(message)
        if running:
            await asyncio.wait(running)

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call `function` in the loop once `seconds` have passed."""
        return self.loop().call_later(seconds, function, *args, context=contextvars.Context())
