"""Breaking calls on purpose, as people use it: chaos inside the pipeline, off unless its name is called."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.errors import Misplaced, TimedOut
from seawall.core.outcome import Outcome
from seawall.pipeline.cell import Cell
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import Run
from seawall.policies.fault import NOTHING, FaultRule, FaultState, Plan

VARIABLE: Final = "SEAWALL_FAULTS"
_enabled: ContextVar[frozenset[str]] = ContextVar("seawall.faults", default=frozenset())
_UNSET: Final = object()


@contextmanager
def faults(*names: str) -> Iterator[None]:
    """Inside, the faults of these names are active. Raises TypeError for a name that is no text."""
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"names must be texts that are not empty; got {name!r}")
    token = _enabled.set(_enabled.get() | frozenset(names))
    try:
        yield
    finally:
        _enabled.reset(token)


@dataclass(frozen=True, slots=True)
class FaultSnapshot:
    """One fault at one moment. active: whether it acts here and now.

    seen, broken, failed: calls since it was made, while active; failed are those that failed, broken or not.
    """

    kind: str
    name: str
    active: bool
    seen: int
    broken: int
    failed: int = 0


class Fault(Policy):
    """Break a share of calls on purpose: slow them down, fail them, answer in their place, or let only part of the answer arrive.

    name: what enables it, inside `with sw.faults(name):` or by the variable SEAWALL_FAULTS, names with commas between.
        Without that it does nothing at all.
    share: the share of calls that is broken, in [0, 1]. Default 0.1.
    latency, jitter: seconds that a broken call is held up first: latency + U(0, jitter), each >= 0. Defaults 0.
    item_latency: seconds that each further item of a broken stream is held up, >= 0. Default 0. (The first item has `latency`.)
    cut_after: how much of the answer arrives, >= 0: items of a stream, bytes of a body, characters of a text. The rest is missing
        without a word, or, with `error`, that error is raised where the rest should come. Default None = all arrives.
    error: an exception to raise, or a function that makes one. Default None = no error.
    result: a value to answer with instead of calling. Default: the callee is called. Give an error or a result, not both.
    when: which calls may be broken, from their arguments; it may look at `sw.current()` too. Default None = all.
    at_most: how many calls it breaks in all, >= 1; None = no end. Default 1000.
    error_budget: how many calls may fail while it is enabled, through it or not, >= 1; then it stops for good, until
        `restart()`. A call that a limit of the pipeline cuts has failed. Default None = no such bound.
    stop_when: a function that is asked before each fault; while it returns True nothing is broken, for a budget that is counted
        elsewhere, or a circuit that has opened. Default None.
    clock: see `Policy`; its random source decides, so a seeded clock repeats a run.

    Raises ValueError or TypeError for a parameter out of range, or when nothing would be broken; Misplaced for an answer that
    cannot be cut.
    """

    kind = "fault"
    acts_while_observing = True
    why_no_block = "a block cannot be broken from outside"

    def __init__(
        self,
        name: str,
        *,
        share: float = 0.1,
        latency: float | str = 0,
        jitter: float | str = 0,
        item_latency: float | str = 0,
        cut_after: int | None = None,
        error: BaseException | Callable[[], BaseException] | None = None,
        result: Any = _UNSET,
        when: Callable[..., bool] | None = None,
        at_most: int | None = 1000,
        error_budget: int | None = None,
        stop_when: Callable[[], bool] | None = None,
        clock: Clock | None = None,
    ) -> None:
        lengths: Any = {"latency": latency, "jitter": jitter, "item_latency": item_latency}
        self.rule = FaultRule(
            share=share,
            cut_after=cut_after,
            at_most=at_most,
            error_budget=error_budget,
            breaks=error is not None or result is not _UNSET,
            **lengths,
        )
        if result is not _UNSET and (error is not None or cut_after is not None):
            raise ValueError(
                "result stands alone: error and result exclude each other, and a result that is made up is cut by you"
            )
        if not self.rule.does_something:
            raise ValueError(
                "one of latency, jitter, item_latency, cut_after, error and result must be given; nothing would be broken"
            )
        if error is not None and not isinstance(error, BaseException) and not callable(error):
            raise TypeError(f"error must be an exception or a function that makes one; got {error!r}")
        for option, function in (("when", when), ("stop_when", stop_when)):
            if function is not None and not callable(function):
                raise TypeError(f"{option} must be a function; got {function!r}")
        super().__init__(name=name, clock=clock)
        self._error, self._result, self._when, self._stop_when = error, result, when, stop_when
        self.may_wait = bool(self.rule.latency or self.rule.jitter or self.rule.item_latency)
        self.cell: Cell[FaultState] = Cell(self, self.rule)

    @property
    def active(self) -> bool:
        """Whether it acts here and now."""
        named = self.name in _enabled.get() or self.name in os.environ.get(VARIABLE, "").split(",")
        return named and not self.cell.state.stopped

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Break what is inside."""
        return partial(twins.fault, self, inner)

    def item_layer(self, twins: Any, inner: Layer) -> Layer:
        """Slow down and cut off the further items of a broken stream."""
        return partial(twins.fault, _Items(self), inner) if self._breaks_streams else inner

    def plan(self, run: Run) -> Plan:
        """What happens to this call; told as an event when anything does."""
        plan = self._draw(run)
        if run.streaming and self._breaks_streams:
            run.drills = {**(run.drills or {}), self: _Drill(plan)}
            if plan.cut_after == 0:
                plan = replace(plan, fails=True)
        return within(plan, run)

    def _draw(self, run: Run) -> Plan:
        if not self.active or (self._when is not None and not self._when(*run.args, **run.kwargs)):
            return NOTHING
        if self._stop_when is not None and self._stop_when():
            return NOTHING
        draw = self.clock.random.random
        plan = self.cell.apply(self.rule.plan, draw(), draw())
        if plan is not NOTHING:
            more = {"item_delay": plan.item_delay, "cut_after": plan.cut_after} if self._breaks_streams else {}
            self.emit("fault.injected", delay=plan.delay, fails=plan.fails, **more, pipeline=run.pipeline.name)
        return plan

    def outcome(self, run: Run, plan: Plan) -> Any:
        """What takes the call's place. Raises the error that was given; Misplaced for a stream that is given a result."""
        if plan.late:
            raise TimedOut(f"{run.pipeline.name}: the time was over while {self.name} held it up", policy=self.name)
        error = self.error()
        if error is not None:
            raise error
        if plan.cut_after is not None:
            return ()
        if run.streaming and not hasattr(self._result, "__iter__"):
            raise Misplaced(f"{self.name}: the result of a broken stream must be an iterable of items; got {self._result!r}")
        return self._result

    def passed(self, value: Any, run: Run, plan: Plan) -> Any:
        """The callee has answered: the part of it that arrives."""
        if run.classifier.judges_results and run.classifier.result(value).outcome is Outcome.FAILURE:
            self._count()
        if plan.cut_after is None or run.streaming:
            return value
        if not isinstance(value, bytes | bytearray | memoryview | str):
            raise Misplaced(f"{self.name}: cut_after cuts streams, bytes and text; {run.fn!r} returned {type(value).__name__}")
        error = self.error() if len(value) > plan.cut_after else None
        if error is not None:
            raise error
        return value[: plan.cut_after]

    def failed(self, error: BaseException, run: Run) -> None:
        """The call has failed, broken or not."""
        cut = run.cut(error, float("inf"))
        if (run.classifier.error(error).outcome if cut is None else cut) is Outcome.FAILURE:
            self._count()

    def error(self) -> BaseException | None:
        """A new error of the kind that was given."""
        return self._error if self._error is None or isinstance(self._error, BaseException) else self._error()

    @property
    def _breaks_streams(self) -> bool:
        return bool(self.rule.item_latency) or self.rule.cut_after is not None

    def _count(self) -> None:
        if self.active:
            self.cell.apply(self.rule.fail)

    def snapshot(self) -> FaultSnapshot:
        """What it holds now."""
        state = self.cell.state
        return FaultSnapshot(self.kind, self.name, self.active, state.seen, state.broken, state.failed)

    def restart(self) -> None:
        """Forget what was counted."""
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self.cell.reopen()


