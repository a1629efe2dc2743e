"""The runtime port on asyncio. Loaded at the first async call, so that importing seawall does not load asyncio."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from seawall.core.runtime import Mark

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
    """Cuts the task that armed it by cancelling it with the mark as the message."""

    __slots__ = ("_loop_of", "_seconds")

    def __init__(self, loop_of: Callable[[], asyncio.AbstractEventLoop], seconds: float) -> None:
        self._loop_of = loop_of
        self._seconds = seconds

    def arm(self, owner: object = None) -> Mark:
        """Start the time of the running task. Raises RuntimeError outside a task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a timeout needs a task to cut; run the call inside one")
        mark = Mark(owner, self._seconds, task=task, depth=task.cancelling())
        # an empty context, so that the timer does not keep the caller's context alive
        mark.handle = self._loop_of().call_later(self._seconds, _cut, mark, context=contextvars.Context())
        return mark

    def fired(self, mark: Mark, error: BaseException) -> bool:
        """Whether `error` is this mark's cut alone: an outside cancellation asked for at the same time wins."""
        if not mark.hit or not isinstance(error, asyncio.CancelledError):
            return False
        mark.hit = False
        return mark.task.uncancel() <= mark.depth  # type: ignore[no-any-return]

    def disarm(self, mark: Mark) -> None:
        """End the time; when the body swallowed the cut, the task is not left counted as cancelling."""
        mark.handle.cancel()
        if mark.hit:
            mark.hit = False
            mark.task.uncancel()


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
        """A timer of fixed length, for any task."""
        return AsyncioTimer(self.loop, seconds)

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


def _cut(mark: Mark) -> None:
    mark.hit = True
    mark.task.cancel(mark)
