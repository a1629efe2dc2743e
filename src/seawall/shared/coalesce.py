"""Concurrent callers share round trips: threads by promoting a leader, tasks once per turn of their loop.

Threads: the first caller sends its own ask alone; those who come meanwhile line up. When the answer is there, the first of the
line becomes the leader, sends what stands in it by then, and so on. No thread of our own, and nobody waits to fill a batch.
Tasks: what is asked within one turn of the loop leaves together, and while one batch is on its way the next one gathers.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from seawall.shared.port import Answer, Ask, Done, StoreDown

LARGEST_BATCH: Final = 256
"""Asks in one script call: about two milliseconds of the server's time, during which it serves nobody else."""


class _Seat:
    """One thread's ask. The flag is a lock that is held until there is an answer, or its turn to lead."""

    __slots__ = ("answer", "ask", "flag", "leads")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.answer: Answer | StoreDown | None = None
        self.leads = False
        self.flag = threading.Lock()
        self.flag.acquire()


class ThreadBatches:
    """Asks of threads. send: one round trip for some asks; raises StoreDown. patience: seconds that one ask may take."""

    def __init__(self, send: Callable[[Sequence[Ask]], list[Answer]], patience: float) -> None:
        self._send = send
        self._patience = patience
        self._lock = threading.Lock()
        self._line: deque[_Seat] = deque()
        self._busy = False

    def ask(self, ask: Ask) -> Answer:
        """Ask, alone or together with others. Raises StoreDown."""
        with self._lock:
            if self._busy:
                seat = _Seat(ask)
                self._line.append(seat)
            else:
                self._busy = True
                seat = None
        if seat is not None and not self._wait(seat):
            return _given(seat.answer)
        mine = [] if seat is None else [seat]
        with self._lock:
            while self._line and len(mine) < LARGEST_BATCH - 1:
                mine.append(self._line.popleft())
        asks = [each.ask for each in mine] if seat is not None else [ask, *(each.ask for each in mine)]
        answers: Sequence[Answer | StoreDown] = [StoreDown("the caller that asked was interrupted")] * len(asks)
        try:
            answers = self._send(asks)
        except StoreDown as error:
            answers = [error] * len(asks)
        finally:
            self._promote()
            others = answers if seat is not None else answers[1:]
            for each, answer in zip(mine, others, strict=True):
                each.answer = answer
                if each is not seat:
                    each.flag.release()
        return _given(answers[0])

    def reopen(self) -> None:
        """After a fork: nobody who stood in line exists here."""
        self.__init__(self._send, self._patience)  # type: ignore[misc]

    def _wait(self, seat: _Seat) -> bool:
        """Whether it is this seat's turn to lead; otherwise its answer is there. Raises StoreDown when it took too long."""
        if not seat.flag.acquire(timeout=self._patience):
            with self._lock:
                if seat in self._line:
                    self._line.remove(seat)
                    raise StoreDown(f"no answer within {self._patience:g} s")
            if not seat.flag.acquire(timeout=self._patience):  # its answer is on its way, or it was promoted this moment
                raise StoreDown(f"no answer within {self._patience:g} s")
        return seat.leads

    def _promote(self) -> None:
        with self._lock:
            if not self._line:
                self._busy = False
                return
            seat = self._line.popleft()
            seat.leads = True
        seat.flag.release()


def _given(answer: Answer | StoreDown | None) -> Answer:
    if isinstance(answer, Answer):
        return answer
    raise answer if answer is not None else StoreDown("no answer")


class _Once:
    """Calls `done` with the first thing it is given, and with nothing after it."""

    __slots__ = ("_done", "ask")

    def __init__(self, ask: Ask, done: Done) -> None:
        self.ask = ask
        self._done: Done | None = done

    @property
    def over(self) -> bool:
        return self._done is None

    def __call__(self, answer: Answer | StoreDown) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)


class _Queue:
    """What one event loop asks: in line, asked in this turn of the loop, and on its way."""

    __slots__ = ("line", "sender", "turn")

    def __init__(self) -> None:
        self.line: deque[_Once] = deque()
        self.turn: list[_Once] | None = None
        self.sender: asyncio.Task[None] | None = None


class TaskBatches:
    """Asks of tasks, per event loop. send: one round trip for some asks; patience: seconds that one ask may take."""

    def __init__(self, send: Callable[[Sequence[Ask]], Awaitable[list[Answer]]], patience: float) -> None:
        self._send = send
        self._patience = patience
        self._queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = weakref.WeakKeyDictionary()

    def submit(self, ask: Ask, done: Done) -> None:
        """Ask with others of this turn of the loop; `done` gets an answer or a StoreDown, within the patience."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue()
        once = _Once(ask, done)
        if queue.turn is None:
            queue.turn = []
            loop.call_soon(self._end_turn, loop, queue, context=contextvars.Context())
            loop.call_later(self._patience, self._give_up, queue.turn, context=contextvars.Context())
        queue.turn.append(once)
        queue.line.append(once)

    def _end_turn(self, loop: asyncio.AbstractEventLoop, queue: _Queue) -> None:
        queue.turn = None
        if queue.sender is None:
            queue.sender = loop.create_task(self._run(queue))

    def _give_up(self, asked: list[_Once]) -> None:
        for once in asked:
            once(StoreDown(f"no answer within {self._patience:g} s"))

    async def _run(self, queue: _Queue) -> None:
        try:
            while queue.line:
                batch = [once for _ in range(min(len(queue.line), LARGEST_BATCH)) if not (once := queue.line.popleft()).over]
                if batch:
                    answers = await self._answers([once.ask for once in batch])
                    for once, answer in zip(batch, answers, strict=True):
                        once(answer)
        finally:
            queue.sender = None

    async def _answers(self, asks: list[Ask]) -> Sequence[Answer | StoreDown]:
        try:
            return await asyncio.wait_for(self._send(asks), self._patience)
        except StoreDown as error:
            return [error] * len(asks)
        except TimeoutError:
            return [StoreDown(f"no answer within {self._patience:g} s")] * len(asks)