class _Drill:
    """What happens to one broken stream. arrived: items so far; the first one arrives with the call."""

    __slots__ = ("arrived", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.arrived = 1


class _Items:
    """The part of a fault that breaks the further items of a stream. It ends with the `faults` that enabled it."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def plan(self, run: Run) -> Plan:
        """What happens to the next item."""
        drill: _Drill | None = None if run.drills is None else run.drills.get(self._fault)
        if drill is None or not self._fault.active:
            return NOTHING
        if drill.plan.cut_after is not None and drill.arrived >= drill.plan.cut_after:
            return Plan(fails=True)
        drill.arrived += 1
        return within(Plan(delay=drill.plan.item_delay), run) if drill.plan.item_delay else NOTHING

    def outcome(self, run: Run, plan: Plan) -> Any:
        """The end of the stream: the source is closed, and the error raised if there is one."""
        if plan.late:
            return self._fault.outcome(run, plan)
        break_off = _abreak_off if hasattr(run.source, "aclose") else _break_off
        return break_off(run.source, self._fault.error())

    def passed(self, value: Any, run: Run, plan: Plan) -> Any:
        """An item arrives as it is."""
        return value

    def failed(self, error: BaseException, run: Run) -> None:
        """The stream has failed."""
        self._fault.failed(error, run)


def within(plan: Plan, run: Run) -> Plan:
    """The plan within the deadline: on plain functions, which no timer cuts, the wait ends there and the call fails.

    A callee that keeps the deadline it is handed would do the same.
    """
    if not plan.delay or run.deadline is None or run.port.kind != "threads":
        return plan
    left = max(0.0, run.deadline - run.port.now())
    return plan if plan.delay < left else replace(plan, delay=left, fails=True, late=True)


def _break_off(source: Any, error: BaseException | None) -> Generator[Any, Any, None]:
    source.close()
    if error is not None:
        raise error
    yield from ()


async def _abreak_off(source: Any, error: BaseException | None) -> AsyncGenerator[Any, Any]:
    await source.aclose()
    if error is not None:
        raise error
    if False:  # the yield makes it a generator
        yield
