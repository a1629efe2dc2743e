"""Worker threads: a bulkhead with a pool of its own, and a timeout that stops waiting for a plain function.

A thread cannot be ended from outside. So a worker that is given up on is counted, capped, and keeps the seats of every
bulkhead around it until it really ends: a limit of 10 never means 10 live calls plus the ones nobody waits for.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.context import DEADLINE
from seawall.core.errors import Overloaded, TimedOut
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.ending import Ending
from seawall.pipeline.policy import Layer
from seawall.pipeline.run import Run
from seawall.pipeline.timeout import Timeout
from seawall.policies.verdict import DUST

ABANDONED_MAX: Final = 64
"""How many worker threads of one Timeout may be left running before its further calls are refused as Overloaded."""


class Worker(Ending):
    """One call on a thread that may outlive its caller's patience. It works on a copy of the run and of the context."""

    def __init__(self, inner: Layer, run: Run, limit: float | None, gave_up: Callable[[Worker, Run], Exception]) -> None:
        super().__init__()
        self._inner = inner
        self._branch = run.branch()
        self._gave_up = gave_up
        self._value: Any = None
        self._error: BaseException | None = None
        self._now: Callable[[], float] = run.port.now
        self._run = run
        self._job = run.pipeline.clock.job()
        self.until = float("inf")
        if limit is not None:
            self.until = self._now() + limit
        if run.deadline is not None:
            self.until = min(self.until, run.deadline)
        if self.until < float("inf"):
            self._branch.deadline = self.until

    def work(self) -> None:
        """The body of the thread."""
        with self._job:
            self._work()

    def _work(self) -> None:
        try:
            if self.until < float("inf"):
                DEADLINE.set(self.until)
            self._value = self._inner(self._branch)
        except BaseException as error:
            self._error = error
        finally:
            self.end()

    def carried(self) -> Callable[[], None]:
        """The body, bound to a copy of the caller's context."""
        return partial(contextvars.copy_context().run, self.work)

    def watch(self, port: Any) -> Any:
        """A flag of the caller's runtime that is set when the thread has ended."""
        flag = port.event()
        self.on_done(partial(wake, flag))
        return flag

    def pending(self) -> float | None:
        """Seconds the caller may still wait, or None when there is a result. Raises TimedOut when its time is over."""
        if self.done:
            return None
        left = self.until - self._now()
        if left <= DUST:
            raise self._gave_up(self, self._run)
        return left

    def result(self) -> Any:
        """What the callee returned or raised."""
        if self._error is not None:
            raise self._error
        return self._value

    def abandon(self, run: Run) -> None:
        """The caller stops waiting; whoever holds a seat for this call keeps it until the thread ends."""
        if not self.done:
            run.workers.append(self)


class InPlace:
    """What stands for a worker where a timeout only observes: the call runs where it is, and is watched."""

    def __init__(self, timeout: Timeout, inner: Layer, run: Run) -> None:
        self._timeout, self._inner, self._run = timeout, inner, run

    def watch(self, port: Any) -> None:
        """There is nobody to wait for."""

    def pending(self) -> None:
        """There is nothing to wait for."""

    def result(self) -> Any:
        """Run what is inside."""
        spell = self._timeout.begin(self._run, self._timeout.seconds)
        try:
            return self._inner(self._run)
        finally:
            spell.end()

    def abandon(self, run: Run) -> None:
        """It has ended."""


class ThreadTimeout:
    """The part of `Timeout(sync="thread")` that starts and gives up workers."""

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout

    def start(self, inner: Layer, run: Run) -> Worker | InPlace:
        """Run what is inside on a new thread. Raises Overloaded when too many were left running."""
        timeout = self._timeout
        if run.pipeline.only_observes(timeout):
            return InPlace(timeout, inner, run)
        if timeout.abandoned >= ABANDONED_MAX:
            raise Overloaded(
                f"{timeout.name} has {ABANDONED_MAX} worker threads that still run after their time",
                policy=timeout.name,
            )
        if run.deadline is not None and run.deadline <= run.port.now():
            raise TimedOut(f"{run.pipeline.name}: no time is left to begin", policy="deadline", started=False)
        worker = Worker(inner, run, timeout.seconds, self._give_up)
        run.port.spawn(worker.carried())
        return worker

    def _give_up(self, worker: Worker, run: Run) -> Exception:
        timeout = self._timeout
        timeout.abandoned += 1
        worker.on_done(self._ended)
        return timeout.expire(run, timeout.seconds)

    def _ended(self) -> None:
        self._timeout.abandoned -= 1


class ThreadBulkhead(Bulkhead):
    """A bulkhead whose calls run on threads of its own; made by `Bulkhead.threads(workers, queue=0)`.

    It guards plain functions, from sync code with `call` or a decorator, from async code with `await acall(function)`.
    A caller that stops waiting (deadline, cancellation) leaves the thread running, and its seat stays taken until it ends.
    """

    kind = "thread_bulkhead"
    acts_while_observing = True  # its calls run on other threads all the same
    why_no_block = "a block cannot be moved to a thread pool"

    def __init__(self, workers: int, *, queue: int = 0, name: str | None = None, clock: Clock | None = None) -> None:
        super().__init__(workers, queue=queue, name=name, clock=clock)
        self.may_wait = True
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Hold a seat, and run what is inside on a thread of the pool. `inner` is sync in either runtime."""
        return super().layer(twins, partial(twins.hop, self, inner))

    def start(self, inner: Layer, run: Run) -> Worker:
        """Hand one call to the pool; the seat it holds is a free thread. Where it only observes, each call has its own."""
        worker = Worker(inner, run, None, self._give_up)
        if run.pipeline.only_observes(self):
            run.pipeline.clock.threads.spawn(worker.carried())
        else:
            self._executor().submit(worker.carried())
        return worker

    def reopen(self) -> None:
        """After a fork the pool's threads do not exist: a new one is made at the next call."""
        super().reopen()
        self._pool_lock = threading.Lock()
        self._pool = None

    def resize(self, limit: int) -> None:
        """Refused: a pool's size is fixed. Raises TypeError."""
        raise TypeError(f"{self.name} has a thread pool of fixed size; make another one")

    def _executor(self) -> ThreadPoolExecutor:
        with self._pool_lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=f"seawall-{self.name}")
            return self._pool

    def _give_up(self, worker: Worker, run: Run) -> Exception:
        return TimedOut(f"{run.pipeline.name}: the deadline passed while {self.name} ran it", policy="deadline")


def wake(flag: Any) -> None:
    """Set a flag whose waiter may be gone."""
    try:
        flag.set()
    except RuntimeError:  # the waiter's loop is closed: nobody waits any more
        return
