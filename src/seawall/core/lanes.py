"""Limits of one length on one loop: they end in the order in which they began, so a deque is the queue and one timer serves it.

A timer of the loop's own for each call costs more than everything else that guards it. Here a call appends one list and takes
it off again; the loop's timer is set for the first one alone, and set anew when it goes off. What is armed is a list, see
`context.Armed`: [moment, task, cancellations the task had, whether it went off, mark].

Compiled code does by itself what `arm` and `disarm` do here for the usual case; both are kept side by side in the tests.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from seawall.core.context import Armed
from seawall.core.runtime import AT, HIT, TASK, Mark
from seawall.core.runtime_asyncio import cut, forget_cut, running_task

_DUST: Final = 1e-9  # seconds below which two moments are one: a timer may come a little early
_SLACK: Final = 64  # entries that are over may wait for their removal, if fewer than those that are not


class Lane:
    """All limits of one length, of one owner, on one loop. Compiled code reads `loop`, `life`, `entries`, `mark` and `idle`.

    life: what knows the thread that runs the loop, as `_thread_id`. idle: whether no timer of the loop is set.
    """

    __slots__ = ("_due", "_gone", "_handle", "_now", "entries", "idle", "life", "loop", "mark")

    def __init__(self, loop: asyncio.AbstractEventLoop, mark: Mark, now: Callable[[], float]) -> None:
        self.loop = loop
        self.life: Any = loop if hasattr(loop, "_thread_id") else _Life(loop)
        self.mark = mark
        self.entries: deque[Armed] = deque()
        self.idle = True
        self._gone = 0
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._now = now

    def arm(self) -> Armed:
        """Start the time of the running task. Raises RuntimeError outside a task."""
        task = running_task()
        armed: Armed = [self._now() + self.mark.limit, task, task.cancelling(), None, self.mark]
        self.entries.append(armed)
        if self.idle:
            self.wind()
        return armed

    def disarm(self, armed: Armed) -> None:
        """The limit is over, whether it went off or not."""
        if armed[HIT] is not None:
            forget_cut(armed)
        elif self.entries[-1] is armed:
            self.entries.pop()
        else:
            self.blank(armed)

    def blank(self, armed: Armed) -> None:
        """Take out one that others stand behind: it is emptied, and goes when it comes to the front, or with many of its like."""
        armed[TASK] = None
        self._gone += 1
        self._trim()
        if self._gone > _SLACK and self._gone * 2 > len(self.entries):
            live = [entry for entry in self.entries if entry[TASK] is not None]
            self.entries.clear()
            self.entries.extend(live)
            self._gone = 0

    def wind(self) -> None:
        """Set the loop's timer for the first one."""
        self.idle = False
        self._due = self.entries[0][AT]
        pause = max(0.0, self._due - self._now())
        # an empty context, so that the timer does not keep a caller's context alive
        self._handle = self.loop.call_later(pause, self._go_off, context=contextvars.Context())

    def tidy(self) -> bool:
        """Take the loop's timer back when nobody waits for it any more: a virtual clock must not jump to it. Whether it was."""
        self._trim()
        if self.idle or self._handle is None:
            return False
        first = self.entries[0][AT] if self.entries else None
        if first is not None and first - self._now() <= self._handle.when() - self.loop.time() + _DUST:
            return False
        self._handle.cancel()
        self.idle = True
        if first is not None:
            self.wind()
        return True

    def _go_off(self) -> None:
        assert self._handle is not None
        self.idle = True
        late = max(0.0, self.loop.time() - self._handle.when())  # the loop says what is due: its time is what tasks wait in
        self._trim()
        while self.entries and self.entries[0][AT] <= self._due + late + _DUST:
            cut(self.entries.popleft())
            self._trim()
        if self.entries:
            self.wind()

    def _trim(self) -> None:
        entries = self.entries
        while entries and entries[0][TASK] is None:
            entries.popleft()
            self._gone = max(0, self._gone - 1)


class Lanes:
    """A limit of one length and owner, on whatever loop it is armed. Compiled code looks at `lane`, the one used last, and asks
    `find` when that is another loop's."""

    __slots__ = ("_known", "_lock", "_mark", "_now", "lane")

    def __init__(self, owner: object, seconds: float, now: Callable[[], float]) -> None:
        self._mark = Mark(owner, seconds)
        self._now = now
        self._known: dict[int, Lane] = {}
        self._lock = threading.Lock()
        self.lane = Lane(_NO_LOOP, self._mark, now)

    def find(self) -> Lane:
        """The lane of the running loop. Raises RuntimeError when none runs."""
        loop = asyncio.get_running_loop()
        with self._lock:
            lane = self._known.get(id(loop))
            if lane is None:
                self._known = {key: known for key, known in self._known.items() if not known.loop.is_closed()}
                lane = self._known[id(loop)] = Lane(loop, self._mark, self._now)
                getattr(loop, "_seawall_lanes", []).append(lane)
            self.lane = lane
        return lane


class _NoLoop:
    """Stands where no loop has been seen yet: it never runs."""

    _thread_id = None


_NO_LOOP: Any = _NoLoop()


class _Life:
    """Says which thread runs a loop that does not say so itself, such as uvloop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @property
    def _thread_id(self) -> int | None:
        return threading.get_ident() if asyncio._get_running_loop() is self._loop else None


def tasks_by_loop() -> Mapping[asyncio.AbstractEventLoop, asyncio.Task[Any]]:
    """The running task of each loop: what `asyncio.current_task` looks into, which on 3.11 asks for the loop first."""
    return asyncio.tasks._current_tasks  # type: ignore[attr-defined,no-any-return]
