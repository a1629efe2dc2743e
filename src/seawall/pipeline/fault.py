"""Breaking calls on purpose, as people use it: chaos inside the pipeline, off unless its name is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import Misplaced
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
    """One fault at one moment. active: whether it acts here and now; seen, broken: calls since it was made, while active."""

    kind: str
    name: str
    active: bool
    seen: int
    broken: int


class Fault(Policy):
    """Break a share of calls on purpose: slow them down, fail them, or answer in their place.

    name: what enables it, inside `with sw.faults(name):` or by the variable SEAWALL_FAULTS, names with commas between.
        Without that it does nothing at all.
    share: the share of calls that is broken, in [0, 1]. Default 0.1.
    latency, jitter: seconds that a broken call is held up first: latency + U(0, jitter), each >= 0. Defaults 0.
    error: an exception to raise, or a function that makes one. Default None = no error.
    result: a value to answer with instead of calling. Default: the callee is called. Give an error or a result, not both.
    when: which calls may be broken, from their arguments. Default None = all.
    at_most: how many calls it breaks in all, >= 1; None = no end. Default 1000.
    stop_when: a function that is asked before each fault; while it returns True nothing is broken, for an error budget that is
        spent, or a circuit that has opened. Default None.
    clock: see `Policy`; its random source decides, so a seeded clock repeats a run.

    Raises ValueError or TypeError for a parameter out of range, or when nothing would be broken.
    """

    kind = "fault"
    why_no_block = "a block cannot be broken from outside"

    def __init__(
        self,
        name: str,
        *,
        share: float = 0.1,
        latency: float | str = 0,
        jitter: float | str = 0,
        error: BaseException | Callable[[], BaseException] | None = None,
        result: Any = _UNSET,
        when: Callable[..., bool] | None = None,
        at_most: int | None = 1000,
        stop_when: Callable[[], bool] | None = None,
        clock: Clock | None = None,
    ) -> None:
        breaks = error is not None or result is not _UNSET
        self.rule = FaultRule(
            share=share, latency=units.seconds("latency", latency, zero=True), jitter=jitter, at_most=at_most, breaks=breaks  # type: ignore[arg-type]
        )  # fmt: skip
        if error is not None and result is not _UNSET:
            raise ValueError("error and result exclude each other; give one of them")
        if not breaks and not self.rule.latency and not self.rule.jitter:
            raise ValueError("one of latency, jitter, error and result must be given; nothing would be broken")
        if error is not None and not isinstance(error, BaseException) and not callable(error):
            raise TypeError(f"error must be an exception or a function that makes one; got {error!r}")
        for option, function in (("when", when), ("stop_when", stop_when)):
            if function is not None and not callable(function):
                raise TypeError(f"{option} must be a function; got {function!r}")
        super().__init__(name=name, clock=clock)
        self._error, self._result, self._when, self._stop_when = error, result, when, stop_when
        self.may_wait = bool(self.rule.latency or self.rule.jitter)
        self.cell: Cell[FaultState] = Cell(self, self.rule)

    @property
    def active(self) -> bool:
        """Whether it acts here and now."""
        return self.name in _enabled.get() or self.name in os.environ.get(VARIABLE, "").split(",")

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Break what is inside."""
        return partial(twins.fault, self, inner)

    def plan(self, run: Run) -> Plan:
        """What happens to this call; told as an event when anything does."""
        if not self.active or (self._when is not None and not self._when(*run.args, **run.kwargs)):
            return NOTHING
        if self._stop_when is not None and self._stop_when():
            return NOTHING
        draw = self.clock.random.random
        plan = self.cell.apply(self.rule.plan, draw(), draw())
        if plan is not NOTHING:
            self.emit("fault.injected", delay=plan.delay, fails=plan.fails, pipeline=run.pipeline.name)
        return plan

    def outcome(self, run: Run) -> Any:
        """What takes the call's place. Raises the error that was given; Misplaced for a stream that is given a result."""
        if self._error is not None:
            raise self._error if isinstance(self._error, BaseException) else self._error()
        if run.streaming and not hasattr(self._result, "__iter__"):
            raise Misplaced(f"{self.name}: the result of a broken stream must be an iterable of items; got {self._result!r}")
        return self._result

    def snapshot(self) -> FaultSnapshot:
        """What it holds now."""
        state = self.cell.state
        return FaultSnapshot(self.kind, self.name, self.active, state.seen, state.broken)

    def restart(self) -> None:
        """Forget what was counted."""
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self.cell.reopen()
