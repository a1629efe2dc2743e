"""The timeout as people use it, and one spell of it: a limit while it runs."""

from __future__ import annotations

from contextvars import Token
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.context import DEADLINE, VARIABLE, Armed, Context
from seawall.core.errors import TimedOut
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import Run


@dataclass(frozen=True, slots=True)
class TimeoutSnapshot:
    """One timeout at one moment.

    expired: calls it cut, or would have while observing, since it was made; abandoned: worker threads that still run.
    """

    kind: str
    name: str
    seconds: float
    expired: int
    abandoned: int


class Timeout(Policy):
    """Give a call a limit. Outside Retry it bounds the whole call, waits included; inside, each attempt.

    seconds: the limit, > 0, or text such as "250ms".
    connect, read: parts of it for client adapters, in (0, seconds]; they find them in the context. Default None = no part.
    first_item: seconds for the first item of a stream. Default None = `seconds`.
    item: seconds for each further item of a stream. Default None = `seconds`. The consumer's own time between items is
        not counted; a stream as a whole has no limit.
    sync: what it does to plain functions. "deadline" (default) hands the callee a deadline (`sw.remaining()`) and interrupts
        nothing. "thread" runs the callee on a worker thread and stops waiting for it: the thread is counted, at most 64 of
        them are left running, and the seats of bulkheads around it stay taken until it ends.
    name, clock: see `Policy`.

    Raises TimedOut for a call that it cuts; ValueError or TypeError for a parameter out of range.
    """

    kind = "timeout"

    def __init__(
        self,
        seconds: float | str,
        *,
        connect: float | str | None = None,
        read: float | str | None = None,
        first_item: float | str | None = None,
        item: float | str | None = None,
        sync: Literal["deadline", "thread"] = "deadline",
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.seconds = units.seconds("seconds", seconds)
        self.connect = self._part("connect", connect)
        self.read = self._part("read", read)
        self.first_item = self.seconds if first_item is None else units.seconds("first_item", first_item)
        self.item = self.seconds if item is None else units.seconds("item", item)
        self.sync = units.one_of("sync", sync, ("deadline", "thread"))
        self.may_wait = sync == "thread"
        super().__init__(name=name, clock=clock)
        self.why_no_block = "a block cannot be moved to a worker thread" if sync == "thread" else None
        self.expired = 0
        self.abandoned = 0

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Limit what is inside."""
        if twins.KIND == "threads" and self.sync == "thread":
            from seawall.pipeline.threads import ThreadTimeout

            return partial(twins.hop, ThreadTimeout(self), inner)
        return partial(twins.timeout, self, inner)

    def item_layer(self, twins: Any, inner: Layer) -> Layer:
        """Limit each further item of a stream."""
        return partial(twins.timeout, _Items(self), inner)

    def spell(self, run: Run) -> Spell:
        """Begin one limit."""
        return self.begin(run, self.first_item if run.streaming else self.seconds)

    def begin(self, run: Run, limit: float) -> Spell:
        """A limit of so many seconds, or, where it only observes, a look at whether it would be kept."""
        return (Watch if run.pipeline.only_observes(self) else Spell)(self, run, limit)

    def would_expire(self, run: Run, limit: float) -> None:
        """Count and tell that a call would have been cut."""
        self.expired += 1
        self.emit("timeout.would_expire", limit=limit, pipeline=run.pipeline.name)

    def enter(self, run: Run) -> Spell:
        """Begin the limit of a permit block."""
        return self.spell(run)

    def expire(self, run: Run, limit: float) -> TimedOut:
        """Count and tell that a call was cut; the error to raise."""
        self.expired += 1
        self.emit("timeout.expired", limit=limit, pipeline=run.pipeline.name)
        return TimedOut(f"{run.pipeline.name} took longer than the {limit:g} s of {self.name}", policy=self.name, limit=limit)

    def snapshot(self) -> TimeoutSnapshot:
        """What it holds now."""
        return TimeoutSnapshot(self.kind, self.name, self.seconds, self.expired, self.abandoned)

    def take_over(self, old: Policy) -> None:
        """Keep the counts."""
        super().take_over(old)
        assert isinstance(old, Timeout)
        self.expired = old.expired

    def restart(self) -> None:
        """Forget what was counted."""
        self.expired = 0

    def _part(self, name: str, value: float | str | None) -> float | None:
        if value is None:
            return None
        part = units.seconds(name, value)
        if part > self.seconds:
            raise ValueError(f"{name} must be at most the whole limit of {self.seconds:g} seconds; got {value!r}")
        return part


class Spell:
    """One limit while it runs. An outer deadline that is nearer leaves it nothing to do.

    It also stands in a permit block, where `ticket` is always None.
    """

    __slots__ = ("_armed", "_before", "_limit", "_parts", "_run", "_timeout", "_timer", "_token")
    ticket = None

    def __init__(self, timeout: Timeout, run: Run, limit: float) -> None:
        self._timeout = timeout
        self._run = run
        self._limit = limit
        self._before = (run.deadline, run.armed)
        self._armed: Armed | None = None
        self._token: Token[float | Armed | None] | None = None
        self._parts: Token[Context] | None = None
        now = run.port.now()
        moment = now + limit
        if run.deadline is not None and run.deadline <= now:
            raise TimedOut(f"{run.pipeline.name}: no time is left to begin", policy="deadline", started=False)
        if run.deadline is None or moment < run.deadline:
            self._timer = run.port.timer(limit)
            self._armed = run.armed = self._timer.arm(run.pipeline)
            run.deadline = moment
            self._token = DEADLINE.set(self._armed)
        if timeout.connect is not None or timeout.read is not None:
            self._parts = VARIABLE.set(replace(VARIABLE.get(), connect=timeout.connect, read=timeout.read))

    def check(self, error: BaseException) -> None:
        """Raise TimedOut when `error` is the cut of this limit; else do nothing."""
        if self._armed is not None and self._timer.fired(self._armed, error):
            raise self._timeout.expire(self._run, self._limit) from error

    def end(self) -> None:
        """The limit is over; deadline and context are as they were."""
        if self._armed is not None:
            self._timer.disarm(self._armed)
        if self._token is not None:
            token, self._token = self._token, None
            DEADLINE.reset(token)
        if self._parts is not None:
            parts, self._parts = self._parts, None
            VARIABLE.reset(parts)
        self._run.deadline, self._run.armed = self._before

    # --- in a permit block

    def judge(self, value: Any) -> None:
        """A result says nothing to a limit."""

    def fail(self, error: BaseException) -> None:
        """The block left with an error: ours, if the limit cut it."""
        self.check(error)

    def settle(self) -> None:
        """The block is over."""
        self.end()


class Watch(Spell):
    """One limit that is only observed: no deadline, no timer; a call that took longer is counted and told of."""

    __slots__ = ("_began",)

    def __init__(self, timeout: Timeout, run: Run, limit: float) -> None:
        self._timeout = timeout
        self._run = run
        self._limit = limit
        self._began = run.port.now()

    def check(self, error: BaseException) -> None:
        """It cuts nothing, so no error is its own."""

    def end(self) -> None:
        """The call is over: look whether the limit would have held."""
        if self._run.port.now() - self._began > self._limit:
            self._timeout.would_expire(self._run, self._limit)


class _Items:
    """The part of a timeout that limits the further items of a stream."""

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout

    def spell(self, run: Run) -> Spell:
        return self._timeout.begin(run, self._timeout.item)


class CallerDeadline:
    """The deadline that the caller's context brought along, enforced around a whole async call."""

    def spell(self, run: Run) -> DeadlineSpell:
        """Begin to enforce it."""
        return DeadlineSpell(run)


class DeadlineSpell:
    """The caller's deadline while a call runs under it. It is nobody's limit: being cut by it blames no callee."""

    __slots__ = ("_armed", "_run", "_timer", "_token")

    def __init__(self, run: Run) -> None:
        self._run = run
        left = max(0.0, (run.deadline or 0.0) - run.port.now())
        self._timer = run.port.timer(left)
        self._armed: Armed = self._timer.arm(None)
        self._token = DEADLINE.set(self._armed)

    def check(self, error: BaseException) -> None:
        """Raise TimedOut when `error` is the cut of the deadline."""
        if self._timer.fired(self._armed, error):
            raise TimedOut(f"{self._run.pipeline.name}: the caller's deadline passed", policy="deadline") from error

    def end(self) -> None:
        """The call is over."""
        self._timer.disarm(self._armed)
        DEADLINE.reset(self._token)
