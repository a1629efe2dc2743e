"""Virtual time: a heap of moments, callbacks that run at theirs, and tasks that wait for theirs.

Nothing here looks at a real clock, a thread or a file: the same seed gives the same history, in every process. At each moment all
callbacks that are due run first, in the order in which they were asked for; then the tasks that became ready, first come first
served. That is the discipline of asyncio, so code that runs on both sees the same order.
"""

from __future__ import annotations

import contextvars
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from heapq import heapify, heappop, heappush
from math import isnan
from typing import Any, Final, Protocol

from seawall.core import units

MOST_CANCELLED: Final = 64
"""Cancelled entries that may lie about before the heap is swept, unless fewer than half of its entries are."""


class Cancelled(BaseException):
    """A task was ended from outside. args: what its canceller said."""


class Entry(list[Any]):
    """Something that will happen: [moment, number, function or None, arguments]. Lists compare by moment, then number."""

    __slots__ = ()

    def cancel(self) -> None:
        """Take it back; nothing happens when it already ran."""
        if self[2] is not None:
            self[2] = None
            self[4].idle += 1
            self[4] = None


class Trap(Protocol):
    """What a task yields to wait. `park` arranges for `task.wake(value)`; `unpark` takes that back."""

    def park(self, task: Task, /) -> None:
        """A task begins to wait."""
        ...

    def unpark(self, task: Task, /) -> None:
        """It waits no longer."""
        ...


