"""One committer per database: it takes all that queued up while the last commit ran, and commits it as one.

With batching, safety from power loss is nearly free: one sync carries every saga that waits (group commit). A batch that fails is
halved until the one operation that is to blame stands alone, so that one bad saga does not fail its neighbours; what can succeed
when it is sent again is sent again instead.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from seawall.core.errors import Overloaded
from seawall.saga.errors import JournalError, JournalLocked
from seawall.saga.plan import Durability
from seawall.saga.port import Append, Hooks, Journal, Op, Start, synced

MOST_OPS: Final = 1000
MOST_BYTES: Final = 4 * 1_048_576
RESENDS: Final = 8


@dataclass(slots=True)
class Figures:
    """What a committer has done: batches, operations in them, commits that were sent again, the longest commit in seconds."""

    batches: int = 0
    ops: int = 0
    resent: int = 0
    longest: float = 0.0


class Committer:
    """Runs operations against a journal, in batches, from any thread or loop.

    durability: what is synced. most: operations that may wait in line, >= 1; a start beyond it is refused with Overloaded.
    hooks: for tests. inline: commit in the caller's own thread, one operation at a time, for tests.
    """

    def __init__(
        self, journal: Journal, *, durability: Durability = "strict", most: int = 10_000, hooks: Hooks | None = None,
        inline: bool = False,
    ) -> None:  # fmt: skip
        self.journal = journal
        self.durability: Durability = durability
        self.figures = Figures()
        self._most = most
        self._hooks = hooks
        self._inline = inline
        self._queue: deque[tuple[Op, Any]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def open(self) -> None:
        """Start the thread."""
        if not self._inline:
            self._thread = threading.Thread(target=self._run, name="seawall-committer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Commit what waits, then end."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def closed(self) -> bool:
        """Whether it takes nothing more."""
        return self._closing

    async def send(self, op: Op) -> Any:
        """Commit one operation; its result, or the error that it raised."""
        if self._inline:
            return _unwrap(self._commit_now(op))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._put(op, (loop, answer))
        return _unwrap(await answer)

    def send_sync(self, op: Op) -> Any:
        """The same for a thread without a loop."""
        if self._inline:
            return _unwrap(self._commit_now(op))
        answer: Future[Any] = Future()
        self._put(op, (None, answer))
        return _unwrap(answer.result())

    def _commit_now(self, op: Op) -> Any:
        return self._commit([op])[0]

    def _put(self, op: Op, answer: Any) -> None:
        with self._wake:
            if self._closing:
                raise JournalError("this Sagas is closed")
            if isinstance(op, Start) and len(self._queue) >= self._most:
                raise Overloaded(
                    f"{len(self._queue)} operations wait for the journal, {self._most} may: it is slower than what comes in",
                    policy="journal",
                    retry_after=0.1,
                )
            self._queue.append((op, answer))
            if len(self._queue) == 1:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                batch = self._take()
            answers = self._commit([op for op, _ in batch])
            self._tell([(answer, result) for (_, answer), result in zip(batch, answers, strict=True)])

    def _take(self) -> list[tuple[Op, Any]]:
        batch: list[tuple[Op, Any]] = []
        size = 0
        while self._queue and len(batch) < MOST_OPS and size < MOST_BYTES:
            batch.append(self._queue.popleft())
            size += _size(batch[-1][0])
        return batch

    def _commit(self, ops: list[Op]) -> list[Any]:
        """The results of a batch; an error stands in the place of what failed."""
        began = time.monotonic()
        for resend in range(RESENDS):
            try:
                if self._hooks is not None:
                    self._hooks.before(ops)
                found = self.journal.apply(ops, sync=synced(ops, self.durability))
                if self._hooks is not None:
                    self._hooks.after(ops)
            except Exception as error:
                if not self.journal.retryable(error):
                    return self._halve(ops, error)
                for op in ops:
                    op.tries += 1
                self.figures.resent += 1
                last = error
                time.sleep(min(1.0, 0.01 * 2**resend))
            else:
                self.figures.batches += 1
                self.figures.ops += len(ops)
                self.figures.longest = max(self.figures.longest, time.monotonic() - began)
                return found
        problem = self.journal.translate(last)
        final = problem if isinstance(problem, JournalError) else JournalLocked(f"the journal did not answer: {last}")
        return [final] * len(ops)

    def _halve(self, ops: list[Op], error: Exception) -> list[Any]:
        problem = self.journal.translate(error)
        if len(ops) == 1 or (isinstance(problem, JournalError) and type(problem) is not JournalError):
            return [problem] * len(ops)  # a full disk is nobody's fault: halving would only ask it again and again
        middle = len(ops) // 2
        return self._commit(ops[:middle]) + self._commit(ops[middle:])

    @staticmethod
    def _tell(answers: list[tuple[Any, Any]]) -> None:
        """Give everybody their answer, with one call into each loop."""
        by_loop: dict[Any, list[tuple[Any, Any]]] = {}
        for (loop, answer), result in answers:
            if loop is None:
                answer.set_result(result)
            else:
                by_loop.setdefault(loop, []).append((answer, result))
        for loop, told in by_loop.items():
            if not loop.is_closed():
                _call(loop, told)


def _call(loop: asyncio.AbstractEventLoop, told: list[tuple[Any, Any]]) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, told)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _resolve(told: list[tuple[Any, Any]]) -> None:
    for answer, result in told:
        if not answer.done():
            answer.set_result(result)


def _unwrap(result: Any) -> Any:
    if isinstance(result, BaseException):
        raise result
    return result


def _size(op: Op) -> int:
    if isinstance(op, Append):
        return 200 + sum(len(record.result or "") for record in op.records)
    return 200 + len(op.input or "") if isinstance(op, Start) else 200


Send = Callable[[Op], Any]