class Task:
    """A coroutine that runs in virtual time. result, error: how it ended, once `done`."""

    __slots__ = (
        "_awaiting",
        "_context",
        "_coroutine",
        "_kernel",
        "_message",
        "_sent",
        "_waiters",
        "done",
        "error",
        "name",
        "result",
    )

    def __init__(self, kernel: Kernel, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self._kernel = kernel
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._awaiting: Trap | None = None
        self._message: tuple[Any, ...] | None = None
        self._sent: Any = None
        self._waiters: list[Task] = []
        self.name = name
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def wake(self, value: Any = None) -> None:
        """What it waited for has come; it goes on when its turn comes."""
        if not self.done and self._awaiting is not None:
            self._awaiting = None
            self._sent = value
            self._kernel.ready.append(self)

    def cancel(self, message: object = None) -> None:
        """Let `Cancelled` rise where it waits. message: what the error carries; None = nothing."""
        if self.done:
            return
        self._message = () if message is None else (message,)
        if self._awaiting is not None:
            self._awaiting.unpark(self)
            self.wake()

    def park(self, task: Task) -> None:
        """Another task waits for the end of this one."""
        self._waiters.append(task)

    def unpark(self, task: Task) -> None:
        """It waits no longer."""
        self._waiters.remove(task)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait for its end; its result, or its error raised."""
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        return self.result

    def step(self) -> None:
        """Run it until it waits again."""
        sent, self._sent = self._sent, None
        message, self._message = self._message, None
        try:
            if message is None:
                trap = self._context.run(self._coroutine.send, sent)
            else:
                trap = self._context.run(self._coroutine.throw, Cancelled(*message))
        except StopIteration as stop:
            self._end(stop.value, None)
        except BaseException as error:
            self._end(None, error)
            if not isinstance(error, Exception | Cancelled):
                raise
        else:
            self._awaiting = trap
            trap.park(self)
            if self._message is not None:  # cancelled by itself before it waited
                self.cancel(*self._message)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self.done, self.result, self.error = True, result, error
        if isinstance(error, Exception) and not self._waiters:
            self._kernel.unseen.append(self)
        for waiter in self._waiters:
            waiter.wake()
        self._waiters.clear()


class _Pause:
    """The wait for a length of time."""

    __slots__ = ("_entry", "_kernel", "_seconds")

    def __init__(self, kernel: Kernel, seconds: float) -> None:
        self._kernel = kernel
        self._seconds = seconds

    def park(self, task: Task) -> None:
        self._entry = self._kernel.call_later(self._seconds, task.wake)

    def unpark(self, _: Task) -> None:
        self._entry.cancel()

    def __await__(self) -> Generator[Any, Any, None]:
        yield self


class Flag:
    """A flag that one task waits for and anybody may set."""

    __slots__ = ("_kernel", "_set", "_task")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._set = False
        self._task: Task | None = None

    def set(self) -> None:
        """Wake the waiter."""
        self._set = True
        self._resolve()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until set or `seconds` have passed; whether it was set. The flag is taken down again."""
        if not self._set:
            entry = None if seconds is None else self._kernel.call_later(seconds, self._resolve)
            try:
                await self
            finally:
                if entry is not None:
                    entry.cancel()
        was_set, self._set = self._set, False
        return was_set

    def park(self, task: Task) -> None:
        """A task begins to wait. Raises RuntimeError when another one does."""
        if self._task is not None:
            raise RuntimeError("two tasks wait for one flag; give each its own")
        self._task = task

    def unpark(self, task: Task) -> None:
        """It waits no longer."""
        if self._task is task:
            self._task = None

    def __await__(self) -> Generator[Any, Any, None]:
        yield self

    def _resolve(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.wake()


class Kernel:
    """A world in virtual time.

    seed: of its chance. Default 0. start: its first moment in seconds, >= 0. Default 0.
    idle: cancelled entries in its heap. unseen: tasks that failed with nobody waiting; `run` raises the error of the first.

    >>> kernel = Kernel()
    >>> async def greet() -> float:
    ...     await kernel.sleep(2.5)
    ...     return kernel.now()
    >>> task = kernel.spawn(greet)
    >>> kernel.run()
    3
    >>> task.result
    2.5
    """

    kind = "kernel"

    def __init__(self, *, seed: int = 0, start: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self.random = self.chance.random
        self.ready: deque[Task] = deque()
        self.unseen: list[Task] = []
        self.idle = 0
        self._now = units.number("start", start)
        self._number = 0
        self._heap: list[Entry] = []

    def now(self) -> float:
        """The moment, in seconds."""
        return self._now

    # --- what will happen

    def call_at(self, moment: float, function: Callable[..., object], *args: Any) -> Entry:
        """Call `function` at a moment; one that has passed is now. Raises ValueError for one that is not a number."""
        if isnan(moment):
            raise ValueError(f"moment must be a number; got {moment!r}")
        moment = max(moment, self._now)
        self._number += 1
        entry = Entry((moment, self._number, function, args, self))
        heappush(self._heap, entry)
        if self.idle > MOST_CANCELLED and 2 * self.idle > len(self._heap):
            self._sweep()
        return entry

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Entry:
        """Call `function` once `seconds` have passed."""
        return self.call_at(self._now + seconds, function, *args)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Task:
        """Run a coroutine function as a task, in a copy of the caller's context. It begins when its turn comes."""
        task = Task(self, function(*args), getattr(function, "__qualname__", "task"))
        self.ready.append(task)
        return task

    # --- what tasks wait for

    async def sleep(self, seconds: float) -> None:
        """Wait for a length of time; 0 lets the others go first."""
        await _Pause(self, seconds)

    def event(self) -> Flag:
        """A flag for one waiting task."""
        return Flag(self)

    async def reap(self, tasks: list[Task], message: object = None) -> None:
        """End tasks and wait until they have ended; how they end is theirs."""
        for task in tasks:
            task.cancel(message)
        for task in tasks:
            if not task.done:
                await _Ended(task)

    # --- letting it happen

    def run(self, until: float | None = None) -> int:
        """Let everything happen, up to and including the moment `until`; default None = until nothing is left to happen.

        The number of callbacks and turns that ran. Afterwards it is `until`, if one was given. Raises the error of a task that
        failed with nobody waiting for it, and what a callback raises.
        """
        happened, heap = 0, self._heap
        while True:
            while heap and heap[0][2] is None:
                heappop(heap)
                self.idle -= 1
            if self.ready and not (heap and heap[0][0] == self._now):
                happened += self._turns()
                continue
            if not heap or (until is not None and heap[0][0] > until):
                break
            entry = heappop(heap)
            self._now, _, function, args, _ = entry
            entry[2] = entry[4] = None
            happened += 1
            function(*args)
        if until is not None:
            self._now = max(self._now, until)
        return happened

    def _turns(self) -> int:
        ready, happened = self.ready, 0
        while ready:
            happened += 1
            ready.popleft().step()
            if self.unseen:
                error = self.unseen.pop(0).error
                assert error is not None
                raise error
        return happened

    def _sweep(self) -> None:
        """Throw cancelled entries away: a limit on each call leaves one behind that may lie there for long."""
        self._heap[:] = [entry for entry in self._heap if entry[2] is not None]
        heapify(self._heap)
        self.idle = 0


class _Ended:
    """The wait for a task's end, without its error."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._task
